"""A run inside sentence-transformers gives the numbers that it gives outside."""

import numpy as np
import pytest
from small_run import noise, write_run

pytest.importorskip("sentence_transformers", reason="the extra is not installed")

from sentence_transformers import CrossEncoder, SentenceTransformer

from vilta.apps.matcher import Matcher
from vilta.apps.sentence_transformers import ViltaEmbedder, ViltaReranker

TEXTS = ["two dogs run", "a red ball lies above the large green cube", "ball"]


@pytest.fixture
def photos(tmp_path):
    paths = []
    for seed in range(4):
        paths.append(str(tmp_path / f"{seed}.png"))
        noise(seed).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "calibrated"
    return write_run(folder, match_temperature=0.25, match_bias=0.5)


@pytest.fixture(scope="module")
def reranker(run):
    return CrossEncoder(modules=[ViltaReranker(run)], device="cpu")


def test_predict_gives_the_calibrated_probabilities_of_the_matcher(run, reranker, photos):
    pairs = [(text, photo) for photo in photos for text in TEXTS]
    pairs[5] = pairs[5][::-1]  # the image may stand first
    pairs[6] = ({"text": pairs[6][0]}, {"image": pairs[6][1]})
    found = reranker.predict(pairs, batch_size=5)
    matcher = Matcher(run, device="cpu")
    expected = [matcher.match(photo, text)[0] for photo in photos for text in TEXTS]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found) > 1e-3


def test_rank_finds_images_for_a_text_and_texts_for_an_image(run, reranker, photos):
    matcher = Matcher(run, device="cpu")
    pictures = [noise(seed) for seed in range(4)]
    for documents in (photos, pictures):
        ranked = reranker.rank(TEXTS[1], documents, top_k=3)
        chances = matcher.match(documents, TEXTS[1])
        assert [each["corpus_id"] for each in ranked] == list(np.argsort(-chances)[:3])
    (best,) = reranker.rank(pictures[0], TEXTS, top_k=1, return_documents=True)
    assert best["text"] == TEXTS[int(matcher.match(pictures[0], TEXTS).argmax())]


def test_embeddings_are_those_of_the_matcher(run, photos):
    embedder = SentenceTransformer(modules=[ViltaEmbedder(run)], device="cpu")
    matcher = Matcher(run, device="cpu")
    pictures = [photos[0], noise(1), {"image": photos[2]}]
    images = matcher.embed_images([photos[0], noise(1), photos[2]])
    texts = matcher.embed_texts(TEXTS)
    np.testing.assert_allclose(embedder.encode(pictures, batch_size=2), images, atol=1e-5)
    found = embedder.encode(TEXTS, batch_size=2)
    np.testing.assert_allclose(found, texts, atol=1e-5)
    assert embedder.get_embedding_dimension() == found.shape[1] == 16
    similarity = embedder.similarity(embedder.encode(TEXTS), embedder.encode(photos))
    np.testing.assert_allclose(similarity, texts @ matcher.embed_images(photos).T, atol=1e-5)


@pytest.mark.parametrize("name", ["x.tif", "x.JFIF", "x.img"])
def test_every_file_that_is_an_image_elsewhere_is_one_here(run, reranker, tmp_path, name):
    photo = str(tmp_path / name)
    noise(7).save(photo, "TIFF" if name == "x.tif" else "JPEG")
    matcher = Matcher(run, device="cpu")
    embedder = SentenceTransformer(modules=[ViltaEmbedder(run)], device="cpu")
    wanted = matcher.embed_images(photo)
    np.testing.assert_allclose(embedder.encode([photo]), wanted, atol=1e-5)
    np.testing.assert_allclose(
        reranker.predict([(photo, TEXTS[0])]), matcher.match(photo, TEXTS[0]), atol=1e-5
    )
    with pytest.raises(ValueError, match="images and texts cannot be embedded in one call"):
        embedder.encode([TEXTS[0], photo])
    # A caption of the web may be a file's name.
    np.testing.assert_allclose(embedder.encode([name]), matcher.embed_texts(name), atol=1e-5)


def test_a_saved_chain_is_loaded_again(reranker, run, photos, tmp_path):
    pairs = [(TEXTS[0], photo) for photo in photos]
    reranker.save_pretrained(str(tmp_path / "reranker"))
    again = CrossEncoder(str(tmp_path / "reranker"), device="cpu", trust_remote_code=True)
    np.testing.assert_array_equal(again.predict(pairs), reranker.predict(pairs))
    assert isinstance(again[0], ViltaReranker)
    embedder = SentenceTransformer(modules=[ViltaEmbedder(run)], device="cpu")
    embedder.save_pretrained(str(tmp_path / "embedder"))
    loaded = SentenceTransformer(str(tmp_path / "embedder"), device="cpu", trust_remote_code=True)
    found = loaded.encode(TEXTS)
    np.testing.assert_array_equal(found, embedder.encode(TEXTS))
    assert Matcher(tmp_path / "embedder", device="cpu").embed_texts(TEXTS).shape == found.shape


def test_what_cannot_be_compared_is_said_in_a_line(reranker, tmp_path):
    with pytest.raises(ValueError, match=r"one text and one image .* got text and text"):
        reranker.predict([(TEXTS[0], TEXTS[1])])
    contrast = write_run(tmp_path / "contrast", ranking="contrastive")
    with pytest.raises(ValueError, match="trained by contrastive alone; use ViltaEmbedder"):
        ViltaReranker(contrast)
    matching = write_run(tmp_path / "matching", ranking="matching")
    with pytest.raises(ValueError, match="trained by matching alone; use ViltaReranker"):
        ViltaEmbedder(matching)
