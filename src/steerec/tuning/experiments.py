"""Experiments: who is in which arm, whether the split is sound, and what the arms differ by."""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from steerec.errors import ConfigError
from steerec.tuning.observed import Doubles
from steerec.tuning.sequences import Interval, asymptotic, e_ratio

ItemT = TypeVar("ItemT", bound=Hashable)

STRENGTHS = (10.0, 100.0, 1_000.0)  # how close to the shares, in counts, broken splits may be
WORST_SPLIT_P = 0.001  # below it the split is broken and no result is to be believed


@dataclass(frozen=True)
class Experiment:
    """What is compared, written down before the first user is in it.

    Attributes:
        arms: arm → share of the users; the first is what others are compared with.
        metric: the one that decides.
        alpha: of all comparisons together.
    """

    name: str
    arms: Mapping[str, float]
    metric: str
    alpha: float = 0.05

    def __post_init__(self) -> None:
        shares = list(self.arms.values())
        if len(shares) < 2 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
            raise ConfigError(
                f"experiment {self.name}: shares {shares} of the arms that are shown, expected to "
                "sum to 1 over two or more; those of shadow arms do not count"
            )
        if not 0 < self.alpha < 1 or not self.metric:
            raise ConfigError(f"experiment {self.name}: a metric, and alpha within (0, 1)")

    def arm(self, user_id: str) -> str:
        """The arm of a user, the same for ever and in every process."""
        place = stable_share(self.name, user_id)
        for arm, upto in zip(self.arms, accumulate(self.arms.values()), strict=True):
            if place < upto:
                return arm
        return list(self.arms)[-1]  # shares may sum to a little less than 1


def stable_share(name: str, user_id: str) -> float:
    """A number in [0, 1) that hangs on the name and the user alone, evenly spread."""
    digest = hashlib.blake2b(user_id.encode(), key=_key(name), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def _key(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Split:
    """Whether users fell into the arms as they should have.

    Attributes:
        p: of a chi-square test, for one look.
        anytime_p: valid however often it is looked at.
    """

    counts: Mapping[str, int]
    p: float
    anytime_p: float

    @property
    def sound(self) -> bool:
        """Whether results may be believed."""
        return self.anytime_p >= WORST_SPLIT_P


def check_split(counts: Mapping[str, int], experiment: Experiment) -> Split:
    """Compare the users counted in each arm with the shares.

    Raises:
        ValueError: if an arm is unknown.
    """
    if not set(counts) <= set(experiment.arms):
        raise ValueError(f"arms {sorted(counts)}, expected {sorted(experiment.arms)}")
    seen = [counts.get(arm, 0) for arm in experiment.arms]
    shares = list(experiment.arms.values())
    if sum(seen) == 0:
        return Split(dict(counts), 1.0, 1.0)
    expected = np.array(shares) * (sum(seen) / sum(shares))
    p = float(stats.chisquare(seen, expected).pvalue)
    return Split(dict(counts), p, _anytime_p(seen, shares))


def _anytime_p(counts: Sequence[int], shares: Sequence[float]) -> float:
    """Of counts against shares: gross differences are seen early, and slight ones at last.

    A mean of e-values is one too, so that the alternatives are weighed without a price.
    """
    found = [e_ratio(counts, shares, strength=strength) for strength in STRENGTHS]
    return min(1.0, len(found) / sum(found))


def cuped(metric: Doubles, before: Doubles) -> Doubles:
    """The metric of each user less what their own past foretold of it; the mean stays.

    Args:
        before: (n,) a covariate from before the experiment, NaN for users who were not there.
    Source: Deng, Xu, Kohavi, Walker 2013, eq. 4.
    """
    known = np.isfinite(before)
    if known.sum() < 2 or float(np.var(before[known])) == 0:
        return metric.copy()
    slope = np.cov(metric[known], before[known])[0, 1] / np.var(before[known], ddof=1)
    found = metric.astype(np.float64)
    found[known] -= slope * (before[known] - before[known].mean())
    return np.asarray(found, np.float64)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One arm against the first; `slice` is "all" or a part of the users.

    Attributes:
        difference: mean metric of the arm less the first's, at every time at once.
        n: users in the arm and in the first.
    """

    arm: str
    slice: str
    difference: Interval
    n: tuple[int, int]

    @property
    def decided(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.difference.low > 0 or self.difference.high < 0


def compare(
    experiment: Experiment,
    arm: NDArray[np.str_],
    metric: Doubles,
    *,
    part: str = "all",
    n_parts: int = 1,
) -> list[Comparison]:
    """Each arm against the first.

    One row a user, so that a user's visits need not be independent. The comparisons of all users
    decide; parts have wider intervals, as there are more of them to be wrong by chance.

    Args:
        arm: (n,) arm of each user.
        metric: (n,) of each user, after `cuped` if there is a past.
        part: name of these users, "all" for everybody.
        n_parts: how many parts are looked at.
    """
    first, *others = experiment.arms
    alpha = experiment.alpha / (len(others) * n_parts)
    base = metric[arm == first]
    found = []
    for other in others:
        values = metric[arm == other]
        apart = _apart(values, base, alpha)
        found.append(Comparison(other, part, apart, (len(values), len(base))))
    return found


def _apart(a: Doubles, b: Doubles, alpha: float) -> Interval:
    if len(a) < 2 or len(b) < 2:
        return Interval(float("nan"), -np.inf, np.inf)
    n = len(a) + len(b)
    mean = float(a.mean() - b.mean())
    # As if of one sequence whose members come from either arm by chance.
    variance = n * float(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    return asymptotic(n, mean, variance, alpha=alpha)


@dataclass(frozen=True)
class Interleaved(Generic[ItemT]):
    """Two lists drawn into one.

    Attributes:
        team: of each item: "a" or "b".
    """

    items: tuple[ItemT, ...]
    team: tuple[str, ...]


def team_draft(
    a: Sequence[ItemT], b: Sequence[ItemT], *, n: int, first: Sequence[bool]
) -> Interleaved[ItemT]:
    """Draw a list of `n` from two rankings, each team taking its best left in turn.

    Args:
        first: (n,) fair coins: whether `a` begins each round.
    Source: Radlinski, Kurup, Joachims 2008, algorithm 2.
    """
    lists = {"a": a, "b": b}
    items: dict[ItemT, str] = {}
    for a_begins in first:
        before = len(items)
        for team in "ab" if a_begins else "ba":
            best = next((item for item in lists[team] if item not in items), None)
            if best is not None and len(items) < n:
                items[best] = team
        if len(items) in (before, n):
            break
    return Interleaved(tuple(items), tuple(items.values()))


@dataclass(frozen=True, slots=True)
class Preference:
    """Which of two teams users prefer.

    Attributes:
        a, b, ties: users with more clicks on items of that team, or as many on both.
        difference: mean over users of (clicks of b less those of a) / all, ties as 0.
        anytime_p: of the sign test, valid however often it is looked at.
    """

    a: int
    b: int
    ties: int
    difference: Interval
    anytime_p: float


def preference(a: Doubles, b: Doubles, *, alpha: float = 0.05) -> Preference:
    """Compare two teams' credit over users.

    Args:
        a, b: (n,) credit of each user.
    """
    total = np.abs(a) + np.abs(b)
    score = np.divide(b - a, total, out=np.zeros(len(total)), where=total > 0)
    wins = int((score < 0).sum()), int((score > 0).sum())
    variance = float(score.var(ddof=1)) if len(score) > 1 else 0.0
    mean = float(score.mean()) if len(score) else 0.0
    told = asymptotic(len(score), mean, variance, alpha=alpha)
    return Preference(*wins, len(score) - sum(wins), told, _anytime_p(wins, (0.5, 0.5)))


@dataclass(frozen=True, slots=True)
class Shadow:
    """How a list that was computed and not shown differs from the one shown.

    Attributes:
        overlap: share of the items in both.
        rank_overlap: the same with the top counting more.
        new: items that only the shadow list has, best first.
    """

    overlap: float
    rank_overlap: float
    new: tuple[str, ...]


def shadow(shown: Sequence[str], other: Sequence[str], *, persistence: float = 0.9) -> Shadow:
    """Compare two lists of distinct items.

    Source: rank-biased overlap, Webber, Moffat, Zobel 2010, eq. 4, over the depth there is.
    """
    depth = max(len(shown), len(other))
    if depth == 0:
        return Shadow(1.0, 1.0, ())
    shares = [len(set(shown[:d]) & set(other[:d])) / d for d in range(1, depth + 1)]
    weights = persistence ** np.arange(depth)
    ranked = float(weights @ np.array(shares) / weights.sum())
    new = tuple(item for item in other if item not in set(shown))
    return Shadow(len(set(shown) & set(other)) / depth, ranked, new)
