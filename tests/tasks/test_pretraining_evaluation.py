from dataclasses import replace

import pytest
import torch
from pretraining_case import make_task

from vilta.config import DataConfig, PretrainConfig
from vilta.config.shipped import find_shipped
from vilta.config.yaml_file import load_yaml
from vilta.data.collate import PairCollator
from vilta.data.loading import evaluation_loader
from vilta.data.samples import PairDataset
from vilta.data.sources import load_pairs
from vilta.metrics.names import flat
from vilta.model.configuration import RANKINGS
from vilta.objectives.masking import mask_words
from vilta.tasks.pretraining_evaluation import evaluate_pretraining


def evaluated(task, loader, **settings):
    return evaluate_pretraining(task, loader, loader.dataset.table, **settings)


def make_loader(task, batch_size):
    config = DataConfig(train="", image_size=32)
    data = PairDataset(load_pairs("scenes:12?seed=5&size=32"), config, 0, False, "scenes")

    def mask(ids, words, noise):
        return mask_words(ids, words, noise, task.words.tables(), rate=0.4)

    return evaluation_loader(
        data, PairCollator(task.tokenizer, 24, mask, 0), batch_size=batch_size, workers=0
    )


def test_figures_follow_the_seed_and_leave_everything_as_it_was():
    task = make_task(filter_ratio=0.9)
    loader = make_loader(task, 4)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    said = []
    first = evaluate_pretraining(
        task, loader, loader.dataset.table, full=True, progress=lambda *what: said.append(what)
    )
    assert torch.equal(torch.get_rng_state(), before) and task.training
    torch.manual_seed(6)
    assert flat(evaluated(task, loader, full=True)) == flat(first)
    assert {"matching and losses", "matching pairs"} <= {what for what, _, _ in said}


def test_parts_are_averages_over_what_they_count_and_accuracies_percentages():
    task = make_task(negatives="off")
    loader = make_loader(task, 5)  # the last batch holds 2
    found = evaluated(task, loader)["validation"]
    task.eval()
    with torch.no_grad():
        seen = [(task(batch).metrics, batch) for batch in loader]
    for name in ("mlm", "text_mlm", "itc"):
        sizes = [len(batch if name == "itc" else batch.masked_positions) for _, batch in seen]
        summed = sum(size * part[name].item() for size, (part, _) in zip(sizes, seen, strict=True))
        assert found[name] == pytest.approx(summed / sum(sizes), rel=1e-5)
    assert 0 <= found["itm/accuracy_true"] <= 100


def test_a_batch_without_a_negative_moves_no_accuracy():
    """The last batch of 11 + 1 has no wrong partner; in batches of one nothing is left to tell."""
    task = make_task(negatives="off")
    with torch.no_grad():
        task.model.itm_head.out.bias.copy_(torch.tensor([1e3, 0.0]))  # always: no match
    found = evaluated(task, make_loader(task, 11))["validation"]
    assert found["itm/accuracy_other_text"] == found["itm/accuracy_other_image"] == 100
    assert found["itm/accuracy_true"] == 0
    found = evaluated(task, make_loader(task, 1))["validation"]
    assert not [name for name in found if "other_" in name]
    assert found["itm/accuracy_true"] == 0


def test_the_best_stage_counts_for_mean_recall():
    task = make_task()
    metrics = evaluated(task, make_loader(task, 12))["retrieval"]
    best = metrics.pop("mean_recall")
    averages = {
        name: sum(sum(way.values()) for way in stage.values()) / 6
        for name, stage in metrics.items()
    }
    assert averages.pop("normalised") > 0, "it is told, and does not count"
    assert best == pytest.approx(max(averages.values())) and averages.keys() == set(RANKINGS)


@pytest.mark.parametrize(
    ("weights", "stage"), [({"itc_weight": 0.0}, "matching"), ({"itm_weight": 0.0}, "contrastive")]
)
def test_an_untrained_head_ranks_nothing(weights, stage):
    """Without contrast matching scores every pair, however few candidates are asked for."""
    task = make_task(**weights)
    loader = make_loader(task, 12)
    whole = evaluated(task, loader, top_k=1)
    found = whole["retrieval"]
    assert set(found) == {stage, "mean_recall"}
    assert ("edit" in whole["scenes"]) == ("paraphrase" in whole["scenes"]) == (stage == "matching")
    assert "colour" in whole["scenes"]
    untrained = task.model.itc_head if stage == "matching" else task.model.itm_head
    with torch.no_grad():
        for weight in untrained.parameters():
            weight.copy_(torch.randn_like(weight))
    assert evaluated(task, loader, top_k=1)["retrieval"] == found
    every = evaluated(make_task(), loader, full=True)["retrieval"]
    assert found[stage] == every[stage]


@pytest.mark.parametrize("preset", ["meter", "albef"])
def test_runs_of_the_presets_are_evaluated_on_scenes(preset):
    """They have no frozen language model, and write no negatives of their own."""
    objective = load_yaml(find_shipped(preset), PretrainConfig).objective
    task = make_task(**vars(replace(objective, queue_size=min(objective.queue_size, 8))))
    found = evaluated(task, make_loader(task, 4))
    assert set(found["negatives"]) == {"none", "grounded"} and "blindness" not in found


def test_names_are_joined_with_slashes():
    assert flat({"a": {"b": 1.0, "c": {"d": 2.0}}, "e": 3.0}) == {
        "a/b": 1.0,
        "a/c/d": 2.0,
        "e": 3.0,
    }
