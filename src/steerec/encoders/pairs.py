"""What an encoder is fine-tuned on: texts of a history, and the text of what came next."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from steerec.contracts import Indices
from steerec.data.counted import counted
from steerec.data.dataset import Dataset
from steerec.encoders.settings import is_blank
from steerec.errors import DataError

NONE = -1  # stands where a history is shorter
HELD_OUT = 0.1  # newest share of the pairs, where events have times


@dataclass(frozen=True)
class Pairs:
    """Steps of users from texts to texts; a text is named by its place in `texts`.

    Attributes:
        texts: distinct texts of the catalogue, in item order, none blank.
        history: (n, last) int32, texts of the newest events before the step, newest first.
        target: (n,) int32, text that came next; none of its row of `history`.
        user_idx: (n,) int32.
        taken: (n_users, len(texts)) bool, what each user took in the pairs' own events.
    """

    texts: tuple[str, ...]
    history: Indices
    target: Indices
    user_idx: Indices
    taken: sparse.csr_matrix

    def __len__(self) -> int:
        return len(self.target)

    def take(self, chosen: NDArray[np.int64]) -> "Pairs":
        """Only the pairs at these positions."""
        return replace(
            self,
            history=self.history[chosen],
            target=self.target[chosen],
            user_idx=self.user_idx[chosen],
        )

    def no_negative(self, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(b, b): where pair j's target says nothing against pair i, as i's user took it too."""
        targets = self.target[chosen]
        mask = np.asarray(self.taken[self.user_idx[chosen]][:, targets].toarray(), bool)
        np.fill_diagonal(mask, val=False)
        return mask


def pairs_of(data: Dataset, texts: list[str], *, last: int) -> tuple[Pairs, Pairs]:
    """Pairs to learn from and pairs held out: the newest tenth, or without times each user's last.

    Events of no positive weight and items without text have no part; a pair that several users
    have counts once, and one whose target is in its own history not at all.

    Args:
        texts: (n_items,) text of each item, empty where it has none.
        last: events of a history that make its text, at most.
    Raises:
        DataError: if fewer than two items differ in their texts, or nothing follows on anything.
    """
    numbers, distinct = _numbered(texts)
    kept = (data.weight > 0) & (numbers[data.item_idx] != NONE)
    data = data.take(kept)
    text, user = numbers[data.item_idx], data.user_idx
    history = np.full((len(text), last), NONE, np.int32)
    for lag in range(1, last + 1):
        same = user[lag:] == user[:-lag]
        history[lag:, lag - 1][same] = text[:-lag][same]
    usable = np.flatnonzero((history[:, 0] != NONE) & (history != text[:, None]).all(axis=1))
    if len(usable) == 0:
        raise DataError(
            f"{counted(data.n_events, 'event')} of items with text, and none follows on another "
            "text of its user: nothing to learn from"
        )
    newest = _newest(data, usable)
    early = np.ones(data.n_events, bool)
    early[usable[newest]] = False
    ones = np.ones(int(early.sum()), bool)
    shape = (data.n_users, len(distinct))
    taken = sparse.csr_matrix((ones, (user[early], text[early])), shape=shape, dtype=bool)
    pairs = Pairs(distinct, history[usable], text[usable], user[usable], taken)
    old = np.flatnonzero(~newest)
    rows = np.column_stack([pairs.target, pairs.history])
    once = old[np.sort(np.unique(rows[old], axis=0, return_index=True)[1])]
    return pairs.take(once), pairs.take(np.flatnonzero(newest))


def _numbered(texts: list[str]) -> tuple[Indices, tuple[str, ...]]:
    """(n_items,) place of each item's text among the distinct ones, which come second."""
    stripped = ["" if is_blank(text) else text.strip() for text in texts]
    distinct = tuple(dict.fromkeys(text for text in stripped if text))
    if len(distinct) < 2:
        found = "no item has a text" if not distinct else "all items with a text have the same one"
        raise DataError(
            f"{found} (of {counted(len(texts), 'item')}): an encoder learns from texts that tell "
            "items apart; check the item template"
        )
    place = {text: i for i, text in enumerate(distinct)}
    return np.array([place.get(text, NONE) for text in stripped], np.int32), distinct


def _newest(data: Dataset, usable: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(len(usable),): which of these events are held out."""
    if data.has_times:
        time = data.time[usable]
        return np.asarray(time > np.quantile(time, 1 - HELD_OUT))
    user = data.user_idx[usable]
    return np.append(user[1:] != user[:-1], True)
