"""Online tuning over the durable log: what was shown and what came of it moves θ, within the guard.

The log holds slates and events in one order. An epoch is a cut in it: whichever process comes first
writes into the store up to which place and as of which time the next epoch is made, and every
process then makes that epoch for itself, of the same rows. So all serve the same θ under the same
number, one that is killed is missed by nobody, and a new one goes on from a checkpoint.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Strategy
from steerec.engine.learning import (
    CONTROL,
    DEFAULT,
    LIVE,
    Frozen,
    Kept,
    Learning,
    TuningConfig,
)
from steerec.engine.logged import Row, rows_after
from steerec.engine.strategies import from_json
from steerec.errors import DataError
from steerec.store import Store
from steerec.store.checkpoints import Checkpoint
from steerec.store.epochs import Cut
from steerec.store.impressions import Impression
from steerec.store.strategies import StrategyVersion
from steerec.tuning.experiments import stable_share
from steerec.tuning.guard import Watch, hold_dials
from steerec.tuning.learner import theta_of
from steerec.tuning.observed import Epoch
from steerec.tuning.personal import Offset

__all__ = ["CONTROL", "LIVE", "Given", "Online", "TuningConfig"]

log = logging.getLogger(__name__)

CHECKPOINT = "tuner"
APART_S = 60.0  # a clock so far behind the last cut's was set back, and goes on cutting
CUTS_KEPT = 1_000  # before the newest checkpoint, for processes that lag behind


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


class Online:
    """Follows a tenant's log and publishes epochs; one thread follows, any number asks.

    Attributes:
        promoted: the strategy in force, that the control arm is shown; epochs stand on it from
            the next cut on.
    """

    def __init__(
        self, tenant: str, store: Store, strategy: Strategy, config: TuningConfig, *, now: float
    ) -> None:
        self.tenant, self.config, self.promoted = tenant, config, strategy
        self._store, self._lock = store, threading.RLock()
        self._kept_at = now
        self._take_up(now)

    def given(
        self, user_id: str | None, session: Sequence[str] = (), *, request_id: str = ""
    ) -> Given:
        """The weights that answer this person now; the arm of nobody is drawn by the request."""
        name = user_id if user_id is not None else "\n".join(session[:1]) or request_id
        # No lock: each of these is read once, and what changes is put in place whole.
        promoted, learning = self.promoted, self._learning
        if not self.config.on:
            return Given(LIVE, promoted.theta, 0)
        if stable_share("control", name) < self.config.guard.control_share:
            return Given(CONTROL, promoted.theta, 0)
        epoch = learning.epoch
        if learning.frozen is not None or learning.strategy.version != promoted.version:
            return Given(LIVE, promoted.theta, 0)
        offset = learning.offsets.get(user_id) if user_id is not None else None
        return Given(LIVE, epoch.theta, epoch.number, offset)

    @property
    def epoch(self) -> Epoch:
        """The epoch in force."""
        return self._learning.epoch

    @property
    def watch(self) -> Watch:
        """Rewards of both arms since the last promotion or return."""
        return self._learning.watch

    @property
    def frozen(self) -> Frozen | None:
        """Why tuning stands still; None: it does not."""
        return self._learning.frozen

    @property
    def counts(self) -> dict[str, int]:
        """Rows read and rewards learnt, by kind."""
        return self._learning.counts

    @property
    def held_back(self) -> float:
        """Shown items that taught nothing, as a person's day or the minute was full."""
        return self._learning.held_back

    @property
    def reactions(self) -> dict[str, int]:
        """Events as answers to lists: how many were joined, and why others were not."""
        return self._learning.reactions

    def temperature(self, scenario: str | None, given: float) -> float:
        """The temperature of a scenario: as given, or what its exploration budget allows.

        The guard's limits on the dial hold, and 0 stays 0.
        """
        wanted = self._learning.temperatures.get(scenario or DEFAULT)
        if wanted is None or given == 0 or not self.config.on:
            return given
        dial = {"temperature": given}
        return hold_dials({"temperature": wanted}, dial, self.config.guard)["temperature"]

    def follow(self, now: float) -> int:
        """Reach the cuts that processes made, and make one where it is time; rows read.

        Raises:
            StorageError: if the store cannot be read.
        """
        if not self.config.on:
            return 0
        before = self._cut
        n_rows = self._reach_all()
        if self._is_time(now):
            n_rows += self._propose(now)
        waited = now - self._kept_at
        if self._cut is not before and not 0 <= waited < self.config.checkpoint_every_s:
            self.keep(now)
        return n_rows

    def promote(self, strategy: Strategy, *, now: float) -> None:
        """Serve another promoted strategy at once; what is learnt stands on it from the next cut.

        Where it weighs other heads or features, nothing that was learnt stays.
        """
        with self._lock:
            other = _axes(strategy) != _axes(self.promoted)
            self.promoted = strategy
            if other:
                self._take_up(now)

    def forget(self, user_id: str) -> None:
        """Drop a person's own weights and open slates; sums over all people keep their part."""
        with self._lock:
            self._learning.forget(user_id)

    def keep(self, now: float) -> None:
        """Write a checkpoint: after a kill, the log is read again from there."""
        if self._cut is None or not self._learns:
            return
        with self._lock:
            based, cut = self._learning.strategy, self._cut
            told = _Checkpoint(
                based.version, based.heads, based.features, cut, self._learning.kept()
            )
        body = msgspec.msgpack.encode(told)
        self._store.checkpoints.put(self.tenant, CHECKPOINT, Checkpoint(cut.seq, body, now))
        self._store.epochs.trim(self.tenant, before=cut.number - CUTS_KEPT)
        self._kept_at = now

    # Inside

    def _take_up(self, now: float) -> None:
        """Start from the checkpoint if it is of such a model; else from the next cut."""
        self._cut: Cut | None = None  # the last one reached
        self._learns = False  # whether that one was of a model such as the one served here
        self._to_read_again: Kept | None = None  # what a checkpoint left open
        self._learning = self._begun(self.promoted, now)
        kept = self._store.checkpoints.get(self.tenant, CHECKPOINT)
        if kept is not None:
            self._restore(kept, now)
        if self.config.on and not self._learns:
            self._reach_all()
            if not self._learns:
                self._propose(now)

    def _begun(self, strategy: Strategy, now: float) -> Learning:
        def pages(request_id: str) -> Sequence[Impression]:
            return self._store.shown.get(self.tenant, request_id)

        return Learning(strategy, self.config, pages, now=now)

    def _restore(self, kept: Checkpoint, now: float) -> None:
        try:
            told = msgspec.msgpack.decode(kept.body, type=_Checkpoint)
            based = self._strategy(told.version)
            if based is None or (told.heads, told.features) != _axes(self.promoted):
                log.info("tenant=%s tuner_checkpoint=other_model", self.tenant)
                return
            learning = self._begun(based, now)
            learning.restore(told.learning)
        except (DataError, KeyError, TypeError, ValueError, msgspec.DecodeError) as e:
            log.warning("tenant=%s tuner_checkpoint=unreadable error=%s", self.tenant, e)
            return
        self._learning, self._to_read_again = learning, told.learning
        self._cut, self._learns = told.cut, True

    def _strategy(self, version: int) -> Strategy | None:
        """A version, if the model served here can show it."""
        if version == self.promoted.version:
            return self.promoted
        stored = self._store.strategies.get(self.tenant, version)
        if stored is None:
            return None
        try:
            found = from_json(stored.strategy, version)
        except DataError as e:  # an old cut's, edited since: another version is in force
            log.error("tenant=%s strategy=unreadable error=%s", self.tenant, e)
            return None
        return found if _axes(found) == _axes(self.promoted) else None

    def _is_time(self, now: float) -> bool:
        """Whether there is something to make an epoch of, and the last one is old enough."""
        last, learning = self._cut, self._learning
        if last is None or not self._learns:  # another model's turn, which may be over
            current = self._store.strategies.current(self.tenant)
            return current is not None and current.version == self.promoted.version
        if learning.strategy.version != self.promoted.version:
            return True
        if -APART_S < now - last.time < self.config.learner.publish_every_s:
            return False
        return self._store.last_seq(self.tenant) > last.seq or learning.is_due(now)

    def _propose(self, now: float) -> int:
        """Cut here, unless another process was first: then there. Rows read."""
        seq, began = self._store.last_seq(self.tenant), not self._learns
        cut = Cut(self._number + 1, seq, now, self.promoted.version)
        own = self._store.epochs.add(self.tenant, cut)
        n_rows = self._reach_all(own=cut if own else None)
        if own and began:
            self.keep(now)
        return n_rows

    @property
    def _number(self) -> int:
        return 0 if self._cut is None else self._cut.number

    def _reach_all(self, own: Cut | None = None) -> int:
        """Reach every cut there is; rows read.

        Args:
            own: the one that this process made.
        """
        n_rows = 0
        while cuts := self._store.epochs.read(self.tenant, after=self._number):
            if self._learns and cuts[0].number > self._number + 1:
                log.warning("tenant=%s tuner=lagged at=%d", self.tenant, self._number)
                self._take_up(cuts[-1].time)
                continue
            for cut in cuts:
                n_rows += self._reach(cut, own=cut == own)
        return n_rows

    def _reach(self, cut: Cut, *, own: bool) -> int:
        """Make the epoch of one cut; rows read."""
        strategy = self._strategy(cut.version)
        if strategy is None or not self._learns:  # of another model, or the first one of this
            with self._lock:
                if strategy is not None:
                    self._learning = self._begun(strategy, cut.time)
                self._cut, self._learns, self._to_read_again = cut, strategy is not None, None
            return 0
        assert self._cut is not None, "it learns from a cut on"
        self._bring_back(self._cut.seq)
        n_rows = 0
        for rows in self._rows(self._cut.seq, cut.seq):
            with self._lock:
                for row in rows:
                    self._learning.take_in(row)
            n_rows += len(rows)
        with self._lock:
            reason = self._learning.cut(cut.time, strategy)
            self._cut = cut
        if reason:
            self._returned(cut, reason, own=own)
        return n_rows

    def _bring_back(self, seq: int) -> None:
        """After a restart: the slates that a checkpoint left open."""
        kept, self._to_read_again = self._to_read_again, None
        if kept is None:
            return
        first = seq
        if kept.since is not None:
            first = max(self._store.shown.first_seq(self.tenant, since=kept.since) - 1, 0)
        rows = (row for some in self._rows(first, seq) for row in some)
        with self._lock:
            self._learning.read_again(rows, kept)

    def _rows(self, after: int, upto: int) -> Iterator[list[Row]]:
        """Rows above one place and up to another, in order, some at a time."""
        for rows, _ in rows_after(self._store, self.tenant, after, upto=upto):
            yield [row for row in rows if row.seq <= upto]

    def _returned(self, cut: Cut, reason: str, *, own: bool) -> None:
        """Every process goes back at the same cut; the one that made it writes it down."""
        log.error("tenant=%s tuning=frozen epoch=%d reason=%s", self.tenant, cut.number, reason)
        if own and cut.version:
            self._store.strategies.promote(
                self.tenant, cut.version, author="guard", now=cut.time, reason=reason[:500]
            )
        if own:
            self.keep(cut.time)  # so that a verb tells of it at once


@dataclass(frozen=True, eq=False)
class Stood:
    """Where the online tuner stood on a version at its last checkpoint.

    Attributes:
        theta: (n_heads, n_features); None: where the version is, or it was not at this one.
        frozen: why it stands still; None: it does not.
    """

    theta: NDArray[np.float64] | None = None
    frozen: Frozen | None = None


def where_it_stood(store: Store, tenant: str, version: StrategyVersion) -> Stood:
    """Where the online tuner stood on this version at its last checkpoint."""
    kept = store.checkpoints.get(tenant, CHECKPOINT)
    if kept is None:
        return Stood()
    try:
        told = msgspec.msgpack.decode(kept.body, type=_Checkpoint)
        theta = theta_of(told.learning.learner)
    except (DataError, msgspec.DecodeError) as e:
        log.warning("tenant=%s tuner_checkpoint=unreadable error=%s", tenant, e)
        return Stood()
    promoted = from_json(version.strategy, version.version)
    if told.version != version.version or theta.shape != promoted.theta.shape:
        return Stood()
    moved = not np.array_equal(theta, promoted.theta)
    return Stood(theta if moved else None, told.learning.frozen)


class _Checkpoint(msgspec.Struct):
    version: int
    heads: tuple[str, ...]
    features: tuple[str, ...]
    cut: Cut
    learning: Kept


def _axes(strategy: Strategy) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return strategy.heads, strategy.features
