import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import noise, write_run

from vilta import Matcher
from vilta.apps.heatmap import draw_heat_maps
from vilta.apps.words import find_words
from vilta.data.transforms import evaluation_tensor

CAPTION = "a small unbelievable ball"


def slow_maps(matcher, image, caption):
    """The same by a forward pass that computes attention plainly and keeps it in the graph."""
    model = matcher.model
    kept = []

    def plainly(module):
        def forward(x, keys, values, mask):
            queries = module._split(module.query(x))
            attention = (queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5).softmax(-1)
            attention.retain_grad()
            kept.append(attention)
            return module.out((attention @ values).transpose(1, 2).flatten(2))

        return forward

    crosses = [layer.cross for layer in model.vilta.fusion.text_layers]
    for cross in crosses:
        cross.forward = plainly(cross)
    tokens, words = find_words(matcher.tokenizer, caption, 24)
    pixels = evaluation_tensor(image, 32)[None]
    output = model(tokens, torch.ones_like(tokens), pixels)
    (output.match_logits[0, 1] - output.match_logits[0, 0]).backward()
    for cross in crosses:
        del cross.forward
    weighted = torch.stack([(a.grad.relu() * a)[0].mean(dim=0) for a in kept]).mean(dim=0)
    return np.stack([weighted[list(w.tokens)].sum(0)[-16:].detach().view(4, 4) for w in words])


@pytest.mark.parametrize("fusion", ["cross-attention", "co-attention", "text-layers"])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_maps_are_gradient_times_attention(tmp_path, fusion, pooling):
    matcher = Matcher(write_run(tmp_path / "run", fusion=fusion, pooling=pooling), device="cpu")
    found = matcher.heat_maps(noise(0), CAPTION)
    assert found.words == ("a", "small", "unbelievable", "ball")
    assert found.maps.shape == (4, 4, 4) and found.maps.max() > 0
    np.testing.assert_allclose(
        found.maps, slow_maps(matcher, noise(0), CAPTION), rtol=1e-3, atol=1e-9
    )
    assert found.log_odds == pytest.approx(float(matcher.log_odds(noise(0), CAPTION)[0]), abs=1e-4)


def test_contribution_is_what_hiding_a_word_costs(tiny_run):
    matcher = Matcher(tiny_run, device="cpu")
    found = matcher.heat_maps(noise(0), "small ball")
    odds = matcher.log_odds(noise(0), ["small ball", "[MASK] ball", "small [MASK]"])
    assert found.contribution == pytest.approx((odds[0] - odds[1:]).tolist(), abs=1e-4)
    assert all(p.grad is None for p in matcher.model.parameters())


def test_drawing(tiny_run):
    matcher = Matcher(tiny_run, device="cpu")
    picture = noise(0, (60, 90))
    png = draw_heat_maps(picture, matcher.heat_maps(picture, CAPTION), "95 % $match$")
    drawn = Image.open(io.BytesIO(png))
    assert drawn.format == "PNG" and drawn.width > 600


def test_a_long_caption_and_one_without_a_font_are_drawn(tiny_run):
    """All of the probability can be seen, and nothing is said about letters."""
    picture = noise(0, (60, 90))
    found = Matcher(tiny_run, device="cpu").heat_maps(picture, CAPTION)

    def margins(caption):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            drawn = np.asarray(
                Image.open(io.BytesIO(draw_heat_maps(picture, found, f"95%  {caption}")))
            )
        ink = (drawn[:50, :, :3] < 128).any(axis=(0, 2)).nonzero()[0]
        return ink[0], drawn.shape[1] - ink[-1]

    assert min(margins("ball\nball")) >= 4 and min(margins("a small ball on the grass " * 40)) >= 4
    assert margins("一只小球" * 100)[0] >= 4


def test_maps_are_drawn_where_gradients_are_off(tiny_run):
    """Gradients are on inside, even for a model that was loaded where torch keeps none at all."""
    wanted = Matcher(tiny_run, device="cpu").heat_maps(noise(0), CAPTION)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            found = Matcher(tiny_run, device="cpu").heat_maps(noise(0), CAPTION)
        np.testing.assert_array_equal(found.maps, wanted.maps)
        assert found.contribution == wanted.contribution
