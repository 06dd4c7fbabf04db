import pytest
import torch
from task_case import loader_of, make_task

from vilta.config import DataConfig
from vilta.evaluation.retrieval import (
    encode_gallery,
    match_scores,
    retrieval_metrics,
)
from vilta.tasks.retrieval import ImageTextRetrieval as Task
from vilta.tasks.retrieval import RetrievalSettings, split_gallery

SCENES = "scenes:9?seed=4&size=32"


def task_of(folder, **settings):
    items = Task.read(SCENES, "", RetrievalSettings())
    return make_task(Task, items, folder, **settings), items


def gallery_of(task, loader):
    captions = loader.dataset.table["captions"]
    return encode_gallery(task.model, task.tokenizer, task.predict(loader), captions)


def test_folds_keep_each_image_with_its_own_texts(tmp_path):
    task, items = task_of(tmp_path)
    whole = gallery_of(task, loader_of(task, items))
    parts = split_gallery(whole, 2)
    assert [len(part.image_states) for part in parts] == [5, 4]
    start = 0
    for part in parts:
        assert part.relevant.sum(1).tolist() == [5] * len(part.image_states)
        assert part.relevant.any(0).all()
        rows, columns = slice(start, start + len(part.image_states)), slice(5 * start, None)
        expected = whole.similarity[rows, columns][:, : part.similarity.shape[1]]
        assert torch.equal(part.similarity, expected)
        start += len(part.image_states)
    with pytest.raises(ValueError, match="9 images cannot be cut into 10 folds"):
        split_gallery(whole, 10)


def test_figures_are_those_of_retrieval_and_folds_are_averaged(tmp_path):
    task, items = task_of(tmp_path, full=True)
    loader = loader_of(task, items)
    whole = gallery_of(task, loader)
    every = torch.ones_like(whole.relevant)
    expected = retrieval_metrics(
        whole.similarity, match_scores(task.model, whole, every), whole.relevant
    )
    metrics = task.evaluate(task.predict(loader), items)
    for stage, ways in expected.items():
        for way, values in ways.items():
            for name, value in values.items():
                assert metrics[f"{stage}/{way}/{name}"] == pytest.approx(value)
    folded, _ = task_of(tmp_path, full=True, folds=3)
    parts = [folded._figures(part) for part in split_gallery(whole, 3)]
    mean = sum(part["combined/text_to_image/R@1"] for part in parts) / 3
    assert folded.evaluate(folded.predict(loader), items)[
        "combined/text_to_image/R@1"
    ] == pytest.approx(mean)


def test_each_stage_has_its_own_mean_and_the_choice_is_by_the_best(tmp_path):
    task, items = task_of(tmp_path)
    metrics = task.evaluate(task.predict(loader_of(task, items)), items)
    means = []
    for stage in ("contrastive", "matching", "combined"):
        values = [v for n, v in metrics.items() if n.startswith(f"{stage}/") and "R@" in n]
        assert len(values) == 6
        assert metrics[f"{stage}/mean_recall"] == pytest.approx(sum(values) / 6)
        means.append(sum(values) / 6)
    assert metrics["mean_recall"] == pytest.approx(max(means))


@pytest.mark.parametrize("ranking", ["contrastive", "matching"])
def test_a_model_with_one_trained_head_is_measured_by_it_alone(tmp_path, ranking):
    task, items = task_of(tmp_path, top_k=1)
    task.model.config.ranking = ranking
    loader = loader_of(task, items)
    whole = gallery_of(task, loader)
    match = match_scores(task.model, whole, torch.ones_like(whole.relevant))  # no first stage
    expected = retrieval_metrics(whole.similarity, match, whole.relevant)[ranking]
    metrics = task.evaluate(task.predict(loader), items)
    for way, values in expected.items():
        for name, value in values.items():
            assert metrics.pop(f"{ranking}/{way}/{name}") == pytest.approx(value)
    assert metrics.keys() == {f"{ranking}/mean_recall", "mean_recall"}


def test_pairs_hold_their_images_and_a_first_stage_proposes_something(tmp_path):
    with pytest.raises(ValueError, match=r"contains its own images; drop --data\.images"):
        Task.read("scenes:4?seed=1&size=32", "photos", RetrievalSettings())
    task, items = task_of(tmp_path, top_k=0)
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        task.evaluate(task.predict(loader_of(task, items)), items)


def test_a_step_has_a_gradient_for_both_heads(tmp_path):
    task, items = task_of(tmp_path)
    batch = next(iter(loader_of(task, items, 4)))
    losses = task.train()(batch)
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert {"itc", "itm", "itm/accuracy_true"} <= losses.metrics.keys()
    assert task.model.itm_head.out.weight.grad.abs().sum() > 0


def test_one_image_alone_has_no_negative_and_no_crash(tmp_path):
    task, items = task_of(tmp_path)
    batch = next(iter(loader_of(task, items, 1)))
    losses = task(batch)
    losses.total.backward()
    assert losses.metrics["itm/loss_other_text"].isnan()
    assert losses.metrics["itc"] == losses.metrics["itm"] == 0, "it has nothing to tell apart"


def test_blind_retrieval_is_refused(tmp_path):
    task, items = task_of(tmp_path)
    with pytest.raises(ValueError, match=r"retrieval needs images; drop --data\.blind"):
        task.dataset(items, DataConfig(), 0, train=True, blind=True)
