"""What runs of a world come to: clicks, lifts, regret, recovery after drift, return rate."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from steerec.engine.loop import Trace

RECOVER_WITHIN = 5_000  # slates after the drift; what follows must be as good as the best blend
RECOVERED_OVER = 2_000  # slates, over which it is seen whether the gap was closed by then

Runs = Mapping[str, Sequence[Trace]]  # policy → its runs, by seed


def figures(runs: Runs) -> dict[str, Any]:
    """The figures of every policy; intervals are Student's t over seeds, paired for lifts.

    What cannot be told is None: an interval from one seed, a lift over a policy that did not
    run, a recovery where there was no gap.
    """
    return {name: _of_policy(name, runs) for name in runs}


def _of_policy(name: str, runs: Runs) -> dict[str, Any]:
    clicks = per_seed(runs[name], lambda run: 1_000 * float(run.clicks.mean()))
    return {
        "clicks_per_1000": summary(clicks),
        "lift_over_popularity": _lift(clicks, "popularity", runs),
        "lift_over_frozen": _lift(clicks, "frozen", runs),
        "regret": _regret(name, runs),
        "recovery": recovery(name, runs),
        "return_rate": float(np.mean([run.returned.mean() for run in runs[name]])),
    }


def per_seed(runs: Sequence[Trace], figure: Callable[[Trace], float]) -> dict[int, float]:
    """Seed → figure of that run."""
    return {run.seed: figure(run) for run in runs}


def summary(values: Mapping[int, float]) -> dict[str, Any]:
    """Mean and 95 % interval by Student's t over seeds."""
    x = np.array(list(values.values()))
    if len(x) < 2:
        return {"mean": float(x.mean()), "ci": None}
    half = float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return {"mean": float(x.mean()), "ci": [float(x.mean()) - half, float(x.mean()) + half]}


def _lift(clicks: Mapping[int, float], base: str, runs: Runs) -> dict[str, Any] | None:
    if base not in runs:
        return None
    under = per_seed(runs[base], lambda run: 1_000 * float(run.clicks.mean()))
    both = [seed for seed in clicks if seed in under]
    return summary({seed: clicks[seed] / under[seed] - 1 for seed in both}) if both else None


def _regret(name: str, runs: Runs) -> float | None:
    """Clicks per 1,000 slates that the oracle would have got more, by expected clicks."""
    if "oracle" not in runs:
        return None
    best, mine = (
        per_seed(runs[key], lambda run: float(run.expected.mean())) for key in ("oracle", name)
    )
    both = best.keys() & mine.keys()
    return 1_000 * float(np.mean([best[seed] - mine[seed] for seed in both])) if both else None


def recovery(name: str, runs: Runs) -> float | None:
    """Share of the gap from the frozen to the best blend that is closed soon after the drift.

    By expected clicks, from RECOVER_WITHIN slates after half time to the end (or over the last
    quarter of a shorter run); None where the gap is not above 0.
    """

    def late(run: Trace) -> float:
        return float(run.expected[_recovered_at(run) :].mean())

    return share_closed(name, runs, late)


def recovered_by(name: str, runs: Runs, *, size: int = RECOVERED_OVER) -> float | None:
    """The same share over the stretch of `size` slates that ends where `recovery` begins."""

    def just_before(run: Trace) -> float:
        end = _recovered_at(run)
        start = max(end - size, len(run.expected) // 2)
        return float(run.expected[start:end].mean())

    return share_closed(name, runs, just_before)


def _recovered_at(run: Trace) -> int:
    n = len(run.expected)
    return min(n // 2 + RECOVER_WITHIN, 3 * n // 4)


def share_closed(name: str, runs: Runs, figure: Callable[[Trace], float]) -> float | None:
    """Share of the gap from the frozen to the best blend in a figure of a run; see `recovery`."""
    if "frozen" not in runs or "oracle_blend" not in runs:
        return None
    found = [per_seed(runs[key], figure) for key in ("frozen", "oracle_blend", name)]
    seeds = set.intersection(*(set(by_seed) for by_seed in found))
    if not seeds:
        return None
    frozen, best, mine = (
        float(np.mean([by_seed[seed] for seed in sorted(seeds)])) for by_seed in found
    )
    return (mine - frozen) / (best - frozen) if best > frozen else None


def windows(runs: Sequence[Trace], size: int) -> NDArray[np.float64]:
    """(n_runs, n_windows): expected clicks per 1,000 slates in stretches of `size` slates."""
    n = min(len(run.expected) for run in runs) // size * size
    stretches = [run.expected[:n].reshape(-1, size).mean(axis=1) for run in runs]
    return np.asarray(1_000 * np.array(stretches, np.float64))
