"""What an arm trains: the settings that all arms share, and its own changes of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from vilta.config import PretrainConfig
from vilta.config.ablate import AblateConfig
from vilta.config.ranges import check_config
from vilta.config.shipped import find_shipped, shipped_names
from vilta.config.yaml_file import from_dict, load_yaml, read_mapping

NOISE = "data.caption_noise"


def arm_settings(config: AblateConfig, arm: str) -> PretrainConfig:
    """Return the pre-training settings of an arm, without seed, steps and folder.

    Raises ``ValueError`` that names the arm and what is wrong with it.
    """
    if not config.base:
        raise ValueError("--base must name the pre-training config that the arms share")
    settings = load_yaml(find_shipped(config.base), PretrainConfig)
    for part in config.common:
        settings = changed(settings, part, "common")
    for part in arm.split("+"):
        settings = changed(settings, part.strip(), f"arm {arm!r}")
    check_config(settings)
    return settings


def changed(settings: PretrainConfig, part: str, where: str) -> PretrainConfig:
    """Apply a YAML file, a shipped arm, or ``setting=value``."""
    name, equals, value = part.partition("=")
    if equals:
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"{where}: cannot read the value of {part!r}") from None
        if isinstance(parsed, bool) and value.strip().lower() not in ("true", "false"):
            parsed = value.strip()  # YAML 1.1 takes `off` for a truth value
        section, field = _setting(name.strip(), where)
        return from_dict({section: {field: parsed}}, settings, where)
    path = _arm_file(part)
    if path is None:
        known = [n.removeprefix("ablate/") for n in shipped_names() if n.startswith("ablate/")]
        raise ValueError(
            f"{where}: {part!r} is not a file, a shipped arm ({', '.join(known)}) or a "
            "setting=value"
        )
    return from_dict(read_mapping(path), settings, path)


def _arm_file(part: str) -> str | None:
    """Return the file of an arm: the user's own, or a shipped one."""
    for place in (part, find_shipped(f"ablate/{part}")):
        if Path(place).is_file():
            return place
    return None


def _setting(name: str, where: str) -> tuple[str, str]:
    """Return the section and the name of a setting; its section may be left out."""
    sections = {
        section: {field.name for field in dataclasses.fields(kind)}
        for section, kind in get_type_hints(PretrainConfig).items()
        if dataclasses.is_dataclass(kind)
    }
    section, dot, field = name.rpartition(".")
    if dot and field in sections.get(section, ()):
        return section, field
    for owner, fields in sections.items():  # no name is in two of them
        if name in fields:
            return owner, name
    raise ValueError(f"{where}: unknown setting {name!r}; see vilta pretrain --help")


def difference(settings: PretrainConfig, other: PretrainConfig) -> dict[str, Any]:
    """Return by path what ``settings`` has otherwise than ``other``."""
    found: dict[str, Any] = {}
    for section in dataclasses.fields(settings):
        one, two = getattr(settings, section.name), getattr(other, section.name)
        if not dataclasses.is_dataclass(one):
            continue
        for field in dataclasses.fields(one):
            if getattr(one, field.name) != getattr(two, field.name):
                found[f"{section.name}.{field.name}"] = getattr(one, field.name)
    return found
