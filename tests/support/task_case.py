"""A tiny pre-trained model, and images on disk, for the tests of downstream tasks."""

import json

from PIL import Image
from tiny_models import known_tokenizer, tiny_vilta

from vilta.config import DataConfig
from vilta.data.loading import evaluation_loader

WORDS = """
    what colour is the ball a red blue yes no are there two dogs one man in green field person
    left picture shows of both true false not
""".split()  # noqa: SIM905
TOKENIZER = known_tokenizer(WORDS)


def write_images(folder, *names):
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (20 * i % 255, 90, 200)).save(path)


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def write_lines(path, items):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return str(path)


def make_task(kind, items, folder, **settings):
    """The task on a tiny pre-trained model, with a head for the labels of the items."""
    tiny_vilta().save_pretrained(folder)
    chosen = kind.settings_class(**settings)
    labels = kind.labels(items, chosen)
    known = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    model = kind.model_class.from_pretrained(folder, **(known if labels else {}))
    return kind(model.eval(), TOKENIZER, chosen, items)


def loader_of(task, items, batch_size=2):
    data = task.dataset(items, DataConfig(image_size=32, max_text_tokens=24), 0, train=False)
    return evaluation_loader(data, task.collator(24), batch_size=batch_size)
