"""`make lock`: write requirements.lock, the versions and hashes that the Makefile installs.

uv resolves pyproject.toml for every Python and platform at once. Versions that the lock has
already stay as they are where they still fit; `make lock UPGRADE=1` takes the newest ones.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
HEADER = """\
# Made by `make lock`. Every package of `make demo`, `make test` and `make docs`, with the hashes of
# its files, for Python 3.11 to 3.13. Install it as the Makefile does:
#     pip install --no-deps --require-hashes -r requirements.lock
#     pip install --no-build-isolation -c constraints.txt -e ".[dev]"
# Not covered: torch with its CUDA libraries, and uv itself. torch exists in builds that no marker
# tells apart: PyPI's, which needs the CUDA libraries, and CPU builds, which do not. With hashes, uv
# refuses a local CPU build and pip passes it over for PyPI's. The second command installs torch,
# within constraints.txt.
"""
BUILD = "hatchling>=1.27\neditables>=0.5\n"
"""What builds vilta itself: locked too, so that nothing is fetched for an isolated build."""
UNLOCKED = re.compile(r"torch==|cuda-|nvidia-|triton==")


def main() -> None:
    """Resolve, drop what cannot be locked, and write the lock."""
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    uv = shutil.which("uv", path=folders) or sys.exit("error: uv is missing: pip install uv")
    command = [uv, "pip", "compile", "pyproject.toml", "-", "--extra", "dev"]
    command += ["-c", "constraints.txt", "--universal", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-header", "--no-annotate", "--quiet"]
    command += ["--output-file", LOCK]
    if os.environ.get("UPGRADE"):
        command.append("--upgrade")
    subprocess.run(command, input=BUILD, text=True, cwd=ROOT, check=True)
    # A block is a requirement and its indented hashes.
    blocks = re.findall(r"^\S.*\n(?:[ \t].*\n)*", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    locked = [block for block in blocks if not UNLOCKED.match(block)]
    LOCK.write_text(HEADER + "".join(locked), encoding="utf-8")


if __name__ == "__main__":
    main()
