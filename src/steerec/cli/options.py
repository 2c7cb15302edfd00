"""Options that several verbs share, alone and in groups, and what becomes of them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from steerec.cli.threads import limited

if TYPE_CHECKING:
    from steerec.config import Settings
    from steerec.engine.intake import Source
    from steerec.store import Store

_READ = "What is read"
_HOW = "How"
_OUT = "Output"

Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DIR|FILE|NAME|URL",
        rich_help_panel=_READ,
        help="A folder, a file, a database URL, or a set by name: ml-1m, ml-100k, online-retail, "
        "amazon-beauty, sample.",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        envvar="STEEREC_DATA_DIR",
        rich_help_panel=_READ,
        help="Folder in which sets are looked for by name; else they are downloaded.",
    ),
]
Columns = Annotated[
    str,
    typer.Option(
        metavar="FIELD=COLUMN,…",
        rich_help_panel=_READ,
        help="Which column is what, such as user_id=customer,item_id=sku; the rest is guessed.",
    ),
]
Items = Annotated[
    str | None,
    typer.Option(rich_help_panel=_READ, help="File of the items; for a database, a query."),
]
Users = Annotated[
    str | None,
    typer.Option(rich_help_panel=_READ, help="File of the users; for a database, a query."),
]
Query = Annotated[
    str | None,
    typer.Option(rich_help_panel=_READ, help="SQL for the events, or a table's name."),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", rich_help_panel=_HOW, help="Settings file; steerec.toml here if there is one."
    ),
]
Encoder = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_HOW,
        help="text, onnx, remote, hashing (needs no model), or none.",
    ),
]
Heads = Annotated[
    str,
    typer.Option(
        rich_help_panel=_HOW,
        metavar="A,B",
        help="Only these heads; quick: those fitted in seconds, trained: those trained by epochs.",
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=_HOW,
        min=1,
        help="Most passes over the events, for heads that train by epochs.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_HOW,
        metavar="auto|cpu|cuda",
        help="Where heads that train by epochs do so; auto: a GPU where there is one.",
    ),
]
DropIdle = Annotated[
    bool,
    typer.Option(
        "--drop-idle",
        rich_help_panel=_HOW,
        help="Leave heads out that do not help on held-out events, so that serving costs less.",
    ),
]
Seed = Annotated[int, typer.Option(rich_help_panel=_HOW, min=0, help="Seed of all chance.")]


def _limit(context: typer.Context, n: int | None) -> int | None:
    if n is not None and not context.resilient_parsing:
        context.with_resource(limited(n))
    return n


Threads = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=_HOW,
        min=1,
        callback=_limit,
        help="Threads that compute; if not given, one for each core this process may use. "
        "1 is best where other programs keep the cores busy.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", rich_help_panel=_OUT, help="Print JSON for machines.")
]
Report = Annotated[
    Path | None,
    typer.Option(rich_help_panel=_OUT, help="Also write an HTML page with plots to this file."),
]
Snapshot = Annotated[Path, typer.Option("--snapshot", help="Folder that `steerec train` wrote.")]
MaybeSnapshot = Annotated[
    Path | None, typer.Option("--snapshot", help="Folder that `steerec train` wrote.")
]
Earlier = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="SNAPSHOT",
        help="Go on from the trained heads of an earlier snapshot.",
    ),
]
Tenant = Annotated[str, typer.Option(help="Whose; every key belongs to one.")]
Count = Annotated[int, typer.Option("-n", min=1, help="Length of the list.")]


@dataclass(frozen=True, kw_only=True)
class Files:
    """Where `--data` and what belongs to it lie, and what their columns mean."""

    data_dir: DataDir = None
    items: Items = None
    users: Users = None
    query: Query = None
    columns: Columns = ""


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What learns, and how it can be repeated."""

    encoder: Encoder = None
    heads: Heads = ""
    seed: Seed = 0
    threads: Threads = None


@dataclass(frozen=True, kw_only=True)
class Training:
    """How heads train that do so by epochs."""

    epochs: Epochs = None
    device: Device = None


def spread(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with an option for each field where it takes a dataclass, a group of options."""
    hints = get_type_hints(verb, include_extras=True)
    plain = signature(verb).parameters
    groups = {name: hints[name] for name in plain if is_dataclass(hints[name])}
    shown: list[Parameter] = []
    for name, one in plain.items():
        given = _options(groups[name]) if name in groups else [(name, hints[name], one.default)]
        shown += [
            Parameter(n, Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for n, kind, default in given
        ]

    @wraps(verb)
    def gathered(**given: Any) -> None:
        made = {
            name: kind(**{f.name: given.pop(f.name) for f in fields(kind)})
            for name, kind in groups.items()
        }
        verb(**given, **made)

    gathered.__dict__["__signature__"] = Signature(shown)
    gathered.__annotations__ = {one.name: one.annotation for one in shown}
    return gathered


def _options(group: type) -> list[tuple[str, Any, Any]]:
    """Name, type and default of each field."""
    hints = get_type_hints(group, include_extras=True)
    return [
        (f.name, hints[f.name], Parameter.empty if f.default is MISSING else f.default)
        for f in fields(group)
    ]


def settings_of(
    config: Path | None, *, encoder: str | None = None, threads: int | None = None
) -> "Settings":
    """Settings from file and environment, with what the command line says."""
    from steerec.config import load_settings

    settings = load_settings(config)
    if encoder is not None:
        settings = replace(settings, encoder=replace(settings.encoder, encoder=encoder))
    if threads is not None:  # these two count threads of their own
        texts = replace(settings.encoder, threads=settings.encoder.threads or threads)
        als = {"threads": threads, **settings.heads.get("als", {})}
        settings = replace(settings, encoder=texts, heads={**settings.heads, "als": als})
    return settings


@contextmanager
def opened_store(config: Path | None, *, make: bool = False) -> "Iterator[Store]":
    """The store that the settings name, open for the block.

    Args:
        make: whether to make it where there is none.
    Raises:
        StorageError: if there is none.
    """
    from steerec.service.server import DEFAULT_STORE
    from steerec.store import open_store

    url = settings_of(config).deployment.database_url or DEFAULT_STORE
    store = open_store(url, make=make)
    try:
        yield store
    finally:
        store.close()


def source_of(settings: "Settings", data: str, files: Files) -> "Source":
    """What to read: the command line's words over those of the settings."""
    from steerec.data.mapping import parse_mapping
    from steerec.engine.intake import Source

    return Source(
        data=data,
        data_dir=files.data_dir or settings.deployment.data_dir,
        cache_dir=settings.cache_dir,
        columns={**settings.data.columns, **parse_mapping(files.columns)},
        weights=settings.data.weights,
        items=files.items,
        users=files.users,
        query=files.query,
    )


def names(text: str) -> tuple[str, ...]:
    """The parts of `a,b`."""
    return tuple(part for p in text.split(",") if (part := p.strip()))


def check_places(*paths: Path | None) -> None:
    """Make sure, before anything long begins, that a file or folder can be written there.

    Raises:
        DataError: naming the path, and the folder or file that is in the way.
    """
    from steerec.errors import DataError

    for path in filter(None, paths):
        place = path.absolute()
        there = next(p for p in (place, *place.parents) if os.path.lexists(p))
        if not os.access(there, os.W_OK) or not (there == place or there.is_dir()):
            why = "may not be written to" if there.is_dir() else "is a file"
            raise DataError(
                f"{path} cannot be written, since {there} {why}: check folder and permission"
            )


def write_text(path: Path, text: str) -> None:
    """Write a file, its folder made if missing.

    Raises:
        DataError: if it cannot be written.
    """
    from steerec.errors import DataError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as e:
        raise DataError(f"{path} cannot be written ({e}): check folder and permission") from e
