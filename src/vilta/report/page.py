"""The report as one self-contained HTML page. All inserted text is escaped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from vilta.report.caption_examples import Guess, MaskedCaption, Piece, RewrittenCaption
from vilta.report.examples import FoundCaptions, FoundImages, ModelExamples
from vilta.report.html import (
    Table,
    Tile,
    data_uri,
    document,
    picture_element,
    table_element,
    tile_element,
)

Show = Callable[[int, str], str]
"""``show(row, attributes)`` is the img element of an image of the data."""

FIRST_ROWS = "These are the first rows of the data; none was selected."
VIEWS = {
    "with_image": "with the image",
    "wrong_image": "with a wrong image",
    "text_only": "without an image",
}
FILTERS = {
    "grounded": "the grounded filter rejects words that the model finds plausible for the image",
    "soft_label": "the soft-label filter rejects words that the teacher finds plausible",
    "none": "without a filter, only the word itself and its inflections are excluded",
}
RANKINGS = {
    "combined": "contrast selects candidates, and contrast and matching together rank them",
    "matching": "matching ranks all, because the run did not train contrast",
    "contrastive": "contrast ranks all, because the run did not train matching",
}
TERMS = (
    "R@1 is the share of queries whose first result is right. Contrast compares an image and a "
    "text by their embeddings; matching reads both together and returns a probability. Normalised, "
    "each text's scores are shares of its candidate images, which needs all of them at once."
)
VERDICTS = (
    "The oracle of the scenes marks negatives that are in fact true of the picture, and those that "
    "are ungrammatical, which it cannot judge."
)


def render_page(
    *,
    title: str,
    about: str,
    tiles: Sequence[Tile],
    curves: tuple[bytes, bytes],
    reliability: tuple[bytes, bytes] | None,
    examples: ModelExamples,
    tables: dict[str, Table],
    everything: dict[str, Any],
    commands: Sequence[str],
) -> str:
    """Return the page; plots are two PNG files, for a light and for a dark screen.

    ``everything`` is listed as it is; ``commands`` reproduce the page.
    """
    inlined = {row: data_uri(pixels) for row, pixels in examples.pixels.items()}

    def show(row: int, attributes: str = "") -> str:
        return f'<img src="{inlined[row]}" alt="image {row}" {attributes}>'

    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="faint">{escape(about)}</p>',
        '<div class="tiles">',
        *(tile_element(tile) for tile in tiles),
        "</div>",
        f'<p class="faint terms">{TERMS}</p>',
        *_negatives(examples, show),
        *_edits(examples, show),
        *_searches(examples, show),
        *_masked_words(examples, show),
        *_reliability(reliability),
        "<h2>Training</h2>",
        '<p class="faint">Dots are evaluations on held-out data.</p>',
        picture_element(*curves, "losses and statistics over the training steps"),
        "<h2>All metrics</h2>",
        '<p class="faint">In percent, except for losses.</p>',
        '<div class="tables">',
        *(table_element(name, table) for name, table in tables.items() if table.rows),
        "</div>",
        "<details><summary>Everything in metrics.json</summary>",
        table_element("", Table(("name", "value"), [(k, str(v)) for k, v in everything.items()])),
        "</details>",
        "<h2>Commands to reproduce this page</h2>",
        f"<pre>{escape(chr(10).join(commands))}</pre>",
    ]
    return document(title, parts)


def _reliability(pictures: tuple[bytes, bytes] | None) -> list[str]:
    if pictures is None:
        return []
    return [
        "<h2>Calibration</h2>",
        '<p class="faint">Pairs are grouped by their predicted probability of a match; each point '
        "is the share of a group that really matches. Half of all pairs match, and half of the "
        "others are hard. A perfectly calibrated model lies on the diagonal.</p>",
        picture_element(*pictures, "reliability diagrams, raw and calibrated"),
    ]


def _negatives(examples: ModelExamples, show: Show) -> list[str]:
    heading = "<h2>Hard negatives that the model generates</h2>"
    if examples.filter_name == "off":
        return [heading, "<p>This run generates no negatives.</p>"]
    if not examples.rewritten:
        return [heading, "<p>The filter rejected every word for these captions.</p>"]
    judged = any(rewritten.verdict for rewritten in examples.rewritten)
    return [
        heading,
        "<p>Below each caption, the negative that the text encoder generates from it without the "
        f"image; {FILTERS[examples.filter_name]}. The bar is the probability that the text matches "
        f"the image. {VERDICTS if judged else ''} {FIRST_ROWS}</p>",
        *_grid(_rewritten(rewritten, show) for rewritten in examples.rewritten),
    ]


def _edits(examples: ModelExamples, show: Show) -> list[str]:
    if not examples.edited:
        return []
    return [
        "<h2>One-word edits</h2>",
        "<p>Below each caption, a copy that one word makes false, and the probabilities that both "
        f"match the image. {FIRST_ROWS}</p>",
        *_grid(_rewritten(edited, show) for edited in examples.edited),
    ]


def _searches(examples: ModelExamples, show: Show) -> list[str]:
    return [
        "<h2>Search</h2>",
        f"<p>Every query searches all of the data: {RANKINGS[examples.ranking]}. Right images are "
        f"outlined, right captions ticked. {FIRST_ROWS}</p>",
        "<h3>Text to image</h3>",
        *_grid(_found_images(found, show) for found in examples.found_images),
        "<h3>Image to text</h3>",
        *_grid(_found_captions(found, show) for found in examples.found_captions),
    ]


def _masked_words(examples: ModelExamples, show: Show) -> list[str]:
    return [
        "<h2>Masked words</h2>",
        "<p>The words in blue are masked. Next to each guess is its probability. The masked word "
        "is green, and on scenes so is any other word with which the caption is true, such as a "
        f"synonym. {FIRST_ROWS}</p>",
        *_grid(_masked(masked, show) for masked in examples.masked),
    ]


def _grid(cards: Any) -> list[str]:
    return ['<div class="grid">', *(f'<div class="card">{card}</div>' for card in cards), "</div>"]


def _found_images(found: FoundImages, show: Show) -> str:
    images = (show(row, 'class="right"' if row == found.right else "") for row in found.images)
    return (
        f'<p class="text">{escape(found.caption)}</p><div class="found">{"".join(images)}</div>'
        f"{_rank('the right image is', found.rank)}"
    )


def _found_captions(found: FoundCaptions, show: Show) -> str:
    items = "".join(
        f"<li{' class=right' if right else ''}>{escape(caption)}</li>"
        for caption, right in found.captions
    )
    return (
        f'<div class="pair">{show(found.image, "")}<div class="text"><ol>{items}</ol>'
        f"{_rank('the first right caption is', found.rank)}</div></div>"
    )


def _rank(what: str, rank: int) -> str:
    """Say at which rank the right result is, if it is not the first."""
    return "" if rank == 1 else f'<p class="faint rank">{what} at rank {rank:,}</p>'


def _masked(masked: MaskedCaption, show: Show) -> str:
    """A caption with its masked words, and the guesses for each of them side by side."""
    heads = []
    for view, title in VIEWS.items():
        other = show(masked.wrong_image, "") if view == "wrong_image" else ""
        heads.append(f'<div class="view">{other}{title}</div>')
    blocks = [f'<div class="views">{"".join(heads)}</div>']
    hidden = [piece.text for piece in masked.caption if piece.mark]
    for word, guesses in zip(hidden, masked.guesses, strict=True):
        columns = (f"<div>{''.join(map(_guess, guesses[view]))}</div>" for view in VIEWS)
        if len(hidden) > 1:
            blocks.append(f'<div class="answer"><span class="blank">{escape(word)}</span></div>')
        blocks.append(f'<div class="views">{"".join(columns)}</div>')
    return (
        f'<div class="pair">{show(masked.image, "")}<p class="text">'
        f"{_text(masked.caption, 'span', 'blank')}</p></div>{''.join(blocks)}"
    )


def _guess(guess: Guess) -> str:
    share = 100 * guess.probability
    return (
        f'<span class="guess{" right" if guess.right else ""}" style="--p:{share:.1f}%">'
        f"{escape(guess.word)}<small>{share:.0f} %</small></span>"
    )


def _rewritten(rewritten: RewrittenCaption, show: Show) -> str:
    """A caption and its negative, the changed word marked in both."""
    badge = ""
    if rewritten.verdict in ("in fact true", "ungrammatical"):
        badge = f'<span class="badge">{escape(rewritten.verdict)}</span>'
    return (
        f'<div class="pair">{show(rewritten.image, "")}<div class="text">'
        f"{_bar(rewritten.match, 'var(--right)', '')}"
        f"<p>{_text(rewritten.caption, 'span', 'was')}</p>"
        f"{_bar(rewritten.negative_match, 'var(--wrong)', badge)}"
        f"<p>{_text(rewritten.negative, 'mark', '')}</p></div></div>"
    )


def _bar(probability: float, colour: str, badge: str) -> str:
    share = 100 * probability
    style = f"--p:{share:.1f}%;--c:{colour}"
    return f'<div class="match"><i style="{style}"></i>{share:.0f} % match {badge}</div>'


def _text(pieces: Sequence[Piece], element: str, kind: str) -> str:
    """Return escaped text with the marked pieces inside ``element``."""
    attribute = f' class="{kind}"' if kind else ""
    return "".join(
        f"<{element}{attribute}>{escape(piece.text)}</{element}>"
        if piece.mark
        else escape(piece.text)
        for piece in pieces
    )
