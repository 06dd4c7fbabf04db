"""`vilta match RUN IMAGE CAPTION...`: scores captions for an image and shows which words decide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vilta.apps.heatmap import HeatMaps, draw_heat_maps
from vilta.apps.image_input import open_image
from vilta.apps.matcher import Matcher
from vilta.apps.run_calibration import say_uncalibrated
from vilta.apps.words import require_text, say_unread
from vilta.config.apps import MatchConfig
from vilta.model import ViltaForPreTraining
from vilta.screen import command, notes, print_json, results, say_next
from vilta.training.folder import replace_bytes, require_writable


def run(run_folder: str, image: str, captions: Sequence[str], config: MatchConfig) -> None:
    """Print the probability of each caption, best first, and the contribution of each word.

    Raises ``ValueError`` in one line for anything the user can fix.
    """
    require_text(captions)
    if config.out and not config.out.endswith(".png"):
        raise ValueError(f"--out must name a PNG file, such as heat.png; got {config.out}")
    if config.out:
        require_writable(config.out)
    matcher = Matcher(run_folder, device=config.device)
    say_uncalibrated(matcher)
    say_unread(matcher.tokenizer, captions, matcher.model.config.max_text_tokens)
    picture = open_image(image)
    chances = matcher.match(picture, captions)
    order = sorted(range(len(captions)), key=lambda i: -chances[i])
    every = [matcher.heat_maps(picture, captions[number]) for number in order]
    for place, (number, found) in enumerate(zip(order, every, strict=True)):
        written = _heat_file(config.out, place) if config.out else None
        if written is not None:
            title = f"{chances[number]:.0%}  {captions[number]}"
            replace_bytes(written, draw_heat_maps(picture, found, title))
        _show(captions[number], float(chances[number]), found, written, config.json)
    if isinstance(matcher.model, ViltaForPreTraining):  # which knows words
        say_next(command("proofread", run_folder, image, captions[order[0]]))


def _heat_file(out: str, place: int) -> Path:
    path = Path(out)
    return path if place == 0 else path.with_stem(f"{path.stem}-{place + 1}")


def _show(
    caption: str, probability: float, found: HeatMaps, written: Path | None, as_json: bool
) -> None:
    words = list(zip(found.words, found.contribution, strict=True))
    if as_json:
        print_json(
            {
                "caption": caption,
                "probability": probability,
                "log_odds": found.log_odds,
                "words": [{"word": word, "contribution": share} for word, share in words],
                "heat_maps": str(written) if written else None,
            }
        )
        return
    results.print(f"{probability:5.1%}  {caption}")
    results.print("        " + "  ".join(f"{word} {share:+.1f}" for word, share in words))
    if written:
        notes.print(f"wrote {written}")
