"""The config files that vilta ships, found by name from any folder: ``vilta pretrain demo``."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).with_name("presets")
"""In a checkout and in a wheel alike."""
_FORMER_FOLDER = "configs/"
"""Where they used to be in a checkout; runs saved then still say ``configs/demo-image.json``."""


def shipped_names(suffix: str = ".yaml") -> list[str]:
    """Return the names of the shipped files with this suffix: ``demo``, ``scenes/vqa``, ..."""
    files = FOLDER.rglob(f"*{suffix}")
    return sorted(file.relative_to(FOLDER).as_posix().removesuffix(suffix) for file in files)


def find_shipped(name: str, suffix: str = ".yaml") -> str:
    """Return the path of the shipped file that ``name`` means; a file of the user's comes first.

    A folder called `photos` cannot be a settings file; one called `demo-image` may be an encoder.
    Any other ``name`` is returned as it is.
    """
    own = Path(name).is_file() if suffix == ".yaml" else Path(name).exists()
    known = name.removeprefix(_FORMER_FOLDER).removesuffix(suffix)
    if known in shipped_names(suffix) and not own:
        return str(FOLDER / f"{known}{suffix}")
    return name
