"""The verbs that ask a snapshot: recommend and similar."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerec.cli import options, show
from steerec.data.counted import counted

if TYPE_CHECKING:
    from steerec.contracts import Query, Slate
    from steerec.engine.recommender import Recommender

_HISTORY = 5  # newest events shown above a list
_About = Annotated[
    str, typer.Option(metavar="TEXT", help="What the user says: something light, no horror.")
]
_Tell = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN=VALUE", help="What is known of a new user, such as age=30."),
]
_Session = Annotated[str, typer.Option(metavar="A,B", help="Item ids of this visit, oldest first.")]
_Repeats = Annotated[
    bool | None,
    typer.Option("--repeats/--no-repeats", help="Whether known items may come again."),
]
_All = Annotated[bool, typer.Option("--all", help="For every user of the snapshot; needs --out.")]
_Lists = Annotated[
    Path | None, typer.Option("--out", help="With --all: Parquet file, one row for each place.")
]
_Filters = Annotated[
    list[str] | None,
    typer.Option("--filter", metavar="ATTRIBUTE=A|B", help="Only items with one of these values."),
]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command(
        epilog="Examples:\n\n"
        "steerec recommend --snapshot snapshot/ --user u00042 -n 5\n\n"
        'steerec recommend --snapshot snapshot/ --session p00007 --filter "brand=Oskartis|Solimund"'
        "\n\nsteerec recommend --snapshot snapshot/ --all --out lists.parquet\n\n"
        'steerec recommend --snapshot snapshot/ --about "something for the garden, no wool"'
    )(recommend)
    app.command(epilog="Example:\n\nsteerec similar --snapshot snapshot/ --item p00007 -n 5")(
        similar
    )


def recommend(
    snapshot: options.Snapshot,
    user: Annotated[str | None, typer.Option(help="A user's id; unknown ones are new.")] = None,
    session: _Session = "",
    n: options.Count = 10,
    exclude: Annotated[str, typer.Option(metavar="A,B", help="Item ids never to show.")] = "",
    where: _Filters = None,
    about: _About = "",
    tell: _Tell = None,
    config: options.Config = None,
    *,
    repeats: _Repeats = None,
    everybody: _All = False,
    out: _Lists = None,
    json: options.AsJson = False,
) -> None:
    """List items for a user, a session or both, each with its reason; or for all users at once."""
    from steerec.contracts import Query

    one = bool(user is not None or session or about or tell)
    _check_who(one=one, everybody=everybody, out=out)
    recommender = _open(snapshot, config, encoder=bool(about))
    query = Query(
        user_id=user,
        session=options.names(session),
        n=n,
        exclude=frozenset(options.names(exclude)),
        filter=parse_filters(where or []),
        repeats=repeats,
        about=about or None,
        attributes=parse_attributes(tell or []),
    )
    if out is not None:
        _write_lists(recommender, query, out)
        return
    slate = recommender.recommend(query)
    if json:
        typer.echo(show.as_json(asdict(slate)))
        return
    _print_history(recommender, user)
    _print_slate(recommender, slate)


def _check_who(*, one: bool, everybody: bool, out: Path | None) -> None:
    if one == everybody:
        raise typer.BadParameter("name --user, --session, --about or --tell, or else --all")
    if everybody != (out is not None):
        raise typer.BadParameter("--all and --out FILE belong together")
    options.check_places(out)


def _write_lists(recommender: "Recommender", query: "Query", out: Path) -> None:
    from steerec.engine.batch import lists_for_all, write_parquet

    with show.progress() as step:
        table = lists_for_all(recommender, query, progress=step)
        write_parquet(table, out)
    n_users = recommender.model.data.n_users
    show.out().print(f"{counted(n_users, 'user')}, {counted(len(table), 'row')} in {out}")


def similar(
    snapshot: options.Snapshot,
    item: Annotated[str, typer.Option(help="An item's id.")],
    n: options.Count = 10,
    config: options.Config = None,
    *,
    json: options.AsJson = False,
) -> None:
    """List the items most like one item."""
    recommender = _open(snapshot, config)
    found = recommender.similar(item, n)
    if json:
        rows = [{"item_id": item_id, "score": score} for item_id, score in found]
        typer.echo(show.as_json({"item": item, "items": rows}))
        return
    data = recommender.model.data
    made = show.table("", "Item", "Title", "Likeness", right=(0, 3))
    for place, (item_id, score) in enumerate(found, 1):
        title = show.short(show.title_of(data, item_id))
        made.add_row(str(place), show.escape(item_id), title, f"{score:.2f}")
    show.out().print(f"Like {show.short(show.title_of(data, item))}:")
    show.out().print(made)


def parse_filters(parts: list[str]) -> dict[str, frozenset[str]]:
    """Read `brand=X|Y`, each attribute once.

    Raises:
        BadParameter: if a part has another form.
    """
    found: dict[str, frozenset[str]] = {}
    for part in parts:
        name, sign, values = (p.strip() for p in part.partition("="))
        allowed = frozenset(v for value in values.split("|") if (v := value.strip()))
        if not (name and sign and allowed) or name in found:
            raise typer.BadParameter(f"--filter {part!r}: write ATTRIBUTE=A|B, each once")
        found[name] = allowed
    return found


def parse_attributes(parts: list[str]) -> dict[str, str]:
    """Read `age=30`, each column once.

    Raises:
        BadParameter: if a part has another form.
    """
    found: dict[str, str] = {}
    for part in parts:
        name, sign, value = (p.strip() for p in part.partition("="))
        if not (name and sign) or name in found:
            raise typer.BadParameter(f"--tell {part!r}: write COLUMN=VALUE, each once")
        found[name] = value
    return found


def _open(snapshot: Path, config: Path | None, *, encoder: bool = False) -> "Recommender":
    """The snapshot's recommender; with the encoder its items were encoded by, where wanted."""
    from steerec.engine.recommender import Recommender
    from steerec.engine.snapshot import load_snapshot
    from steerec.engine.texts import encoder_of

    settings = options.settings_of(config)
    with show.progress() as step:
        step("load the snapshot", 0, None)
        model = load_snapshot(snapshot)
        reader = encoder_of(model.data, settings.encoder, settings.cache_dir) if encoder else None
        return Recommender(model, pool=settings.pool, encoder=reader)


def _print_history(recommender: "Recommender", user: str | None) -> None:
    if user is None:
        return
    history = recommender.history(user).last(_HISTORY)
    data = recommender.model.data
    titles = [show.short(show.title_of(data, data.item_ids[i])) for i in history.item_idx[::-1]]
    text = "; ".join(titles) if titles else "nothing yet, a new user"
    show.out().print(f"{show.escape(user)} turned to, newest first: {text}")


def _print_slate(recommender: "Recommender", slate: "Slate") -> None:
    console = show.out()
    ids: Any = ", ".join(slate.skipped)
    if ids:
        console.print(f"Not in the catalogue, skipped: {show.escape(ids)}")
    if slate.left_out:
        console.print(f"Heads that failed and were left out: {', '.join(slate.left_out)}")
    if not slate.items:
        console.print("No item is left after filter, exclusions and history.")
        return
    console.print(show.slate_table(slate, recommender.model.data, with_id=True))
