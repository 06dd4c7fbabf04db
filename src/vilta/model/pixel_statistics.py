"""How an image encoder wants its pixels, read from the preprocessor that came with it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import transformers
from transformers.image_processing_base import ImageProcessingMixin

from vilta.config.shipped import find_shipped
from vilta.model.places import check_place

log = logging.getLogger("vilta.model")

DEFAULT = [0.5] * 3
"""Mean and deviation of an encoder without a preprocessor (our choice)."""
LARGEST = 1e9
"""Of a stated number; 1e99 would make pixels infinite (our choice)."""
PREPROCESSOR = ("preprocessor_config.json", "processor_config.json")
"""Files that describe one."""


def pixel_statistics(source: str) -> tuple[list[float], list[float]]:
    """Return mean and deviation by which to normalise RGB pixels in [0, 1] for an image encoder.

    They say everything that its preprocessor does to the values: scaling and normalising, or the
    lack of them; what is not stated is as in the preprocessor's class. An encoder without one gets
    0.5. Raises ``ValueError`` in one line for a preprocessor that cannot be followed.
    """
    place = find_shipped(source, ".json")
    check_place(place)  # what cannot be reached may well have one
    try:
        values, _ = ImageProcessingMixin.get_image_processor_dict(place)
    except (OSError, ValueError, RecursionError) as error:  # the last: nested too deeply
        if any((Path(source) / name).is_file() for name in PREPROCESSOR):
            line = " ".join(str(error).split())
            raise ValueError(f"the preprocessor of {source} cannot be read: {line}") from None
        log.warning("%s has no preprocessor: pixels get mean 0.5 and deviation 0.5", source)
        return DEFAULT, DEFAULT

    if not isinstance(values, dict):
        raise ValueError(f"the preprocessor of {source} is not a JSON object")

    def stated(name: str, default: Any) -> Any:
        return values[name] if name in values else _default_of(values, name, default)

    for name, problem in REFUSED.items():
        if stated(name, False):
            raise ValueError(f"the preprocessor of {source} has {name}: {problem}")
    mean, deviation = [0.0] * 3, [1.0] * 3
    if stated("do_normalize", True):
        mean = _three(stated("image_mean", DEFAULT), "image_mean", source)
        deviation = _three(stated("image_std", DEFAULT), "image_std", source)
    factor = stated("rescale_factor", 1 / 255) if stated("do_rescale", True) else 1.0
    if not _is_number(factor) or factor <= 0:
        raise ValueError(f"the preprocessor of {source} has rescale_factor {factor!r}")
    if min(deviation) <= 0:
        raise ValueError(
            f"the preprocessor of {source} has image_std {deviation}, by which nothing can be "
            "divided; correct its preprocessor_config.json"
        )
    scale = 255 * factor  # (255 f x - m) / s = (x - m / 255 f) / (s / 255 f)
    return _over(mean, scale), _over(deviation, scale)


REFUSED = {
    "do_flip_channel_order": "it reads BGR, and images here are RGB; take another image encoder",
    "rescale_offset": "it shifts pixels after scaling them; take another image encoder",
}
"""What a preprocessor may do to the values that mean and deviation cannot say, and the message."""


def _default_of(values: dict[str, Any], name: str, default: Any) -> Any:
    """Return what the class of a preprocessor takes for a value that is not stated."""
    kind = values.get("image_processor_type") or values.get("feature_extractor_type") or ""
    kind = str(kind).removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")
    return getattr(getattr(transformers, f"{kind}Pil", None), name, default)


def _three(value: Any, name: str, source: str) -> list[float]:
    """Return a value for each of the three colours."""
    each = value if isinstance(value, list | tuple) else [value]
    if len(each) not in (1, 3) or not all(map(_is_number, each)):
        raise ValueError(f"the preprocessor of {source} has {name} {value!r}, not three numbers")
    return [float(number) for number in (each if len(each) == 3 else [*each] * 3)]


def _over(values: list[float], scale: float) -> list[float]:
    """Divide by the scale, without rounding where it is 1, as for nearly every encoder."""
    return values if abs(scale - 1) < 1e-9 else [value / scale for value in values]


def _is_number(value: Any) -> bool:
    """Whether a value is a number that pixels could be reckoned with, so neither NaN nor 1e99."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
