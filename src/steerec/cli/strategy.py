"""The verbs of the strategy: see it, compare versions, put one in force, tune it on the log."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerec.cli import options, show

if TYPE_CHECKING:
    from steerec.store import Store
    from steerec.store.strategies import StrategyVersion

strategy = typer.Typer(
    no_args_is_help=True,
    help="The strategy: show, list, diff, promote, rollback.",
    epilog="Example:\n\nsteerec strategy show",
)
Why = Annotated[str, typer.Option("--reason", help="Why, for the history.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.add_typer(strategy, name="strategy")
    app.command(epilog="Example:\n\nsteerec tune")(tune)


@strategy.command("show")
def show_strategy(
    *,
    tenant: options.Tenant = "default",
    config: options.Config = None,
    json: options.AsJson = False,
) -> None:
    """The strategy in force in words: who leads for whom, what moved it lately, what it gained."""
    from steerec.engine.account import account

    reward = options.settings_of(config).tuning.reward
    with options.opened_store(config) as store:
        found = account(store, tenant, now=time.time(), reward=reward)
    if found is None:
        raise typer.BadParameter(f"tenant {tenant!r} has no strategy yet: serve a model first")
    if json:
        stood, standing = found.stood, found.standing
        told = {
            **asdict(found.version),
            "promotions": [asdict(move) for move in found.promotions],
            "online": None if standing is None else standing.to_json(),
            "live_theta": None if stood.theta is None else stood.theta.tolist(),
            "frozen": None if stood.frozen is None else asdict(stood.frozen),
        }
        typer.echo(show.as_json(told))
        return
    for line in found.words:
        _say(line)


@strategy.command("list")
def list_versions(
    *,
    tenant: options.Tenant = "default",
    config: options.Config = None,
    json: options.AsJson = False,
) -> None:
    """All versions, the newest first, with what each was estimated to gain, and truly gained."""
    from steerec.engine.account import when
    from steerec.engine.standing import standings
    from steerec.engine.standing import told as as_told

    reward = options.settings_of(config).tuning.reward
    with options.opened_store(config) as store:
        current = store.strategies.current(tenant)
        versions = list(store.strategies.history(tenant))
        earned = standings(store, tenant, versions, reward, now=time.time())
    in_force = current.version if current else None
    if json:
        told = [
            {**asdict(version), "online": one.to_json()}
            for version, one in zip(versions, earned, strict=True)
        ]
        typer.echo(show.as_json({"in_force": in_force, "versions": told}))
        return
    if not versions:
        _say("No version yet: the first comes with the model that `steerec serve` shows.")
    for version, one in zip(versions, earned, strict=True):
        mark = "in force" if version.version == in_force else ""
        parents = ", ".join(map(str, version.parents)) or "none"
        gains = {"estimated": one.estimated, "true": one.over_parent, "tuned": one.tuned}
        said = "  ".join(f"{name} {as_told(g)}" for name, g in gains.items() if g is not None)
        _say(
            f"{version.version:4d}  {when(version.made)}  {version.author}  "
            f"parents: {parents}  {mark}  {said}".rstrip()
        )


@strategy.command("diff")
def diff(
    one: int,
    other: int,
    *,
    tenant: options.Tenant = "default",
    config: options.Config = None,
    json: options.AsJson = False,
) -> None:
    """What differs between two versions: weights and dials, before and after."""
    from steerec.engine.account import number
    from steerec.engine.strategies import compared

    with options.opened_store(config) as store:
        moved = compared(_get(store, tenant, one), _get(store, tenant, other))
    if json:
        typer.echo(show.as_json(moved))
        return
    if not moved:
        _say("No difference.")
    for kind, changes in moved.items():
        for name, (before, after) in changes.items():
            _say(f"{kind} {name}: {number(before)} → {number(after)}")


@strategy.command("promote")
def promote(
    version: int,
    *,
    tenant: options.Tenant = "default",
    reason: Why = "",
    config: options.Config = None,
) -> None:
    """Put a version in force; services follow within seconds."""
    with options.opened_store(config) as store:
        note = _waits(store, tenant, version)
        store.strategies.promote(
            tenant, version, author="owner", now=time.time(), reason=reason or "promoted by hand"
        )
    _say(f"Version {version} is in force.{note}")


@strategy.command("rollback")
def rollback(
    *, tenant: options.Tenant = "default", reason: Why = "", config: options.Config = None
) -> None:
    """Go back to the version that was in force before."""
    from steerec.engine.strategies import before_current

    with options.opened_store(config) as store:
        current, before = store.strategies.current(tenant), before_current(store, tenant)
        if current is None or before is None:
            raise typer.BadParameter(
                "no other version was ever in force: see `steerec strategy list`"
            )
        note = _waits(store, tenant, before)
        store.strategies.promote(
            tenant, before, author="owner", now=time.time(), reason=reason or "rollback"
        )
    _say(f"Version {before} is in force again, instead of {current.version}.{note}")


def tune(
    *,
    tenant: options.Tenant = "default",
    seed: options.Seed = 0,
    config: options.Config = None,
    json: options.AsJson = False,
) -> None:
    """Learn from the slates of the log; promote only what later slates surely find better."""
    import numpy as np

    from steerec.engine.ramps import tune_or_ramp

    settings = options.settings_of(config)
    with options.opened_store(config) as store:
        found = tune_or_ramp(
            store, tenant, settings.tuning, now=time.time(), rng=np.random.default_rng(seed)
        )
    if json:
        typer.echo(show.as_json(found.to_json()))
        return
    if found.tuned is not None:
        _say(f"{found.tuned.slates:,} slates read, {found.tuned.left_out:,} left out.")
    _say(found.why)
    if found.promoted is not None:
        _say(f"Version {found.promoted} is in force; services follow within seconds.")
    if found.ramp is not None:
        _say(f'See how it goes: steerec experiment show "{found.ramp}"')


def _get(store: "Store", tenant: str, version: int) -> "StrategyVersion":
    found = store.strategies.get(tenant, version)
    if found is None:
        raise typer.BadParameter(f"no version {version}: see `steerec strategy list`")
    return found


def _waits(store: "Store", tenant: str, version: int) -> str:
    """That services cannot follow it yet, where it weighs other heads than they serve by.

    Raises:
        DataError: if it cannot be read, as one edited by hand may be.
    """
    from steerec.engine.strategies import from_json

    wanted, current = _get(store, tenant, version), store.strategies.current(tenant)
    from_json(wanted.strategy, version)
    if current is None or _axes(wanted.strategy) == _axes(current.strategy):
        return ""
    return (
        f" It weighs other heads or features than version {current.version}: services go on with "
        "that one until they have the snapshot it was made for."
    )


def _axes(told: Any) -> Any:
    """Heads and features; the strategy in force may be a broken one, and be no object at all."""
    return (told.get("heads"), told.get("features")) if isinstance(told, Mapping) else None


def _say(line: str) -> None:
    """A line as it is, however narrow the terminal: names and reasons are no markup."""
    show.out().print(line, soft_wrap=True, markup=False)
