"""A small task with all that makes training hard to repeat: dropout, tied weights, an unused
pooler, a frozen part, a moving average and a batch norm. As a script it trains under torchrun."""

import json
import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from vilta.config import OptimizationConfig, PretrainConfig, RunConfig
from vilta.training.loop import Summary, train
from vilta.types import Losses

SAMPLES, WORDS, WIDTH = 37, 11, 8


@dataclass(frozen=True)
class ToyBatch:
    words: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.words)

    def to(self, device: torch.device | str) -> "ToyBatch":
        return replace(self, words=self.words.to(device))


class ToyTask(nn.Module):
    """Predicts the last word of four from the other three."""

    def __init__(
        self, *, stop_at: int = -1, broken: tuple[str, ...] = (), pooler_from: int | None = None
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(WORDS, WIDTH)
        self.pooler = nn.Linear(WIDTH, WIDTH)  # not used, as in many encoders, or from a call on
        self.teacher = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.mix = nn.Linear(3 * WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.seen = nn.BatchNorm1d(3, affine=False)  # learns its statistics, changes nothing
        self.head = nn.Linear(WIDTH, WORDS)
        self.head.weight = self.words.weight
        self.average = nn.Parameter(self.mix.weight.detach().clone(), requires_grad=False)
        self.stop_at, self.broken, self.calls = stop_at, broken, 0
        self.pooler_from, self.steps = pooler_from, 0
        self.scores: list[float] = []

    def forward(self, batch: ToyBatch) -> Losses:
        self.calls += self.training
        if self.training and self.calls == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        harm = float("nan") if set(self.broken) & set(batch.names) else 1.0
        self.seen(harm * batch.words[:, :3])
        states = F.dropout(self.mix(self.words(batch.words[:, :3]).flatten(1)), 0.3, self.training)
        if self.pooler_from is not None and self.steps >= self.pooler_from:
            states = states + self.pooler(states)
        loss = harm * F.cross_entropy(self.head(self.norm(states)), batch.words[:, 3])
        share = (batch.words[:, 3] == 0).float().mean()
        never = torch.tensor(float("nan"))
        parts = {"loss/mlm": loss.detach(), "share/zero": share, "share/never": never}
        return Losses(total=loss, metrics=parts)

    def evaluate(self) -> dict[str, float]:
        """Score the training set, or give the next of the scores that a test has set."""
        if self.scores:
            return {"toy/score": self.scores.pop(0)}
        batch = ToyBatch(sentences(), tuple("" for _ in range(SAMPLES)))
        return {"toy/score": -self(batch).total.item(), "toy/noise": torch.rand(()).item()}

    def after_step(self) -> None:
        self.steps += 1
        self.average.lerp_(self.mix.weight.detach(), 0.1)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {
            "encoders": [*self.words.parameters(), *self.pooler.parameters()],
            "fusion": [*self.mix.parameters(), *self.norm.parameters()],
            "heads": [self.head.bias, *self.teacher.parameters()],
        }

    def save_pretrained(self, folder: str) -> None:
        save_file({"mix": self.mix.weight.detach().clone()}, Path(folder) / "model.safetensors")


def sentences() -> Tensor:
    first = torch.arange(SAMPLES) * 7 % WORDS
    return torch.stack([first, first * 3 % WORDS, first * 5 % WORDS, (first + 1) % WORDS], dim=1)


def loader_for(batch_size: int, accumulate: int):
    """The samples in a new order each epoch; batches run across the ends of the epochs."""

    def load(*, start_step: int, rank: int, world_size: int):
        words, cuts = sentences(), world_size * accumulate
        step = start_step
        while True:
            for micro in range(rank * accumulate, (rank + 1) * accumulate):
                begin = (step * cuts + micro) * batch_size
                rows = [sample_at(i) for i in range(begin, begin + batch_size)]
                yield ToyBatch(words[rows], tuple(f"toy#{row}" for row in rows))
            step += 1

    return load


def sample_at(position: int) -> int:
    epoch, place = divmod(position, SAMPLES)
    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(epoch))
    return int(order[place])


def train_toy(out: Path, task: ToyTask | None = None, **settings) -> Summary:
    """Train with settings of OptimizationConfig and RunConfig by their names."""
    task = task or ToyTask()
    names = {f for f in OptimizationConfig.__dataclass_fields__}
    optimization = {
        "steps": 12,
        "batch_size": 4,
        "accumulate": 2,
        "lr": 1e-2,
        "precision": "float32",
        **{k: v for k, v in settings.items() if k in names},
    }
    run = {
        "out": str(out),
        "log_every": 5,
        "save_every": 4,
        "evaluate_every": 6,
        "selection_metric": "toy/score",
        "device": "cpu",
        **{k: v for k, v in settings.items() if k in RunConfig.__dataclass_fields__},
    }
    config = PretrainConfig(optimization=OptimizationConfig(**optimization), run=RunConfig(**run))
    return train(
        task,
        loader_for(config.optimization.batch_size, config.optimization.accumulate),
        optimization=config.optimization,
        run=config.run,
        config=config,
        fingerprint=settings.get("fingerprint", "data"),
        vocabulary=settings.get("vocabulary", "words"),
        resume="vilta toy --run.resume",
        evaluate=task.evaluate,
        samples_per_epoch=SAMPLES,
        bad_samples=lambda: settings.get("bad", 0),
    )


def metrics(out: Path) -> list[dict]:
    """All lines of metrics.jsonl without the clock's and the machine's."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "samples_per_s")
    return [
        {k: v for k, v in line.items() if k not in clock} for line in lines if "device" not in line
    ]


class Killed(BaseException):
    """Stands for SIGKILL: nobody catches it."""


def dies_after(left, operation):
    """An operation that ends the process, as it were, when nothing is left of the iterator."""

    def run(*args, **kwargs):
        if next(left, None) is None:
            raise Killed
        return operation(*args, **kwargs)

    return run


if __name__ == "__main__":
    for out, settings in json.loads(sys.argv[1]).items():
        broken, pooler = tuple(settings.pop("broken", ())), settings.pop("pooler_from", None)
        # The first process alone is asked to stop.
        stop_at = settings.pop("stop_first", -1) if os.environ["RANK"] == "0" else -1
        settings.pop("stop_first", None)
        task = ToyTask(broken=broken, pooler_from=pooler, stop_at=stop_at)
        try:
            summary = train_toy(Path(out), task, **settings)
            ended = f"step {summary.step}, stopped {summary.stopped}, skipped {summary.skipped}"
            print(f"{Path(out).name} rank {os.environ['RANK']}: {ended}")
        except ValueError as error:
            print(f"refused: {error}")
        torch.save(task.state_dict(), Path(out) / f"rank{os.environ['RANK']}.pt")
