import collections
import copy

import pytest
import torch
from pretraining_case import CAPTIONS, TOKENIZER, make_batch, make_task, plain_losses
from tiny_models import tiny_vilta
from transformers import AutoModelForPreTraining, AutoProcessor

from vilta.config import ObjectiveConfig, PretrainConfig
from vilta.config.ranges import check_config
from vilta.tasks import pretraining
from vilta.tasks.pretraining import PretrainingTask

KINDS = ["co-attention", "cross-attention", "text-layers"]
SETTINGS = [
    {},
    {"teacher_view": "clean", "temperature": 2.0, "alpha": 0.7},
    {"soft_labels": "none"},
    {"soft_labels": "momentum", "alpha": 0.4},
    {"negatives": "soft_label"},
    {"negatives": "none", "max_changes": 3, "candidates": 4, "negative_temperature": 0.5},
    {"negatives": "off"},
    {"negatives": "off", "soft_labels": "none", "itc_weight": 0.0, "text_mlm_weight": 0.0},
    {"in_batch_negatives": "one", "hardness": 0.3, "word_head": "language_model"},
    {"soft_labels": "momentum", "word_head": "language_model"},
    {"top_k": 3, "alpha": 0.6, "teacher_filter_ratio": 9.0},
    {"min_p": 0.6, "negatives": "none"},
    {"alpha": 0.95, "alpha_ramp_steps": 8},
    {"filter_ratio": 0.7, "synthesised_share": 0.2, "itm_weight": 2.0, "mlm_weight": 0.3},
]


def gradients(task, loss):
    task.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in task.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_stacked_step_equals_plain_passes(kind, settings):
    task = make_task(fusion=kind, **{"filter_ratio": 0.9, "teacher_filter_ratio": 0.5, **settings})
    batch = make_batch(task, images=[0, 1, 2, 1, 4])
    task.after_step()  # a ramp is on its way
    torch.manual_seed(11)
    stacked = task(batch)
    expected = plain_losses(task, batch, seed=11)
    assert stacked.total.dtype == torch.float32
    found = {"total": stacked.total, **stacked.metrics}
    for name, value in expected.items():
        if getattr(task.objective, f"{name}_weight", 1.0) == 0:
            assert name not in found, "nothing is computed for a weight of 0"
            continue
        torch.testing.assert_close(
            found[name].detach(), value.detach(), atol=1e-5, rtol=1e-5, msg=lambda m, n=name: n + m
        )
    if task.objective.negatives != "off":
        assert 0 < found["negatives/share"] <= 1
    grads, plain = gradients(task, stacked.total), gradients(task, expected["total"])
    for name, value in plain.items():
        found = grads.get(name, torch.zeros_like(value))
        torch.testing.assert_close(
            found, value, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(
    ("vision", "text"), [("resnet", "distilbert"), ("swin", "roberta"), ("dinov2", "modernbert")]
)
def test_stacked_step_equals_plain_passes_for_other_towers(vision, text):
    task = make_task(vision, text, pooling="mean", word_head="language_model")
    batch = make_batch(task)
    torch.manual_seed(3)
    losses = task(batch)
    expected = plain_losses(task, batch, seed=3)["total"]
    torch.testing.assert_close(losses.total, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_each_encoder_runs_as_often_as_it_must(settings):
    task = make_task(**settings)
    counts = collections.Counter()
    parts = {
        "image": task.model.vilta.vision,
        "text": task.model.vilta.text.bert,
        "fusion": task.model.vilta.fusion,
    }
    if task.teacher is not None:
        parts["teacher"] = task.teacher.bert
    for name, module in parts.items():
        module.register_forward_hook(lambda *_, n=name: counts.update([n]))
    vocabulary_rows = []
    task.model.mlm_head.register_forward_hook(lambda *a: vocabulary_rows.append(len(a[2])))
    batch = make_batch(task)
    task(batch)
    once = task.objective
    teacher = once.soft_labels == "language_model"  # and the filters read the clean caption
    teacher += once.negatives in ("soft_label", "grounded") and once.teacher_view == "masked"
    assert counts["image"] == 1
    assert counts["text"] == counts["fusion"] == 2
    assert counts["teacher"] == teacher
    assert vocabulary_rows == [len(batch.masked_positions)], "words only at masked positions"


@pytest.mark.parametrize("soft_labels", ["language_model", "momentum"])
def test_teachers_are_frozen_whatever_the_mode(soft_labels):
    task = make_task("resnet", soft_labels=soft_labels)
    frozen = task.teacher if soft_labels == "language_model" else task.momentum_model
    for mode in (True, False, True):
        assert task.train(mode).training is mode
        assert task.model.training is mode
        # The moving average keeps its dropout in training, as in ALBEF.
        assert frozen.training is (mode and soft_labels == "momentum")
        assert not any(m.training for m in frozen.modules() if isinstance(m, torch.nn.BatchNorm2d))
    task(make_batch(task)).total.backward()
    assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())
    theirs = {id(p) for p in frozen.parameters()}
    assert not theirs & {id(p) for group in task.parameter_groups().values() for p in group}


def test_teacher_that_drops_out_in_training_does_not_here():
    task = make_task(soft_labels="language_model")
    for module in task.teacher.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    batch = make_batch(task)
    assert torch.equal(task.train().soft_labels(batch), task.soft_labels(batch))


def snapshot(task):
    state = {f"saved {k}": v.clone() for k, v in task.state_dict().items()}
    return state | {k: v.clone() for k, v in task.named_buffers()}


@pytest.mark.parametrize("vision", ["vit", "resnet"])
@pytest.mark.parametrize("soft_labels", ["language_model", "momentum"])
def test_forward_changes_nothing(vision, soft_labels):
    task = make_task(vision, soft_labels=soft_labels)
    before = snapshot(task)
    task(make_batch(task)).total.backward()
    after = snapshot(task)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_momentum_copy_follows_in_after_step_alone():
    task = make_task(soft_labels="momentum", momentum=0.9)
    slow = {n: p.clone() for n, p in task.momentum_model.named_parameters()}
    batch = make_batch(task)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1)
    task(batch).total.backward()
    optimizer.step()
    assert all(torch.equal(p, slow[n]) for n, p in task.momentum_model.named_parameters())
    fast = copy.deepcopy(dict(task.model.named_parameters()))
    task.after_step()
    for name, value in task.momentum_model.named_parameters():
        torch.testing.assert_close(value, 0.9 * slow[name] + 0.1 * fast[name])
        assert torch.equal(task.model.get_parameter(name), fast[name])


def test_statistics_of_batch_norms_are_copied_to_the_moving_average():
    task = make_task("resnet", soft_labels="momentum", momentum=0.9)
    fast, slow = dict(task.model.named_buffers()), dict(task.momentum_model.named_buffers())
    names = [name for name in fast if name.endswith(("running_mean", "running_var"))]
    for name in names:
        fast[name].uniform_(1, 2)
        assert not torch.equal(fast[name], slow[name])
    task.after_step()
    assert names and all(torch.equal(fast[name], slow[name]) for name in names)


def test_what_the_filter_takes_out_of_the_student_is_what_was_taught(monkeypatch):
    """The teacher's ``top_k`` words, with the weight that they have at this step of the ramp."""
    asked = []
    inner = pretraining.without_teacher

    def noted(*args, **settings):
        asked.append(settings)
        return inner(*args, **settings)

    monkeypatch.setattr(pretraining, "without_teacher", noted)
    task = make_task(alpha=0.8, alpha_ramp_steps=4, top_k=3, temperature=2.0)
    task.after_step()
    task(make_batch(task))
    (settings,) = asked
    assert float(settings.pop("alpha")) == pytest.approx(0.2)
    assert settings == {"top_k": 3, "temperature": 2.0}


def test_contrast_alone_leaves_the_text_encoder_as_it_is():
    task = make_task(mlm_start=1, itm_start=1)
    task(make_batch(task)).total.backward()
    text = [p.grad for p in task.model.vilta.text.parameters()]
    image = [p.grad for p in task.model.vilta.vision.embeddings.parameters()]
    assert all(gradient is None for gradient in text)
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in image)
    assert task.model.itc_head.text.weight.grad.abs().sum() > 0, "its projection learns"


def test_alpha_rises_with_the_steps_taken():
    task = make_task(alpha=0.8, alpha_ramp_steps=4)
    batch = make_batch(task)
    losses = []
    for _ in range(6):
        losses.append(task(batch).metrics["mlm"].item())
        losses.append(task(batch).metrics["mlm"].item())  # accumulation: no step in between
        task.after_step()
    assert losses[0::2] == losses[1::2]
    none = make_task(soft_labels="none")(batch).metrics["mlm"].item()
    full = make_task(alpha=0.8)(batch).metrics["mlm"].item()
    expected = [none + (full - none) * min(step / 4, 1) for step in range(6)]
    assert losses[0::2] == pytest.approx(expected, rel=1e-4)
    assert "step" in task.state_dict(), "a resumed run goes on with the ramp"


def test_alpha_rises_from_the_start_of_masked_words():
    task = make_task(alpha=0.8, alpha_ramp_steps=4, mlm_start=3, itm_start=3)
    found = []
    for _ in range(9):
        found.append(float(task.ramped_alpha))
        task.after_step()
    assert found == pytest.approx([0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 0.8])


@pytest.mark.parametrize(
    ("settings", "rests"),
    [
        ({"itm_weight": 0.0}, ["itm_head"]),
        ({"itm_weight": 0.0, "mlm_weight": 0.0}, ["itm_head", "mlm_head", "fusion"]),
        ({"itc_weight": 0.0}, ["itc_head"]),
        ({"text_mlm_weight": 0.0, "negatives": "off"}, ["predict_words_from_text"]),
        ({"text_mlm_weight": 0.0, "negative_generator": "frozen"}, ["predict_words_from_text"]),
    ],
    ids=str,
)
def test_a_weight_of_0_computes_nothing(settings, rests, monkeypatch):
    task = make_task(**settings)
    ran = set()
    model = task.model
    for name in ("itm_head", "itc_head", "mlm_head"):
        for method in ("forward", "scale"):
            module, inner = getattr(model, name), getattr(getattr(model, name), method, None)
            if inner is not None:
                monkeypatch.setattr(
                    module, method, lambda *a, f=inner, n=name, **k: (ran.add(n), f(*a, **k))[1]
                )
    model.vilta.fusion.register_forward_hook(lambda *_: ran.add("fusion"))
    inner = model.predict_words_from_text
    monkeypatch.setattr(
        model,
        "predict_words_from_text",
        lambda *a: (ran.add("predict_words_from_text"), inner(*a))[1],
    )
    losses = task(make_batch(task))
    assert losses.total.isfinite()
    everything = {"itm_head", "itc_head", "mlm_head", "fusion", "predict_words_from_text"}
    assert ran == everything - set(rests)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vision", ["vit", "siglip", "dinov2", "swin", "resnet"])
def test_every_weight_learns(kind, vision):
    word_head = "separate" if vision == "vit" else "language_model"
    task = make_task(vision, fusion=kind, word_head=word_head)
    task(make_batch(task)).total.backward()
    idle = {n for n, p in task.model.named_parameters() if p.requires_grad and p.grad is None}
    # Encoders bring parts that pool or mask patches; nobody asks them.
    asked = {n for n in idle if not ("pooler" in n or ".head." in n or "mask_token" in n)}
    assert not asked
    assert all(n.startswith("vilta.vision.") for n in idle)
    silent = {
        n
        for n, p in task.model.named_parameters()
        if p.grad is not None and p.grad.abs().max() == 0
    }
    assert not {n for n in silent if not n.startswith(("vilta.vision.", "vilta.text."))}


@pytest.mark.parametrize("word_head", ["separate", "language_model"])
@pytest.mark.parametrize("kind", KINDS)
def test_parameter_groups(kind, word_head):
    task = make_task(fusion=kind, word_head=word_head)
    task.model.vilta.vision.embeddings.requires_grad_(False)
    groups = task.parameter_groups()
    assert set(groups) == {"encoders", "fusion", "heads"}
    grouped = collections.Counter(id(p) for group in groups.values() for p in group)
    trainable = {n: p for n, p in task.model.named_parameters() if p.requires_grad}
    assert grouped == collections.Counter(id(p) for p in trainable.values())
    where = {id(p): name for name, group in groups.items() for p in group}
    for name, parameter in trainable.items():
        head = name.split(".")[0]
        expected = (
            "heads"
            if head in ("mlm_head", "itm_head", "itc_head")
            else "encoders"
            if name.startswith(("vilta.vision.", "vilta.text."))
            else "fusion"
        )
        assert where[id(parameter)] == expected, name


def test_hardness_grows_from_the_start_of_matching_and_is_whole_in_evaluation():
    task = make_task(hardness=0.8, hardness_ramp_steps=4, itm_start=3).train()
    batch = make_batch(task)
    logged = {}
    for step in range(9):
        assert task.step == task.steps_taken == step
        losses = task(batch)
        logged[step] = losses.metrics.get("negatives/hardness")
        task.after_step()
    assert logged.pop(0) is logged.pop(1) is logged.pop(2) is None, "matching has not begun"
    expected = [0.0, 0.2, 0.4, 0.6, 0.8, 0.8]
    assert [value.item() for value in logged.values()] == pytest.approx(expected)
    task.begin(0)
    assert task.eval()(batch).metrics["negatives/hardness"] == pytest.approx(0.8)


@pytest.mark.parametrize(("name", "value"), [("hardness", -1.0), ("hardness_ramp_steps", -1)])
def test_hardness_below_0_is_refused(name, value):
    with pytest.raises(ValueError, match=f"objective.{name} is {value}; it must be 0 or more"):
        check_config(PretrainConfig(objective=ObjectiveConfig(**{name: value})))


ODD = {
    "one pair": dict(captions=CAPTIONS[:1]),
    "one image": dict(captions=CAPTIONS[:3], images=[2, 2, 2]),
    "one caption": dict(captions=[CAPTIONS[0]] * 3),
    "no words": dict(captions=["", "zz zz"]),
    "one word": dict(captions=["ball", "dog"]),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("negatives", ["grounded", "off"])
def test_odd_batches(name, negatives):
    task = make_task(negatives=negatives)
    batch = make_batch(task, **ODD[name])
    losses = task(batch)
    losses.total.backward()
    assert torch.isfinite(losses.total)
    for part, value in losses.metrics.items():
        of_some = part.startswith("itm/") or part == "negatives/synonyms"
        counted = losses.metric_counts.get(part, 1) if of_some else 1
        assert torch.isfinite(value) == bool(counted), part
        assert not value.requires_grad and value.dim() == 0, part
    for parameter in task.model.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()
    if name.startswith("one ") and name != "one word":
        assert losses.metric_counts["itm/loss_other_text"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_step_under_bf16_autocast(kind):
    task = make_task(fusion=kind)
    batch = make_batch(task)
    exact = task(batch).metrics
    with torch.autocast("cpu", torch.bfloat16):
        losses = task(batch)
    losses.total.backward()
    assert losses.total.dtype == torch.float32
    for name in ("mlm", "text_mlm", "itc"):
        assert losses.metrics[name].item() == pytest.approx(exact[name].item(), rel=0.05)
        assert losses.metrics[name].dtype == torch.float32


def test_some_steps_learn_a_batch():
    task = make_task()
    batch = make_batch(task)
    parameters = [p for group in task.parameter_groups().values() for p in group]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        total = task(batch).total
        total.backward()
        optimizer.step()
        task.after_step()
        losses.append(total.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_matching_that_starts_later():
    task = make_task(itm_start=2)
    always = make_task()
    batch = make_batch(task)
    for step in range(4):
        torch.manual_seed(step)
        early = task(batch)
        torch.manual_seed(step)
        full = always(batch)
        if step < 2:
            assert not any(name.startswith(("itm", "negatives")) for name in early.metrics)
            torch.testing.assert_close(early.total, full.total - full.metrics["itm"])
        else:
            assert torch.equal(early.total, full.total)
        assert "itm" in task.eval()(batch).metrics, "an evaluation matches at any time"
        task.train().after_step()


def test_contrast_alone_comes_first():
    task = make_task(mlm_start=1, itm_start=2, itc_weight=0.5)
    batch = make_batch(task)
    full = make_task(itc_weight=0.5)(batch)
    first = task(batch)
    assert set(first.metrics) == {"itc"}
    torch.testing.assert_close(first.metrics["itc"], full.metrics["itc"])
    torch.testing.assert_close(first.total, 0.5 * full.metrics["itc"])
    task.after_step()
    assert set(task(batch).metrics) == {"mlm", "text_mlm", "itc"}
    task.after_step()
    assert {"mlm", "itm", "negatives/share"} <= set(task(batch).metrics)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mlm_start": 5, "itm_start": 4}, "set it to mlm_start"),
        ({"mlm_start": 5, "itm_start": 5, "itc_weight": 0.0}, "itc_weight above 0"),
    ],
)
def test_starts_out_of_order_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        check_config(PretrainConfig(objective=ObjectiveConfig(**settings)))


@pytest.mark.parametrize(
    "settings", [{"soft_labels": "language_model"}, {"negatives": "soft_label"}]
)
def test_a_teacher_is_asked_for(settings):
    with pytest.raises(ValueError, match="give a teacher"):
        PretrainingTask(tiny_vilta(), TOKENIZER, ObjectiveConfig(**settings))


def test_saved_task_is_loaded_by_the_auto_classes(tmp_path):
    task = make_task()
    task.save_pretrained(str(tmp_path))
    model = AutoModelForPreTraining.from_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    for name, value in task.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert processor.tokenizer.get_vocab() == TOKENIZER.get_vocab()


@pytest.mark.parametrize(
    ("objective", "ranking"),
    [({}, "combined"), ({"itc_weight": 0.0}, "matching"), ({"itm_weight": 0.0}, "contrastive")],
)
def test_a_saved_task_ranks_by_the_heads_that_it_trained(objective, ranking, tmp_path):
    make_task(**objective).save_pretrained(str(tmp_path))
    assert AutoModelForPreTraining.from_pretrained(tmp_path).config.ranking == ranking


def test_a_task_saved_before_matching_begins_ranks_by_contrast(tmp_path):
    task = make_task(itm_start=3)
    for steps, ranking in ((3, "contrastive"), (4, "combined")):
        task.begin(steps)
        task.save_pretrained(str(tmp_path))
        assert AutoModelForPreTraining.from_pretrained(tmp_path).config.ranking == ranking


def test_temperature_that_grew_too_low_comes_back():
    task = make_task()
    head = task.model.itc_head
    with torch.no_grad():
        head.log_scale.fill_(6.0)
    task.after_step()
    assert head.scale().item() == pytest.approx(100)
    task(make_batch(task)).total.backward()
    assert head.log_scale.grad != 0, "a clamped temperature still learns"
