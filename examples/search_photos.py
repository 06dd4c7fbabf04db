"""Find photos by words: a folder is indexed once, then every search takes a moment.

python examples/search_photos.py runs/mine ~/photos "two dogs on a beach -people"
"""

import sys
from pathlib import Path

from vilta.apps.matcher import Matcher
from vilta.apps.photo_search import PhotoSearch, Query


def main(run: str, folder: str, text: str) -> None:
    search = PhotoSearch(Matcher(run), Path(folder))
    update = search.update()
    print(f"{update.new} new photos, {update.unchanged} unchanged, {update.skipped} unreadable")
    for found in search.search(Query.parse(text), top=5):
        print(f"{found.probability:6.1%}  {found.path}")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
