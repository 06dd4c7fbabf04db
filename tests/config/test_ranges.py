"""Every config class has its ranges checked, whatever part of a config it is."""

import dataclasses

import pytest

from vilta.config import PretrainConfig, PretrainTextConfig
from vilta.config.apps import CleanConfig, SearchConfig, ServeConfig
from vilta.config.finetune import FinetuneConfig
from vilta.config.ranges import check_config
from vilta.config.tools import EvaluateConfig, InspectConfig, PackConfig, ReportConfig
from vilta.tasks.retrieval import RetrievalSettings
from vilta.tasks.vqa import VqaSettings

EVERY = [
    PretrainConfig(),
    PretrainTextConfig(),
    FinetuneConfig(),
    FinetuneConfig(settings=VqaSettings()),
    FinetuneConfig(settings=RetrievalSettings()),
    EvaluateConfig(),
    PackConfig(),
    InspectConfig(),
    ReportConfig(),
    SearchConfig(),
    CleanConfig(),
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
    ],
)
def test_a_value_out_of_range_is_named_with_what_to_choose(config, path, value, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        check_config(with_value(config, path, value))
