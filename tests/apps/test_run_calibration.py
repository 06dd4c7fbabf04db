from dataclasses import replace

import numpy as np
import pytest
from small_run import noise, write_run
from tiny_models import CAPTIONS

from vilta import Matcher
from vilta.apps import run_calibration
from vilta.apps.image_input import pixels_of
from vilta.apps.run_calibration import calibrate
from vilta.commands import evaluate
from vilta.config.tools import EvaluateConfig
from vilta.metrics.calibration import TEMPERATURES, Calibration
from vilta.model import ViltaForPreTraining

GROUPS = [[caption] for caption in CAPTIONS[:6]]


def test_calibration_is_kept_with_the_model_and_used(tmp_path):
    run = write_run(tmp_path / "run")
    matcher = Matcher(run, device="cpu")
    pixels = [pixels_of([noise(i) for i in range(6)], 32)]
    told = calibrate(matcher.model, matcher.tokenizer, pixels, GROUPS, "/home/me/noise")
    matcher.model.config.save_pretrained(run / "model")
    again = Matcher(run, device="cpu")
    config = again.model.config
    assert again.calibrated and config.calibrated_on == "6 images of noise"
    assert f"temperature {config.match_temperature:.2f}" in told
    odds = again.log_odds(noise(0), CAPTIONS)
    wanted = 1 / (1 + np.exp(-(odds / config.match_temperature + config.match_bias)))
    np.testing.assert_allclose(again.match(noise(0), CAPTIONS), wanted, rtol=1e-5)
    # The conformal threshold: of these six captions, at most none is flagged.
    found = [again.proofread(noise(i), GROUPS[i][0]) for i in range(6)]
    assert not any(each.flagged for each in found)


LOWEST, HIGHEST = TEMPERATURES


@pytest.mark.parametrize("temperature", [LOWEST, 2.0, HIGHEST])
def test_a_temperature_at_its_bound_is_said(tmp_path, monkeypatch, temperature):
    matcher = Matcher(write_run(tmp_path / "run"), device="cpu")
    pixels = [pixels_of([noise(i) for i in range(6)], 32)]
    monkeypatch.setattr(run_calibration, "fit", lambda *_: Calibration(temperature, 0.0))
    told = calibrate(matcher.model, matcher.tokenizer, pixels, GROUPS, "noise")
    assert told.endswith("does not tell these pairs apart yet") == (temperature == HIGHEST)
    assert ("the lowest temperature" in told) == (temperature == LOWEST)


def test_a_run_without_matching_is_left_as_it_is(tmp_path):
    matcher = Matcher(write_run(tmp_path / "run", ranking="contrastive"), device="cpu")
    told = calibrate(matcher.model, matcher.tokenizer, [], GROUPS, "noise")
    assert "did not train matching" in told and not matcher.calibrated


def test_one_image_is_too_few(tiny_run):
    matcher = Matcher(tiny_run, device="cpu")
    with pytest.raises(ValueError, match="at least two images"):
        calibrate(matcher.model, matcher.tokenizer, [], GROUPS[:1], "noise")


def test_a_released_folder_gets_the_threshold_for_proofreading_too(tmp_path, capsys):
    released = write_run(tmp_path / "run") / "model"
    (tmp_path / "run" / "config.yaml").unlink()
    config = EvaluateConfig(data="scenes:12?seed=1&size=32", device="cpu", top_k=3)
    evaluate.run(str(released), replace(config, task="retrieval", calibrate=True))
    assert "proofreading threshold" in capsys.readouterr().err
    after = Matcher(released, device="cpu").model
    assert after.config.suspicion_threshold is not None and isinstance(after, ViltaForPreTraining)


def test_a_report_is_suggested_where_it_finds_the_evaluation(tiny_run, tmp_path, capsys):
    config = EvaluateConfig(data="scenes:4?seed=1&size=32", device="cpu", top_k=2)
    for out, suggested in ((str(tmp_path / "x.json"), False), ("", True)):
        evaluate.run(str(tiny_run), replace(config, out=out))
        told = capsys.readouterr()
        assert (f"next: vilta report {tiny_run}" in told.err) == suggested
        assert told.out.count("raw") == 1 and "raw; the model is not calibrated" in told.out


def test_evaluate_calibrates_and_tells_the_error(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    data = "scenes:12?seed=1&size=32"
    evaluate.run(str(run), EvaluateConfig(data=data, device="cpu", top_k=3, calibrate=True))
    told = capsys.readouterr()
    assert "calibrated on 12 images of scenes" in " ".join(told.err.split())
    assert "raw " in told.out and "not calibrated" not in told.out
    assert Matcher(run, device="cpu").model.config.calibrated_on.startswith("12 images")
