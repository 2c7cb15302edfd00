"""The verb demo: the main job on the built-in shop or on data of your own, told step by step."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerec.cli import options, show
from steerec.cli.intake import QUARANTINE, print_intake, take_in_showing
from steerec.cli.learn import (
    encode_showing,
    fit_showing,
    measure,
    print_left_out,
    print_result,
    write_result,
)
from steerec.data.counted import counted

if TYPE_CHECKING:
    from steerec.config import Settings
    from steerec.contracts import Choice, Slate
    from steerec.data.dataset import Dataset
    from steerec.data.tables import Tables
    from steerec.engine.intake import Intake, Source
    from steerec.engine.model import FitConfig, Model
    from steerec.engine.recommender import Recommender
    from steerec.evaluation.protocols import Task

_SHOWN = 5  # items of a list
_NEW = 3  # a list with fewer items that are new to the shopper is followed by so many of them
_ITEMS = 4  # items of a history
_SHOPPERS = (5, 15, 40)  # lengths of the histories looked for
_SMALL = 5_000  # items up to which a second thread of linear algebra gains little
_PAUSE_S = 60.0  # between a shopper's newest event and the list
_AHEAD = 30  # places of the list from which the one more click is taken
# What a demo can do with less of: the figures move by less than their intervals.
_CASES = 1_500  # held-out cases behind the blend
_REQUESTS = 5_000  # held-out requests that are measured
_LIGHTER = "measured on the cleaned events, with lighter settings than `steerec evaluate` uses"
_ROWS = 100_000  # (step, own item) pairs behind the head `repeat`


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Examples:\n\n"
        "steerec demo\n\n"
        "steerec demo --data ml-1m --data-dir ~/data\n\n"
        "steerec demo --data my_shop/ --out my-demo/"
    )(options.spread(demo))


def demo(
    context: typer.Context,
    files: options.Files,
    learning: options.Learning,
    data: options.Data = "sample",
    config: options.Config = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path(
        "steerec-demo"
    ),
) -> None:
    """Import, clean, encode, learn, compare with popularity, recommend: the whole way at once."""
    began = time.perf_counter()
    options.check_places(out)
    settings = options.settings_of(config, encoder=learning.encoder, threads=learning.threads)
    fit_config = lighter(settings.fit_config(options.names(learning.heads or "quick")))
    what = "the built-in sample shop" if data == "sample" else data
    _step(1, f"Read and clean {what}")
    came = _take_in(options.source_of(settings, data, files), settings)
    out.mkdir(parents=True, exist_ok=True)
    print_intake(came)
    _put_aside(came, out / QUARANTINE)
    with one_thread_if_small(came.data.n_items):
        _step(2, "Compare with popularity on events held out")
        result = _compare(came, settings, fit_config, seed=learning.seed, data=data)
        made = (out / "evaluation.json", out / "report.html")
        write_result(result, *made, command=show.command_line(context))
        _step(3, "Learn from all events")
        recommender = _learn(came.data, settings, fit_config, seed=learning.seed)
    _step(4, "Three shoppers and their lists, a minute after their newest event")
    shoppers = pick_shoppers(recommender.model.data)
    for user_idx in shoppers:
        _show_shopper(recommender, user_idx)
    _step(5, "One more click, by the shopper with the fewest events")
    _click(recommender, shoppers[0])
    took = time.perf_counter() - began
    show.out().print(f"\nDone in {took:.0f} s. Report with plots: {out / 'report.html'}")
    show.out().print("Next, your own data: steerec import --data FOLDER --out dataset/")


@contextmanager
def one_thread_if_small(n_items: int) -> Iterator[None]:
    """Keep linear algebra on one thread for a small catalogue.

    Its threads wait for each other by spinning: where cores are shared, four times the time of one.
    """
    from threadpoolctl import threadpool_limits

    if n_items > _SMALL:
        yield
        return
    with threadpool_limits(1, user_api="blas"):
        yield


def lighter(config: "FitConfig") -> "FitConfig":
    """The same fit from fewer held-out cases, so that a demo stays under two minutes."""
    blend = replace(config.blend, max_cases=min(config.blend.max_cases, _CASES))
    settings = dict(config.settings)
    if "repeat" in config.heads:
        settings["repeat"] = {"max_rows": _ROWS, **settings.get("repeat", {})}
    return replace(config, blend=blend, settings=settings)


def pick_shoppers(data: "Dataset") -> list[int]:
    """Up to three users: one with few events, one with some, one with many."""
    import numpy as np

    n_events = np.diff(data.starts)
    picked: list[int] = []
    for wanted in _SHOPPERS:
        distance = np.where(n_events > 1, np.abs(n_events - wanted), np.inf)
        distance[picked] = np.inf
        best = int(np.argmin(distance))
        if np.isfinite(distance[best]):
            picked.append(best)
    return picked or [0]


def changes(before: "Slate", after: "Slate") -> list[tuple[str, str]]:
    """Each item of the list after, and how it moved."""
    was = {c.item_id: c.position for c in before.items}
    rows = []
    for choice in after.items:
        old = was.get(choice.item_id)
        moved = 0 if old is None else old - choice.position
        words = f"up {moved}" if moved > 0 else f"down {-moved}" if moved < 0 else "stays"
        rows.append((choice.item_id, "new" if old is None else words))
    return rows


def _step(number: int, title: str) -> None:
    show.out().print(f"\n[bold]{number}. {show.escape(title)}[/]")


def _take_in(source: "Source", settings: "Settings") -> "Intake":
    from steerec.data.sample import YEAR_END

    now = YEAR_END if source.data == "sample" else time.time()
    return take_in_showing(source, settings.clean, now=now)


def _put_aside(came: "Intake", file: Path) -> None:
    if came.cleaned is not None:
        came.cleaned.write_quarantine(file)
        n = counted(len(came.cleaned.quarantine), "row")
        show.out().print(f"Put aside, each with the rule and the reason: {n} in {file}")


def _compare(
    came: "Intake",
    settings: "Settings",
    config: "FitConfig",
    *,
    seed: int,
    data: str,
) -> dict[str, Any]:
    tables = came.read.tables if came.cleaned is None else came.cleaned.tables
    task = fewer_requests(usable_task(tables), seed=seed)
    found = measure(task, settings, config, seed=seed)
    notes = [*found["notes"], _LIGHTER]
    result = {"data": data, "cleaned": True, **found, "notes": notes}
    print_result(result)
    return result


def usable_task(tables: "Tables") -> "Task":
    """A time split, by basket where all events have one; else leave-one-out, and it says so.

    Raises:
        DataError: if the set is too small for either.
    """
    from steerec.errors import DataError
    from steerec.evaluation.protocols import prepare, usable_protocol

    protocol = usable_protocol(tables)
    if protocol == "successive" and tables.events["basket"].null_count() == 0:
        protocol = "basket"  # one question for each order, not for each line of it
    try:
        return prepare(tables, protocol)
    except DataError as e:
        if protocol == "loo":
            raise
        show.out().print(f"No time split, each user's last event instead: {show.escape(str(e))}.")
        return prepare(tables, "loo")


def fewer_requests(task: "Task", *, seed: int) -> "Task":
    """The task with at most 5,000 of its requests, drawn by chance, and a note of it."""
    import numpy as np

    cases = task.split.cases
    if len(cases) <= _REQUESTS:
        return task
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(cases), _REQUESTS, replace=False))
    note = f"{_REQUESTS:,} of {len(cases):,} requests, drawn by chance, to keep the demo short"
    split = replace(task.split, cases=cases.take(chosen))
    return replace(task, split=split, notes=(*task.notes, note))


def _learn(
    data: "Dataset", settings: "Settings", config: "FitConfig", *, seed: int
) -> "Recommender":
    import numpy as np

    from steerec.engine.recommender import Recommender
    from steerec.engine.texts import with_vectors

    began = time.perf_counter()
    vectors = encode_showing(data.items, settings)
    model = fit_showing(with_vectors(data, vectors), config, np.random.default_rng(seed))
    took = time.perf_counter() - began
    show.out().print(
        f"{counted(data.n_events, 'event')} learnt by {counted(len(model.heads), 'model')} in "
        f"{took:.1f} s: {', '.join(model.heads)}."
    )
    print_left_out(model, config)
    return Recommender(model, np.random.default_rng(seed), settings.pool)


def _show_shopper(recommender: "Recommender", user_idx: int) -> None:
    from steerec.contracts import Query

    model = recommender.model
    user_id = str(model.data.user_ids[user_idx])
    history = model.data.history(user_idx)
    console = show.out()
    console.print(
        f"\n[bold]{show.escape(user_id)}[/], {counted(len(history), 'event')}, the newest first:"
    )
    for line in history_lines(model, user_idx):
        console.print(line)
    now = moment_after(recommender, user_id)
    slate = recommender.recommend(Query(user_id=user_id, n=_SHOWN, now=now))
    console.print(show.slate_table(slate, model.data))
    known = {str(model.data.item_ids[i]) for i in history.item_idx}
    if sum(choice.item_id not in known for choice in slate.items) < _NEW:
        new = recommender.recommend(Query(user_id=user_id, n=_NEW, now=now, repeats=False))
        console.print("Of what is new to this shopper:")
        console.print(show.slate_table(new, model.data))


def history_lines(model: "Model", user_idx: int) -> list[str]:
    """The newest items of a user in words, with what the user did with each."""
    data = model.data
    done: dict[int, list[str]] = {}
    for at in range(int(data.starts[user_idx + 1]) - 1, int(data.starts[user_idx]) - 1, -1):
        kinds = done.setdefault(int(data.item_idx[at]), [])
        kind = data.kinds[data.kind[at]]
        if kind not in kinds:
            kinds.insert(0, kind)
    lines = [
        f"  {show.short(show.title_of(data, str(data.item_ids[item])))} ({', '.join(kinds)})"
        for item, kinds in list(done.items())[:_ITEMS]
    ]
    more = len(done) - len(lines)
    return [*lines, f"  and {counted(more, 'more item')}"] if more > 0 else lines


def _click(recommender: "Recommender", user_idx: int) -> None:
    """Let a shopper turn to something new from further down, and show what becomes of the list."""
    from steerec.contracts import Event, Query

    data = recommender.model.data
    user_id = str(data.user_ids[user_idx])
    clicked = something_new(recommender, user_id)
    console = show.out()
    if clicked is None:
        console.print("This shopper's list is empty: nothing to turn to.")
        return
    # The item itself is open on the screen: neither list needs to show it.
    shown = frozenset([clicked.item_id])
    when = moment_after(recommender, user_id)
    query = Query(user_id=user_id, n=_SHOWN, exclude=shown, now=when, repeats=False)
    before = recommender.recommend(query)
    kind = "click" if "click" in data.kinds else data.kinds[0]
    began = time.perf_counter()
    recommender.learn(Event(user_id, clicked.item_id, kind, timestamp=when))
    after = recommender.recommend(query)
    took = 1_000 * (time.perf_counter() - began)
    title = show.short(show.title_of(data, clicked.item_id))
    console.print(f"{show.escape(user_id)} turns to {title}, place {clicked.position} so far.")
    console.print("Items new to this shopper, before and after:")
    _print_changes(data, before, after)
    console.print(f"From the event to the new list: {took:.0f} ms.")


def moment_after(recommender: "Recommender", user_id: str) -> float | None:
    """A minute after the user's newest event, in Unix seconds; None without times."""
    import math

    newest = recommender.history(user_id).time[-1:].tolist()
    return None if not newest or math.isnan(newest[0]) else newest[0] + _PAUSE_S


def something_new(recommender: "Recommender", user_id: str) -> "Choice | None":
    """The lowest item among the best that the user has not met yet; else the lowest."""
    from steerec.contracts import Query

    data = recommender.model.data
    known = {str(data.item_ids[i]) for i in recommender.history(user_id).item_idx}
    now = moment_after(recommender, user_id)
    items = recommender.recommend(Query(user_id=user_id, n=_AHEAD, now=now)).items
    fresh = [choice for choice in items if choice.item_id not in known]
    return (fresh or list(items))[-1] if items else None


def _print_changes(data: "Dataset", before: "Slate", after: "Slate") -> None:
    made = show.table("", "List before", "List after", "", "Why", right=(0,))
    reasons = {c.item_id: c.reason for c in after.items}
    moved = changes(before, after)
    for place in range(max(len(before.items), len(moved))):
        old = before.items[place].item_id if place < len(before.items) else ""
        new, how = moved[place] if place < len(moved) else ("", "")
        cells = [show.short(show.title_of(data, i), 34) if i else "" for i in (old, new)]
        made.add_row(str(place + 1), *cells, how, show.escape(reasons.get(new, "")))
    show.out().print(made)
