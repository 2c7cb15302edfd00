"""The verbs of the whole store in one file: dump and restore."""

import time
from pathlib import Path
from typing import Annotated

import typer

from steerec.cli import options, show
from steerec.data.counted import counted

File = Annotated[Path, typer.Argument(metavar="FILE", help="The archive, a zip.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command(epilog="Example:\n\nsteerec dump shop.zip")(dump)
    app.command(
        epilog="Examples:\n\nsteerec restore shop.zip\n\nsteerec restore shop.zip --replace"
    )(restore)


def dump(file: File, *, config: options.Config = None) -> None:
    """Write events, catalogue, slates, strategies and keys, as they are at one moment, to a file.

    Services go on writing meanwhile. The file holds personal data.
    """
    with options.opened_store(config) as store, show.progress() as step:
        step("write the archive", 0, None)
        rows = store.dump(file, now=time.time())
    show.out().print(f"{counted(sum(rows.values()), 'row')} in {file}")


def restore(
    file: File,
    *,
    replace: Annotated[
        bool, typer.Option("--replace", help="Delete first what the store holds.")
    ] = False,
    config: options.Config = None,
) -> None:
    """Check an archive by its checksums and load it, all or nothing; who was erased stays so.

    Stop services over the store first: they would go on from what they knew.
    """
    with options.opened_store(config, make=True) as store, show.progress() as step:
        step("check and load the archive", 0, None)
        rows = store.restore(file, replace=replace)
    show.out().print(f"{counted(sum(rows.values()), 'row')} of {file} loaded")
