"""`vilta proofread RUN IMAGE CAPTION`: finds words of a caption that the image does not support."""

from __future__ import annotations

from dataclasses import asdict

from rich.table import Table

from vilta.apps.matcher import Matcher
from vilta.apps.proofreading import Proofreading
from vilta.apps.run_calibration import calibrating
from vilta.apps.words import require_text, say_unread
from vilta.config.apps import ProofreadConfig
from vilta.screen import command, notes, print_json, results, say_next


def run(run_folder: str, image: str, caption: str, config: ProofreadConfig) -> None:
    """Print the log-odds of each word, the words flagged, and the corrected caption.

    Raises ``ValueError`` in one line for anything the user can fix.
    """
    require_text([caption])
    matcher = Matcher(run_folder, device=config.device)
    found = matcher.proofread(image, caption)
    if matcher.model.config.suspicion_threshold is None:
        notes.print(
            "words are flagged by a default threshold; "
            f"{calibrating(matcher)} sets it on held-out captions"
        )
    say_unread(matcher.tokenizer, [caption], matcher.model.config.max_text_tokens)
    if config.json:
        print_json(
            {
                "caption": caption,
                "corrected": found.corrected,
                "words": [asdict(word) for word in found.words],
            }
        )
    else:
        _show(found)
    captions = [caption, found.corrected] if found.flagged else [caption]
    say_next(command("match", run_folder, image, *captions, "--out", "heat.png"))


def _show(found: Proofreading) -> None:
    results.print(_table(found))
    if found.flagged:
        results.print(f"does not fit: {', '.join(word.word for word in found.flagged)}")
        results.print(f"suggestion:   {found.corrected}")
    else:
        results.print("every word fits")


def _table(found: Proofreading) -> Table:
    table = Table("word", "with image", "without", "suggestion", "gain", box=None)
    for column in table.columns[1:3]:
        column.justify = "right"
    for word in found.words:
        better = f"{word.better:+.1f}" if word.instead else ""
        table.add_row(
            word.word,
            f"{word.with_image:+.1f}",
            f"{word.without_image:+.1f}",
            word.instead,
            better,
            style="bold red" if word.flagged else "",
        )
    return table
