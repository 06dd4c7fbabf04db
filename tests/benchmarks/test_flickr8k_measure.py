"""The measures of a run against plain computations, on a small random model and noise."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from benchmarks.flickr8k import measure
from benchmarks.flickr8k.word_edits import write_edits
from datasets import Dataset
from small_run import noise, write_run

from vilta.data.samples import PairDataset
from vilta.finished_run import load_run
from vilta.metrics.bootstrap import bootstrap_interval

CAPTIONS = [
    ["Two dogs are running over the snow .", "Dogs outside ."],
    ["A man with a red hat rides a bike .", "A man rides .", "A bike ."],
    ["A boy jumps into a pool .", "Water and a boy ."],
    ["Three women are walking up a street .", "Women in black ."],
]


def picture(seed):
    file = io.BytesIO()
    noise(seed).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    rows = [
        {"image": picture(n), "captions": group, "image_id": f"{n}.png", "source": "test"}
        for n, group in enumerate(CAPTIONS)
    ]
    folder = tmp_path_factory.mktemp("pairs")
    Dataset.from_list(rows).save_to_disk(folder / "val")
    return measure.load_pairs(str(folder / "val")), str(folder / "val")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("run"))
    lines = [{"device": "CPU"}, {"step": 5, "seconds": 90, "epoch": 2.0}]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_rankings_are_those_of_whole_passes(run, pairs, monkeypatch):
    monkeypatch.setattr(measure, "TOP", (4,))  # all photos: every pair is scored
    task, trained, _ = load_run(str(run))
    task.eval()
    table, name = pairs
    with torch.no_grad():
        states = measure.photo_states(task, table, trained.data, name)
        found = measure.rankings(task, table, states)
    texts = [text for group in CAPTIONS for text in group]
    owner = [n for n, group in enumerate(CAPTIONS) for _ in group]
    dataset = PairDataset(table, trained.data, 0, False, name)
    scores = {"contrast": np.zeros((4, 9)), "matching of 4": np.zeros((4, 9))}
    for image in range(4):
        pixels = dataset[0, image].pixels[None]
        for at, text in enumerate(texts):
            tokens = task.tokenizer(text, return_tensors="pt")
            with torch.no_grad():
                out = task.model(tokens["input_ids"], tokens["attention_mask"], pixels)
            cosine = (out.image_embeds @ out.text_embeds.T).item()
            scores["contrast"][image, at] = cosine * task.model.itc_head.scale().item()
            logits = out.match_logits[0]
            scores["matching of 4"][image, at] = (logits[1] - logits[0]).item()
    scores["both of 4"] = scores["contrast"] + scores["matching of 4"]
    for stage, values in scores.items():
        to_text = [owner[values[image].argmax()] == image for image in range(4)]
        to_image = [values[:, at].argmax() == owner[at] for at in range(9)]
        assert found[f"R@1 image to text, {stage}"].values.tolist() == [100 * h for h in to_text]
        assert found[f"R@1 text to image, {stage}"].values.tolist() == [100 * h for h in to_image]
    for stage, values in scores.items():
        shares = np.exp(values) / np.exp(values).sum(axis=0)  # of each text over all four photos
        hits = [100 * (owner[shares[image].argmax()] == image) for image in range(4)]
        title = f"R@1 image to text, of the text's photos, {stage}"
        assert found[title].values.tolist() == hits
    difference = found["R@1 text to image, both of 4 minus contrast"]
    assert difference.photos == [f"{n}.png" for n in owner]
    match = scores["matching of 4"]
    random = [match[o, at] > match[(o + 1) % 4, at] for at, o in enumerate(owner)]
    name = "matching: true photo above a random one"
    assert found[name].values.tolist() == [100 * h for h in random]
    wrong = np.where(np.array(owner) == np.arange(4)[:, None], -np.inf, scores["contrast"])
    hardest = [match[o, at] > match[o, wrong[o].argmax()] for at, o in enumerate(owner)]
    name = "matching: true text above the likeliest wrong one of 100 photos"
    assert found[name].values.tolist() == [100 * h for h in hardest]


def test_masked_words_are_content_words_of_their_photo(run, pairs):
    task, trained, _ = load_run(str(run))
    task.eval()
    found = measure.masked_words(task, pairs[0], trained.data, pairs[1])
    first = found["masked content words, with the photo"]
    assert set(first.photos) <= {f"{n}.png" for n in range(4)} and len(first.photos) >= 6
    for each in found.values():
        assert each.photos == first.photos and len(each.values) == len(first.photos)
    minus = found["masked content words, photo minus wrong photo"].values
    wrong = found["masked content words, with a wrong photo"].values
    assert np.array_equal(minus, first.values - wrong)
    captions = [CAPTIONS[0], *[["And are of the"]] * 3]
    others = pairs[0].remove_columns("captions").add_column("captions", captions)
    found = measure.masked_words(task, others, trained.data, pairs[1])
    assert set(found["masked content words, with the photo"].photos) == {"0.png"}


def test_edits_by_the_masked_word_are_those_of_single_passes(run, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "BATCH", 3)
    task, trained, _ = load_run(str(run))
    task.eval()
    edits = tmp_path / "edits.csv"
    write_edits(pairs[0].select_columns(["image_id", "captions"]), edits)
    rows = list(csv.DictReader(edits.open()))
    with torch.no_grad():
        states = measure.photo_states(task, pairs[0], trained.data, pairs[1])
        found = measure.edits_by_word(task, pairs[0], states, edits)
    model, dataset = task.model, PairDataset(pairs[0], trained.data, 0, False, pairs[1])

    def log_p(text, other, image):
        mine, others = text.split(), other.split()
        (at,) = (n for n, word in enumerate(mine) if word != others[n])
        pieces = [task.tokenizer.tokenize(word) for word in mine]
        begin = 1 + sum(map(len, pieces[:at]))  # after [CLS]
        places = list(range(begin, begin + len(pieces[at])))
        ids = task.tokenizer(text)["input_ids"]
        word = [ids[place] for place in places]
        for place in places:
            ids[place] = task.tokenizer.mask_token_id
        tokens = torch.tensor([ids])
        states = model.vilta.encode_text(tokens, torch.ones_like(tokens))
        if image is None:
            logits = model.predict_words_from_text(states[0, places])
        else:
            seen = model.vilta.encode_image(dataset[0, image].pixels[None])
            fused = model.vilta.fuse(states, torch.ones_like(tokens), seen).text
            logits = model.predict_words(fused[0, places], states[0, places])
        return logits.log_softmax(dim=1)[range(len(word)), word].sum().item()

    images = {"with the photo": 0, "with a wrong photo": 1, "text alone": None}
    for title, shift in images.items():
        expected = []
        for row in rows:
            own = int(row["image"].split(".")[0])
            image = None if shift is None else (own + shift) % 4
            with torch.no_grad():
                caption, edit = (
                    log_p(row[a], row[b], image)
                    for a, b in (("caption", "edit"), ("edit", "caption"))
                )
            expected.append(100.0 * (caption > edit))
        items = found[f"one-word edits by the masked word, {title}"]
        assert items.values.tolist() == expected and 0 < sum(expected) < 100 * len(rows)
        assert items.photos == [row["image"] for row in rows]


def test_shares_are_of_the_likeliest_photos_of_each_text():
    similarity, scores = torch.randn(2, 6, 4)
    shares = measure.of_its_photos(scores, similarity, 2)
    for text in range(4):
        first = similarity[:, text].argsort(descending=True)[:2]
        assert shares[first, text].exp().sum().item() == pytest.approx(1.0)
        moved = scores[:, text] - shares[:, text]
        assert torch.allclose(moved, moved[0])  # the photos of a text keep their order


def test_the_part_that_differs():
    assert measure.differing(["a", "red", "hat"], ["a", "blue", "hat"]) == slice(1, 2)
    assert measure.differing(["a", "b", "c", "d"], ["a", "x", "y", "d"]) == slice(1, 3)
    assert measure.differing(["a", "b", "b", "c"], ["a", "b", "c"]) == slice(2, 3)
    assert measure.differing(["a", "b"], ["a", "b"]) == slice(2, 2)


def test_two_runs_are_averaged_item_by_item(run, pairs, tmp_path, capsys, monkeypatch):
    out = tmp_path / "measures.json"
    arguments = ["measure", str(run), str(run), "--data", pairs[1], "--out", str(out)]
    monkeypatch.setattr("sys.argv", arguments)
    measure.main()
    result = json.loads(out.read_text())
    assert result["items"] == 4 and result["minutes"] == 3.0
    edits = tmp_path / "edits.csv"
    write_edits(pairs[0].select_columns(["image_id", "captions"]), edits)
    found = measure.word_edits(str(run), pairs[1], edits, torch.device("cpu"))
    for title, items in found.items():
        expected = bootstrap_interval(items.photos, items.values)._asdict()
        assert result["intervals"][title] == pytest.approx(expected)
    kinds = [title for title in result["intervals"] if title.startswith("one-word edits: above, ")]
    assert {"noun", "colour", "number", "verb", "preposition"} >= {k.split(", ")[1] for k in kinds}
    assert "one-word edits: another caption minus caption accepted" in capsys.readouterr().out
