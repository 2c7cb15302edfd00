"""Social: what a user's friends, and people with the same friends, have taken."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from scipy import sparse

from steerec.contracts import Floats, History, Indices, Times
from steerec.data.dataset import Dataset
from steerec.errors import ConfigError, DataError
from steerec.heads.contract import HistoryHead
from steerec.heads.histories import emptied


@dataclass(frozen=True, kw_only=True)
class SocialConfig:
    """Settings of `Social`."""

    second: float = 0.2  # weight of a person by each friend shared, against a friend's own: 0 not
    most_shared: int = 1_000  # a friend of more people than this makes nobody alike

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.second < 0 or self.most_shared < 1:
            raise ConfigError(
                f"social: second={self.second}, most_shared={self.most_shared}: "
                "expected at least 0 and at least 1"
            )


@dataclass
class Social(HistoryHead):
    """Scores an item by how many friends took it; it reads who the user is, never what they did.

    Attributes:
        friends: (n_users, n_users) float32 of ones, symmetric, nobody with themselves.
        taken: (n_users, n_items) float32 of ones, what each user took.
    """

    name: ClassVar[str] = "social"
    steady: ClassVar[bool] = True
    config: SocialConfig
    friends: sparse.csr_matrix
    taken: sparse.csr_matrix

    def __post_init__(self) -> None:
        """Weigh shared friends: of two people, each one counts the less the more friends it has."""
        self.n_items = self.taken.shape[1]
        self._known = np.bincount(self.taken.indices, minlength=self.n_items) > 0
        degree = np.diff(self.friends.indptr)
        worth = 1 / np.log1p(np.maximum(degree, 1))
        worth[degree > self.config.most_shared] = 0.0
        self._linking = (sparse.diags(worth.astype(np.float32)) @ self.friends).tocsr()

    @classmethod
    def fit(cls, data: Dataset, config: SocialConfig, rng: np.random.Generator) -> Self:
        """See Head.

        Raises:
            DataError: if the data name no friends, or none of them has taken anything.
        """
        if data.social is None or len(data.social) == 0:
            raise DataError("social: the data name no friends: give social.parquet beside events")
        one, other = data.social.T
        ones = np.ones(2 * len(one), np.float32)
        ends = (np.concatenate([one, other]), np.concatenate([other, one]))
        friends = sparse.coo_matrix((ones, ends), shape=(data.n_users, data.n_users)).tocsr()
        friends.setdiag(0)
        friends.eliminate_zeros()
        friends.data[:] = 1.0  # both directions of one friendship are one
        taken = data.matrix()
        if not (friends @ np.diff(taken.indptr)).any():
            raise DataError("social: no friend of anybody has an event of positive weight")
        return cls(config, friends, taken)

    def score(self, states: Sequence[History], items: Indices | None, now: Times) -> Floats:
        """See Head: friends who took the item, and people with the same friends by weight.

        NaN for users without friends, or whose circle took nothing. A person who shares friends
        weighs `second` times the sum of 1 / log(1 + friends of each shared one).

        Source: Adamic and Adar 2003, Friends and neighbors on the web, eq. 1, for the second part.
        """
        users = np.array([state.user_idx for state in states], np.int64)
        circle = self._circle(users)
        scores: Floats = (circle @ self.taken).toarray()
        nothing = ~scores.any(axis=1)
        scores[:, ~self._known] = np.nan
        scores[nothing] = np.nan
        return scores if items is None else scores[:, items]

    def forget(self, user_idx: int, history: History) -> bool:
        """See Head: exact; what this user took and whose friend they are are gone."""
        gone = np.zeros(self.taken.shape[0], bool)
        gone[user_idx] = True
        self.taken = emptied(self.taken, gone)
        self.friends = emptied(emptied(self.friends, gone).T.tocsr(), gone)  # symmetric
        self.__post_init__()
        return True

    def save(self, folder: Path) -> None:
        """See Head."""
        (folder / "social.json").write_text(json.dumps(asdict(self.config)), "utf-8")
        sparse.save_npz(folder / "friends.npz", self.friends)
        sparse.save_npz(folder / "taken.npz", self.taken)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See Head."""
        config = SocialConfig(**json.loads((folder / "social.json").read_text("utf-8")))
        friends = sparse.load_npz(folder / "friends.npz")
        return cls(config, friends, sparse.load_npz(folder / "taken.npz"))

    def _circle(self, users: np.ndarray) -> sparse.csr_matrix:
        """(len(users), n_users) weights of all who have a say; none for users never seen."""
        n_users = self.friends.shape[0]
        seen = np.flatnonzero((users >= 0) & (users < n_users))
        ones = np.ones(len(seen), np.float32)
        chosen = sparse.csr_matrix((ones, (seen, users[seen])), shape=(len(users), n_users))
        own = chosen @ self.friends
        shared = (own @ self._linking).tocsr()
        shared.data[shared.indices == np.repeat(users, np.diff(shared.indptr))] = 0.0
        return (own + np.float32(self.config.second) * shared).tocsr()
