"""What `fuzz_readers.py` fuzzes besides data: models, tokenizers, checkpoints, runs, the server."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from damage import Made, Parts, Seed, safetensors_parts, unzipped
from fuzz_parser import JPEG, Parser, Read, plain
from PIL import Image
from starlette.testclient import TestClient
from tiny_settings import IMAGE
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import BertConfig, BertForMaskedLM

from vilta import Matcher
from vilta.apps.photo_index import PhotoIndex
from vilta.apps.photo_search import PhotoSearch
from vilta.apps.released import load_released
from vilta.apps.server import build_app
from vilta.config import DataConfig, PretrainConfig
from vilta.config.yaml_file import save_yaml
from vilta.finished_run import read_run, result_path
from vilta.locking import only_writer
from vilta.model import ViltaConfig, ViltaForPreTraining, ViltaProcessor
from vilta.model.encoder_checks import check_image_encoder, check_text_encoder
from vilta.model.encoders import load_image_encoder, load_text_encoder
from vilta.model.language_model import continue_language_model, load_tokenizer, new_tokenizer
from vilta.model.meter import read_checkpoint
from vilta.model.pixel_statistics import pixel_statistics
from vilta.objectives.vocabulary import read_vocabulary
from vilta.report.model_card import licence_of, write_card
from vilta.report.record import read_record
from vilta.training.checkpoint import (
    RunState,
    load_optimizer,
    load_state,
    load_weights,
    save_checkpoint,
    whole_state,
)

TEXTS = ["a red dog on the green grass", "two cats sit under a table"]
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


def write_text_encoder(folder: Path) -> None:
    """Write a tokenizer and its language model."""
    tokenizer = new_tokenizer(TEXTS * 9, 90)
    tokenizer.save_pretrained(folder)
    config = BertConfig(vocab_size=len(tokenizer), intermediate_size=8, **SIZES)
    BertForMaskedLM(config).save_pretrained(folder)


def write_released(folder: Path) -> None:
    """Write a model as a run releases it."""
    torch.manual_seed(0)
    tokenizer = new_tokenizer(TEXTS * 9, 90)
    text = BertConfig(vocab_size=len(tokenizer), intermediate_size=8, **SIZES)
    config = ViltaConfig(
        vision_config=IMAGE,
        text_config=text.to_dict(),
        image_size=32,
        hidden_size=8,
        num_attention_heads=2,
        fusion_layers=1,
        contrastive_width=4,
        max_text_tokens=16,
    )
    ViltaForPreTraining(config).save_pretrained(folder)
    ViltaProcessor.from_config(config, tokenizer).save_pretrained(folder)


def write_run(folder: Path) -> None:
    """Write the files of a run that say how far it is, and a checkpoint."""
    data = DataConfig(train=str(folder / "data"))
    save_yaml(PretrainConfig(data=data), folder / "config.yaml")
    for name in ("data", "model"):
        (folder / name).mkdir()
    manifest = {"source": "x", "rows": 1, "captions": 2}
    (folder / "data" / "manifest.json").write_bytes(plain(manifest))
    (folder / "model" / "config.json").write_bytes(plain({"architectures": ["A"]}))
    (folder / "README.md").write_bytes(b"---\nlicense: mit\ntags: [a]\n---\n\n# A model\n")
    step = {"step": 1, "loss": 0.5, "samples_per_s": 9.0, "seconds": 1.0}
    evaluation = {"step": 1, "evaluation": {"retrieval/r1": 0.5}}
    machine = {"step": 1, "device": "cpu", "precision": "fp32"}
    lines = [plain(line) + b"\n" for line in (machine, step, evaluation)]
    (folder / "metrics.jsonl").write_bytes(b"".join(lines))
    content = {"run": "x", "data": "y", "metrics": {"r1": 0.5, "negatives": {"a": {"b": 1.0}}}}
    (folder / EVALUATION).write_bytes(plain(content))
    write_checkpoint(folder)


EVALUATION = "evaluation-y.json"


def training() -> tuple[nn.Module, torch.optim.Optimizer, LambdaLR]:
    """Return what a checkpoint restores, after one step."""
    torch.manual_seed(0)
    task = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(task.parameters())
    schedule = LambdaLR(optimizer, lambda step: 1.0)
    task(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    schedule.step()
    return task, optimizer, schedule


def write_checkpoint(run: Path) -> None:
    """Write a checkpoint of step 1."""
    state = RunState(fingerprint="a", vocabulary="b", seed=0, global_batch=1, step=1)
    task, *optimization = training()
    save_checkpoint(run, task, whole_state(*optimization), state, keep=1)


CHECKPOINT = "checkpoints/step-00000001"


def load_checkpoint(path: Path) -> None:
    """Load a checkpoint of which a file was damaged, but whose sums are right."""
    sums = [f"{sha256((path.parent / n).read_bytes()).hexdigest()}  {n}\n" for n in SUMMED]
    (path.parent / "SHA256SUMS").write_text("".join(sums))
    load_all(path)


def load_all(path: Path) -> None:
    """Load what a resumed run loads."""
    task, optimizer, schedule = training()
    load_state(path.parent).refuse_other(
        RunState(fingerprint="a", vocabulary="b", seed=0, global_batch=1), accept_other_data=False
    )
    load_weights(path.parent, task)
    load_optimizer(path.parent, optimizer, schedule)


SUMMED = ("model.safetensors", "optimizer.pt", "state.json")


def file_of(write: Callable[[Path], object], name: str) -> bytes:
    """Return one of the files that a function writes into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return (Path(folder) / name).read_bytes()


def meter_file() -> bytes:
    """Return a file in the form of METER's checkpoints."""
    file = io.BytesIO()
    torch.save({"state_dict": {"a": torch.ones(2, 3)}, "epoch": 1}, file)
    return file.getvalue()


def use_text_encoder(path: Path) -> None:
    """Load a tokenizer and a language model as a run does before its first step."""
    folder = str(path.parent)
    tokenizer = load_tokenizer(folder)
    model = load_text_encoder(folder)
    check_text_encoder(model, 16)
    read_vocabulary(tokenizer, model.get_input_embeddings().weight.shape[0])
    tokenizer(TEXTS, padding=True, truncation=True, max_length=16)


def use_tokenizer(path: Path) -> None:
    """Load a tokenizer and read its words."""
    read_vocabulary(load_tokenizer(str(path.parent)), 90)


def use_image_encoder(path: Path) -> None:
    """Build an image encoder from its configuration alone."""
    check_image_encoder(load_image_encoder(str(path)), 32)


def read_run_files(path: Path) -> None:
    """Read what `vilta report` and `evaluate` read of a run."""
    result_path(str(path.parent), "evaluation", "y")
    read_run(str(path.parent))
    read_record(str(path.parent))


def use_lock(path: Path) -> None:
    """Take over the lock that a process has left."""
    with only_writer(path, path.parent) as note:
        assert "\n" not in note


@cache
def matcher() -> Matcher:
    """Return a tiny model, the same for all requests."""
    with tempfile.TemporaryDirectory() as folder:
        write_released(Path(folder))
        return Matcher(folder, device="cpu")


@cache
def client() -> TestClient:
    """Return a client of the server, with a folder of photos behind it."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-photos-"))
    (folder / "1.jpg").write_bytes(JPEG)
    search = PhotoSearch(matcher(), folder, folder / "index")
    search.update()
    return TestClient(build_app(matcher(), search), base_url="http://localhost").__enter__()


HEAD = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
ROUTES: dict[str, Parts] = {
    "match": {"image": JPEG, "captions": b"a dog", "heat_maps": b"true"},
    "embed": {"images": JPEG, "texts": b"a dog"},
    "rank": {"images": JPEG, "text": b"a dog"},
    "fill": {"image": JPEG, "text": b"a ___ dog", "top": b"3"},
    "proofread": {"image": JPEG, "caption": b"a dog"},
    "search": {"query": b"a dog +two cats -red", "top": b"3"},
}


def form(parts: Parts) -> bytes:
    """Return the body of a request with these fields; what begins with ``image`` is a file."""
    fields = []
    for name, value in parts.items():
        file = b'; filename="1.jpg"' if name.startswith("image") else b""
        fields.append(HEAD % (name.encode(), file, value))
    return b"".join(fields) + b"--x--\r\n"


def post(path: Path) -> None:
    """Send a body; the answer must be one of those that the server promises, and never a 500."""
    answer = client().post(
        f"/v1/{path.name}",
        content=path.read_bytes(),
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert answer.status_code in (200, 400, 413, 422, 503), answer.status_code
    if answer.status_code != 200:
        assert "error" in answer.json()
        raise ValueError(f"{answer.status_code}")


def write_index(folder: Path) -> None:
    """Write photos and their index."""
    photos = folder / "photos"
    photos.mkdir()
    for number in range(3):
        Image.new("RGB", (20, 20), (number * 90, 0, 0)).save(photos / f"{number}.png")
    index = PhotoIndex(photos, folder / "index", "model", 4)
    index.update(embed, 32)
    index.close()


def embed(pixels: torch.Tensor) -> np.ndarray:
    """Stand in for the model, which the index does not need to be read."""
    return np.ones((len(pixels), 4), np.float32) / 2


def use_index(path: Path) -> None:
    """Open an index, bring it up to date, and look up every photo's vector and path."""
    index = PhotoIndex(path.parent.parent / "photos", path.parent, "model", 4)
    try:
        index.update(embed, 32)
        vectors = index.vectors()
        for photo in index.photos():
            assert vectors[photo.row].shape == (4,)
            index.path(photo.row)
        index.count()
        index.skipped()
    finally:
        index.close()


def files_of(write: Callable[[Path], object], read: Read, *names: str) -> dict[str, Any]:
    """Return files of one folder, each with what reads it."""
    return {name: (read, [file_of(write, name)]) for name in names}


def _weights(name: str) -> list[Seed]:
    return [safetensors_parts(file_of(write_checkpoint, name))]


PARSERS = [
    Parser(
        "weights",
        {
            f"{CHECKPOINT}/model.safetensors": (
                load_checkpoint,
                _weights(f"{CHECKPOINT}/model.safetensors"),
            ),
            f"{CHECKPOINT}/optimizer.pt": (
                load_checkpoint,
                [unzipped(file_of(write_checkpoint, f"{CHECKPOINT}/optimizer.pt"))],
            ),
            "meter.ckpt": (read_checkpoint, [unzipped(meter_file())]),
        },
        write_checkpoint,
    ),
    Parser(
        "tokenizers",
        files_of(write_text_encoder, use_tokenizer, "tokenizer.json", "tokenizer_config.json"),
        write_text_encoder,
    ),
    Parser(
        "encoders",
        {
            **files_of(write_text_encoder, use_text_encoder, "config.json"),
            "model.safetensors": (
                lambda path: continue_language_model(str(path.parent)),
                [safetensors_parts(file_of(write_text_encoder, "model.safetensors"))],
            ),
            "image.json": (use_image_encoder, [plain(IMAGE)]),
            "preprocessor_config.json": (
                lambda path: pixel_statistics(str(path.parent)),
                [
                    plain({"image_mean": [0.5] * 3, "image_std": [0.2] * 3, "do_normalize": True}),
                    plain({"image_processor_type": "ViTImageProcessor", "rescale_factor": 0.1}),
                ],
            ),
        },
        write_text_encoder,
    ),
    Parser(
        "released_models",
        {
            **files_of(write_released, lambda path: load_released(path.parent), "config.json"),
            "model.safetensors": (
                lambda path: load_released(path.parent),
                [safetensors_parts(file_of(write_released, "model.safetensors"))],
            ),
        },
        write_released,
    ),
    Parser(
        "run_files",
        {
            **files_of(write_run, read_run_files, "config.yaml", "metrics.jsonl", EVALUATION),
            **files_of(write_run, lambda path: licence_of(str(path.parent)), "README.md"),
            **files_of(
                write_run, lambda path: write_card(path.parent.parent), "data/manifest.json"
            ),
            "run.lock": (use_lock, [plain({"pid": 1, "host": "a", "since": "b", "command": "c"})]),
            **files_of(write_run, load_checkpoint, f"{CHECKPOINT}/state.json"),
            **files_of(write_run, load_all, f"{CHECKPOINT}/clock.json", f"{CHECKPOINT}/SHA256SUMS"),
        },
        write_run,
    ),
    Parser("requests", {route: (post, [Made(parts, form)]) for route, parts in ROUTES.items()}),
    Parser(
        "photo_index",
        files_of(write_index, use_index, "index/photos.sqlite", "index/vectors.f16"),
        write_index,
    ),
]
