"""Routes of the strategy: what it is, what it was, and back."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

import msgspec
import numpy as np

from steerec.engine.account import account
from steerec.engine.ramps import tune_or_ramp
from steerec.engine.standing import standings
from steerec.engine.strategies import (
    before_current,
    compared,
    fits,
    follow_current,
    from_json,
)
from steerec.service.calls import Call
from steerec.service.problems import refused
from steerec.service.schemas import (
    DiffOut,
    DiffQuery,
    HistoryOut,
    PromoteIn,
    RollbackIn,
    StrategyOut,
    StrategyQuery,
    TunedOut,
    VersionOut,
)
from steerec.store.strategies import StrategyVersion


def get_strategy(call: Call) -> StrategyOut:
    """The strategy in force, in numbers and in words, and what people's answers made of it since.

    With `gains=true` also what it earned and gained, as `/api/strategy/history` has it.
    """
    query: StrategyQuery = call.query
    reward = call.tenant.live.config.tuning.reward if query.gains else None
    found = account(call.tenant.store, call.tenant.name, now=call.now, reward=reward)
    assert found is not None, "a tenant has one as soon as it is open"
    stood, standing = found.stood, found.standing
    online = None if standing is None else standing.to_json()
    return StrategyOut(
        **msgspec.structs.asdict(_out(found.version, in_force=True, online=online)),
        words=found.words,
        live_theta=None if stood.theta is None else stood.theta.tolist(),
        frozen=None if stood.frozen is None else asdict(stood.frozen),
    )


def get_history(call: Call) -> HistoryOut:
    """All versions, newest first, with estimated and true gains; what was in force when, and why.

    `online` is what the newest slates of the log say: what each version earned in its arms, what
    the tuner gained on it side by side, and what it gained over its parent, one after the other.
    """
    store, name = call.tenant.store, call.tenant.name
    strategies, reward = store.strategies, call.tenant.live.config.tuning.reward
    current, versions = strategies.current(name), strategies.history(name)
    earned = standings(store, name, versions, reward, now=call.now)
    in_force = None if current is None else current.version
    return HistoryOut(
        versions=[
            _out(version, in_force=version.version == in_force, online=one.to_json())
            for version, one in zip(versions, earned, strict=True)
        ],
        promotions=[asdict(promotion) for promotion in strategies.promotions(name)],
    )


def get_diff(call: Call) -> DiffOut:
    """What differs between two versions: weights by head and context, and dials.

    Without numbers: what the version in force changed of the one that it was made of.
    """
    query: DiffQuery = call.query
    after = _in_force(call) if query.after is None else _version(call, query.after)
    number = query.before or next(iter(after.parents), after.version)
    return DiffOut(**compared(_version(call, number), after))


def post_promote(call: Call) -> VersionOut:
    """Put any version in force; lists follow it from the next request on."""
    body: PromoteIn = call.body
    return _put_in_force(call, body.version, body.reason or "promoted by hand")


def post_rollback(call: Call) -> VersionOut:
    """Put an earlier version in force again; lists follow it from the next request on."""
    body: RollbackIn = call.body
    version = body.version
    if version is None:
        version = before_current(call.tenant.store, call.tenant.name)
    if version is None:
        raise refused(HTTPStatus.CONFLICT, "no other version was ever in force: see history")
    return _put_in_force(call, version, body.reason or "rollback")


def _put_in_force(call: Call, number: int, reason: str) -> VersionOut:
    found, tenant = _version(call, number), call.tenant
    if not fits(found, tenant.live):
        raise refused(
            HTTPStatus.CONFLICT,
            f"version {number} weighs heads or features that the model does not have now: "
            "load the snapshot it was made for, or choose a later version",
        )
    author = call.caller.key_id or "owner"
    tenant.store.strategies.promote(tenant.name, number, author=author, now=call.now, reason=reason)
    tenant.live.follow_strategy(from_json(found.strategy, found.version))
    return _out(found, in_force=True)


def _in_force(call: Call) -> StrategyVersion:
    current = call.tenant.store.strategies.current(call.tenant.name)
    assert current is not None, "a tenant has one as soon as it is open"
    return current


def _version(call: Call, number: int) -> StrategyVersion:
    found = call.tenant.store.strategies.get(call.tenant.name, number)
    if found is None:
        raise refused(HTTPStatus.NOT_FOUND, f"no strategy has version {number}: see history")
    return found


def _out(
    version: StrategyVersion, *, in_force: bool, online: Mapping[str, Any] | None = None
) -> VersionOut:
    return VersionOut(
        version=version.version,
        author=version.author,
        made=version.made,
        parents=list(version.parents),
        diff=dict(version.diff),
        estimates=dict(version.estimates),
        data_hash=version.data_hash,
        in_force=in_force,
        strategy=dict(version.strategy),
        online=None if online is None else dict(online),
    )


async def post_tune(call: Call) -> TunedOut:
    """Learn from the slates of the log; a version that later slates surely find better is promoted.

    Nothing is promoted on thin evidence: then a share of the users is shown the proposal, `ramp`
    names the experiment, and later calls tell how it goes. Only slates that were drawn with chance
    (a scenario's temperature above 0) can tell.
    """
    live, store = call.tenant.live, call.tenant.store
    found = await asyncio.to_thread(
        tune_or_ramp,
        store,
        call.tenant.name,
        live.config.tuning,
        now=call.now,
        rng=np.random.default_rng(0),
    )
    if found.promoted is not None:
        follow_current(live, store)
    return TunedOut(**found.to_json())
