"""A small pre-training task and a batch, and the same losses by separate, plain forward passes."""

import torch
from tiny_models import TEXT, encoded, known_tokenizer, pixels_of, scramble, text_alone, tiny_vilta
from torch.nn import functional as F
from transformers import AutoModelForMaskedLM

from vilta.config import ObjectiveConfig
from vilta.objectives.hard_negatives import WordFilter, synthesise_negatives
from vilta.objectives.masking import mask_words
from vilta.objectives.matching import draw_in_batch_negatives
from vilta.tasks.pretraining import PretrainingTask
from vilta.types import Batch

CAPTIONS = (
    "a red ball near the blue cube .",
    "dogs running under a boat",
    "the skateboarder runs",
    "a green cube on grass",
    "a crimson ball",
)
WORDS = """
    the a red blue green crimson ball balls cube dog dogs on run runs running under near
    grass skate ##board ##er boat .
""".split()  # noqa: SIM905
TOKENIZER = known_tokenizer(WORDS)


def make_batch(task, captions=CAPTIONS, images=None, rate=0.4, seed=0):
    ids, mask, word_ids = encoded(TOKENIZER, list(captions))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(*ids.shape, 2, generator=generator)
    words = task.words.tables().to("cpu")  # where a collator makes its batches
    masked, selected = mask_words(ids, word_ids, noise, words, rate=rate)
    images = list(range(len(captions))) if images is None else images
    return Batch(
        pixel_values=pixels_of(len(captions), seed=seed)[torch.tensor(images)],
        input_ids=ids,
        attention_mask=mask,
        word_ids=word_ids,
        masked_input_ids=masked,
        masked_positions=selected.flatten().nonzero().squeeze(1),
        image_ids=torch.tensor(images) * 10**15,
        caption_ids=torch.tensor([sorted(captions).index(c) for c in captions]),
        names=tuple(captions),
    )


def make_task(
    vision="vit",
    text="bert",
    fusion="co-attention",
    pooling="first",
    word_head="separate",
    **objective,
):
    """A task without dropout, each weight of its models random and their own."""
    torch.manual_seed(0)
    model = without_dropout(
        tiny_vilta(vision, text, fusion=fusion, pooling=pooling, word_head=word_head)
    )
    teacher = scramble(AutoModelForMaskedLM.from_config(TEXT[text]), 0.3)
    task = PretrainingTask(model, TOKENIZER, ObjectiveConfig(**objective), without_dropout(teacher))
    if task.momentum_model is not None:
        scramble(task.momentum_model, 0.02)
    return task.train()


def without_dropout(model):
    for module in model.modules():
        for name in ("p", "drop_prob", "dropout_prob", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def plain_losses(task, batch, seed):
    """The losses of section 2 of the design, one model call for each kind of row."""
    model, settings = task.model, task.objective
    at, original = batch.masked_positions, batch.input_ids.flatten()[batch.masked_positions]
    mask, pixels = batch.attention_mask, batch.pixel_values

    def image_words(which):
        out = which(batch.masked_input_ids, mask, pixels)
        states, text = out.last_hidden_state, out.text_states
        return which.predict_words(states.flatten(0, 1), text.flatten(0, 1)).view(
            *states.shape[:2], -1
        )

    def picked(logits):
        return logits.flatten(0, 1)[at]

    def language_model(which, ids):
        return picked(which(input_ids=ids, attention_mask=mask).logits)

    logits = picked(image_words(model))
    text_logits = picked(text_alone(model, batch.masked_input_ids, mask))
    mlm = F.cross_entropy(logits, original)
    teacher, own = None, logits.softmax(-1)
    if settings.soft_labels == "momentum":
        teacher = picked(image_words(task.momentum_model))
    elif settings.soft_labels == "language_model":
        view = batch.input_ids if settings.teacher_view == "clean" else batch.masked_input_ids
        teacher = language_model(task.teacher, view)
    if teacher is not None:
        tau, alpha = settings.temperature, settings.alpha
        if settings.alpha_ramp_steps:
            alpha *= min(1, int(task.step) / settings.alpha_ramp_steps)
        q, log_p = (teacher.detach() / tau).softmax(-1), (logits / tau).log_softmax(-1)
        if settings.top_k:
            least = q.sort(-1, descending=True).values[:, settings.top_k - 1, None]
            q = torch.where(q >= least, q, 0.0)
            q = q / q.sum(-1, keepdim=True)
        divergence = (torch.special.xlogy(q, q) - q * log_p).sum(-1).mean()
        mlm = (1 - alpha) * mlm + alpha * tau**2 * divergence
        own = own - alpha * q
    text_mlm = F.cross_entropy(text_logits, original)

    torch.manual_seed(seed)
    own = own.detach().clamp(min=0).log()  # what the teacher has not taught
    filters = {
        "grounded": [WordFilter(own, settings.filter_ratio)],
        "soft_label": [],
        "none": [],
        "off": [],
    }
    if settings.negatives in ("soft_label", "grounded"):
        clean = language_model(task.teacher, batch.input_ids).detach()
        ratio = settings.filter_ratio
        if settings.negatives == "grounded":
            ratio = settings.teacher_filter_ratio
        filters[settings.negatives].append(WordFilter(clean, ratio))
    negatives = None
    if settings.negatives != "off":
        negatives = synthesise_negatives(
            batch.input_ids,
            batch.word_ids,
            at,
            text_logits.detach(),
            task.words.tables(),
            filters=filters[settings.negatives],
            candidates=settings.candidates,
            min_p=settings.min_p,
            temperature=settings.negative_temperature,
            max_changes=settings.max_changes,
        )

    true = model(batch.input_ids, mask, pixels)
    similarity = model.itc_head.scale() * true.image_embeds @ true.text_embeds.T
    same = (
        (batch.image_ids[:, None] == batch.image_ids[None])
        | (batch.caption_ids[:, None] == batch.caption_ids[None])
    ).float()
    same = same / same.sum(1, keepdim=True)
    itc = -(same * (similarity.log_softmax(1) + similarity.T.log_softmax(1))).sum(1).mean() / 2
    guide = similarity if settings.itc_weight else None
    other = draw_in_batch_negatives(
        guide,
        batch.image_ids,
        batch.caption_ids,
        hardness=settings.hardness,
        both=settings.in_batch_negatives == "both",
    )
    swapped = model(batch.input_ids[other.text], mask[other.text], pixels[other.image])

    # Pair by pair: its negatives share a weight of 1, and the pair itself weighs as much.
    every_pair = []
    for i in range(len(batch)):
        rows = [r for r in range(len(other.text)) if r % len(batch) == i and other.valid[r]]
        no_match = [-swapped.match_logits[r].log_softmax(0)[0] for r in rows]
        share = 0.0
        if negatives is not None and negatives.valid[i]:
            share = settings.synthesised_share if rows else 1.0
        loss = (1 - share) * sum(no_match) / max(len(rows), 1)
        if share:
            generated = model(negatives.input_ids, mask, pixels).match_logits[i]
            loss = loss - share * generated.log_softmax(0)[0]
        if rows or share:
            loss = loss - true.match_logits[i].log_softmax(0)[1]
        every_pair.append(loss)
    itm = sum(every_pair) / len(batch)
    total = (
        settings.mlm_weight * mlm
        + settings.text_mlm_weight * text_mlm
        + settings.itm_weight * itm
        + settings.itc_weight * itc
    )
    return {"total": total, "mlm": mlm, "text_mlm": text_mlm, "itm": itm, "itc": itc}
