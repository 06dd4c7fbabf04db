"""Language models that serve as text encoder and as teacher: new ones, and continued ones."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tokenizers import BertWordPieceTokenizer, normalizers
from tokenizers.processors import BertProcessing
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from vilta.model.damage import reason_of
from vilta.model.encoder_attention import speed_up
from vilta.model.encoders import check_language_model, encoder_config, load_weights
from vilta.model.places import check_place

ALONE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ffff]")
"""Chinese characters, each of which BERT's rules make a word: none goes on with one."""
TRIED_TEXT = "a d\u00f6g \u72d7 \U0001f415"
"""What a tokenizer is tried with: letters that it may not know, which it must not fail at."""
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def new_tokenizer(
    captions: Sequence[str], size: int, strip_accents: bool = False
) -> PreTrainedTokenizerBase:
    """Train a lower-case WordPiece tokenizer with at most ``size`` words on ``captions``.

    Accents and vowel signs are letters (in German, Vietnamese, Hindi), however they are encoded;
    ``strip_accents`` takes them off, as uncased BERT does.

    The same captions give the same tokenizer. Left alone, the trainer numbers the letters within
    a word in the order of a randomised hash table, and ties between merges fall by those numbers;
    named as special tokens, they have their places beforehand.
    """
    wordpiece = _wordpiece(None, strip_accents)
    normalize = wordpiece.normalizer.normalize_str
    letters = {letter for caption in captions for letter in normalize(caption)} - {" "}
    wordpiece.train_from_iterator(
        captions,
        vocab_size=size,
        min_frequency=2,
        special_tokens=SPECIAL_TOKENS + [f"##{x}" for x in sorted(letters) if not ALONE.match(x)],
        show_progress=False,
    )
    core = _wordpiece(wordpiece.get_vocab(), strip_accents)._tokenizer
    # [CLS] caption [SEP], as BERT: the first token is the one that `pooling: first` reads.
    core.post_processor = BertProcessing(
        ("[SEP]", core.token_to_id("[SEP]")), ("[CLS]", core.token_to_id("[CLS]"))
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )


def _wordpiece(vocabulary: dict[str, int] | None, strip_accents: bool) -> BertWordPieceTokenizer:
    wordpiece = BertWordPieceTokenizer(vocabulary, lowercase=True, strip_accents=strip_accents)
    # The same letter may be one character, or a letter and an accent to be put on it.
    wordpiece.normalizer = normalizers.Sequence([normalizers.NFC(), wordpiece.normalizer])
    return wordpiece


def new_language_model(
    vocabulary: int, width: int, layers: int, heads: int, dropout: float, positions: int
) -> PreTrainedModel:
    """Build a BERT masked language model with random weights."""
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=positions,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return speed_up(AutoModelForMaskedLM.from_config(config))


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Load a fast tokenizer from a hub id or folder; ``ValueError`` if there is none."""
    try:
        check_place(source)
        tokenizer = AutoTokenizer.from_pretrained(source)
        tokenizer(TRIED_TEXT)
    except Exception as error:  # noqa: BLE001 - `tokenizers` raises nothing more exact
        reason = reason_of(error)
        if reason.endswith(":"):  # transformers goes on to list what could be there
            reason = "it has no tokenizer.json, nor the files of another tokenizer"
        raise ValueError(f"cannot read a tokenizer from {source!r}: {reason}") from None
    if tokenizer.unk_token is not None and tokenizer.unk_token not in tokenizer.get_vocab():
        # Asked for the number of this one, transformers asks itself without end.
        raise ValueError(f"{source!r} has an unknown token that is not one of its words")
    if not tokenizer.is_fast:
        raise ValueError(f"{source!r} has no fast tokenizer, which is needed to find whole words")
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{source!r} has a tokenizer without a padding token; name one there")
    # What training does everywhere else: a released tokenizer may pad left, or return no mask.
    tokenizer.padding_side = "right"
    if "attention_mask" not in tokenizer.model_input_names:
        tokenizer.model_input_names = [*tokenizer.model_input_names, "attention_mask"]
    return tokenizer


def forget_calls(tokenizer: PreTrainedTokenizerBase) -> None:
    """Take back what the last call said of truncation and padding: it would be saved with it.

    Then a release does not depend on what its process did before.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()


def continue_language_model(source: str) -> PreTrainedModel:
    """Load a checkpoint to train on; it may lack the language-model head, never encoder weights.

    A missing head starts at random, its output layer tied to the word embeddings. Raises
    ``ValueError`` for a missing encoder weight or an architecture without masked language model.
    """
    try:
        config = encoder_config(source)
        model, missing = load_weights(AutoModelForMaskedLM, source, config)
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise ValueError(f"cannot load a language model from {source!r}: {reason}") from None
    lost = [key for key in missing if key.startswith(model.base_model_prefix + ".")]
    if lost:
        raise ValueError(f"{source!r} lacks {len(lost)} encoder weights, first: {lost[0]}")
    return speed_up(check_language_model(model))
