"""What SECURITY.md promises of strangers' files, tried with files that would leave a trace."""

import ast
import os
import pickle
import tarfile
import warnings
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
import torch
from PIL import Image
from tiny_models import TEXT
from transformers import BertModel

from vilta.config import PretrainConfig
from vilta.config.yaml_file import load_yaml
from vilta.data.mixture import read_mixture
from vilta.data.sources import FEATURES, find_reader, load_pairs
from vilta.data.sources.files import tar_members
from vilta.data.sources.patterns import find_shards
from vilta.decoding import LARGEST_FILE, bounded_bytes
from vilta.finished_run import load_text_encoder
from vilta.model.language_model import continue_language_model, load_tokenizer, new_tokenizer
from vilta.model.meter import read_checkpoint
from vilta.tasks.formats.compositional_sets import read_set
from vilta.tasks.formats.question_files import read_questions
from vilta.training.checkpoint import load_optimizer

SOURCE = Path(__file__).parents[1] / "src" / "vilta"


class Trace:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def trace(tmp_path):
    """A place that only code from a stranger's file would make."""
    yield tmp_path / "trace"
    assert not (tmp_path / "trace").exists()


def refused(work, *arguments) -> str:
    with warnings.catch_warnings(), pytest.raises(ValueError) as error:
        warnings.simplefilter("ignore")
        work(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_trace_would_be_seen(tmp_path):
    pickle.loads(pickle.dumps(Trace(tmp_path / "seen")))
    assert (tmp_path / "seen").is_dir()


@pytest.mark.parametrize("load", [load_text_encoder, continue_language_model])
def test_weights_with_code_are_refused(tmp_path, trace, load):
    BertModel(TEXT["bert"]).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"embeddings": Trace(trace)}, tmp_path / "pytorch_model.bin")
    refused(load, str(tmp_path))


def test_checkpoints_with_code_are_refused(tmp_path, trace):
    torch.save({"state_dict": Trace(trace)}, tmp_path / "meter.ckpt")
    refused(read_checkpoint, tmp_path / "meter.ckpt")
    torch.save({"optimizer": Trace(trace), "schedule": {}}, tmp_path / "optimizer.pt")
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    refused(load_optimizer, tmp_path, optimizer, schedule)


def test_code_beside_a_model_is_not_run(tmp_path, trace):
    (tmp_path / "own.py").write_text(f"import os\nos.mkdir({str(trace)!r})\nclass Own: pass\n")
    maps = '"auto_map": {"AutoConfig": "own.Own", "AutoModelForMaskedLM": "own.Own"}'
    (tmp_path / "config.json").write_text(f'{{"model_type": "own", {maps}}}')
    refused(load_text_encoder, str(tmp_path))
    refused(continue_language_model, str(tmp_path))
    new_tokenizer(["a dog"] * 3, 40).save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}'
    )
    refused(load_tokenizer, str(tmp_path))


def test_yaml_makes_no_objects(tmp_path, trace):
    path = tmp_path / "a.yaml"
    path.write_text(f"data: !!python/object/apply:os.mkdir [{str(trace)!r}]\n")
    refused(load_yaml, path, PretrainConfig)
    refused(read_mixture, str(path))


DANGEROUS = {"weights_only": False, "trust_remote_code": True, "allow_pickle": True}


def test_nothing_in_the_package_asks_for_code():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            given = {word.arg: word.value for word in node.keywords}
            assert called not in ("pickle.load", "pickle.loads", "eval", "exec", "os.system"), path
            assert called != "torch.load" or "weights_only" in given, path
            assert called != "yaml.load" or "_Loader" in ast.unparse(node), path
            for name, value in DANGEROUS.items():
                word = given.get(name)
                assert not (isinstance(word, ast.Constant) and word.value is value), path


def pack_of(folder, *cells):
    """A packed folder whose images are these cells; `save_to_disk` would put files into it."""
    rest = {"captions": ["x"], "source": "s"}
    rows = [{"image": cell, "image_id": str(i)} | rest for i, cell in enumerate(cells)]
    table = pa.Table.from_pylist(rows, FEATURES.arrow_schema)
    harmless = [row | {"image": None} for row in rows]
    datasets.Dataset.from_list(harmless, features=FEATURES).save_to_disk(str(folder))
    [arrow] = folder.glob("*.arrow")
    with pa.ipc.new_stream(str(arrow), table.schema) as file:
        file.write_table(table)
    return str(folder)


def test_a_pack_brings_no_file_from_elsewhere(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "private.png")
    elsewhere = {"bytes": None, "path": str(tmp_path / "private.png")}
    devices = [{"bytes": None, "path": name} for name in ("/dev/zero", "../private.png", "x.png")]
    inside = {"bytes": (tmp_path / "private.png").read_bytes(), "path": None}
    place = pack_of(tmp_path / "pack", elsewhere, *devices, inside)
    assert list(load_pairs(place)["image_id"]) == ["4"]
    assert len(find_reader(place).table()) == 1
    Image.new("RGB", (20, 20)).save(tmp_path / "pack" / "x.png")  # its own are its own
    assert list(load_pairs(place)["image_id"]) == ["3", "4"]


@pytest.mark.skipif(os.name != "posix", reason="needs pipes")
def test_files_without_an_end_are_skipped(tmp_path):
    os.mkfifo(tmp_path / "1.jpg")
    (tmp_path / "2.jpg").symlink_to("/dev/zero")
    with open(tmp_path / "3.jpg", "wb") as file:
        file.truncate(LARGEST_FILE + 1)
    Image.new("RGB", (20, 20)).save(tmp_path / "4.jpg")
    for name in "1234":
        (tmp_path / f"{name}.txt").write_text("a dog")
    os.mkfifo(tmp_path / "5.txt")
    Image.new("RGB", (20, 20)).save(tmp_path / "5.jpg")
    reader = find_reader(str(tmp_path))
    assert [row["image_id"] for row in reader.rows()] == ["4.jpg"]
    assert len(reader.skipped) == 4
    with pytest.raises(OSError, match="not a regular file"):
        bounded_bytes(tmp_path / "1.jpg")
    with pytest.raises(OSError, match="larger than 256 MiB"):
        bounded_bytes(tmp_path / "3.jpg")


@pytest.mark.skipif(os.name != "posix", reason="needs pipes")
@pytest.mark.parametrize(
    "name",
    [
        "dataset_coco.json", "captions_train2014.json", "annotations/captions_val2014.json",
        "region_descriptions.json", "image_data.json", "metadata.csv", "metadata.jsonl",
        "metadata.parquet", "captions.tsv", "list.json", "results_20130124.token", "state.json",
        "dataset_info.json", "dataset_dict.json", "manifest.json", "0.tar", "0.tar.gz",
        "0.parquet", "data/0.parquet", "0.arrow", "train/0.tar",
    ],
)  # fmt: skip
def test_a_pipe_with_the_name_of_a_list_is_not_waited_for(tmp_path, name):
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    os.mkfifo(place)
    assert "contains no supported source" in refused(find_reader, str(tmp_path)) or "/" in name
    Image.new("RGB", (20, 20)).save(tmp_path / "1.jpg")
    (tmp_path / "1.txt").write_text("a dog")
    assert [row["image_id"] for row in find_reader(str(tmp_path)).rows()] == ["1.jpg"]


@pytest.mark.skipif(os.name != "posix", reason="needs pipes")
def test_pipes_among_the_files_of_a_task_and_among_shards_are_not_waited_for(tmp_path):
    for name in ("v2_val_questions.json", "add_att.json", "0.tar"):
        os.mkfifo(tmp_path / name)
    assert "name one question file" in refused(read_questions, str(tmp_path))
    assert "holds no JSON files" in refused(read_set, str(tmp_path))
    assert "no shards" in refused(find_shards, str(tmp_path))


def head(name, size, kind=tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "content",
    [
        head("1.jpg", 1 << 50),
        head("x", 1 << 50, tarfile.XHDTYPE),
        head("x", 1 << 21, tarfile.GNUTYPE_LONGNAME) + bytes(1 << 21),
        (head("x", 512, tarfile.XHDTYPE) + b"20 path=" + b"a" * 504) * 3000,
    ],
    ids=["a petabyte", "a description of a petabyte", "a name of 2 MB", "circles"],
)
def test_tars_that_promise_more_than_they_have_end(tmp_path, content):
    good = head("0.txt", 5) + b"a dog" + bytes(507)
    (tmp_path / "a.tar").write_bytes(good + content)
    found = []
    with pytest.raises((tarfile.TarError, EOFError)):
        for member, _ in tar_members(tmp_path / "a.tar"):
            found.append(member.name)
    assert found[0] == "0.txt"
    (tmp_path / "a.tar").write_bytes(content)
    assert "\n" not in refused(lambda: find_reader(str(tmp_path / "a.tar")).table())


def test_a_row_of_parquet_is_no_larger_than_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("vilta.data.sources.columnar.LARGEST_FILE", 1000)
    table = pa.table({"image": [b"x"], "caption": ["a" * 5000]})
    pa.parquet.write_table(table, tmp_path / "0.parquet", compression="zstd")
    assert "rows are larger than" in refused(find_reader(str(tmp_path)).table)
