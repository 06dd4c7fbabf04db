"""A METER checkpoint computes here what METER computes.

The reference is written out below from METER's own names, a product at a time.
"""

import pytest
import torch
from huggingface_hub import ModelCard
from tiny_models import known_tokenizer
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoModelForPreTraining,
    AutoProcessor,
    RobertaConfig,
    RobertaForMaskedLM,
)

from vilta.commands import convert
from vilta.config.tools import ConvertConfig
from vilta.model import ViltaForPreTraining, ViltaForVisualQuestionAnswering
from vilta.model.fusion import Pairs
from vilta.model.meter import convert_meter, read_checkpoint

WIDTH, HEADS, LAYERS, WORDS, PATCH, GRID = 128, 2, 2, 60, 8, 3
TEXT = RobertaConfig(
    vocab_size=WORDS,
    hidden_size=WIDTH,
    num_hidden_layers=2,
    num_attention_heads=HEADS,
    intermediate_size=4 * WIDTH,
    max_position_embeddings=60,
)


def shapes():
    """The names and shapes of METER's state dict, at a small size."""
    wide, square = (4 * WIDTH, WIDTH), (WIDTH, WIDTH)
    found = {
        "vit_model.positional_embedding": (77, 64),
        "vit_model.token_embedding.weight": (99, 64),
        "vit_model.ln_final.weight": (64,),
        "vit_model.visual.class_embedding": (WIDTH,),
        "vit_model.visual.positional_embedding": (GRID**2 + 1, WIDTH),
        "vit_model.visual.conv1.weight": (WIDTH, 3, PATCH, PATCH),
        "token_type_embeddings.weight": (2, WIDTH),
        "text_transformer.pooler.dense.weight": square,
        "text_transformer.embeddings.position_ids": (1, 60),
        "mlm_score.bias": (WORDS,),
        "mlm_score.decoder.weight": (WORDS, WIDTH),
    }
    linear = {
        "cross_modal_text_transform": square,
        "cross_modal_image_transform": square,
        "cross_modal_text_pooler.dense": square,
        "cross_modal_image_pooler.dense": square,
        "mlm_score.transform.dense": square,
        "mlm_score.transform.LayerNorm": (WIDTH,),
        "itm_score.fc": (2, 2 * WIDTH),
        "vit_model.visual.ln_pre": (WIDTH,),
        "vit_model.visual.ln_post": (WIDTH,),
    }
    for i in range(LAYERS):
        block = f"vit_model.visual.transformer.resblocks.{i}"
        linear |= {f"{block}.ln_{n}": (WIDTH,) for n in (1, 2)}
        linear |= {f"{block}.attn.out_proj": square, f"{block}.mlp.c_fc": wide}
        linear |= {f"{block}.mlp.c_proj": wide[::-1]}
        found[f"{block}.attn.in_proj_weight"] = (3 * WIDTH, WIDTH)
        found[f"{block}.attn.in_proj_bias"] = (3 * WIDTH,)
        for layer in (f"cross_modal_{kind}_layers.{i}" for kind in ("text", "image")):
            for attention in (f"{layer}.attention", f"{layer}.crossattention"):
                linear |= {f"{attention}.self.{n}": square for n in ("query", "key", "value")}
                linear[f"{attention}.output.dense"] = square
                linear[f"{attention}.output.LayerNorm"] = (WIDTH,)
            linear |= {f"{layer}.intermediate.dense": wide, f"{layer}.output.dense": wide[::-1]}
            linear[f"{layer}.output.LayerNorm"] = (WIDTH,)
    for name, shape in linear.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return found


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("roberta")
    RobertaForMaskedLM(TEXT).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def state():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(2)
    encoder = RobertaForMaskedLM(TEXT).roberta.state_dict()
    found = {f"text_transformer.{name}": value for name, value in encoder.items()}
    for name, shape in shapes().items():
        noise = torch.randn(shape, generator=generator) * 0.1
        found[name] = 1 + noise if len(shape) == 1 and ".weight" in name else noise
    return found


def linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(state, name, x, eps):
    weight = state[f"{name}.weight"]
    return F.layer_norm(x, weight.shape, weight, state[f"{name}.bias"], eps)


def attention(queries, keys, values, mask):
    split = [t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (queries, keys, values)]
    scores = split[0] @ split[1].transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
    scores = scores.masked_fill(mask[:, None, None] == 0, -1e9)
    return (scores.softmax(-1) @ split[2]).transpose(1, 2).flatten(2)


def clip(state, pixels):
    pre = "vit_model.visual."
    x = F.conv2d(pixels, state[f"{pre}conv1.weight"], stride=PATCH).flatten(2).transpose(1, 2)
    first = state[f"{pre}class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([first, x], dim=1) + state[f"{pre}positional_embedding"]
    x = norm(state, f"{pre}ln_pre", x, 1e-5)
    everything = torch.ones(x.shape[:2])
    for i in range(LAYERS):
        block = f"{pre}transformer.resblocks.{i}."
        projected = norm(state, f"{block}ln_1", x, 1e-5) @ state[f"{block}attn.in_proj_weight"].T
        read = attention(*(projected + state[f"{block}attn.in_proj_bias"]).chunk(3, -1), everything)
        x = x + linear(state, f"{block}attn.out_proj", read)
        inner = linear(state, f"{block}mlp.c_fc", norm(state, f"{block}ln_2", x, 1e-5))
        x = x + linear(state, f"{block}mlp.c_proj", inner * torch.sigmoid(1.702 * inner))
    return norm(state, f"{pre}ln_post", x, 1e-5)


def roberta(state, ids, mask):
    model = RobertaForMaskedLM(TEXT).roberta.eval()
    own = {n.removeprefix("text_transformer."): w for n, w in state.items() if n in of_text(state)}
    model.load_state_dict(own)
    return model(ids, attention_mask=mask).last_hidden_state


def of_text(state):
    skipped = ("pooler", "position_ids")
    return [n for n in state if n.startswith("text_tr") and not any(s in n for s in skipped)]


def block(state, layer, x, own_mask, other, other_mask):
    for kind, source, mask in (
        ("attention", None, own_mask),
        ("crossattention", other, other_mask),
    ):
        name = f"{layer}.{kind}"
        source = x if source is None else source
        read = attention(
            linear(state, f"{name}.self.query", x),
            linear(state, f"{name}.self.key", source),
            linear(state, f"{name}.self.value", source),
            mask,
        )
        x = norm(
            state,
            f"{name}.output.LayerNorm",
            linear(state, f"{name}.output.dense", read) + x,
            1e-12,
        )
    inner = F.gelu(linear(state, f"{layer}.intermediate.dense", x))
    return norm(
        state, f"{layer}.output.LayerNorm", linear(state, f"{layer}.output.dense", inner) + x, 1e-12
    )


def meter(state, ids, mask, pixels):
    types = state["token_type_embeddings.weight"]
    x = linear(state, "cross_modal_text_transform", roberta(state, ids, mask)) + types[0]
    y = linear(state, "cross_modal_image_transform", clip(state, pixels)) + types[1]
    seen = torch.ones(y.shape[:2])
    for i in range(LAYERS):
        x, y = (
            block(state, f"cross_modal_text_layers.{i}", x, mask, y, seen),
            block(state, f"cross_modal_image_layers.{i}", y, seen, x, mask),
        )
    pooled = torch.cat(
        [
            linear(state, "cross_modal_text_pooler.dense", x[:, 0]).tanh(),
            linear(state, "cross_modal_image_pooler.dense", y[:, 0]).tanh(),
        ],
        dim=-1,
    )
    inner = F.gelu(linear(state, "mlm_score.transform.dense", x))
    inner = norm(state, "mlm_score.transform.LayerNorm", inner, 1e-12)
    words = inner @ state["mlm_score.decoder.weight"].T + state["mlm_score.bias"]
    return {
        "states": x,
        "pooled": pooled,
        "match": linear(state, "itm_score.fc", pooled),
        "words": words,
    }


@torch.no_grad()
def test_outputs_equal_those_of_meter(state, text, tmp_path):
    model = convert_meter(state, text)
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(4, WORDS, (3, 7), generator=generator)
    mask = torch.ones_like(ids)
    ids[1, 4:], mask[1, 4:] = TEXT.pad_token_id, 0
    pixels = torch.randn(3, 3, GRID * PATCH, GRID * PATCH, generator=generator)
    expected = meter(state, ids, mask, pixels)
    real = mask.bool()
    model.save_pretrained(tmp_path)
    for each in (model, AutoModelForPreTraining.from_pretrained(tmp_path)):
        output = each(ids, mask, pixels)
        found = {
            "states": output.last_hidden_state[real],
            "pooled": output.pooled,
            "match": output.match_logits,
            "words": each.predict_words(output.last_hidden_state[real], output.text_states[real]),
        }
        wanted = {**expected, "states": expected["states"][real], "words": expected["words"][real]}
        for name, value in found.items():
            torch.testing.assert_close(value, wanted[name], atol=2e-5, rtol=2e-5, msg=name)
        own = torch.arange(3)
        matched = each.match(output.text_states, mask, output.image_states, Pairs(own, own))
        torch.testing.assert_close(matched, expected["match"], atol=2e-5, rtol=2e-5)
    assert expected["match"].std() > 0.01 and expected["words"].std() > 0.1


def test_the_language_model_head_is_that_of_the_text_encoder(state, text):
    model, source = convert_meter(state, text), RobertaForMaskedLM.from_pretrained(text)
    head = model.vilta.text.lm_head
    assert torch.equal(head.dense.weight, source.lm_head.dense.weight)
    embeddings = state["text_transformer.embeddings.word_embeddings.weight"]
    assert torch.equal(head.decoder.weight, embeddings)  # tied
    assert model.config.ranking == "matching" and model.config.image_size == GRID * PATCH


def test_a_converted_model_trains_and_starts_a_task(state, text, tmp_path):
    model = convert_meter(state, text).train()
    pixels = torch.randint(0, 255, (2, 3, 24, 24), dtype=torch.uint8)
    ids = torch.randint(4, WORDS, (2, 5))
    model(ids, pixel_values=pixels).match_logits.square().sum().backward()
    assert model.vilta.pooler.dense[1].weight.grad.abs().sum() > 0
    model.save_pretrained(tmp_path)
    task = ViltaForVisualQuestionAnswering.from_pretrained(tmp_path, num_labels=3)
    assert task(ids, torch.ones_like(ids), pixels).logits.shape == (2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("cross_modal_text_layers.1.output.dense.bias"),
            r"lacks 1 .*text_layers\.1",
        ),
        (lambda s: s.update({"vqa_classifier.0.weight": torch.ones(2)}), "no place for 1.*vqa_cl"),
        (lambda s: s.update({"itm_score.fc.bias": torch.ones(3)}), "another shape of 1 .*itm_head"),
        (lambda s: s.pop("mlm_score.bias"), "only METER pre-trained with CLIP"),
        (
            lambda s: s.pop("vit_model.visual.conv1.weight"),
            "neither Swin nor one that was",
        ),
        (lambda s: s.pop("text_transformer.embeddings.LayerNorm.bias"), "lacks 1 .*RobertaModel"),
    ],
)
def test_another_checkpoint_is_refused_by_the_name_of_a_weight(change, message, state, text):
    changed = dict(state)
    change(changed)
    with pytest.raises(ValueError, match=message) as error:
        convert_meter(changed, text)
    assert "\n" not in str(error.value)


def test_a_checkpoint_file_is_read_without_running_what_is_in_it(state, tmp_path):
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "plain.ckpt")
    read = read_checkpoint(tmp_path / "plain.ckpt")
    assert read.keys() == state.keys()
    torch.save({"state_dict": state, "hyper_parameters": nn.Linear(2, 2)}, tmp_path / "more.ckpt")
    with pytest.raises(ValueError, match="holds more than weights"):
        read_checkpoint(tmp_path / "more.ckpt")
    torch.save({"epoch": 3}, tmp_path / "none.ckpt")
    with pytest.raises(ValueError, match="holds no state dict"):
        read_checkpoint(tmp_path / "none.ckpt")


def test_the_command_writes_a_folder_that_the_auto_classes_load(state, text, tmp_path):
    RobertaForMaskedLM(TEXT).save_pretrained(tmp_path / "roberta")
    known_tokenizer(["a", "red", "ball"]).save_pretrained(tmp_path / "roberta")
    torch.save(state, tmp_path / "meter.ckpt")
    out = tmp_path / "meter" / "model"
    config = ConvertConfig(out=str(out), text=str(tmp_path / "roberta"))
    convert.run(str(tmp_path / "meter.ckpt"), config)
    card = ModelCard.load(out / "README.md")
    assert card.data.license == "other" and "meter.ckpt" in card.text
    assert "vilta.ViltaForPreTraining" in card.text and str(tmp_path) not in card.text
    model = AutoModelForPreTraining.from_pretrained(out)
    processor = AutoProcessor.from_pretrained(out)
    batch = processor(images=torch.zeros(40, 40, 3), text="a red ball", return_tensors="pt")
    assert model(**batch).match_logits.shape == (1, 2)
    with pytest.raises(ValueError, match="exists; choose another --out"):
        convert.run(str(tmp_path / "meter.ckpt"), config)


def test_the_layout_is_an_option_of_its_own(text):
    with pytest.raises(ValueError, match="layout is 'beit'; choose one of vilta, meter"):
        ViltaForPreTraining.config_class(layout="beit")
