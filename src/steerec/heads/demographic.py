"""Demographic: what people with the same age, place or trade take more than people at large."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse, special

from steerec.contracts import Floats, History, Indices, Times
from steerec.data.dataset import Dataset
from steerec.errors import ConfigError, DataError
from steerec.heads.contract import HistoryHead, Room
from steerec.heads.histories import Rows, blank
from steerec.heads.linear import add_products, ask
from steerec.heads.segments import Segments

ROUNDS = 3  # of fitting each column beside the others; they change little after two
LEAST = 1e-3  # of what a segment takes by its size, where overlapping lists would lead below 0


@dataclass(frozen=True, kw_only=True)
class DemographicConfig:
    """Settings of `Demographic`."""

    columns: tuple[str, ...] = ()  # columns of the users' table to use; empty: all
    bins: int = 5  # ranges that a column of numbers is cut into
    least_users: int = 20  # a value that fewer users share is left out: noise, and their privacy

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.bins < 2 or self.least_users < 2:
            raise ConfigError(
                f"demographic: bins={self.bins}, least_users={self.least_users}: "
                "expected at least 2 each"
            )


@dataclass
class Demographic(HistoryHead):
    """Scores an item by its popularity in all segments a user belongs to, their effects added.

    It reads who the user is, never what they did, so a history changes nothing. What everybody
    takes is counted live, so that it grows no older than other heads' counts; lifts wait.

    Attributes:
        lift: (n_segments, n_items) float32, log of the segment's share of an item over everybody's.
        takers: (n_items,) float64, users who took the item.
        members: (n_users, n_segments) float32, who belongs where.
    """

    name: ClassVar[str] = "demographic"
    counts_live: ClassVar[bool] = True
    config: DemographicConfig
    segments: Segments
    lift: Floats
    takers: NDArray[np.float64]
    members: sparse.csr_matrix
    _popularity: Floats | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Rows one after the other, as they are asked for."""
        self.lift = np.ascontiguousarray(self.lift)

    @property
    def n_items(self) -> int:
        """Items in the catalogue."""
        return len(self.takers)

    @property
    def popularity(self) -> Floats:
        """(n_items,) float32, log of the item's share, NaN where nobody took it."""
        if (known := self._popularity) is None:  # the same until another event is counted
            known = self._popularity = self._log_share(self.takers)
        return known

    def _log_share(self, takers: NDArray[np.float64]) -> Floats:
        """(n,) float32 for items with so many takers."""
        with np.errstate(divide="ignore"):
            share = np.log(takers / max(self.takers.sum(), 1.0))
        return np.where(takers > 0, share, np.nan).astype(np.float32)

    @classmethod
    def fit(cls, data: Dataset, config: DemographicConfig, rng: np.random.Generator) -> Self:
        """See Head.

        Raises:
            DataError: if nothing is told of the users, or no two segments have enough of them.
        """
        liked = data.matrix()
        active = np.diff(liked.indptr) > 0
        columns = _columns(data, config)
        segments = Segments.fit(
            data.users.filter(active), columns, bins=config.bins, least_users=config.least_users
        )
        if not segments.names:
            raise DataError(
                f"demographic: no value of {columns} is shared by {config.least_users} users with "
                "events, or all share it: give columns that tell users apart, or lower least_users"
            )
        members = segments.table(data.users)
        takers = np.asarray(liked.sum(axis=0), np.float64).ravel()
        lift = _lifts(members, liked, segments.column)
        return cls(config, segments, lift, takers, members)

    def observe(self, state: History, event: History) -> None:
        """See Head: who takes an item for the first time counts as one of its takers."""
        rows = event.item_idx.tolist(), event.weight.tolist(), event.time.tolist()
        for item_idx, weight, time in zip(*rows, strict=True):
            self.count(state, item_idx, weight, time)

    def count(self, before: History, item_idx: int, weight: float, time: float) -> None:
        """See Counts."""
        if weight <= 0 or not 0 <= item_idx < self.n_items:
            return
        if ((before.item_idx == item_idx) & (before.weight > 0)).any():
            return
        self.takers[item_idx] += 1.0
        self._popularity = None

    def grown(self, data: Dataset) -> Self:
        """See Head: new items begin without takers, and are alike to all segments."""
        more = data.n_items - self.n_items
        lift = np.pad(self.lift, ((0, 0), (0, more)))
        return replace(self, lift=lift, takers=np.pad(self.takers, (0, more)))

    def score(self, states: Sequence[History], items: Indices | None, now: Times) -> Floats:
        """See Head: log of the item's share among people like this one; NaN for who is unknown."""
        rows = self._rows(states)
        popularity = self.popularity if items is None else self._log_share(self.takers[items])
        return blank(ask(rows, self.lift, items) + popularity, rows)

    def answer(
        self, state: History, items: Indices | None, now: float, room: Room, out: Floats
    ) -> bool:
        """See Quick."""
        rows = np.array(self.segments.of_user(state, self.members), np.int32)
        out.fill(0.0)
        if not add_products(rows, np.ones(len(rows), np.float32), self.lift, items, room, out):
            return False
        out += self.popularity if items is None else self._log_share(self.takers[items])
        if len(rows) == 0:
            out.fill(np.nan)
        return True

    def save(self, folder: Path) -> None:
        """See Head."""
        about = {
            "config": asdict(self.config),
            "names": self.segments.names,
            "edges": self.segments.edges,
        }
        (folder / "demographic.json").write_text(json.dumps(about, ensure_ascii=False), "utf-8")
        np.savez(folder / "demographic.npz", lift=self.lift, takers=self.takers)
        sparse.save_npz(folder / "members.npz", self.members)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See Head."""
        about = json.loads((folder / "demographic.json").read_text("utf-8"))
        config = {**about["config"], "columns": tuple(about["config"]["columns"])}
        segments = Segments(
            tuple((column, value) for column, value in about["names"]),
            {column: tuple(edges) for column, edges in about["edges"].items()},
        )
        with np.load(folder / "demographic.npz", allow_pickle=False) as stored:
            lift, takers = stored["lift"], stored["takers"]
        members = sparse.load_npz(folder / "members.npz")
        return cls(DemographicConfig(**config), segments, lift, takers, members)

    def _rows(self, states: Sequence[History]) -> Rows:
        """(len(states), n_segments): the segments of each user, none for one never seen."""
        found = [self.segments.of_user(state, self.members) for state in states]
        indptr = np.cumsum([0, *map(len, found)], dtype=np.int32)
        indices = np.array([segment for row in found for segment in row], np.int32)
        ones = np.ones(len(indices), np.float32)
        return Rows(indptr, indices, ones, len(self.segments.names))


def _columns(data: Dataset, config: DemographicConfig) -> list[str]:
    own = [c for c in data.users.columns if c != "user_id"]
    missing = sorted(set(config.columns) - set(own))
    if missing:
        raise DataError(f"demographic: users have no column {missing}; given: {own}")
    if not own:
        raise DataError("demographic: nothing is told of the users: give a users table")
    return list(config.columns) or own


def _lifts(
    members: sparse.csr_matrix, liked: sparse.csr_matrix, column: NDArray[np.int64]
) -> Floats:
    """(n_segments, n_items) log of how much more each segment takes of an item, shrunk.

    The takers of an item fall into the segments of a column by shares with a Dirichlet prior,
    whose mean is what the segments' sizes and the lifts of the other columns lead to expect, and
    whose strength (in takers of an item) is fitted for each column.

    Source: Minka 2000, Estimating a Dirichlet distribution, eq. 35 (Dirichlet-multinomial).
    """
    taken = np.asarray((members.T @ liked).todense(), np.float64)
    events = np.asarray(liked.sum(axis=1)).ravel()
    both = np.asarray((members.T @ sparse.diags(events) @ members).todense(), np.float64)
    size = both.diagonal()
    lift = np.zeros_like(taken)
    for _ in range(ROUNDS):
        for number in np.unique(column):
            own = np.flatnonzero(column == number)
            mean = np.tile(size[own, None], taken.shape[1])
            for other in np.unique(column[column != number]):
                told = np.flatnonzero(column == other)
                overlap = both[np.ix_(own, told)] / size[own, None]
                mean *= np.maximum(1 + overlap @ np.expm1(lift[told]), LEAST)
            mean /= mean.sum(axis=0)
            strength = _strength(taken[own], mean)
            total = taken[own].sum(axis=0)
            lift[own] = np.log((taken[own] + strength * mean) / (total + strength) / mean)
    return lift.astype(np.float32)


def _strength(taken: NDArray[np.float64], mean: NDArray[np.float64]) -> float:
    """Strength of the Dirichlet prior with this mean under which the counts are likeliest.

    Args:
        taken, mean: (n_segments, n_items) of one column; columns of `mean` sum to 1.
    """
    total = taken.sum(axis=0)
    told = total > 0
    c, m, n = taken[:, told], mean[:, told], total[told]
    ln = special.gammaln

    def loss(log_strength: float) -> float:
        k = np.exp(log_strength)
        each = ln(c + k * m) - ln(k * m)
        return -float(each.sum() + len(n) * ln(k) - ln(n + k).sum())

    found = optimize.minimize_scalar(loss, bounds=(0.0, 12.0), method="bounded")
    return float(np.exp(found.x))
