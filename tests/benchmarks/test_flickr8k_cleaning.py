"""The parts of the cleaning benchmark against plain computations."""

import json

import datasets
import numpy as np
import pytest
import torch
from benchmarks.flickr8k import cleaning, frozen_training
from hypothesis import given
from hypothesis import strategies as st

from vilta.config import OptimizationConfig
from vilta.model.heads import ContrastiveHead

SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


@given(SCORES, SCORES)
def test_the_area_is_the_share_of_pairs_in_order(good, bad):
    pairs = [(g > b) + 0.5 * (g == b) for g in good for b in bad]
    area = cleaning.area_under_roc(np.array(good, float), np.array(bad, float))
    assert area == pytest.approx(np.mean(pairs))


def test_what_was_found_is_compared_with_the_true_captions():
    true = datasets.Dataset.from_dict({"captions": [["a", "b"], ["c"]]})
    lines = [(0, "a", 0.9), (0, "c", 0.6), (1, "b", 0.1), (1, "c", 0.8)]
    pairs = [{"row": row, "caption": text, "probability": p, "score": -p} for row, text, p in lines]
    told = cleaning.found_pairs(pairs, true)
    assert (told["pairs"], told["wrong"]) == (4, 2)
    assert told["area, probability"]["mean"] == 100 and told["area, score"]["mean"] == 0
    assert told["true kept"]["mean"] == 100 and told["wrong kept"]["mean"] == 50


def encoded(count=24):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 8, generator=generator)
    texts = torch.cat([images @ torch.randn(8, 6, generator=generator)] * 2)
    return frozen_training.Encoded(
        images, texts, torch.arange(count).repeat(2), images[:, None].half()
    )


def test_contrast_learns_true_pairs_and_not_wrong_ones(monkeypatch):
    small = OptimizationConfig(steps=150, batch_size=12, lr=1e-2)
    monkeypatch.setattr(frozen_training, "CONTRAST", small)
    data, shares = encoded(), {}
    for name, turn in (("true", 0), ("wrong", 5)):
        torch.manual_seed(0)
        head = ContrastiveHead(8, 6, 8)
        frozen_training.train_contrast(head, data, {i: [(i + turn) % 24] for i in range(24)}, 0)
        hits = cleaning.hits(head, data)
        assert len(hits["image to text"]) == 24 and len(hits["text to image"]) == 48
        shares[name] = np.mean(hits["text to image"])
    assert shares["true"] > 0.8 > 0.3 > shares["wrong"]


def test_seeds_are_averaged_item_by_item(tmp_path):
    area = {"mean": 90.0, "low": 80.0, "high": 95.0}
    for seed in (0, 1):
        hits = {
            arm: {
                "image to text": [True, seed == 0],
                "text to image": [True, False, arm == "clean"],
            }
            for arm in cleaning.ARMS
        }
        found = dict.fromkeys(("area, score", "area, probability", "true kept", "wrong kept"), area)
        told = {"seed": seed, "hits": hits, "found": found, "owners": [0, 0, 1]}
        told |= {"minutes": 1.0, "device": "CPU"}
        (tmp_path / str(seed)).mkdir()
        (tmp_path / str(seed) / "measured.json").write_text(json.dumps(told))
    result = cleaning.summary([tmp_path / "0", tmp_path / "1"])
    intervals = result["intervals"]
    assert intervals["R@1 image to text, noisy captions"]["mean"] == 75
    more = intervals["R@1 text to image, true captions minus noisy captions"]
    assert more["mean"] == pytest.approx(100 / 3)
    assert intervals["R@1 text to image, true captions"]["mean"] == pytest.approx(200 / 3)
    assert result["seed"] == [0, 1] and result["items"] == 2
