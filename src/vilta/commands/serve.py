"""`vilta serve RUN`: serves a model over HTTP, with a web page."""

from __future__ import annotations

import socket
from pathlib import Path

from vilta.apps.matcher import Matcher
from vilta.apps.photo_search import PhotoSearch
from vilta.config.apps import ServeConfig
from vilta.config.ranges import check_config
from vilta.screen import notes, progress

LOCAL = ("localhost", "127.0.0.1", "[::1]")


def run(run_folder: str, config: ServeConfig) -> None:
    """Serve until interrupted.

    Raises ``ValueError`` in one line for anything the user can fix.
    """
    check_config(config)
    try:
        import uvicorn

        from vilta.apps.server import build_app
        from vilta.apps.service import Limits
    except ImportError as error:
        raise ValueError(
            f"serving needs more packages: pip install 'vilta[serve]' ({error})"
        ) from None
    matcher = Matcher(run_folder, device=config.device)
    search = None
    if config.folder:
        place = Path(config.index) if config.index else None
        search = PhotoSearch(matcher, Path(config.folder), place)
        with progress("indexing") as tell:
            search.update(tell)
        notes.print(f"{len(search.index.photos()):,} photos are indexed")
    hosts = frozenset({*LOCAL, config.host, *config.allow_host})
    limits = Limits(
        bytes=config.max_bytes,
        pixels=config.max_pixels,
        waiting=config.waiting,
        seconds=config.seconds,
    )
    app = build_app(matcher, search, hosts=hosts, limits=limits)
    listener = _listen(config.host, config.port)
    host, port = listener.getsockname()[:2]
    if config.host not in ("localhost", "127.0.0.1", "::1"):
        notes.print(
            f"warning: anyone who can reach {config.host} can use this server; it has no password"
        )
    notes.print(f"http://{f'[{host}]' if ':' in host else host}:{port}  (Ctrl-C to stop)")
    settings = uvicorn.Config(
        app, log_level="warning", timeout_keep_alive=10, h11_max_incomplete_event_size=65_536
    )
    uvicorn.Server(settings).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; raises ``ValueError`` with the reason if that fails."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise ValueError(f"cannot listen on {host} port {port}: {error}; try --port 0") from None
