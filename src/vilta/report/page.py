"""The report as one HTML page that needs no other file. Every text that comes in is escaped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from vilta.report.examples import (
    FoundCaptions,
    FoundImages,
    Guess,
    MaskedCaption,
    ModelExamples,
    Piece,
    RewrittenCaption,
)
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

FIRST_ROWS = "These are the first rows of the data; nothing was chosen."
VIEWS = {
    "with_image": "with the image",
    "wrong_image": "with a wrong image",
    "text_only": "without an image",
}
FILTERS = {
    "grounded": "a word is dropped if the model, looking at the image, finds it plausible",
    "soft_label": "a word is dropped if the teacher finds it plausible",
    "none": "only the word itself and its inflections are left out",
}
RANKINGS = {
    "combined": "contrast picks candidates, contrast and matching together rank them",
    "matching": "matching ranks them, for the run trained no contrast",
    "contrastive": "contrast ranks them, for the run trained no matching",
}

VERDICTS = (
    "The scenes' oracle marks a negative that is still true of the picture, and one that is no "
    "sentence of its grammar, so that it cannot tell."
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

    ``everything`` is listed as it is, and ``commands`` are the command lines behind the page.
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
        "<h2>Training</h2>",
        '<p class="faint">Dots are evaluations on held-out data.</p>',
        picture_element(*curves, "losses and statistics over the training steps"),
        *_examples(examples, show),
        *_reliability(reliability),
        "<h2>All metrics</h2>",
        '<p class="faint">In percent, except for the losses.</p>',
        '<div class="tables">',
        *(table_element(name, table) for name, table in tables.items()),
        "</div>",
        "<details><summary>Everything in metrics.json</summary>",
        table_element("", Table(("name", "value"), [(k, str(v)) for k, v in everything.items()])),
        "</details>",
        "<h2>The same again</h2>",
        f"<pre>{escape(chr(10).join(commands))}</pre>",
    ]
    return document(title, parts)


def _reliability(pictures: tuple[bytes, bytes] | None) -> list[str]:
    if pictures is None:
        return []
    return [
        "<h2>Is a probability to be believed?</h2>",
        '<p class="faint">Of the pairs that were given a probability, how many belong together. '
        "Half of all pairs do, and half of the others are the most alike. On the diagonal the "
        "probability is honest.</p>",
        picture_element(*pictures, "reliability diagrams, raw and calibrated"),
    ]


def _examples(examples: ModelExamples, show: Show) -> list[str]:
    """The four kinds of examples, each under its heading."""
    parts = [
        "<h2>Retrieval</h2>",
        f"<p>All of the data are searched: {RANKINGS[examples.ranking]}. The right ones are "
        f"outlined or ticked. {FIRST_ROWS}</p>",
        "<h3>Caption to images</h3>",
        *_grid(_found_images(found, show) for found in examples.found_images),
        "<h3>Image to captions</h3>",
        *_grid(_found_captions(found, show) for found in examples.found_captions),
        "<h2>Masked words</h2>",
        "<p>The words in blue were hidden. Beside each guess stands its probability; right ones "
        f"are green. {FIRST_ROWS}</p>",
        *_grid(_masked(masked, show) for masked in examples.masked),
        "<h2>Synthesised hard negatives</h2>",
    ]
    if examples.filter_name == "off":
        return [*parts, "<p>This run writes no negatives.</p>"]
    if not examples.rewritten:
        return [*parts, "<p>The filter left no word for any of these captions.</p>"]
    return [
        *parts,
        f"<p>Each caption and the negative written from it; filter {examples.filter_name}: "
        f"{FILTERS[examples.filter_name]}. The bar is the probability of a match with the image. "
        f"{VERDICTS if any(r.verdict for r in examples.rewritten) else ''} {FIRST_ROWS}</p>",
        *_grid(_rewritten(rewritten, show) for rewritten in examples.rewritten),
    ]


def _grid(cards: Any) -> list[str]:
    return ['<div class="grid">', *(f'<div class="card">{card}</div>' for card in cards), "</div>"]


def _found_images(found: FoundImages, show: Show) -> str:
    images = (show(row, 'class="right"' if row == found.right else "") for row in found.images)
    return f'<p class="text">{escape(found.caption)}</p><div class="found">{"".join(images)}</div>'


def _found_captions(found: FoundCaptions, show: Show) -> str:
    items = "".join(
        f"<li{' class=right' if right else ''}>{escape(caption)}</li>"
        for caption, right in found.captions
    )
    return (
        f'<div class="pair">{show(found.image, "")}<div class="text"><ol>{items}</ol></div></div>'
    )


def _masked(masked: MaskedCaption, show: Show) -> str:
    """The caption with its hidden words, and for each of them the guesses side by side."""
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
    if rewritten.verdict in ("still true", "no sentence"):
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
    """Escaped text, the marked pieces inside ``element``."""
    attribute = f' class="{kind}"' if kind else ""
    return "".join(
        f"<{element}{attribute}>{escape(piece.text)}</{element}>"
        if piece.mark
        else escape(piece.text)
        for piece in pieces
    )
