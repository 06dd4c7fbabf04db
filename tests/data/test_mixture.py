import io
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vilta.config import DataConfig
from vilta.data.collate import PairCollator
from vilta.data.loading import training_loader
from vilta.data.mixture import Mixture, read_mixture, training_data
from vilta.model.language_model import new_tokenizer
from vilta.scenes import vocabulary


class Rows:
    """Stands for a source of so many rows."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


SOURCES = st.lists(st.tuples(st.integers(1, 30), st.floats(0.05, 4.0)), min_size=1, max_size=4)


@given(SOURCES, st.integers(0, 9), st.integers(1, 6))
def test_every_source_comes_as_often_as_its_weight_says(sources, seed, epochs):
    parts = [Rows(count) for count, _ in sources]
    weights = [weight for _, weight in sources]
    mixture = object.__new__(Mixture)
    Mixture.__init__.__wrapped__(mixture, parts, weights, seed)  # past the check of the types
    shares = [max(1, round(w * n)) for n, w in sources]
    assert len(mixture) == sum(shares)
    seen = [Counter() for _ in parts]
    for epoch in range(epochs):
        numbers = Counter()
        for row in range(len(mixture)):
            number, (_, inner) = mixture.place_of((epoch, row))
            numbers[number] += 1
            seen[number][inner] += 1
        assert [numbers[i] for i in range(len(parts))] == shares
    for counts, (rows, _), share in zip(seen, sources, shares, strict=True):
        # No row comes again before all others have come.
        times = [counts[row] for row in range(rows)]
        assert sum(times) == epochs * share and max(times) - min(times) <= 1


def write(path, text):
    path.write_text(text)
    return str(path)


@pytest.fixture
def two_sources(tmp_path):
    text = "scenes:7?seed=1&size=32: 1\nscenes:10?seed=2&size=32: 0.5\n"
    return DataConfig(train=write(tmp_path / "mixture.yaml", text), image_size=32)


def names_and_ids(data, **settings):
    words = new_tokenizer([" ".join(vocabulary())] * 2, 400)
    collator = PairCollator(words, 16, lambda ids, words, noise: (ids, noise[..., 0] < 0.3), 4)
    settings = {"batch_size": 4, "steps": 9, "seed": 4} | settings
    return [
        (batch.names, batch.image_ids.tolist(), batch.masked_positions.tolist())
        for step in training_loader(data, collator, **settings)
        for batch in step
    ]


def test_batches_of_a_mixture_follow_from_the_seed_alone(two_sources):
    data, _ = training_data(two_sources, 4)
    assert len(data) == 12
    expected = names_and_ids(data)
    assert names_and_ids(training_data(two_sources, 4)[0], workers=2) == expected
    assert names_and_ids(data, start_step=5) == expected[5:]
    assert names_and_ids(training_data(two_sources, 5)[0]) != expected
    ranks = [names_and_ids(data, batch_size=2, rank=r, world_size=2) for r in (0, 1)]
    both = [a[0] + b[0] for a, b in zip(*ranks, strict=True)]
    assert both == [names for names, _, _ in expected]
    sources = Counter(name.split("#")[0] for names, _, _ in expected for name in names)
    assert sources == {"scenes:7?seed=1&size=32": 21, "scenes:10?seed=2&size=32": 15}


def test_no_two_samples_are_masked_by_the_same_noise(two_sources):
    """Rows of two sources have the same numbers there."""
    data, _ = training_data(two_sources, 4)
    noises = []
    words = new_tokenizer([" ".join(vocabulary())] * 2, 400)
    collator = PairCollator(
        words, 16, lambda ids, _, noise: noises.append(noise) or (ids, ids < 0), 4
    )
    collator([data[epoch, row] for epoch in range(3) for row in range(len(data))])
    assert len(noises[0].flatten(1).unique(dim=0)) == 3 * 12


def test_the_hash_stands_for_content_and_weights(two_sources, tmp_path):
    _, first = training_data(two_sources, 4)
    text = Path(two_sources.train).read_text()
    for change in ("0.5", "0.6"), ("seed=2", "seed=3"):
        path = write(tmp_path / "other.yaml", text.replace(*change))
        assert training_data(DataConfig(train=path, image_size=32), 4)[1] != first
    assert training_data(two_sources, 9)[1] == first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a mixture has a line"),
        ("- a\n- b", "a mixture has a line"),
        ("a: b: c", "cannot be read"),
        ("scenes:5: 0", "must be above 0"),
        ("scenes:5: -1", "must be above 0"),
        ("scenes:5: .nan", "must be above 0"),
        ("scenes:5: often", "must be above 0"),
        ("scenes:5: yes", "not `scenes:5: True`"),
        ("nowhere: 1", "no such file or folder: nowhere"),
    ],
)
def test_what_is_no_mixture_is_told_in_one_line(tmp_path, text, message):
    path = write(tmp_path / "m.yaml", text)
    with pytest.raises(ValueError, match=message) as told:
        training_data(DataConfig(train=path), 0)
    assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="cannot be read"):
        read_mixture(str(tmp_path / "none.yaml"))


def jpeg(shade):
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (shade, 90, 90)).save(file, "JPEG")
    return file.getvalue()


def test_the_same_picture_is_one_image_and_the_same_name_is_not(tmp_path):
    """Every source has its 0.jpg, and the first picture stands in the third source again."""
    shades = {"a/0.jpg": 0, "a/1.jpg": 50, "b/0.jpg": 100, "b/1.jpg": 150, "c/x.jpg": 0}
    for name, shade in shades.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(shade))
        path.with_suffix(".txt").write_text(f"a picture called {name}")
    mixture = "".join(f"{tmp_path / part}: 1\n" for part in "abc")
    config = DataConfig(train=write(tmp_path / "m.yaml", mixture), image_size=32)
    data, _ = training_data(config, seed=0)
    tokenizer = new_tokenizer(["a picture called jpg"], 100)
    batch = PairCollator(tokenizer, 16, None, 0)([data[0, row] for row in range(len(data))])
    shown = batch.pixel_values.flatten(1)
    same_picture = (shown[:, None] == shown[None]).all(-1)
    assert torch.equal(batch.image_ids[:, None] == batch.image_ids[None], same_picture)
    assert same_picture.sum() == 5 + 2
