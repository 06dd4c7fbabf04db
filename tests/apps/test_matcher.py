import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import noise, write_run

from vilta import Matcher, ViltaForPreTraining, ViltaProcessor

TEXTS = ["two dogs are running", "a small red ball lies above the large green cube", "ball"]


@pytest.fixture(scope="module")
def matcher(tiny_run):
    return Matcher(tiny_run, device="cpu", batch_size=2)


@pytest.fixture(scope="module")
def plain(tiny_run):
    """The model's own forward pass, one pair at a time."""
    model = ViltaForPreTraining.from_pretrained(tiny_run / "model").eval()
    processor = ViltaProcessor.from_pretrained(tiny_run / "model")

    @torch.no_grad()
    def forward(image, text):
        return model(**processor(images=[image], text=[text], return_tensors="pt"))

    forward.model = model
    return forward


def test_embeddings_equal_the_models_forward(matcher, plain):
    images = [noise(i) for i in range(3)]
    vectors, texts = matcher.embed_images(images), matcher.embed_texts(TEXTS)
    assert vectors.shape == texts.shape == (3, 16)
    assert vectors.dtype == texts.dtype == np.float32
    for i, (image, text) in enumerate(zip(images, TEXTS, strict=True)):
        output = plain(image, text)
        np.testing.assert_allclose(vectors[i], output.image_embeds[0], atol=1e-5)
        np.testing.assert_allclose(texts[i], output.text_embeds[0], atol=1e-5)


def test_match_is_the_sigmoid_of_the_match_heads_log_odds(matcher, plain):
    images = [noise(i) for i in range(3)]
    logits = torch.cat([plain(i, t).match_logits for i, t in zip(images, TEXTS, strict=True)])
    wanted = logits.softmax(dim=1)[:, 1]
    np.testing.assert_allclose(matcher.match(images, TEXTS), wanted, atol=1e-5)


def test_one_image_meets_every_text_and_one_text_every_image(matcher):
    images = [noise(i) for i in range(3)]
    np.testing.assert_allclose(
        matcher.match(images[0], TEXTS), matcher.match([images[0]] * 3, TEXTS), atol=1e-6
    )
    np.testing.assert_allclose(
        matcher.match(images, TEXTS[0]), matcher.match(images, [TEXTS[0]] * 3), atol=1e-6
    )


def test_calibration_of_the_config_is_applied(tiny_run):
    matcher = Matcher(tiny_run, device="cpu")
    raw = matcher.log_odds(noise(1), TEXTS)
    matcher.model.config.match_temperature, matcher.model.config.match_bias = 2.0, -1.0
    np.testing.assert_allclose(
        matcher.match(noise(1), TEXTS), 1 / (1 + np.exp(1 - raw / 2)), rtol=1e-5
    )


def test_every_form_of_an_image_is_the_same_image(matcher, tmp_path):
    image = noise(3)
    image.save(tmp_path / "x.png")
    forms = [image, np.asarray(image), tmp_path / "x.png", str(tmp_path / "x.png")]
    forms.append((tmp_path / "x.png").read_bytes())
    vectors = matcher.embed_images(forms)
    np.testing.assert_allclose(vectors, np.repeat(vectors[:1], 5, axis=0), atol=1e-6)
    batch = np.stack([np.asarray(noise(i)) for i in range(3)])
    assert matcher.embed_images(batch).shape == (3, 16)
    assert matcher.embed_images(np.asarray(image.convert("L"))).shape == (1, 16)


def test_rank_orders_by_contrast_and_matching(matcher, plain):
    images = [noise(i) for i in range(4)]
    scale = plain.model.itc_head.scale().item()
    outputs = [plain(image, TEXTS[0]) for image in images]
    cosine = np.array([float((o.image_embeds * o.text_embeds).sum()) for o in outputs]) * scale
    odds = np.array([float(o.match_logits[0, 1] - o.match_logits[0, 0]) for o in outputs])
    ranked = matcher.rank(TEXTS[0], images)
    assert [r.index for r in ranked] == np.argsort(-(cosine + odds)).tolist()
    np.testing.assert_allclose([r.score for r in ranked], np.sort(cosine + odds)[::-1], atol=1e-4)
    # Only the best two by contrast are matched; the others follow in contrast's order.
    two = matcher.rank(TEXTS[0], images, rerank=2)
    by_contrast = np.argsort(-cosine).tolist()
    assert {r.index for r in two[:2]} == set(by_contrast[:2])
    assert [r.index for r in two[2:]] == by_contrast[2:]
    assert all(np.isnan(r.probability) for r in two[2:])
    assert len(matcher.rank(images[0], TEXTS, top_k=2)) == 2


def test_fill_gives_the_likeliest_words(matcher, plain):
    (guesses,) = matcher.fill(noise(0), "a small ___ ball", top_k=3)
    output = plain(noise(0), "a small [MASK] ball")
    states = output.last_hidden_state[0, 3:4], output.text_states[0, 3:4]
    chances = plain.model.predict_words(*states).softmax(dim=1)[0]
    np.testing.assert_allclose(
        [g.probability for g in guesses], chances.topk(3).values.detach(), atol=1e-5
    )
    assert len(matcher.fill(noise(0), "___ small ___")) == 2
    with pytest.raises(ValueError, match="no blank in 'a ball'"):
        matcher.fill(noise(0), "a ball")


def test_a_run_fine_tuned_for_retrieval_matches_but_fills_no_words(retrieval_run):
    matcher = Matcher(retrieval_run, device="cpu")
    assert matcher.match(noise(0), TEXTS).shape == (3,)
    with pytest.raises(ValueError, match="no masked-word head"):
        matcher.fill(noise(0), "a ___")
    with pytest.raises(ValueError, match="no masked-word head"):
        matcher.proofread(noise(0), "a ball")


def test_what_was_not_trained_is_not_asked(tmp_path):
    matcher = Matcher(write_run(tmp_path / "contrast", ranking="contrastive"), device="cpu")
    with pytest.raises(ValueError, match=r"needs matching, but .* trained without .* itm_start"):
        matcher.match(noise(0), TEXTS)
    assert all(np.isnan(r.probability) for r in matcher.rank(TEXTS[0], [noise(0), noise(1)]))
    matcher = Matcher(write_run(tmp_path / "matching", ranking="matching"), device="cpu")
    with pytest.raises(ValueError, match=r"needs contrast, but .* trained without"):
        matcher.embed_texts(TEXTS)
    assert len(matcher.rank(TEXTS[0], [noise(0), noise(1)], rerank=1)) == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.match([noise(0)] * 2, TEXTS), "2 images cannot be paired with 3 texts"),
        (lambda m: m.match("nothing.png", TEXTS), "nothing.png: No such file"),
        (lambda m: m.match(b"GIF", TEXTS), "image 0: not an image"),
        (lambda m: m.match(np.full((9, 9, 3), 300.0), TEXTS), "float64 pixels .* no known scale"),
        (lambda m: m.match(np.zeros((2, 9, 3), np.uint8), TEXTS), "too small"),
        (lambda m: m.rank("a", []), "no images"),
        (lambda m: m.encode_texts([]), "no texts were given"),
        (lambda m: m.proofread(noise(0), "..."), "no word that the model knows"),
        (lambda m: Matcher(m.name, batch_size=0), "batch_size"),
        (lambda m: Matcher("runs/nothing"), "runs/nothing"),
    ],
)
def test_what_the_caller_got_wrong_is_one_line(matcher, call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call(matcher)
    assert "\n" not in str(caught.value)


def test_nothing_gives_nothing(matcher):
    assert matcher.match([], []).shape == (0,)
    assert matcher.embed_images([]).shape == (0, 16)


def test_the_name_is_there_without_loading_torch():
    code = "import sys, vilta; assert 'Matcher' in dir(vilta); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_pictures_are_turned_upright_and_flattened(matcher, tmp_path):
    wide = noise(5, (40, 80))
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_allclose(
        matcher.embed_images(tmp_path / "turned.png"),
        matcher.embed_images(wide.rotate(-90, expand=True)),
        atol=1e-6,
    )
