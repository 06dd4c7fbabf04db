"""Photo search by text or by another photo: contrast over the index, then matching."""

from __future__ import annotations

import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8

from vilta.apps.image_input import DECODERS, ImageInput, open_image
from vilta.apps.matcher import Matcher
from vilta.apps.photo_index import Photo, PhotoIndex, Progress, Update, cosines
from vilta.apps.released import hash_of_weights
from vilta.data.transforms import evaluation_tensor
from vilta.model.fusion import Pairs

KEPT_BYTES = 256 * 2**20
"""Size of the cache of encoded photos; our choice."""
PHOTOS_PER_CALL = 64
"""Photos of which the encoder's states are held at once, to be matched; our choice."""
_TERM = re.compile(r"(?:^|\s)([+-])(?=\S)")


class Found(NamedTuple):
    """A search result."""

    path: Path
    row: int
    """Its number in the index."""
    score: float
    """The ranking score; compare within one query."""
    probability: float
    """Probability that it matches the query; NaN if it was not re-ranked by matching."""
    copies: int


@dataclass(frozen=True)
class Query:
    """A query: a text, further texts that must match, and texts that must not."""

    text: str = ""
    plus: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, plus: Sequence[str] = (), minus: Sequence[str] = ()) -> Query:
        """Read ``a dog on a beach +a red ball -people``: terms begin with ``+`` or ``-``."""
        parts = _TERM.split(text)
        terms = [(sign, part.strip()) for sign, part in zip(parts[1::2], parts[2::2], strict=True)]
        more = [term for sign, term in terms if sign == "+" and term]
        less = [term for sign, term in terms if sign == "-" and term]
        return cls(parts[0].strip(), (*plus, *more), (*minus, *less))

    @property
    def terms(self) -> list[tuple[str, int]]:
        """Every text with its sign."""
        positive = [self.text, *self.plus] if self.text else list(self.plus)
        return [(text, 1) for text in positive] + [(text, -1) for text in self.minus]


class PhotoSearch:
    """Searches a folder of photos with a model."""

    def __init__(self, matcher: Matcher, folder: Path, place: Path | None = None) -> None:
        self.matcher = matcher
        width = matcher.model.config.contrastive_width
        model = hash_of_weights(matcher.model)
        self.index = PhotoIndex(folder, place or index_place(folder, model), model, width)
        self._photos: list[Photo] | None = None
        self._recent: OrderedDict[int, torch.Tensor] = OrderedDict()

    def update(self, progress: Progress | None = None) -> Update:
        """Bring the index up to date."""
        self._photos = None
        return self.index.update(self.matcher.embed_pixels, self.matcher.image_size, progress)

    def search(
        self,
        query: Query = Query(),
        *,
        like: ImageInput | None = None,
        top: int = 10,
        rerank: int = 50,
    ) -> list[Found]:
        """Return the ``top`` best photos for a query, or the most similar to an image, best first.

        Contrast ranks all photos, then contrast and matching together re-rank the ``rerank`` best.
        The probability of several terms is the product of their probabilities (of not matching, for
        a ``-`` term). Raises ``ValueError`` for an empty query.
        """
        if not query.terms and like is None:
            raise ValueError("nothing to search for; give a text, or --like IMAGE")
        if self._photos is None:
            self._photos = self.index.photos()
        photos = self._photos
        if not photos:
            return []
        vectors = self.index.vectors()
        scores = cosines(vectors, self._direction(query, like))[[photo.row for photo in photos]]
        scores *= self.matcher.model.itc_head.scale().item()
        order = np.argsort(-scores, kind="stable")
        again = [int(i) for i in order[:rerank]]
        if not query.terms or not self.matcher.matching:
            return [
                Found(
                    photos[i].path, photos[i].row, float(scores[i]), float("nan"), photos[i].copies
                )
                for i in order[:top]
            ]
        found: list[Found] = []
        for start in range(0, len(again), PHOTOS_PER_CALL):
            rows = again[start : start + PHOTOS_PER_CALL]
            found += self._matched(query, [photos[i] for i in rows], scores[rows])
        found.sort(key=lambda each: -each.score)
        rest = [
            Found(photos[i].path, photos[i].row, float(scores[i]), float("nan"), photos[i].copies)
            for i in order[rerank:top]
        ]
        return (found + rest)[:top]

    def _direction(self, query: Query, like: ImageInput | None) -> Float32[np.ndarray, "W"]:
        """Return the query as a unit vector: the sum of its terms, ``-`` terms subtracted."""
        direction = np.zeros(self.index.width, np.float32)
        if query.terms:
            texts, signs = zip(*query.terms, strict=True)
            direction += (np.array(signs)[:, None] * self.matcher.embed_texts(texts)).sum(axis=0)
        if like is not None:
            direction += self.matcher.embed_images(like)[0]
        return (direction / max(float(np.linalg.norm(direction)), 1e-6)).astype(np.float32)

    def _matched(
        self, query: Query, photos: Sequence[Photo], scores: Float32[np.ndarray, "K"]
    ) -> list[Found]:
        """Score candidates by matching and contrast, without those that can no longer be read."""
        readable, images = self._encoded(photos)
        if not readable:
            return []
        total, chance = np.zeros(len(readable)), np.ones(len(readable))
        for text, sign in query.terms:
            every = torch.arange(len(readable), device=self.matcher.device)
            pairs = Pairs(text=torch.zeros_like(every), image=every)
            encoded = self.matcher.encode_texts([text])
            odds = self.matcher.pair_log_odds(images, encoded, pairs).cpu().numpy()
            probability = self.matcher.probability(odds)
            total += sign * odds
            chance *= probability if sign > 0 else 1 - probability
        return [
            Found(
                path=photos[i].path,
                row=photos[i].row,
                score=float(scores[i] + total[at]),
                probability=float(chance[at]),
                copies=photos[i].copies,
            )
            for at, i in enumerate(readable)
        ]

    def _encoded(self, photos: Sequence[Photo]) -> tuple[list[int], Float[torch.Tensor, "N P C"]]:
        """Return which photos can be read, and these encoded, from the cache if it has them."""
        there = [i for i, photo in enumerate(photos) if os.path.isfile(photo.path)]
        new = [photos[i] for i in there if photos[i].row not in self._recent]
        with ThreadPoolExecutor(DECODERS) as pool:
            decoded = zip(new, pool.map(self._pixels, new), strict=True)
        pixels = {photo.row: one for photo, one in decoded if one is not None}
        if pixels:
            states = self.matcher.encode_images([*pixels.values()])
            for row, one in zip(pixels, states, strict=True):
                self._recent[row] = one.clone()  # a view would keep the others alive
        readable = [i for i in there if photos[i].row in self._recent]
        if not readable:
            return [], torch.empty(0, 0, 0)
        for i in readable:
            self._recent.move_to_end(photos[i].row)
        found = torch.stack([self._recent[photos[i].row] for i in readable])
        size = found[0].numel() * found.element_size()
        while len(self._recent) * size > KEPT_BYTES:
            self._recent.popitem(last=False)
        return readable, found

    def _pixels(self, photo: Photo) -> UInt8[torch.Tensor, "3 S S"] | None:
        """Return a photo's pixels, or None if it was damaged or locked since it was indexed."""
        try:
            return evaluation_tensor(open_image(photo.path), self.matcher.image_size)
        except ValueError:
            return None


def index_place(folder: Path, model: str) -> Path:
    """Return the default place of a folder's index for a model, in the user's cache.

    Each model has its own: one that is served must not lose its index to a search by another.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    about = os.fsencode(folder.resolve()) + b"\0" + model.encode()
    name = hashlib.blake2b(about, digest_size=8).hexdigest()
    return cache / "vilta" / "photos" / name
