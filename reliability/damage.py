"""Damages valid files: their bytes, and the values of JSON and YAML, whose frame stays valid."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import yaml

LARGEST = 262_144
"""Bytes of an input."""
Parts = dict[str, bytes]


class Made:
    """A file made of parts that are damaged on their own, so that its frame stays valid."""

    def __init__(self, parts: Parts, make: Callable[[Parts], bytes]) -> None:
        self.parts, self.make = parts, make

    def __bytes__(self) -> bytes:
        return self.make(self.parts)


Seed = bytes | Made


def damaged(seed: Seed, random: Random) -> bytes:
    """Return a valid file with some of it changed."""
    if isinstance(seed, Made):
        if random.random() < 0.3:
            return with_bytes_changed(bytes(seed), random)
        name = random.choice(sorted(seed.parts))
        return seed.make(seed.parts | {name: damaged(seed.parts[name], random)})
    if random.random() < 0.6 and (content := with_values_changed(seed, random)) is not None:
        return content
    return with_bytes_changed(seed, random)


def with_bytes_changed(data: bytes, random: Random) -> bytes:
    """Return bytes of which some were changed, cut out, repeated, or cut off."""
    content = bytearray(data)
    for _ in range(random.randint(1, 8)):
        at = random.randrange(len(content) + 1)
        length = random.choice((1, 1, 2, 4, 16, 256))
        kind = random.randrange(5)
        if kind == 0:
            content[at : at + length] = random.randbytes(length)
        elif kind == 1:
            del content[at : at + length]
        elif kind == 2:
            content[at:at] = content[at : at + length]
        elif kind == 3:
            content[at:at] = random.choice(
                (
                    b'"',
                    b"{",
                    b"[",
                    b"\0",
                    b"\xff",
                    b"\n",
                    b"-1",
                    b"1e99",
                    b"\r",
                    b"\xef\xbb\xbf",
                    b"[" * 3000,
                )
            )
        elif random.random() < 0.2:
            del content[at:]
    return bytes(content[:LARGEST])


_PIECES = (b'"', b"{", b"[" * 3000, b"\0", b"\xff", b"\n", b"-1", b"1e99", b"\r", b"\xef\xbb\xbf")


def with_values_changed(data: bytes, random: Random) -> bytes | None:
    """Return JSON, JSON lines or YAML with some values or keys changed; None if it is neither."""
    for read, write in _LANGUAGES:
        try:
            content = read(data)
        except (ValueError, yaml.YAMLError):
            continue
        if not isinstance(content, dict | list):
            continue
        for _ in range(random.choice((1, 1, 1, 2, 4))):
            holders = list(_holders(content))
            if not holders:
                break
            holder, key = random.choice(holders)
            _change(holder, key, random)
        return write(content)[:LARGEST]
    return None


def _change(holder: Any, key: Any, random: Random) -> None:
    kind = random.randrange(8)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[random.choice(_NAMES)] = holder.pop(key)
    elif kind == 2:
        holder[key] = [holder[key]]
    elif kind == 3:
        holder[key] = {"x": holder[key]}
    else:
        holder[key] = random.choice(_VALUES)()


def _holders(content: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place of a value: what holds it, and its key or number."""
    keys = list(content) if isinstance(content, dict) else range(len(content))
    for key in keys:
        yield content, key
        if isinstance(content[key], dict | list):
            yield from _holders(content[key])


_NAMES = ("", "x", "image", "caption", "id", "\ud800", "a\nb", "../x")
_VALUES: tuple[Callable[[], Any], ...] = (
    *(lambda v=v: v for v in (None, True, False, 0, -1, 1, 7, 2**31, -(2**63), 2**70, 10**400)),
    *(lambda v=v: v for v in (0.5, -0.0, 1e308, float("nan"), float("inf"))),
    *(lambda v=v: v for v in ("", " ", "x", "\0", "\ud800", "a\nb\r\u2028c", "1", "../../x", "/")),
    lambda: "long " * 2000,
    list,
    dict,
    lambda: [[]],
    lambda: [None, 1, "x"],
    lambda: {"": None},
)


def _json_lines(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.decode().splitlines()]


def _write_lines(content: Any) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in content)


_LANGUAGES: tuple[tuple[Callable[[bytes], Any], Callable[[Any], bytes]], ...] = (
    (json.loads, lambda content: json.dumps(content).encode()),
    (_json_lines, _write_lines),
    (yaml.safe_load, lambda content: yaml.safe_dump(content).encode()),
)


def tar(members: Parts, mode: str = "w") -> bytes:
    """Return a tar with these members; mode ``w:gz`` packs it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def unzipped(data: bytes) -> Made:
    """Return a zip, which is what torch saves, as its members: their sums are then right."""

    def make(parts: Parts) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, content)
        return file.getvalue()

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return Made({name: archive.read(name) for name in archive.namelist()}, make)


def safetensors_parts(data: bytes) -> Made:
    """Return a safetensors file as its header, whose length is kept right, and its tensors."""

    def make(parts: Parts) -> bytes:
        return len(parts["header"]).to_bytes(8, "little") + parts["header"] + parts["tensors"]

    length = int.from_bytes(data[:8], "little")
    return Made({"header": data[8 : 8 + length], "tensors": data[8 + length :]}, make)
