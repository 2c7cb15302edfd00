"""One list out of two strategies' lists: each takes its best item left in turn."""

import numpy as np
from numpy.typing import NDArray
from scipy import special

from steerec.engine.noise import exponentials
from steerec.engine.sampler import Drawn, draw
from steerec.engine.walk import Scores
from steerec.tuning.experiments import team_draft

# Other noise than the first team's, of the same request.
_SECOND, _COINS = 0x5DEECE66D1234567, 0x2545F4914F6CDD1D


def draw_both(
    worth: tuple[Scores, Scores], *, n: int, temperature: float, seed: int
) -> tuple[Drawn, str]:
    """A list of at most `n`, and the team of each place, "a" or "b"; longer ones go on.

    The propensity of a place is that of its team's draw, given the items above and whose turn it
    is: turns hang on coins alone, so that weights taken on it are unbiased.

    Args:
        worth: (n_pool,) in nats, of both teams.
    """
    orders = [
        draw(one, n=n, temperature=temperature, seed=own).places.tolist()
        for one, own in zip(worth, (seed, seed ^ _SECOND), strict=True)
    ]
    coins = exponentials(seed ^ _COINS, n) < np.log(2.0)
    mixed = team_draft(orders[0], orders[1], n=n, first=coins.tolist())
    logs = _log_p(worth, mixed.items, mixed.team, temperature)
    places = np.array(mixed.items, np.int32)
    made = Drawn(places, np.exp(logs).astype(np.float32), float(logs.sum()))
    return made, "".join(mixed.team)


def _log_p(
    worth: tuple[Scores, Scores],
    places: tuple[int, ...],
    teams: tuple[str, ...],
    temperature: float,
) -> NDArray[np.float64]:
    if temperature == 0:
        return np.zeros(len(places))
    logits = {team: one / temperature for team, one in zip("ab", worth, strict=True)}
    left = np.ones(len(worth[0]), bool)
    found = np.empty(len(places))
    for at, (place, team) in enumerate(zip(places, teams, strict=True)):
        own = logits[team]
        found[at] = own[place] - special.logsumexp(own[left])
        left[place] = False
    return found
