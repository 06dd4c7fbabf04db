"""The metrics called val are those on the run's own data.val, and the newest of them."""

import json
import os

import pytest
from benchmarks.flickr8k import collect


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.yaml").write_text("run: {seed: 0}\ndata: {val: pairs/val}\n")
    lines = [{"step": 0, "device": "CPU"}, {"step": 9, "seconds": 60.0, "epoch": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def write(folder, name, data, recall, age):
    way = {f"R@{k}": recall for k in (1, 5, 10)}
    stages = {"matching": {"image_to_text": way, "text_to_image": way}}
    metrics = {"retrieval": {**stages, "mean_recall": recall}}
    result = {"data": data, "precision": "float32", "metrics": metrics}
    (folder / name).write_text(json.dumps(result))
    os.utime(folder / name, (10**9 - age, 10**9 - age))


def recalled(folder):
    val = collect.read_run(folder)["val"]
    assert set(val) == {"matching"}, "a run trained without contrast has no other stage"
    return val["matching"]["text_to_image"]["R@5"]


def test_figures_on_other_data_are_not_taken(folder):
    write(folder, "evaluation-a-train.json", "pairs/train", 99.0, age=1)
    write(folder, "evaluation-val-old.json", "pairs/val", 10.0, age=5)
    write(folder, "evaluation-val.json", "pairs/val", 20.0, age=3)
    write(folder, "evaluation-z-test.json", "pairs/test", 99.0, age=0)
    write(folder, "benchmark-retrieval.json", "pairs/val", 30.0, age=0)
    assert recalled(folder) == 20.0


def test_a_fine_tuned_run_has_the_figures_of_its_task(folder):
    write(folder, "retrieval-test.json", "pairs/test", 99.0, age=0)
    write(folder, "benchmark-retrieval.json", "pairs/val", 30.0, age=1)
    assert recalled(folder) == 30.0


def test_a_run_without_them_is_refused_in_one_line(folder, monkeypatch):
    write(folder, "evaluation-train.json", "pairs/train", 99.0, age=0)
    monkeypatch.setattr(collect, "RESULTS", folder / "results.json")
    monkeypatch.setattr("sys.argv", ["collect", str(folder)])
    with pytest.raises(SystemExit, match=r"run: vilta evaluate .* --data pairs/val") as refused:
        collect.main()
    assert "\n" not in str(refused.value)
