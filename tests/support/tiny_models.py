"""Small random encoders, tokenizers and models that the tests build and write to folders."""

import copy
import math
from collections import Counter

import torch
import transformers as t
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from vilta.model import ViltaConfig, ViltaForPreTraining
from vilta.model.conv_vit import ConvViTConfig

WIDTH = 32
SIZE = dict(
    hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=2 * WIDTH
)
PIXELS = dict(image_size=32, patch_size=8)
WORDS = 101

VISION = {
    "clip": t.CLIPVisionConfig(**SIZE, **PIXELS),
    "siglip": t.SiglipVisionConfig(**SIZE, **PIXELS),
    "vit": t.ViTConfig(**SIZE, **PIXELS),
    "dinov2": t.Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, mlp_ratio=2, **PIXELS
    ),
    "swin": t.SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=4
    ),
    "convnext": t.ConvNextConfig(num_stages=2, hidden_sizes=[16, 32], depths=[1, 1], patch_size=4),
    "resnet": t.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic"
    ),
    "vilta-conv-vit": ConvViTConfig(
        first_patch=4, stem_widths=[8, 16], hidden_size=WIDTH, num_hidden_layers=2
    ),
}
TEXT = {
    "bert": t.BertConfig(**SIZE, vocab_size=WORDS, max_position_embeddings=40),
    "roberta": t.RobertaConfig(**SIZE, vocab_size=WORDS, max_position_embeddings=40),
    "distilbert": t.DistilBertConfig(
        dim=WIDTH, hidden_dim=64, n_layers=2, n_heads=4, vocab_size=WORDS
    ),
    "modernbert": t.ModernBertConfig(
        **SIZE,
        vocab_size=WORDS,
        max_position_embeddings=40,
        pad_token_id=0,
        cls_token_id=1,
        sep_token_id=2,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "mpnet": t.MPNetConfig(**SIZE, vocab_size=WORDS, max_position_embeddings=40),
}


def scramble(model, spread=0.2):
    """Give every weight a value of its own, so that a mixed-up or lost one shows."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * spread)
    return model.eval()


def two_towers(kind):
    """Build a whole CLIP or SigLIP, of which the image tower is to be taken."""
    text = dict(**SIZE, vocab_size=WORDS, max_position_embeddings=16, eos_token_id=2)
    if kind == "clip":
        config = t.CLIPConfig(
            text_config=text, vision_config=VISION["clip"].to_dict(), projection_dim=16
        )
        return scramble(t.CLIPModel(config))
    config = t.SiglipConfig(
        text_config=text | {"projection_size": WIDTH}, vision_config=VISION["siglip"].to_dict()
    )
    return scramble(t.SiglipModel(config))


def tiny_config(vision="vit", text="bert", **settings):
    defaults = dict(
        hidden_size=WIDTH,
        num_attention_heads=4,
        fusion_layers=2,
        contrastive_width=16,
        image_size=32,
        dropout=0.0,
        max_text_tokens=24,
    )
    return ViltaConfig(
        vision_config=VISION[vision].to_dict(),
        text_config=TEXT[text].to_dict(),
        **{**defaults, **settings},
    )


def tiny_vilta(vision="vit", text="bert", **settings):
    return scramble(ViltaForPreTraining(tiny_config(vision, text, **settings)), 0.05)


def text_alone(model, ids, mask):
    """Logits of the words of a text without an image, by transformers' own model.

    Where the text encoder's upper layers are the fusion, that is the whole language model again.
    """
    if model.config.fusion != "text-layers":
        return model.vilta.text(input_ids=ids, attention_mask=mask).logits
    config = copy.deepcopy(model.config.text_config)
    lower = config.num_hidden_layers
    config.num_hidden_layers += model.config.fusion_layers
    whole = t.AutoModelForMaskedLM.from_config(config)
    whole.tie_weights()
    weights = dict(model.vilta.text.named_parameters())
    for i, layer in enumerate(model.vilta.fusion.text_layers, lower):
        at = f"{whole.base_model_prefix}.encoder.layer.{i}"
        for kind in ("weight", "bias"):
            key, value = getattr(layer.self_attention.key_value, kind).chunk(2)
            attention, mlp = layer.self_attention, layer.mlp
            weights |= {
                f"{at}.attention.self.query.{kind}": getattr(attention.query, kind),
                f"{at}.attention.self.key.{kind}": key,
                f"{at}.attention.self.value.{kind}": value,
                f"{at}.attention.output.dense.{kind}": getattr(attention.out, kind),
                f"{at}.attention.output.LayerNorm.{kind}": getattr(layer.self_norm, kind),
                f"{at}.intermediate.dense.{kind}": getattr(mlp[0], kind),
                f"{at}.output.dense.{kind}": getattr(mlp[2], kind),
                f"{at}.output.LayerNorm.{kind}": getattr(layer.mlp_norm, kind),
            }
    assert weights.keys() == dict(whole.named_parameters()).keys()
    inputs = {"input_ids": ids, "attention_mask": mask}
    return torch.func.functional_call(whole.eval(), weights, kwargs=inputs).logits


CAPTIONS = [
    "a small red ball lies above the large green cube",
    "two dogs are running over the wet grass",
    "a tiny crimson sphere, left of a striped triangle",
    "the man with a hat plays the guitar on a stage",
    "an old boat sails beneath a bright bridge",
    "children jumping into blue water",
    "3 birds and a cat's shadow",
    "an unbelievable skateboarder jumps",
    "ball",
]
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]


def tiny_tokenizer(kind, size=160):
    """Return a tokenizer so small that many words fall into pieces, the same in every process."""
    if kind == "wordpiece":
        core = Tokenizer(models.WordPiece(wordpieces(size), unk_token="[UNK]"))
        core.normalizer = normalizers.BertNormalizer(lowercase=True)
        core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        core.decoder = decoders.WordPiece()
        core.add_special_tokens(SPECIAL)
    elif kind == "byte-bpe":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        core.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=170 + size,
            special_tokens=SPECIAL,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        core.train_from_iterator(CAPTIONS * 3, trainer)
    else:
        core = Tokenizer(models.Unigram(unigrams(size), unk_id=SPECIAL.index("[UNK]")))
        core.pre_tokenizer = pre_tokenizers.Metaspace()
        core.decoder = decoders.Metaspace()
        core.add_special_tokens(SPECIAL)
    core.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = dict(pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]")
    return t.PreTrainedTokenizerFast(
        tokenizer_object=core,
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )


def wordpieces(size):
    """Return a trained vocabulary.

    The letters within a word are named beforehand: else a hash table, another one in each process,
    decides on their numbers, and on what is merged first.
    """
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    letters = sorted(set("".join(CAPTIONS).lower()) - {" "})
    named = SPECIAL + [f"##{letter}" for letter in letters]
    core.train_from_iterator(
        CAPTIONS * 3,
        trainers.WordPieceTrainer(
            vocab_size=size, special_tokens=named, min_frequency=1, show_progress=False
        ),
    )
    return core.get_vocab()


def unigrams(size):
    """Return pieces with their log-probabilities: what most letters of the captions are part of."""
    words = " ".join(CAPTIONS).split()
    counts = Counter(
        f"\u2581{word}"[start:end]
        for word in words
        for start in range(len(word) + 1)
        for end in range(start + 1, min(start + 7, len(word) + 2))
    )
    likely = sorted(counts, key=lambda piece: (len(piece) > 1, -counts[piece] * len(piece), piece))
    kept = likely[: size - len(SPECIAL)]
    total = sum(counts[piece] for piece in kept)
    pieces = [(piece, math.log(counts[piece] / total)) for piece in kept]
    return [(token, 0.0) for token in SPECIAL] + pieces


def tokens_of(length, rows=3, words=WORDS, seed=0):
    """Return random token ids (no special ones) and a mask of ones."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, words, (rows, length), generator=generator)
    return ids, torch.ones_like(ids)


def pixels_of(rows=3, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, 3, size, size), generator=generator, dtype=torch.uint8)


def encoded(tokenizer, captions, length=24):
    """Return ids, attention mask and word ids as a collator does: -1 is no known word."""
    batch = tokenizer(captions, padding=True, truncation=True, max_length=length)
    special = set(tokenizer.all_special_ids)
    rows = []
    for i, ids in enumerate(batch["input_ids"]):
        words = batch.word_ids(i)
        unknown = {w for w, token in zip(words, ids, strict=True) if token in special}
        rows.append([-1 if w is None or w in unknown else w for w in words])
    return (
        torch.tensor(batch["input_ids"]),
        torch.tensor(batch["attention_mask"]),
        torch.tensor(rows),
    )


def known_tokenizer(words):
    """Build a WordPiece tokenizer of exactly these words, special ones first."""
    core = Tokenizer(
        models.WordPiece({w: i for i, w in enumerate(SPECIAL + words)}, unk_token="[UNK]")
    )
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = dict(pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]")
    return t.PreTrainedTokenizerFast(tokenizer_object=core, mask_token="[MASK]", **names)
