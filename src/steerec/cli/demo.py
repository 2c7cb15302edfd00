"""The verb demo: the main job on the built-in shop or on data of your own, told step by step."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerec.cli import options, show
from steerec.cli.intake import QUARANTINE, print_intake
from steerec.cli.learn import (
    encode_showing,
    fit_showing,
    measure,
    print_result,
    write_result,
)

if TYPE_CHECKING:
    from steerec.config import Settings
    from steerec.contracts import Slate
    from steerec.data.dataset import Dataset
    from steerec.engine.intake import Intake
    from steerec.engine.model import Model
    from steerec.engine.recommender import Recommender

_SHOWN = 5  # items of a list
_EVENTS = 4  # events of a history
_SHOPPERS = (5, 15, 40)  # lengths of the histories looked for


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        epilog="Examples:\n\n"
        "steerec demo\n\n"
        "steerec demo --data ml-1m --data-dir ~/data\n\n"
        "steerec demo --data my_shop/ --out my-demo/"
    )(demo)


def demo(
    data: options.Data = "sample",
    data_dir: options.DataDir = None,
    columns: options.Columns = "",
    config: options.Config = None,
    encoder: options.Encoder = None,
    heads: options.Heads = "",
    seed: options.Seed = 0,
    out: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path(
        "steerec-demo"
    ),
) -> None:
    """Import, clean, encode, learn, compare with popularity, recommend: the whole way at once."""
    began = time.perf_counter()
    settings = options.settings_of(config, encoder=encoder)
    settings.fit_config(options.names(heads))
    what = "the built-in sample shop" if data == "sample" else data
    _step(1, f"Read and clean {what}")
    came = _take_in(data, data_dir, columns, settings)
    out.mkdir(parents=True, exist_ok=True)
    print_intake(came)
    _step(2, "Compare with popularity on events held out")
    _compare(came, settings, options.names(heads), seed=seed, data=data, out=out)
    _step(3, "Learn from all events")
    recommender = _learn(came.data, settings, options.names(heads), seed=seed)
    _step(4, "Three shoppers and their lists")
    shoppers = pick_shoppers(recommender.model.data)
    for user_idx in shoppers:
        _show_shopper(recommender, user_idx)
    _step(5, "One more click")
    _click(recommender, shoppers[len(shoppers) // 2])
    took = time.perf_counter() - began
    show.out().print(f"\nDone in {took:.0f} s. Report with plots: {out / 'report.html'}")
    show.out().print("Next, your own data: steerec import --data FOLDER --out dataset/")


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


def _take_in(data: str, data_dir: Path | None, columns: str, settings: "Settings") -> "Intake":
    from steerec.data.sample import YEAR_END
    from steerec.engine.intake import take_in

    source = options.source_of(settings, data, data_dir, columns=columns)
    now = YEAR_END if data == "sample" else time.time()
    with show.progress() as step:
        step(f"read {data}", 0, None)
        return take_in(
            source,
            settings.clean,
            now=now,
            weights=settings.data.weights,
            progress=lambda done, total: step(f"download {data}", done, total),
        )


def _compare(
    came: "Intake",
    settings: "Settings",
    heads: Sequence[str],
    *,
    seed: int,
    data: str,
    out: Path,
) -> None:
    from steerec.evaluation.protocols import prepare, usable_protocol

    tables = came.read.tables
    if came.cleaned is not None:
        came.cleaned.write_quarantine(out / QUARANTINE)
        tables = came.cleaned.tables
    show.out().print("Measured on the cleaned events.")
    task = prepare(tables, usable_protocol(tables))
    found = measure(task, settings, settings.fit_config(tuple(heads)), seed=seed)
    result = {"data": data, "cleaned": True, **found}
    print_result(result)
    write_result(result, out / "evaluation.json", out / "report.html")


def _learn(
    data: "Dataset", settings: "Settings", heads: Sequence[str], *, seed: int
) -> "Recommender":
    import numpy as np

    from steerec.engine.recommender import Recommender
    from steerec.engine.texts import with_vectors

    began = time.perf_counter()
    vectors = encode_showing(data.items, settings)
    config = settings.fit_config(tuple(heads))
    model = fit_showing(with_vectors(data, vectors), config, np.random.default_rng(seed))
    took = time.perf_counter() - began
    show.out().print(
        f"{data.n_events:,} events learnt by {len(model.heads)} heads in {took:.1f} s: "
        f"{', '.join(model.heads)}."
    )
    return Recommender(model, np.random.default_rng(seed), settings.pool)


def _show_shopper(recommender: "Recommender", user_idx: int) -> None:
    from steerec.contracts import Query

    model = recommender.model
    user_id = str(model.data.user_ids[user_idx])
    history = model.data.history(user_idx)
    console = show.out()
    console.print(f"\n[bold]{show.escape(user_id)}[/], {len(history)} events, the newest first:")
    for line in history_lines(model, user_idx):
        console.print(line)
    slate = recommender.recommend(Query(user_id=user_id, n=_SHOWN))
    console.print(show.slate_table(slate, model.data))


def history_lines(model: "Model", user_idx: int) -> list[str]:
    """The newest events of a user in words."""
    data = model.data
    stop = int(data.starts[user_idx + 1])
    first = max(int(data.starts[user_idx]), stop - _EVENTS)
    return [
        f"  {data.kinds[data.kind[at]]:<9} "
        + show.short(show.title_of(data, str(data.item_ids[data.item_idx[at]])))
        for at in range(stop - 1, first - 1, -1)
    ]


def _click(recommender: "Recommender", user_idx: int) -> None:
    """Let a shopper click the third item of their list, and show what becomes of the list."""
    import numpy as np

    from steerec.contracts import Event, Query

    data = recommender.model.data
    user_id = str(data.user_ids[user_idx])
    query = Query(user_id=user_id, n=_SHOWN)
    before = recommender.recommend(query)
    if not before.items:
        show.out().print("This shopper's list is empty: nothing to click.")
        return
    clicked = before.items[min(2, len(before.items) - 1)].item_id
    newest = data.history(user_idx).time[-1]
    when = None if np.isnan(newest) else float(newest) + 60.0
    kind = "click" if "click" in data.kinds else data.kinds[0]
    began = time.perf_counter()
    recommender.learn(Event(user_id, clicked, kind, timestamp=when))
    after = recommender.recommend(query)
    took = 1_000 * (time.perf_counter() - began)
    console = show.out()
    title = show.short(show.title_of(data, clicked))
    console.print(f"{show.escape(user_id)} turns to {title}.")
    _print_changes(data, before, after)
    console.print(f"From the click to the new list: {took:.0f} ms.")


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
