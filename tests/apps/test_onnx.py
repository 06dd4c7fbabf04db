"""The exported models compute what torch computes, and the script beside them needs no torch."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import noise, write_run

from vilta.apps import onnx_ranker
from vilta.apps.matcher import Matcher
from vilta.apps.onnx_ranker import Ranker, read_pixels
from vilta.apps.onnx_recall import recall_by_onnx, recall_by_torch
from vilta.apps.released import load_released
from vilta.commands import export
from vilta.config.tools import ExportConfig
from vilta.data.sources import load_pairs
from vilta.data.transforms import evaluation_tensor
from vilta.decoding import decode_image

pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
TEXTS = ["two dogs run", "a red ball lies above the large green cube on the wet grass", "ball"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("runs") / "mine")
    data = "scenes:6?seed=2&size=48"
    export.run(str(run), ExportConfig(int8=True, data=data, images=5, top_k=2))
    return run


@pytest.mark.parametrize(
    ("images", "texts", "pairs"), [(1, 1, 1), (2, 3, 1), (40, 1, 33), (3, 3, 9)]
)
def test_exported_models_equal_torch_over_numbers_and_lengths(images, texts, pairs, run):
    released, ranker = load_released(run), Ranker(run / "onnx")
    model = released.model.eval()
    rng = np.random.default_rng(images)
    pixels = rng.integers(0, 256, (images, 3, 32, 32), dtype=np.uint8)
    states, embeds = ranker.encode_images(pixels)
    said = [TEXTS[i % 3] for i in range(texts)]
    encoded = ranker.encode_texts(said)
    rows = rng.integers(0, texts, pairs), rng.integers(0, images, pairs)
    odds = ranker.match(encoded, states, *rows)
    with torch.no_grad():
        tokens = released.tokenizer(
            said, padding=True, truncation=True, max_length=24, return_tensors="pt"
        )
        text = model.vilta.encode_text(tokens["input_ids"], tokens["attention_mask"])
        image = model.vilta.encode_image(torch.from_numpy(pixels))
        scores = model.match(text[rows[0]], tokens["attention_mask"][rows[0]], image[rows[1]])
        expected = {
            "states": (states, image),
            "embeds": (embeds, model.embed_image(image)),
            "text": (encoded.states, text),
            "text embeds": (encoded.embeds, model.embed_text(text, tokens["attention_mask"])),
            "odds": (odds, scores[:, 1] - scores[:, 0]),
        }
    for name, (found, wanted) in expected.items():
        assert np.abs(found - wanted.numpy()).max() < 1e-5, name
    assert np.abs(odds).max() > 0.001


def test_quantised_models_are_smaller_and_close(run):
    exact, rough = Ranker(run / "onnx"), Ranker(run / "onnx", int8=True)
    a, b = exact.encode_texts(TEXTS), rough.encode_texts(TEXTS)
    assert (a.embeds * b.embeds).sum(axis=1).min() > 0.98
    assert np.abs(a.embeds - b.embeds).max() > 1e-4
    for name in ("text_encoder", "matcher"):
        sizes = [(run / "onnx" / f"{name}{end}.onnx").stat().st_size for end in ("", ".int8")]
        assert sizes[1] < sizes[0], name


def test_recall_is_the_same_by_torch_and_by_the_export(run):
    released = load_released(run)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    words = " ".join(TEXTS).split()  # in another order for each caption: none are tied
    captions = [[" ".join(rng.permutation(words)[:9]) for _ in range(2)] for _ in range(12)]
    for ranking in ("contrastive", "matching", "combined"):
        ranker = Ranker(run / "onnx")
        ranker.settings["ranking"] = released.model.config.ranking = ranking
        found = recall_by_onnx(ranker, pixels, captions, top_k=4)
        assert found == recall_by_torch(
            released.model.eval(), released.tokenizer, pixels, captions, 4
        )
    told = json.loads((run / "onnx" / "recall.json").read_text())
    assert told["images"] == 5 and set(told["R@1"]) == {"torch", "onnx", "onnx int8"}
    assert told["R@1"]["onnx"] == told["R@1"]["torch"]


def test_recall_leaves_out_what_cannot_be_read(run, tmp_path, capfd):
    out, data = shutil.copytree(run / "onnx", tmp_path / "onnx"), tmp_path / "data"
    data.mkdir()
    for seed in range(4):
        noise(seed).save(data / f"{seed}.png")
        (data / f"{seed}.txt").write_text(TEXTS[seed % 3])
    (data / "1.png").write_bytes(b"no photo")
    released, config = load_released(run), ExportConfig(data=str(data), top_k=2)
    found = export.measure(released, out, load_pairs(str(data)), config)
    assert found["images"] == 3 and found["R@1"]["onnx"] == found["R@1"]["torch"]
    assert "left out 1.png: not an image of a known format" in capfd.readouterr().err
    with pytest.raises(ValueError, match=r"no image of .* can be read"):
        export.measure(released, out, load_pairs(str(data)).select([1]), config)


WITHOUT_TORCH = """
import runpy, sys
for name in ("torch", "transformers", "vilta"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_script_ranks_a_folder_without_torch(run, tmp_path):
    photos = tmp_path / "photos"
    (photos / "deeper").mkdir(parents=True)
    for seed in range(5):
        noise(seed).save(photos / ("deeper" if seed % 2 else ".") / f"{seed}.png")
    (photos / "broken.jpg").write_bytes(b"not a photo")
    odd = os.fsdecode(b"latin-\xe9.png")
    noise(6).save(photos / odd)
    noise(1, (200, 200)).save(photos / "cut.jpg")
    (photos / "cut.jpg").write_bytes((photos / "cut.jpg").read_bytes()[:-2000])
    script = str(run / "onnx" / "rank.py")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, script, str(photos), "two dogs run", "--top", "6"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    skipped, cut = done.stderr.splitlines()  # stdout is what was found
    assert skipped.startswith(f"skipped {photos / 'broken.jpg'}") and len(lines) == 6
    assert cut.startswith(f"skipped {photos / 'cut.jpg'}")
    paths = sorted(photos.rglob("*.png"))
    best = Matcher(run).rank("two dogs run", paths, top_k=6)
    for line, expected in zip(lines, best, strict=True):
        score, chance, sign, path = line.split()
        shown = str(paths[expected.index]).replace(odd, r"latin-\udce9.png")
        assert path == shown and sign == "%"
        assert float(score) == pytest.approx(expected.score, abs=0.006)
        assert float(chance) == pytest.approx(100 * expected.probability, abs=0.06)


def test_the_script_reads_photos_as_evaluation_does(tmp_path):
    paths = []
    for name, options in {"turned.jpg": {"exif": exif(6)}, "tall.png": {}, "seen.png": {}}.items():
        image = noise(1, (70, 50)) if name == "tall.png" else noise(2, (50, 80))
        if name == "seen.png":
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        paths.append(tmp_path / name)
        image.save(paths[-1], **options)
    grey = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (48, 1))
    for name, values in {
        "16.png": grey,
        "16.tif": grey,
        "32.tif": grey.astype(np.int32),
        "byte.tif": (grey >> 8).astype(np.int32),
        "share.tif": (grey / 65535).astype(np.float32),
        "float.tif": (grey / 257).astype(np.float32),
    }.items():
        paths.append(tmp_path / name)
        Image.fromarray(values).save(paths[-1])
    for path, found in zip(paths, read_pixels(paths, 32), strict=True):
        expected = evaluation_tensor(decode_image(path.read_bytes()), 32)
        assert np.array_equal(found, expected.numpy()), path.name


def test_the_script_skips_what_it_cannot_read(tmp_path, capfd):
    noise(1).save(tmp_path / "a.png")
    for name, value in {"beyond.tif": 1e6, "no number.tif": np.nan}.items():
        Image.fromarray(np.full((48, 64), value, np.float32)).save(tmp_path / name)
    assert onnx_ranker.readable(tmp_path) == [tmp_path / "a.png"]
    told = capfd.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in told] == ["grey of an unknown scale"] * 2


def test_the_script_takes_the_photos_that_search_takes(tmp_path):
    """No pipe, which nothing may ever write to, and nothing in a hidden folder."""
    folder = tmp_path / ".hidden" / "photos"  # a folder that is named is not left out
    for place in ("a.png", ".b.png", ".thumbnails/c.png", "more/d.png", "more/.e/f/g.png"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        noise(1).save(folder / place)
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    os.symlink(folder / "pipe.jpg", folder / "link.jpg")
    assert onnx_ranker.readable(folder) == [folder / "a.png", folder / "more" / "d.png"]


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--int8"], "has no image_encoder.int8.onnx (vilta export RUN --int8 writes it)"),
        (["--top", "0"], "--top is 0; it must be 1 or more"),
    ],
)
def test_what_the_script_cannot_do_is_told_in_a_line(flags, said, tmp_path, monkeypatch, capsys):
    noise(1).save(tmp_path / "photo.png")
    monkeypatch.setattr("sys.argv", ["rank.py", str(tmp_path), "a dog", *flags])
    with pytest.raises(SystemExit, match="2"):
        onnx_ranker.main()
    assert capsys.readouterr().err.endswith(f"{said}\n")


def test_the_script_skips_a_photo_of_too_many_pixels(tmp_path, monkeypatch, capsys):
    noise(1).save(tmp_path / "photo.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert onnx_ranker.readable(tmp_path) == []
    assert capsys.readouterr().err.startswith(f"skipped {tmp_path / 'photo.png'}: ")


def test_what_is_missing_or_in_the_way_is_said_in_a_line(run, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"has no image_encoder\.onnx"):
        Ranker(tmp_path)
    (tmp_path / "full").mkdir()
    with pytest.raises(ValueError, match="no such file or folder: nowhere"):
        export.run(str(run), ExportConfig(out=str(tmp_path / "new"), data="nowhere"))
    assert not (tmp_path / "new").exists(), "data are looked at before the work"
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"choose another place to write: .*file/new"):
        monkeypatch.setattr(export, "export_onnx", lambda *_, **__: pytest.fail("it began"))
        export.run(str(run), ExportConfig(out=str(tmp_path / "file" / "new")))
    with pytest.raises(ValueError, match="nothing to write"):
        export.run(str(run), ExportConfig(onnx=False))
    with pytest.raises(ValueError, match="exists and is not an export; choose another --out"):
        export.run(str(run), ExportConfig(out=str(tmp_path / "full")))
    with pytest.raises(ValueError, match="--out must name the folder"):
        shutil.copytree(run / "model", tmp_path / "alone")
        export.run(str(tmp_path / "alone"), ExportConfig())
