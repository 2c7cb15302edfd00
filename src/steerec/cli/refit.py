"""The verb refit: the served model fitted again, as the service does it by itself."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerec.cli import options, show

if TYPE_CHECKING:
    from steerec.config import Settings
    from steerec.engine.refit import RefitConfig, Refitted
    from steerec.engine.shelf import Shelf
    from steerec.store import Store

PRIORITY = 10  # added to the niceness: whoever answers requests goes first


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Examples:\n\n"
        "steerec refit\n\n"
        "steerec refit --tenant shop --from snapshot/ --threads 2"
    )(refit)


def refit(
    *,
    tenant: options.Tenant = "default",
    from_: options.Earlier = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of all tenants' snapshots; else as [service] snapshots says."),
    ] = None,
    heads: options.Heads = "",
    seed: options.Seed = 0,
    threads: options.Threads = None,
    config: options.Config = None,
) -> None:
    """Fit a served model again with the events since, and keep it for services to swap in.

    Services that run take the new model up within a second, without dropping a request. Without
    --from it goes on from the newest that refits made.
    """
    from steerec.engine.shelf import Shelf

    os.nice(PRIORITY)
    settings = options.settings_of(config, threads=threads)
    told = _config(settings, options.names(heads))
    shelf = Shelf(out or settings.service.snapshots, settings.service.snapshots_kept)
    with options.opened_store(config) as store:
        made, folder = _fit(store, shelf, tenant, from_, told, seed=seed)
    show.out().print(
        f"{made.model.data.n_events:,} events, {made.n_new:,} of them new: strategy "
        f"{made.version.version}, snapshot {folder}/"
    )


def _fit(
    store: "Store",
    shelf: "Shelf",
    tenant: str,
    base: Path | None,
    config: "RefitConfig",
    *,
    seed: int,
) -> "tuple[Refitted, Path]":
    """Fit and keep, unless another process does."""
    import numpy as np

    from steerec.engine.refit import refit as fit_again
    from steerec.engine.snapshot import load_snapshot
    from steerec.errors import SnapshotError

    with shelf.alone(tenant) as alone, show.progress() as step:
        if not alone:
            raise SnapshotError(f"{tenant} is being fitted by another process: wait for it")
        found = shelf.load(tenant) if base is None else (base, load_snapshot(base))
        rng = np.random.default_rng(seed)
        model = None if found is None else found[1]
        made = fit_again(store, tenant, model, config, rng, now=time.time(), progress=step)
        return made, shelf.put(tenant, made.model, now=time.time())


def _config(settings: "Settings", heads: tuple[str, ...]) -> "RefitConfig":
    from steerec.engine.refit import RefitConfig

    return RefitConfig(
        fit=settings.fit_config(heads),
        encoder=settings.encoder,
        cache_dir=settings.cache_dir,
        weights=settings.data.weights,
        template=settings.data.template,
    )
