"""The examples as PNG pictures, images next to coloured text, for READMEs and slides."""

from __future__ import annotations

import io
import math
from bisect import bisect
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch, Rectangle

from vilta.muting import muted
from vilta.report.caption_examples import (
    CaptionExamples,
    Guess,
    MaskedCaption,
    Piece,
    RewrittenCaption,
)
from vilta.report.examples import SHOWN, ModelExamples

INK, FAINT, RIGHT, WRONG, BAR = "#262b32", "#7d8590", "#1a7f4b", "#c03a2b", "#e9ecf0"
UNIT = 100
"""Lengths of an inch."""
QUERIES, BLANKS, NEGATIVES = 5, 6, 12
"""Maximum number of examples in a picture; the page shows all. Our choice."""

Length = int | float
"""In hundredths of an inch; type sizes are in points."""


class Sheet:
    """A white canvas; positions are those of the upper left corner."""

    def __init__(self, width: Length, height: Length) -> None:
        self.figure = Figure(figsize=(width / UNIT, height / UNIT), dpi=150, facecolor="white")
        self.renderer = FigureCanvasAgg(self.figure).get_renderer()
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()

    def image(
        self, pixels: UInt8[np.ndarray, "H W 3"], x: Length, y: Length, side: Length, edge: str = ""
    ) -> None:
        """Place an image, with a coloured edge around it if ``edge`` names a colour."""
        extent = (x, x + side, y + side, y)
        self.axes.imshow(pixels, extent=extent, aspect="auto", interpolation="lanczos")
        frame = Rectangle((x, y), side, side, fill=False)
        frame.set(edgecolor=edge or "#d5d9de", linewidth=3 if edge else 0.6)
        self.axes.add_patch(frame)
        self.axes.set(xlim=(0, self._size[0]), ylim=(self._size[1], 0))

    def text(
        self,
        words: str,
        x: Length,
        y: Length,
        colour: str = INK,
        size: Length = 9,
        bold: bool = False,
    ) -> None:
        """Write one line of literal text; ``$`` is not special."""
        weight = "bold" if bold else "normal"
        self.axes.text(
            x, y, words, color=colour, size=size, weight=weight, va="top", parse_math=False
        )

    def flow(
        self,
        pieces: Sequence[Piece],
        x: Length,
        y: Length,
        width: Length,
        colour: str,
        lines: int = 3,
    ) -> float:
        """Write wrapped text, marked pieces bold in ``colour``; return the y position below."""
        size, line, left, used = 10.5, 19.0, 0.0, 1
        space = self._width("a b", size, False) - self._width("ab", size, False)
        for piece in pieces:
            for word in self._words(piece, size, width):
                wide = self._width(word.strip() or "", size, piece.mark)
                left += space if word[0].isspace() and left else 0
                if left and left + wide > width:
                    left, y, used = 0.0, y + line, used + 1
                if used > lines:
                    self.text("...", x, y - line * 0.25, FAINT, size)
                    return y + line
                self.text(
                    word.strip(), x + left, y, colour if piece.mark else INK, size, piece.mark
                )
                left += wide + (space if word[-1].isspace() and word.strip() else 0)
        return y + line

    def bar(
        self, x: Length, y: Length, width: Length, height: Length, share: Length, colour: str
    ) -> None:
        """Draw a bar filled to ``share`` of its length."""
        for part, fill in ((1.0, BAR), (share, colour)):
            shape = "round,pad=0,rounding_size=2" if part * width > 4 else "square,pad=0"
            self.axes.add_patch(
                FancyBboxPatch((x, y), part * width, height, shape, color=fill, lw=0)
            )

    def png(self) -> bytes:
        """Return the sheet as a PNG file."""
        file = io.BytesIO()
        with muted:  # a letter that the font does not have is a box; the page has the text
            self.figure.savefig(file, format="png", dpi=150)
        return file.getvalue()

    def _words(self, piece: Piece, size: float, width: Length) -> Iterator[str]:
        """Yield the words, one wider than a line in several parts (Chinese has no spaces)."""
        for word in _words_with_space(piece.text):
            rest = word
            while (end := self._fitting(rest, size, piece.mark, width)) < len(rest):
                yield rest[:end]
                rest = rest[end:]
            yield rest

    def _fitting(self, word: str, size: float, bold: bool, width: Length) -> int:
        """Return how many of a word's characters a line holds, at least one."""

        def wide(end: int) -> float:
            return self._width(word[:end].strip(), size, bold)

        whole = len(word)
        return whole if wide(whole) <= width else max(1, bisect(range(1, whole), width, key=wide))

    @property
    def _size(self) -> tuple[float, float]:
        width, height = self.figure.get_size_inches()
        return width * UNIT, height * UNIT

    def _width(self, words: str, size: float, bold: bool) -> float:
        font = FontProperties(size=size, weight="bold" if bold else "normal")
        with muted:
            wide, _, _ = self.renderer.get_text_width_height_descent(words, font, ismath=False)
        return wide / self.figure.dpi * UNIT


def draw_retrieval(examples: ModelExamples) -> bytes:
    """Draw the first captions with the images found, and images with the captions found; PNG."""
    found_images = examples.found_images[:QUERIES]
    found_captions = examples.found_captions[:QUERIES]
    side, step = 96.0, 112.0
    middle = 60 + step * len(found_images)
    sheet = Sheet(960, middle + 40 + step * len(found_captions))
    sheet.text("text to image (the right image is outlined)", 20, 14, FAINT, 9)
    for row, found in enumerate(found_images):
        y = 38 + row * step
        sheet.flow([Piece(found.caption, False)], 20, y + 10, 370, INK, lines=4)
        for place, image in enumerate(found.images):
            edge = RIGHT if image == found.right else ""
            sheet.image(examples.pixels[image], 410 + place * (side + 12), y, side, edge)
    sheet.text("image to text (right captions are green)", 20, middle - 8, FAINT, 9)
    for row, given in enumerate(found_captions):
        y = middle + 16 + row * step
        sheet.image(examples.pixels[given.image], 20, y, side)
        for place, (caption, right) in enumerate(given.captions[:SHOWN]):
            short = caption if len(caption) < 105 else caption[:102] + "..."
            colour = RIGHT if right else FAINT
            sheet.text(short, 134, y + 2 + place * 19, colour, 9.5, right)
    return sheet.png()


def draw_masked_words(examples: CaptionExamples) -> bytes:
    """Draw masked captions with the guesses for one blank of each, in each view; PNG.

    It is the first blank that is a word rather than punctuation.
    """
    shown, step = examples.masked[:BLANKS], 176.0
    sheet = Sheet(960, 20 + step * max(1, len(shown)))
    for row, masked in enumerate(shown):
        y = 20 + row * step
        sheet.image(examples.pixels[masked.image], 20, y, 150)
        hidden = [piece.text for piece in masked.caption if piece.mark]
        asked = next((i for i, text in enumerate(hidden) if any(map(str.isalnum, text))), 0)
        end = sheet.flow(_blanks(masked, asked), 192, y, 740, "#2f6fd0", lines=3)
        top = max(end + 6, y + 52)
        for column, (view, title) in enumerate(
            {
                "with_image": "with the image",
                "wrong_image": "with a wrong image",
                "text_only": "without an image",
            }.items()
        ):
            x = 192 + column * 256
            if view == "wrong_image":
                sheet.image(examples.pixels[masked.wrong_image], x, top - 2, 28)
            sheet.text(title, x + (36 if view == "wrong_image" else 0), top + 4, FAINT, 9)
            _guesses(sheet, masked.guesses[asked][view], x, top + 32)
    return sheet.png()


def draw_negatives(examples: CaptionExamples) -> bytes:
    """Draw captions and the negatives generated from them, with their match probability; PNG."""
    shown, step, columns = examples.rewritten[:NEGATIVES], 168.0, 2
    sheet = Sheet(1200, 16 + step * max(1, math.ceil(len(shown) / columns)))
    for index, rewritten in enumerate(shown):
        x, y = 20 + 592 * (index % columns), 16 + step * (index // columns)
        sheet.image(examples.pixels[rewritten.image], x, y, 146)
        _negative(sheet, rewritten, x + 164, y)
    if not shown:
        sheet.text("no negatives were generated for these captions", 20, 16, FAINT)
    return sheet.png()


def _negative(sheet: Sheet, rewritten: RewrittenCaption, x: Length, y: Length) -> None:
    """Draw a caption above its negative, each with a bar for its match probability."""
    for pieces, probability, colour, name in (
        (rewritten.caption, rewritten.match, RIGHT, "caption"),
        (rewritten.negative, rewritten.negative_match, WRONG, "negative"),
    ):
        sheet.text(name, x, y, FAINT, 8)
        sheet.bar(x + 62, y + 2, 120, 8, probability, colour)
        sheet.text(f"{100 * probability:.0f} % match", x + 192, y - 1, INK, 8.5)
        if name == "negative" and rewritten.verdict in ("in fact true", "ungrammatical"):
            sheet.text(rewritten.verdict, x + 290, y - 1, WRONG, 8.5, True)
        sheet.flow(pieces, x, y + 18, 385, colour, lines=3)
        y += 78


def _guesses(sheet: Sheet, guesses: Sequence[Guess], x: Length, y: Length) -> None:
    for place, guess in enumerate(guesses):
        at = y + place * 21
        sheet.bar(x, at, 84, 13, guess.probability, "#9bd3b5" if guess.right else "#c3cad3")
        sheet.text(f"{100 * guess.probability:.0f} %", x + 5, at + 1, INK, 7.5)
        colour = RIGHT if guess.right else INK
        sheet.text(guess.word, x + 92, at - 1, colour, 10, guess.right)


def _blanks(masked: MaskedCaption, asked: int) -> list[Piece]:
    """Put the answer of the blank ``asked`` in brackets; other masked words become blanks."""
    pieces, seen = [], 0
    for piece in masked.caption:
        text = piece.text
        if piece.mark:
            text = f"[{text}]" if seen == asked else "____"
            seen += 1
        pieces.append(Piece(text, piece.mark))
    return pieces


def _words_with_space(text: str) -> list[str]:
    """Split into words, each with the space before it; a trailing space stays with the last."""
    words = [(" " if i else "") + word for i, word in enumerate(text.split())]
    if words and text[0].isspace():
        words[0] = " " + words[0]
    if words and text[-1].isspace():
        words[-1] += " "
    return words or ([" "] if text else [])
