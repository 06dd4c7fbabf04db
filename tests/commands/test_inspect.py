import io
import itertools
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from vilta.commands import pack
from vilta.commands.inspect import ContactSheet, run
from vilta.config.tools import InspectConfig, PackConfig


def write_pairs(folder, numbers, caption="picture <b>{}</b>"):
    folder.mkdir()
    for i in numbers:
        pixels = np.random.default_rng(i).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        (folder / f"{i}.png").write_bytes(file.getvalue())
        (folder / f"{i}.txt").write_text(caption.format(i))
    return str(folder)


@pytest.fixture
def source(tmp_path):
    folder = write_pairs(tmp_path / "train", range(6))
    (tmp_path / "train" / "copy.png").write_bytes((tmp_path / "train" / "2.png").read_bytes())
    (tmp_path / "train" / "copy.txt").write_text("a copy")
    (tmp_path / "train" / "broken.png").write_bytes(b"<html>")
    (tmp_path / "train" / "broken.txt").write_text("broken")
    return folder


def test_the_table_and_the_page(source, tmp_path, capsys):
    other = write_pairs(tmp_path / "val", [4, 77], "another {}")
    page = tmp_path / "pages" / "look.html"
    run(source, InspectConfig(against=other, out=str(page), examples=4))
    captured = capsys.readouterr()
    said = " ".join(captured.out.split())
    assert captured.err.endswith(
        f"wrote {page}; open it in a browser\nnext: vilta pack {source} --out data/NAME\n"
    )
    for line in (
        " images 8 ",
        "same bytes as another 1",
        "cannot be decoded 1",
        "1 of 2 (50.0 %)",
    ):
        assert line in said, line
    html = page.read_text()
    assert html.count('<div class="card"><div class="pair">') == 4
    assert "picture &lt;b&gt;" in html and "picture <b>" not in html
    assert "http" not in html.replace("http-equiv", "") and "<script" not in html
    assert "4.png" in html and "50.0 %" in html


def test_what_is_not_listed_is_counted(tmp_path, capsys):
    here = write_pairs(tmp_path / "train", range(30))
    for number in range(30):
        (tmp_path / "train" / f"bad-{number}.png").write_bytes(b"<html>")
        (tmp_path / "train" / f"bad-{number}.txt").write_text("broken")
    for copy in range(5):
        shutil.copy(tmp_path / "train" / "2.png", tmp_path / "train" / f"copy-{copy}.png")
        (tmp_path / "train" / f"copy-{copy}.txt").write_text("a copy")
    there = write_pairs(tmp_path / "val", range(25))
    found = run(here, InspectConfig(against=there, out=str(tmp_path / "page.html")))
    said = " ".join(capsys.readouterr().out.split())
    shared = found["shared_images"]
    assert shared >= 25
    assert "of these by identical bytes 25" in said
    assert f"and {shared - 10} more" in said, "shared images"
    assert "and 20 more" in said, "broken ones"
    assert "2 more" in said, "images of one group"


def test_packed_pairs_are_trained_on_next(source, tmp_path, capsys):
    packed, page = str(tmp_path / "packed"), str(tmp_path / "page.html")
    pack.run(source, PackConfig(out=packed))
    run(packed, InspectConfig(against=packed, out=page))
    told = capsys.readouterr().err.splitlines()[-1]
    data = f"--data.train {packed} --data.val {packed}"
    assert told == f"next: vilta pretrain {data} --run.out runs/mine"


def test_what_is_returned_are_the_numbers_of_the_tables(source, tmp_path):
    other = write_pairs(tmp_path / "val", [4, 77], "another {}")
    found = run(source, InspectConfig(against=other, out=str(tmp_path / "page.html")))
    assert (found["images"], found["broken_images"], found["identical_images"]) == (8, 1, 1)
    assert (found["shared_images"], found["shared_captions"]) == (1, 0)
    assert json.loads(json.dumps(found)) == found


def test_nothing_usable_is_told(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"x")
    (tmp_path / "in" / "a.txt").write_text(" ")
    with pytest.raises(ValueError, match="no usable pair; 1 was skipped"):
        run(str(tmp_path / "in"), InspectConfig(out=str(tmp_path / "p.html")))
    assert not (tmp_path / "p.html").exists()


@pytest.mark.parametrize("count", [0, 1, 5, 100, 1000])
def test_the_sheet_is_spread_evenly(count):
    sheet = ContactSheet(8)
    for i in range(count):
        sheet.offer({"number": i})
    numbers = [row["number"] for row in sheet.rows]
    assert min(count, 8) <= len(numbers) <= 16
    assert len({b - a for a, b in itertools.pairwise(numbers)}) <= 1
