"""The model card of a released folder, ``RUN/model/README.md``, from the run's own record.

What the record does not contain is given as unknown, licences above all: nothing is guessed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState
from huggingface_hub import ModelCard, ModelCardData, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from vilta.data.sources.base import manifest_of
from vilta.data.sources.options import public_name
from vilta.finished_run import recorded_path, recorded_sources, same_place
from vilta.json_text import json_object, with_nan
from vilta.metrics.names import flat
from vilta.model.places import check_name
from vilta.training.folder import CONFIG, METRICS, MODEL, log_lines, replace_text
from vilta.version import __version__

CARD = "README.md"
UNKNOWN = "not recorded: look it up before you pass the weights on"
SCENES = re.compile(r"scenes(:|$)")
SHOWN = re.compile(
    r"(R@\d+|mean_recall|accuracy[\w/]*|top[15]|edit\w*|colour\w*|paraphrase|score)$"
)
"""Metrics of pre-training that the card shows; losses and statistics stay in the run."""
PIPELINES = {
    "pretrain": "zero-shot-image-classification",
    "retrieval": "zero-shot-image-classification",
    "vqa": "visual-question-answering",
    "text": "fill-mask",
}
"""The hub's names of what a model is for."""

PAIRS = """```python
import torch
import vilta
from transformers import AutoProcessor

model = vilta.{architecture}.from_pretrained("FOLDER-OR-HUB-NAME").eval()
processor = AutoProcessor.from_pretrained("FOLDER-OR-HUB-NAME")
batch = processor(images={images}, text=["{text}"], return_tensors="pt")
with torch.no_grad():
    output = model(**batch)
print({result})
```
"""
WORDS = """```python
from transformers import pipeline

fill = pipeline("fill-mask", model="FOLDER-OR-HUB-NAME")
print(fill(f"a red {fill.tokenizer.mask_token} above a blue ring"))
```
"""
MATCH = "output.match_logits.softmax(dim=-1)[:, 1]"
LABEL = "model.config.id2label[int(output.logits[0].argmax())]"


@dataclass(frozen=True, kw_only=True)
class Run:
    """The parts of a run's record that the card shows."""

    folder: Path
    settings: dict[str, Any]
    """Content of config.yaml."""
    architecture: str
    """Class of the released weights."""

    @property
    def kind(self) -> str:
        """``pretrain``, ``text``, or the name of the task that it was fine-tuned for."""
        return self.settings.get("task") or ("pretrain" if "objective" in self.settings else "text")


def write_card(run_folder: str | Path) -> Path:
    """Write the card of a run's released model and return its path.

    Raises ``ValueError`` in one line if the run has no settings or has released no model.
    """
    run = _read(Path(run_folder))
    card = ModelCard(f"---\n{_header(run).to_yaml()}\n---\n\n{_body(run)}")
    path = run.folder / MODEL / CARD
    replace_text(path, str(card))
    return path


def update_card(run_folder: str | Path) -> None:
    """Rewrite the card if this is a run that has released a model; one process does it."""
    folder = Path(run_folder)
    released = (folder / CONFIG).is_file() and (folder / MODEL / "config.json").is_file()
    if released and PartialState().is_main_process:
        write_card(folder)


def write_converted_card(folder: Path, checkpoint: str, text: str) -> None:
    """Write the card of a model folder that was converted from another project's checkpoint."""
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    run = Run(folder=folder, settings={"objective": {}}, architecture=architecture)
    parts = [
        ("code", "vilta", "apache-2.0"),
        ("weights", Path(checkpoint).name, UNKNOWN),
        ("text encoder's configuration, tokenizer and head", public_name(text), licence_of(text)),
    ]
    header = ModelCardData(
        library_name="transformers",
        license="other",
        pipeline_tag=PIPELINES["pretrain"],
        tags=["vilta", "vision-language", "image-text-matching"],
    )
    body = (
        f"# {Path(checkpoint).stem}\n\nConverted from METER's checkpoint "
        f"`{Path(checkpoint).name}`. Its contrastive space is untrained.\n"
        f"\n## How to use\n\n{_usage(run)}"
        f"\n## Licences of the parts\n\n{_table(('part', 'from', 'licence'), parts)}"
    )
    replace_text(folder / CARD, f"---\n{header.to_yaml()}\n---\n\n{body}")


def licence_of(source: str) -> str:
    """Return the licence that the card of an encoder or data set names, local or in the cache."""
    place: Any = Path(source) / CARD
    if not place.is_file():
        try:
            check_name(source)
            place = try_to_load_from_cache(source, CARD)
        except (ValueError, HfHubHTTPError):  # not a name of the hub
            place = None
    if not isinstance(place, str | Path):
        return UNKNOWN
    try:
        named = ModelCard.load(place, ignore_metadata_errors=True).data.license
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        named = None
    return str(named or UNKNOWN)


def _read(folder: Path) -> Run:
    try:
        settings = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        config = json.loads((folder / MODEL / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{folder} is not a run with a released model: {error}") from None
    settings = {"data": {}, "run": {}} | settings  # a file of one's own may be shorter
    return Run(folder=folder, settings=settings, architecture=config["architectures"][0])


def _header(run: Run) -> ModelCardData:
    known = {licence for _, _, licence in _parts(run)}
    return ModelCardData(
        library_name="transformers",
        license=known.pop() if len(known) == 1 and UNKNOWN not in known else "other",
        pipeline_tag=PIPELINES.get(run.kind),
        tags=["vilta", "vision-language", "image-text-matching"] if run.kind != "text" else None,
    )


def _body(run: Run) -> str:
    what = {
        "pretrain": "Image encoder, text encoder and fusion, pre-trained together on image-text "
        "pairs with [ViLTA](https://arxiv.org/abs/2308.16689).",
        "text": "A masked language model trained on captions, as text encoder and teacher.",
    }.get(run.kind, f"Fine-tuned for `{run.kind}` from a ViLTA pre-training run.")
    sections = {
        "How to use": _usage(run),
        "Data": _table(("", "source", "images", "captions"), _data(run)),
        "Metrics": _all_metrics(run),
        "Licences of the parts": _table(("part", "from", "licence"), _parts(run)),
        "Settings": _settings(run),
    }
    return f"# {run.folder.resolve().name}\n\n{what}\n" + "".join(
        f"\n## {title}\n\n{text}" for title, text in sections.items()
    )


def _usage(run: Run) -> str:
    if run.kind == "text":
        return WORDS
    matches = run.architecture in ("ViltaForPreTraining", "ViltaForImageTextRetrieval")
    text = "two dogs run on a beach" if matches else "what is the dog doing?"
    two = run.architecture == "ViltaForVisualReasoning"
    code = PAIRS.format(
        architecture=run.architecture,
        images='["left.jpg", "right.jpg"]' if two else '"photo.jpg"',
        text=text,
        result=MATCH if matches else LABEL,
    )
    return "`pip install vilta`, then\n\n" + code


def _data(run: Run) -> Iterator[tuple[str, str, str, str]]:
    for name in ("train", "val"):
        if source := run.settings["data"].get(name):
            held = _manifest(recorded_path(source, run.folder))
            where = public_name(source) + (f" ({public_name(held['source'])})" if held else "")
            yield name, where, str(held.get("rows", "")), str(held.get("captions", ""))


def _manifest(folder: str) -> dict[str, Any]:
    """Return what a packed folder says of itself; nothing of another."""
    manifest = manifest_of(folder)
    return manifest if isinstance(manifest.get("source"), str) else {}


def _all_metrics(run: Run) -> str:
    tables = "\n".join(_metrics(run))
    seed = run.settings["run"].get("seed", 0)
    return f"One run, seed {seed}; shares in %.\n\n{tables}" if tables else "Not evaluated.\n"


def _metrics(run: Run) -> Iterator[str]:
    """Yield a table for each evaluation, and for the one that chose the weights."""
    chosen_on = run.settings["data"].get("val") or "held-out training data"
    lines = [line for line in log_lines(run.folder / METRICS) if "evaluation" in line]
    chosen_by = run.settings["run"].get("selection_metric") or run.settings["run"].get(
        "best_metric"
    )
    measured = [line for line in lines if chosen_by in line["evaluation"]]
    last = run.settings["run"].get("release") == "last"  # then nothing was chosen
    if last:
        best = measured[-1] if measured else None
    else:
        finite = [line for line in measured if math.isfinite(line["evaluation"][chosen_by])]
        best = max(finite, key=lambda line: line["evaluation"][chosen_by], default=None)
    tables = {(chosen_on, run.kind): best["evaluation"]} if best else {}
    for path in sorted(run.folder.glob("*.json")):
        content = json_object(path)
        values = content.get("metrics") or content.get("figures")
        data, task = content.get("data"), str(content.get("task", run.kind))
        if isinstance(values, dict) and isinstance(data, str):
            known = [(d, t) for d, t in tables if t == task and same_place(d, data, run.folder)]
            # More exact than what training measured.
            tables[known[0] if known else (data, task)] = flat(with_nan(values))
    for (data, task), values in tables.items():
        note = "" if task == run.kind else f", by `{task}`"
        if best and same_place(data, chosen_on, run.folder):
            chose = f", which chose step {best['step']} by `{chosen_by}`: not a test result"
            note += "; the last step was released, none was chosen on these" if last else chose
        if task in ("pretrain", "text"):
            values = {n: v for n, v in values.items() if n == chosen_by or SHOWN.search(n)}
        yield f"On {public_name(data)}{note}.\n\n{_metric_table(values)}\n"


def _metric_table(values: dict[str, Any]) -> str:
    rows = [(f"`{name}`", f"{value:.4g}") for name, value in values.items() if _is_finite(value)]
    return _table(("metric", "value"), rows)


def _parts(run: Run) -> list[tuple[str, str, str]]:
    """Return what the weights were made of, where it is from, and its licence."""
    model, data = run.settings.get("model", {}), run.settings["data"]
    sources = {
        "image encoder": model.get("image", ""),
        "text encoder": model.get("text", ""),
        "teacher": run.settings.get("objective", {}).get("teacher", ""),
        "weights at the start": run.settings.get("start") or model.get("start", ""),
    }
    parts = [("code", "vilta", "apache-2.0")]
    for part, source in sources.items():
        if source and Path(source).suffix == ".json":
            parts.append((part, "trained here from random weights", "apache-2.0"))
        elif source:
            licence = licence_of(recorded_path(source, run.folder))
            parts.append((part, public_name(source), licence))
    for name, place in recorded_sources(str(data.get("train", "")), run.folder):
        source = _manifest(place).get("source", name)
        drawn = SCENES.match(source)
        licence = "apache-2.0" if drawn else licence_of(place)
        parts.append(("training data", "built-in scenes" if drawn else public_name(name), licence))
    return parts


def _settings(run: Run) -> str:
    # The package's own version from itself: it may run from its sources, not installed.
    others = (f"{name} {version(name)}" for name in ("torch", "transformers"))
    libraries = ", ".join((f"vilta {__version__}", *others))
    text = yaml.safe_dump(_public(run.settings), sort_keys=False, allow_unicode=True)
    return f"{libraries}\n\n```yaml\n{text}```\n"


def _public(value: Any) -> Any:
    """Return settings as they may be published, without folders of this machine."""
    if isinstance(value, dict):
        return {key: _public(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_public(each) for each in value]
    return public_name(value) if isinstance(value, str) else value


def _is_finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    cells = (" | ".join(str(cell).replace("|", "\\|") for cell in line) for line in lines)
    return "".join(f"| {line} |\n" for line in cells)
