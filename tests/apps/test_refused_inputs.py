"""What the applications refuse before any model is asked, in a line."""

import importlib.util
import json

import datasets
import pyarrow as pa
import pytest
import torch
from tiny_models import tiny_config

from vilta.apps.cleaning import kept_pairs
from vilta.apps.image_input import open_image, pixels_of
from vilta.apps.onnx_export import require_onnx
from vilta.apps.released import load_released


def refused(problem, run, *arguments):
    with pytest.raises(ValueError, match=problem) as error:
        run(*arguments)
    assert "\n" not in str(error.value)


def test_tensors_that_are_no_pictures():
    refused("a tensor cannot be opened as a picture", open_image, torch.zeros(3, 32, 32))
    for tensor in (torch.zeros(3, 32, 32), torch.zeros(3, 8, 32, dtype=torch.uint8)):
        refused(r"must be uint8 of shape \[3, 32, 32\]", pixels_of, [tensor], 32)


def test_a_picture_that_is_not_there_or_is_none(tmp_path):
    refused(r"nowhere\.jpg: No such file or directory$", open_image, tmp_path / "nowhere.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    refused(r"text\.jpg: ", open_image, str(tmp_path / "text.jpg"))


def test_nothing_left_to_keep():
    table = datasets.Dataset.from_dict({"captions": [["a dog"]]})
    pairs = pa.table({"row": [0, 0], "caption": ["a dog", "a cat"], "probability": [0.4, None]})
    refused("no pair matches with a probability of 0.5", kept_pairs, table, pairs, 0.5)


def test_an_export_without_its_packages(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused(r"onnxruntime and onnxscript missing; pip install 'vilta\[onnx\]'", require_onnx)


def test_a_folder_that_is_no_export(tmp_path):
    pytest.importorskip("onnxruntime")
    from vilta.apps.onnx_ranker import Ranker

    refused("has no .*onnx$", Ranker, tmp_path)
    refused(r"has no .*int8\.onnx \(vilta export RUN --int8 writes it\)", Ranker, tmp_path, True)


def test_a_model_of_a_task_that_matches_nothing(tmp_path):
    content = tiny_config().to_dict() | {"architectures": ["ViltaForVisualReasoning"]}
    (tmp_path / "config.json").write_text(json.dumps(content))
    refused("holds a ViltaForVisualReasoning, which cannot match", load_released, tmp_path)
