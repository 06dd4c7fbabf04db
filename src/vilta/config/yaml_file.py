"""Configs as YAML files: read strictly, written whole.

The types in ``vilta.config`` define what is allowed: a config class nests other config classes, and
its leaves are bool, int, float, str, a ``Literal``, or a tuple of one of these.
"""

from __future__ import annotations

import dataclasses
import math
import os
import reprlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from vilta.spelling import nearest

T = TypeVar("T")

OLD_NAMES = {"run.best_metric": "selection_metric"}
"""Keys that older versions wrote, by their path, and what they are called now."""


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, but a repeated key is an error instead of a silent choice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of ``node``; raises ``ConstructorError`` for a repeated key."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"key {key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def load_yaml(path: str | Path, cls: type[T], base: T | None = None) -> T:
    """Read a YAML file into ``cls``, strictly; keys it does not name keep the value of ``base``.

    Raises ``ValueError`` naming the file, the path of the key and the nearest known key.
    """
    return from_dict(read_mapping(path), base if base is not None else cls(), path)


def read_mapping(path: str | Path) -> dict[Any, Any]:
    """Return the mapping that a YAML file holds, unchecked; an empty file holds an empty one.

    Raises ``ValueError`` naming the file if it is missing, not YAML, or not a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no such config file: {path}")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: the file must be a mapping of settings")
    return content


def from_dict(content: dict[Any, Any], base: T, path: str | Path) -> T:
    """Return ``base`` with the values of ``content``, checked; ``path`` is for the messages."""
    try:
        return _merged(base, content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as plain dicts, lists and scalars, ready for YAML or JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return list(value) if isinstance(value, tuple) else value

    return {k: plain(v) for k, v in dataclasses.asdict(config).items()}


def save_yaml(config: Any, path: str | Path) -> None:
    """Write the resolved config; the file alone repeats the run. Replaces atomically.

    Raises ``OSError`` if it cannot be written; an older file at ``path`` is then still whole.
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yaml.safe_dump(to_dict(config), file, sort_keys=False, allow_unicode=True)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _merged(base: T, content: Any, where: str = "") -> T:
    """Return ``base`` with the values of a parsed YAML mapping, checked key by key."""
    if not isinstance(content, dict):
        raise ValueError(f"{where or 'the file'} must be a mapping of settings")
    hints = get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for key, value in content.items():
        key = OLD_NAMES.get(f"{where}.{key}", key)
        name = f"{where}.{key}" if where else str(key)
        if key not in hints:
            raise ValueError(f"unknown key {name!r}; {nearest(str(key), hints)}")
        if dataclasses.is_dataclass(hints[key]):
            changes[key] = _merged(getattr(base, key), value, name)
        else:
            changes[key] = _checked(hints[key], value, name)
    return dataclasses.replace(base, **changes)  # type: ignore[type-var]


def _checked(hint: Any, value: Any, name: str) -> Any:
    """Return ``value`` as the type ``hint``. Only a number's spelling is converted, no meaning."""
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        if any(value == choice and type(value) is type(choice) for choice in choices):
            return value
        expected = f"one of {', '.join(map(str, choices))}"
    elif get_origin(hint) is Union:  # a whole number, or one of some words
        for kind in get_args(hint):
            with suppress(ValueError):
                return _checked(kind, value, name)
        words = [word for kind in get_args(hint) for word in get_args(kind)]
        expected = f"a whole number or {', '.join(words)}"
    elif get_origin(hint) is tuple:
        if isinstance(value, list):
            return tuple(_checked(get_args(hint)[0], item, name) for item in value)
        expected = "a list such as [a, b]"
    elif hint is float:
        # YAML 1.1 reads 1e-4, which has no dot, as a string.
        number = _number(value)
        if number is not None:
            return number
        expected = "a number"
    else:
        if type(value) is hint:
            return value
        expected = {bool: "true or false", int: "a whole number", str: "text"}[hint]
        if hint is str and value is not None:
            expected += " (put it in quotes)"
    raise ValueError(f"{name}: expected {expected}, got {reprlib.repr(value)}")


def _number(value: Any) -> float | None:
    """Return a finite number, or None for anything else (``nan`` and ``inf`` included)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
