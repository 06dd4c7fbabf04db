"""Pre-train from Python: settings as objects, data from any source that `vilta pack` reads.

    python examples/pretrain.py [FOLDER] [STEPS]

Without a folder of your own with images and captions, the built-in scenes are drawn. Small encoders
start at random, so the whole takes a minute on a laptop; give hub ids to start from trained ones.
"""

import shutil
import sys
from pathlib import Path

from vilta.commands import pack, pretrain, pretrain_text
from vilta.config import (
    DataConfig,
    ModelConfig,
    OptimizationConfig,
    PretrainConfig,
    PretrainTextConfig,
    RunConfig,
    TextDataConfig,
    TextModelConfig,
)
from vilta.config.tools import PackConfig


def main(source: str = "scenes:2000?seed=0&size=96", steps: str = "60") -> None:
    out = Path("runs/example")
    data = str(out / "data")
    shutil.rmtree(data, ignore_errors=True)  # of an earlier call, as its runs are overwritten below
    pack.run(source, PackConfig(out=data))

    # A language model on the captions alone; it becomes text encoder and frozen teacher.
    pretrain_text.run(
        PretrainTextConfig(
            data=TextDataConfig(train=data),
            model=TextModelConfig(vocabulary=1024, width=128, layers=2, heads=2),
            optimization=OptimizationConfig(steps=int(steps), batch_size=64, lr=1e-3),
            run=RunConfig(out=str(out / "text"), selection_metric="text/top1", overwrite=True),
        )
    )
    # The method itself. `demo-image` is a small encoder that vilta ships, with random weights.
    pretrain.run(
        PretrainConfig(
            data=DataConfig(train=data, image_size=96, max_text_tokens=32, workers=0),
            model=ModelConfig(
                image="demo-image",
                text=str(out / "text" / "model"),
                fusion="cross-attention",
                fusion_layers=2,
                fusion_width=128,
                fusion_heads=4,
            ),
            optimization=OptimizationConfig(steps=int(steps), batch_size=32, lr=1e-3),
            run=RunConfig(out=str(out / "run"), overwrite=True),
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
