"""What rows of the log make of a strategy: epochs, personal weights, the comparison of both arms.

The same rows and cuts give the same epochs, in whichever process.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import special

from steerec.contracts import Strategy
from steerec.engine.logged import Row, reaction_of
from steerec.engine.phi import UNSEEN_ITEM
from steerec.errors import ConfigError
from steerec.store.impressions import Impression
from steerec.tuning.design import Design, choose_columns
from steerec.tuning.exploration import ExplorationConfig, temperature
from steerec.tuning.guard import Allowance, GuardConfig, Reference, Watch, hold
from steerec.tuning.joining import Joiner, Outcomes, Shown
from steerec.tuning.learner import Learner, LearnerConfig, OnlineTuner
from steerec.tuning.observed import Epoch, Observed
from steerec.tuning.personal import Offset
from steerec.tuning.prior import Prior
from steerec.tuning.reward import RewardConfig
from steerec.tuning.sequences import MeanSequence

LIVE, CONTROL = "live", "control"
DEFAULT = "default"  # the scenario of requests that name none
OWN_ARMS = (LIVE, CONTROL, None)  # others are of experiments: they teach, and are not compared
EXPLORE_EVERY_S = 60.0  # how often temperatures are found anew
ENOUGH = 20  # reference requests of a scenario, before its temperature is found


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """Settings of online tuning.

    Attributes:
        on: whether what people do moves the strategy; without, it stays as promoted.
        ramps: whether what the log cannot decide is shown to a share of the users.
        trials: strategies that a search tries on the log; 0: none (it needs the extra `search`).
    """

    on: bool = True
    precision: float = 100.0  # how surely the promoted weights are believed, in nats⁻²
    personal: bool = True  # whether each person's own reactions move their own weights a little
    most_people: int = 200_000  # persons whose own weights are kept
    reference: int = 100  # people on whose newest requests the distance to the promoted is taken
    checkpoint_every_s: float = 30.0  # after a kill, so much of the log is read again
    freeze_hours: float = 24.0  # without tuning after the live arm was worse
    ramps: bool = True
    trials: int = 30
    reward: RewardConfig = field(default_factory=RewardConfig)  # what reactions are worth
    learner: LearnerConfig = field(default_factory=LearnerConfig)  # how fast it learns and forgets
    guard: GuardConfig = field(default_factory=GuardConfig)  # what keeps it safe
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)  # what it may cost

    def __post_init__(self) -> None:
        if min(self.precision, self.checkpoint_every_s) <= 0 or self.freeze_hours < 0:
            raise ConfigError("tuning: precision and checkpoint_every_s above 0, freeze_hours >= 0")
        if min(self.most_people, self.reference) < 1 or self.trials < 0:
            raise ConfigError("tuning: most_people and reference at least 1, trials at least 0")


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A request as it was logged.

    Attributes:
        scores: (n_pool, n_heads + 1): calibrated ones, and nats beside them.
    """

    scenario: str
    scores: NDArray[np.float16]
    phi: NDArray[np.float32]


@dataclass(frozen=True)
class Frozen:
    """Why tuning stands still, until when (Unix seconds)."""

    reason: str
    until: float


class Learning:
    """Everything that tuning knows, as of the last row and cut; one thread at a time.

    Args:
        pages: request id → its stored pages.
    Attributes:
        strategy: that epochs stand on.
        watch: rewards of both arms since the last promotion or return.
        offsets: person → their own weights.
        temperatures: scenario → what its exploration budget allows.
        counts: rows read and rewards learnt, by kind.
    """

    def __init__(
        self,
        strategy: Strategy,
        config: TuningConfig,
        pages: Callable[[str], Sequence[Impression]],
        *,
        now: float,
    ) -> None:
        self.strategy, self.config, self._pages = strategy, config, pages
        self.counts = {"impressions": 0, "events": 0, "learnt": 0, "late": 0, "returns": 0}
        self.frozen: Frozen | None = None
        self.offsets: dict[str, Offset] = {}
        self.temperatures: dict[str, float] = {}
        self._explored: int | None = None  # the minute in which temperatures were found
        self._reference: dict[str, Asked] = {}  # of the newest people, each one's newest request
        n_heads, n_features = strategy.theta.shape
        columns = tuple(
            column
            for column in choose_columns(strategy.features, n_heads, n_positions=10)
            if strategy.features[column] != UNSEEN_ITEM  # logged as nats beside, not learnt here
        )
        self._design = Design(n_heads, n_features, columns, 10)
        learner = Learner(self._design, self._prior(), config.learner, now=now)
        self._tuner = OnlineTuner(learner, bound=self._bound)
        self._joiner = Joiner(config.reward)
        self._allowance, self.watch = Allowance(config.guard), Watch()
        self._watched_since = 0.0  # slates shown before it are of θ that are gone

    @property
    def epoch(self) -> Epoch:
        """The epoch in force."""
        return self._tuner.epoch

    @property
    def held_back(self) -> float:
        """Rows that limits took the weight of."""
        return self._allowance.held_back

    @property
    def reactions(self) -> dict[str, int]:
        """What became of reactions, by what the joiner calls it."""
        return self._joiner.counts

    def is_due(self, now: float) -> bool:
        """Whether a cut would make something new, even without new rows."""
        over = self.frozen is not None and now >= self.frozen.until
        return over or self._joiner.is_due(now) or self._tuner.learner.due(now)

    def forget(self, user_id: str) -> None:
        """Drop a person's own weights, newest request and open slates; sums keep their part."""
        self.offsets.pop(user_id, None)
        self._reference.pop(f"user {user_id}", None)
        self._joiner.forget(user_id)

    def kept(self) -> "Kept":
        """What a checkpoint needs; `restore` goes on from it."""
        return Kept(
            learner=self._tuner.state(),
            open=self._joiner.open_pages(),
            since=self._joiner.oldest(),
            prices=self._joiner.prices.values,
            live=_plain(self.watch.live),
            control=_plain(self.watch.control),
            offsets={user: _offset(offset) for user, offset in self.offsets.items()},
            frozen=self.frozen,
            counts=dict(self.counts),
            allowance=self._allowance.state(),
            watched_since=self._watched_since,
        )

    def restore(self, kept: "Kept") -> None:
        """Go on from a checkpoint; `read_again` brings its open slates back.

        Raises:
            DataError, ValueError: if it is of another design, or damaged.
        """
        learner = Learner.from_state(kept.learner, self._design, self._prior(), self.config.learner)
        self._tuner = OnlineTuner(learner, bound=self._bound)
        self.watch = Watch(MeanSequence(*kept.live), MeanSequence(*kept.control))
        self.offsets = {
            user: Offset(np.array(value), np.array(curvature), rows)
            for user, (value, curvature, rows) in kept.offsets.items()
        }
        self.frozen = kept.frozen
        self._allowance.restore(kept.allowance)
        self._watched_since = kept.watched_since
        self.counts.update(kept.counts)

    def read_again(self, rows: Iterable[Row], kept: "Kept") -> None:
        """Bring back the slates that rewards may still reach; what they taught is known already."""
        for row in rows:
            if isinstance(row, Impression):
                self._joiner.show(self._shown(row), row.time)
            else:
                self._joiner.react(reaction_of(row), row.received)
        # A timer may have closed some that the rows alone do not close.
        self._joiner.settle({(request_id, start) for request_id, start in kept.open})
        prices = self._joiner.prices
        if len(kept.prices) == len(prices.values):
            self._joiner.prices = replace(prices, values=kept.prices)

    def take_in(self, row: Row) -> None:
        """One row, in the log's order."""
        if isinstance(row, Impression):
            self.counts["impressions"] += 1
            for outcomes in self._joiner.show(self._shown(row), row.time):
                self._learn(outcomes, row.time)
            return
        self.counts["events"] += 1
        late = self._joiner.react(reaction_of(row), row.received)
        if late is not None:
            self._learn(late, row.received)

    def _shown(self, row: Impression) -> Shown:
        """A page with the scores of its items; a later page's stand with the first."""
        first = row
        if row.start and not row.pool:
            pages = self._pages(row.request_id)
            first = pages[0] if pages and pages[0].pool else row
        place = dict(zip(first.pool, range(len(first.pool)), strict=True))
        items = tuple(item for item in row.items if item in place)
        scores = first.scores[[place[item] for item in items]].astype(np.float64)
        z = self._by_head(scores, tuple(first.more.get("heads", ())))
        extra = scores[:, -1] if len(items) else np.zeros(0)  # nats, as they were shown
        if row.start == 0 and len(first.pool) > 1 and row.arm in OWN_ARMS:
            who = f"request {row.request_id}" if row.user_id is None else f"user {row.user_id}"
            self._refer(who, Asked(row.scenario or DEFAULT, first.scores, first.phi))
        return Shown(
            row.request_id,
            row.user_id,
            items,
            row.time,
            z,
            first.phi.astype(np.float64),
            row.scenario,
            row.arm or LIVE,
            row.start,
            extra,
        )

    def _by_head(self, scores: NDArray[np.float64], names: tuple[str, ...]) -> NDArray[np.float64]:
        """(n_items, n_heads): the columns of the heads, 0 where one did not answer."""
        heads = self.strategy.heads
        if names[: len(heads)] == heads:  # nearly always
            return np.ascontiguousarray(scores[:, : len(heads)])
        z = np.zeros((len(scores), len(heads)))
        for column, name in enumerate(heads):
            if name in names:
                z[:, column] = scores[:, names.index(name)]
        return z

    def _refer(self, who: str, asked: Asked) -> None:
        """One request a person: who asks often shall not decide what distances are measured on."""
        self._reference.pop(who, None)
        self._reference[who] = asked
        while len(self._reference) > self.config.reference:
            del self._reference[next(iter(self._reference))]

    def _learn(self, outcomes: Outcomes, now: float) -> None:
        shown = outcomes.shown
        if (
            shown.z.shape[1:] != (self._design.n_heads,)
            or len(shown.phi) != self._design.n_features
        ):
            return  # of a strategy before the last fit
        observed = outcomes.observed()
        observed = replace(observed, extra=self.epoch.gamma * observed.extra)
        if outcomes.late:
            self.counts["late"] += 1
            self._tuner.amend(observed)
            return
        self.counts["learnt"] += 1
        weight = self._allowance.weights([shown.user_id] * len(observed), now)
        if weight.any():  # whose day is full has no say here either
            self._compare(shown, float(outcomes.reward.sum()))
        offset = None
        if shown.user_id is not None and shown.arm == LIVE and self.config.personal:
            offset = self.offsets.get(shown.user_id, Offset.none(self._design.n_heads))
            self.offsets.pop(shown.user_id, None)  # to the end: the longest silent go first
            self.offsets[shown.user_id] = offset.after(observed, self.epoch)
            while len(self.offsets) > self.config.most_people:
                del self.offsets[next(iter(self.offsets))]
        extra = observed.extra
        if offset is not None:
            w = self.epoch.theta @ shown.phi
            extra = extra + self.epoch.gamma * observed.z @ offset.within(w)
        self._tuner.observe(
            Observed(observed.z, observed.phi, observed.position, observed.reward, weight, extra)
        )

    def _compare(self, shown: Shown, won: float) -> None:
        """A slate's reward in its arm; one that was open at a return or promotion tells of before.

        While tuning stands still both arms are shown the same, so that there is nothing to compare.
        """
        if self.frozen is None and shown.arm in OWN_ARMS and shown.time >= self._watched_since:
            self.watch = self.watch.after(shown.arm, won, self.config.guard)

    def cut(self, now: float, strategy: Strategy) -> str:
        """Close pages and make an epoch; why it went back to the promoted strategy, or "".

        Args:
            strategy: in force from here on; of the same heads and features.
        """
        for outcomes in self._joiner.close(now):
            self._learn(outcomes, now)
        if strategy.version != self.strategy.version:
            self.strategy, self.watch, self.frozen = strategy, Watch(), None
            self._watched_since = now
            self._tuner.restart(self._prior(), now)
        if self.frozen is not None and now >= self.frozen.until:
            self.frozen, self._watched_since = None, now
            self._tuner.restart(self._prior(), now)
        verdict = self.watch.verdict(self.config.guard)
        if not verdict.go:
            self._return(verdict.reason, now)
        if self.frozen is None:
            self._tuner.publish(now)
        if int(now // EXPLORE_EVERY_S) != self._explored:  # the same in all processes
            self._explored = int(now // EXPLORE_EVERY_S)
            self._explore()
        return "" if verdict.go else verdict.reason

    def _explore(self) -> None:
        """The highest temperature of each scenario that costs no more than its budget."""
        self.temperatures = {}
        for scenario in sorted({asked.scenario for asked in self._reference.values()}):
            some = [one for one in self._reference.values() if one.scenario == scenario]
            found = self._references(some)
            if self.config.exploration.of(scenario) == 0 or found is None or len(some) < ENOUGH:
                continue
            w, epoch = found.phi @ self.epoch.theta.T, self.epoch
            scores = np.where(
                found.open, np.einsum("nh,nph->np", w, found.z) + found.extra, -np.inf
            )
            context = epoch.b_position[0] + found.phi @ epoch.b_context
            log_odds = epoch.gamma * np.where(found.open, scores, 0.0) + context[:, None]
            self.temperatures[scenario] = temperature(
                scores, special.expit(log_odds), scenario=scenario, config=self.config.exploration
            )

    def _return(self, reason: str, now: float) -> None:
        """Back to the promoted strategy: the live arm was worse for sure."""
        until = now + self.config.freeze_hours * 3_600
        self.frozen, self.watch = Frozen(reason, until), Watch()
        self.counts["returns"] += 1
        self.offsets.clear()
        self._tuner.restart(self._prior(), now)

    def _prior(self) -> Prior:
        return Prior(self.strategy.theta, self.config.precision)

    def _bound(self, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        """θ that spreads scores as the promoted one does, within the guard's distance of it."""
        reference = self._references()
        if reference is None or not np.isfinite(theta).all():
            return self.strategy.theta
        promoted = self.strategy.theta
        spread = reference.as_spread(theta, promoted)
        return hold(spread, promoted, reference, self.config.guard.most_nats)[0]

    def _references(self, asked: Iterable[Asked] | None = None) -> Reference | None:
        """Newest requests, or some of them, as arrays; None where none is of these heads."""
        n_heads, n_features = self.strategy.theta.shape
        fitting = [
            one
            for one in (self._reference.values() if asked is None else asked)
            if one.scores.shape[1] == n_heads + 1 and len(one.phi) == n_features
        ]
        if not fitting:
            return None
        width = max(len(one.scores) for one in fitting)
        z = np.zeros((len(fitting), width, n_heads), np.float32)
        extra, may = np.zeros((len(fitting), width)), np.zeros((len(fitting), width), bool)
        for row, one in enumerate(fitting):
            n = len(one.scores)
            z[row, :n], extra[row, :n], may[row, :n] = one.scores[:, :-1], one.scores[:, -1], True
        phi = np.stack([one.phi for one in fitting]).astype(np.float64)
        return Reference(z, phi, may, extra)


class Kept(msgspec.Struct):
    """A checkpoint's body, but for where in the log it stands."""

    learner: bytes
    open: list[tuple[str, int]]
    since: float | None
    prices: tuple[float, ...]
    live: tuple[int, float, float]
    control: tuple[int, float, float]
    offsets: dict[str, tuple[list[float], list[float], float]]
    frozen: Frozen | None
    counts: dict[str, int]
    allowance: dict[str, Any]
    watched_since: float = 0.0


def _plain(sequence: MeanSequence) -> tuple[int, float, float]:
    return sequence.n, sequence.total, sequence.spread


def _offset(offset: Offset) -> tuple[list[float], list[float], float]:
    return offset.value.tolist(), offset.curvature.tolist(), offset.rows
