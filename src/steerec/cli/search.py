"""The verb that searches for the settings of a head."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerec.cli import options, show
from steerec.cli.intake import print_intake, take_in_showing
from steerec.cli.learn import encode_showing

if TYPE_CHECKING:
    from steerec.engine.search import Trial

BEST_SHOWN = 5


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Examples:\n\n"
        "steerec search --data dataset/ --head ease --minutes 5 --out best.toml\n\n"
        "steerec train --data dataset/ --config best.toml --out snapshot/"
    )(options.spread(search))


def search(
    data: options.Data,
    files: options.Files,
    head: Annotated[str, typer.Option("--head", help="Name of the head to search for.")],
    minutes: Annotated[float, typer.Option("--minutes", help="Time for the whole search.")],
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Most settings that are tried.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the best settings to this TOML file.")
    ] = None,
    config: options.Config = None,
    encoder: options.Encoder = None,
    seed: options.Seed = 0,
    *,
    json: options.AsJson = False,
) -> None:
    """Search for the settings with which a head alone foretells held-out events best."""
    from steerec.engine import search as engine
    from steerec.engine.texts import with_vectors

    how = engine.SearchConfig(minutes=minutes, trials=trials, seed=seed)
    settings = options.settings_of(config, encoder=encoder)
    fit_config = settings.fit_config((head,))
    source = options.source_of(settings, data, files)
    came = take_in_showing(source, settings.clean, now=time.time())
    if not json:
        print_intake(came)
    known = with_vectors(came.data, encode_showing(came.data.items, settings))
    with show.progress() as step:
        found = engine.search(head, known, fit_config, how, watch=step)
    if out is not None:
        options.write_text(out, engine.to_toml(head, found[0].settings))
    if json:
        typer.echo(show.as_json(_told(head, found)))
        return
    _print_best(head, found)
    if out is not None:
        show.out().print(f"Best settings: {out}  (next: steerec train --config {out} …)")


def _told(head: str, found: "list[Trial]") -> dict[str, Any]:
    trials = [
        {"settings": one.settings, "ndcg@10": one.ndcg, "seconds": one.seconds} for one in found
    ]
    return {"head": head, "best": found[0].settings, "trials": trials}


def _print_best(head: str, found: "list[Trial]") -> None:
    made = show.table("NDCG@10", "Seconds", "Settings", right=(0, 1))
    for one in found[:BEST_SHOWN]:
        words = ", ".join(f"{key}={value}" for key, value in one.settings.items())
        made.add_row(f"{one.ndcg:.4f}", f"{one.seconds:.1f}", show.escape(words or "as they are"))
    show.out().print(f"{head}: {len(found)} trials, the best {min(BEST_SHOWN, len(found))}:")
    show.out().print(made)
