"""Types of the server's answers, as in ``/openapi.json``."""

from __future__ import annotations

from pydantic import BaseModel


class Problem(BaseModel):
    """An error."""

    error: str


class About(BaseModel):
    """The model and the photos that are served."""

    image_size: int
    max_text_tokens: int
    calibrated: bool
    search_threshold: float
    photos: int


class Embeddings(BaseModel):
    """Unit vectors."""

    images: list[list[float]]
    texts: list[list[float]]


class WordShare(BaseModel):
    """A word, its contribution to the log-odds, and its heat map: rows of a square, 0 to 1."""

    word: str
    contribution: float
    heat: list[list[float]]


class Match(BaseModel):
    """How well a caption matches; see ``Checked`` for what of it the model does not read."""

    caption: str
    probability: float
    unread: str
    unknown: list[str]
    words: list[WordShare] = []


class RankedItem(BaseModel):
    """A candidate by its index in the request; probability is null if it was not re-ranked."""

    index: int
    score: float
    probability: float | None


class Filled(BaseModel):
    """A word for a blank."""

    word: str
    probability: float


class CheckedWord(BaseModel):
    """A word of a caption; ``start`` and ``end`` count characters."""

    word: str
    start: int
    end: int
    with_image: float
    without_image: float
    instead: str
    better: float
    suspicion: float
    flagged: bool


class Checked(BaseModel):
    """A proofread caption.

    ``unread`` is its end, beyond the tokens that the model reads; ``unknown`` are words that are
    not in the model's vocabulary.
    """

    caption: str
    corrected: str
    unread: str
    unknown: list[str]
    words: list[CheckedWord]


class FoundPhoto(BaseModel):
    """A photo of the folder; ``photo`` is its number for ``/v1/photos/``."""

    photo: int
    name: str
    score: float
    probability: float | None
