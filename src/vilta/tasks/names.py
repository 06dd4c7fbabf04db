"""The tasks by name, in a module that loads nothing: the command line asks it before torch."""

from __future__ import annotations

TASKS = {
    "retrieval": "vilta.tasks.retrieval:ImageTextRetrieval",
    "vqa": "vilta.tasks.vqa:VisualQuestionAnswering",
    "nlvr2": "vilta.tasks.nlvr2:VisualReasoning",
    "snli-ve": "vilta.tasks.snli_ve:VisualEntailment",
    "fine-grained": "vilta.tasks.fine_grained:FineGrainedMatching",
    "masked-words": "vilta.tasks.masked_words:MaskedWords",
    "classification": "vilta.tasks.classification:Classification",
}
"""Name on the command line -> module and class. `module:Class` names a task from elsewhere."""


def is_task(name: str) -> bool:
    """Whether this is the name of a task, here or elsewhere (``module:Class``)."""
    return name in TASKS or ":" in name
