"""Captions moved between training images, and images damaged at test time."""

import numpy as np
import pytest
import torch
from PIL import Image

from vilta.config import DataConfig
from vilta.data.corruption import CORRUPTIONS, GREY, Corrupted, Corruption
from vilta.data.mixture import training_data
from vilta.data.samples import PairDataset, moved_captions
from vilta.data.sources import load_pairs
from vilta.types import Batch


def test_moved_captions_are_a_permutation_without_fixed_points():
    moved = moved_captions(1000, 0.3, seed=4)
    assert len(moved) == 300
    assert set(moved) == set(moved.values())
    assert all(row != other for row, other in moved.items())
    assert moved_captions(1000, 0.3, seed=4) == moved != moved_captions(1000, 0.3, seed=5)
    assert set(moved) < set(moved_captions(1000, 0.6, seed=4))
    assert moved_captions(1000, 0.0, 4) == moved_captions(3, 0.3, 4) == {}


def test_only_the_captions_of_training_change():
    table = load_pairs("scenes:40?seed=3&size=32")
    clean, noisy = DataConfig(image_size=32), DataConfig(image_size=32, caption_noise=0.5)
    plain, moved = (PairDataset(table, config, 0, True, "x") for config in (clean, noisy))
    changed = []
    for row in range(40):
        one, two = plain[0, row], moved[0, row]
        assert torch.equal(one.pixels, two.pixels)
        assert two.caption in table[moved.captions_of.get(row, row)]["captions"]
        changed.append(one.caption != two.caption)
    assert sum(changed) == len(moved.captions_of) == 20
    keys = [(0, row) for row in range(40)]
    assert moved.caption_lengths(keys) == [len(moved[key].caption) for key in keys]
    held_out = PairDataset(table, noisy, 0, False, "x")
    assert [held_out[key].caption for key in keys] == [c[0] for c in table["captions"]]
    with pytest.raises(ValueError, match="caption_noise is not for streams"):
        training_data(DataConfig(train="stream:x-{0..1}.tar", caption_noise=0.1), 0)


def picture(side=64):
    y, x = np.mgrid[:side, :side]
    pixels = np.stack([(x * 4) % 256, (y * 4) % 256, ((x + y) // 8 % 2) * 255], axis=-1)
    return torch.from_numpy(pixels.astype(np.uint8)).permute(2, 0, 1).contiguous()


@pytest.mark.parametrize("kind", ["blur", "jpeg", "brightness", "occlusion"])
def test_a_stronger_damage_is_further_from_the_image(kind):
    pixels = picture()
    before = pixels.clone()
    damaged = [Corruption(kind, strength).apply(pixels, 7) for strength in (1, 2, 3)]
    far = [(d.float() - pixels.float()).abs().mean().item() for d in damaged]
    assert 0 < far[0] < far[1] < far[2]
    assert all(d.shape == pixels.shape and d.dtype == torch.uint8 for d in damaged)
    assert torch.equal(pixels, before)
    assert len(CORRUPTIONS) == 12


def test_what_each_damage_is():
    pixels = picture(100)
    assert torch.equal(
        Corruption("brightness", 1).apply(pixels, 0), (pixels.double() * 0.8).round().byte()
    )
    covered = (Corruption("occlusion", 2).apply(pixels, 3) != pixels).any(dim=0)
    hidden = Corruption("occlusion", 2).apply(pixels, 3)[:, covered]
    assert (hidden == GREY).all()
    assert 0.24 < (covered.sum() / covered.numel()).item() <= 0.25
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    from PIL import ImageFilter

    blurred = np.array(image.filter(ImageFilter.GaussianBlur(4.0)))
    found = Corruption("blur", 3).apply(pixels, 0).permute(1, 2, 0).numpy()
    assert np.array_equal(found, blurred)


def test_batches_are_damaged_alike_each_time():
    def batch(first):
        ids = torch.ones(2, 3, dtype=torch.long)
        return Batch(
            pixel_values=torch.stack([picture(32).roll(first + i, 1) for i in range(2)]),
            input_ids=ids, attention_mask=ids, word_ids=ids, masked_input_ids=ids,
            masked_positions=torch.tensor([1]), image_ids=torch.arange(2),
            caption_ids=torch.arange(2), names=("a", "b"),
        )  # fmt: skip

    batches = [batch(0), batch(2)]
    damaged = Corrupted(batches, Corruption("occlusion", 1))
    once, again = list(damaged), list(damaged)
    for one, two, plain in zip(once, again, batches, strict=True):
        assert torch.equal(one.pixel_values, two.pixel_values)
        assert not torch.equal(one.pixel_values, plain.pixel_values)
        assert torch.equal(one.input_ids, plain.input_ids)
