"""`vilta serve RUN`: serves a model over HTTP, with a web page."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vilta.apps.matcher import Matcher
from vilta.apps.photo_search import PhotoSearch
from vilta.config.apps import ServeConfig
from vilta.config.ranges import check_config
from vilta.screen import counted, notes, progress

LOCAL = ("localhost", "127.0.0.1", "[::1]")


def run(run_folder: str, config: ServeConfig) -> None:
    """Serve until interrupted.

    Raises ``ValueError`` in one line for anything the user can fix.
    """
    check_config(config)
    try:
        import uvicorn

        from vilta.apps.server import Server, build_app
        from vilta.apps.service import Limits
    except ImportError as error:
        raise ValueError(
            f"serving needs more packages: pip install 'vilta[serve]' ({error})"
        ) from None
    with _bound(config.host, config.port) as place:  # first: indexing may take an hour
        matcher = Matcher(run_folder, device=config.device)
        search = None
        if config.folder:
            index = Path(config.index) if config.index else None
            search = PhotoSearch(matcher, Path(config.folder), index)
            with progress("indexing") as tell:
                search.update(tell)
            notes.print(f"{counted(search.index.count(), 'photo is', 'photos are')} indexed")
        hosts = frozenset({*LOCAL, config.host, *config.allow_host})
        limits = Limits(
            bytes=config.max_bytes,
            pixels=config.max_pixels,
            waiting=config.waiting,
            seconds=config.seconds,
        )
        app = build_app(matcher, search, hosts=hosts, limits=limits)
        with _listening_told(config.host, config.port):
            place.listen(128)
        host, port = place.getsockname()[:2]
        if config.host not in ("localhost", "127.0.0.1", "::1"):
            notes.print(
                f"warning: anyone who can reach {config.host} can use this server; it has no "
                "password"
            )
        notes.print(f"http://{f'[{host}]' if ':' in host else host}:{port}  (Ctrl-C to stop)")
        settings = uvicorn.Config(
            app, log_level="warning", timeout_keep_alive=10, h11_max_incomplete_event_size=65_536
        )
        Server(settings).run(sockets=[place])


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that holds the port and does not listen yet: who comes early is refused.

    Raises ``ValueError`` with the reason if that fails.
    """
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    with ExitStack() as failed, _listening_told(host, port):
        failed.callback(found.close)
        if os.name == "posix":  # a server that has just ended does not keep its port
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        failed.pop_all()
    return found


@contextmanager
def _listening_told(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        ours = error.errno in (errno.EADDRINUSE, errno.EACCES)
        way = "--port 0 takes a free one" if ours else "--host must be an address of this machine"
        raise ValueError(f"cannot listen on {host} port {port}: {error.strerror}; {way}") from None
