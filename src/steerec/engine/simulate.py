"""Simulate: worlds, heads fitted once, and all policies on the same luck."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from steerec.encoders.hashing import HashingEncoder
from steerec.encoders.template import fitting_template, item_texts
from steerec.engine.loop import LoopConfig, Policy, Trace, run
from steerec.engine.loop_figures import figures
from steerec.engine.model import FitConfig, Model, fit
from steerec.engine.oracle_blend import Watched
from steerec.engine.phi import PhiConfig
from steerec.engine.policies import FixedBlend, Oracle, Popularity
from steerec.engine.tuned import Tuned, TunedConfig
from steerec.errors import ConfigError, DataError
from steerec.heads.contract import unwatched
from steerec.simulation.grown import films, shop
from steerec.simulation.jester import jester
from steerec.simulation.world import World

log = logging.getLogger(__name__)

POLICIES = ("popularity", "uniform", "frozen", "ours", "oracle_blend", "oracle")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Place:
    """Where a world comes from, and the heads that make sense in it."""

    folder: str
    build: Callable[[Path, Path | None], World]
    heads: tuple[str, ...]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


# Heads with a long memory, and others with the short one they have for next steps: the blend finds
# out which to believe, and before and after a drift it is not the same.
LONG: Mapping[str, Mapping[str, Any]] = {
    "ease": {"decay": 0.995, "last": 300},
    "als": {"decay": 0.995, "last": 300, "length": 0, "alpha": 5.0},
}
WORLDS: Mapping[str, _Place] = {
    "jester": _Place(
        "jester",
        lambda folder, cache: jester(folder),
        ("trending", "ease", "item_knn", "als", "ratings"),
    ),
    "films": _Place(
        "ml-1m", films, ("trending", "ease", "item_knn", "als", "content", "transitions"), LONG
    ),
    "shop": _Place(
        "online-retail", shop, ("trending", "ease", "item_knn", "als", "content", "repeat"), LONG
    ),
}


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """What is simulated.

    Attributes:
        seeds: number of runs of each policy, with seeds 0, 1, ...
        processes: runs at the same time.
    """

    world: str
    seeds: int = 3
    policies: tuple[str, ...] = POLICIES
    processes: int = 1
    loop: LoopConfig = field(default_factory=LoopConfig)
    tuned: TunedConfig = field(default_factory=TunedConfig)

    def __post_init__(self) -> None:
        if self.world not in WORLDS:
            raise ConfigError(f"world={self.world!r}: expected one of {', '.join(WORLDS)}")
        unknown = [name for name in self.policies if name not in POLICIES]
        if unknown or not self.policies:
            hint = " (benchmarks/tuning runs it)" if "vw" in unknown else ""
            raise ConfigError(
                f"policies {unknown or 'none'}{hint}: expected some of {', '.join(POLICIES)}"
            )
        if min(self.seeds, self.processes) < 1:
            raise ConfigError(f"seeds={self.seeds}, processes={self.processes}: at least 1 each")


@dataclass(frozen=True, eq=False)
class Simulated:
    """What came of it.

    Attributes:
        runs: policy → its runs, by seed.
        seconds: from the start of the runs to their end, without data and fit.
    """

    config: SimulateConfig
    heads: tuple[str, ...]
    data_hash: str
    runs: Mapping[str, Sequence[Trace]]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The figures, as plain numbers."""
        config = self.config
        return {
            "world": config.world,
            "seeds": config.seeds,
            "slates": config.loop.slates,
            "policies": figures(self.runs),
        }


def cores() -> int:
    """Processor cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def simulate(
    config: SimulateConfig, data_dir: Path, cache_dir: Path | None, watch: Progress = unwatched
) -> Simulated:
    """Build the world, fit its heads and run all policies.

    Raises:
        DataError: if the world's data set is not under `data_dir`.
    """
    watch("build the world", 0, 1)
    world = build_world(config.world, data_dir, cache_dir)
    watch("fit the heads", 0, 1)
    model = fit_heads(world)
    began = time.perf_counter()
    runs = run_policies(world, model, config, watch)
    took = time.perf_counter() - began
    heads = model.strategy.heads
    return Simulated(config, heads, world.data.content_hash, runs, took)


def build_world(name: str, data_dir: Path, cache_dir: Path | None) -> World:
    """The world, its items with vectors of their texts."""
    folder = data_dir / WORLDS[name].folder
    if not (folder / "events.parquet").is_file():
        raise DataError(
            f"{folder} holds no events.parquet: --data names the folder in which "
            f"{WORLDS[name].folder}/ lies"
        )
    world = WORLDS[name].build(folder, cache_dir)
    texts = item_texts(world.data.items, fitting_template(world.data.items.columns))
    # Spelling is enough for a head that others outvote, and needs no model.
    vectors = HashingEncoder().encode(texts)
    return replace(world, data=world.data.with_vectors(vectors))


def fit_heads(world: World, heads: tuple[str, ...] = ()) -> Model:
    """The heads and the offline blend, fitted on the world's log alone."""
    config = FitConfig(
        heads=heads or WORLDS[world.name].heads,
        settings=WORLDS[world.name].settings,
        repeats=None if world.name == "shop" else False,
        phi=PhiConfig(taste_dims=0),
    )
    return fit(world.data, config, np.random.default_rng(0))


def run_policies(
    world: World, model: Model, config: SimulateConfig, watch: Progress = unwatched
) -> dict[str, list[Trace]]:
    """Every policy with every seed; several at a time where asked for."""
    jobs = [(name, seed) for seed in range(config.seeds) for name in _order(config.policies)]
    done: dict[str, list[Trace]] = {name: [] for name in config.policies}
    for number, trace in enumerate(traces(world, model, config, jobs)):
        done[trace.policy].append(trace)
        watch(f"{trace.policy}, seed {trace.seed}", number + 1, len(jobs))
    return done


def traces(
    world: World, model: Model, config: SimulateConfig, jobs: Sequence[tuple[str, int]]
) -> Iterator[Trace]:
    """The runs of these policies and seeds, in this order, each as soon as it is there."""
    _SCENE.clear()
    _SCENE.append((world, model, config))
    if config.processes == 1:
        yield from map(_job, jobs)
        return
    # Forked, so that world and heads are shared and not copied through a pipe.
    with ProcessPoolExecutor(config.processes, mp_context=get_context("fork")) as pool:
        yield from pool.map(_job, jobs)


_SCENE: list[tuple[World, Model, SimulateConfig]] = []  # what forked processes find


def _order(policies: tuple[str, ...]) -> list[str]:
    """The longest first, so that no process waits alone at the end."""
    return sorted(policies, key=lambda name: name not in ("oracle_blend", "ours"))


def _job(job: tuple[str, int]) -> Trace:
    name, seed = job
    world, model, config = _SCENE[0]
    began = time.process_time()
    policy = make_policy(name, world, model, config, seed)
    trace = run(world, model, policy, config.loop, seed=seed)
    trace = replace(trace, cpu_s=time.process_time() - began)
    log.info(
        "policy=%s seed=%d clicks_per_1000=%.0f cpu_s=%.1f",
        *(name, seed, 1_000 * trace.clicks.mean(), trace.cpu_s),
    )
    return trace


def make_policy(name: str, world: World, model: Model, config: SimulateConfig, seed: int) -> Policy:
    """A policy at its start; the best blend is fitted on boards of a run of the frozen one."""
    temperature = config.loop.temperature
    if name == "popularity":
        return Popularity(world.data.counts())
    if name == "oracle":
        return Oracle()
    if name == "uniform":
        return FixedBlend.uniform(model, temperature)
    if name == "ours":
        return Tuned(model, config.loop, config.tuned, seed=seed)
    frozen = FixedBlend.frozen(model, temperature)
    if name == "frozen":
        return frozen
    watched = Watched(frozen)
    run(world, model, watched, config.loop, seed=seed)
    return watched.best()
