import dataclasses
import os
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vilta.config import PretrainConfig, PretrainTextConfig
from vilta.config.tools import EvaluateConfig, PackConfig, ReportConfig
from vilta.config.yaml_file import load_yaml, save_yaml, to_dict

CLASSES = [PretrainConfig, PretrainTextConfig, EvaluateConfig, PackConfig, ReportConfig]

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\x85\u2028\u2029"))
LEAVES = {
    bool: st.booleans(),
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: TEXT,
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Any value that the type ``hint`` of a config field allows."""
    if dataclasses.is_dataclass(hint):
        fields = {name: values(inner) for name, inner in get_type_hints(hint).items()}
        return st.builds(hint, **fields)
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is Union:
        return st.one_of([values(kind) for kind in get_args(hint)])
    if get_origin(hint) is tuple:
        return st.lists(values(get_args(hint)[0]), max_size=3).map(tuple)
    return LEAVES[hint]


def leaves(cls: type, where: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Path and type of every setting."""
    found = []
    for name, hint in get_type_hints(cls).items():
        path = (*where, name)
        found += leaves(hint, path) if dataclasses.is_dataclass(hint) else [(path, hint)]
    return found


def nested(path: tuple[str, ...], value: Any) -> Any:
    return {path[0]: nested(path[1:], value)} if path else value


def load(tmp_path_factory, content: str, cls: type = PretrainConfig) -> Any:
    path = tmp_path_factory.mktemp("config") / "c.yaml"
    path.write_text(content, encoding="utf-8")
    return load_yaml(path, cls)


@pytest.fixture
def refused(tmp_path_factory):
    def message(content: str) -> str:
        with pytest.raises(ValueError) as caught:
            load(tmp_path_factory, content)
        assert "\n" not in str(caught.value) and "c.yaml" in str(caught.value)
        return str(caught.value)

    return message


@given(st.one_of([values(cls) for cls in CLASSES]))
def test_saved_and_read_again_is_the_same(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("config") / "c.yaml"
    save_yaml(config, path)
    assert load_yaml(path, type(config)) == config
    assert os.listdir(path.parent) == ["c.yaml"]


@given(st.sampled_from(leaves(PretrainConfig)), st.data())
def test_one_setting_changes_and_the_others_stay(tmp_path_factory, leaf, data):
    path, hint = leaf
    value = data.draw(values(hint))
    plain = list(value) if isinstance(value, tuple) else value
    config = load(tmp_path_factory, yaml.safe_dump(nested(path, plain)))
    assert to_dict(config) == deep_merge(to_dict(PretrainConfig()), nested(path, plain))


def deep_merge(base: Any, change: Any) -> Any:
    if not isinstance(base, dict):
        return change
    return base | {key: deep_merge(base[key], change[key]) for key in change}


@given(st.sampled_from(leaves(PretrainConfig)), st.sampled_from(["{}x", "{}_", "x{}"]))
def test_unknown_key_names_its_path_and_the_nearest(tmp_path_factory, leaf, misspelling):
    for depth in range(1, len(leaf[0]) + 1):
        path = leaf[0][:depth]
        wrong = (*path[:-1], misspelling.format(path[-1]))
        with pytest.raises(ValueError) as caught:
            load(tmp_path_factory, yaml.safe_dump(nested(wrong, {})))
        assert f"unknown key '{'.'.join(wrong)}'; did you mean" in str(caught.value)


def test_the_nearest_key_is_offered(refused):
    assert "unknown key 'optimization.learning'" in refused("optimization: {learning: 1}")
    assert "did you mean 'warmup'?" in refused("optimization: {warm_up: 0.1}")
    assert "known: epochs, data, model, objective" in refused("zzz: 1")


YAML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.integers(), inner),
    max_leaves=5,
)


@given(st.sampled_from(leaves(PretrainConfig)), YAML_VALUES)
def test_a_wrong_value_is_a_value_error_and_nothing_else(tmp_path_factory, leaf, value):
    path, hint = leaf
    try:
        config = load(tmp_path_factory, yaml.safe_dump(nested(path, value)))
    except ValueError as error:
        assert ".".join(path) in str(error) and "\n" not in str(error)
    else:
        read = getattr(getattr(config, path[0]), path[1])
        kinds = {Literal: (str,), tuple: (tuple,), Union: (int, str)}
        assert type(read) in kinds.get(get_origin(hint), (hint,))


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=200)
@given(st.text(alphabet="ab: -[]{}&*!|>'\"%@#?,\n\t\\0123.~<=") | st.text())
def test_any_text_is_a_config_or_a_value_error(tmp_path_factory, content):
    try:
        load(tmp_path_factory, content.encode("utf-8", "ignore").decode())
    except ValueError as error:
        assert "c.yaml" in str(error)


@pytest.mark.parametrize("written", ["1e-4", "1.0e-4", "0.0001", "1E-4", "'1e-4'", ".0001"])
def test_a_number_may_be_written_any_way(tmp_path_factory, written):
    assert load(tmp_path_factory, f"optimization: {{lr: {written}}}").optimization.lr == 1e-4


def test_a_whole_number_for_a_float_is_a_float(tmp_path_factory):
    lr = load(tmp_path_factory, "optimization: {lr: 1}").optimization.lr
    assert lr == 1.0 and type(lr) is float


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("optimization: {lr: fast}", "optimization.lr: expected a number, got 'fast'"),
        ("optimization: {lr: .nan}", "optimization.lr: expected a number, got nan"),
        ("optimization: {lr: true}", "optimization.lr: expected a number, got True"),
        ("optimization: {lr: 1" + "0" * 400 + "}", "optimization.lr: expected a number"),
        ("optimization: {steps: 1.5}", "optimization.steps: expected a whole number, got 1.5"),
        (
            "optimization: {batch_size: all}",
            "optimization.batch_size: expected a whole number or auto, got 'all'",
        ),
        ("run: {resume: 1}", "run.resume: expected one of False, True, auto, got 1"),
        ("run: {overwrite: 1}", "run.overwrite: expected true or false, got 1"),
        ("run: {out: 7}", "run.out: expected text (put it in quotes), got 7"),
        ("model: {fusion: both}", "model.fusion: expected one of co-attention, cross-attention"),
        ("model: {fusion: [both]}", "model.fusion: expected one of co-attention"),
        ("model: {freeze: image}", "model.freeze: expected a list such as [a, b], got 'image'"),
        ("model: {freeze: [audio]}", "model.freeze: expected one of image, text, got 'audio'"),
        ("model: 3", "model must be a mapping of settings"),
        ("[1, 2]", "the file must be a mapping of settings"),
        ("false", "the file must be a mapping of settings"),
        ("data: {train: a, train: b}", "key 'train' is given twice"),
        ("data: {train: !!python/name:os.system x}", "is not YAML"),
        ("data: {train: [}", "is not YAML"),
        ("data: {train: 2001-99-99}", "is not YAML"),
        ("[" * 5000, "is not YAML"),
    ],
)
def test_what_is_wrong_is_said(refused, content, message):
    assert message in refused(content)


@pytest.mark.parametrize("content", ["", "# nothing\n", "{}", "data: {}"])
def test_an_empty_file_is_the_defaults(tmp_path_factory, content):
    assert load(tmp_path_factory, content) == PretrainConfig()


def test_nested_defaults_of_a_class_survive_a_partial_file(tmp_path_factory):
    config = load(tmp_path_factory, "optimization: {steps: 5}", PretrainTextConfig)
    assert config.optimization == dataclasses.replace(PretrainTextConfig().optimization, steps=5)


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xff\xfe\x00data")
    with pytest.raises(ValueError, match=r"c\.yaml is not YAML"):
        load_yaml(path, PretrainConfig)
    with pytest.raises(ValueError, match="no such config file"):
        load_yaml(tmp_path, PretrainConfig)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c.yaml"
    save_yaml(PackConfig(out="old"), path)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_yaml(PackConfig(out="new"), path)
    assert load_yaml(path, PackConfig).out == "old"
    assert os.listdir(tmp_path) == ["c.yaml"]


def test_keys_of_older_versions_still_load(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("run:\n  best_metric: retrieval/mean_recall\n  out: runs/old\n")
    assert load_yaml(path, PretrainConfig).run.selection_metric == "retrieval/mean_recall"
