import colorsys
import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from vilta.data import augmentation
from vilta.data.augmentation import randaugment, training_short_side, training_tensor
from vilta.data.transforms import evaluation_tensor
from vilta.decoding import decode_image


def picture(width=40, height=30):
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def smooth(side=64):
    across = np.broadcast_to(np.linspace(0, 255, side)[None, :], (side, side))
    return Image.fromarray(np.stack([across, across.T, across], axis=-1).astype(np.uint8))


def jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (300, 9)])
@pytest.mark.parametrize("augmentation", ["none", "crop", "crop-flip", "crop-randaugment"])
def test_training_view_is_a_function_of_the_generator(size, augmentation):
    def view(seed):
        generator = np.random.default_rng(seed)
        return training_tensor(np.array(picture(*size)), 16, augmentation, 0.5, generator)

    assert view(1).shape == (3, 16, 16)
    assert torch.equal(view(1), view(1))
    different = not torch.equal(view(1), view(2))
    assert different == (augmentation != "none")


def test_crops_keep_the_least_area_and_flips_are_half():
    # x and y of each pixel are its colours, so that a view tells where it was cut.
    across = np.broadcast_to(np.linspace(0, 255, 64)[None, :], (64, 64))
    pixels = np.stack([across, across.T, across], axis=-1).astype(np.uint8)
    image, flips = Image.fromarray(pixels), 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        view = training_tensor(np.array(image), 32, "crop-flip", 0.5, generator).float()
        width = (view[0, :, -1] - view[0, :, 0]).mean() / 255 * 32 / 31
        height = (view[1, -1] - view[1, 0]).mean() / 255 * 32 / 31
        assert 0.45 < abs(width) * height < 1.1
        flips += int(width < 0)
    assert 70 < flips < 130


def test_scaled_decoding_keeps_what_a_crop_can_show():
    data = jpeg(picture(800, 600))
    assert decode_image(data).size == (800, 600)
    small = decode_image(data, training_short_side(96, "crop", 0.5))
    assert min(small.size) >= 96 / (0.5 * 0.75) ** 0.5 and small.size == (400, 300)
    assert training_short_side(96, "none", 0.5) == 0


@pytest.mark.parametrize("size", [(340, 256), (256, 340), (224, 224), (100, 80)])
def test_without_augmentation_training_sees_what_evaluation_sees(size):
    generator = np.random.default_rng(0)
    fast = training_tensor(np.array(picture(*size)), 224, "none", 0.5, generator).int()
    exact = evaluation_tensor(picture(*size), 224).int()
    difference = (fast - exact).abs()  # two kernels for the same filter
    assert difference.max() <= 3 and difference.float().mean() < 0.02


def test_a_crop_equals_pillows_crop_and_resize():
    image = picture(90, 70)
    view = training_tensor(np.array(image), 48, "crop", 0.3, np.random.default_rng(5)).int()
    box = augmentation._random_box(90, 70, 0.3, np.random.default_rng(5))
    expected = image.crop(box).resize((48, 48), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(expected)).permute(2, 0, 1).int()
    assert (view - expected).abs().max() <= 3


@pytest.mark.parametrize("colour", [(200, 30, 30), (20, 160, 60), (90, 90, 210), (250, 250, 250)])
def test_randaugment_keeps_colours(colour):
    image = Image.new("RGB", (64, 64), colour)
    hue, saturation, _ = colorsys.rgb_to_hsv(*(value / 255 for value in colour))
    for seed in range(100):
        view = randaugment(image, np.random.default_rng(seed))
        new = colorsys.rgb_to_hsv(*(value / 255 for value in view.getpixel((32, 32))))
        assert abs(new[1] - saturation) < 0.2 and new[2] > 0.3
        assert saturation == 0 or abs(new[0] - hue) < 0.03


def test_randaugment_keeps_most_of_the_picture():
    for seed in range(100):
        view = np.asarray(
            randaugment(Image.new("RGB", (64, 64), "red"), np.random.default_rng(seed))
        )
        assert (view[..., 0] > view[..., 1] + 20).mean() > 0.6


def test_operations_equal_pillows():
    image = smooth()
    rotated = np.asarray(augmentation._rotate(image, 0.5)).astype(int)
    expected = np.asarray(image.rotate(-15, Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(rotated - expected)[16:48, 16:48].max() <= 2
    shifted = np.asarray(augmentation._shift(image, 0.25, -0.125))
    expected = np.asarray(ImageChops.offset(image, -16, 8))
    assert np.array_equal(shifted[8:, :48], expected[8:, :48])
    sheared = np.asarray(augmentation._affine(image, 1.0, 0.5, 0.0, 1.0)).astype(int)
    for row in (16, 32, 47):
        start = round((row + 0.5 - 32) * 0.5)
        expected = np.asarray(image).astype(int)[row, 20 + start : 40 + start]
        assert np.abs(sheared[row, 20:40] - expected).max() <= 4


def test_every_operation_is_drawn_and_directions_differ():
    names = {
        seed: randaugment(smooth(), np.random.default_rng(seed)).tobytes() for seed in range(400)
    }
    count = len(augmentation._OPERATIONS)
    # Identity twice is the image itself; each other pair of operations and directions is one view.
    assert len(set(names.values())) > 2 * count * (count - 1)
