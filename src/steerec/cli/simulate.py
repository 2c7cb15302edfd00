"""The verb that closes the loop: policies against a world that clicks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from steerec.cli import options, show


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Example:\n\nsteerec simulate --world jester --data sets/ --seeds 3 --json f.json"
    )(options.spread(simulate))


def simulate(
    world: Annotated[str, typer.Option("--world", help="jester, films or shop.")],
    data: options.Data,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each policy.")] = 3,
    slates: Annotated[
        int, typer.Option("--slates", min=1, help="Slates that each run shows.")
    ] = 20_000,
    policies: Annotated[
        str, typer.Option("--policies", metavar="A,B", help="Only these policies.")
    ] = "",
    json: Annotated[Path | None, typer.Option(help="Write the result to this file.")] = None,
    config: options.Config = None,
    threads: options.Threads = None,
) -> None:
    """Measure the tuner in a world made from real data; --data is here the folder of all sets."""
    from steerec.engine import simulate as engine
    from steerec.engine.loop import LoopConfig

    settings = options.settings_of(config, threads=threads)
    how = engine.SimulateConfig(
        world=world,
        seeds=seeds,
        policies=options.names(policies) or engine.POLICIES,
        processes=threads or engine.cores(),
        loop=LoopConfig(slates=slates),
    )
    with show.progress() as step:
        found = engine.simulate(how, Path(data), settings.cache_dir, watch=step)
    result = found.to_json()
    if json is not None:
        options.write_text(json, show.as_json(result) + "\n")
    _print_figures(result)
    if json is not None:
        show.out().print(f"Result: {json}", soft_wrap=True)


def _print_figures(result: Mapping[str, Any]) -> None:
    columns = ("Policy", "Clicks", "Over popularity", "Over frozen", "Regret", "Return")
    made = show.table(*columns, right=(1, 2, 3, 4, 5))
    for name, row in result["policies"].items():
        made.add_row(
            name,
            f"{row['clicks_per_1000']['mean']:,.0f}",
            _lift(row["lift_over_popularity"]),
            _lift(row["lift_over_frozen"]),
            "" if row["regret"] is None else f"{row['regret']:,.0f}",
            f"{row['return_rate']:.3f}",
        )
    show.out().print(
        f"{result['world']}: {result['seeds']} seeds of {result['slates']:,} slates; "
        "clicks and regret per 1,000 slates"
    )
    show.out().print(made)


def _lift(lift: Mapping[str, Any] | None) -> str:
    if lift is None:
        return ""
    if lift["ci"] is None:
        return f"{lift['mean']:+.1%}"
    return f"{lift['mean']:+.1%} ± {(lift['ci'][1] - lift['ci'][0]) / 2:.1%}"
