"""Strategies as the store keeps them, and the one in force over the model that serves."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from steerec.contracts import Strategy
from steerec.errors import DataError
from steerec.store import Store
from steerec.store.strategies import StrategyVersion

if TYPE_CHECKING:  # which reads strategies itself
    from steerec.engine.live import Live

FIT = "fit"  # author of a strategy that came with a fitted model
CARRIED = "carried"  # author of one that a refit fitted so that requests score as before
MOST_WEIGHT = 1_000.0  # no head's nats count more: such a number was never fitted
MOVES = 10_000  # newest promotions looked through for a version


def to_json(strategy: Strategy) -> dict[str, Any]:
    """Plain numbers; `from_json` gives the same strategy back."""
    return {
        "heads": list(strategy.heads),
        "features": list(strategy.features),
        "theta": strategy.theta.tolist(),
        "dials": dict(strategy.dials),
    }


def from_json(told: Mapping[str, Any], version: int) -> Strategy:
    """A strategy as it is stored.

    Raises:
        DataError: if it is none, or a number is not finite or out of all proportion: whoever edits
            the store by hand is told here, not by a list that makes no sense.
    """
    try:
        theta = np.array(told["theta"], np.float64)
        heads, features = tuple(map(str, told["heads"])), tuple(map(str, told["features"]))
        dials = {str(name): float(value) for name, value in told["dials"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise DataError(f"strategy {version} cannot be read ({e}): promote another version") from e
    if theta.shape != (len(heads), len(features)) or not (np.abs(theta) <= MOST_WEIGHT).all():
        raise DataError(
            f"strategy {version} has theta {theta.shape} for {len(heads)} heads and "
            f"{len(features)} features: expected these sizes and numbers within ±{MOST_WEIGHT:g}; "
            "promote another version"
        )
    if wrong := [name for name, value in dials.items() if not np.isfinite(value)]:
        raise DataError(
            f"strategy {version} has dials {wrong} that are no finite number: "
            "promote another version"
        )
    return Strategy(heads, features, theta, version, dials)


def ensure_promoted(live: "Live", store: Store, *, now: float) -> None:
    """Let the strategy in force be followed; the model's own becomes one where it must.

    That is before the first promotion, when the one in force speaks of other heads or features
    than the model has, and once for a version that a refit stored with its model, unless another
    was put in force while it was fitted.
    """
    current = store.strategies.current(live.tenant)
    own = _stored_with(live, store)
    if own is not None and _is_next(own, current, store, live.tenant):
        current = _promoted(own, current, live, store, now=now)
    if current is None or not fits(current, live):
        added = own or store.strategies.add(live.tenant, _of_model(live, current, now))
        store.strategies.promote(
            live.tenant, added.version, author=FIT, now=now, reason="came with the model"
        )
        current = added
    live.follow_strategy(from_json(current.strategy, current.version))


def follow_current(live: "Live", store: Store) -> None:
    """Follow what others put in force; one for another model waits for its snapshot."""
    current = store.strategies.current(live.tenant)
    if current is not None and fits(current, live):
        live.follow_strategy(from_json(current.strategy, current.version))


def _stored_with(live: "Live", store: Store) -> StrategyVersion | None:
    """The version that a refit stored for the model that serves; None for other models."""
    told = live.model.strategy
    stored = store.strategies.get(live.tenant, told.version) if told.version > 0 else None
    return stored if stored is not None and stored.strategy == to_json(told) else None


def _is_next(
    own: StrategyVersion, current: StrategyVersion | None, store: Store, tenant: str
) -> bool:
    """Whether it was never in force, and what it was made from still is."""
    if current is not None and current.version not in own.parents:
        return False
    moves = store.strategies.promotions(tenant, limit=MOVES)
    return all(move.version != own.version for move in moves)


def _promoted(
    own: StrategyVersion,
    current: StrategyVersion | None,
    live: "Live",
    store: Store,
    *,
    now: float,
) -> StrategyVersion | None:
    """The version in force after an attempt to promote this one; another process may be first."""
    try:
        store.strategies.promote(
            live.tenant,
            own.version,
            author=own.author,
            now=now,
            reason="came with the model of a refit",
            instead_of=None if current is None else current.version,
        )
    except DataError:
        return store.strategies.current(live.tenant)
    return own


def _of_model(live: "Live", current: StrategyVersion | None, now: float) -> StrategyVersion:
    """The model's own strategy, to be stored."""
    told = to_json(live.model.strategy)
    return StrategyVersion(
        strategy=told,
        author=FIT,
        made=now,
        parents=() if current is None else (current.version,),
        diff={} if current is None else difference(current.strategy, told),
        data_hash=live.model.data.content_hash if len(live.model.data.item_idx) else None,
    )


def before_current(store: Store, tenant: str) -> int | None:
    """The version that was in force before the one that is; None: there was no other."""
    moves = store.strategies.promotions(tenant, limit=MOVES)
    return next((move.version for move in moves if move.version != moves[0].version), None)


def fits(version: StrategyVersion, live: "Live") -> bool:
    """Whether a version speaks of the heads and features of the model that serves."""
    return speaks_of(version, live.model.strategy)


def speaks_of(version: StrategyVersion, strategy: Strategy) -> bool:
    """Whether a version has the heads and features of this strategy.

    Raises:
        DataError: if it is no strategy, as one edited by hand may be.
    """
    found = from_json(version.strategy, version.version)
    return (found.heads, found.features) == (strategy.heads, strategy.features)


def compared(before: StrategyVersion, after: StrategyVersion) -> dict[str, Any]:
    """What differs between two stored versions; see `difference`.

    Raises:
        DataError: if one of them cannot be read, as one edited by hand may be.
    """
    for version in (before, after):
        from_json(version.strategy, version.version)
    return difference(before.strategy, after.strategy)


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What moved: weights by head and feature, dials by name, each as [before, after]."""
    moved: dict[str, Any] = {}
    was, is_now = _weights(before), _weights(after)
    weights = {
        name: [was.get(name), is_now.get(name)]
        for name in sorted({*was, *is_now})
        if was.get(name) != is_now.get(name)
    }
    if weights:
        moved["weights"] = weights
    old, new = before.get("dials", {}), after.get("dials", {})
    dials = {n: [old.get(n), new.get(n)] for n in {*old, *new} if old.get(n) != new.get(n)}
    if dials:
        moved["dials"] = dials
    return moved


def _weights(told: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{head}.{feature}": round(float(value), 6)
        for head, row in zip(told["heads"], told["theta"], strict=True)
        for feature, value in zip(told["features"], row, strict=True)
        if value
    }
