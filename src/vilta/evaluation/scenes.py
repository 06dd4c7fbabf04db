"""Metrics of the built-in scenes, whose oracle knows the truth of every sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vilta.model import ViltaForPreTraining
from vilta.objectives.hard_negatives import SynthesisedNegatives
from vilta.scenes import (
    is_true,
    masked_colour,
    one_word_edits,
    paraphrases,
    parse,
    scene_from_id,
    word_class,
)
from vilta.types import Batch


@torch.no_grad()
def caption_scores(
    model: ViltaForPreTraining,
    tokenizer: PreTrainedTokenizerBase,
    image_states: Float[Tensor, "B P C"],
    captions: Sequence[str],
) -> Float[Tensor, "B"]:
    """Log-odds that caption i matches encoded image i."""
    tokens = _tokens(model, tokenizer, captions)
    mask = tokens["attention_mask"]
    logits = model.match(
        model.vilta.encode_text(tokens["input_ids"], mask), mask, image_states
    ).float()
    return logits[:, 1] - logits[:, 0]


@torch.no_grad()
def filled_words(
    model: ViltaForPreTraining,
    tokenizer: PreTrainedTokenizerBase,
    image_states: Float[Tensor, "B P C"],
    captions: Sequence[str],
) -> list[str]:
    """Fill the one mask token of each caption with the likeliest word, looking at its image.

    A caption so long that its mask token was cut away gets the empty string.
    """
    tokens = _tokens(model, tokenizer, captions)
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    text_states = model.vilta.encode_text(ids, mask)
    fused = model.vilta.fuse(text_states, mask, image_states).text
    rows, columns = (ids == tokenizer.mask_token_id).nonzero(as_tuple=True)
    best = model.predict_words(fused[rows, columns], text_states[rows, columns]).argmax(dim=1)
    words = [""] * len(captions)
    for row, token in zip(rows.tolist(), best.tolist(), strict=True):
        words[row] = tokenizer.decode([token]).strip()
    return words


@torch.no_grad()
def scene_metrics(
    model: ViltaForPreTraining,
    tokenizer: PreTrainedTokenizerBase,
    table: Any,
    loader: Iterable[Batch],
    seed: int = 0,
    *,
    matching: bool = True,
) -> dict[str, float]:
    """Masked colours, one-word edits and paraphrases on a table of scenes, in percent.

    A filled colour is right if the filled caption is true of the caption's own scene, so a
    synonym counts. ``wrong_image`` shows the batch's next picture instead, where it is of another
    scene. An edit changes one word and is false of the scene; the true caption must have the higher
    match score. A paraphrase has the same meaning in other words; it is accepted if its match
    probability exceeds one half. What nothing was counted for is left out, and so is what matching
    answers where it was not trained.
    """
    hits = dict.fromkeys(["colour", "colour_wrong_image", "edit", "edit_rejected", "paraphrase"], 0)
    counts = dict.fromkeys(hits, 0)
    row = 0
    for batch in loader:
        ids = table[row : row + len(batch)]["image_id"]
        scenes = [scene_from_id(i) for i in ids]
        groups = table[row : row + len(batch)]["captions"]
        image_states = model.vilta.encode_image(batch.pixel_values.to(model.device))
        rng = Random(f"{seed}-{row}")

        puzzles = [_colour_puzzle(group, rng) for group in groups]
        asked = {i: puzzle for i, puzzle in enumerate(puzzles) if puzzle is not None}
        following = ids[1:] + ids[:1]
        views = {
            "colour": (image_states, list(asked)),
            "colour_wrong_image": (
                image_states.roll(-1, 0),
                [i for i in asked if ids[i] != following[i]],
            ),
        }
        for name, (shown, at) in views.items():
            counts[name] += len(at)
            masked = [asked[i][0] + tokenizer.mask_token + asked[i][1] for i in at]
            words = filled_words(model, tokenizer, shown[at], masked) if at else []
            for i, word in zip(at, words, strict=True):
                before, after = asked[i]
                colour = word_class(word) == "colour"
                hits[name] += colour and is_true(scenes[i], f"{before}{word}{after}")

        row += len(batch)
        if not matching:
            continue
        captions = [rng.choice(group) for group in groups]
        edits = [one_word_edits(s, c, rng) for s, c in zip(scenes, captions, strict=True)]
        rewordings = [paraphrases(c, rng) for c in captions]
        true = caption_scores(model, tokenizer, image_states, captions)
        for name, others in {"edit": edits, "paraphrase": rewordings}.items():
            at = [i for i, other in enumerate(others) if other]
            if not at:
                continue
            scores = caption_scores(model, tokenizer, image_states[at], [others[i][0] for i in at])
            counts[name] += len(at)
            if name == "edit":
                counts["edit_rejected"] += len(at)
                hits["edit"] += int((true[at] > scores).sum())
                hits["edit_rejected"] += int((scores < 0).sum())
            else:
                hits["paraphrase"] += int((scores > 0).sum())
    return {name: 100 * hit / counts[name] for name, hit in hits.items() if counts[name]}


@torch.no_grad()
def negative_truth(
    table: Any,
    loader: Iterable[Batch],
    tokenizer: PreTrainedTokenizerBase,
    write: Callable[[Batch], SynthesisedNegatives],
) -> dict[str, float]:
    """Of the negatives that ``write`` gives: the oracle's verdicts, in percent.

    ``generated``: captions that got one. Of these: ``still_true`` of the picture (false
    negatives, the harm a filter must prevent), ``false`` as they should be, ``no_sentence`` (not
    in the oracle's grammar, so it cannot decide).
    """
    row = captions = 0
    verdicts = {"still_true": 0, "false": 0, "no_sentence": 0}
    for batch in loader:
        scenes = [scene_from_id(i) for i in table[row : row + len(batch)]["image_id"]]
        negatives = write(batch)
        texts = tokenizer.batch_decode(negatives.input_ids, skip_special_tokens=True)
        for scene, text, valid in zip(scenes, texts, negatives.valid.tolist(), strict=True):
            if not valid:
                continue
            if parse(text) is None:
                verdicts["no_sentence"] += 1
            else:
                verdicts["still_true" if is_true(scene, text) else "false"] += 1
        row += len(batch)
        captions += len(batch)
    generated = sum(verdicts.values())
    shares = {name: 100 * count / max(generated, 1) for name, count in verdicts.items()}
    return {"generated": 100 * generated / max(captions, 1), **shares}


def _tokens(
    model: ViltaForPreTraining, tokenizer: PreTrainedTokenizerBase, captions: Sequence[str]
) -> Any:
    """Tokenise as in training; scene captions are short, so the limit cuts next to nothing."""
    longest = model.config.max_text_tokens
    return tokenizer(
        list(captions), padding=True, truncation=True, max_length=longest, return_tensors="pt"
    ).to(model.device)


def _colour_puzzle(captions: Sequence[str], rng: Random) -> tuple[str, str] | None:
    """Take one colour word out of one of the captions: the text before it and after it."""
    for caption in rng.sample(list(captions), len(captions)):
        if (found := masked_colour(caption, rng)) is not None:
            return found[0], found[2]
    return None
