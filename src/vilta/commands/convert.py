"""`vilta convert CHECKPOINT`: converts the weights that METER published to a model folder."""

from __future__ import annotations

from pathlib import Path

from vilta.config.tools import ConvertConfig
from vilta.model import ViltaProcessor
from vilta.model.language_model import load_tokenizer
from vilta.model.meter import convert_meter, read_checkpoint
from vilta.report.model_card import write_converted_card
from vilta.screen import command, free_folder, results, say_next
from vilta.training.folder import replaced_folder, require_writable_folder


def run(checkpoint: str, config: ConvertConfig) -> dict[str, str]:
    """Write ``config.out``.

    Raises ``ValueError`` in one line for a checkpoint that cannot be converted.
    """
    if not config.out:
        raise ValueError("--out must name the folder to write, such as runs/meter/model")
    out = Path(config.out)
    if out.exists():
        raise ValueError(f"{out} exists; choose another --out")
    if Path(checkpoint).is_dir():
        raise ValueError(f"{checkpoint} is a folder; name the checkpoint file")
    require_writable_folder(out)
    model = convert_meter(read_checkpoint(checkpoint), config.text)
    tokenizer = load_tokenizer(config.text)
    with replaced_folder(out) as place:
        model.save_pretrained(place)
        ViltaProcessor.from_config(model.config, tokenizer).save_pretrained(place)
        write_converted_card(place, checkpoint, config.text)
    results.print(f"wrote {out}: METER's encoders, fusion, match head and word head")
    finetune = ["finetune", "retrieval", "--from", str(out), "--data.train", "DATA"]
    say_next(command(*finetune, "--run.out", free_folder("runs/mine")))
    return {"out": str(out)}
