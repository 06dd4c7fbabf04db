"""Work behind the routes: uploads are decoded in a few threads, the model runs in its own."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fastapi import UploadFile
from jaxtyping import UInt8
from PIL import Image
from starlette.concurrency import run_in_threadpool
from torch import Tensor

from vilta.apps.batching import ModelThread
from vilta.apps.heatmap import HeatMaps
from vilta.apps.image_input import open_image
from vilta.apps.matcher import Matcher, Ranked
from vilta.apps.photo_search import Found, PhotoSearch, Query
from vilta.apps.proofreading import Guess, Proofreading
from vilta.apps.server_types import WordShare
from vilta.apps.words import UnknownWords, read_until, unknown_words
from vilta.data.transforms import evaluation_tensor
from vilta.decoding import formats_of, without_long_texts
from vilta.model.fusion import Pairs

Pixels = UInt8[Tensor, "3 S S"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a request."""

    bytes: int = 20_000_000
    """Bytes of one request with all uploads."""
    pixels: int = 25_000_000
    """Pixels of one image, checked before decoding."""
    images: int = 32
    """Images in one request."""
    waiting: int = 64
    """Requests waiting for the model; further ones are rejected."""
    seconds: float = 30.0
    """Seconds from upload to answer."""


class TooManyPixels(Exception):
    """An image is larger than is decoded here."""


class TooManyImages(ValueError):
    """A request has more images than are taken."""


class NoImage(ValueError):
    """An upload cannot be read as an image."""


class Service:
    """Decodes uploads in a few threads, and asks the model in its own."""

    def __init__(self, matcher: Matcher, search: PhotoSearch | None, limits: Limits) -> None:
        self.matcher, self.search, self.limits = matcher, search, limits
        self.thread = ModelThread(waiting=limits.waiting, batch=matcher.batch_size)

    async def pixels(self, uploads: Sequence[UploadFile]) -> list[Pixels]:
        """Return the pixels of each upload.

        Raises ``TooManyImages``, or ``NoImage`` or ``TooManyPixels`` for one of them.
        """
        if len(uploads) > self.limits.images:
            raise TooManyImages
        return [await run_in_threadpool(self._decode, await each.read()) for each in uploads]

    async def ask(self, run: Callable[[Sequence[Any]], Sequence[Any]], item: Any) -> Any:
        """Return the model's answer for one item."""
        return await self.thread.answer(run, item, self.limits.seconds)

    def embed_images(self, items: Sequence[list[Pixels]]) -> list[list[list[float]]]:
        """Embed the images of several requests in one batch."""
        return _shared(lambda every: self.matcher.embed_images(every).tolist(), items)

    def embed_texts(self, items: Sequence[list[str]]) -> list[list[list[float]]]:
        """Embed the texts of several requests in one batch."""
        return _shared(lambda every: self.matcher.embed_texts(every).tolist(), items)

    def match(self, items: Sequence[tuple[Pixels, list[str]]]) -> list[list[float]]:
        """Match the image of each request with its captions, all in one batch."""
        images = self.matcher.encode_images([image for image, _ in items])
        texts = self.matcher.encode_texts([text for _, captions in items for text in captions])
        owner = torch.tensor([i for i, (_, captions) in enumerate(items) for _ in captions])
        pairs = Pairs(text=torch.arange(len(owner)), image=owner)
        pairs = Pairs(*(part.to(self.matcher.device) for part in pairs))
        odds = self.matcher.pair_log_odds(images, texts, pairs).cpu().numpy()
        chances = self.matcher.probability(odds)
        return [chances[owner.numpy() == i].tolist() for i in range(len(items))]

    def rank(self, items: Sequence[tuple[str, list[Pixels]]]) -> list[list[Ranked]]:
        """Rank images for the text of each request."""
        return [self.matcher.rank(text, images) for text, images in items]

    def fill(self, items: Sequence[tuple[Pixels, str, int]]) -> list[list[list[Guess]]]:
        """Fill the blanks of each request's text."""
        return [self.matcher.fill(image, text, top_k=top) for image, text, top in items]

    def proofread(self, items: Sequence[tuple[Pixels, str]]) -> list[Proofreading]:
        """Proofread each request's caption."""
        return [self.matcher.proofread(image, caption) for image, caption in items]

    def heat_maps(self, items: Sequence[tuple[Pixels, str]]) -> list[list[WordShare]]:
        """Compute the heat maps of each caption; none where the model knows no word of it."""
        return [self._heat_maps(image, caption) for image, caption in items]

    def _heat_maps(self, image: Pixels, caption: str) -> list[WordShare]:
        try:
            return _shares(self.matcher.heat_maps(image, caption))
        except UnknownWords:
            return []

    def left_out(self, caption: str) -> dict[str, Any]:
        """Return what of a caption the model does not read: its end, and unknown words."""
        tokenizer, longest = self.matcher.tokenizer, self.matcher.model.config.max_text_tokens
        unread = caption[read_until(tokenizer, caption, longest) :].strip()
        return {"unread": unread, "unknown": unknown_words(tokenizer, caption)}

    def search_for(self, items: Sequence[tuple[Query, int]]) -> list[list[Found]]:
        """Search the folder for each request."""
        assert self.search is not None
        return [self.search.search(query, top=top) for query, top in items]

    def _decode(self, data: bytes) -> Pixels:
        try:
            file = io.BytesIO(without_long_texts(data))
            with Image.open(file, formats=formats_of(data)) as image:
                if image.width * image.height > self.limits.pixels:
                    raise TooManyPixels
        except (ValueError, OSError, SyntaxError) as error:
            raise NoImage from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise TooManyPixels from None
        size = self.matcher.image_size
        try:
            return evaluation_tensor(open_image(data, size), size)
        except ValueError as error:
            raise NoImage from error


def _shares(found: HeatMaps) -> list[WordShare]:
    """Return the maps for the page, scaled so that the largest value of each word is 1."""
    maps = found.scaled().round(3)
    return [
        WordShare(word=word, contribution=share, heat=heat.tolist())
        for word, share, heat in zip(found.words, found.contribution, maps, strict=True)
    ]


def _shared(
    run: Callable[[list[Any]], list[Any]], items: Sequence[Sequence[Any]]
) -> list[list[Any]]:
    """Run once on the contents of all items, and split the result by item."""
    answers = iter(run([one for item in items for one in item]))
    return [[next(answers) for _ in item] for item in items]
