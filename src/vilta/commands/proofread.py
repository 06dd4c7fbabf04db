"""`vilta proofread RUN IMAGE CAPTION`: the words of a caption that the image does not bear out."""

from __future__ import annotations

from dataclasses import asdict

from rich.table import Table

from vilta.apps.matcher import Matcher
from vilta.apps.proofreading import Proofreading
from vilta.config.apps import ProofreadConfig
from vilta.screen import notes, print_json, results


def run(run_folder: str, image: str, caption: str, config: ProofreadConfig) -> None:
    """Print what the model thinks of each word, and the corrected caption.

    Raises ``ValueError`` in one line for anything the user can mend.
    """
    matcher = Matcher(run_folder, device=config.device)
    if not matcher.calibrated:
        notes.print(
            "the threshold of accusation is a guess until held-out captions have set it "
            "(vilta evaluate RUN --data DATA --calibrate)"
        )
    found = matcher.proofread(image, caption)
    if config.json:
        print_json(
            {
                "caption": caption,
                "corrected": found.corrected,
                "words": [asdict(word) for word in found.words],
            }
        )
        return
    results.print(_table(found))
    if found.accused:
        results.print(f"does not fit: {', '.join(word.word for word in found.accused)}")
        results.print(f"would write:  {found.corrected}")
    else:
        results.print("every word fits")


def _table(found: Proofreading) -> Table:
    table = Table("word", "with the image", "without", "instead", "better by", box=None)
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
            style="bold red" if word.accused else "",
        )
    return table
