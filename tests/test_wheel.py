"""The wheel works by itself: installed in a fresh environment, used outside the checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = "--optimization.steps 2 --optimization.batch-size 8 --optimization.warmup 0"


def call(*command: str | Path, cwd: Path) -> str:
    # Neither the checkout's sources nor anything else of this process is on the path.
    unset = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Path:
    """Return the bin folder of a new environment that holds the wheel.

    Dependencies are not installed again: a path file adds those of this environment. A path file
    in that folder is not followed, so the editable install of the checkout stays out of sight.
    """
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (wheel,) = folder.glob("vilta-*.whl")
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    call(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=folder)
    site = call(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder
    ).strip()
    paths = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    Path(site, "dependencies.pth").write_text("\n".join(paths))
    return python.parent


def test_the_demo_runs_from_the_wheel_alone(fresh, tmp_path):
    place = call(fresh / "python", "-c", "import vilta; print(vilta.__file__)", cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(fresh.parent)
    vilta = fresh / "vilta"
    assert "pretrain" in call(vilta, "--help", cwd=tmp_path)
    data = "runs/demo-data/train"
    call(vilta, "pack", "scenes:40?seed=0&size=96", "--out", data, cwd=tmp_path)
    call(vilta, "pretrain-text", "demo-text", *SMALL.split(), cwd=tmp_path)
    small = [*SMALL.split(), "--data.no-cache", "--data.val", data]
    call(vilta, "pretrain", "demo", *small, cwd=tmp_path)
    call(vilta, "evaluate", "runs/demo", "--data", data, cwd=tmp_path)
    call(vilta, "report", "runs/demo", cwd=tmp_path)
    assert (tmp_path / "runs/demo/model/model.safetensors").is_file()
    assert "<style>" in (tmp_path / "runs/demo/report/report.html").read_text()
