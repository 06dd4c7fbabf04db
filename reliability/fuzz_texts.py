"""What `fuzz_readers.py` fuzzes of texts: tables, lists of captions and of tasks, settings."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from damage import Made, Parts
from fuzz_parser import KARPATHY, Parser, plain, read_folder, read_pairs, write_picture

from vilta.config import PretrainConfig, PretrainTextConfig
from vilta.config.ablate import AblateConfig
from vilta.config.finetune import TaskSettings
from vilta.config.yaml_file import load_yaml
from vilta.data.mixture import read_mixture
from vilta.data.sources import SourceOptions, find_reader
from vilta.data.text import caption_lines
from vilta.tasks.classification import Classification
from vilta.tasks.formats.compositional_sets import read_set
from vilta.tasks.formats.question_files import read_questions
from vilta.tasks.nlvr2 import VisualReasoning
from vilta.tasks.registry import load_finetune_config
from vilta.tasks.snli_ve import EntailmentSettings, VisualEntailment

COCO = {
    "images": [{"id": 1, "file_name": "1.jpg"}],
    "annotations": [{"id": 1, "image_id": 1, "caption": "a dog"}],
}
REGION = {"region_id": 1, "image_id": 1, "phrase": "a dog", "x": 1, "y": 1, "width": 9, "height": 9}


def read_regions(path: Path) -> None:
    """Read regions as captions of the whole image, and as images of their own."""
    for crops in (False, True):
        for _ in find_reader(str(path.parent), SourceOptions(region_crops=crops)).found():
            pass


def captions_of(path: Path) -> None:
    """Read captions alone."""
    caption_lines(str(path))


def zipped_text(parts: Parts) -> bytes:
    """Return a text, compressed."""
    return gzip.compress(parts["text"], 1)


VQA = {"questions": [{"question": "what", "image_id": 1, "question_id": 2}]}
VQA_ANSWERS = {
    "annotations": [{"question_id": 2, "answers": [{"answer": "dog"}], "answer_type": "other"}]
}
QUESTIONS: list[Any] = [
    [{"question": "what", "image": "1.jpg", "answers": [{"answer": "a dog"}]}],
    {"1": {"question": "what", "imageId": "1", "answer": "dog", "types": {"structural": "q"}}},
    {"data": [{"question": "what", "image_id": 1, "answers": ["dog"], "answer_type": "x"}]},
    VQA,
    [["what", "dog", 1]],
]
PAIR = {"caption": "a dog", "negative_caption": "a cat", "filename": "1.jpg"}
BOX = {"bbox_x": 1, "bbox_y": 1, "bbox_w": 5, "bbox_h": 5}
ARO = {"image_path": "1.jpg", "true_caption": "a", "false_caption": "b", **BOX}
SETS: list[Any] = [
    {"0": PAIR},
    [PAIR | {"caption2": "the dog"}],
    {"1": {"caption": "a", "foil": ["b"], "image_file": "1.jpg", "mturk": {"caption": 3}}},
    [ARO | {"relation_name": "on"}, ARO | {"relation_name": "by"}],
    [ARO | {"attributes": ["red", "big"]}],
    [{"image_0": "1", "image_1": "2", "caption_0": "a", "caption_1": "b", "tag": "x"}],
    [{"image": "1.jpg", "caption_options": ["a dog", "dog a"]}],
]
NLVR2 = {"identifier": "dev-1-0-0", "sentence": "two dogs", "label": "True"}
NLVR2_LISTED = {"images": ["a-img0.png", "a-img1.png"], "sentence": "x", "label": "True"}
VE_LISTED = {"image": "1", "sentence": "x", "sentence1": "y", "label": "z"}
SNLI_VE = {"Flickr30K_ID": "1", "sentence1": "a", "sentence2": "b", "gold_label": "neutral"}


def _questions(path: Path) -> None:
    read_questions(str(path))


def _sets(path: Path) -> None:
    read_set(str(path))


def _nlvr2(path: Path) -> None:
    VisualReasoning.rows(str(path), TaskSettings())


def _snli_ve(path: Path) -> None:
    for premise in (False, True):
        VisualEntailment.rows(str(path), EntailmentSettings(premise=premise))


def _write_questions(folder: Path) -> None:
    (folder / "v2_OpenEnded_val2014_questions.json").write_bytes(plain(VQA))


def _folder_of_questions(path: Path) -> None:
    read_questions(str(path.parent))


PARSERS = [
    Parser(
        "tables",
        {
            "metadata.csv": (read_folder, [b"file_name,caption\n1.jpg,a dog\n"]),
            "captions.csv": (read_folder, [b'image,caption\n1.jpg,"a dog, brown"\n1.jpg,a\n']),
            "results.csv": (read_folder, [b"image_name| comment_number| comment\n1.jpg| 0| a\n"]),
            "open_clip.tsv": (read_folder, [b"filepath\ttitle\n1.jpg\ta dog\n"]),
            "captions.tsv": (captions_of, [b"image\tcaption\n1.jpg\ta dog\n"]),
            "answers.csv": (_questions, [b"image,question,answer\n1,a,b\n"]),
            "edits.csv": (_sets, [b"image,caption,edit,paraphrase\n1.jpg,a,b,c\n"]),
            "esnlive.csv": (
                _snli_ve,
                [b"Flickr30kID,hypothesis,sentence1,gold_label\n1,a,b,neutral\n"],
            ),
            "labels.csv": (
                lambda path: Classification.rows(str(path), TaskSettings()),
                [b"image,text,label\n1.jpg,a dog,yes\n"],
            ),
        },
        write_picture,
    ),
    Parser(
        "caption_lists",
        {
            "list.json": (
                read_pairs,
                [
                    plain([{"image": "1.jpg", "caption": ["a dog"], "image_id": 1}]),
                    plain({"1.jpg": "x"}),
                    plain([{"image": "1.jpg", "conversations": [{"from": "gpt", "value": "a"}]}]),
                ],
            ),
            "dataset_flickr8k.json": (read_folder, [plain(KARPATHY)]),
            "captions_train2014.json": (read_folder, [plain(COCO)]),
            "region_descriptions.json": (read_regions, [plain([{"id": 1, "regions": [REGION]}])]),
            "metadata.jsonl": (read_folder, [b'{"file_name": "1.jpg", "captions": ["a dog"]}\n']),
            "lines.jsonl": (
                read_folder,
                [b'{"image": "1.jpg", "caption": "a dog", "split": "a"}\n' * 2],
            ),
        },
        write_picture,
    ),
    Parser(
        "task_lists",
        {
            "questions.json": (_questions, [plain(each) for each in QUESTIONS]),
            "questions.jsonl": (_questions, [plain(QUESTIONS[0][0]) + b"\n"]),
            "v2_mscoco_val2014_annotations.json": (_folder_of_questions, [plain(VQA_ANSWERS)]),
            "sets.json": (_sets, [plain(each) for each in SETS]),
            "sets.jsonl": (_sets, [plain(PAIR) + b"\n", plain(SETS[5][0]) + b"\n"]),
            "nlvr2.json": (_nlvr2, [plain(NLVR2) + b"\n", plain([NLVR2_LISTED])]),
            "ve.json": (
                _snli_ve,
                [
                    plain(SNLI_VE) + b"\n",
                    plain([{"image": "1", "sentence": "x", "sentence1": "y", "label": "z"}]),
                ],
            ),
        },
        _write_questions,
    ),
    Parser(
        "texts",
        {
            "captions.txt": (captions_of, [b"a dog\na cat\n", b"image,caption\n1.jpg,a dog\n"]),
            "captions.txt.gz": (captions_of, [Made({"text": b"a dog\na cat\n"}, zipped_text)]),
            "1.txt": (read_folder, [b"a dog\na brown dog\n"]),
            "results.token": (read_folder, [b"1.jpg#0\tA dog .\n1.jpg#1\tA cat .\n"]),
        },
        write_picture,
    ),
    Parser(
        "settings",
        {
            "mixture.yaml": (
                lambda path: read_mixture(str(path)),
                [b"data/coco: 1\ndata/vg: 0.5\n"],
            ),
            "pretrain.yaml": (
                lambda path: load_yaml(path, PretrainConfig),
                [
                    b"data: {train: a, val: b, workers: 2}\nmodel: {fusion_layers: 2}\n"
                    b"optimization: {lr: 1e-4, steps: 9}\n"
                    b"run: {out: x, resume: auto}\n"
                ],
            ),
            "text.yaml": (
                lambda path: load_yaml(path, PretrainTextConfig),
                [b"data: {train: a}\nmodel: {width: 16, layers: 1}\n"],
            ),
            "finetune.yaml": (
                load_finetune_config,
                [
                    b"task: vqa\nstart: a\nsettings: {min_answers: 9}\ndata: {train: b}\n",
                    b"task: snli-ve\nsettings: {premise: true}\n",
                ],
            ),
            "ablate.yaml": (
                lambda path: load_yaml(path, AblateConfig),
                [b"budget: samples\namount: 9\nevaluations: 2\nseeds: [1, 2]\nout: x\n"],
            ),
        },
    ),
]
