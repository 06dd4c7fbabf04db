"""Makes ``tiny_models`` and ``pretraining_case`` importable."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "model"), str(Path(__file__).parent)]
