"""What ``AutoProcessor`` makes of files and texts: the pixels of evaluation, and no surprises."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_config, tiny_tokenizer
from transformers import AutoProcessor

from vilta.data.transforms import evaluation_tensor
from vilta.decoding import decode_image
from vilta.model import ViltaProcessor

MEAN, STD = [0.1, 0.2, 0.3], [0.3, 0.2, 0.1]


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    config = tiny_config(image_mean=MEAN, image_std=STD)
    ViltaProcessor.from_config(config, tiny_tokenizer("wordpiece")).save_pretrained(folder)
    config.save_pretrained(folder)
    return AutoProcessor.from_pretrained(folder)


def noise(*shape):
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def rotated(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return lambda file: Image.fromarray((noise(50, 70, 3) * 255).astype(np.uint8)).save(
        file, "JPEG", exif=exif
    )


def saved(array, kind, **options):
    return lambda file: Image.fromarray(array).save(file, kind, **options)


FILES = {
    "rotated": rotated(6),
    "mirrored": rotated(7),
    "16-bit PNG": saved((noise(50, 70) * 65535).astype(np.uint16), "PNG"),
    "float TIFF": saved(noise(50, 70), "TIFF"),
    "float TIFF to 255": saved(noise(50, 70) * 255, "TIFF"),
    "32-bit TIFF": saved((noise(50, 70) * 255).astype(np.int32), "TIFF"),
    "transparent": saved((noise(50, 70, 4) * 255).astype(np.uint8), "PNG"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("form", ["opened", "bytes", "path", "as text"])
def test_the_processor_computes_the_pixels_of_evaluation(name, form, processor, tmp_path):
    file = io.BytesIO()
    FILES[name](file)
    path = tmp_path / "image"
    path.write_bytes(file.getvalue())
    image = {
        "opened": lambda: Image.open(path),
        "bytes": path.read_bytes,
        "path": lambda: path,
        "as text": lambda: str(path),
    }[form]()
    found = processor(images=image, return_tensors="pt")["pixel_values"]
    pixels = evaluation_tensor(decode_image(file.getvalue()), 32) / 255
    expected = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)
    assert pixels.std() > 0.05  # neither black nor white


@pytest.mark.parametrize("name", ["16-bit PNG", "float TIFF", "float TIFF to 255", "32-bit TIFF"])
def test_grey_of_more_than_8_bits_keeps_its_brightness(name):
    file = io.BytesIO()
    FILES[name](file)
    found = np.asarray(decode_image(file.getvalue()))[..., 0]
    assert np.abs(found - noise(50, 70) * 255).max() <= 1


@pytest.mark.parametrize("top", [256.0, float("nan"), -1.0])
def test_pixels_without_a_known_scale_are_refused(top, processor):
    grey = noise(50, 70)
    grey[3, 3] = top
    with pytest.raises(ValueError, match=r"float32 pixels .* convert the image to 8 bits"):
        processor(images=Image.fromarray(grey))


def test_arrays_are_images_too(processor):
    pixels = (noise(40, 32, 3) * 255).astype(np.uint8)
    forms = [pixels, pixels.transpose(2, 0, 1), torch.from_numpy(pixels), Image.fromarray(pixels)]
    found = processor(images=forms, return_tensors="pt")["pixel_values"]
    assert found.shape == (4, 3, 32, 32)
    for each in found[1:]:
        assert torch.equal(each, found[0])
    floats = processor(images=pixels.astype(np.float32) / 255, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(floats[0], found[0])
    with pytest.raises(ValueError, match=r"shape \[2, 40, 32, 3\] is not an image"):
        processor(images=np.stack([pixels, pixels]))


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_a_file_that_is_not_an_image_is_named(content, processor, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"photo\.jpg: (empty file|not an image)"):
        processor(images=[path])
    with pytest.raises(ValueError, match=r"gone\.jpg: No such file"):
        processor(images=str(tmp_path / "gone.jpg"))


def test_texts_are_cut_to_what_the_model_reads_and_padded(processor):
    texts = ["ball " * 520, "a red ball"]
    batch = processor(text=texts, return_tensors="pt")
    assert batch["input_ids"].shape == (2, 24)
    assert batch["attention_mask"].sum(dim=1).tolist() == [24, 5]
    for uncut in (dict(truncation=False), dict(text_kwargs={"truncation": False})):
        assert len(processor(text=texts[0], **uncut)["input_ids"]) > 500
    assert set(batch) == {"input_ids", "attention_mask"}


def test_texts_are_padded_right_whatever_the_file_of_the_tokenizer_says(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    changed = {"padding_side": "left", "model_input_names": ["input_ids"]}
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    tiny_config().save_pretrained(tmp_path)
    texts = ["a red ball", "two dogs are running"]
    again = AutoProcessor.from_pretrained(tmp_path)(text=texts, return_tensors="pt")
    for name, expected in processor(text=texts, return_tensors="pt").items():
        assert torch.equal(again[name], expected)
