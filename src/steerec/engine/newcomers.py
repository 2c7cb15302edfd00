"""People without a past: users whom no head learns from, foretold step by step from their start."""

from dataclasses import replace

import numpy as np

from steerec.data.split import Cases, Split, single_targets

STEPS = (0, 1, 2, 5, 10)  # events after which a user set aside is foretold: knots of φ
LATER = (20, 50)  # and these, where people come back to things
SHORT = 12  # histories up to this length are short
ENOUGH = 0.2  # share of the cases that are short, from which nobody need be set aside
MOST_USERS = 200  # set aside,
MOST_SHARE = 0.1  # but no more than this share of them
TASTE_FROM = 3  # events from which tastes count where short histories are those of users set aside
LEAST_FIRST = 30  # first steps from which the weights of newcomers can be fitted


def set_users_aside(split: Split, rng: np.random.Generator, *, repeats: bool) -> Split:
    """Let some users leave training whole and be foretold from their start, if histories are long.

    So θ and the calibrations see short histories too. A long history cut short would not do: its
    target is what comes late in a life, and a first step is not like that. Heads that train by
    epochs may never learn from these users (`trained_on` in lessons.py), so they are few.
    The same split comes back where nobody need be set aside.

    Args:
        repeats: whether people come back to what they had. Then short histories of known users do
            not stand for those of new ones: heads that count have counted the very steps asked for.
    """
    cases, train = split.cases, split.train
    if not repeats and np.mean(cases.lengths() <= SHORT) >= ENOUGH:
        return split
    active = np.flatnonzero(np.diff(train.starts) > SHORT)
    n_users = min(MOST_USERS, int(MOST_SHARE * len(active)))
    if n_users == 0:
        return split
    aside = np.zeros(train.n_users, bool)
    aside[rng.choice(active, n_users, replace=False)] = True
    rest = train.take(~aside[train.user_idx])
    known = np.bincount(rest.item_idx, minlength=rest.n_items) > 0
    steps = np.array(STEPS + LATER if repeats else STEPS)
    positions = cases.data.starts[:-1][aside][:, None] + steps
    positions = positions[positions < cases.data.starts[1:][aside][:, None]]
    positions = positions[known[cases.data.item_idx[positions]]]
    return Split(rest, joined(cases, single_targets(cases.data, positions)))


def first_steps(split: Split) -> Cases | None:
    """The first event of each user whom training does not know; None if there are too few."""
    data, train = split.cases.data, split.train
    new = (np.diff(train.starts) == 0) & (np.diff(data.starts) > 0)
    known = np.bincount(train.item_idx, minlength=train.n_items) > 0
    positions = data.starts[:-1][new]
    positions = positions[known[data.item_idx[positions]]]
    return single_targets(data, positions) if len(positions) >= LEAST_FIRST else None


def joined(one: Cases, other: Cases) -> Cases:
    """The cases of both, which are of the same data."""
    return replace(
        one,
        user_idx=np.concatenate([one.user_idx, other.user_idx]),
        stop=np.concatenate([one.stop, other.stop]),
        targets=np.concatenate([one.targets, other.targets]),
        offsets=np.concatenate([one.offsets, one.offsets[-1] + other.offsets[1:]]),
        now=np.concatenate([one.now, other.now]),
    )
