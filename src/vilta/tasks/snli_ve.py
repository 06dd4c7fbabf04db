"""SNLI-VE: does a photograph entail a sentence, contradict it, or neither? (arXiv 1901.06706)"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vilta.config.finetune import TaskSettings
from vilta.data.sources import ScenesName
from vilta.model import ViltaForVisualEntailment
from vilta.scenes import Draws, hidden_object, hypotheses, make_scene, picture_id
from vilta.tasks.finetuning import ItemRow
from vilta.tasks.formats.csv_lines import csv_lines, is_csv
from vilta.tasks.formats.json_lines import field, json_items
from vilta.tasks.label_task import LabellingTask

LABELS = ["contradiction", "neutral", "entailment"]
IMAGE_FIELDS = ("Flickr30K_ID", "Flikr30kID", "Flickr30kID", "image")
"""The release spells the image's id in two ways, with and without `.jpg`; ALBEF's lists have
`image`, `sentence` and `label`."""
TEXT_FIELDS = ("sentence2", "sentence", "hypothesis")
"""The release's, ALBEF's, and that of e-SNLI-VE's corrected labels (arXiv 2105.03761)."""
PER_SCENE = 3
"""Hypotheses about one scene (our choice)."""


@dataclass(frozen=True, kw_only=True)
class EntailmentSettings(TaskSettings):
    """Settings of visual entailment."""

    premise: bool = False
    """Put the premise caption before the hypothesis."""


class VisualEntailment(LabellingTask):
    """Rows: ``label``; the text is the hypothesis, after its premise if that is wanted."""

    name = "snli-ve"
    model_class = ViltaForVisualEntailment
    settings_class = EntailmentSettings
    settings: EntailmentSettings
    answers_in = "the field gold_label"

    @classmethod
    def rows(cls, path: str, settings: EntailmentSettings) -> list[ItemRow]:
        """Read ``snli_ve_*.jsonl``, ALBEF's ``ve_*.json``, or e-SNLI-VE's ``esnlive_*.csv``.

        Items without an agreed label (``-``) are left out.
        """
        table = csv_lines(path, ("Flickr30kID", "hypothesis")) if is_csv(path) else None
        items = enumerate(json_items(Path(path)) if table is None else table)
        rows = [_row(item, number, path, settings.premise) for number, item in items]
        return [row for row in rows if row["label"] != "-"]

    @classmethod
    def scenes(cls, named: ScenesName, settings: EntailmentSettings) -> list[ItemRow]:
        """Make hypotheses about the built-in pictures, in some of which an object is hidden."""
        if settings.premise:
            raise ValueError("scenes have no premise; leave --settings.premise off")
        rows: list[ItemRow] = []
        for index in range(named.first, named.first + named.count):
            scene, rng = make_scene(named.seed, index), Draws(named.seed, index, stream=22)
            hidden = hidden_object(scene, rng)
            for made in hypotheses(scene, hidden, rng, PER_SCENE):
                rows.append(
                    {
                        "id": f"{scene.image_id}-{len(rows)}",
                        "images": [picture_id(scene, hidden)],
                        "texts": [made.text],
                        "label": made.label,
                        "kind": made.kind,
                    }
                )
        return rows

    @classmethod
    def labels(cls, items: Any, settings: TaskSettings) -> list[str]:
        """Return the three labels, in METER's order."""
        return LABELS


def _row(item: dict[str, Any], number: int, path: str, premise: bool) -> ItemRow:
    image = next((item[name] for name in IMAGE_FIELDS if name in item), None)
    if image is None:
        raise ValueError(f"{path}, line {number + 1}: no image id ({' / '.join(IMAGE_FIELDS)})")
    known = next((name for name in TEXT_FIELDS if name in item), TEXT_FIELDS[0])
    text = str(field(item, known, path))
    if premise:
        text = f"{field(item, 'sentence1', path)} {text}"
    return {
        "id": str(item.get("pairID") or number),
        "images": [str(image)],
        "texts": [text],
        "label": str(item.get("gold_label", item.get("label", ""))),
    }
