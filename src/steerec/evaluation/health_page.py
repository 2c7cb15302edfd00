"""The doctor's findings as an HTML page with plots."""

from collections.abc import Callable
from datetime import timedelta

import polars as pl

from steerec.data.counted import counted, noun_of
from steerec.data.health import Health
from steerec.evaluation import page
from steerec.evaluation.page import Html


def render_health(health: Health, *, name: str) -> str:
    """Turn the doctor's findings into one self-contained page.

    Args:
        name: how the reader knows the data, such as its folder.
    """
    plots: tuple[Callable[[Health], list[Html]], ...] = (_kinds, _days, _histories, _tail, _gaps)
    parts = [
        page.paragraph(_verdict(health), kind="lead"),
        _figures(health),
        page.heading("Findings"),
        *_findings(health),
        *(part for plot in plots for part in plot(health)),
        page.heading("Events per user and item"),
        _quantiles(health.tables["quantiles"]),
    ]
    return page.page("Is this data fit to learn from?", parts, subtitle=name)


def _verdict(health: Health) -> str:
    n = {s: sum(f.severity == s for f in health.findings) for s in ("warning", "notice")}
    notices = counted(n["notice"], "notice")
    if not n["warning"]:
        return f"Nothing stands in the way. {notices} to know of."
    them = "it" if n["warning"] == 1 else "them"
    warnings = counted(n["warning"], "warning")
    return (
        f"{warnings} and {notices}: look at {them} before you trust a figure made from this data."
    )


def _figures(health: Health) -> Html:
    c = health.counts
    facts = [
        (f"{c['n_events']:,}", noun_of(c["n_events"], "event")),
        (f"{c['n_users']:,}", f"{noun_of(c['n_users'], 'user')} with events"),
        (f"{c['n_items']:,}", f"{noun_of(c['n_items'], 'item')} with events"),
        (f"{c['n_catalogue']:,}", f"{noun_of(c['n_catalogue'], 'item')} in the catalogue"),
        (f"{100 * c['density']:.3g} %", "of all pairs seen"),
        (f"{100 * c['repeat_share']:.1f} %", "of events are repeats"),
    ]
    if c["days"]:
        facts.append((f"{c['days']:,}", f"{noun_of(c['days'], 'day')} from first to last"))
    return page.tiles(facts)


def _findings(health: Health) -> list[Html]:
    parts = [
        page.finding(f.severity, f.title, f.detail, f.remedy)
        for f in health.findings
        if f.severity != "ok"
    ]
    fine = [f.title for f in health.findings if f.severity == "ok"]
    if fine:
        parts.append(page.finding("ok", "Looked at and found in order", "; ".join(fine) + "."))
    return parts


def _kinds(health: Health) -> list[Html]:
    table = health.tables["kinds"]
    if table.is_empty():
        return []
    rows = [
        [
            row["event"], page.bar(row["share"]), f"{row['events']:,}", f"{row['share']:.1%}",
            f"{row['users']:,}", *(_short(row[c]) for c in ("least", "median", "most")),
        ]
        for row in table.head(20).iter_rows(named=True)
    ]  # fmt: skip
    header = ["kind", "", "events", "share", "users", "least value", "median", "most"]
    more = f"{len(table) - 20} rarer kinds are not shown." if len(table) > 20 else ""
    return [page.heading("Kinds of events"), page.table(header, rows, caption=more)]


def _days(health: Health) -> list[Html]:
    table = health.tables["events_per_day"]
    if len(table) < 2:
        return []
    step = 1 if len(table) <= 400 else 7 if len(table) <= 2800 else 30
    first = table["day"][0]
    grouped = (
        table.with_row_index("n")
        .group_by(pl.col("n") // step, maintain_order=True)
        .agg(pl.col("events").sum())
    )
    days = [first + timedelta(days=int(n) * step) for n in grouped["n"]]
    drawing, axes = page.chart(9, 2.8)
    axes.fill_between(days, grouped["events"].to_list(), step="post", color=page.BLUE, linewidth=0)
    axes.set_ylim(bottom=0)
    axes.set_xlim(days[0], days[-1])
    per = {1: "day", 7: "week", 30: "30 days"}[step]
    axes.set_ylabel(f"events per {per}")
    _thousands(axes.yaxis)
    alt = f"Events per {per} from {days[0]} to {days[-1]}"
    return [page.heading("Over time"), page.figure(drawing, alt=alt)]


def _histories(health: Health) -> list[Html]:
    table = health.tables["history_lengths"]
    drawing, axes = page.chart(9, 2.8)
    axes.bar(table["length"].to_list(), table["users"].to_list(), color=page.BLUE, width=0.8)
    axes.set_xlabel("events of a user")
    axes.set_ylabel("users")
    _thousands(axes.yaxis)
    alt = "; ".join(f"{a}: {counted(b, 'user')}" for a, b in table.iter_rows())
    words = (
        "Users with few events are led by item texts and trends, the others by their own habits."
    )
    return [
        page.heading("How much is known of each user"),
        page.figure(drawing, alt=alt, caption=words),
    ]


def _tail(health: Health) -> list[Html]:
    table = health.tables["long_tail"]
    drawing, axes = page.chart(9, 3.2)
    axes.plot(
        [0, 100], [0, 100], color=page.GREY, linewidth=1, linestyle="--", label="all items alike"
    )
    x, y = (100 * table["items"]).to_list(), (100 * table["events"]).to_list()
    axes.plot(x, y, color=page.BLUE, linewidth=2.2, label="this data")
    axes.set_xlabel("% of the items with events, most popular first")
    axes.set_ylabel("% of all events")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 101)
    page.legend(axes)
    c = health.counts
    words = (
        f"The top 1 % of the items take {c['top_1_percent_share']:.1%} of the events, the top 10 % "
        f"take {c['top_10_percent_share']:.1%}. Gini coefficient {c['gini']:.2f}."
    )
    return [page.heading("The long tail"), page.figure(drawing, alt=words, caption=words)]


def _gaps(health: Health) -> list[Html]:
    table = health.tables["gaps"]
    if table.is_empty():
        return []
    rows = [
        [f"{a:%Y-%m-%d %H:%M}", f"{b:%Y-%m-%d %H:%M}", f"{hours:,.1f}"]
        for a, b, hours in table.iter_rows()
    ]
    return [page.heading("Longest gaps"), page.table(["from (UTC)", "to", "hours"], rows)]


def _quantiles(table: pl.DataFrame) -> Html:
    rows = [[row[0], *(_short(x) for x in row[1:])] for row in table.iter_rows()]
    return page.table(table.columns, rows)


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _thousands(axis: object) -> None:
    axis.set_major_formatter("{x:,.0f}")  # type: ignore[attr-defined]
