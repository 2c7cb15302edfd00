"""Online tuning over the durable log: what was shown and what came of it moves θ, within the guard.

The log holds slates and events in one order, so one follower of it is all that tuning needs: after
a kill it goes on from its checkpoint and reads the rest again, and of several processes only the
one that follows learns, while all serve the epoch it publishes.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Strategy
from steerec.engine.logged import reaction_of, rows_after
from steerec.engine.phi import UNSEEN_ITEM
from steerec.errors import ConfigError, DataError
from steerec.store import Store
from steerec.store.checkpoints import Checkpoint
from steerec.store.impressions import Impression
from steerec.store.log import LoggedEvent
from steerec.tuning.design import Design, choose_columns
from steerec.tuning.experiments import stable_share
from steerec.tuning.guard import Allowance, GuardConfig, Reference, Watch, hold
from steerec.tuning.joining import Joiner, Outcomes, Shown
from steerec.tuning.learner import Learner, LearnerConfig, OnlineTuner
from steerec.tuning.observed import Epoch, Observed
from steerec.tuning.personal import Offset
from steerec.tuning.prior import Prior
from steerec.tuning.reward import RewardConfig
from steerec.tuning.sequences import MeanSequence

log = logging.getLogger(__name__)

LIVE, CONTROL = "live", "control"
OWN_ARMS = (LIVE, CONTROL, None)  # others are of experiments: they teach, and are not compared
CHECKPOINT = "tuner"
DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """Settings of online tuning.

    Attributes:
        on: whether what people do moves the strategy; without, it stays as promoted.
    """

    on: bool = True
    precision: float = 100.0  # how surely the promoted weights are believed, in nats⁻²
    personal: bool = True  # whether each person's own reactions move their own weights a little
    most_people: int = 200_000  # persons whose own weights are kept
    reference: int = 100  # newest requests that the distance to the promoted strategy is taken on
    checkpoint_every_s: float = 30.0  # after a kill, so much of the log is read again
    freeze_hours: float = 24.0  # without tuning after the live arm was worse
    reward: RewardConfig = field(default_factory=RewardConfig)  # what reactions are worth
    learner: LearnerConfig = field(default_factory=LearnerConfig)  # how fast it learns and forgets
    guard: GuardConfig = field(default_factory=GuardConfig)  # what keeps it safe

    def __post_init__(self) -> None:
        if min(self.precision, self.checkpoint_every_s) <= 0 or self.freeze_hours < 0:
            raise ConfigError("tuning: precision and checkpoint_every_s above 0, freeze_hours >= 0")
        if min(self.most_people, self.reference) < 1:
            raise ConfigError("tuning: most_people and reference must be at least 1")


@dataclass(frozen=True, eq=False)
class Given:
    """What answers one request: an arm's weights.

    Attributes:
        theta: (n_heads, n_features).
        offset: of the person; None: none, or the control arm.
    """

    arm: str
    theta: NDArray[np.float64]
    epoch: int
    offset: Offset | None = None

    def turned(self, w: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n_heads,) head weights with the person's own part."""
        return w if self.offset is None else w + self.offset.within(w)


@dataclass(frozen=True)
class Frozen:
    """Why tuning stands still, until when (Unix seconds)."""

    reason: str
    until: float


class Online:
    """Follows a tenant's log and publishes epochs; one thread follows, any number asks.

    Attributes:
        promoted: the strategy that epochs stand on, and that the control arm is shown.
        counts: rows read and rewards learnt, by kind.
    """

    promoted: Strategy
    _design: Design
    _tuner: OnlineTuner
    _joiner: Joiner
    _allowance: Allowance
    _watch: Watch
    _seq: int

    def __init__(
        self, tenant: str, store: Store, strategy: Strategy, config: TuningConfig, *, now: float
    ) -> None:
        self.tenant, self.config = tenant, config
        self.counts = {"impressions": 0, "events": 0, "learnt": 0, "late": 0, "returns": 0}
        self.frozen: Frozen | None = None
        self._store, self._lock = store, threading.RLock()
        self._offsets: dict[str, Offset] = {}
        self._reference: deque[tuple[NDArray[np.float16], NDArray[np.float32]]] = deque(
            maxlen=config.reference
        )
        self._temperature = 1.0
        self._kept_at = now
        self._to_read_again: _Kept | None = None  # what a checkpoint left open
        self._take_up(strategy, now)

    def given(self, user_id: str | None, session: Sequence[str] = ()) -> Given:
        """The weights that answer this person now."""
        name = user_id if user_id is not None else "\n".join(session[:1])
        # No lock: each of these is read once, and what changes is put in place whole.
        promoted, epoch = self.promoted, self.epoch
        if not self.config.on:
            return Given(LIVE, promoted.theta, 0)
        if stable_share("control", name) < self.config.guard.control_share:
            return Given(CONTROL, promoted.theta, 0)
        if self.frozen is not None:
            return Given(LIVE, promoted.theta, 0)
        offset = self._offsets.get(user_id) if user_id is not None else None
        return Given(LIVE, epoch.theta, epoch.number, offset)

    @property
    def epoch(self) -> Epoch:
        """The epoch in force."""
        return self._tuner.epoch

    @property
    def watch(self) -> Watch:
        """Rewards of both arms since the last promotion or return."""
        return self._watch

    def follow(self, now: float) -> int:
        """Read on in the log, learn, and publish an epoch if one is due; rows read.

        Raises:
            StorageError: if the store cannot be read.
        """
        if not self.config.on:
            return 0
        n_rows = 0
        if self._to_read_again is not None:
            self._read_again(self._to_read_again)
            self._to_read_again = None
        for rows in self._unread():
            with self._lock:
                for row in rows:
                    self._take_in(row)
            n_rows += len(rows)
        with self._lock:
            for outcomes in self._joiner.close(now):
                self._learn(outcomes, now)
            self._publish(now)
        if now - self._kept_at >= self.config.checkpoint_every_s and n_rows:
            self.keep(now)
        return n_rows

    def promote(self, strategy: Strategy, *, now: float, keep: float = 0.0) -> None:
        """Go on from another promoted strategy.

        Args:
            keep: share of what was learnt that stays; 0 where heads were fitted anew.
        """
        with self._lock:
            if (strategy.heads, strategy.features) == (self.promoted.heads, self.promoted.features):
                self.promoted = strategy
                self._tuner.restart(self._prior(), now, keep=keep)
                self._watch, self.frozen = Watch(), None
            else:
                self._offsets.clear()
                self._reference.clear()
                self._begin(strategy, now)

    def forget(self, user_id: str) -> None:
        """Drop a person's own weights and open slates; sums over all people keep their part."""
        with self._lock:
            self._offsets.pop(user_id, None)
            self._joiner.forget(user_id)

    def keep(self, now: float) -> None:
        """Write a checkpoint: after a kill, the log is read again from there."""
        with self._lock:
            body = msgspec.msgpack.encode(
                {
                    "version": self.promoted.version,
                    "heads": self.promoted.heads,
                    "features": self.promoted.features,
                    "learner": self._tuner.state(),
                    "seq": self._seq,
                    "open": self._joiner.open_pages(),
                    "since": self._joiner.oldest(),
                    "prices": self._joiner.prices.values,
                    "live": _plain(self._watch.live),
                    "control": _plain(self._watch.control),
                    "offsets": {u: _offset(o) for u, o in self._offsets.items()},
                    "frozen": self.frozen,
                    "counts": self.counts,
                }
            )
            seq = self._seq
        self._store.checkpoints.put(self.tenant, CHECKPOINT, Checkpoint(seq, body, now))
        self._kept_at = now

    # Inside

    def _take_up(self, strategy: Strategy, now: float) -> None:
        """Start from the checkpoint if it is of this strategy, else from the end of the log."""
        self._begin(strategy, now)
        kept = self._store.checkpoints.get(self.tenant, CHECKPOINT)
        if kept is None:
            return
        try:
            told = msgspec.msgpack.decode(kept.body)
            same = (tuple(told["heads"]), tuple(told["features"]), told["version"])
            if same != (strategy.heads, strategy.features, strategy.version):
                log.info("tenant=%s tuner_checkpoint=other_strategy", self.tenant)
                return
            self._restore(told, now)
        except (DataError, KeyError, TypeError, ValueError, msgspec.DecodeError) as e:
            log.warning("tenant=%s tuner_checkpoint=unreadable error=%s", self.tenant, e)
            self._begin(strategy, now)

    def _begin(self, strategy: Strategy, now: float) -> None:
        self.promoted = strategy
        n_heads, n_features = strategy.theta.shape
        columns = tuple(
            column
            for column in choose_columns(strategy.features, n_heads, n_positions=10)
            if strategy.features[column] != UNSEEN_ITEM  # logged as nats beside, not learnt here
        )
        self._design = Design(n_heads, n_features, columns, 10)
        learner = Learner(self._design, self._prior(), self.config.learner, now=now)
        self._tuner = OnlineTuner(learner, bound=self._bound)
        self._joiner = Joiner(self.config.reward)
        self._allowance, self._watch = Allowance(self.config.guard), Watch()
        self._seq = self._store.last_seq(self.tenant)

    def _restore(self, told: Mapping[str, object], now: float) -> None:
        kept = msgspec.convert(told, _Kept)
        learner = Learner.from_state(kept.learner, self._design, self._prior(), self.config.learner)
        self._tuner = OnlineTuner(learner, bound=self._bound)
        self._watch = Watch(MeanSequence(*kept.live), MeanSequence(*kept.control))
        self._offsets = {
            user: Offset(np.array(value), np.array(curvature), rows)
            for user, (value, curvature, rows) in kept.offsets.items()
        }
        if kept.frozen is not None and kept.frozen.until > now:
            self.frozen = kept.frozen
        self.counts.update(kept.counts)
        self._seq, self._to_read_again = kept.seq, kept

    def _read_again(self, kept: "_Kept") -> None:
        """Bring back the slates that rewards may still reach; what they taught is known already."""
        if kept.since is not None:
            self._seq = max(self._store.shown.first_seq(self.tenant, since=kept.since) - 1, 0)
            for rows in self._unread(upto=kept.seq):
                for row in rows:
                    if row.seq > kept.seq:
                        break
                    if isinstance(row, Impression):
                        self._joiner.show(self._shown(row), row.time)
                    else:
                        self._joiner.react(reaction_of(row), row.received)
        # A timer may have closed some that the rows alone do not close.
        self._joiner.settle({(request_id, start) for request_id, start in kept.open})
        prices = self._joiner.prices
        if len(kept.prices) == len(prices.values):
            self._joiner.prices = replace(prices, values=kept.prices)
        self._seq = kept.seq

    def _unread(self, *, upto: int | None = None) -> Iterator[list[Impression | LoggedEvent]]:
        """Rows after the last one read, in order, some at a time; then they count as read."""
        for rows, end in rows_after(self._store, self.tenant, self._seq, upto=upto):
            yield rows
            self._seq = end

    def _take_in(self, row: Impression | LoggedEvent) -> None:
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
            pages = self._store.shown.get(self.tenant, row.request_id)
            first = pages[0] if pages and pages[0].pool else row
        place = {item: at for at, item in enumerate(first.pool)}
        items = tuple(item for item in row.items if item in place)
        heads = list(first.more.get("heads", ()))
        scores = first.scores[[place[item] for item in items]].astype(np.float64)
        z = np.zeros((len(items), len(self.promoted.heads)))
        for column, name in enumerate(self.promoted.heads):
            if name in heads:
                z[:, column] = scores[:, heads.index(name)]
        extra = self.epoch.gamma * scores[:, -1] if len(items) else np.zeros(0)
        if row.start == 0 and len(first.pool) > 1 and row.arm in OWN_ARMS:
            self._reference.append((first.scores[:, :-1], first.phi))
            self._temperature = max(float(first.more.get("temperature", 0.0)), 1.0)
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

    def _learn(self, outcomes: Outcomes, now: float) -> None:
        shown = outcomes.shown
        if (
            shown.z.shape[1:] != (self._design.n_heads,)
            or len(shown.phi) != self._design.n_features
        ):
            return  # of a strategy before the last fit
        observed = outcomes.observed()
        if outcomes.late:
            self.counts["late"] += 1
            self._tuner.amend(observed)
            return
        self.counts["learnt"] += 1
        if shown.arm in OWN_ARMS:
            won = float(outcomes.reward.sum())
            self._watch = self._watch.after(shown.arm, won, self.config.guard)
        weight = self._allowance.weights([shown.user_id] * len(observed), now)
        offset = None
        if shown.user_id is not None and shown.arm == LIVE and self.config.personal:
            offset = self._offsets.get(shown.user_id, Offset.none(self._design.n_heads))
            self._offsets.pop(shown.user_id, None)  # to the end: the longest silent go first
            self._offsets[shown.user_id] = offset.after(observed, self.epoch)
            while len(self._offsets) > self.config.most_people:
                del self._offsets[next(iter(self._offsets))]
        extra = observed.extra
        if offset is not None:
            w = self.epoch.theta @ shown.phi
            extra = extra + self.epoch.gamma * observed.z @ offset.within(w)
        self._tuner.observe(
            Observed(observed.z, observed.phi, observed.position, observed.reward, weight, extra)
        )

    def _publish(self, now: float) -> None:
        if self.frozen is not None and now >= self.frozen.until:
            self.frozen = None
            self._tuner.restart(self._prior(), now)
        verdict = self._watch.verdict(self.config.guard)
        if not verdict.go:
            self._return(verdict.reason, now)
        if self.frozen is None:
            self._tuner.publish(now)

    def _return(self, reason: str, now: float) -> None:
        """Back to the promoted strategy: the live arm was worse for sure."""
        until = now + self.config.freeze_hours * 3_600
        log.error("tenant=%s tuning=frozen until=%.0f reason=%s", self.tenant, until, reason)
        self.frozen, self._watch = Frozen(reason, until), Watch()
        self.counts["returns"] += 1
        self._offsets.clear()
        self._tuner.restart(self._prior(), now)
        if self.promoted.version:
            self._store.strategies.promote(
                self.tenant, self.promoted.version, author="guard", now=now, reason=reason[:500]
            )

    def _prior(self) -> Prior:
        return Prior(self.promoted.theta, self.config.precision)

    def _bound(self, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        """θ as long as the promoted one, and within the guard's distance of it."""
        reference = self._references()
        if reference is None or not np.isfinite(theta).all():
            return self.promoted.theta
        promoted = self.promoted.theta
        wanted, has = (float(np.linalg.norm(reference.phi @ t.T)) for t in (promoted, theta))
        loud = theta * (wanted / has) if has > 0 else theta
        return hold(loud, promoted, reference, self.config.guard.most_nats)[0]

    def _references(self) -> Reference | None:
        n_heads, n_features = self.promoted.theta.shape
        fitting = [
            (z, phi)
            for z, phi in self._reference
            if z.shape[1] == n_heads and len(phi) == n_features
        ]
        if not fitting:
            return None
        width = max(len(z) for z, _ in fitting)
        z = np.zeros((len(fitting), width, n_heads), np.float32)
        may = np.zeros((len(fitting), width), bool)
        for row, (scores, _) in enumerate(fitting):
            z[row, : len(scores)], may[row, : len(scores)] = scores, True
        phi = np.stack([phi for _, phi in fitting]).astype(np.float64)
        return Reference(z, phi, may, self._temperature)


class _Kept(msgspec.Struct):
    learner: bytes
    seq: int
    open: list[tuple[str, int]]
    since: float | None
    prices: tuple[float, ...]
    live: tuple[int, float, float]
    control: tuple[int, float, float]
    offsets: dict[str, tuple[list[float], list[float], float]]
    frozen: Frozen | None
    counts: dict[str, int]


def _plain(sequence: MeanSequence) -> tuple[int, float, float]:
    return sequence.n, sequence.total, sequence.spread


def _offset(offset: Offset) -> tuple[list[float], list[float], float]:
    return offset.value.tolist(), offset.curvature.tolist(), offset.rows
