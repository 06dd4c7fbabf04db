"""Settings of `vilta ablate`: which methods are compared, on what, and for how long."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from vilta.config.ranges import Count, CountOrZero, NotNegative, Positive, Share
from vilta.spelling import nearest

_PLANNED = re.compile(r"(\S+) (>|<) (\S+) on (\S+)")
_TUNE = re.compile(r"[\w.]+=[^=/+\s]+(/[^=/+\s]+)*")
MEASURES = (
    "retrieval/mean_recall",
    "retrieval/matching",
    "retrieval/contrastive",
    "retrieval/combined",
    "edits/accuracy",
    "edits/rejected",
    "edits/captions_accepted",
    "edits/paraphrases_accepted",
    "edits/both_sides",
    "edits/accuracy_wrong_image",
    "edits/contrast/accuracy",
    "masked_words/with_image",
    "masked_words/wrong_image",
    "masked_words/text_only",
    "synonyms/true",
    "synonyms/synonym",
    "synonyms/wrong",
    "synonyms/count",
)
"""What is measured of every arm."""
_DAMAGED = re.compile(r"corrupted/(blur|jpeg|brightness|occlusion)-[123]/(retrieval|edits)")
"""What is measured on damaged images."""
_OTHER_MEASURES = re.compile(r"edits/kind/.+|tasks/.+/.+")
"""What is measured as the items and the tasks have it; a task may be added later."""


def folder_name(arm: str) -> str:
    """Return an arm's or task's name without what file systems mind."""
    return re.sub(r"[^\w.+=-]+", "-", arm)


class Planned(NamedTuple):
    """A comparison that was decided on before anything was trained."""

    arm: str
    direction: Literal[">", "<"]
    other: str
    measure: str


@dataclass(frozen=True, kw_only=True)
class AblateConfig:
    """Compare methods: train each arm from several seeds on the same data, and report."""

    base: str = ""
    """Required. Pre-training config that all arms share: a file, or a name such as `demo`."""
    common: tuple[str, ...] = ()
    """Changes of `base` for all arms, each a YAML file or `setting=value` (`batch_size=32`; the
    whole path, `data.workers=0`, where several parts have a setting of that name)."""
    arms: tuple[str, ...] = ("meter", "albef", "vilta")
    """The methods. An arm is one or more changes of `base`, joined by `+`: a shipped arm (`meter`),
    a YAML file that says only what differs, or `setting=value`: `vilta+alpha=0.7`."""
    baseline: str = "meter"
    """Arm that all others are compared with."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each arm is trained once from each. More can be added later."""
    controls: tuple[str, ...] = ()
    """Those of `arms` that are trained from the first `control_seeds` seeds only: what no main
    claim rests on needs fewer."""
    control_seeds: Count = 3
    """How many of `seeds` the `controls` are trained from."""
    budget: Literal["samples", "seconds", "flops"] = "samples"
    """What is equal for all arms: training samples, the seconds that a run would take alone on
    this machine (a probe measures the pace of each arm before the first run), or FLOPs."""
    amount: Positive = 100_000.0
    """How many samples, seconds or FLOPs each run gets."""
    tune: tuple[str, ...] = ()
    """Settings that are tuned for each arm alone, all arms with the same values: `lr=1e-3/2e-3`,
    `itm_weight=0.5/1`. Every combination is trained once, and the best one is what the arm is
    compared with."""
    tune_amount: NotNegative = 0.0
    """Budget of each of these runs, in the unit of `amount`; 0: `amount`."""
    tune_on: Literal["retrieval/mean_recall", "retrieval/matching", "masked_words/with_image"] = (
        "retrieval/mean_recall"
    )
    """What is best, at the end of such a run, on the `images` of `data.val` that follow those that
    the comparison is measured on."""
    tune_seed: CountOrZero = 1000
    """Seed of these runs; none of `seeds`."""
    evaluations: Count = 10
    """Evaluations of each run, evenly spaced, the last one at its end."""
    images: Count = 200
    """Images of `data.val`, each with its first caption, for retrieval and masked words. All arms
    rank all pairs by matching, so the cost grows with the square."""
    edits: str = "scenes:300?seed=31&size=96"
    """Items of `fine-grained`: captions, minimal edits, paraphrases. Scenes, or a file (benchmarks
    of that task, or a CSV)."""
    edit_items: CountOrZero = 0
    """At most this many of the items, evenly spaced; 0: all. They are measured at each evaluation,
    and on damaged images twelve times more."""
    edits_images: str = ""
    """Where the images of `edits` are, if the file does not lie beside them."""
    caption_noise: Share = 0.0
    """Train each arm a second time with this share of the captions moved to wrong images; 0: off.
    It doubles the number of runs."""
    corruptions: bool = True
    """Measure the final models on damaged images too: blur, JPEG, brightness, occlusion, each at
    three strengths."""
    tasks: tuple[str, ...] = ()
    """Fine-tuning configs (`scenes/snli-ve`): each finished run is fine-tuned with them, all with
    the same settings."""
    planned: tuple[str, ...] = ()
    """Comparisons decided on in advance: `vilta > meter on edits/accuracy`. All others are reported
    as looked at afterwards. docs/comparing.md lists the measures."""
    jobs: Count = 1
    """Runs at a time; they take turns on the CUDA devices, and several may share one."""
    minutes: NotNegative = 0.0
    """Stop the runs in order after so many minutes and report what there is; the same command goes
    on. 0: no limit."""
    keep: Literal["all", "models", "records"] = "models"
    """What is kept of a run that was measured: checkpoints too, the model, or only the log and the
    measurements (a few hundred KB), which is all that the report reads."""
    examples: CountOrZero = 6
    """Items in the report on which arms disagree, for each arm."""
    program: str = "vilta"
    """Python module that starts the parts, as `python -m vilta`: name one of yours that registers
    encoders and then calls vilta's command line."""
    out: str = ""
    """Required. Folder of the comparison: a folder for each run, and the report."""
    part: str = ""
    """Do one part in this process and nothing else: `probe`, `tune ARM+lr=1e-3/seed-1000`, `train
    ARM/seed-0`, `measure ARM/seed-0` or `report`. The comparison starts its parts in this way."""

    def check(self) -> None:
        """Raise ``ValueError`` for values that do not go together."""
        for name, values in {"arms": self.arms, "seeds": self.seeds}.items():
            if not values:
                raise ValueError(f"{name} is empty; name at least one")
            twice = [value for i, value in enumerate(values) if value in values[:i]]
            if twice:
                raise ValueError(f"{name} has {twice[0]} twice")
        for name, values in {"arms": self.arms, "tasks": self.tasks}.items():
            kept: dict[str, str] = {}
            for value in values:
                other = kept.setdefault(folder_name(value), value)
                if other != value:
                    raise ValueError(
                        f"{name}: {other} and {value} would be kept in one folder; rename one"
                    )
        if self.baseline not in self.arms:
            raise ValueError(
                f"baseline {self.baseline!r} is not one of the arms: {', '.join(self.arms)}"
            )
        for arm in self.controls:
            if arm not in self.arms:
                raise ValueError(f"controls: {arm!r} is not one of the arms")
        for text in self.tune:
            if not _TUNE.fullmatch(text):
                raise ValueError(f"tune: cannot read {text!r}; write `lr=1e-3/2e-3`")
        if self.tune and self.tune_seed in self.seeds:
            raise ValueError(f"tune_seed {self.tune_seed} is one of the seeds; choose another")
        for planned in self.comparisons():
            for arm in (planned.arm, planned.other):
                if arm not in self.arms:
                    raise ValueError(f"planned: {arm!r} is not one of the arms")
            if mended := self._unmeasured(planned.measure):
                raise ValueError(f"planned: {planned.measure!r} is not measured; {mended}")

    def _unmeasured(self, measure: str) -> str:
        """Return what to do about a measure that no run will have; empty if it may."""
        if _DAMAGED.fullmatch(measure):
            return "" if self.corruptions else "it needs corruptions"
        known = measure in MEASURES or _OTHER_MEASURES.fullmatch(measure)
        return "" if known else nearest(measure, (*MEASURES, "corrupted/blur-3/edits"))

    def comparisons(self) -> list[Planned]:
        """Return the planned comparisons; ``ValueError`` for one that cannot be read."""
        found = []
        for text in self.planned:
            match = _PLANNED.fullmatch(text.strip())
            if match is None:
                raise ValueError(
                    f"planned: cannot read {text!r}; write `vilta > meter on edits/accuracy`"
                )
            arm, direction, other, measure = match.groups()
            found.append(Planned(arm, "<" if direction == "<" else ">", other, measure))
        return found
