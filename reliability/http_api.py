"""`vilta serve` under schemathesis: data that are valid by /openapi.json, and data that are not.

    python reliability/http_api.py --cases 100                    # a small random model
    python reliability/http_api.py --run runs/demo --folder photos

The server runs as a process of its own. Each operation gets so many requests that its schema
allows, with small real images of several formats as uploads, and as many that it forbids. Each
answer goes through all checks of schemathesis: no 5xx but 503, status, type and shape of every
answer as documented, valid data taken and invalid data refused.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from results import write_result
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.transport.serialization import Binary

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
from small_run import noise, write_run

NOT_IN_THE_SCHEMA = ("/v1/fill", "/v1/proofread", "/v1/search")
"""A text may be valid and hold no word that this model knows, lose its blank when it is cut off, or
have too many terms: 422, which no schema can say."""
FORM_TEXT = "violates `type`"
"""A form is all text: a number or `true` in place of a text is a text again, and rightly taken."""
KEYS = {"images", "texts", "text", "captions", "caption", "query", "top", "heat_maps"}
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def pictures() -> list[bytes]:
    """Return small images, two of each format."""
    found = []
    for number, kind in enumerate(FORMATS * 2):
        file = io.BytesIO()
        noise(number, (16 + 4 * number, 48 - 2 * number)).save(file, kind)
        found.append(file.getvalue())
    return found


@contextmanager
def served(run: str, folder: str, log: Path) -> Iterator[str]:
    """Run the server and yield its address."""
    command = [sys.executable, "-m", "vilta", "serve", run, "--folder", folder, "--port", "0"]
    command += ["--index", str(log.parent / "index")]
    with log.open("w") as file, subprocess.Popen(command, stderr=file) as process:
        try:
            while not (found := re.search(r"http://[\d.:]+", log.read_text())):
                if process.poll() is not None:
                    raise SystemExit(log.read_text())
                time.sleep(0.2)
            yield found[0]
        finally:
            process.send_signal(signal.SIGINT)


def exercise(operation: Any, mode: GenerationMode, cases: int) -> tuple[Counter[int], set[str]]:
    """Send requests to one operation; return how often each status came, and what failed."""
    statuses: Counter[int] = Counter()
    failures: set[str] = set()

    @seed(0)
    @settings(
        max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        response = case.call()
        statuses[response.status_code] += 1
        if response.status_code == 503:
            return
        known = mode is GenerationMode.POSITIVE and response.status_code == 422
        if known and operation.path in NOT_IN_THE_SCHEMA:
            return
        try:
            case.validate_response(response)
        except BaseExceptionGroup as group:
            body = (
                {k: v for k, v in case.body.items() if k in KEYS}
                if isinstance(case.body, dict)
                else case.body
            )
            failures.update(
                f"{type(e).__name__}: {e} {body}"[:900]
                for e in group.exceptions
                if FORM_TEXT not in str(e)
            )

    send()
    return statuses, failures


def main() -> None:
    """Send the requests, write the counts, and end with 1 if an answer failed a check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="")
    parser.add_argument("--folder", default="")
    parser.add_argument("--cases", type=int, default=25)
    arguments = parser.parse_args()
    began = time.time()
    images = pictures()
    schemathesis.openapi.format("binary", st.sampled_from(images).map(Binary))
    operations: dict[str, Any] = {}
    total: Counter[int] = Counter()
    failed: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as place:
        run = arguments.run or str(write_run(Path(place) / "run"))
        folder = arguments.folder or f"{place}/photos"
        if not arguments.folder:
            os.mkdir(folder)
            for number, data in enumerate(images):
                Path(folder, f"{number}.png").write_bytes(data)
        with served(run, folder, Path(place) / "log") as address:
            schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
            for found in schema.get_all_operations():
                if not isinstance(found, Ok):
                    raise found.err()
                operation = found.ok()
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                    if mode is GenerationMode.NEGATIVE and operation.path == "/v1/model":
                        continue  # it takes nothing that could be wrong
                    statuses, failures = exercise(operation, mode, arguments.cases)
                    name = f"{operation.label}, {mode.value}"
                    operations[name] = {str(s): n for s, n in sorted(statuses.items())}
                    total += statuses
                    if failures:
                        failed[name] = sorted(failures)
    answered = sum(count for status, count in total.items() if 200 <= status < 300)
    write_result(
        "http_api",
        began,
        {
            "schemathesis": schemathesis.__version__,
            "model": Path(arguments.run).name or "small and random",
            "requests": total.total(),
            "answers 2xx": answered,
            "answers 5xx": sum(count for status, count in total.items() if status >= 500),
            "operations": operations,
            "failed": failed,
        },
        short=not arguments.run,
    )
    unanswered = [n for n, s in operations.items() if "positive" in n and not s.get("200")]
    if failed or unanswered:
        sys.exit(f"failed: {', '.join([*failed, *unanswered])}")


if __name__ == "__main__":
    main()
