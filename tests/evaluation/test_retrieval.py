import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pretraining_case import TOKENIZER
from tiny_models import pixels_of, tiny_vilta

from vilta.evaluation import retrieval
from vilta.evaluation.retrieval import (
    candidate_pairs,
    encode_gallery,
    encode_images,
    match_scores,
    mean_recall,
    retrieval_metrics,
    stage_scores,
)
from vilta.training.skipping import Diverged

CAPTIONS = [
    ["a red ball", "a red ball near the blue cube ."],
    ["dogs running under a boat"],
    ["the cube", "a green cube on grass", "grass"],
    ["the skateboarder runs near the dog"],
]
OWNER = [0, 0, 1, 2, 2, 2, 3]
TEXTS = [caption for group in CAPTIONS for caption in group]


@pytest.fixture(params=["co-attention", "cross-attention", "text-layers"])
def model(request):
    return tiny_vilta(fusion=request.param)


def encode(model):
    return encode_gallery(
        model, TOKENIZER, encode_images(model, pixels_of(4).split(3)), CAPTIONS, batch_size=2
    )


def plain_scores(model, image, text):
    tokens = TOKENIZER(TEXTS[text], return_tensors="pt")
    with torch.no_grad():
        out = model(tokens["input_ids"], tokens["attention_mask"], pixels_of(4)[image][None])
    cosine = (out.image_embeds @ out.text_embeds.T).item() * model.itc_head.scale().item()
    return cosine, (out.match_logits[0, 1] - out.match_logits[0, 0]).item()


def test_cached_states_score_as_whole_passes_do(model, monkeypatch):
    monkeypatch.setattr(retrieval, "PAIRS_PER_CALL", 5)
    gallery = encode(model)
    calls = []
    match = match_scores(
        model, gallery, torch.ones(4, 7, dtype=torch.bool), lambda *a: calls.append(a)
    )
    for image in range(4):
        for text in range(7):
            cosine, logit = plain_scores(model, image, text)
            assert gallery.similarity[image, text].item() == pytest.approx(cosine, abs=1e-4)
            assert match[image, text].item() == pytest.approx(logit, abs=1e-4)
            assert gallery.relevant[image, text].item() == (OWNER[text] == image)
    assert calls[-1] == (28, 28) and len(calls) == 6


def test_only_wanted_pairs_are_scored(model):
    gallery = encode(model)
    wanted = torch.rand(4, 7) < 0.5
    some = match_scores(model, gallery, wanted)
    every = match_scores(model, gallery, torch.ones_like(wanted))
    assert torch.equal(some.isfinite(), wanted)
    torch.testing.assert_close(some[wanted], every[wanted], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("part", ["vilta.vision", "vilta.text", "vilta.fusion"])
def test_a_diverged_model_is_named_as_the_reason(part):
    """Its weights may be finite and what they give not; no pair would be left to rank."""
    model = tiny_vilta()
    with torch.no_grad():
        for weight in model.get_submodule(part).parameters():
            weight.fill_(1e30)
    with pytest.raises(Diverged, match=r"model has diverged: .*lower --optimization\.lr"):
        match_scores(model, encode(model), torch.ones(4, 7, dtype=torch.bool))


SHARED = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from vilta.config import RunConfig
from vilta.training.processes import start_processes
start_processes(RunConfig(device="cpu"))
import sharing_case
import test_retrieval as case
from vilta.evaluation import retrieval
retrieval.PAIRS_PER_CALL = 5
torch.manual_seed(0)
model = case.tiny_vilta()
gallery, wanted = case.encode(model), torch.rand(4, 7) < 0.7
calls, match = [], model.match
model.match = lambda *given: calls.append(1) or match(*given)
alone = case.match_scores(model, gallery, wanted)
own = len(calls)
if torch.distributed.get_rank():
    wanted = ~wanted
shared = case.match_scores(model, gallery, wanted, together=True)
assert torch.equal(shared, alone) and own > len(calls) - own > 0
sharing_case.leave_nothing()
"""


def test_processes_that_share_the_pairs_get_all_scores(tmp_path):
    """The first one's choice of pairs counts, however the others would round."""
    (tmp_path / "shared.py").write_text(SHARED)
    here, root = Path(__file__).parent, Path(__file__).parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = os.pathsep.join([str(root / "src"), str(root / "tests" / "support")])
    done = subprocess.run(
        [*command, str(tmp_path / "shared.py"), str(here)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("top_k", [1, 3, 100])
def test_candidates_are_the_likeliest_either_way(top_k):
    similarity = torch.randn(5, 8)
    wanted = candidate_pairs(similarity, top_k)
    for i in range(5):
        for t in range(8):
            text_rank = (similarity[i] > similarity[i, t]).sum()
            image_rank = (similarity[:, t] > similarity[i, t]).sum()
            assert wanted[i, t].item() == (text_rank < top_k or image_rank < top_k)


@pytest.mark.parametrize("score", [-3.0, -300.0])
def test_scored_pairs_rank_before_others_which_keep_their_order(score):
    similarity = torch.tensor([[40.0, 90.0, 60.0, 50.0]])  # as a low temperature makes them
    match = torch.tensor([[-torch.inf, score, -torch.inf, -torch.inf]])
    scores = stage_scores(similarity, match)
    for stage in ("matching", "combined", "normalised"):
        assert scores[stage][0].argsort(descending=True).tolist() == [1, 2, 3, 0], stage
    wide = torch.arange(30.0)[None] + 20
    match = torch.full_like(wide, -torch.inf)
    match[0, 0] = 0.5
    metrics = retrieval_metrics(wide, match, torch.arange(30)[None] == 29)["matching"]
    assert metrics["image_to_text"] == {"R@1": 0.0, "R@5": 100.0, "R@10": 100.0}


def test_normalised_scores_are_shares_of_a_texts_images():
    """A caption that suits every image comes first for all of them, unless it is normalised."""
    similarity = torch.tensor([[4.0, 1.0, 5.0], [1.0, 4.0, 5.0], [0.0, 0.0, 6.0]])
    match = torch.tensor([[1.0, -2.0, 0.5], [-2.0, 1.0, 0.5], [-torch.inf, -1.0, 0.5]])
    relevant = torch.eye(3, dtype=torch.bool)
    metrics = retrieval_metrics(similarity, match, relevant)
    assert metrics["combined"]["image_to_text"]["R@1"] == pytest.approx(100 / 3)
    assert metrics["normalised"]["image_to_text"]["R@1"] == 100.0
    assert metrics["normalised"]["text_to_image"] == metrics["combined"]["text_to_image"]
    scores = stage_scores(similarity, match)["normalised"]
    for text in range(3):
        images = [i for i in range(3) if match[i, text].isfinite()]
        odds = [math.exp(match[i, text] + similarity[i, text]) for i in images]
        for image, each in zip(images, odds, strict=True):
            assert scores[image, text].exp().item() == pytest.approx(each / sum(odds), rel=1e-5)
    assert scores[2, 0] < scores[match.isfinite()].min()  # not a candidate: after all that are
    better = {"normalised": metrics["normalised"], "contrastive": metrics["contrastive"]}
    assert mean_recall(better) == mean_recall({"contrastive": metrics["contrastive"]})


def test_figures_of_both_stages():
    relevant = torch.eye(3, dtype=torch.bool)
    metrics = retrieval_metrics(1 - relevant.float(), relevant.float(), relevant)
    assert metrics["contrastive"]["image_to_text"]["R@1"] == 0.0
    assert metrics["matching"]["text_to_image"] == {"R@1": 100.0, "R@5": 100.0, "R@10": 100.0}
    assert set(retrieval_metrics(relevant.float(), None, relevant)) == {"contrastive"}
