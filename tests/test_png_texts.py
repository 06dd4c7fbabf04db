import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vilta.decoding import decode_image, decode_pixels, without_long_texts

PICTURE = Image.linear_gradient("L").resize((24, 20)).convert("RGB")


def png(texts=None, **options):
    file = io.BytesIO()
    PICTURE.save(file, "PNG", pnginfo=texts, **options)
    return file.getvalue()


def with_text(kind, size):
    texts = PngInfo()
    if kind == "iCCP":
        return png(icc_profile=bytes(size))
    if kind == "iTXt":
        texts.add_itxt("XML:com.adobe.xmp", "x" * size, zip=True)
    else:
        texts.add_text("parameters", "x" * size, zip=kind == "zTXt")
    return png(texts)


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "iCCP"])
@pytest.mark.parametrize("size", [100, 3_000_000])
def test_a_picture_is_read_whatever_is_written_in_it(kind, size):
    data = with_text(kind, size)
    assert np.array_equal(np.asarray(decode_image(data)), np.asarray(PICTURE))
    assert np.array_equal(decode_pixels(data), np.asarray(PICTURE))
    assert (without_long_texts(data) == data) == (size == 100)


def test_a_text_after_the_pixels():
    long, plain = with_text("zTXt", 3_000_000), png()
    chunk = long[long.index(b"zTXt") - 4 : long.index(b"IDAT") - 4]
    data = plain[:-12] + chunk + plain[-12:]  # before IEND
    assert np.array_equal(np.asarray(decode_image(data)), np.asarray(PICTURE))


def test_an_orientation_among_the_texts_is_kept():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode_image(png(exif=exif.tobytes()))
    texts = PngInfo()
    texts.add_text("comment", "x" * 3_000_000, zip=True)
    assert turned.size == (20, 24) == decode_image(png(texts, exif=exif.tobytes())).size


@given(st.binary(max_size=60), st.integers(0, 200))
def test_any_bytes_come_back_or_shorter(noise, place):
    data = with_text("zTXt", 50)
    damaged = data[:place] + noise + data[place + len(noise) :]
    assert len(without_long_texts(damaged)) <= len(damaged)
    assert zlib.crc32(without_long_texts(data)) == zlib.crc32(data)
