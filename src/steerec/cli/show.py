"""How results look in a terminal: tables, sentences and progress."""

import json
import logging
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape as escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    import typer

    from steerec.contracts import Slate
    from steerec.data.clean import CleanReport
    from steerec.data.dataset import Dataset
    from steerec.data.tables import ReadResult

Step = Callable[[str, int, int | None], None]
_TITLE_CHARS = 46


def out() -> Console:
    """The console of results; made on demand, since tests change where it points."""
    return Console(highlight=False)


def notes_on_stderr() -> None:
    """Show each warning of the library once, as a note beside the results."""
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        new = text not in said
        said.add(text)
        return new

    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("note: %(message)s"))
    handler.addFilter(is_new)
    logging.getLogger("steerec").addHandler(handler)


@contextmanager
def progress() -> Iterator[Step]:
    """A bar on stderr while work goes on; nothing where stderr is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what, done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("start", total=None)
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=total
        )


def table(*columns: str, title: str = "", right: Sequence[int] = ()) -> Table:
    """An empty table; the columns in `right` hold numbers."""
    made = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(columns):
        number = place in right
        made.add_column(name, justify="right" if number else "left", no_wrap=number)
    return made


def short(text: str, n: int = _TITLE_CHARS) -> str:
    """At most n characters of a text, safe to print; cut at a word where that costs little."""
    text = " ".join(text.split())
    if len(text) <= n:
        return escape(text)
    cut = text[: n - 1]
    space = cut.rfind(" ")
    return escape((cut[:space] if space > 0.7 * n else cut).rstrip(" ,.;:") + "…")


def title_of(data: "Dataset", item_id: str) -> str:
    """An item's title, its id where it has none."""
    if "title" not in data.items.columns:
        return item_id
    return str(data.items["title"][data.item_index[item_id]] or item_id)


def mapping_lines(read: "ReadResult") -> list[str]:
    """How the columns were understood; what was guessed is marked."""
    renamed = {k: c for k, c in read.mapping.items() if k.rpartition(".")[2] != c}
    lines = [
        f"  {key} ← column {escape(column)}{' (guessed)' if key in read.guessed else ''}"
        for key, column in renamed.items()
    ]
    return [
        *lines,
        *(f"  {escape(key)}: {escape(note)}" for key, note in read.tables.notes.items()),
    ]


def print_cleaning(console: Console, report: "CleanReport") -> None:
    """What each rule did; rules that found nothing share a line."""
    made = table("Table", "Rule", "Checked", "Repaired", "Rejected", right=(2, 3, 4))
    notes, busy = [], set()
    for rule in report.rules:
        if not (rule.repaired or rule.rejected):
            continue
        words = rule.rule.replace("_", " ")
        busy.add(rule.rule)
        counts = (rule.checked, rule.repaired, rule.rejected)
        made.add_row(rule.table, words, *(f"{n:,}" for n in counts))
        if rule.note:
            notes.append(f"  {words}: {' '.join(rule.note.split())}")
    if busy:
        console.print(made)
    for note in notes:
        console.print(escape(note))
    quiet = [_quiet(r.rule, r.note) for r in report.rules if r.rule not in busy]
    if quiet:
        console.print(f"[dim]Nothing found by: {', '.join(dict.fromkeys(quiet))}.[/]")


def _quiet(rule: str, note: str) -> str:
    words = rule.replace("_", " ")
    return escape(f"{words} ({note})" if note else words)


def comparison_table(result: Mapping[str, Any]) -> Table:
    """NDCG and hits by model, the best first, with 95 % intervals."""
    from steerec.evaluation.wording import name_of

    second = second_metric(result)
    models = result["results"]
    made = table(
        "Model", "NDCG@10", "95 % interval", second.upper(), "95 % interval", right=(1, 2, 3, 4)
    )
    for name in sorted(models, key=lambda m: -models[m]["ndcg@10"]):
        row = models[name]
        cells = [c for metric in ("ndcg@10", second) for c in _measured(row, metric)]
        style = {"blend": "bold", "popularity": "dim", "recent_popularity": "dim"}.get(name)
        made.add_row(name_of(name), *cells, style=style)
    return made


def ablation_table(result: Mapping[str, Any]) -> Table:
    """The blend without each head, the greatest loss first."""
    second = second_metric(result)
    made = table("Without", "NDCG@10", "Lost", "95 % interval", second.upper(), right=(1, 2, 3, 4))
    for name, row in sorted(
        result["ablation"].items(), key=lambda pair: -pair[1]["ndcg@10 lost"]["difference"]
    ):
        lost = row["ndcg@10 lost"]
        between = f"{lost['low']:+.4f} to {lost['high']:+.4f}"
        cells = (f"{row['ndcg@10']:.4f}", f"{lost['difference']:+.4f}", between)
        made.add_row(name, *cells, f"{row[second]:.4f}")
    return made


def second_metric(result: Mapping[str, Any]) -> str:
    """The figure beside NDCG: of several right items the share that was found, of one whether."""
    return "recall@10" if result["protocol"] == "basket" else "hr@10"


def _measured(row: Mapping[str, Any], metric: str) -> tuple[str, str]:
    low, high = row["ci"][metric]
    return f"{row[metric]:.4f}", f"{low:.4f}–{high:.4f}"


def slate_table(slate: "Slate", data: "Dataset", *, with_id: bool = False) -> Table:
    """A list with the reason of each item."""
    made = table("", *(["Id"] if with_id else []), "Item", "Why", right=(0,))
    for choice in slate.items:
        ids = [escape(choice.item_id)] if with_id else []
        title = short(title_of(data, choice.item_id))
        made.add_row(str(choice.position), *ids, title, escape(choice.reason))
    return made


def command_line(context: "typer.Context") -> str:
    """The command that runs, with what was told on the command line and not by the environment."""
    words = ["steerec", str(context.info_name)]
    for option in context.command.params:
        told, value = (
            f(option.name or "") for f in (context.get_parameter_source, context.params.get)
        )
        if told is not None and told.name == "COMMANDLINE":
            words += [option.opts[0], *([] if value is True else [str(value)])]
    return shlex.join(words)


def as_json(value: Any) -> str:
    """Indented JSON; NaN and infinity, which JSON does not know, become null."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
