"""The verbs of experiments: start one, list them, see what one has shown, stop it."""

import time
from dataclasses import asdict
from datetime import UTC, datetime
from math import isnan
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from steerec.cli import options, show
from steerec.cli.strategy import Why

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steerec.engine.trials import Arm
    from steerec.engine.verdicts import Verdict
    from steerec.store import Store
    from steerec.store.experiments import Planned
    from steerec.tuning.experiments import Comparison
    from steerec.tuning.sequences import Interval

experiment = typer.Typer(
    no_args_is_help=True,
    help="Experiments on live traffic: start, list, show, stop.",
    epilog="Example:\n\nsteerec experiment show spring",
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The experiment's name.")]
Arms = Annotated[
    list[str],
    typer.Option(
        "--arm",
        metavar="NAME:SHARE[:WHAT,...]",
        help="What an arm shows: version=3, temperature=0.5, diversity=0.2, HEAD.FEATURE=2, "
        "shadow; nothing: what is in force. The first arm is what others are compared with.",
    ),
]
DAY_S = 86_400.0
DIALS = ("temperature", "diversity")
LEAST_FORETOLD = 0.005  # less is not told


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.add_typer(experiment, name="experiment")


@experiment.command("start")
def start_one(
    name: Name,
    *,
    arm: Arms,
    metric: Annotated[
        str, typer.Option(help="What decides: reward, or a kind of event.")
    ] = "reward",
    kind: Annotated[
        Literal["split", "interleave"], typer.Option(help="Split users, or mix two arms' lists.")
    ] = "split",
    scenario: Annotated[str | None, typer.Option(help="The only placement it is about.")] = None,
    traffic: Annotated[float, typer.Option(help="Share of the users who take part.")] = 1.0,
    days: Annotated[float | None, typer.Option(help="When it ends; not set: when stopped.")] = None,
    least_users: Annotated[int, typer.Option(help="In each arm, before a conclusion.")] = 100,
    tenant: options.Tenant = "default",
    config: options.Config = None,
    json: options.AsJson = False,
) -> None:
    """Start an experiment; services that run assign users to it within a second."""
    from steerec.engine.experiments import ahead_of, start
    from steerec.engine.trials import Plan

    now = time.time()
    plan = Plan(
        name=name,
        arms=tuple(map(_arm, arm)),
        metric=metric,
        kind=kind,
        scenario=scenario,
        traffic=traffic,
        ends=None if days is None else now + days * DAY_S,
        least_users=least_users,
    )
    reward = options.settings_of(config).tuning.reward
    with options.opened_store(config) as store:
        older = ahead_of(store, tenant, plan, now=now) if plan.shown else []
        planned = start(store, tenant, plan, reward, author="owner", now=now)
    if json:
        typer.echo(show.as_json(asdict(planned)))
    else:
        _print_begun(name, older)


@experiment.command("list")
def list_all(
    *,
    tenant: options.Tenant = "default",
    config: options.Config = None,
    json: options.AsJson = False,
) -> None:
    """All experiments, the oldest first."""
    with options.opened_store(config) as store:
        found = store.experiments.list(tenant)
    if json:
        typer.echo(show.as_json({"experiments": [asdict(one) for one in found]}))
        return
    if not found:
        show.out().print("No experiment yet: see `steerec experiment start --help`.")
    for one in found:
        until = "under way" if one.stopped is None else f"stopped {_when(one.stopped)}"
        arms = ", ".join(arm["name"] for arm in one.plan["arms"])
        why = f"  {one.reason}" if one.reason else ""
        _say(f"{one.name}  {_when(one.started)}  {until}  arms: {arms}{why}")


@experiment.command("show")
def show_one(
    name: Name,
    *,
    tenant: options.Tenant = "default",
    config: options.Config = None,
    json: options.AsJson = False,
) -> None:
    """What an experiment has shown so far; its intervals hold however often you look."""
    from steerec.engine.verdicts import Case, verdict

    reward = options.settings_of(config).tuning.reward
    with options.opened_store(config) as store:
        planned = _get(store, tenant, name)
        found = verdict(Case(store, tenant, planned, reward, time.time()))
    if json:
        typer.echo(show.as_json({**asdict(planned), "results": asdict(found)}))
        return
    _print(planned, found)


@experiment.command("stop")
def stop(
    name: Name,
    *,
    tenant: options.Tenant = "default",
    reason: Why = "",
    config: options.Config = None,
) -> None:
    """Stop an experiment: its users get what is in force; its results stay."""
    with options.opened_store(config) as store:
        _get(store, tenant, name)
        store.experiments.stop(tenant, name, now=time.time(), reason=reason)
    show.out().print(f"Experiment {name} is stopped.")


def _print_begun(name: str, older: list[str]) -> None:
    said = f"Experiment {name} has begun: see `steerec experiment show {name}`."
    if older:
        said += f" It gets the users that older ones leave: {', '.join(older)}."
    show.out().print(show.escape(said))


def _print(planned: "Planned", found: "Verdict") -> None:
    out = show.out()
    metric = planned.plan["metric"]
    _say(f"{planned.name}: {metric} a slate, {found.state}")
    table = show.table("Arm", "Users", "Slates", "Mean", "95 % interval", right=(1, 2, 3, 4))
    for arm in found.arms:
        users, slates = f"{arm.users:,}", f"{arm.slates:,}"
        cells = _cells(arm.mean) if arm.users else ("", "nobody yet")
        table.add_row(show.escape(arm.arm), users, slates, *cells)
    if found.arms:
        out.print(table)
    for line in (*about_users(found), *map(_compared, found.comparisons), *_of_shadows(found)):
        _say(line)
    _say(found.conclusion)


def about_users(found: "Verdict") -> "Iterator[str]":
    """Whether they fell into the arms as planned, what their past took away, whom they prefer."""
    if found.split is not None and found.split.sound and any(found.split.counts.values()):
        yield f"split as planned (p = {found.split.p:.2g})"
    if found.foretold >= LEAST_FORETOLD:
        yield (
            f"users' past foretold {found.foretold:.0%} of the variance between them, which is "
            "taken out of all figures (CUPED)"
        )
    if (told := found.preference) is not None and len(found.arms) == 2:
        first, second = (arm.arm for arm in found.arms)
        apart = " ".join(filter(None, _cells(told.difference)))
        yield (
            f"{told.a:,} users prefer {first}, {told.b:,} {second}, {told.ties:,} neither; "
            f"{second} less {first} in shares of a user's clicks: {apart}"
        )


def _compared(told: "Comparison") -> str:
    apart = " ".join(filter(None, _cells(told.difference)))
    return f"{told.slice}: {told.arm} {apart}, {told.n[0]:,} and {told.n[1]:,} users"


def _of_shadows(found: "Verdict") -> "Iterator[str]":
    for one in found.shadows:
        line = f"shadow {one.arm}: {one.slates:,} lists, overlap {one.overlap:.2f}"
        if one.estimate is not None:
            low, high = one.estimate.interval
            gain = f"{one.estimate.estimate:+.4f} [{low:+.4f}, {high:+.4f}]"
            line += f", would earn {gain} a slate more than what was shown"
        yield line


def _say(line: str) -> None:
    """A line as it is, however narrow the terminal: names are no markup."""
    show.out().print(line, soft_wrap=True, markup=False)


def _cells(told: "Interval") -> tuple[str, str]:
    """Mean and bounds; what too few users tell is said so, and no nan is shown."""
    bounds = f"[{told.low:.4f}, {told.high:.4f}]" if told.high < float("inf") else "not told yet"
    return ("" if isnan(told.mean) else f"{told.mean:.4f}"), bounds


def _arm(text: str) -> "Arm":
    """An arm as the command line tells it."""
    from steerec.engine.trials import Arm

    name, _, rest = text.partition(":")
    share, _, what = rest.partition(":")
    told: dict[str, Any] = {"dials": {}, "weights": {}}
    try:
        for part in filter(None, what.split(",")):
            key, _, value = part.partition("=")
            if key == "shadow" and not value:
                told["shadow"] = True
            elif key == "version":
                told["version"] = int(value)
            else:
                told["dials" if key in DIALS else "weights"][key] = float(value)
        return Arm(name, float(share), **told)
    except ValueError as e:
        raise typer.BadParameter(
            f"--arm {text!r} ({e}): expected NAME:SHARE[:WHAT,...], such as bold:0.5:version=3"
        ) from e


def _get(store: "Store", tenant: str, name: str) -> "Planned":
    found = store.experiments.get(tenant, name)
    if found is None:
        raise typer.BadParameter(f"no experiment {name!r}: see `steerec experiment list`")
    return found


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
