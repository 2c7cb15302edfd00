"""Run a protocol: fit on its training part, foretell its cases, and measure with intervals."""

import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerec.data.dataset import Dataset
from steerec.engine.ablation import without_each
from steerec.engine.blend import Examples
from steerec.engine.foretell import WARM_ONLY, Beside, Tally, foretell
from steerec.engine.lessons import Aids
from steerec.engine.model import FitConfig, Model, Progress, fit
from steerec.errors import ConfigError
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
from steerec.evaluation.protocols import Task
from steerec.evaluation.slices import (
    bounded_slice,
    gap_slices,
    history_slices,
    item_slices,
    slice_results,
)

Values = NDArray[np.float64]
ABLATED = ("ndcg@10", "hr@10", "recall@10")
WINDOW = 5_000  # events of one window of `stream`


def evaluate(
    task: Task,
    config: FitConfig,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    ablation: bool = False,
) -> dict[str, Any]:
    """Fit and measure; the result is what `steerec evaluate --json` writes.

    Args:
        ablation: also measure the blend without each head, with weights fitted anew.
    Raises:
        ConfigError: if `ablation` is asked for and the blend is another one after each fit.
        DataError: if the training part is too small to fit anything.
    """
    if ablation and task.refits:
        raise ConfigError(
            f"ablation with track {task.track}: the blend is another one after each new fit: ask "
            "for track live, or leave the ablation out"
        )
    rng = np.random.default_rng(seed)
    config = replace(
        config,
        holdout=task.holdout,
        repeats=task.repeats,
        only_new=task.only_new,
        withhold_last=task.holdout == "last",
    )
    began = time.perf_counter()
    kept: list[Examples] = []
    aids = Aids(learnt_from=kept.append if ablation else lambda _: None)
    model = fit(task.split.train, config, rng, progress=progress, aids=aids)
    fitted = time.perf_counter()
    less = without_each(model, kept.pop(), config.blend) if ablation else {}
    refitted = time.perf_counter()
    anew = partial(_anew, config, rng.spawn(1)[0], progress) if task.refits else None
    beside = Beside(config.pool, less, anew)
    tally = foretell(task, model, rng, beside=beside, progress=progress)
    result = _told(task, model, tally, rng)
    result["seconds"] = {"fit": fitted - began, "evaluate": time.perf_counter() - refitted}
    if less:
        result["seconds"]["ablation"] = refitted - fitted
    return {"seed": seed, **result}


def _anew(
    config: FitConfig, rng: np.random.Generator, progress: Progress | None, data: Dataset
) -> Model:
    return fit(data, config, rng.spawn(1)[0], progress=progress)


def _told(task: Task, model: Model, tally: Tally, rng: np.random.Generator) -> dict[str, Any]:
    """All that is known of the cases once they are foretold."""
    values = _values(task, tally)
    result: dict[str, Any] = {
        "protocol": task.protocol,
        "track": task.track,
        "commit": commit(),
        "machine": machine(),
        "data_hash": task.split.cases.data.content_hash,
        "requests": len(task.split.cases),
        "users": len(np.unique(task.split.cases.user_idx)),
        "fit_seconds": dict(model.seconds),
        "peak_rss_mib": peak_rss_mib(),
        "results": _results(task, values, tally, rng),
        "slices": _slices(task, values),
        "paired": _paired(task, values, rng),
        "reliability": {name: r.to_json() for name, r in tally.reliability.items()},
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
    if tally.refits:
        result["refits"] = tally.refits
    if tally.without:
        result["ablation"] = _ablation(task, values["blend"], tally, rng)
    return result


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


def _ablation(
    task: Task, whole: Mapping[str, Values], tally: Tally, rng: np.random.Generator
) -> dict[str, Any]:
    """Head → figures of the blend without it, and how much higher the whole blend is."""
    cases = task.split.cases
    bootstrap = Bootstrap.draw(cases.user_idx, rng)
    group = np.repeat(np.arange(len(cases)), np.diff(cases.offsets))
    found: dict[str, Any] = {}
    for name, ranks in tally.without.items():
        less = rank_metrics(np.concatenate(ranks), group=group)
        row: dict[str, Any] = {}
        for metric in ABLATED:
            pair = {"whole": whole[metric], "less": less[metric]}
            row[metric] = float(less[metric].mean())
            row[f"{metric} lost"] = asdict(compare_all(pair, "less", bootstrap)["whole"])
        found[name] = row
    return found


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
