"""The page docs/results.md, made of the result files alone."""

from __future__ import annotations

from typing import Any

ARMS = {
    "pretrained": "from the pre-trained run",
    "scratch": "from scratch, equal steps",
    "gain": "gain of pre-training",
    "zero-shot": "not fine-tuned",
}
"""Arm of a result -> heading of its column; the gain is the first arm less the second."""
TITLES = {
    "scenes": "The built-in scenes, 1,000 to 2,000 that no choice was made on",
    "easy-vqa": "easy-VQA, its test questions",
    "flickr8k": "Flickr8k, the 1,000 photos of val, on which the checkpoint was chosen too",
}
MAIN = {"retrieval": "combined/mean_recall"}
"""The figure that a task is judged by; else accuracy."""
SHOWN = (
    "majority",
    "edits_rejected",
    "captions_accepted",
    "paraphrases_accepted",
    "contrastive/image_to_text/R@1",
    "contrastive/text_to_image/R@1",
    "combined/image_to_text/R@1",
    "combined/text_to_image/R@1",
)
"""Further metrics that stand below it."""
WORDS = "masked-words"
"""The task whose metrics stand by part of speech, in a table of their own."""
TOPS = ("top1", "top5")
COLUMNS = ("task", "figure, %", *ARMS.values(), "items", "steps x batch", "minutes", "seed")


def page(results: list[dict[str, Any]], speed: dict[str, Any] | None = None) -> str:
    """Return the page; a result with ``intervals`` gets a table of its own.

    ``speed`` is what benchmarks/speed/retrieval.py measured.
    """
    lines = [
        "# Results of the tasks",
        "",
        "Made by `python -m benchmarks.tasks table` from the JSON in benchmarks/results/tasks,",
        "which also holds the metrics by kind, the device and the command of each run.",
        "",
    ]
    plain = [r for r in results if "intervals" not in r and r["task"] != WORDS]
    for source in dict.fromkeys(r["source"] for r in plain):
        lines += [f"## {TITLES[source]}", "", *_table(COLUMNS)]
        found = [r for r in plain if r["source"] == source]
        for task in dict.fromkeys(r["task"] for r in found):
            lines += _rows(task, {r["arm"]: r for r in found if r["task"] == task})
        lines.append("")
    for result in results:
        if "intervals" in result:
            lines += _intervals(result)
        elif result["task"] == WORDS:
            lines += _words(result)
    if speed is not None:
        lines += _speed(speed)
    return "\n".join(lines)


def percent(value: float) -> str:
    """Return a figure to one decimal; what is not quite a hundred does not look like one."""
    shown = f"{value:.1f}"
    return f"{value:.2f}" if shown == "100.0" and value < 100 else shown


def _table(columns: tuple[str, ...]) -> list[str]:
    return [_line(columns), "|---" * len(columns) + "|"]


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rows(task: str, arms: dict[str, dict[str, Any]]) -> list[str]:
    first = arms.get("pretrained", next(iter(arms.values())))
    main = MAIN.get(task, "accuracy")
    how = (
        f"{first['items']:,}",
        f"{first['steps']:,} x {first['batch']}",
        f"{first['minutes']:.1f}",
        str(first["seed"]),
    )
    rows = []
    for figure in (main, *(f for f in SHOWN if f in first["metrics"])):
        found = {arm: result["metrics"][figure] for arm, result in arms.items()}
        values = {arm: percent(value) for arm, value in found.items()}
        if {"pretrained", "scratch"} <= found.keys():
            values["gain"] = f"{found['pretrained'] - found['scratch']:+.1f}"
        title = (task if figure == main else "", figure.replace("_", " "))
        cells = (values.get(arm, "") for arm in ARMS)
        rows.append(_line((*title, *cells, *(how if figure == main else [""] * len(how)))))
    return rows


def _intervals(result: dict[str, Any]) -> list[str]:
    rows = [
        _line((name, f"{value['mean']:.1f}", f"{value['low']:.1f} to {value['high']:.1f}"))
        for name, value in result["intervals"].items()
    ]
    return [
        f"## {result['title']}",
        "",
        result["note"],
        "",
        *_table(("accuracy, %", "mean", "95 % interval")),
        *rows,
        "",
    ]


def _speed(result: dict[str, Any]) -> list[str]:
    times, metrics = result["times faster than pairs again"], result["metrics"]
    rows = []
    for name, seconds in result["seconds"].items():
        ways = metrics.get(name, {}).values()
        recall = " / ".join(f"{way['R@1']:.1f}" for way in ways)
        rows.append(_line((name, f"{seconds:,.1f}", f"{times[name]:,.1f}", recall)))
    pairs = result["pairs scored"]
    return [
        "## How long retrieval takes to evaluate",
        "",
        f"{result['images']:,} images and {result['texts']:,} texts, one model of "
        f"{result['parameters'] / 1e6:.1f} M parameters ({result['run']}), {result['device']}.\n"
        "All ways in one run of `python -m benchmarks.speed.retrieval`.\n"
        "`pairs again` encodes an image again for every 64 texts, as METER's evaluation does "
        "(measured on "
        f"{result['measured_images']} images, scaled up);\n"
        "`two stages` ranks by contrast and scores"
        f" {pairs['two stages']:,} of {pairs['all']:,} pairs.",
        "",
        *_table(("way", "seconds", "times faster", "R@1, image to text / text to image")),
        *rows,
        "",
    ]


def _words(result: dict[str, Any]) -> list[str]:
    metrics = result["metrics"]
    parts = [name.removesuffix("count") for name in metrics if name.endswith("count")]
    rows = []
    for part in sorted(parts, key=lambda part: -metrics[f"{part}count"]):
        views = (
            f"{part}{view}/{top}" for view in ("with_image", "text_only", "gain") for top in TOPS
        )
        values = (f"{metrics[name]:.1f}" for name in views)
        rows.append(_line((part.rstrip("/") or "all", *values, f"{metrics[f'{part}count']:,.0f}")))
    columns = (f"{view}, {top}" for view in ("image", "text alone", "gain") for top in TOPS)
    return [
        f"## Masked words: {TITLES[result['source']]}",
        "",
        f"The pre-trained run as it is, {result['items']:,} captions; percent of masked tokens.",
        "",
        *_table(("part of speech", *columns, "tokens")),
        *rows,
        "",
    ]
