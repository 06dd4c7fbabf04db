"""Every config class has its ranges checked, whatever part of a config it is."""

import dataclasses
from typing import get_type_hints

import pytest

from vilta.config import OptimizationConfig, PretrainConfig, PretrainTextConfig
from vilta.config.ablate import AblateConfig
from vilta.config.apps import (
    CleanConfig,
    MatchConfig,
    NegativesConfig,
    ProofreadConfig,
    SearchConfig,
    ServeConfig,
)
from vilta.config.finetune import FinetuneConfig
from vilta.config.ranges import check_config
from vilta.config.tools import (
    ConvertConfig,
    EvaluateConfig,
    ExportConfig,
    InspectConfig,
    PackConfig,
    ReportConfig,
)
from vilta.tasks.retrieval import RetrievalSettings
from vilta.tasks.vqa import VqaSettings
from vilta.verbs import VERBS

EVERY = [
    PretrainConfig(),
    PretrainTextConfig(),
    FinetuneConfig(),
    FinetuneConfig(settings=VqaSettings()),
    FinetuneConfig(settings=RetrievalSettings()),
    AblateConfig(),
    EvaluateConfig(),
    PackConfig(),
    InspectConfig(),
    ReportConfig(),
    ExportConfig(),
    ConvertConfig(),
    SearchConfig(),
    MatchConfig(),
    ProofreadConfig(),
    CleanConfig(),
    NegativesConfig(),
    ServeConfig(),
]


def with_value(config, path, value):
    head, _, rest = path.partition(".")
    changed = with_value(getattr(config, head), rest, value) if rest else value
    return dataclasses.replace(config, **{head: changed})


@pytest.mark.parametrize("config", EVERY, ids=lambda config: type(config).__name__)
def test_defaults_are_in_range(config):
    check_config(config)


@pytest.mark.parametrize(
    ("config", "path", "value", "message"),
    [
        (PretrainConfig(), "data.image_size", 0, "data.image_size is 0; it must be 1 or more"),
        (PretrainConfig(), "data.min_crop", 0.0, "data.min_crop is 0.0; choose above 0 to 1"),
        (PretrainConfig(), "model.dropout", 1.5, "model.dropout is 1.5; choose 0 to 1"),
        (PretrainConfig(), "objective.alpha", 2.0, "objective.alpha is 2.0; choose 0 to 1"),
        (PretrainConfig(), "optimization.lr", 0.0, "optimization.lr is 0.0; it must be above 0"),
        (PretrainConfig(), "optimization.batch_size", 0, "optimization.batch_size is 0; it must"),
        (PretrainConfig(), "run.keep", 0, "run.keep is 0; it must be 1 or more"),
        (PretrainTextConfig(), "model.layers", 0, "model.layers is 0"),
        (PretrainTextConfig(), "mask_rate", 1.2, "mask_rate is 1.2; choose 0 to 1"),
        (FinetuneConfig(), "epochs", -1.0, "epochs is -1.0; it must be 0 or more"),
        (FinetuneConfig(settings=VqaSettings()), "settings.min_answers", 0, "settings.min_answers"),
        (EvaluateConfig(), "top_k", 0, "top_k is 0; it must be 1 or more"),
        (PackConfig(), "shard_rows", 0, "shard_rows is 0; it must be 1 or more"),
        (InspectConfig(), "examples", -1, "examples is -1; it must be 0 or more"),
        (ReportConfig(), "examples", 1, "examples is 1; it must be 2 or more"),
        (ExportConfig(), "images", 0, "images is 0; it must be 1 or more"),
        (SearchConfig(), "threshold", 1.5, "threshold is 1.5; choose -1 to 1"),
        (CleanConfig(), "keep_above", -0.1, "keep_above is -0.1; choose 0 to 1"),
        (NegativesConfig(), "min_match", 2.0, "min_match is 2.0; choose 0 to 1"),
        (ServeConfig(), "port", 70000, "port is 70000; choose 0 to 65535"),
        (ServeConfig(), "seconds", 0.0, "seconds is 0.0; it must be above 0"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_to_choose(config, path, value, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        check_config(with_value(config, path, value))


def test_no_config_class_of_a_verb_is_left_out():
    assert {verb.config for verb in VERBS.values()} <= set(map(type, EVERY))


def test_every_number_has_a_range_but_seeds():
    free = set()
    for config in EVERY:
        hints = get_type_hints(type(config), include_extras=True)
        free |= {name for name, hint in hints.items() if hint in (int, float)}
    assert free == {"seed"}


@pytest.mark.parametrize(
    ("settings", "other"),
    [({"compile": True}, "compile"), ({"optimizer": "muon"}, "optimizer: muon")],
)
def test_weights_in_parts_do_not_go_with_everything(settings, other):
    check_config(PretrainConfig(optimization=OptimizationConfig(shard=True)))
    wrong = PretrainConfig(optimization=OptimizationConfig(shard=True, **settings))
    with pytest.raises(ValueError, match=f"shard does not go together with {other}"):
        check_config(wrong)
