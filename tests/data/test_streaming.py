"""Streams of shards keep the determinism contract, on this machine and behind a protocol."""

import functools
import http.server
import importlib.util
import io
import json
import re
import tarfile
import threading
from collections import Counter
from dataclasses import replace
from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from upath import UPath

from vilta.config import DataConfig
from vilta.data import streaming
from vilta.data.collate import PairCollator
from vilta.data.loading import training_loader
from vilta.data.mixture import training_data
from vilta.data.samples import BadData
from vilta.data.sources import find_shards, patterns
from vilta.data.sources.patterns import shard_reader
from vilta.data.streaming import StreamedPairs
from vilta.model.language_model import new_tokenizer
from vilta.scenes import vocabulary

SIZES = [3, 9, 4, 7, 1, 6]
"""Pairs in each shard; chunks of 4 and 4 lanes never fit them."""


def jpeg(shade):
    file = io.BytesIO()
    Image.new("RGB", (20, 16), (shade % 256, 90, 90)).save(file, "JPEG")
    return file.getvalue()


def tar(path, first, count, broken=()):
    with path.open("wb") as file, tarfile.open(fileobj=file, mode="w") as archive:
        for i in range(first, first + count):
            data = b"<html>" if i in broken else jpeg(i)
            for name, content in ((f"{i}.jpg", data), (f"{i}.txt", b"a red ball %d" % i)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def parquet(path, first, count):
    rows = range(first, first + count)
    status = ["success"] * count + ["failed_to_download"]
    table = {"jpg": [*map(jpeg, rows), None], "caption": [f"a blue box {i}" for i in rows] + ["x"]}
    table |= {"key": [str(i) for i in rows] + ["no"], "status": status}
    with path.open("wb") as file:
        pq.write_table(pa.table(table), file)


def arrow(path, first, count):
    rows = range(first, first + count)
    table = pa.table({"image": [*map(jpeg, rows)], "caption": [[f"a star {i}"] for i in rows]})
    with path.open("wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


WRITERS = {"tar": tar, "parquet": parquet, "arrow": arrow}


def write_shards(folder, kinds=("tar", "parquet", "arrow")):
    first = 0
    for number, size in enumerate(SIZES):
        kind = kinds[number % len(kinds)]
        WRITERS[kind](folder / f"{number:05}.{kind}", first, size)
        first += size
    return folder


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(streaming, "CHUNK", 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def collator():
    words = new_tokenizer(["a red ball 1", *vocabulary()] * 2, 400)
    return PairCollator(words, 12, lambda ids, words, noise: (ids, noise[..., 0] < 0.3), 4)


CONFIG = DataConfig(image_size=16, augmentation="crop-flip", lanes=4, mixed_lanes=1)


def stream(folder, seed=4, config=CONFIG):
    return StreamedPairs(find_shards(str(folder)), config, seed, "stream")


def read(dataset, collator, **settings):
    settings = {"batch_size": 3, "steps": 12, "seed": 4} | settings
    steps = training_loader(dataset, collator, **settings)
    return [[content(batch) for batch in step] for step in steps]


def content(batch):
    pixels = batch.pixel_values.flatten(1).sum(1).tolist()
    return batch.names, pixels, batch.input_ids.tolist(), batch.masked_positions.tolist()


def names(steps):
    return [name for step in steps for batch in step for name in batch[0]]


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_are_the_same_for_any_number_of_workers(folder, collator, workers):
    expected = read(stream(folder), collator)
    assert read(stream(folder), collator, workers=workers) == expected
    assert read(stream(folder, seed=5), collator) != expected


@settings(max_examples=20, deadline=None)
@given(start=st.integers(0, 12), accumulate=st.sampled_from([1, 2, 4]))
def test_a_resume_at_any_step_repeats_nothing_and_skips_nothing(
    folder, collator, start, accumulate
):
    settings = {"accumulate": accumulate, "steps": 12}
    whole = read(stream(folder), collator, **settings)
    assert read(stream(folder), collator, start_step=start, **settings) == whole[start:]


def test_a_resume_may_change_workers_and_ranks(folder, collator):
    def part(ranks=1, rank=0, **settings):
        settings |= {"accumulate": 4 // ranks, "world_size": ranks, "rank": rank, "steps": 10}
        return read(stream(folder), collator, **settings)

    whole = part()
    assert part(start_step=3, workers=2) == whole[3:]
    for ranks in (2, 4):
        parts = zip(*(part(ranks, rank) for rank in range(ranks)), strict=True)
        assert [list(chain(*step)) for step in parts] == whole


@pytest.mark.parametrize(("lanes", "mixed"), [(1, 1), (3, 1), (6, 1), (6, 2), (4, 4)])
def test_every_pair_comes_once_an_epoch(folder, lanes, mixed):
    dataset = stream(folder, config=replace(CONFIG, lanes=lanes, mixed_lanes=mixed))
    total = sum(SIZES)
    keys = [dataset.key_at(2, position) for position in range(20 * total)]
    counts = Counter((sample.epoch, sample.name) for sample in map(dataset.__getitem__, keys))
    assert set(counts.values()) == {1}
    # Lanes differ in length, so some are ahead; the first epochs are whole by now.
    for epoch in range(3):
        assert sum(1 for e, _ in counts if e == epoch) == total
    orders = [[n for e, n in counts if e == epoch] for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]


def test_a_micro_batch_draws_evenly_from_a_group_of_lanes(folder, collator):
    dataset = stream(folder, config=replace(CONFIG, lanes=6, mixed_lanes=3))
    keys = [[dataset.key_at(6, 6 * batch + place)[0] for place in range(6)] for batch in range(4)]
    assert [sorted(lanes) for lanes in keys] == [[0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5]] * 2
    # Lowered to what divides lanes and batch size.
    assert [dataset.mixed(size) for size in (6, 4, 9, 5)] == [3, 2, 3, 1]
    whole = read(dataset, collator, batch_size=6, steps=6)
    other = stream(folder, config=replace(CONFIG, lanes=6, mixed_lanes=3))
    assert read(other, collator, batch_size=6, steps=6, start_step=4, workers=2) == whole[4:]


def test_shards_that_are_read_over_are_told(folder, collator, caplog):
    dataset = stream(folder, config=replace(CONFIG, lanes=6, mixed_lanes=2))
    assert dataset.read_over(4, processes=3, accumulate=1, workers=0) == ""
    told = dataset.read_over(4, processes=2, accumulate=1, workers=3)
    assert "read 2 times over: 3 groups of lanes, 6 readers" in told and "12 shards" in told
    read(stream(folder), collator, accumulate=3, steps=1)
    assert "read 3 times over" in caplog.text and "6 shards" not in caplog.text


@pytest.mark.parametrize(("lanes", "mixed", "batch"), [(3, 4, 4), (5, 4, 8), (2, 2, 3), (6, 4, 6)])
def test_the_lanes_that_are_named_read_each_shard_once(lanes, mixed, batch):
    """Also where the lanes that there are can be mixed less than those."""
    spread = {"processes": 2, "accumulate": 1, "workers": 2}

    def told(lanes):
        config = replace(CONFIG, lanes=lanes, mixed_lanes=mixed)
        shards = [f"{i}.tar" for i in range(60)]
        return StreamedPairs(shards, config, 0, "many").read_over(batch, **spread)

    assert told(int(re.search(r"--data\.lanes (\d+)", told(lanes))[1])) == ""


def test_other_lanes_are_another_order_which_a_resume_refuses(folder):
    contents = {
        training_data(replace(CONFIG, train=f"stream:{folder}", lanes=n), 0)[1] for n in (2, 3)
    }
    assert len(contents) == 2


def test_a_tar_is_not_read_to_be_counted_where_a_file_beside_it_says_it(tmp_path, monkeypatch):
    write_shards(tmp_path, ("tar",))
    shards = find_shards(str(tmp_path))
    assert [patterns.stored_count(shard) for shard in shards] == [None] * 6
    (tmp_path / "sizes.json").write_text(json.dumps({"00000.tar": 3, "00001.tar": -1}))
    (tmp_path / "00002_stats.json").write_text(json.dumps({"count": 9, "successes": 4}))
    (tmp_path / "00003_stats.json").write_text("{")
    found = [patterns.stored_count(shard) for shard in shards]
    assert found == [3, None, 4, None, None, None]
    monkeypatch.setattr(streaming, "shard_reader", None)  # reading would fail
    assert stream(tmp_path).count(shards[2]) == SIZES[2]


def test_shards_know_how_many_pairs_they_hold(folder):
    for shard, size in zip(find_shards(str(folder)), SIZES, strict=True):
        reader = shard_reader(shard)
        assert reader.count() == size == len(list(reader.items()))


DIALOGUE = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a red ball"}]


@pytest.mark.parametrize(
    "columns",
    [
        {"conversations": [DIALOGUE, DIALOGUE * 2, DIALOGUE]},
        {
            "conversations": [DIALOGUE, DIALOGUE * 2, DIALOGUE],
            "status": ["success", "success", "failed_to_download"],
        },
        {"caption": ["a", "", None]},
        {"colour": ["a", "b", "c"]},
        {"colour": ["a", "b", "c"], "status": ["success"] * 3},
        {"url": ["http://a"] * 3, "colour": ["a", "b", "c"]},
    ],
)
def test_parquet_knows_what_reading_it_yields_whatever_is_skipped(tmp_path, columns):
    path = tmp_path / "0.parquet"
    pq.write_table(pa.table({"image": [*map(jpeg, range(3))]} | columns), path)
    assert shard_reader(str(path)).count() == len(list(shard_reader(str(path)).items()))


def test_the_tables_that_img2dataset_leaves_beside_its_tars_are_no_shards(tmp_path, collator):
    write_shards(tmp_path, ("tar",))
    for number, size in enumerate(SIZES):
        rows = [{"key": str(i), "caption": "a", "status": "success"} for i in range(size)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{number:05}.parquet")
    assert find_shards(str(tmp_path)) == find_shards(f"{tmp_path}/*.tar")
    # Named by a pattern of their own they hold no pair, and are known not to.
    tables = find_shards(f"{tmp_path}/*.parquet")
    assert [shard_reader(shard).count() for shard in tables] == [0] * 6
    shards = find_shards(f"{tmp_path}/*.tar") + tables
    whole = read(StreamedPairs(shards, CONFIG, 4, "both"), collator)
    resumed = read(StreamedPairs(shards, CONFIG, 4, "both"), collator, start_step=7)
    assert resumed == whole[7:]


def test_a_shard_without_pairs_that_a_lane_meets_again_and_again_stops_no_run(tmp_path, collator):
    tar(tmp_path / "0.tar", 0, 2)
    tar(tmp_path / "1.tar", 0, 0)
    assert len(names(read(stream(tmp_path), collator, steps=100))) == 300


def test_going_on_opens_only_what_it_needs(folder, monkeypatch):
    opened = []
    original = streaming.shard_reader
    dataset = stream(folder)

    def reader(shard):
        opened.append(shard)
        return original(shard)

    monkeypatch.setattr(streaming, "shard_reader", reader)
    dataset[0, 0]
    assert len(opened) <= 3


def test_object_stores_and_addresses_are_read_like_folders(collator, folder, tmp_path):
    bucket = UPath("memory://bucket/cc12m")
    bucket.mkdir(parents=True, exist_ok=True)
    expected = read(stream(folder), collator)
    for path in folder.iterdir():
        (bucket / path.name).write_bytes(path.read_bytes())
    assert read(stream("memory://bucket/cc12m/*"), collator) == expected

    handler = functools.partial(QuietHandler, directory=str(write_shards(tmp_path, ("tar",))))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        pattern = f"http://127.0.0.1:{server.server_port}/{{00000..00005}}.tar"
        found = [read(stream(pattern), collator, workers=workers) for workers in (0, 2)]
        server.shutdown()
    assert found[0] == found[1] == read(stream(tmp_path), collator)


def test_data_sets_of_the_hub_are_their_files(monkeypatch):
    """By the hub's file system, which an object store in memory stands for here."""
    bucket = UPath("memory://hub/owner/name/data")
    bucket.mkdir(parents=True, exist_ok=True)
    for name in ("train-00000.parquet", "README.md"):
        (bucket / name).write_bytes(b"")

    def place(text):
        assert text.startswith("hf://datasets/owner/name")
        return UPath(text.replace("hf://datasets", "memory://hub"))

    monkeypatch.setattr(patterns, "_place", place)
    assert [s.rpartition("/")[2] for s in find_shards("hub:owner/name")] == ["train-00000.parquet"]
    assert len(find_shards("hub:owner/name/data/train-*.parquet")) == 1


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


def test_patterns(folder):
    everything = [f"{folder}/{n:05}.{kind}" for n, kind in enumerate([*WRITERS] * 2)]
    assert find_shards(str(folder)) == everything
    assert find_shards(f"{folder}/*.tar") == everything[::3]
    assert find_shards(f"{folder}/0000{{1..4}}.parquet") == [
        f"{folder}/0000{n}.parquet" for n in range(1, 5)
    ]
    ranges = [f"memory://b/{n}.tar" for n in ("08", "09", "10")]
    assert find_shards("memory://b/{08..10}.tar") == ranges
    problems = {f"{folder}/*.zip": "no shards", "nowhere://x": "cannot be listed"}
    if importlib.util.find_spec("s3fs") is None:
        problems["s3://b/{08..10}.tar"] = "Install s3fs"
    for pattern, problem in problems.items():
        with pytest.raises(ValueError, match=problem) as caught:
            find_shards(pattern)
        assert "\n" not in str(caught.value)


def test_bad_pairs_are_replaced_by_others_of_their_chunk(tmp_path, collator, caplog):
    tar(tmp_path / "0.tar", 0, 30, broken=(3, 17))
    dataset = stream(tmp_path)
    found = names(read(dataset, collator, steps=10))
    assert len(found) == 30 and not {"0.tar#3", "0.tar#17"} & set(found)
    assert dataset.counts == {"read": 32, "bad": 2}
    assert "0.tar#17" in caplog.text
    with pytest.raises(BadData, match=r"bad sample 0\.tar#"):
        strict = DataConfig(image_size=16, strict=True)
        read(stream(tmp_path, config=strict), collator, steps=10)


@pytest.mark.parametrize("workers", [0, 1])
def test_strict_stops_at_what_a_shard_says_is_missing(tmp_path, collator, workers):
    parquet(tmp_path / "0.parquet", 0, 5)
    config = DataConfig(image_size=16, strict=True)
    with pytest.raises(BadData, match=r"bad item .*0\.parquet#5: failed_to_download") as caught:
        read(stream(tmp_path, config=config), collator, workers=workers)
    assert "\n" not in str(caught.value)


def test_shards_without_a_pair_stop_the_run_with_one_line(tmp_path, collator):
    tar(tmp_path / "0.tar", 0, 0)
    (tmp_path / "0_stats.json").write_text('{"successes": 2}')
    (tmp_path / "1.parquet").write_bytes(b"PAR1 cut")
    for start_step in (0, 7):
        with pytest.raises(BadData, match="no shard has a usable pair"):
            read(stream(tmp_path), collator, start_step=start_step)
    tar(tmp_path / "0.tar", 0, 30, broken=range(30))
    with pytest.raises(BadData):
        read(stream(tmp_path), collator)


@pytest.mark.parametrize("root", ["", "memory://splits"])
def test_folders_that_tell_splits_are_never_mixed(tmp_path, root, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = UPath(root or tmp_path) / "test set"
    for name in ("train/0.tar", "val/0.tar", "val/deep/1.tar"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"")
    train, *val = (str(place / name) for name in ("train/0.tar", "val/0.tar", "val/deep/1.tar"))
    for pattern in (place, f"{place}/", f"{place}/*/*.tar"):
        with pytest.raises(ValueError, match="a split must be named; there are: train, val"):
            find_shards(str(pattern))
        assert find_shards(f"{pattern}?split=train") == [train]
    assert find_shards(f"{place}?split=val") == find_shards(f"{place}/val") == val
    assert find_shards(f"{place}?split=train+val") == [train, *val]
    if not root:
        assert find_shards("./test set?split=train") == ["test set/train/0.tar"]


def test_what_a_stream_cannot_do_is_said(folder, tmp_path):
    data, first = training_data(DataConfig(train=f"stream:{folder}", image_size=16), 1)
    assert isinstance(data, StreamedPairs)
    _, second = training_data(DataConfig(train=f"stream:{folder}/*.tar", image_size=16), 1)
    assert first != second
    with pytest.raises(ValueError, match="bucket_steps"):
        training_data(DataConfig(train=f"stream:{folder}", bucket_steps=2), 1)
    (tmp_path / "mixture.yaml").write_text(f"stream:{folder}: 1\n")
    with pytest.raises(ValueError, match="cannot contain a stream"):
        training_data(DataConfig(train=str(tmp_path / "mixture.yaml")), 1)
