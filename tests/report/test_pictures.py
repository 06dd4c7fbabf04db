"""Text on a sheet of pictures."""

import warnings

import pytest

from vilta.report.caption_examples import Piece
from vilta.report.pictures import INK, Sheet

CHINESE = "一只狗在草地上奔跑并且追逐一个红色的球然后跳过一条小河"


@pytest.mark.parametrize("words", [CHINESE * 2, "a dog and " + "x" * 300 + " then", "W" * 30])
def test_words_wider_than_the_line_are_broken(words):
    sheet = Sheet(600, 300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the font of the pictures has no Chinese
        below = sheet.flow([Piece(words, False)], 20, 10, 250, INK, lines=4)
        assert sheet.png().startswith(b"\x89PNG")
        boxes = [text.get_window_extent(sheet.renderer) for text in sheet.axes.texts]
    scale = 100 / sheet.figure.dpi
    assert all(box.x0 * scale >= 20 and box.x1 * scale < 20 + 250 + 2 for box in boxes)
    assert below <= 105
    shown = "".join(text.get_text() for text in sheet.axes.texts).removesuffix("...")
    assert words.replace(" ", "").startswith(shown) and len(shown) > 25


def test_a_line_narrower_than_a_letter_ends():
    sheet = Sheet(100, 100)
    sheet.flow([Piece("ab", False)], 0, 0, 1, INK)
    assert [text.get_text() for text in sheet.axes.texts] == ["a", "b"]
