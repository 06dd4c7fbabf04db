"""What the layers of the fusion read, against a plain composition of their parts."""

import pytest
import torch
from tiny_models import scramble, tiny_config

from vilta.model.fusion import Fusion


def make_fusion(kind, layout, **settings):
    torch.manual_seed(0)
    config = tiny_config(fusion=kind, **settings)
    config.layout = layout
    fusion = scramble(Fusion(config), 0.3)
    text, image = torch.randn(3, 5, config.hidden_size), torch.randn(3, 4, config.hidden_size)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] * 4 + [False]])
    return fusion, text, mask, image


@pytest.mark.parametrize("layout", ["", "meter"])
def test_each_stream_reads_the_other_as_it_was_before_the_layer(layout):
    fusion, text, mask, image = make_fusion("co-attention", layout, dropout=0.0)
    found = fusion(text, mask, image)
    keys = mask[:, None, None, :]
    for reader, viewer in zip(fusion.text_layers, fusion.image_layers, strict=True):
        of_image = reader.cross.keys_values(image)
        of_text = viewer.cross.keys_values(text)
        text = reader.read_other(reader.read_self(text, keys, None), *of_image, None, None)
        image = viewer.read_other(viewer.read_self(image, None, None), *of_text, keys, None)
    torch.testing.assert_close(found.text, fusion.text_norm(text))
    torch.testing.assert_close(found.image, fusion.image_norm(image))


@pytest.mark.parametrize("kind", ["co-attention", "cross-attention"])
def test_dropout_follows_each_part_of_a_layer(kind):
    """Where everything is dropped, a layer of residual parts leaves its input as it is."""
    fusion, text, mask, image = make_fusion(kind, "", dropout=1.0)
    found = fusion.train()(text, mask, image)
    torch.testing.assert_close(found.text, fusion.text_norm(text))
    if kind == "co-attention":
        torch.testing.assert_close(found.image, fusion.image_norm(image))
    assert not torch.allclose(fusion.eval()(text, mask, image).text, found.text)


def test_dropout_follows_each_part_of_a_layer_with_its_norms_last():
    fusion, text, _, image = make_fusion("co-attention", "meter", dropout=1.0)
    layer = fusion.text_layers[0].train()
    read = layer.read_self(text, None, None)
    torch.testing.assert_close(read, layer.self_norm(text))
    found = layer.read_other(read, *layer.cross.keys_values(image), None, None)
    torch.testing.assert_close(found, layer.mlp_norm(layer.cross_norm(read)))
