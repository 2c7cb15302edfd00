"""What a user says of themselves: a sentence in parts, some wanted and some not, as vectors."""

import logging
import re
from collections.abc import Mapping

import numpy as np

from steerec.contracts import About, Encoder, Query
from steerec.errors import DataError

log = logging.getLogger(__name__)

ENCODER_NOTE = "encoder"  # the note of a Dataset that names what its vectors were made by
_PARTS = re.compile(r"[,.;!?\n，。；！？、]+|\b(?:but|and|yet)\b|但是|但|而且", re.IGNORECASE)
_NOT = re.compile(
    r"\b(?:no|not|nothing|without|never|avoid|except|hate|dislike|less"
    r"|(?:do not|don['’]t|does not|doesn['’]t) (?:like|want)|rather than|instead of)\b"
    r"|不要|不想|不喜欢|讨厌|没有|别",
    re.IGNORECASE,
)
_EMPTY = re.compile(r"^[\W_]*$")


def parts_of(text: str) -> list[tuple[str, float]]:
    """The parts of a sentence, each with 1 if it is wanted and -1 if not.

    A part ends at a comma, a stop, "and" or "but"; what follows "no", "without", "less" and the
    like, up to the end of its part, is not wanted.
    """
    found = []
    for part in _PARTS.split(text):
        wanted, *unwanted = _NOT.split(part)
        found.append((wanted.strip(), 1.0))
        found += [(words.strip(), -1.0) for words in unwanted]
    return [(words, weight) for words, weight in found if not _EMPTY.match(words)]


def about_of(query: Query, encoder: Encoder | None, notes: Mapping[str, str]) -> About | None:
    """What the query tells of its user; None if nothing.

    Without an encoder the words alone are compared.

    Args:
        notes: of the fitted data, which name the encoder of its vectors.
    Raises:
        DataError: if the encoder is not the one that the items' vectors were made by.
    """
    if not query.about and not query.attributes:
        return None
    parts = parts_of(query.about or "")
    if not parts and not query.attributes:
        return None
    texts = tuple(words for words, _ in parts)
    vectors = np.zeros((len(texts), 0), np.float32)
    if texts and encoder is not None:
        check_encoder(encoder, notes)
        vectors = _fleeting(encoder).encode(texts)
    elif texts:
        log.info("about_parts=%d encoder=none compared_by=words", len(texts))
    weight = np.array([w for _, w in parts], np.float32)
    return About(texts, weight, vectors, dict(query.attributes))


def read_ahead(text: str, encoder: Encoder | None) -> None:
    """Encode a sentence's parts, so that memory has them when its list is made a moment later.

    Raises:
        EncoderError: if the encoder is away.
    """
    if encoder is not None and (parts := parts_of(text)):
        _fleeting(encoder).encode(tuple(words for words, _ in parts))


def _fleeting(encoder: Encoder) -> Encoder:
    """The same encoder, which keeps nothing of what people say on disk."""
    found: Encoder = getattr(encoder, "fleeting", encoder)
    return found


def check_encoder(encoder: Encoder, notes: Mapping[str, str]) -> None:
    """Raises DataError if the notes of the data name another encoder."""
    fitted = notes.get(ENCODER_NOTE)
    if fitted is not None and fitted != encoder.name:
        raise DataError(
            f"the items were encoded by {fitted}, but the sentence would be by {encoder.name}, "
            "whose vectors mean something else: open the same encoder, or train again"
        )
