"""The model as a small HTTP service with one page: embed, match, rank, fill, proofread, search.

Images are uploads only. ``Limits`` bounds the cost of a request, error texts are fixed, and
``/openapi.json`` describes every route.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vilta.apps.batching import QueueFull
from vilta.apps.guards import HEADERS, Guard
from vilta.apps.matcher import Matcher
from vilta.apps.photo_index import ReplacedIndex
from vilta.apps.photo_search import PhotoSearch
from vilta.apps.proofreading import BLANK, NoBlank, NoWordHead
from vilta.apps.released import NotTrained
from vilta.apps.routes import CHARACTERS, TERMS, TEXTS, TooManyTerms, routes
from vilta.apps.server_types import Problem
from vilta.apps.service import Limits, NoImage, Service, TooManyImages, TooManyPixels
from vilta.apps.words import UnknownWords
from vilta.training.stopping import FirstRequest

PAGE = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
ERRORS = {
    400: "the request is malformed",
    403: "this host name or origin is not allowed",
    404: "not found",
    405: "method not allowed",
    413: "the request is too large, or an image has too many pixels",
    422: "the request does not match /openapi.json",
    500: "internal error",
    503: "busy; try again later",
}
"""The error text of each status; none reveals anything about the request or this machine."""
REASONS: dict[type[Exception], str] = {
    NoImage: "the image cannot be read; send a JPEG, PNG, WebP, BMP, GIF or TIFF file",
    TooManyImages: "there are too many images in one request",
    TooManyTerms: f"a search has at most {TERMS} terms",
    UnknownWords: "the caption has no word that the model knows",
    NoBlank: f"the text has no blank ({BLANK}) among the words that the model reads",
    NoWordHead: "this model predicts no words; serve the pre-training run",
    NotTrained: "this needs what the model was trained without (matching or contrast)",
    ReplacedIndex: "the index of photos is another's now; start the server again",
    ValueError: "the model cannot answer this request",
}
"""The error text where there is a reason that a person at the page can act on."""
TOO_MUCH = {
    "string_too_long": f"a text has more than {CHARACTERS:,} characters",
    "too_long": f"there are more than {TEXTS} texts or {Limits.images} images",
}
"""The error text of a form that is too large, by the type of pydantic's error."""


class Server(uvicorn.Server):
    """Stops as the other commands do: Ctrl-C lets it answer what waits, another ends it at once.

    Of two at once, as `timeout` or a hasty finger sends them, uvicorn takes the second for the
    request to drop everything, and a traceback is what it leaves.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.request = FirstRequest()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take note of a signal, or end the process."""
        if self.request.is_first(sig):
            super().handle_exit(sig, frame)


def build_app(
    matcher: Matcher,
    search: PhotoSearch | None = None,
    *,
    hosts: frozenset[str] = frozenset({"localhost", "127.0.0.1", "[::1]"}),
    limits: Limits = Limits(),  # noqa: B008
) -> FastAPI:
    """Return the service of a model, and of a folder of photos if ``search`` is given.

    ``hosts`` are the accepted host names (``*``: any).
    """
    service = Service(matcher, search, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.thread.stop()

    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem} for status in ERRORS if status != 500
    }
    app = FastAPI(title="vilta", docs_url=None, redoc_url=None, lifespan=lifespan, responses=errors)
    statuses = dict.fromkeys(REASONS, 422) | {
        QueueFull: 503,
        TimeoutError: 503,
        ReplacedIndex: 503,
        TooManyPixels: 413,
        Exception: 500,
    }
    for error, status in statuses.items():
        app.add_exception_handler(error, _fixed_answer(status, REASONS.get(error, ERRORS[status])))
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_status)
    add_page(app)
    app.include_router(routes(service))
    app.add_middleware(Guard, hosts=hosts, max_bytes=limits.bytes)
    return app


def add_page(app: FastAPI) -> None:
    """Add the page and its two files."""
    folder = files("vilta.apps") / "page"

    def served(name: str, kind: str) -> Callable[[], Response]:
        content = (folder / name).read_bytes()
        return lambda: Response(content, media_type=kind)

    for path, (name, kind) in PAGE.items():
        app.add_api_route(path, served(name, kind), include_in_schema=False)


def _fixed_answer(status: int, text: str) -> Callable[[Request, Exception], JSONResponse]:
    """Return a handler that answers with a fixed text.

    It adds the headers itself: the answer to an unforeseen error passes by the guard.
    """
    return lambda request, error: JSONResponse({"error": text}, status, headers=HEADERS)


def _answer_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = (TOO_MUCH[each["type"]] for each in error.errors() if each["type"] in TOO_MUCH)
    return JSONResponse({"error": next(found, ERRORS[422])}, 422)


def _answer_status(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = error.status_code if error.status_code in ERRORS else 400
    return JSONResponse({"error": ERRORS[status]}, status, headers=error.headers)
