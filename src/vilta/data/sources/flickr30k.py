"""Flickr30k's token file, and Flickr8k's: lines of ``NAME.jpg#NUMBER<tab>caption``.

The images are anywhere below the file's folder (published as `results_20130124.token` beside
`flickr30k-images/`). The files know no splits; Karpathy's split file does.
"""

from __future__ import annotations

from pathlib import Path

from vilta.data.sources.base import Skipped
from vilta.data.sources.files import NamedImagesReader
from vilta.data.sources.options import SourceOptions
from vilta.data.sources.tables import decoded, lines_of

SUFFIXES = (".token", ".token.txt")


class TokenFileReader(NamedImagesReader):
    """A token file and the folder that it is in."""

    what = "token file"

    def __init__(self, path: Path, options: SourceOptions) -> None:
        captions: dict[str, list[str]] = {}
        bad: list[Skipped] = []
        for number, line in enumerate(lines_of(decoded(path, options.encoding)), start=1):
            head, tab, caption = line.partition("\t")
            name, mark, _ = head.rpartition("#")
            if tab and mark and name:
                captions.setdefault(name, []).append(caption)
            elif line.strip():
                where = f"{path}:{number}"
                bad.append(Skipped(source=where, reason="not NAME#NUMBER<tab>caption"))
        root = Path(options.images) if options.images else path.parent
        super().__init__(str(path), root, captions, "flickr", bad)


def is_token_file(path: Path) -> bool:
    """Tell by its name whether a file is a token file."""
    return path.name.endswith(SUFFIXES)


def find_token_file(folder: Path, options: SourceOptions) -> TokenFileReader | None:
    """Return the reader of a folder with a token file, or None."""
    files = sorted(f for f in folder.iterdir() if is_token_file(f) and f.is_file())
    if len(files) > 1:
        names = ", ".join(f.name for f in files)
        raise ValueError(f"{folder} holds several token files; name one of them: {names}")
    return TokenFileReader(files[0], options) if files else None
