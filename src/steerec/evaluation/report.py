"""The evaluation report: what `steerec evaluate` measured, as a page a manager can read."""

import shlex
from collections.abc import Mapping
from typing import Any

from steerec.data.counted import counted, noun_of
from steerec.errors import DataError
from steerec.evaluation import page
from steerec.evaluation.curves import learning_curves
from steerec.evaluation.page import Html
from steerec.evaluation.reliability_figure import reliability_figure
from steerec.evaluation.wording import (
    BASELINES,
    METRICS,
    PROTOCOLS,
    SLICES,
    TRACKS,
    answer,
    feature_words,
    first_of,
    hit_metric,
    name_of,
    ranking,
    single_models,
)

_COLUMNS = 5  # more figures beside each other do not fit on a printed page


def render_report(result: Mapping[str, Any]) -> str:
    """Turn the result of `steerec evaluate` into one self-contained HTML page.

    Args:
        result: protocol, track, data and results as in the JSON; slices, weights, paired, seconds,
            command and the rest are shown where given.
    Raises:
        DataError: if there are no results in it.
    """
    models = result.get("results")
    if not models:
        raise DataError("this result holds no models: expected the JSON of `steerec evaluate`")
    parts = [
        page.paragraph(answer(result), kind="lead"),
        _figures(result),
        page.heading("How the models compare"),
        *_comparison(models),
        *_slices(result),
        *_weights(result.get("weights", {})),
        *_paired(result.get("paired", {})),
        *_ablation(result.get("ablation", {}), models),
        *reliability_figure(
            result.get("reliability", {}), ranking(models, first_of(models, "ndcg"))
        ),
        *learning_curves(result.get("curves", {})),
        page.heading("Every figure"),
        *_tables(models),
        page.heading("How this was measured"),
        *_method(result),
    ]
    where = f"{result.get('data', 'data')}, protocol {result.get('protocol', 'unknown')}"
    track = f", {result['track']}" if result.get("track") else ""
    return page.page("How good are the recommendations?", parts, subtitle=where + track)


def _figures(result: Mapping[str, Any]) -> Html:
    models = result["results"]
    name = "blend" if "blend" in models else ranking(models, hit_metric(models))[0]
    facts = [
        (f"{models[name][m]:.4f}", f"{m.upper()}, {name_of(name)}")
        for m in (first_of(models, "ndcg"), hit_metric(models))
        if m in models[name]
    ]
    for key, noun in (("requests", "request"), ("users", "user")):
        if key in result:
            facts.append((f"{result[key]:,}", noun_of(result[key], noun) + " measured"))
    fit = result.get("seconds", {}).get("fit")
    if fit is not None:
        facts.append((_duration(fit), "to learn"))
    if result.get("peak_rss_mib"):
        facts.append((f"{result['peak_rss_mib'] / 1024:.1f} GiB", "peak memory"))
    return page.tiles(facts)


def _comparison(models: Mapping[str, Any]) -> list[Html]:
    metric = first_of(models, "ndcg")
    names = ranking(models, metric)
    drawing, axes = page.chart(9, 0.9 + 0.38 * len(names))
    for place, name in enumerate(names):
        low, high = models[name].get("ci", {}).get(metric, (None, None))
        value = models[name][metric]
        axes.barh(place, value, height=0.66, color=_colour(name))
        if low is not None:
            axes.plot([low, high], [place, place], color=page.INK, linewidth=1.4)
        axes.annotate(
            f"{value:.4f}", (max(value, high or 0), place), xytext=(6, 0), va="center",
            textcoords="offset points", color=page.INK, fontsize=9.5,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), [page.label(name_of(n)) for n in names])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel(metric.upper())
    caption = (
        f"{metric.upper()}: {METRICS['ndcg']}. Lines show 95 % intervals (bootstrap over users)."
    )
    alt = "; ".join(f"{name_of(n)} {models[n][metric]:.4f}" for n in names)
    return [page.figure(drawing, alt=f"{metric.upper()} by model: {alt}", caption=caption)]


def _slices(result: Mapping[str, Any]) -> list[Html]:
    slices = {k: v for k, v in result.get("slices", {}).items() if v.get("n")}
    models = result["results"]
    metric = first_of(models, "ndcg")
    shown = _slice_models(models, metric)
    if not slices or not shown:
        return []
    drawing, axes = page.chart(9, 0.9 + 0.27 * len(slices) * (len(shown) + 0.8))
    step = 0.84 / len(shown)
    for i, name in enumerate(shown):
        values = [part.get(name, {}).get(metric) or 0.0 for part in slices.values()]
        places = [place + (i - (len(shown) - 1) / 2) * step for place in range(len(slices))]
        axes.barh(
            places, values, step * 0.9, color=_slice_colour(name), label=page.label(name_of(name))
        )
    labels = [f"{_slice_words(k)}\n{counted(v['n'], 'request')}" for k, v in slices.items()]
    axes.set_yticks(range(len(slices)), [page.label(text) for text in labels])
    axes.invert_yaxis()
    axes.set_xlabel(metric.upper())
    page.legend(axes)
    rows = [
        [
            _slice_words(key),
            f"{part['n']:,}",
            *(_number(part.get(m, {}).get(metric)) for m in shown),
        ]
        for key, part in slices.items()
    ]
    small = [_slice_words(k) for k, v in slices.items() if v["n"] < 20]
    warn = f"Fewer than 20 requests, so read with care: {', '.join(small)}." if small else ""
    return [
        page.heading("Where it works, and where it does not"),
        page.figure(drawing, alt=f"{metric.upper()} by part of the data, as in the table below"),
        page.table(["part", "requests", *map(name_of, shown)], rows, caption=warn),
    ]


def _slice_models(models: Mapping[str, Any], metric: str) -> list[str]:
    """The blend, the best single model and the best baseline: more bars are not read."""
    singles = single_models(models)
    bases = [b for b in BASELINES if b in models]
    best = [max(group, key=lambda m: models[m][metric]) for group in (singles, bases) if group]
    return [*(["blend"] if "blend" in models else []), *best]


def _weights(weights: Mapping[str, Mapping[str, float]]) -> list[Html]:
    if not weights:
        return []
    features = list(weights)
    heads = list(dict.fromkeys(head for row in weights.values() for head in row))
    grid = [[float(weights[f].get(h, 0.0)) for h in heads] for f in features]
    top = max((abs(x) for row in grid for x in row), default=1.0) or 1.0
    drawing, axes = page.chart(9, 1.2 + 0.36 * len(features))
    axes.imshow(grid, cmap="RdBu", vmin=-top, vmax=top, aspect="auto")
    axes.set_xticks(range(len(heads)), [page.label(h) for h in heads])
    for name in axes.get_xticklabels() if len(heads) > 7 else []:
        name.set(rotation=30, horizontalalignment="right")
    axes.set_yticks(range(len(features)), [page.label(feature_words(f)) for f in features])
    for row, values in enumerate(grid):
        for column, x in enumerate(values):
            ink = "white" if abs(x) > 0.6 * top else "#222831"
            axes.text(column, row, f"{x:.2f}", ha="center", va="center", color=ink, fontsize=9)
    axes.spines[:].set_visible(False)
    words = (
        "How much each model counts, by what is known of the request: the row “always” is there "
        "in every request, the others add where they apply. Blue speaks for an item, red against."
    )
    return [
        page.heading("What the blend listens to"),
        page.figure(drawing, alt="Weights of the models by feature of the request", caption=words),
    ]


def _paired(paired: Mapping[str, Mapping[str, Any]]) -> list[Html]:
    if not paired:
        return []
    rows = [
        [
            name_of(name),
            f"{row.get('difference', float('nan')):+.4f}",
            f"{row.get('low', float('nan')):+.4f} to {row.get('high', float('nan')):+.4f}",
            _p_words(row.get("p")),
        ]
        for name, row in paired.items()
    ]
    words = (
        "NDCG@10 of each model minus that of the blend, on the same requests and the same draws of "
        "users: below 0 the blend is better. The difference is real where the interval leaves out "
        "0; p is how often chance alone would make one as large."
    )
    return [
        page.heading("Is the blend's lead real?"),
        page.table(["model", "minus the blend", "95 % interval", "p"], rows, caption=words),
    ]


def _ablation(ablation: Mapping[str, Mapping[str, Any]], models: Mapping[str, Any]) -> list[Html]:
    if not ablation:
        return []
    order = sorted(ablation, key=lambda name: -ablation[name]["ndcg@10 lost"]["difference"])
    rows = [["no model: the whole blend", _number(models["blend"]["ndcg@10"]), "", ""]]
    for name in order:
        lost = ablation[name]["ndcg@10 lost"]
        rows.append(
            [
                name_of(name),
                _number(ablation[name]["ndcg@10"]),
                f"{lost['difference']:+.4f}",
                f"{lost['low']:+.4f} to {lost['high']:+.4f}",
            ]
        )
    words = (
        "The blend with one model left out and the weights of the others fitted anew. Lost: how "
        "much higher the whole blend is, on the same requests. A model with an interval around 0 "
        "can be missed."
    )
    return [
        page.heading("What each model brings"),
        page.table(["left out", "NDCG@10", "lost", "95 % interval"], rows, caption=words),
    ]


def _tables(models: Mapping[str, Any]) -> list[Html]:
    metrics = list(dict.fromkeys(m for row in models.values() for m in row if m != "ci"))
    names = ranking(models, first_of(models, "ndcg"))
    strong = [i for i, name in enumerate(names) if name == "blend"]
    meaning = [[m, METRICS.get(m.split("@")[0], "")] for m in metrics]
    parts = []
    for start in range(0, len(metrics), _COLUMNS):
        shown = metrics[start : start + _COLUMNS]
        rows = [[name_of(n), *(_with_interval(models[n], m) for m in shown)] for n in names]
        parts.append(page.table(["model", *shown], rows, strong=strong))
    return [*parts, page.table(["figure", "what it says"], meaning)]


def _with_interval(row: Mapping[str, Any], metric: str) -> Html:
    value = page.escape(_number(row.get(metric)))
    low, high = row.get("ci", {}).get(metric, (None, None))
    if low is None:
        return value
    return Html(f'{value}<br><span class="soft">{low:.4f}–{high:.4f}</span>')


def _method(result: Mapping[str, Any]) -> list[Html]:
    words = [
        PROTOCOLS.get(result.get("protocol", ""), ""),
        TRACKS.get(result.get("track", ""), ""),
        "Every item of the catalogue was ranked, no sample of it; equal scores count as half. "
        "Intervals come from 1,000 draws of users with replacement.",
    ]
    facts = [
        [name, str(result[key])]
        for key, name in (
            ("data", "data"), ("data_hash", "hash of the event rows"), ("commit", "commit"),
            ("seed", "seed"), ("machine", "machine"),
        )
        if result.get(key) is not None
    ]  # fmt: skip
    if "cleaned" in result:
        facts.append(["cleaned before", "yes" if result["cleaned"] else "no, the rows as they are"])
    facts += [[f"time: {k}", _duration(s)] for k, s in result.get("seconds", {}).items()]
    if result.get("peak_rss_mib"):
        facts.append(["peak memory", f"{result['peak_rss_mib']:,.0f} MiB"])
    return [
        page.paragraph(" ".join(w for w in words if w)),
        *(page.paragraph(f"Note: {note}") for note in result.get("notes", ())),
        page.table(["", ""], facts),
        page.paragraph("The command that measured it:"),
        page.code(result.get("command") or command(result)),
    ]


def command(result: Mapping[str, Any]) -> str:
    """The command line that leads to this result."""
    words = ["steerec", "evaluate"]
    for key in ("data", "protocol", "track", "seed"):
        if result.get(key) is not None:
            words += [f"--{key}", str(result[key])]
    return shlex.join(words)


def _slice_words(name: str) -> str:
    return SLICES.get(name, name.replace("_", " "))


def _colour(name: str) -> str:
    return page.BLUE if name == "blend" else page.GREY if name in BASELINES else "#8fb4e8"


def _slice_colour(name: str) -> str:
    return page.BLUE if name == "blend" else page.GREY if name in BASELINES else page.ORANGE


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _p_words(p: float | None) -> str:
    return "" if p is None else "< 0.002" if p < 0.002 else f"{p:.3f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min"
