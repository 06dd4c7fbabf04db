import sys
from functools import partial

import pytest
import torch
from task_case import make_task
from tiny_models import CAPTIONS, tiny_tokenizer

from vilta.config import DataConfig
from vilta.config.finetune import TaskSettings
from vilta.data import parts_of_speech as tagger
from vilta.data.collate import PairCollator
from vilta.data.loading import evaluation_loader
from vilta.data.parts_of_speech import parts_of_speech
from vilta.evaluation.masked_words import masked_word_logits
from vilta.objectives.masking import mask_words
from vilta.objectives.vocabulary import read_vocabulary
from vilta.tasks.masked_words import MaskedWords as Task
from vilta.types import Sample

SCENES = "scenes:8?seed=4&size=32"
MANY_SCENES = "scenes:40?seed=4&size=32"


def case(folder, scenes=SCENES):
    items = Task.read(scenes, "", TaskSettings())
    task = make_task(Task, items, folder)
    data = task.dataset(items, DataConfig(image_size=32, max_text_tokens=24), 0, train=False)
    return task, evaluation_loader(data, task.collator(24), batch_size=3)


def test_figures_add_up_by_a_slow_count(tmp_path):
    task, loader = case(tmp_path)
    rights = {}
    for batch in loader:
        logits = masked_word_logits(task.model, batch)
        for i, part in enumerate(task.parts(batch)):
            word = batch.input_ids.flatten()[batch.masked_positions[i]]
            hits = []
            for view in ("with_image", "text_only"):
                order = logits[view][i].argsort(descending=True)[:5].tolist()
                hits += [order[0] == word, word in order]
            for key in (part, "all"):
                rights.setdefault(key, []).append([float(h) for h in hits])
    metrics = task.evaluate(task.predict(loader), None)
    for part, rows in rights.items():
        prefix = "" if part == "all" else f"{part}/"
        image1, _image5, text1, text5 = (100 * torch.tensor(rows).mean(0)).tolist()
        assert metrics[f"{prefix}with_image/top1"] == pytest.approx(image1)
        assert metrics[f"{prefix}text_only/top5"] == pytest.approx(text5)
        assert metrics[f"{prefix}gain/top1"] == pytest.approx(image1 - text1)
        assert metrics[f"{prefix}count"] == len(rows)
    assert metrics["count"] == sum(len(r) for p, r in rights.items() if p != "all")


@pytest.mark.parametrize("kind", ["wordpiece", "byte-bpe"])
def test_all_pieces_of_a_word_have_its_part(tmp_path, kind):
    items = Task.read(SCENES, "", TaskSettings())
    task = make_task(Task, items, tmp_path)
    task.tokenizer = tokenizer = tiny_tokenizer(kind)
    task.tag = lambda words: [word.lower() for word in words]  # a part for each word
    mask = partial(mask_words, vocabulary=read_vocabulary(tokenizer, len(tokenizer)))
    collator = PairCollator(tokenizer, 60, mask, 0)
    samples = [
        Sample(
            pixels=torch.zeros(3, 8, 8, dtype=torch.uint8),
            caption=caption,
            image_id=str(i),
            image_hash=i,
            index=i,
            epoch=0,
            name=str(i),
        )
        for i, caption in enumerate(CAPTIONS)
    ]
    batch = collator(samples)
    parts = task.parts(batch)
    assert len(parts) == len(batch.masked_positions) > len(CAPTIONS)  # some are pieces
    words = {w for caption in CAPTIONS for w in caption.replace("'", " ").replace(",", "").split()}
    width = batch.input_ids.shape[1]
    of_word = {}
    for position, part in zip(batch.masked_positions.tolist(), parts, strict=True):
        row, place = divmod(position, width)
        of_word.setdefault((row, int(batch.word_ids[row, place])), set()).add(part)
    assert all(len(found) == 1 for found in of_word.values())
    assert {next(iter(found)) for found in of_word.values()} <= words | {"'", ","}


def test_scenes_have_the_classes_of_their_grammar(tmp_path):
    task, loader = case(tmp_path, MANY_SCENES)
    found = {part for batch in loader for part in task.parts(batch)}
    assert found <= {"colour", "shape", "size", "texture", "relation", "count", "other"}
    assert {"colour", "relation", "count"} <= found  # the tiny tokenizer knows few shapes


def test_an_english_sentence():
    words = ["the", "brown", "dog", "is", "running", "through", "tall", "grass", "with", "two"]
    tags = dict(zip(words, parts_of_speech(words), strict=True))
    assert tags["dog"] == tags["grass"] == "noun"
    assert tags["running"] == "verb"
    assert tags["tall"] == "adjective"
    assert tags["through"] == "preposition"
    assert tags["two"] == "number"


def test_without_the_tagger_the_error_says_what_to_install(monkeypatch):
    tagger._tagger.cache_clear()
    monkeypatch.setitem(sys.modules, "HanTa.HanoverTagger", None)
    with pytest.raises(ValueError, match=r"pip install 'vilta\[pos\]'"):
        parts_of_speech(["dog"])
    tagger._tagger.cache_clear()


def test_there_is_nothing_to_fine_tune(tmp_path):
    task, loader = case(tmp_path)
    with pytest.raises(ValueError, match="measured, not trained"):
        task(next(iter(loader)))
