"""`reliability/fuzz_readers.py` tries every place of vilta that decodes foreign bytes or text."""

import ast
import sys
import threading
from pathlib import Path

import pytest

import vilta

pytest.importorskip("fastapi")
SOURCE = Path(vilta.__file__).parent
RELIABILITY = Path(__file__).parents[1] / "reliability"

DECODERS = {
    "InferenceSession",
    "ParquetFile",
    "b64decode",
    "connect",
    "execute",
    "from_file",
    "from_pretrained",
    "get_image_processor_dict",
    "json_object",
    "literal_eval",
    "load_dataset",
    "load_file",
    "load_from_disk",
    "loads",
    "memmap",
    "open_file",
    "open_stream",
    "parse_json",
    "raw_decode",
    "reader",
    "safe_load",
} | {
    f"{module}.{name}"
    for module, name in (
        ("yaml", "load"),
        ("torch", "load"),
        ("tarfile", "open"),
        ("gzip", "open"),
        ("Image", "open"),
        ("ModelCard", "load"),
        ("simplejpeg", "decode_jpeg"),
    )
}
"""Calls that turn bytes or text into something; by their last name, or their last two."""

OWN = "reads what the same program wrote while it worked"
RELEASED = "loads a released model, as `released_models` does"
NOT_FOREIGN = {
    "ablation/arms.py::changed": "reads a flag of the command line",
    "ablation/grid.py::load_plan": OWN,
    "ablation/records.py::_json": OWN,
    "ablation/suite.py::read_items": OWN,
    "ablation/tuning.py::chosen": OWN,
    "apps/onnx_export.py::largest_difference": OWN,
    "apps/onnx_ranker.py::__init__": "reads what `vilta export` wrote; a program of its own",
    "apps/onnx_ranker.py::read_pixels": "a program of its own, without vilta's bounds",
    "apps/onnx_ranker.py::readable": "a program of its own, without vilta's bounds",
    "apps/sentence_transformers.py::__init__": RELEASED,
    "commands/evaluate.py::earlier_evaluations": OWN,
    "commands/finetune.py::start_model": RELEASED,
    "data/corruption.py::apply": OWN,
    "data/pack/journal.py::begin": OWN,
    "data/pack/shards.py::read_batches": OWN,
    "data/sources/saved.py::find_hub": "needs the network; then as a saved folder",
    "finished_run.py::load_run": RELEASED,
    "finished_run.py::load_task": RELEASED,
    "new_model.py::take_weights": RELEASED,
    "pretraining_run.py::example_pictures": OWN,
    "registration.py::execute_and_register": "loads a module of Python",
    "report/model_card.py::write_converted_card": OWN,
    "training/folder.py::_keys": OWN,
    "training/tracking.py::_drop_lines_after": OWN,
}
"""Functions with such a call that the fuzzer does not reach, each with the reason."""


def decoding_functions():
    """Yield `file::function` for every innermost function of vilta with such a call."""

    def walk(node, function):
        for child in ast.iter_child_nodes(node):
            inner = function
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = child.name
            if isinstance(child, ast.Call) and _name(child.func) & DECODERS:
                yield function
            yield from walk(child, inner)

    for file in sorted(SOURCE.rglob("*.py")):
        place = file.relative_to(SOURCE).as_posix()
        yield from {f"{place}::{name}" for name in walk(ast.parse(file.read_text()), "")}


def _name(function):
    if isinstance(function, ast.Name):
        return {function.id}
    if isinstance(function, ast.Attribute):
        before = function.value
        last = getattr(before, "attr", getattr(before, "id", ""))
        return {function.attr, f"{last}.{function.attr}"}
    return set()


@pytest.fixture(scope="module")
def parsers():
    sys.path.insert(0, str(RELIABILITY))
    try:
        import fuzz_readers

        yield fuzz_readers.PARSERS
    finally:
        sys.path.remove(str(RELIABILITY))


def test_every_decoder_is_reached_by_a_valid_file_of_the_fuzzer(parsers, tmp_path):
    reached = set()

    def note(frame, event, _):
        if event == "call" and (file := frame.f_code.co_filename).startswith(str(SOURCE)):
            place = Path(file).relative_to(SOURCE).as_posix()
            reached.add(f"{place}::{frame.f_code.co_name}")

    for parser in parsers.values():
        for number, (name, (read, seeds)) in enumerate(parser.files.items()):
            folder = tmp_path / parser.name / str(number)
            folder.mkdir(parents=True)
            parser.prepare(folder)
            for seed in seeds:
                (folder / name).write_bytes(bytes(seed))
                threading.setprofile(note)
                sys.setprofile(note)
                try:
                    read(folder / name)
                finally:
                    sys.setprofile(None)
                    threading.setprofile(None)
    lacking = set(decoding_functions()) - reached
    assert lacking - set(NOT_FOREIGN) == set()
    assert set(NOT_FOREIGN) <= lacking, "reached after all, or gone"
