"""One writer to a folder: a lock that names its holder and ends with the holder's process.

The kernel keeps the lock (POSIX record locks, ``fcntl(2)``), so a killed process holds nothing. It
is not inherited by forked loader processes. Where such locks do not exist (Windows, some network
file systems), nothing is locked and the caller gets a warning.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vilta.json_text import parse_json

if sys.platform != "win32":
    import fcntl

_HELD: set[str] = set()
"""Locks of this process: the kernel does not keep a process apart from itself."""


@contextmanager
def only_writer(path: Path, place: Path | str) -> Iterator[str]:
    """Hold the lock file ``path`` while the block runs; ``place`` is what it guards, for messages.

    Yields what the user should know: that a writer before us was killed, or that nothing can be
    locked here; empty if all is well. Raises ``ValueError`` that names the other process if it is
    held, ``OSError`` if the file cannot be written.
    """
    key = str(path.absolute())
    if key in _HELD:
        raise ValueError(f"{place} is already written by this process")
    if sys.platform == "win32":
        yield f"note: this system has no locks; start nothing else that writes {place}"
        return
    file, before, note = _locked(path, place)
    _HELD.add(key)
    try:
        os.ftruncate(file, 0)
        try:
            os.pwrite(file, _card().encode(), 0)
        except OSError as error:  # a full disk, which the system tells without a name
            raise OSError(error.errno, error.strerror, str(place)) from None
        if before:
            note = f"{before} ended without finishing {place}; going on with what it left"
        yield note
    finally:
        _HELD.discard(key)
        path.unlink(missing_ok=True)  # while it is held: who has opened it sees that it is gone
        os.close(file)


def _locked(path: Path, place: Path | str) -> tuple[int, str, str]:
    """Return the locked file, who has left it behind, and a note if locks do not work here."""
    anonymous_until = time.monotonic() + 1  # a holder says who it is just after it has the lock
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        note = ""
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                holder = _holder(file)
                os.close(file)
                if not holder and time.monotonic() < anonymous_until:
                    time.sleep(0.01)
                    continue
                raise ValueError(
                    f"{place} is being written by {holder or 'another process'}; wait for it, "
                    "stop it, or choose another folder"
                ) from None
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                os.close(file)
                raise
            note = f"note: no locks on this file system; start nothing else that writes {place}"
        try:
            current = os.stat(path).st_ino == os.fstat(file).st_ino
        except FileNotFoundError:
            current = False
        if current:
            return file, _holder(file), note
        os.close(file)  # its holder has deleted it in the meantime


def _card() -> str:
    """Say who we are."""
    command = " ".join([os.path.basename(sys.argv[0] or "python"), *sys.argv[1:4]])
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return json.dumps(
        {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "command": command}
    )


def _holder(file: int) -> str:
    """Describe the process that wrote the lock file; empty if nobody can be read from it."""
    try:
        card = parse_json(os.pread(file, 4096, 0))
        where = "" if card["host"] == socket.gethostname() else f" on {card['host']}"
        named = f"process {card['pid']}{where} ({card['command']}, since {card['since']})"
        return " ".join(named.split())  # others may have written it, or a damaged disk
    except (ValueError, KeyError, TypeError):
        return ""
