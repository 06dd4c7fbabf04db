"""METER's released pre-training checkpoints (arXiv 2111.02387) as ``ViltaForPreTraining``.

METER's fusion layers have their norms last, it pools each stream's first token through a layer of
its own, matches by one linear layer and has output weights for words that are its own: the
``layout`` "meter" of ``ViltaConfig``. Its token types are constants that are added to what the two
projections return, so they become part of those. It has no contrastive space.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor, nn
from transformers import CLIPVisionConfig, PreTrainedConfig

from vilta.model.bert_layers import State, from_bert
from vilta.model.configuration import ViltaConfig
from vilta.model.encoders import load_text_encoder
from vilta.model.modeling import ViltaForPreTraining
from vilta.torch_file import load_torch_file

HEAD_WIDTH = 64
"""Of CLIP's image encoders and of METER's fusion."""
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's pixels, which METER's transform for CLIP uses."""
MAX_TEXT_TOKENS = 50
TEXT = "text_transformer."
FRESH = ("vilta.text.", "itc_head.", "vilta.pixel_", "vilta.vision.post_layernorm.")
"""What METER has no weights for, or what was loaded before."""
UNUSED = re.compile(
    r"vit_model\.(token_embedding|positional_embedding|ln_final)"  # of CLIP's text encoder
    r"|text_transformer\.(pooler\.|embeddings\.position_ids)"
)
NAMES = {
    r"vit_model\.visual\.class_embedding": "vilta.vision.embeddings.class_embedding",
    r"vit_model\.visual\.positional_embedding": "vilta.vision.embeddings.position_embedding.weight",
    r"vit_model\.visual\.conv1": "vilta.vision.embeddings.patch_embedding",
    r"vit_model\.visual\.ln_pre": "vilta.vision.pre_layrnorm",
    r"vit_model\.visual\.ln_post": "vilta.image_norm",
    r"vit_model\.visual\.transformer\.resblocks": "vilta.vision.encoder.layers",
    r"\.attn\.out_proj": ".self_attn.out_proj",
    r"\.ln_([12])\.": r".layer_norm\1.",
    r"\.mlp\.c_fc": ".mlp.fc1",
    r"\.mlp\.c_proj": ".mlp.fc2",
    r"cross_modal_(text|image)_transform\.": r"vilta.\1_projection.",
    r"cross_modal_(text|image)_layers": r"vilta.fusion.\1_layers",
    r"cross_modal_text_pooler\.dense": "vilta.pooler.dense.0",
    r"cross_modal_image_pooler\.dense": "vilta.pooler.dense.1",
    r"mlm_score\.transform\.dense": "mlm_head.dense",
    r"mlm_score\.transform\.LayerNorm": "mlm_head.norm",
    r"mlm_score\.decoder": "mlm_head.words",
    r"mlm_score\.bias": "mlm_head.bias",
    r"itm_score\.fc": "itm_head",
}
"""Patterns of METER's names and their replacements, applied in this order."""


def read_checkpoint(path: str | Path) -> State:
    """Read the weights of a checkpoint file; nothing but tensors is unpickled.

    Raises ``ValueError`` in one line if it holds other objects or no weights.
    """
    try:
        content = load_torch_file(path)
    except ValueError:
        raise ValueError(
            f"{path} holds more than weights, or is damaged; where you trust it, write the weights "
            "alone: torch.save(torch.load(PATH, weights_only=False)['state_dict'], NEW)"
        ) from None
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict")
    return state


def convert_meter(state: State, text: str) -> ViltaForPreTraining:
    """Build the model of a METER checkpoint.

    ``text`` names the text encoder that METER started from (folder or hub id). Its configuration
    is not in the checkpoint, nor is its language-model head, which is taken from there.

    Raises ``ValueError`` that names the first weight that is missing or has no place here.
    """
    for needed in ("vit_model.visual.conv1.weight", "mlm_score.bias", "itm_score.fc.weight"):
        if needed not in state:
            raise ValueError(
                f"the checkpoint has no {needed}; only METER pre-trained with CLIP's image encoder "
                "can be converted, neither Swin nor one that was fine-tuned for a task"
            )
    language = load_text_encoder(text)
    state = {name: w.float() for name, w in state.items() if not UNUSED.match(name)}
    texts = {name: w for name, w in state.items() if name.startswith(TEXT)}
    _load(
        getattr(language, language.base_model_prefix),
        {name.removeprefix(TEXT): weight for name, weight in texts.items()},
    )
    model = ViltaForPreTraining(_config(state, language.config)).eval()
    model.vilta.text.load_state_dict(language.state_dict())
    rest = {name: w for name, w in state.items() if name not in texts}
    _load(model, _renamed(rest), but=FRESH)
    return model


def _load(model: nn.Module, weights: State, but: tuple[str, ...] = ("pooler.",)) -> None:
    """Load strictly, all ``but`` names that begin so."""
    shapes = {n: w.shape for n, w in model.state_dict().items() if not n.startswith(but)}
    faults = {
        "lacks": shapes.keys() - weights.keys(),
        "has no place for": weights.keys() - shapes.keys(),
        "has another shape of": [
            n for n in shapes if n in weights and weights[n].shape != shapes[n]
        ],
    }
    for fault, names in faults.items():
        if names:
            raise ValueError(
                f"the checkpoint {fault} {len(names)} weights of {type(model).__name__}, "
                f"first: {min(names)}"
            )
    model.load_state_dict(weights, strict=False)


def _config(state: State, text: PreTrainedConfig) -> ViltaConfig:
    """Derive the sizes from the shapes; those of METER's text encoder come from its own."""
    patches = state["vit_model.visual.conv1.weight"]
    places = len(state["vit_model.visual.positional_embedding"]) - 1
    width, size = len(patches), round(places**0.5) * patches.shape[-1]
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=len(state["vit_model.visual.transformer.resblocks.0.mlp.c_fc.weight"]),
        num_hidden_layers=_count(state, "vit_model.visual.transformer.resblocks."),
        num_attention_heads=width // HEAD_WIDTH,
        image_size=size,
        patch_size=patches.shape[-1],
    )
    fused = len(state["cross_modal_text_transform.weight"])
    return ViltaConfig(
        vision_config=vision,
        text_config=text,
        layout="meter",
        fusion="co-attention",
        fusion_layers=_count(state, "cross_modal_text_layers."),
        hidden_size=fused,
        num_attention_heads=fused // HEAD_WIDTH,
        image_size=size,
        image_mean=MEAN,
        image_std=STD,
        max_text_tokens=MAX_TEXT_TOKENS,
        ranking="matching",
    )


def _count(state: State, prefix: str) -> int:
    """Count the layers below a prefix."""
    return len({n.removeprefix(prefix).split(".")[0] for n in state if n.startswith(prefix)})


def _renamed(state: State) -> State:
    """Give METER's weights the names and the grouping that they have here."""
    state = dict(state)
    types = state.pop("token_type_embeddings.weight")  # [2, D]: text, image
    for kind, constant in zip(("text", "image"), types, strict=True):
        name = f"cross_modal_{kind}_transform.bias"
        state[name] = state[name] + constant
    weights: State = {}
    for name, weight in from_bert(state).items():
        if match := re.fullmatch(r"(.*\.)attn\.in_proj_(weight|bias)", name):
            parts = zip(("q", "k", "v"), weight.chunk(3), strict=True)
            split = {f"{match[1]}self_attn.{part}_proj.{match[2]}": each for part, each in parts}
        else:
            split = {name: weight}
        for key, each in split.items():
            for pattern, ours in NAMES.items():
                key = re.sub(pattern, ours, key)
            weights[key] = each
    return weights
