import io
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vilta.data.resizing import shrink
from vilta.data.transforms import evaluation_tensor
from vilta.decoding import decode_image, decode_pixels


def picture(width=40, height=30, mode="RGB"):
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_header(width, height):
    """A PNG that claims a size and holds nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + head + struct.pack(">I", 100) + b"IDAT"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_known_formats_become_rgb(kind):
    image = decode_image(encoded(picture(), kind))
    assert image.mode == "RGB" and image.size == (40, 30)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "1", "LA", "RGBA", "I;16"])
def test_modes_become_rgb(mode):
    if mode == "I;16":
        image = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)
    else:
        image = picture(mode=mode)
    kind = {"CMYK": "JPEG"}.get(mode, "PNG")
    assert decode_image(encoded(image, kind)).mode == "RGB"


def test_16_bit_grey_is_scaled_and_not_clipped():
    grey = Image.fromarray(np.full((20, 20), 0x4000, dtype=np.uint16))
    assert decode_image(encoded(grey)).getpixel((3, 3)) == (64, 64, 64)


def test_transparent_pixels_become_white():
    image = Image.new("RGBA", (10, 10), (200, 0, 0, 0))
    assert decode_image(encoded(image)).getpixel((5, 5)) == (255, 255, 255)


def test_exif_orientation_is_applied():
    image = Image.new("RGB", (40, 20), "white")
    image.paste("black", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise: left becomes top
    turned = decode_image(encoded(image, exif=exif))
    assert turned.size == (20, 40)
    assert turned.getpixel((10, 5)) == (0, 0, 0) and turned.getpixel((10, 35)) == (255, 255, 255)


def heic(image, **options):
    file = io.BytesIO()
    pytest.importorskip("pillow_heif").from_pillow(image).save(file, **options)
    return file.getvalue()


def test_heic_is_read_upright_with_its_extra(monkeypatch):
    image = Image.new("RGB", (40, 20), "white")
    image.paste("black", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    for decode in decode_image, lambda data: Image.fromarray(decode_pixels(data)):
        turned = decode(heic(image, exif=exif.tobytes(), quality=100))
        assert turned.mode == "RGB" and turned.size == (20, 40)
        assert max(turned.getpixel((10, 5))) < 10 and min(turned.getpixel((10, 35))) > 245
        for cut in 20, 500, 27_000:
            with pytest.raises(ValueError, match=r"^[^\n]+$"):
                decode(heic(picture(200, 200))[:-cut])
    data = heic(image)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match=r"a HEIC photo; pip install 'vilta\[heic\]' reads it"):
        decode_image(data)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data).getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>not found</html>", "not an image of a known format"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image of a known format"),
        (b"%PDF-1.4", "not an image of a known format"),
        (encoded(picture(), "JPEG")[:300], "broken image"),
        (encoded(picture(200, 200), "PNG")[:-2000], "broken image"),
        (encoded(picture(1, 1)), "too small: 1x1"),
        (encoded(picture(200, 7)), "too small: 200x7"),
        (encoded(picture(), "PPM"), "not an image of a known format"),
        (png_header(9_500, 9_000), "too large: 9500x9000"),
        (png_header(30_000, 30_000), "too large"),
    ],
)
def test_poison_is_refused_with_one_line(data, problem):
    for decode in decode_image, decode_pixels:
        with pytest.raises(ValueError, match=problem) as caught:
            decode(data)
        assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_give_an_image_or_a_value_error(data):
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]))
    content = bytearray(encoded(picture(), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    for decode in decode_image, decode_pixels:
        try:
            assert np.asarray(decode(bytes(content))).shape[2] == 3
        except ValueError as error:
            assert "\n" not in str(error)


def turned(image):
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", exif=exif)


@pytest.mark.parametrize(
    "data",
    [
        encoded(picture(), "JPEG"),
        encoded(picture(41, 33), "JPEG", subsampling=0),
        encoded(picture(41, 33), "JPEG", subsampling=2, progressive=True),
        encoded(picture(41, 33, "L"), "JPEG"),
        encoded(picture(41, 33, "CMYK"), "JPEG"),
        encoded(picture(41, 33, "P"), "PNG"),
        turned(picture()),
        encoded(picture(), "JPEG") + b"more",
    ],
)
def test_pixels_are_those_of_the_image(data):
    expected = np.asarray(decode_image(data)).astype(int)
    found = decode_pixels(data)
    assert found.shape == expected.shape and found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 2  # two builds of one library


@pytest.mark.parametrize("short_side", [0, 70, 75, 76, 150, 151, 299, 500])
def test_pixels_are_scaled_as_the_image_is(short_side):
    smooth = Image.linear_gradient("L").resize((400, 300)).convert("RGB")
    data = encoded(smooth, "JPEG")
    expected = np.asarray(decode_image(data, short_side)).astype(int)
    found = decode_pixels(data, short_side)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 3


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (32, 32), (333, 101), (9, 100)])
def test_evaluation_equals_the_processor_of_transformers(size):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        do_rescale=False,
        do_normalize=False,
    )
    image = picture(*size)
    theirs = processor(image, return_tensors="pt")["pixel_values"][0]
    ours = evaluation_tensor(image, 32)
    assert ours.dtype == torch.uint8 and ours.shape == (3, 32, 32)
    assert torch.equal(ours.float(), theirs.float())


def test_shrink_never_enlarges():
    assert shrink(picture(400, 100), 50).size == (200, 50)
    assert shrink(picture(40, 30), 50).size == (40, 30)


def empty_scans(count: int) -> bytes:
    """A progressive JPEG with many further scans over it, each of which refines nothing."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((64, 48)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * count + data[-2:]


def test_a_jpeg_with_too_many_scans_is_refused_before_it_is_decoded():
    assert decode_image(empty_scans(20)).size == (64, 48)
    for decode in (decode_image, decode_pixels):
        with pytest.raises(ValueError, match="too many scans"):
            decode(empty_scans(10_000))


def test_what_looks_like_scans_but_is_none_is_read():
    """A film behind the picture, as phones append one, and a thumbnail's bytes within EXIF."""
    plain = empty_scans(0)
    assert decode_image(plain + b"\xff\xda" * 500).size == (64, 48)
    comment = b"\xff\xda" * 500
    segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
    assert decode_image(plain[:2] + segment + plain[2:]).size == (64, 48)


@pytest.mark.parametrize("size", [(8, 500_000), (500_000, 8), (9_999_999, 8), (8, 801)])
def test_a_strip_is_refused_before_it_is_decoded(size):
    file = io.BytesIO()
    Image.new("1", size).save(file, "PNG")
    for decode in (decode_image, decode_pixels):
        with pytest.raises(ValueError, match=f"too long: {size[0]}x{size[1]} pixels"):
            decode(file.getvalue())


def test_what_would_be_too_large_once_it_is_resized_is_refused():
    image = Image.new("RGB", (8, 800))
    assert evaluation_tensor(image, 224).shape == (3, 224, 224)
    with pytest.raises(ValueError, match="too long: 8x800 pixels would be 1024x102400"):
        evaluation_tensor(image, 1024)
    with pytest.raises(ValueError, match="would be 1024x102400"):
        shrink(Image.new("1", (1030, 103_000)), 1024)


def test_transparency_is_laid_over_white_as_by_pillow_at_once():
    pixels = np.random.default_rng(0).integers(0, 256, (700, 30, 4), dtype=np.uint8)
    image = Image.fromarray(pixels, "RGBA")
    file = io.BytesIO()
    image.save(file, "PNG")
    white = Image.new("RGBA", image.size, "white")
    expected = Image.alpha_composite(white, image).convert("RGB")
    assert np.array_equal(np.array(decode_image(file.getvalue())), np.array(expected))
