"""The models of the downstream tasks: what they start from, what they refuse, what they compute."""

import pytest
import torch
from tiny_models import encoded, known_tokenizer, pixels_of, scramble, tiny_config, tiny_vilta

from vilta.model import (
    ViltaForImageTextClassification,
    ViltaForImageTextRetrieval,
    ViltaForPreTraining,
    ViltaForVisualEntailment,
    ViltaForVisualQuestionAnswering,
    ViltaForVisualReasoning,
)

TOKENIZER = known_tokenizer(["a", "red", "blue", "ball"])
CLASSIFIERS = [
    ViltaForImageTextClassification,
    ViltaForVisualEntailment,
    ViltaForVisualQuestionAnswering,
    ViltaForVisualReasoning,
]


@pytest.fixture
def pretrained(tmp_path):
    tiny_vilta().save_pretrained(tmp_path / "pretrained")
    return tmp_path / "pretrained"


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_task_takes_over_the_pretrained_weights_and_starts_its_head_anew(kind, pretrained):
    before = ViltaForPreTraining.from_pretrained(pretrained)
    model = kind.from_pretrained(pretrained, num_labels=5)
    for name, weight in model.vilta.state_dict().items():
        assert torch.equal(weight, before.vilta.state_dict()[name]), name
    assert model.classifier.out.out_features == 5
    assert model.classifier.out.weight.std() > 0


@pytest.mark.parametrize("kind", [*CLASSIFIERS, ViltaForImageTextRetrieval])
def test_round_trip_bit_for_bit(kind, pretrained, tmp_path):
    model = scramble(kind.from_pretrained(pretrained))
    model.save_pretrained(tmp_path / "again")
    again = kind.from_pretrained(tmp_path / "again")
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_labels_come_back_with_the_model(pretrained, tmp_path):
    labels = {0: "no", 1: "maybe", 2: "yes"}
    model = ViltaForVisualEntailment.from_pretrained(
        pretrained, id2label=labels, label2id={v: k for k, v in labels.items()}
    )
    assert model.classifier.out.out_features == 3
    model.save_pretrained(tmp_path / "labelled")
    assert ViltaForVisualEntailment.from_pretrained(tmp_path / "labelled").config.id2label == labels


def test_a_checkpoint_of_another_task_is_refused_by_name(pretrained, tmp_path):
    ViltaForVisualReasoning.from_pretrained(pretrained).save_pretrained(tmp_path / "nlvr2")
    with pytest.raises(ValueError, match="ViltaForVisualReasoning, not of ViltaForVisualEntail"):
        ViltaForVisualEntailment.from_pretrained(tmp_path / "nlvr2")


def test_a_checkpoint_without_fusion_weights_is_still_refused(pretrained):
    from safetensors.torch import load_file, save_file

    weights = load_file(pretrained / "model.safetensors")
    lost = min(name for name in weights if "fusion" in name)
    del weights[lost]
    save_file(weights, pretrained / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"1 missing weights.*{lost}"):
        ViltaForVisualEntailment.from_pretrained(pretrained)


@pytest.mark.parametrize("fusion", ["co-attention", "cross-attention", "text-layers"])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_two_images_are_two_passes_side_by_side(fusion, pooling):
    config = tiny_config(fusion=fusion, pooling=pooling, num_labels=2)
    model = scramble(ViltaForVisualReasoning(config))
    ids, mask, _ = encoded(TOKENIZER, ["a red ball", "a blue"])
    pixels = pixels_of(4).view(2, 2, *pixels_of(1).shape[1:])
    logits = model(ids, mask, pixels).logits
    text, vectors = model.vilta.encode_text(ids, mask), []
    for i, order in enumerate(model.image_order.weight):
        image = model.vilta.encode_image(pixels[:, i]) + order
        fused = model.vilta.fuse(text, mask, image)
        vectors.append(model.vilta.pool_fused(fused, mask.bool()))
    expected = model.classifier(torch.cat(vectors, dim=1))
    assert torch.allclose(logits, expected, atol=1e-5)
    swapped = model(ids, mask, pixels.flip(1)).logits
    assert not torch.allclose(logits, swapped, atol=1e-3)  # left and right are told apart


def test_classify_lets_items_share_images():
    model = scramble(ViltaForVisualQuestionAnswering(tiny_config(num_labels=3)))
    ids, mask, _ = encoded(TOKENIZER, ["a red ball", "a blue", "red"])
    pixels = pixels_of(2)
    index = torch.tensor([[0], [1], [0]])
    image, text = model.vilta.encode_image(pixels), model.vilta.encode_text(ids, mask)
    shared = model.classify(text, mask, image, index)
    assert torch.allclose(shared, model(ids, mask, pixels[index[:, 0]]).logits, atol=1e-5)


def test_a_wrong_number_of_images_is_one_line():
    model = ViltaForVisualReasoning(tiny_config(num_labels=2))
    ids, mask, _ = encoded(TOKENIZER, ["a red ball"])
    with pytest.raises(ValueError, match="reads 2 image"):
        model(ids, mask, pixels_of(1))


def test_retrieval_scores_as_the_pretrained_model_does(pretrained):
    whole = ViltaForPreTraining.from_pretrained(pretrained).eval()
    part = ViltaForImageTextRetrieval.from_pretrained(pretrained).eval()
    ids, mask, _ = encoded(TOKENIZER, ["a red ball", "a blue"])
    first, second = (model(ids, mask, pixels_of(2)) for model in (whole, part))
    assert torch.equal(first.match_logits, second.match_logits)
    assert torch.equal(first.text_embeds, second.text_embeds)
