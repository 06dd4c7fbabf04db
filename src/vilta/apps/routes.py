"""The routes of the server below ``/v1``. Requests are forms with uploads, answers are JSON."""

from __future__ import annotations

import io
from asyncio import timeout
from collections.abc import Sequence
from dataclasses import asdict
from math import isnan
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, HTTPException, Path, UploadFile
from pydantic import WithJsonSchema
from starlette.responses import Response

from vilta.apps import server_types as types
from vilta.apps.image_input import open_image
from vilta.apps.photo_search import Found, PhotoSearch, Query
from vilta.apps.service import Limits, Service

CHARACTERS, TEXTS, TERMS = 2000, 64, 8
"""Maximum length of a text (it is truncated to the model's tokens), number of texts, and of terms
of a search: each is matched with as many photos as a search re-ranks."""
THUMBNAIL = 400
"""Longest side of a photo that is sent, in pixels."""

_IMAGE = WithJsonSchema({"type": "string", "format": "binary", "description": "An image file."})
_TEXT = Form(min_length=1, max_length=CHARACTERS, examples=["a red ball above a blue ring"])
_EXAMPLES: list[Any] = [["a red ball", "two dogs on a beach"]]
Upload = Annotated[UploadFile, _IMAGE, File()]
Text = Annotated[str, _TEXT]
Uploads = Annotated[list[Annotated[UploadFile, _IMAGE]], File(max_length=Limits.images)]
Texts = Annotated[list[Text], Form(max_length=TEXTS, examples=_EXAMPLES)]
SomeUploads = Annotated[
    list[Annotated[UploadFile, _IMAGE]], File(min_length=1, max_length=Limits.images)
]
SomeTexts = Annotated[list[Text], Form(min_length=1, max_length=TEXTS, examples=_EXAMPLES)]
SearchText = Annotated[
    str,
    Form(
        max_length=CHARACTERS,
        pattern=r"\S",
        description=f"A text, with further terms after + and -; {TERMS} in all.",
        examples=["a red ball +a blue ring -a green star"],
    ),
]
Blanks = Annotated[
    str,
    Form(
        max_length=CHARACTERS,
        pattern=r"___|\[MASK\]|<mask>",
        description="A text with `___` where a word is missing.",
        examples=["a ___ ball above a ring"],
    ),
]
Top = Annotated[int, Form(ge=1, le=100)]


class TooManyTerms(ValueError):
    """A search has more terms than are taken."""


def routes(service: Service) -> APIRouter:
    """Return the routes that answer for a service."""
    router = APIRouter(prefix="/v1")
    _about_pairs(router, service)
    _about_words(router, service)
    _about_photos(router, service)
    return router


def _about_pairs(router: APIRouter, service: Service) -> None:
    matcher = service.matcher

    @router.get("/model")
    def model() -> types.About:  # in a thread, as every route that reads the index
        """Describe the model and the photos that are served."""
        return types.About(
            image_size=matcher.image_size,
            max_text_tokens=matcher.model.config.max_text_tokens,
            calibrated=matcher.calibrated,
            search_threshold=matcher.search_threshold,
            photos=service.search.index.count() if service.search else 0,
        )

    @router.post("/embed")
    async def embed(images: Uploads = [], texts: Texts = []) -> types.Embeddings:  # noqa: B006
        """Embed images and texts as unit vectors of one space."""
        pixels = await service.pixels(images)
        async with timeout(service.limits.seconds):
            return types.Embeddings(
                images=await service.ask(service.embed_images, pixels) if pixels else [],
                texts=await service.ask(service.embed_texts, texts) if texts else [],
            )

    @router.post("/match")
    async def match(
        image: Upload, captions: SomeTexts, heat_maps: Annotated[bool, Form()] = False
    ) -> list[types.Match]:
        """Return how well each caption matches the image; with `heat_maps`, also for each word."""
        (pixels,) = await service.pixels([image])
        answers = []
        async with timeout(service.limits.seconds):  # for all that this request asks of the model
            chances = await service.ask(service.match, (pixels, captions))
            for caption, chance in zip(captions, chances, strict=True):
                words = await service.ask(service.heat_maps, (pixels, caption)) if heat_maps else []
                left_out = service.left_out(caption)
                answers.append(
                    types.Match(caption=caption, probability=chance, words=words, **left_out)
                )
        return answers

    @router.post("/rank")
    async def rank_images(text: Text, images: SomeUploads) -> list[types.RankedItem]:
        """Rank images for a text, best first."""
        ranked = await service.ask(service.rank, (text, await service.pixels(images)))
        return [types.RankedItem(**_plain(asdict(each))) for each in ranked]


def _about_words(router: APIRouter, service: Service) -> None:
    @router.post("/fill")
    async def fill(image: Upload, text: Blanks, top: Top = 5) -> list[list[types.Filled]]:
        """Fill the blanks (`___`) of a text given the image."""
        (pixels,) = await service.pixels([image])
        found = await service.ask(service.fill, (pixels, text, top))
        return [[types.Filled(**guess._asdict()) for guess in blank] for blank in found]

    @router.post("/proofread")
    async def proofread(image: Upload, caption: Text) -> types.Checked:
        """Find the words of a caption that the image does not support."""
        (pixels,) = await service.pixels([image])
        found = await service.ask(service.proofread, (pixels, caption))
        words = [types.CheckedWord(**asdict(word)) for word in found.words]
        left_out = service.left_out(caption)
        return types.Checked(caption=caption, corrected=found.corrected, words=words, **left_out)


def _about_photos(router: APIRouter, service: Service) -> None:
    @router.post("/search")
    async def search(query: SearchText, top: Top = 12) -> list[types.FoundPhoto]:
        """Search the served folder of photos; 404 if there is none."""
        folder, asked = _folder(service), Query.parse(query)
        if len(asked.terms) > TERMS:
            raise TooManyTerms
        found: Sequence[Found] = await service.ask(service.search_for, (asked, top))
        return [
            types.FoundPhoto(
                photo=each.row,
                name=each.path.name.encode("utf-8", "replace").decode(),
                **_plain({"score": each.score, "probability": each.probability}),
            )
            for each in found
            if folder
        ]

    @router.get("/photos/{photo}", response_class=Response)
    def photo(photo: Annotated[int, Path(ge=0, le=2**31, examples=[0])]) -> Response:
        """Return a thumbnail of a photo, as JPEG."""
        place = _folder(service).index.path(photo)
        if place is None:
            raise HTTPException(404)
        try:
            picture = _thumbnail(place)
        except ValueError:  # deleted or damaged since the folder was indexed
            raise HTTPException(404) from None
        return Response(picture, media_type="image/jpeg")


def _folder(service: Service) -> PhotoSearch:
    if service.search is None:
        raise HTTPException(404)
    return service.search


def _thumbnail(place: Any) -> bytes:
    picture = open_image(place, THUMBNAIL)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return values with null for what is not a number."""
    return {k: None if isinstance(v, float) and isnan(v) else v for k, v in values.items()}
