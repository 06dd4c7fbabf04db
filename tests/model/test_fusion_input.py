"""A fusion that reads the space in which contrast compares."""

import pytest
import torch
from tiny_models import WIDTH, tiny_config, tiny_vilta
from torch.nn import functional as F

from vilta.model import ViltaForPreTraining
from vilta.model.attention import attention_weights

SHARED = {"fusion_input": "contrastive", "contrastive_width": WIDTH}


@pytest.mark.parametrize("kind", ["co-attention", "cross-attention"])
def test_a_fusion_over_the_contrastive_space_starts_by_comparing(kind):
    """Each word reads most of the place whose projection is like its own."""
    torch.manual_seed(0)
    model = ViltaForPreTraining(tiny_config(fusion=kind, **SHARED))
    fusion = model.vilta.fusion
    for cross in (layer.cross for layer in [*fusion.text_layers, *(fusion.image_layers or ())]):
        same = F.layer_norm(torch.randn(1, 6, WIDTH), [WIDTH])
        keys, _ = cross.keys_values(same)
        weights = attention_weights(cross._split(cross.query(same)), keys, None)
        assert (weights.argmax(-1) == torch.arange(6)).float().mean() > 0.9
        value = cross.key_value.weight[WIDTH:]
        torch.testing.assert_close(cross.out.weight @ value, torch.eye(WIDTH) / 2)


@pytest.mark.parametrize("kind", ["co-attention", "cross-attention"])
def test_contrast_and_fusion_share_their_projections(kind):
    model = tiny_vilta(fusion=kind, **SHARED)
    assert model.compared_through() == (model.vilta.image_projection, model.vilta.text_projection)
    assert sum(p.numel() for p in model.itc_head.parameters()) == 1, "the temperature"
    text, image = torch.randn(2, 5, 32), torch.randn(2, 4, 32)
    mask = torch.ones(2, 5, dtype=torch.long)
    pooled = image.mean(1)
    expected = F.normalize(model.vilta.image_projection(pooled), dim=-1)
    torch.testing.assert_close(model.embed_image(image), expected)
    for loss in (
        model.match(text, mask, image)[:, 1].sum(),
        model.similarity(image, text, mask).sum(),
    ):
        found = torch.autograd.grad(loss, [layer.weight for layer in model.compared_through()])
        assert all(g.abs().sum() > 0 for g in found), "both teach them"


def test_a_saved_model_shares_them_again(tmp_path):
    model = tiny_vilta(**SHARED)
    model.save_pretrained(tmp_path)
    again = ViltaForPreTraining.from_pretrained(tmp_path)
    assert again.compared_through()[0] is again.vilta.image_projection
    assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())


def test_a_space_of_another_width_cannot_be_shared():
    with pytest.raises(ValueError, match="contrastive_width is 16, the fusion's width 32"):
        tiny_config(fusion_input="contrastive")
