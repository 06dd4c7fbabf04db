"""The oracle's metrics: for answers whose score is known, and the passes beneath them."""

from random import Random

import pytest
import torch
from pretraining_case import TOKENIZER
from tiny_models import pixels_of, tiny_vilta

from vilta.config import DataConfig
from vilta.data.collate import PairCollator
from vilta.data.loading import evaluation_loader
from vilta.data.samples import PairDataset
from vilta.data.sources import load_pairs
from vilta.evaluation import scenes
from vilta.evaluation.scenes import caption_scores, filled_words, negative_truth
from vilta.model.language_model import new_tokenizer
from vilta.objectives.hard_negatives import SynthesisedNegatives
from vilta.scenes import is_true, one_word_edits, scene_from_id, vocabulary, word_class

SCENES = 60
COLOURS = [word for word in vocabulary() if word_class(word) == "colour"]
WORDS = new_tokenizer([" ".join([*vocabulary(), ",", ":", "."])] * 2, 400)


@pytest.fixture(scope="module")
def loader():
    config = DataConfig(train="", image_size=32, max_text_tokens=40)
    data = PairDataset(load_pairs(f"scenes:{SCENES}?seed=5&size=32"), config, 0, False, "scenes")
    collator = PairCollator(WORDS, 40, lambda ids, words, noise: (ids, words == 0), 0)
    return evaluation_loader(data, collator, batch_size=16, workers=0)


@pytest.fixture
def metrics(loader, monkeypatch):
    """Score answers that know the oracle: ``score`` and ``fill`` see the scene that is shown."""
    table = loader.dataset.table
    known = [scene_from_id(image_id) for image_id in table["image_id"]]
    model = tiny_vilta()

    def evaluate(score=lambda scene, caption: 0.0, fill=lambda scene, caption: ""):
        rows = iter(range(SCENES))

        def shown(image, captions):
            return zip((known[int(row)] for row in image.flatten()), captions, strict=True)

        def scores(model, tokenizer, image, captions):
            return torch.tensor([score(*each) for each in shown(image, captions)])

        def words(model, tokenizer, image, captions):
            return [fill(*each) for each in shown(image, captions)]

        monkeypatch.setattr(scenes, "caption_scores", scores)
        monkeypatch.setattr(scenes, "filled_words", words)
        # In place of an image's states stands the number of its row.
        monkeypatch.setattr(
            model.vilta,
            "encode_image",
            lambda pixels: torch.tensor([[[next(rows)]] for _ in pixels]),
        )
        return scenes.scene_metrics(model, WORDS, table, loader)

    return evaluate


def true_colour(scene, caption):
    return next((c for c in COLOURS if is_true(scene, caption.replace("[MASK]", c))), "red")


def false_colour(scene, caption):
    return next(c for c in COLOURS if not is_true(scene, caption.replace("[MASK]", c)))


def test_who_knows_the_truth_scores_100(metrics):
    found = metrics(lambda scene, caption: 1.0 if is_true(scene, caption) else -1.0, true_colour)
    assert found.pop("colour_wrong_image") < 50
    assert found == dict.fromkeys(["colour", "edit", "edit_rejected", "paraphrase"], 100.0)


def test_who_says_the_opposite_scores_0(metrics):
    found = metrics(lambda scene, caption: -1.0 if is_true(scene, caption) else 1.0, false_colour)
    assert found.pop("colour_wrong_image") > 0  # false of the picture shown, and by luck true
    assert found == dict.fromkeys(["colour", "edit", "edit_rejected", "paraphrase"], 0.0)


def test_who_always_says_the_same_earns_nothing_by_comparing(metrics):
    assert set(metrics().values()) == {0.0}
    yes = metrics(lambda scene, caption: 1.0)
    assert yes["edit"] == 0 and yes["edit_rejected"] == 0 and yes["paraphrase"] == 100
    shape = metrics(fill=lambda scene, caption: "circle")
    assert shape["colour"] == 0


@pytest.mark.parametrize(("images", "count"), [([0], 0), ([0, 0, 1], 2), ([0, 1], 2)])
def test_only_another_scene_is_a_wrong_image(loader, monkeypatch, images, count):
    """Of each picture and its neighbour only those of two scenes are asked about."""
    rows = loader.dataset.table.select(images)
    asked = []

    def fill(model, tokenizer, image, captions):
        asked.append(len(captions))
        return ["" for _ in captions]

    monkeypatch.setattr(scenes, "filled_words", fill)
    batch = PairCollator(WORDS, 40, None, 0)([loader.dataset[0, i] for i in images])
    found = scenes.scene_metrics(tiny_vilta(), TOKENIZER, rows, [batch])
    assert asked == [len(images), *([count] if count else [])]
    assert ("colour_wrong_image" in found) == bool(count)


def test_verdicts_on_negatives(loader):
    """Of four rows one keeps its caption, one is edited, one is no sentence, one has none."""
    table = loader.dataset.table
    rows = iter(table)
    rng = Random(0)

    def write(batch):
        texts, valid = [], []
        for place, row in enumerate(next(rows) for _ in batch.names):
            caption = row["captions"][0]
            edit = one_word_edits(scene_from_id(row["image_id"]), caption, rng)[0]
            texts.append([caption, edit, "red red on", caption][place % 4])
            valid.append(place % 4 < 3)
        ids = WORDS(texts, padding=True, return_tensors="pt")["input_ids"]
        return SynthesisedNegatives(
            input_ids=ids,
            changed=torch.zeros_like(ids, dtype=torch.bool),
            valid=torch.tensor(valid),
            removed=torch.tensor(0.0),
        )

    found = negative_truth(table, loader, WORDS, write)
    third = pytest.approx(100 / 3)
    assert found == {"generated": 75.0, "still_true": third, "false": third, "no_sentence": third}


@pytest.mark.parametrize("kind", ["co-attention", "cross-attention", "text-layers"])
def test_scores_and_fillings_equal_passes_of_one_pair(kind):
    model = tiny_vilta(fusion=kind)
    pixels = pixels_of(3)
    captions = ["a red [MASK]", "a green cube near the [MASK] ball on grass", "[MASK]"]
    with torch.no_grad():
        image = model.vilta.encode_image(pixels)
        scores = caption_scores(model, TOKENIZER, image, captions)
        words = filled_words(model, TOKENIZER, image, captions)
        for i, caption in enumerate(captions):
            tokens = TOKENIZER(caption, return_tensors="pt")
            out = model(tokens["input_ids"], tokens["attention_mask"], pixels[i : i + 1])
            no, yes = out.match_logits[0]
            assert scores[i].item() == pytest.approx((yes - no).item(), abs=1e-4)
            at = tokens["input_ids"][0].tolist().index(TOKENIZER.mask_token_id)
            states = out.last_hidden_state[0, at][None], out.text_states[0, at][None]
            best = model.predict_words(*states).argmax().item()
            assert words[i] == TOKENIZER.decode([best]).strip()


def test_a_gap_that_was_cut_away_is_filled_with_nothing():
    model = tiny_vilta(max_text_tokens=4)
    with torch.no_grad():
        model.mlm_head.bias[TOKENIZER.convert_tokens_to_ids("boat")] = 1e3
    image = model.vilta.encode_image(pixels_of(2))
    filled = filled_words(model, TOKENIZER, image, ["a a a a a [MASK]", "a [MASK]"])
    assert filled == ["", "boat"]
