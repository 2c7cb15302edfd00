"""The closed loop: visitors come, a policy shows slates, the world clicks, the policy learns."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats, History, Indices, Times
from steerec.engine.model import Model
from steerec.engine.sampler import conditional_many
from steerec.errors import ConfigError
from steerec.heads.contract import HistoryHead
from steerec.simulation.chance import NOISE, uniform
from steerec.simulation.visits import Visit
from steerec.simulation.world import World

SLATE_S = 60.0  # seconds that pass with each slate in a world without clock


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Settings of a run."""

    slates: int = 20_000
    block: int = 50  # slates shown between two epochs of the tuner
    n: int = 10  # length of a slate
    pool: int = 200  # items that may be drawn, the best of the blend
    temperature: float = 0.1  # nats
    control_share: float = 0.05
    gate_every: int = 2_000  # slates

    def __post_init__(self) -> None:
        if min(self.slates, self.block, self.n, self.gate_every) < 1 or self.pool < self.n:
            raise ConfigError(
                f"simulate: slates={self.slates}, block={self.block}, n={self.n}, "
                f"pool={self.pool}: expected at least 1 each, and a pool of n or more"
            )


@dataclass(frozen=True, eq=False)
class Board:
    """What is known when a block of slates is asked for.

    Attributes:
        progress: share of the run so far.
        now: seconds since the start of the run.
        phi: (n, n_features) float64.
        z: (n_heads, n, n_items) float32.
        allowed: (n, n_items), what may be shown.
        unseen: (n_items,), items that were without events when the heads were fitted.
        truth: (n, n_items) float32 P(click | examined): only oracles may look.
        beside: (n, n_items) float32 nats of items of each one's own, by the θ fitted offline; None:
            the model does not tell them apart.
    """

    visit: Visit
    progress: float
    now: float
    phi: NDArray[np.float64]
    z: Floats
    allowed: NDArray[np.bool_]
    unseen: NDArray[np.bool_]
    truth: Floats
    beside: Floats | None = None


@dataclass(frozen=True, eq=False)
class Served:
    """What was shown and what came of it.

    Attributes:
        pool: (n, n_pool) int32 item indices, -1 where there are fewer.
        scores: (n, n_pool) float64, -inf where there is no item; drawn by scores / temperature.
        places: (n, k) int32 shown, as places in the pool; -1 where nothing was left.
        items: (n, k) int32 the same as item indices.
        propensity: (n, k) float64, given the items above.
        clicks: (n, k) bool.
    """

    pool: Indices
    scores: NDArray[np.float64]
    places: Indices
    items: Indices
    propensity: NDArray[np.float64]
    clicks: NDArray[np.bool_]


class Policy(Protocol):
    """Decides on slates, and may learn from what came of them."""

    @property
    def name(self) -> str:
        """What figures are told under."""
        ...

    @property
    def temperature(self) -> float:
        """Of the sampler, in nats; 0: the best list."""
        ...

    def weigh(self, board: Board) -> Floats:
        """(n, n_items) float32 scores; what is not allowed is masked by the loop."""
        ...

    def learn(self, board: Board, served: Served) -> None:
        """Hear what came of the slates."""
        ...

    def telling(self) -> Mapping[str, Any]:
        """What is worth keeping of this moment, such as head weights."""
        ...


@dataclass(frozen=True, eq=False)
class Trace:
    """One run, a row for each slate.

    Attributes:
        clicks: (n_slates,) int16.
        expected: (n_slates,) float32 clicks that the truth expects of each slate.
        returned: (n_slates,) bool, whether the visitor came back soon.
        told: what the policy told after each block; `notes`: what it decided.
        cpu_s: seconds of the processor that the run took.
    """

    policy: str
    seed: int
    clicks: NDArray[np.int16]
    expected: Floats
    returned: NDArray[np.bool_]
    told: list[Mapping[str, Any]]
    notes: list[str] = field(default_factory=list)
    cpu_s: float = 0.0


@dataclass(eq=False)
class Stage:
    """One run in progress: everybody's history, the live heads, and where the visits are."""

    world: World
    model: Model
    config: LoopConfig
    seed: int
    histories: list[History]
    hidden: NDArray[np.bool_]
    slates: int = 0

    @classmethod
    def set(cls, world: World, model: Model, config: LoopConfig, seed: int) -> "Stage":
        """The beginning of a run; heads that count live count for this run only."""
        heads = {
            name: copy.deepcopy(head) if counts_live(head) else head
            for name, head in model.heads.items()
        }
        return cls(
            world,
            replace(model, heads=heads),
            config,
            seed,
            list(world.starts),
            world.hidden.copy(),
        )

    def board(self, visit: Visit) -> Board:
        """Score the whole catalogue for these visitors."""
        progress = self.slates / self.config.slates
        times = self.world.start_s + visit.time
        people = [self.histories[v] for v in visit.visitor]
        z, phi = self._z(people, times), self.model.phi(people, times)
        allowed = ~self.hidden[visit.visitor] & (self.world.arrives <= progress)
        return Board(
            visit=visit,
            progress=progress,
            now=self._now(visit),
            phi=phi,
            z=z,
            allowed=allowed,
            unseen=self.model.unseen,
            beside=self.model.of_own(z, people, None, phi) if self.model.phi.tells_own else None,
            truth=self.world.interest(progress)[visit.visitor],
        )

    def _now(self, visit: Visit) -> float:
        """Seconds since the start; a world without clock has one by slates."""
        times = visit.time[~np.isnan(visit.time)]
        return float(times.max()) if len(times) else SLATE_S * self.slates

    def _z(self, people: list[History], times: Times) -> Floats:
        lengths = np.array([len(h) for h in people])
        z = np.empty((len(self.model.heads), len(people), self.model.data.n_items), np.float32)
        for row, (name, head) in enumerate(self.model.heads.items()):
            raw = head.score([head.start(h) for h in people], None, times)
            z[row] = self.model.calibrations[name](raw, lengths)
        return z

    def serve(self, board: Board, policy: Policy) -> Served:
        """Draw the slates and let the world click."""
        scores = np.where(board.allowed, policy.weigh(board), -np.inf).astype(np.float64)
        pool, scores = best_of(scores, self.config.pool)
        visit, n = board.visit, min(self.config.n, pool.shape[1])
        keys = scores
        if policy.temperature > 0:
            names = (visit.visitor[:, None], visit.number[:, None], pool + 1)
            gumbel = -np.log(-np.log(uniform(self.seed, NOISE, *names)))
            keys = scores / policy.temperature + gumbel
        places = np.argsort(-keys, axis=1, kind="stable")[:, :n].astype(np.int32)
        there = np.isfinite(np.take_along_axis(scores, places, axis=1))
        propensity = np.ones(places.shape)
        if policy.temperature > 0:
            propensity = conditional_many(scores, places, temperature=policy.temperature)
        items = np.where(there, np.take_along_axis(pool, places, axis=1), -1)
        clicks = self.world.clicks(visit, items, progress=board.progress, seed=self.seed)
        places = np.where(there, places, -1)
        return Served(pool, scores, places, items, np.where(there, propensity, 1.0), clicks)

    def remember(self, board: Board, served: Served) -> None:
        """Clicks enter histories and live heads; what was shown may be hidden from now on."""
        visit, live = board.visit, [h for h in self.model.heads.values() if counts_live(h)]
        times = self.world.start_s + visit.time
        for row, visitor in enumerate(visit.visitor):
            shown, clicked = served.items[row], served.items[row, served.clicks[row]]
            gone = clicked if self.world.forgets else shown[shown >= 0]
            self.hidden[visitor, gone] = True
            for item in clicked:
                before = self.histories[visitor]
                after = before.append(int(item), time=float(times[row]))
                for head in live:
                    head.observe(head.start(before), after.slice(len(before), len(after)))
                self.histories[visitor] = after
        self.slates += len(visit)


def counts_live(head: Any) -> bool:
    """Whether a head changes with events of all users, so that each run needs its own."""
    return getattr(type(head), "observe", None) is not HistoryHead.observe


def best_of(scores: NDArray[np.float64], n: int) -> tuple[Indices, NDArray[np.float64]]:
    """The `n` best columns of each row, rising by column, and their scores; -1 for -inf."""
    columns = np.arange(scores.shape[1])[None].repeat(len(scores), axis=0)
    if n < scores.shape[1]:
        columns = np.sort(np.argpartition(-scores, n - 1, axis=1)[:, :n], axis=1)
        scores = np.take_along_axis(scores, columns, axis=1)
    return np.where(np.isneginf(scores), -1, columns).astype(np.int32), scores


def run(world: World, model: Model, policy: Policy, config: LoopConfig, *, seed: int) -> Trace:
    """Let a policy answer all visits of a run."""
    stage, visits = Stage.set(world, model, config, seed), world.visits(seed)
    clicks, expected, returned = [], [], []
    told: list[Mapping[str, Any]] = []
    while stage.slates < config.slates:
        until_drift = (config.slates // 2 - stage.slates) % config.slates or config.slates
        visit = visits.next(min(config.block, config.slates - stage.slates, until_drift))
        if len(visit) == 0:
            raise ConfigError(
                f"{world.name}: after {stage.slates:,} slates nobody comes any more; "
                f"ask for fewer than {config.slates:,}"
            )
        board = stage.board(visit)
        served = stage.serve(board, policy)
        wanted = world.expected(visit, served.items, progress=board.progress)
        stage.remember(board, served)
        policy.learn(board, served)
        got = served.clicks.sum(axis=1)
        clicks.append(got.astype(np.int16))
        expected.append(wanted.sum(axis=1).astype(np.float32))
        returned.append(visits.tell(visit, got))
        told.append({"slates": stage.slates, **policy.telling()})
    return Trace(
        policy.name,
        seed,
        np.concatenate(clicks),
        np.concatenate(expected),
        np.concatenate(returned),
        told,
        list(getattr(policy, "notes", [])),
    )
