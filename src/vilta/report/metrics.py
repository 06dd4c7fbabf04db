"""The metrics of an evaluation, as tiles and as tables."""

from __future__ import annotations

from typing import Any

from vilta.evaluation.retrieval import STAGES
from vilta.model.configuration import RANKINGS
from vilta.report.html import Table, Tile
from vilta.scenes import COLOURS


def key_tiles(metrics: dict[str, Any], images: int, filter_name: str) -> list[Tile]:
    """Return the most informative metrics, in percent, each with chance or what to compare with."""
    chance, tiles = 100 / images, []
    ways = {
        "image_to_text": ("image to text", "caption"),
        "text_to_image": ("text to image", "image"),
    }
    for way, (label, result) in ways.items():
        found = {
            s: metrics["retrieval"][s][way]["R@1"] for s in RANKINGS if s in metrics["retrieval"]
        }
        *others, best = found
        alone = f"contrast alone {found['contrastive']:.1f}" if others else f"{best} alone"
        note = f"the first {result} is right; {alone}, chance {_small(chance)}"
        tiles.append(Tile(percent(found[best]), f"R@1, {label}", note))
    words = {view: values["top1"] for view, values in metrics["masked_words"].items()}
    if "with_image" in words:
        note = _note(words, {"wrong_image": "wrong image", "text_only": "no image"})
        tiles.append(Tile(percent(words["with_image"]), "masked words right with the image", note))
    scenes = metrics.get("scenes", {})
    if "colour" in scenes:
        note = _note(scenes, {"colour_wrong_image": "with a wrong image"})
        note = "; ".join(filter(None, [note, f"chance {100 / len(COLOURS):.1f}"]))
        tiles.append(Tile(percent(scenes["colour"]), "masked colours right", note))
    if "edit" in scenes:
        note = _note(scenes, {"edit_rejected": "false one below 50 % match"})
        note = "; ".join(filter(None, ["chance 50", note]))
        tiles.append(Tile(percent(scenes["edit"]), "true caption beats a one-word edit", note))
    if "paraphrase" in scenes:
        note = "same meaning in other words: match above 50 %"
        tiles.append(Tile(percent(scenes["paraphrase"]), "paraphrases accepted", note))
    if filter_name in metrics.get("negatives", {}):
        generated = metrics["negatives"][filter_name]
        note = f"filter {filter_name}; {generated['generated']:.0f} % of the captions have one"
        if filter_name != "none" and "none" in metrics["negatives"]:
            note += f"; without a filter {metrics['negatives']['none']['still_true']:.1f}"
        tiles.append(Tile(percent(generated["still_true"]), "negatives that are true", note))
    return tiles


def _note(metrics: dict[str, float], labels: dict[str, str]) -> str:
    """List those of the metrics that the evaluation has."""
    return ", ".join(f"{label} {metrics[n]:.1f}" for n, label in labels.items() if n in metrics)


BLINDNESS = {
    "right_image": "with its image",
    "wrong_image": "with another image: the text alone decides",
    "generated": "captions with a negative",
    "synonyms": "negatives that are a synonym, of words that have one",
}
"""What ``vilta.evaluation.blindness`` counts, in words."""


def metric_tables(metrics: dict[str, Any], images: int = 0) -> dict[str, Table]:
    """Return the metrics as titled tables, in percent except for losses.

    ``images`` adds the level of chance to the recalls; 0: unknown.
    """
    tables = {
        "Retrieval": Table(
            ("", "R@1", "R@5", "R@10"),
            [
                (
                    f"{way.replace('_', ' ')}, {stage}",
                    *(f"{values[f'R@{k}']:.1f}" for k in (1, 5, 10)),
                )
                for stage in STAGES
                for way, values in metrics["retrieval"].get(stage, {}).items()
            ]
            + ([_chance(images)] if images else []),
        ),
        "Masked words": Table(
            ("", "top-1", "top-5"),
            [
                (view.replace("_", " "), f"{values['top1']:.1f}", f"{values['top5']:.1f}")
                for view, values in metrics["masked_words"].items()
            ],
        ),
        "Matching (chance 50)": Table(
            ("", "accuracy"),
            [
                (f"{name.removeprefix('itm/accuracy_').replace('_', '-')} pairs", f"{value:.1f}")
                for name, value in metrics["validation"].items()
                if name.startswith("itm/accuracy_")
            ],
        ),
        "Losses on held-out data": Table(
            ("", "mean"),
            [
                (name, f"{value:.3f}")
                for name, value in metrics["validation"].items()
                if "/" not in name
            ],
        ),
    }
    if "calibration" in metrics:
        errors = metrics["calibration"]
        rows = [("raw", f"{errors['ece_raw']:.1f}"), ("calibrated", f"{errors['ece']:.1f}")]
        if metrics["reliability"]["raw"] == metrics["reliability"]["calibrated"]:
            rows = [("raw; the model is not calibrated", rows[0][1])]
        tables["Calibration error of match probabilities"] = Table(("", "%"), rows)
    if "blindness" in metrics:
        tables["Generated negatives: true caption above its negative (chance 50)"] = Table(
            ("", "%"),
            [
                (BLINDNESS[name], f"{value:.1f}")
                for name, value in metrics["blindness"].items()
                if name in BLINDNESS
            ],
        )
    if "scenes" in metrics:
        tables["Scenes, judged by the oracle"] = Table(
            ("", "%"),
            [(name.replace("_", " "), f"{value:.1f}") for name, value in metrics["scenes"].items()],
        )
    if "negatives" in metrics:
        tables["Synthesised negatives, judged by the oracle"] = Table(
            ("filter", "captions with one", "in fact true", "ungrammatical"),
            [
                (name, *(f"{shares[k]:.1f}" for k in ("generated", "still_true", "no_sentence")))
                for name, shares in metrics["negatives"].items()
            ],
        )
    return tables


def _chance(images: int) -> tuple[str, ...]:
    """Return the recalls of a random ranking of that many images."""
    return ("chance, text to image", *(_small(100 * min(k / images, 1.0)) for k in (1, 5, 10)))


def _small(value: float) -> str:
    """Write a percentage that may be far below one."""
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2g}"


def percent(value: float) -> str:
    """Write a percentage with one digit after the point."""
    return f"{value:.1f} %"
