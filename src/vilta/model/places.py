"""Where weights come from: a local folder or the hub; what is missing is reported at once."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from huggingface_hub import constants, try_to_load_from_cache

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
SECONDS = 5.0
"""How long the hub may take to answer at all."""


def check_place(source: str) -> None:
    """Raise ``ValueError`` in one line if ``source`` is missing, out of reach, or a whole run.

    ``owner/name`` counts as a hub id only if there is no local folder ``owner``. Without a
    connection a hub id is looked for among what was downloaded before; transformers alone would
    try for most of a minute first.
    """
    if Path(source).exists():
        beneath = Path(source) / "model"
        if (beneath / "config.json").is_file() and not (Path(source) / "config.json").is_file():
            raise ValueError(f"{source} is a run; its model is in {beneath}")
        return
    check_name(source)
    if not constants.HF_HUB_OFFLINE and hub_answers():
        return
    if not isinstance(try_to_load_from_cache(source, "config.json"), str):
        raise ValueError(
            f"{source} is on the hub, which cannot be reached, and was not downloaded before; name "
            "a local folder, or begin with vilta pretrain-text for the text encoder and "
            "--model.image demo-image, which need no download"
        )
    constants.HF_HUB_OFFLINE = True  # what was downloaded before is used without asking again


def check_name(source: str) -> None:
    """Raise ``ValueError`` in one line if what is not here cannot be a hub id either."""
    parts = Path(source).parts
    local = len(parts) > 1 and (Path(parts[0]).is_dir() or parts[0] == "runs")
    if local or not HUB_ID.fullmatch(source) or source.startswith("."):
        hint = "; a finished run has one" if parts[-1:] == ("model",) else ""
        raise ValueError(f"no such folder: {source}{hint}")


@lru_cache(maxsize=1)
def hub_answers() -> bool:
    """Whether the hub can be reached; asked once."""
    # urllib, because which HTTP client huggingface_hub has (httpx, httpx2) depends on its version.
    try:
        with urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=SECONDS):
            return True
    except HTTPError:
        return True  # an answer, if not a friendly one
    except (OSError, ValueError):
        return False
