"""`vilta clean` and `vilta negatives` on a tiny random run."""

import json
import shutil

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from small_run import noise, write_run
from tiny_models import CAPTIONS

from vilta import Matcher
from vilta.commands import clean, negatives
from vilta.commands.inspect import next_command as inspect_next
from vilta.config import ObjectiveConfig
from vilta.config.apps import CleanConfig, NegativesConfig
from vilta.config.tools import InspectConfig
from vilta.data.sources import find_reader, load_pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Six images, one of them broken, with two captions each."""
    folder = tmp_path_factory.mktemp("pairs")
    for index in range(6):
        noise(index).save(folder / f"{index}.png")
        texts = [CAPTIONS[index], CAPTIONS[(index + 1) % 8]]
        (folder / f"{index}.txt").write_text("\n".join(texts))
    (folder / "5.png").write_bytes(b"\x89PNG broken")
    return str(folder)


def read(path):
    return pyarrow.parquet.read_table(path).to_pylist()


def test_clean_ranks_every_pair_by_contrast_and_matching(tiny_run, pairs, tmp_path, capsys):
    out = tmp_path / "out"
    clean.run(str(tiny_run), pairs, CleanConfig(out=str(out), batch_size=4, json=True))
    summary, found = json.loads(capsys.readouterr().out), read(out / "pairs.parquet")
    assert summary["pairs"] == len(found) == 12 and summary["broken"] == 2
    broken = [f for f in found if f["probability"] is None]
    assert {f["image_id"] for f in broken} == {"5.png"} and broken[0]["reason"]
    matcher = Matcher(tiny_run, device="cpu")
    scale = matcher.model.itc_head.scale().item()
    scores = [f["score"] for f in found if f["score"] is not None]
    assert scores == sorted(scores) and found[:2] == broken
    for line in found[2:]:
        image = f"{pairs}/{line['image_id']}"
        odds = float(matcher.log_odds(image, line["caption"])[0])
        cosine = float((matcher.embed_images(image) * matcher.embed_texts(line["caption"])).sum())
        assert line["score"] == pytest.approx(odds + scale * cosine, abs=1e-3)
        assert line["probability"] == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-4)
    html = (out / "worst.html").read_text(encoding="utf-8")
    assert "by matching and contrast together" in html  # the percentages are in no order
    assert html.count("<img") == 10 and html.count('class="card"') == 12


def test_clean_keeps_what_matches(tiny_run, pairs, tmp_path, capsys):
    everything = tmp_path / "all"
    clean.run(str(tiny_run), pairs, CleanConfig(out=str(everything)))
    found = [f for f in read(everything / "pairs.parquet") if f["probability"] is not None]
    bar = sorted(f["probability"] for f in found)[4]
    out = tmp_path / "out"
    capsys.readouterr()
    clean.run(str(tiny_run), pairs, CleanConfig(out=str(out), keep_above=bar, json=True))
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert f"what is left in {out / 'kept'}" in said.err
    assert told[f"below_{bar:g}"] == told["pairs"] - told["broken"] - told["kept_pairs"] == 4
    kept = load_pairs(str(out / "kept"))  # as training reads it
    wanted = {(f["image_id"], f["caption"]) for f in found if f["probability"] >= bar}
    assert {(row["image_id"], c) for row in kept for c in row["captions"]} == wanted
    assert kept.features == load_pairs(pairs).features
    reader = find_reader(str(out / "kept"))
    assert (reader.what, reader.total) == ("packed pairs", told["kept_images"])
    assert inspect_next(str(out / "kept"), InspectConfig()).startswith("vilta pretrain ")
    table = load_pairs(pairs).cast_column("image", datasets.Image(decode=False))
    image_bytes = {row["image_id"]: row["image"]["bytes"] for row in table}
    kept = kept.cast_column("image", datasets.Image(decode=False))
    assert all(row["image"]["bytes"] == image_bytes[row["image_id"]] for row in kept)


def test_clean_writes_its_folder_whole(tiny_run, pairs, tmp_path, monkeypatch, capsys):
    """Stopped in its last step it can be given again; with nothing to keep, the table is kept."""
    out = tmp_path / "out"
    config = CleanConfig(out=str(out), keep_above=0.0001)
    with monkeypatch.context() as patched:

        def stop(*_, **__):
            raise KeyboardInterrupt

        patched.setattr(datasets.Dataset, "save_to_disk", stop)
        with pytest.raises(KeyboardInterrupt):
            clean.run(str(tiny_run), pairs, config)
    assert not out.exists()
    clean.run(str(tiny_run), pairs, config)
    assert {path.name for path in out.iterdir()} == {"pairs.parquet", "worst.html", "kept"}
    with pytest.raises(ValueError, match="lower --keep-above"):
        clean.run(str(tiny_run), pairs, CleanConfig(out=str(tmp_path / "none"), keep_above=1.0))
    assert len(read(tmp_path / "none" / "pairs.parquet")) == 12


def test_negatives_change_one_word_and_say_why(tiny_run, pairs, tmp_path, capsys):
    out = tmp_path / "negatives.parquet"
    config = NegativesConfig(out=str(out), per_caption=3, json=True, device="cpu")
    negatives.run(str(tiny_run), pairs, config)
    summary, found = json.loads(capsys.readouterr().out), read(out)
    assert summary["negatives"] == len(found) > 0 and summary["captions"] == 12
    matcher = Matcher(tiny_run, device="cpu")
    for line in found:
        caption, start, end = line["caption"], line["start"], line["end"]
        assert caption[start:end] == line["word"] != line["instead"]
        assert line["negative"] == caption[:start] + line["instead"] + caption[end:]
        assert line["image_id"] != "5.png" and line["filter"] == "grounded"
        for name in ("text_probability", "image_probability", "word_image_probability", "match"):
            assert 0 <= line[name] <= 1
        chance = matcher.match(f"{pairs}/{line['image_id']}", line["negative"])
        assert line["negative_match"] == pytest.approx(float(chance[0]), abs=1e-3)
    assert len({(f["image_id"], f["negative"]) for f in found}) == len(found)
    card = (tmp_path / "negatives-card.md").read_text()
    assert (
        f"{len(found):,} negatives, each a caption with" in card and '"negatives.parquet"' in card
    )
    again = tmp_path / "again.parquet"
    config = NegativesConfig(out=str(again), per_caption=3, device="cpu")
    negatives.run(str(tiny_run), pairs, config)
    assert read(again) == found
    assert "-> " in capsys.readouterr().out


def test_negatives_need_the_matching_that_scores_them(pairs, tmp_path):
    run, out = write_run(tmp_path / "run", ranking="contrastive"), tmp_path / "negatives.parquet"
    with pytest.raises(ValueError, match=r"this needs matching, but \S*run was trained without"):
        negatives.run(str(run), pairs, NegativesConfig(out=str(out)))
    assert not out.exists()


def test_a_negative_is_written_and_scored_as_it_reads(pairs, tmp_path):
    """Of a run that changes several words at once too, and at the beginning of a sentence."""
    objective = ObjectiveConfig(
        soft_labels="none",
        filter_ratio=1e9,
        teacher_filter_ratio=0.0,
        max_changes=3,
        content_weight=1.0,
    )
    # A low temperature sets the scores apart, so that a wrong one is seen within the tolerance.
    run = write_run(tmp_path / "run", objective=objective, match_temperature=0.2)
    data = shutil.copytree(pairs, tmp_path / "data")
    for index in range(6):
        (data / f"{index}.txt").write_text(f"{CAPTIONS[0]} and {CAPTIONS[1]}.".title())
    out = tmp_path / "negatives.parquet"
    negatives.run(str(run), str(data), NegativesConfig(out=str(out), per_caption=4, filter="none"))
    matcher, found = Matcher(run, device="cpu"), read(out)
    for line in found:
        assert line["word"][0].isupper() and line["instead"][0].isupper()
        assert line["negative"].startswith(line["caption"][: line["start"]] + line["instead"])
        chance = matcher.match(data / line["image_id"], line["negative"])
        assert line["negative_match"] == pytest.approx(float(chance[0]), abs=1e-4)
    assert len(found) > 20 and np.ptp([line["negative_match"] for line in found]) > 0.01


@pytest.mark.parametrize(
    ("run", "config", "words"),
    [
        (clean, CleanConfig(), "--out must name the folder"),
        (clean, CleanConfig(out="x", keep_above=1.5), "keep_above is 1.5; choose 0 to 1"),
        (clean, CleanConfig(out="PAIRS"), "exists and is not an empty folder"),
        (negatives, NegativesConfig(), "--out must name a Parquet file"),
        (
            negatives,
            NegativesConfig(out="x.parquet", per_caption=0),
            "per_caption is 0",
        ),
        (negatives, NegativesConfig(out="x.parquet", filter="soft_label"), "no teacher"),
        (negatives, NegativesConfig(out="x.parquet", min_match=1.0), "no negatives: the filter or"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(tiny_run, pairs, run, config, words, monkeypatch):
    if config.out == "PAIRS":
        config = CleanConfig(out=pairs)
    with pytest.raises(ValueError, match=words):
        run.run(str(tiny_run), pairs, config)
