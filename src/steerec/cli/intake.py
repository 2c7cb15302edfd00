"""The verbs that read data: import and doctor."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerec.cli import options, show
from steerec.data.counted import counted

if TYPE_CHECKING:
    from steerec.data.health import Health
    from steerec.data.rules import CleanConfig
    from steerec.engine.intake import Intake, Source

QUARANTINE = "quarantine.jsonl"


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command(
        "import",
        epilog="Examples:\n\n"
        "steerec import --data shop/ --out dataset/\n\n"
        "steerec import --data clicks.csv --items products.csv "
        "--columns user_id=visitor,item_id=sku --out dataset/\n\n"
        'steerec import --data sqlite:///shop.db --query "SELECT * FROM orders" --out dataset/',
    )(options.spread(import_))
    app.command(
        epilog="Examples:\n\nsteerec doctor shop/\n\nsteerec doctor ml-1m --report health.html"
    )(options.spread(doctor))


def import_(
    data: options.Data,
    files: options.Files,
    out: Annotated[Path, typer.Option("--out", help="Folder of the dataset.")] = Path("dataset"),
    config: options.Config = None,
    *,
    json: options.AsJson = False,
) -> None:
    """Read and clean data, and write a dataset that the other verbs take as --data."""
    options.check_places(out)
    settings = options.settings_of(config)
    source = options.source_of(settings, data, files)
    came = take_in_showing(source, settings.clean, now=time.time())
    try:
        came.data.save(out)
    except OSError as e:
        from steerec.errors import DataError

        raise DataError(f"{out} cannot be written ({e}): check folder and permission") from e
    if came.cleaned is not None:
        came.cleaned.write_quarantine(out / QUARANTINE)
    if json:
        typer.echo(show.as_json(import_facts(came, out)))
        return
    print_intake(came)
    show.out().print(f"Written to {out}/, rejected rows to {out / QUARANTINE}", soft_wrap=True)


def doctor(
    files: options.Files,
    where: Annotated[
        str, typer.Argument(metavar="[DATA]", help="The same as --data.", show_default=False)
    ] = "",
    data: options.Data = "",
    config: options.Config = None,
    report: options.Report = None,
    *,
    json: options.AsJson = False,
) -> None:
    """Look at data before anything learns from it: counts, gaps, ties, leaks, texts."""
    if bool(where) == bool(data):
        raise typer.BadParameter("name the data once: steerec doctor DATA")
    options.check_places(report)
    settings = options.settings_of(config)
    source = options.source_of(settings, where or data, files)
    health = _examine(source, settings.encoder.max_tokens)
    if report is not None:
        from steerec.evaluation.health_page import render_health

        options.write_text(report, render_health(health, name=source.data))
    if json:
        typer.echo(show.as_json(health.as_json()))
        return
    _print_health(health)
    if report is not None:
        show.out().print(f"With plots: {report}", soft_wrap=True)


def take_in_showing(source: "Source", rules: "CleanConfig", *, now: float) -> "Intake":
    """Read and clean with a bar for a download."""
    from steerec.engine.intake import take_in

    with show.progress() as step:
        step(f"read {source.data}", 0, None)
        return take_in(
            source,
            rules,
            now=now,
            progress=lambda done, total: step(f"download {source.data}", done, total),
        )


def import_facts(came: "Intake", folder: Path) -> dict[str, object]:
    """What `import --json` prints."""
    from dataclasses import asdict

    data = came.data
    return {
        "folder": str(folder),
        "users": data.n_users,
        "items": data.n_items,
        "events": data.n_events,
        "kinds": list(data.kinds),
        "content_hash": data.content_hash,
        "columns": dict(came.read.mapping),
        "guessed": list(came.read.guessed),
        "rules": [] if came.cleaned is None else [asdict(r) for r in came.cleaned.report.rules],
    }


def print_intake(came: "Intake") -> None:
    """Counts, the mapping, and the cleaning report."""
    console = show.out()
    tables = came.read.tables
    sides = ((tables.events, "event"), (tables.items, "item"), (tables.users, "user"))
    counts = [counted(len(t), noun) for t, noun in sides if t is not None]
    console.print(f"Read {', '.join(counts)} ({came.read.kind}).")
    for line in show.mapping_lines(came.read):
        console.print(line)
    if came.cleaned is not None:
        show.print_cleaning(console, came.cleaned.report)
    data = came.data
    console.print(
        f"Clean: {counted(data.n_events, 'event')} ({', '.join(data.kinds)}) of "
        f"{counted(data.n_users, 'user')} with {counted(data.n_items, 'item')}."
    )


def _examine(source: "Source", max_tokens: int) -> "Health":
    from steerec.data.health import examine
    from steerec.engine.intake import read_source

    with show.progress() as step:
        step(f"read {source.data}", 0, None)
        read = read_source(
            source, progress=lambda done, total: step(f"download {source.data}", done, total)
        )
        step("examine", 0, None)
        tables = read.tables
        return examine(
            tables.events, tables.items, tables.users, max_tokens=max_tokens, now=time.time()
        )


def _share(part: float) -> str:
    """As per cent: two digits, or as many as there are before the point."""
    return f"{100 * part:.0f} %" if part >= 0.1 else f"{100 * part:.2g} %"


def _print_health(health: "Health") -> None:
    console = show.out()
    c = health.counts
    console.print(
        f"{counted(int(c['n_events']), 'event')}, {counted(int(c['n_users']), 'user')}, "
        f"{counted(int(c['n_items']), 'item')} with events ({int(c['n_catalogue']):,} in the "
        f"catalogue), {_share(c['density'])} of all pairs seen, "
        f"{100 * c['repeat_share']:.1f} % repeats."
    )
    marks = {"warning": "[bold red]warning[/]", "notice": "[yellow]notice[/] "}
    for finding in health.findings:
        if finding.severity == "ok":
            continue
        console.print(f"\n{marks[finding.severity]} [bold]{show.escape(finding.title)}[/]")
        if finding.detail:
            console.print(f"  {show.escape(finding.detail)}")
        if finding.remedy:
            console.print(f"  → {show.escape(finding.remedy)}")
    fine = [f.title for f in health.findings if f.severity == "ok"]
    if fine:
        console.print(f"\n[green]in order[/] {show.escape('; '.join(fine))}.")
