"""Values that are right alone and wrong together are refused in a line that names them."""

from dataclasses import replace

import pytest

from vilta.config import ObjectiveConfig, OptimizationConfig
from vilta.config.ablate import AblateConfig
from vilta.config.ranges import check_config

ABLATE = AblateConfig(arms=("vilta", "meter"), baseline="meter", seeds=(0, 1), out="x")
OBJECTIVE = ObjectiveConfig(itc_targets="pairs", queue_size=0, mlm_start=0, itm_start=0)
MATCHING = replace(OBJECTIVE, mlm_weight=0.0, text_mlm_weight=0.0, itc_weight=0.0)


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (ABLATE, {"seeds": ()}, "seeds is empty; name at least one"),
        (ABLATE, {"arms": ("vilta", "meter", "vilta")}, "arms has vilta twice"),
        (ABLATE, {"seeds": (1, 0, 1)}, "seeds has 1 twice"),
        (ABLATE, {"arms": ("vilta", "meter", "a/b", "a-b")}, "arms: a/b and a-b would be kept"),
        (ABLATE, {"tasks": ("a/b", "a b")}, "tasks: a/b and a b would be kept in one folder"),
        (ABLATE, {"baseline": "metre"}, "baseline 'metre' is not one of the arms: vilta, meter"),
        (ABLATE, {"planned": ("vilta > alba on edits/accuracy",)}, "'alba' is not one of the arms"),
        (ABLATE, {"planned": ("vilta beats meter",)}, "planned: cannot read 'vilta beats meter'"),
        (
            ABLATE,
            {"planned": ("vilta > meter on edits/acuracy",)},
            "planned: 'edits/acuracy' is not measured; did you mean 'edits/accuracy'",
        ),
        (
            ABLATE,
            {"planned": ("vilta > meter on corrupted/blr-3/edits",)},
            "'corrupted/blr-3/edits' is not measured; did you mean 'corrupted/blur-3/edits'",
        ),
        (
            ABLATE,
            {"planned": ("vilta > meter on corrupted/jpeg-1/edits",), "corruptions": False},
            "'corrupted/jpeg-1/edits' is not measured; it needs corruptions",
        ),
        (ABLATE, {"controls": ("alba",)}, "controls: 'alba' is not one of the arms"),
        (ABLATE, {"tune": ("lr",)}, "tune: cannot read 'lr'"),
        (ABLATE, {"tune": ("lr=1e-3/2e-3",), "tune_seed": 1}, "tune_seed 1 is one of the seeds"),
        (OBJECTIVE, {"queue_size": 64}, "queue_size is for itc_targets: momentum"),
        (OBJECTIVE, {"mlm_start": 1, "itc_weight": 0.0, "itm_start": 1}, "needs contrast"),
        (OBJECTIVE, {"mlm_start": 2, "itm_start": 1}, r"itm_start is 1; .* mlm_start \(2"),
        (MATCHING, {"itm_weight": 0.0}, "no loss has a weight in the first step"),
        (MATCHING, {"itm_start": 2}, "no loss has a weight in the first step"),
    ],
)
def test_what_does_not_go_together_is_one_line(config, change, message):
    check_config(config)
    with pytest.raises(ValueError, match=message) as raised:
        check_config(replace(config, **change))
    assert "\n" not in str(raised.value)


def test_a_batch_size_that_is_still_to_be_found_is_no_number():
    assert OptimizationConfig(batch_size=8).samples_at_once == 8
    with pytest.raises(ValueError, match="batch_size is auto; it must be a number here"):
        _ = OptimizationConfig(batch_size="auto").samples_at_once
