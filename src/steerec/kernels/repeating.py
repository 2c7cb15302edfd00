"""What a user takes again: features of each own item, weighed; see heads.repeat."""

from math import log, log1p

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, Indices, Times
from steerec.kernels.compiling import DOUBLE, FLOAT, INT, LONG, compiled, given, made, pair
from steerec.kernels.telling import distinct

DAY_S = 86_400.0
FADE = 0.8  # of a step against the one after it


@compiled(pair(made(INT), made(INT))(given(INT), given(FLOAT), given(INT), LONG))
def _steps(
    item_idx: Indices, weight: Floats, basket: Indices, n_items: int
) -> tuple[Indices, Indices]:
    """Places of the events of positive weight and known items, and the number of each one's step.

    A basket is one step, else an event is.
    """
    places, steps = np.empty(len(item_idx), np.int32), np.empty(len(item_idx), np.int32)
    n_known, step = 0, -1
    for at in range(len(item_idx)):
        step += at == 0 or basket[at] != basket[at - 1] or basket[at] < 0
        places[n_known], steps[n_known] = at, step
        n_known += weight[at] > 0.0 and 0 <= item_idx[at] < n_items
    return places[:n_known].copy(), steps[:n_known].copy()


@compiled(DOUBLE(given(DOUBLE), DOUBLE, DOUBLE, DOUBLE, DOUBLE, DOUBLE, DOUBLE, DOUBLE))
def _weighed(
    weights: NDArray[np.float64],
    count: float,
    since: float,
    span: float,
    recent: float,
    days: float,
    n_steps: float,
    each: float,
) -> float:
    """A row of heads.repeat._features times the weights, in its order."""
    gap = (span - since) / (count - 1) if count > 1 else 0.0
    rhythm = log((since + 0.5) / (gap + 0.5)) if gap > 0 else 0.0
    log_count, log_since = log(count), log(since)
    total = weights[0] + weights[1] * log_count + weights[2] * log_count**2
    total += weights[3] * log_since + weights[4] * log_since**2
    total += weights[5] * log(count / span + 0.02) + weights[6] * log(count / n_steps + 0.02)
    total += weights[7] * log(recent + 0.02) + weights[8] * rhythm + weights[9] * rhythm**2
    total += weights[10] * (count == 1) + weights[11] * (since == 1)
    total += weights[12] * (log1p(max(days, 0.0)) if days == days else 0.0)
    return float(total + weights[13] * log(n_steps) + weights[14] * log(each))


@compiled(
    pair(made(INT), made(FLOAT))(
        given(INT), given(FLOAT), given(DOUBLE), given(INT), DOUBLE, given(DOUBLE), given(DOUBLE)
    )
)
def own_scores(
    item_idx: Indices,
    weight: Floats,
    time: Times,
    basket: Indices,
    now: float,
    worth: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> tuple[Indices, Floats]:
    """The user's own items, each once, and their scores.

    Args:
        worth: (n_items,) what each item adds for itself.
        weights: of the features of a user and an own item.
    """
    places, steps = _steps(item_idx, weight, basket, len(worth))
    items, place = distinct(item_idx[places])
    n_own, n_taken = len(items), len(places)
    count, recent = np.zeros(n_own), np.zeros(n_own)
    oldest, newest = np.zeros(n_own), np.zeros(n_own)
    last = np.empty(n_own)
    n_steps = float(steps[n_taken - 1] + 1) if n_taken else 0.0
    for event in range(n_taken):
        own = place[event]
        if count[own] == 0.0:
            oldest[own] = steps[event]
        count[own] += 1.0
        recent[own] += FADE ** (n_steps - 1 - steps[event])
        newest[own], last[own] = steps[event], time[places[event]]
    scores = np.empty(n_own, np.float32)
    for own in range(n_own):
        scores[own] = worth[items[own]] + _weighed(
            weights,
            count[own],
            n_steps - newest[own],
            n_steps - oldest[own],
            recent[own],
            (now - last[own]) / DAY_S,
            n_steps,
            n_taken / n_own,
        )
    return items, scores
