"""Context features φ: what about a request decides which heads to trust."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import cos, isnan, log, log1p, nan, pi, sin

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import OWN, Floats, History, Times
from steerec.data.dataset import Dataset
from steerec.errors import ConfigError

DAY_S = 86_400.0
LENGTHS = (0, 1, 2, 5, 10, 20, 50, 200)  # knots of the history-length hats, in events
NO_HISTORY = "length~0"  # the one column that is on for empty histories only
UNSEEN_ITEM = (
    "unseen_item"  # a feature of the item: 0 in φ of a request, 1 for items without events
)
SINCE_FIT = "since_fit~"  # share of a history that came after the fit, at a few events and at more
HOURS = ("day_sin", "day_cos")  # where the request lies in its day
LEAST_DAYS = 3.0  # that moments must span before weights may depend on the hour
SINCE_FIT_LENGTHS = (1, 10)  # knots of its hats, in events
GAPS_S = (10.0, 3_600.0, DAY_S, 30 * DAY_S)  # knots of the recency hats
_LENGTH_KNOTS = np.log1p(np.array(LENGTHS, np.float64))
_GAP_KNOTS = np.log(np.array(GAPS_S))
_SINCE_FIT_KNOTS = np.log1p(np.array(SINCE_FIT_LENGTHS, np.float64))
_SINCE_FIT: list[float] = _SINCE_FIT_KNOTS.tolist()
_LENGTHS: list[float] = _LENGTH_KNOTS.tolist()
_GAPS: list[float] = _GAP_KNOTS.tolist()


@dataclass(frozen=True, kw_only=True)
class PhiConfig:
    """Settings of the context features."""

    taste_dims: int = 4  # dimensions of the user's projected embedding; 0: none
    scenarios: tuple[str, ...] = ()  # placements with a column of their own
    devices: tuple[str, ...] = ()  # devices with a column of their own

    def __post_init__(self) -> None:
        if self.taste_dims < 0:
            raise ConfigError(f"phi: taste_dims={self.taste_dims}, expected 0 or more")


@dataclass(frozen=True)
class Phi:
    """Makes φ of a request.

    Attributes:
        names: (n_features,) what each column is; the first is the bias.
        projection: (n_items, taste_dims) float32, each item's place in the taste space; (n_items,
            0) without encoder vectors.
        taste_from: events from which a history tells of a taste; one or two may not, where their
            weights are fitted on few people and tastes on others.
        fitted: (n_users,) events of each user that the heads were fitted on; None: it is not asked
            whether they have learnt from a person.
    """

    config: PhiConfig
    projection: Floats
    taste_from: int = 1
    fitted: NDArray[np.int64] | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return (
            "bias",
            *(f"length~{n}" for n in LENGTHS),
            *(f"gap~{g:.0f}s" for g in GAPS_S),
            *HOURS,
            *(f"taste{d}" for d in range(self.projection.shape[1])),
            *(f"scenario={s}" for s in self.config.scenarios),
            *(f"device={d}" for d in self.config.devices),
            *(SINCE_FIT + str(n) for n in self._since_fit_lengths),
            *(OWN + name for name in self._told_of_own),
            UNSEEN_ITEM,
        )

    @property
    def _since_fit_lengths(self) -> tuple[int, ...]:
        return () if self.fitted is None else SINCE_FIT_LENGTHS

    @property
    def _told_of_own(self) -> tuple[str, ...]:
        """Features of the request that an own item has once more, with weights beside."""
        if self.fitted is None:
            return ()
        since_fit = (SINCE_FIT + str(n) for n in SINCE_FIT_LENGTHS)
        return ("bias", *(f"length~{n}" for n in LENGTHS if n), *since_fit)

    def of_own(self, phi: NDArray[np.float64]) -> NDArray[np.float64]:
        """(…, n_features): what own items have beside φ (…, n_features) of their request."""
        more = np.zeros_like(phi)
        own, request = self._own_columns
        more[..., own] = phi[..., request]
        return more

    @cached_property
    def _own_columns(self) -> tuple[list[int], list[int]]:
        """Columns of own items, and those of the request that they take after."""
        at = {name: column for column, name in enumerate(self.names)}
        told = self._told_of_own
        return [at[OWN + name] for name in told], [at[name] for name in told]

    @property
    def tells_own(self) -> bool:
        """Whether items that a user had before have weights beside the others'."""
        return self.fitted is not None

    @classmethod
    def fit(cls, data: Dataset, config: PhiConfig) -> "Phi":
        """Learn the taste space: principal directions of the item vectors."""
        if data.vectors is None or not config.taste_dims or not data.vectors.any():
            return cls(config, np.zeros((data.n_items, 0), np.float32))
        told = data.vectors.any(axis=1)
        centred = data.vectors[told] - data.vectors[told].mean(axis=0)
        spread, directions = np.linalg.eigh(centred.T @ centred / len(centred))
        dims = min(config.taste_dims, len(spread))
        places = np.zeros((data.n_items, dims), np.float32)
        places[told] = centred @ directions[:, ::-1][:, :dims]
        places /= np.maximum(np.sqrt(spread[::-1][:dims]), 1e-6)
        return cls(config, places)

    def __call__(
        self,
        histories: Sequence[History],
        now: Times,
        *,
        scenario: str | None = None,
        device: str | None = None,
    ) -> NDArray[np.float64]:
        """(n, n_features) float64; hats of unknown times are all 0."""
        n = len(histories)
        length = np.array([h.n_told for h in histories], np.float64)
        last = np.array([h.time[-1] if len(h) else np.nan for h in histories])
        day = 2 * np.pi * (now % DAY_S) / DAY_S
        hour = np.stack([np.sin(day), np.cos(day)], axis=1)
        hour[np.isnan(hour)] = 0.0
        placed = [float(scenario == s) for s in self.config.scenarios]
        placed += [float(device == d) for d in self.config.devices]
        columns = [
            np.ones((n, 1)),
            _hats(np.log1p(length), _LENGTH_KNOTS),
            _hats(np.log(np.maximum(now - last, 1.0)), _GAP_KNOTS),
            hour,
            self._tastes(histories),
            np.broadcast_to(np.array(placed), (n, len(placed))),
            np.zeros((n, 1)),
        ]
        if self.fitted is not None:
            share = np.array([self._since_fit(h) for h in histories]).reshape(n, 1)
            columns.insert(-1, share * _hats(np.log1p(length), _SINCE_FIT_KNOTS))
            columns.insert(-1, np.zeros((n, len(self._told_of_own))))
        return np.concatenate(columns, axis=1)

    def one(
        self, history: History, now: float, *, scenario: str | None, device: str | None
    ) -> NDArray[np.float64]:
        """(n_features,) of one request: a row of `__call__` by plain numbers, which is quicker."""
        row = np.zeros(len(self.names))
        row[0] = 1.0
        _put_hats(row, 1, log1p(history.n_told), _LENGTHS)
        gap_s = now - float(history.time[-1]) if len(history) else nan
        at = 1 + len(LENGTHS)
        if not isnan(gap_s):
            _put_hats(row, at, log(max(gap_s, 1.0)), _GAPS)
        at += len(GAPS_S)
        if not isnan(now):
            day = 2 * pi * (now % DAY_S) / DAY_S
            row[at], row[at + 1] = sin(day), cos(day)
        at += 2
        dims = self.projection.shape[1]
        if dims and len(history):
            row[at : at + dims] = self._tastes([history])[0]
        at += dims
        told = [*(scenario == s for s in self.config.scenarios)]
        told += [device == d for d in self.config.devices]
        row[at : at + len(told)] = told
        if self.fitted is not None:
            at += len(told)
            _put_hats(row, at, log1p(history.n_told), _SINCE_FIT)
            row[at : at + len(_SINCE_FIT)] *= self._since_fit(history)
        return row

    def _since_fit(self, history: History) -> float:
        """Share of the history that came after the fit: 1 for a person new since then."""
        n, user = len(history), history.user_idx
        if n == 0 or self.fitted is None:
            return 0.0
        fitted = int(self.fitted[user]) if 0 <= user < len(self.fitted) else 0
        return max(1 - fitted / n, 0.0)

    def _tastes(self, histories: Sequence[History]) -> NDArray[np.float64]:
        """(n, taste_dims): mean place of the 20 newest items, shrunk for short histories."""
        tastes = np.zeros((len(histories), self.projection.shape[1]))
        if tastes.shape[1] == 0:
            return tastes
        for row, history in enumerate(histories):
            items = history.item_idx[-20:]
            items = items[(items >= 0) & (items < len(self.projection))]
            if len(items) and len(history) >= self.taste_from:
                tastes[row] = self.projection[items].sum(axis=0) / (len(items) + 3.0)
        return tastes


def spans_days(now: Times) -> bool:
    """Whether moments lie on enough days (UTC) that the hour is told from how a day went on.

    Days count as 1 / Σ share²: where one has nearly all moments, it is the only one.
    """
    known = now[~np.isnan(now)]
    share = np.unique(known // DAY_S, return_counts=True)[1] / max(len(known), 1)
    return bool(1 >= LEAST_DAYS * (share**2).sum() > 0)


def without_hours(phi: NDArray[np.float64], names: Sequence[str]) -> NDArray[np.float64]:
    """The same rows of φ as if nobody knew the hour."""
    phi = phi.copy()
    phi[:, [names.index(name) for name in HOURS]] = 0.0
    return phi


def _put_hats(row: NDArray[np.float64], at: int, x: float, knots: Sequence[float]) -> None:
    """One row of `_hats`, put in place from column `at` on."""
    x = min(max(x, knots[0]), knots[-1])
    right = min(max(bisect_left(knots, x), 1), len(knots) - 1)
    share = (x - knots[right - 1]) / (knots[right] - knots[right - 1])
    row[at + right - 1] = 1 - share
    row[at + right] = share


def _hats(x: NDArray[np.float64], knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, n_knots): linear weights of the two knots around x, summing to 1; 0 where x is NaN."""
    x = np.clip(x, knots[0], knots[-1])
    hats = np.zeros((len(x), len(knots)))
    known = np.flatnonzero(~np.isnan(x))
    right = np.clip(np.searchsorted(knots, x[known]), 1, len(knots) - 1)
    share = (x[known] - knots[right - 1]) / (knots[right] - knots[right - 1])
    hats[known, right - 1] = 1 - share
    hats[known, right] = share
    return hats
