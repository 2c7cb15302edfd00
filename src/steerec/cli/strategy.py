"""The verbs of the strategy: see it, compare versions, put one in force, tune it on the log."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerec.cli import options, show

if TYPE_CHECKING:
    from steerec.engine.standing import Standing
    from steerec.store import Store
    from steerec.store.strategies import StrategyVersion

strategy = typer.Typer(
    no_args_is_help=True,
    help="The strategy: show, list, diff, promote, rollback.",
    epilog="Example:\n\nsteerec strategy show",
)
Why = Annotated[str, typer.Option("--reason", help="Why, for the history.")]
MOVES_TOLD = 4  # of a version's moved weights, the largest
WHEN = {  # contexts in which weights are told, as features that are 1
    "new visitors": ("bias", "length~0"),
    "after 5 events": ("bias", "length~5"),
    "after 50 events": ("bias", "length~50"),
}


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
    from steerec.engine.online import kept_theta
    from steerec.engine.standing import standings
    from steerec.engine.strategies import from_json

    settings = options.settings_of(config)
    with options.opened_store(config) as store:
        current = store.strategies.current(tenant)
        if current is None:
            raise typer.BadParameter(f"tenant {tenant!r} has no strategy yet: serve a model first")
        from_json(current.strategy, current.version)  # one edited by hand is refused here
        promotions = store.strategies.promotions(tenant, limit=3)
        live = kept_theta(store, tenant, current)
        reward, now = settings.tuning.reward, time.time()
        standing = standings(store, tenant, [current], reward, now=now)[0]
    if json:
        told = {
            **asdict(current),
            "promotions": [asdict(move) for move in promotions],
            "online": standing.to_json(),
            "live_theta": None if live is None else live.tolist(),
        }
        typer.echo(show.as_json(told))
        return
    out = show.out()
    out.print(f"Version {current.version}, by {current.author}, {_when(current.made)}.")
    for who, features in WHEN.items():
        out.print(f"  {who}: {in_words(current.strategy, features)}")
    for name, value in current.strategy["dials"].items():
        out.print(f"  dial {name}: {value:g}")
    for move in promotions:
        out.print(f"{_when(move.time)} version {move.version} by {move.author}: {move.reason}")
    for line in [*_moved(current, live), *_gained(standing)]:
        out.print(line)


def _moved(current: "StrategyVersion", live: Any) -> list[str]:
    """What moved the strategy lately: at the promotion, and by the online tuner since."""
    weights = current.diff.get("weights", {})
    largest = sorted(
        weights, key=lambda name: -abs((weights[name][1] or 0) - (weights[name][0] or 0))
    )
    said = []
    if largest:
        parts = [
            f"{name} {_number(weights[name][0])} → {_number(weights[name][1])}"
            for name in largest[:MOVES_TOLD]
        ]
        more = len(largest) - len(parts)
        said.append(f"Moved from the version before: {', '.join(parts)}" + _and(more))
    if live is not None:
        told = {**current.strategy, "theta": live.tolist()}
        said.append("The online tuner has it at:")
        said += [f"  {who}: {in_words(told, features)}" for who, features in WHEN.items()]
    return said


def _and(more: int) -> str:
    return f", and {more} more (steerec strategy diff)." if more > 0 else "."


def _gained(standing: "Standing") -> list[str]:
    """What it gained: foretold, and true."""
    from steerec.engine.standing import told

    said = [
        f"Earned a slate in {arm}: {one.mean.mean:.4f} over {one.slates:,} slates of "
        f"{one.users:,} users."
        for arm, one in standing.arms.items()
    ]
    if standing.tuned is not None:
        said.append(f"Gained by the online tuner over it as promoted: {told(standing.tuned)}.")
    if standing.estimated is not None:
        said.append(f"Estimated gain over the version before: {told(standing.estimated)} a slate.")
    if standing.over_parent is not None:
        said.append(
            f"True gain over the version before, one after the other: {told(standing.over_parent)}."
        )
    return said


@strategy.command("list")
def list_versions(
    *,
    tenant: options.Tenant = "default",
    config: options.Config = None,
    json: options.AsJson = False,
) -> None:
    """All versions, the newest first, with what each was estimated to gain, and truly gained."""
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
        show.out().print(
            "No version yet: the first comes with the model that `steerec serve` shows."
        )
    for version, one in zip(versions, earned, strict=True):
        mark = "in force" if version.version == in_force else ""
        parents = ", ".join(map(str, version.parents)) or "none"
        gains = {"estimated": one.estimated, "true": one.over_parent, "tuned": one.tuned}
        said = "  ".join(f"{name} {as_told(g)}" for name, g in gains.items() if g is not None)
        show.out().print(
            f"{version.version:4d}  {_when(version.made)}  {version.author}  "
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
    from steerec.engine.strategies import compared

    with options.opened_store(config) as store:
        moved = compared(_get(store, tenant, one), _get(store, tenant, other))
    if json:
        typer.echo(show.as_json(moved))
        return
    if not moved:
        show.out().print("No difference.")
    for kind, changes in moved.items():
        for name, (before, after) in changes.items():
            show.out().print(f"{kind} {name}: {_number(before)} → {_number(after)}")


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
    show.out().print(f"Version {version} is in force.{note}")


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
    show.out().print(f"Version {before} is in force again, instead of {current.version}.{note}")


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
    out = show.out()
    if found.tuned is not None:
        out.print(f"{found.tuned.slates:,} slates read, {found.tuned.left_out:,} left out.")
    out.print(found.why)
    if found.promoted is not None:
        out.print(f"Version {found.promoted} is in force; services follow within seconds.")
    if found.ramp is not None:
        out.print(f'See how it goes: steerec experiment show "{found.ramp}"')


def in_words(told: Mapping[str, Any], features: tuple[str, ...]) -> str:
    """The heads that weigh most where these features are 1, largest first."""
    columns = [at for at, name in enumerate(told["features"]) if name in features]
    weights = {
        head: sum(row[at] for at in columns)
        for head, row in zip(told["heads"], told["theta"], strict=True)
    }
    largest = sorted(weights.items(), key=lambda pair: -abs(pair[1]))[:5]
    return ", ".join(f"{head} {weight:.2f}" for head, weight in largest)


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


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
