"""Rank captions for a photo, and check the best one word by word.

python examples/choose_caption.py runs/mine photo.jpg "a dog on a beach" "a cat on a sofa"
"""

import sys
from pathlib import Path

from vilta.apps.matcher import Matcher


def main(run: str, photo: str, *captions: str) -> None:
    matcher = Matcher(run)
    ranked = matcher.rank(Path(photo), captions)
    for candidate in ranked:
        print(f"{candidate.probability:6.1%}  {captions[candidate.index]}")

    # Which words does the photo not support, and what would the model write instead?
    best = captions[ranked[0].index]
    for word in matcher.proofread(Path(photo), best).words:
        print(f"  {word.word}{f' -> {word.instead}?' if word.flagged else ''}")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
