"""Run a protocol: fit on its training part, foretell its cases, and measure with intervals."""

import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, Indices
from steerec.data.split import Cases
from steerec.engine.model import FitConfig, Model, Progress, batches, fit, rankable
from steerec.engine.panel import Panel
from steerec.engine.pool import Pool, PoolConfig
from steerec.evaluation.intervals import Bootstrap, compare_all, intervals
from steerec.evaluation.metrics import (
    calibration,
    category_diversity,
    category_matrix,
    coverage,
    exposure_gini,
    intra_list_diversity,
    novelty,
    popularity_share,
    rank_metrics,
)
from steerec.evaluation.protocols import DAY_S, RECENT_DAYS, Task, recent_counts
from steerec.evaluation.ranks import ranks_of, top_lists
from steerec.evaluation.slices import (
    bounded_slice,
    gap_slices,
    history_slices,
    item_slices,
    slice_results,
)

Values = NDArray[np.float64]
LISTED_CASES = 5_000  # cases whose lists are kept for coverage, novelty and diversity
LIVE_BATCH = 128  # cases foretold before their events are learnt: never later than the truth
WINDOW = 5_000  # events of one window of `stream`
WARM_ONLY = "blend_warm_only"  # the blend where cold items are never ranked


@dataclass
class Tally:
    """What is collected case by case.

    Attributes:
        rank: model → one array a batch, (n_targets,) ranks.
        lists: model → one array a batch, (n_listed, 10) item indices.
        among_cold: model → one array a batch, ranks of the cold targets among the cold items.
        update_s: seconds of each live update of all heads.
    """

    rank: dict[str, list[Values]] = field(default_factory=dict)
    lists: dict[str, list[Indices]] = field(default_factory=dict)
    among_cold: dict[str, list[Values]] = field(default_factory=dict)
    update_s: list[float] = field(default_factory=list)


def evaluate(
    task: Task,
    config: FitConfig,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit and measure; the result is what `steerec evaluate --json` writes.

    Raises:
        DataError: if the training part is too small to fit anything.
    """
    rng = np.random.default_rng(seed)
    config = replace(config, holdout=task.holdout, repeats=task.repeats, only_new=task.only_new)
    began = time.perf_counter()
    model = fit(task.split.train, config, rng, progress=progress)
    fitted = time.perf_counter()
    tally = foretell(task, model, rng, pool=config.pool, progress=progress)
    values = _values(task, tally)
    result: dict[str, Any] = {
        "protocol": task.protocol,
        "track": task.track,
        "seed": seed,
        "commit": commit(),
        "machine": machine(),
        "data_hash": task.split.cases.data.content_hash,
        "requests": len(task.split.cases),
        "users": len(np.unique(task.split.cases.user_idx)),
        "seconds": {"fit": fitted - began, "evaluate": time.perf_counter() - fitted},
        "fit_seconds": dict(model.seconds),
        "peak_rss_mib": peak_rss_mib(),
        "results": _results(task, values, tally, rng),
        "slices": _slices(task, values),
        "paired": _paired(task, values, rng),
        "weights": _weights(model),
        "curves": {n: h.curve for n, h in model.heads.items() if hasattr(h, "curve")},
        "notes": list(task.notes),
    }
    if task.cold is not None:
        parts, result["warm_loss"] = _cold(task, values, tally, task.cold, rng)
        result["slices"] = {**result["slices"], **parts}
    if task.protocol == "stream":
        result["windows"] = _windows(values)
        result["updates"] = _updates(tally)
    return result


def foretell(
    task: Task,
    model: Model,
    rng: np.random.Generator,
    *,
    pool: PoolConfig | None = None,
    progress: Progress | None = None,
) -> Tally:
    """Score all cases in order; on a live track learn each batch's events after it.

    Args:
        pool: which items serving would score; where not all, the loss is measured too.
    """
    cases, tally = task.split.cases, Tally()
    served = Pool(Panel(model), pool or PoolConfig())
    baselines = _Baselines.of(task)
    listed = np.zeros(len(cases), bool)
    listed[rng.choice(len(cases), min(LISTED_CASES, len(cases)), replace=False)] = True
    feed = _Feed(task, model) if task.live else None
    for start, stop in _ranges(cases, model, live=task.live):
        if progress:
            progress("foretell", start, len(cases))
        histories = cases.histories(start, stop)
        raw, _, blend = model.scores(histories, None, cases.now[start:stop])
        skip = ~rankable(cases, start, stop, repeats=task.repeats)
        scores = {"blend": blend, **raw, **baselines.scores(start, stop)}
        targets = cases.targets[cases.offsets[start] : cases.offsets[stop]]
        sizes = np.diff(cases.offsets[start : stop + 1])
        row = np.repeat(np.arange(stop - start), sizes)
        for name, table in scores.items():
            tally.rank.setdefault(name, []).append(ranks_of(table, targets, row=row, skip=skip))
            here = listed[start:stop]
            tally.lists.setdefault(name, []).append(top_lists(table[here], skip=skip[here]))
        if model.data.n_items > served.config.full_catalogue:
            outside = ~served.estimate(raw, histories, ~skip)
            pooled = ranks_of(blend, targets, row=row, skip=outside)
            tally.rank.setdefault("blend_pooled", []).append(pooled)
        if task.cold is not None:
            _tally_cold(tally, scores, targets, skip, task.cold)
        if feed:
            tally.update_s += feed.learn_until(stop)
    tally.lists["__cases__"] = [np.flatnonzero(listed).astype(np.int32)]
    if progress:
        progress("foretell", len(cases), len(cases))
    return tally


def _tally_cold(
    tally: Tally,
    scores: Mapping[str, Floats],
    targets: Indices,
    skip: NDArray[np.bool_],
    cold: NDArray[np.bool_],
) -> None:
    """Cold targets among cold items, and the blend's ranks where no cold item is ranked."""
    rows = np.flatnonzero(cold[targets])
    for name, table in scores.items():
        found = ranks_of(table, targets[rows], row=rows, skip=skip | ~cold)
        tally.among_cold.setdefault(name, []).append(found)
    warm_only = ranks_of(scores["blend"], targets, skip=skip | cold)
    tally.rank.setdefault(WARM_ONLY, []).append(warm_only)


def _ranges(cases: Cases, model: Model, *, live: bool) -> Iterator[tuple[int, int]]:
    if not live:
        yield from batches(len(cases), model.data.n_items * (2 * len(model.heads) + 4))
        return
    for start in range(0, len(cases), LIVE_BATCH):
        yield start, min(start + LIVE_BATCH, len(cases))


class _Feed:
    """Gives the heads the events after training, in order of time, as the cases go by."""

    def __init__(self, task: Task, model: Model) -> None:
        self._cases, self._heads = task.split.cases, model.heads
        data = self._cases.data
        trained = np.zeros(data.n_events, bool)
        trained[np.isin(data.row, task.split.train.row)] = True
        order = data.by_time()
        self._order = order[~trained[order]]
        self._place = np.empty(data.n_events, np.int64)
        self._place[order] = np.arange(data.n_events)
        self._next = 0

    def learn_until(self, case: int) -> list[float]:
        """Observe all events up to that of the case before this one; seconds of each."""
        data, took = self._cases.data, []
        last = self._place[self._cases.stop[case - 1]]
        while self._next < len(self._order) and self._place[self._order[self._next]] <= last:
            position = int(self._order[self._next])
            self._next += 1
            user = int(data.user_idx[position])
            history = data.history(user)
            at = position - int(data.starts[user])
            state, event = history.slice(max(0, at - 500), at), history.slice(at, at + 1)
            began = time.perf_counter()
            for head in self._heads.values():
                head.observe(state, event)
            took.append(time.perf_counter() - began)
        return took


@dataclass(frozen=True)
class _Baselines:
    """Popularity of all time and of late, the same list for everybody at one moment.

    Attributes:
        clock, items: times in order and items of the events so far, for `stream`; else None.
    """

    task: Task
    everything: NDArray[np.int64]
    recent: NDArray[np.int64]
    clock: Values | None
    items: Indices | None

    @classmethod
    def of(cls, task: Task) -> "_Baselines":
        train, data = task.split.train, task.split.cases.data
        counts = np.bincount(train.item_idx, minlength=train.n_items)
        if task.protocol != "stream":
            return cls(task, counts, recent_counts(task), None, None)
        order = data.by_time()
        return cls(task, counts, counts, data.time[order], data.item_idx[order])

    def scores(self, start: int, stop: int) -> dict[str, Floats]:
        n = stop - start
        if self.clock is None or self.items is None:
            return {
                "popularity": np.tile(self.everything.astype(np.float32), (n, 1)),
                "recent_popularity": np.tile(self.recent.astype(np.float32), (n, 1)),
            }
        now = self.task.split.cases.now[start]  # of the batch's first: never later than the truth
        upto = np.searchsorted(self.clock, now)
        since = np.searchsorted(self.clock, now - RECENT_DAYS * DAY_S)
        n_items = len(self.everything)
        always = np.bincount(self.items[:upto], minlength=n_items).astype(np.float32)
        late = np.bincount(self.items[since:upto], minlength=n_items).astype(np.float32)
        return {"popularity": np.tile(always, (n, 1)), "recent_popularity": np.tile(late, (n, 1))}


def _values(task: Task, tally: Tally) -> dict[str, dict[str, Values]]:
    """Model → metric → one value a case."""
    group = np.repeat(np.arange(len(task.split.cases)), np.diff(task.split.cases.offsets))
    return {
        name: dict(rank_metrics(np.concatenate(ranks), group=group))
        for name, ranks in tally.rank.items()
    }


def _results(
    task: Task,
    values: Mapping[str, Mapping[str, Values]],
    tally: Tally,
    rng: np.random.Generator,
) -> dict[str, Any]:
    bootstrap = Bootstrap.draw(task.split.cases.user_idx, rng)
    results: dict[str, Any] = {}
    for name, metrics in values.items():
        bounds = intervals(metrics, bootstrap)
        row: dict[str, Any] = {k: bound.mean for k, bound in bounds.items()}
        row["ci"] = {k: [bound.low, bound.high] for k, bound in bounds.items()}
        if name in tally.lists:
            row.update(_list_metrics(task, tally, name))
        results[name] = row
    return results


def _list_metrics(task: Task, tally: Tally, name: str) -> dict[str, float]:
    train, cases = task.split.train, task.split.cases
    lists = np.concatenate(tally.lists[name])
    counts = np.bincount(train.item_idx, minlength=train.n_items)
    found = {
        "coverage@10": coverage(lists, train.n_items),
        "exposure_gini@10": exposure_gini(lists, train.n_items),
        "novelty@10": _mean(novelty(lists, counts)),
        "popularity_share@10": _mean(popularity_share(lists, counts)),
    }
    if train.vectors is not None:
        found["diversity@10"] = _mean(intra_list_diversity(lists, train.vectors))
    if "categories" in train.items.columns:
        categories = category_matrix(train.items["categories"])
        if train.vectors is None:
            found["diversity@10"] = _mean(category_diversity(lists, categories))
        users = cases.user_idx[tally.lists["__cases__"][0]]
        found["calibration@10"] = _mean(calibration(lists, train.matrix()[users], categories))
    return found


def _mean(values: Values) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _slices(task: Task, values: Mapping[str, Mapping[str, Values]]) -> dict[str, Any]:
    cases, train = task.split.cases, task.split.train
    masks: dict[str, NDArray[np.bool_]] = dict(history_slices(cases.lengths()))
    if len(cases.targets) == len(cases):
        counts = np.bincount(train.item_idx, minlength=train.n_items)
        masks.update(item_slices(cases.targets, counts))
    last = np.array([h.time[-1] if len(h) else np.nan for h in cases.histories()])
    if not np.isnan(cases.now).all():
        masks.update(gap_slices(cases.now - last))
    shown = {
        name: {k: metrics[k] for k in ("ndcg@10", "hr@10", "recall@10")}
        for name, metrics in values.items()
    }
    return slice_results(masks, shown)


def _cold(
    task: Task,
    values: Mapping[str, Mapping[str, Values]],
    tally: Tally,
    cold_items: NDArray[np.bool_],
    rng: np.random.Generator,
) -> tuple[dict[str, Any], dict[str, float]]:
    """The three parts of `cold`, and the share of NDCG@10 that warm targets lose to cold items."""
    users, cold = task.split.cases.user_idx, cold_items[task.split.cases.targets]
    among = {n: dict(rank_metrics(np.concatenate(r))) for n, r in tally.among_cold.items()}
    inside = {n: {k: v[cold] for k, v in m.items()} for n, m in values.items() if n != WARM_ONLY}
    outside = {n: {k: v[~cold] for k, v in m.items()} for n, m in values.items()}
    of_cold, of_warm = Bootstrap.draw(users[cold], rng), Bootstrap.draw(users[~cold], rng)
    parts = {
        "cold_among_all": bounded_slice(inside, of_cold),
        "cold_among_cold": bounded_slice(among, of_cold),
        "warm": bounded_slice(outside, of_warm),
    }
    ndcg = {name: outside[name]["ndcg@10"] for name in ("blend", WARM_ONLY)}
    lost = compare_all(ndcg, "blend", of_warm)[WARM_ONLY]
    without = max(float(ndcg[WARM_ONLY].mean()), 1e-12)
    return parts, {k: getattr(lost, k) / without for k in ("difference", "low", "high")}


def _paired(
    task: Task, values: Mapping[str, Mapping[str, Values]], rng: np.random.Generator
) -> dict[str, Any]:
    """Each other model minus the blend, NDCG@10 on the same cases."""
    bootstrap = Bootstrap.draw(task.split.cases.user_idx, rng)
    found = compare_all({n: m["ndcg@10"] for n, m in values.items()}, "blend", bootstrap)
    return {name: asdict(row) for name, row in found.items()}


def _weights(model: Model) -> dict[str, dict[str, float]]:
    theta, heads = model.strategy.theta, model.strategy.heads
    return {
        feature: {head: float(theta[h, f]) for h, head in enumerate(heads)}
        for f, feature in enumerate(model.strategy.features)
    }


def _windows(values: Mapping[str, Mapping[str, Values]]) -> list[dict[str, Any]]:
    n = len(next(iter(values.values()))["ndcg@10"])
    rows = []
    for start in range(0, n, WINDOW):
        row: dict[str, Any] = {"from": start, "n": min(WINDOW, n - start)}
        for name, metrics in values.items():
            row[name] = {
                k: float(metrics[k][start : start + WINDOW].mean())
                for k in ("ndcg@10", "recall@10")
            }
        rows.append(row)
    return rows


def _updates(tally: Tally) -> dict[str, float]:
    took = np.array(tally.update_s) if tally.update_s else np.zeros(1)
    return {
        "n": len(tally.update_s),
        "median_ms": float(np.median(took) * 1000),
        "p99_ms": float(np.quantile(took, 0.99) * 1000),
    }


def commit() -> str:
    """The commit of this checkout, with + if it was changed; empty where there is none."""
    here = Path(__file__).parent
    run: Callable[[list[str]], str] = lambda words: subprocess.run(  # noqa: E731
        ["git", *words], cwd=here, capture_output=True, text=True, check=False
    ).stdout.strip()
    head = run(["rev-parse", "--short=12", "HEAD"])
    return head + ("+" if head and run(["status", "--porcelain", "--", "."]) else "")


def machine() -> str:
    """Processor, cores and Python, in words."""
    import os

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.machine()} {platform.system()}"
    return f"{system}, {cores} cores, Python {platform.python_version()}"


def peak_rss_mib() -> float:
    """Most memory this process has held so far."""
    import psutil

    # Linux counts a parent's memory into ru_maxrss of what it starts; VmHWM is our own.
    status = Path("/proc/self/status")
    if status.exists():
        own = status.read_text("ascii", "replace").partition("VmHWM:")[2].split()
        if own:
            return float(own[0]) / 2**10
    info = psutil.Process().memory_info()
    try:
        import resource
    except ImportError:  # Windows keeps the peak in its own field
        return float(getattr(info, "peak_wset", info.rss)) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if platform.system() == "Darwin" else peak / 2**10
