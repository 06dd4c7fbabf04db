"""Draw scenes that no demo was trained on, as pictures to try its model on.

python examples/draw_scenes.py photos 300
"""

import sys
from pathlib import Path

from PIL import Image

from vilta.scenes import draw, make_scene


def main(folder: str, count: str) -> None:
    place = Path(folder)
    if place.exists():
        sys.exit(f"{folder} exists already; name a new folder")
    place.mkdir(parents=True)
    for index in range(int(count)):
        pixels = draw(make_scene(seed=2, index=index))  # the demo learns from seeds 0 and 1
        Image.fromarray(pixels).save(place / f"scene {index:03}.png")
    print(f"wrote {count} pictures to {folder}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
