"""A user as a vector: from the texts of recent history, or the mean of the items' vectors."""

from collections.abc import Sequence

import numpy as np

from steerec.contracts import Encoder, Floats, History
from steerec.encoders.settings import is_blank, unit_rows


def user_text(titles: Sequence[str], n: int = 10) -> str:
    """The newest `n` titles as one text, newest first, so that cutting loses the oldest.

    Args:
        titles: oldest first, as in a history; blank ones are left out, repeats named once.
    """
    newest_first = dict.fromkeys(t.strip() for t in reversed(titles) if not is_blank(t))
    return ". ".join(list(newest_first)[:n])


def encode_users(
    encoder: Encoder, titles: Sequence[str], histories: Sequence[History], *, n: int = 10
) -> Floats:
    """Encode users by the texts of the items they turned to, as items are encoded.

    Args:
        titles: (n_items,) text of each item.
    Returns:
        (n_users, dim) float32, unit length; zero for a user without liked items that have text.
    """
    return encoder.encode([user_text([titles[i] for i in _liked(h)], n) for h in histories])


def mean_users(
    vectors: Floats, histories: Sequence[History], *, n: int = 50, half_life: float = 10.0
) -> Floats:
    """Recency-weighted mean of item vectors: cheap, and needs no encoder.

    Args:
        vectors: (n_items, dim).
        half_life: number of later events after which an event counts half.
    Returns:
        (n_users, dim) float32, unit length; zero for a user without liked items that have text.
    """
    out = np.zeros((len(histories), vectors.shape[1]), np.float32)
    for row, history in zip(out, histories, strict=True):
        items = _liked(history)[-n:]
        age = np.arange(len(items))[::-1]
        row[:] = (0.5 ** (age / half_life)).astype(np.float32) @ vectors[items]
    return unit_rows(out)


def _liked(history: History) -> np.ndarray:
    return history.item_idx[history.weight > 0]
