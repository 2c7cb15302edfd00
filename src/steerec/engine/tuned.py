"""The policy that learns: online tuner, guard with a control arm, and the offline gate."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Floats
from steerec.engine.loop import Board, LoopConfig, Served
from steerec.engine.model import UNSEEN_DIAL, Model
from steerec.engine.phi import UNSEEN_ITEM
from steerec.engine.policies import Theta, blended
from steerec.simulation.chance import uniform
from steerec.tuning.design import Design, choose_columns
from steerec.tuning.guard import Allowance, GuardConfig, Reference, Watch, hold
from steerec.tuning.learner import Learner, LearnerConfig, OnlineTuner
from steerec.tuning.observed import Epoch, Observed
from steerec.tuning.ope.estimators import Reading, prepare, read
from steerec.tuning.ope.gate import Decision, decide
from steerec.tuning.ope.log import SlateLog
from steerec.tuning.ope.softmax import softmax_policy
from steerec.tuning.personal import Offset
from steerec.tuning.prior import Prior

STEPS = (1.0, 0.5)  # parts of the way to what was learnt that are proposed, longest first
ARM = 5  # what a number of `chance` decides here


@dataclass(frozen=True, kw_only=True)
class TunedConfig:
    """Settings of the policy beside those of the loop.

    Attributes:
        reference: requests that the distance to the promoted strategy is measured on.
        keep: share of what was learnt that stays when a strategy is promoted.
        log_slates: newest slates that the gate reads.
        precision: of the prior around the promoted θ, in nats⁻².
        personal: whether each visitor has an offset.
    """

    reference: int = 40
    keep: float = 1.0
    log_slates: int = 3_000
    precision: float = 100.0
    personal: bool = True
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)


@dataclass(frozen=True, eq=False)
class _Logged:
    """One block of slates for the gate; arrays as in Board and Served, but for pools only."""

    z: NDArray[np.float16]
    phi: NDArray[np.float64]
    unseen: NDArray[np.bool_]
    served: Served
    visitor: NDArray[np.int32]
    offset: NDArray[np.float64]
    beside: Floats | None

    def scores(self, theta: Theta, column: int, nats: float) -> NDArray[np.float64]:
        """(n, n_pool): w·z under θ with each person's own offset, -inf where there is no item."""
        z = self.z.astype(np.float32)
        w = (self.phi @ theta.T + self.offset).astype(np.float32)
        found = np.einsum("nh,nph->np", w, z)
        more = np.einsum("h,nph->np", theta[:, column].astype(np.float32), z) + np.float32(nats)
        found += np.where(self.unseen, more, np.float32(0))
        found += 0 if self.beside is None else self.beside
        return np.where(self.served.pool >= 0, found, -np.inf)


class Tuned:
    """`ours`: every block of slates moves θ within the guard; the gate promotes now and then.

    Attributes:
        promoted: θ of the promoted strategy, which the control arm is shown.
        notes: what was promoted, kept or taken back, and why.
    """

    name = "ours"

    def __init__(self, model: Model, loop: LoopConfig, config: TunedConfig, *, seed: int) -> None:
        strategy = model.strategy
        self.temperature = loop.temperature
        self.promoted = strategy.theta
        self.notes: list[str] = []
        self._loop, self._config, self._seed = loop, config, seed
        self._column = strategy.features.index(UNSEEN_ITEM)
        self._nats = strategy.dials.get(UNSEEN_DIAL, 0.0)
        n_heads, n_features = strategy.theta.shape
        columns = choose_columns(strategy.features, n_heads, n_positions=loop.n)
        design = Design(n_heads, n_features, columns, loop.n)
        prior = Prior(strategy.theta, config.precision)
        learner = Learner(design, prior, config.learner, now=0.0)
        self._tuner = OnlineTuner(learner, bound=self._bound)
        self._allowance, self._watch = Allowance(config.guard), Watch()
        self._reference: Reference | None = None
        self._offsets: dict[int, Offset] = {}
        self._own = np.zeros((0, n_heads))  # the offsets of the block that was asked for last
        self._log: list[_Logged] = []
        self._slates, self._due = 0, loop.gate_every

    def weigh(self, board: Board) -> Floats:
        """See Policy."""
        control = self._in_control(board)
        live = board.phi @ self._epoch.theta.T
        self._own = self._offsets_of(board, live, control)
        weights = np.where(control[:, None], board.phi @ self.promoted.T, live) + self._own
        column = self._column
        more = np.where(control[:, None], self.promoted[:, column], self._epoch.theta[:, column])
        scores = blended(board, weights, more, self._nats)
        return scores if board.beside is None else scores + board.beside

    def learn(self, board: Board, served: Served) -> None:
        """See Policy."""
        logged = _logged(board, served, self._own)
        self._log.append(logged)
        self._slates += len(board.visit)
        self._take_in(board, logged)
        self._refer(logged)
        self._guard(board, served)
        self._tuner.publish(board.now)
        if self._slates >= self._due:
            self._due += self._loop.gate_every
            self._gate(board.now)

    def telling(self) -> Mapping[str, Any]:
        """See Policy: the head weights of the newest requests, and how far they may still go."""
        newest, memories = self._log[-1].phi, self._tuner.learner.memories
        live, promoted = newest @ self._epoch.theta.T, newest @ self.promoted.T
        return {
            "weights": live.mean(axis=0).tolist(),
            "promoted": promoted.mean(axis=0).tolist(),
            "gamma": self._epoch.gamma,
            "memory_rows": memories.rows[memories.used],
            "memories": memories.shares.tolist(),
        }

    @property
    def _epoch(self) -> Epoch:
        return self._tuner.epoch

    def _in_control(self, board: Board) -> NDArray[np.bool_]:
        share = self._config.guard.control_share
        return np.asarray(uniform(self._seed, ARM, board.visit.visitor) < share)

    def _offsets_of(
        self, board: Board, weights: NDArray[np.float64], control: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """(n, n_heads): what each visitor's own offset adds; nothing in the control arm."""
        own = np.zeros_like(weights)
        for row, visitor in enumerate(board.visit.visitor.tolist()):
            if visitor in self._offsets and not control[row]:
                own[row] = self._offsets[visitor].within(weights[row])
        return own

    def _take_in(self, board: Board, logged: _Logged) -> None:
        """What was shown goes to the tuner, and to each visitor's own offset."""
        live = ~self._in_control(board)
        parts = []
        for row, visitor in enumerate(logged.visitor.tolist()):
            shown = _shown(
                logged, row, gamma=self._epoch.gamma, nats=self._nats, column=self._column
            )
            if len(shown) == 0:
                continue
            weight = self._allowance.weights([str(visitor)] * len(shown), board.now)
            extra = shown.extra
            if live[row] and self._config.personal:
                offset = self._offsets.get(visitor, Offset.none(shown.z.shape[1]))
                extra = extra + self._epoch.gamma * shown.z @ logged.offset[row]
                self._offsets[visitor] = offset.after(shown, self._epoch)
            parts.append(Observed(shown.z, shown.phi, shown.position, shown.reward, weight, extra))
        if parts:
            self._tuner.observe(Observed.together(parts))

    def _refer(self, logged: _Logged) -> None:
        """The newest requests are what distances are measured on."""
        kept, n = self._reference, self._config.reference
        fresh = max(1, n // 10)
        z, open_ = logged.z[:fresh].astype(np.float32), logged.served.pool[:fresh] >= 0
        parts = (z, logged.phi[:fresh], open_)
        if kept is not None:
            old = (kept.z, kept.phi, kept.open)
            parts = tuple(  # type: ignore[assignment]  # three arrays in, three out
                np.concatenate([a, b])[:n] for a, b in zip(parts, old, strict=True)
            )
        self._reference = Reference(*parts)

    def _bound(self, theta: Theta) -> Theta:
        if self._reference is None:
            return self.promoted
        if np.isfinite(theta).all():
            theta = self._reference.as_spread(theta, self.promoted)
        return hold(theta, self.promoted, self._reference, self._config.guard.most_nats)[0]

    def _guard(self, board: Board, served: Served) -> None:
        """If the live arm is worse for sure: back to the promoted strategy."""
        control, config = self._in_control(board), self._config.guard
        for row, reward in enumerate(served.clicks.sum(axis=1).tolist()):
            self._watch = self._watch.after(
                "control" if control[row] else "live", float(reward), config
            )
        verdict = self._watch.verdict(config)
        if not verdict.go:
            self.notes.append(f"{self._slates} returned: {verdict.reason}")
            self._tuner.restart(self._prior(self.promoted), board.now)
            self._offsets.clear()
            self._watch = Watch()

    def _prior(self, theta: Theta) -> Prior:
        return Prior(
            theta, self._config.precision, gamma=float(np.clip(self._epoch.gamma, 0.1, 10))
        )

    def _gate(self, now: float) -> None:
        """Propose what was learnt, the longest step that the log surely finds better."""
        learnt = self._tuner.learner.learnt(now).theta
        self._trim()
        log = self._slate_log()
        evidence = prepare(log, np.random.default_rng(self._slates))

        def seen(theta: Theta) -> Reading:
            return read(evidence, softmax_policy(log, self._stacked(theta), seed=self._slates))

        before = seen(self.promoted)
        proposals = [
            (f"a step of {s}", self.promoted + s * (learnt - self.promoted)) for s in STEPS
        ]
        for said, theta in [*proposals, ("the live epoch", self._epoch.theta)]:
            found = decide(evidence, before, seen(theta))
            self.notes.append(f"{self._slates} {found.action} {said}: {found.why}")
            if found.action == "promote":
                self._promote(theta, found, now)
                return

    def _promote(self, theta: Theta, decision: Decision, now: float) -> None:
        self.promoted = theta
        self._tuner.restart(self._prior(theta), now, keep=self._config.keep)
        self._watch = Watch()

    def _trim(self) -> None:
        most = self._config.log_slates
        while len(self._log) > 1 and sum(len(b.phi) for b in self._log[1:]) >= most:
            del self._log[0]

    def _stacked(self, theta: Theta) -> NDArray[np.float64]:
        """(n, n_pool) score / temperature under θ of all logged slates."""
        parts = [b.scores(theta, self._column, self._nats) for b in self._log]
        return np.asarray(np.concatenate(parts) / self.temperature)

    def _slate_log(self) -> SlateLog:
        served = [b.served for b in self._log]
        return SlateLog(
            shown=np.concatenate([s.places for s in served]),
            propensity=np.concatenate([s.propensity for s in served]),
            reward=np.concatenate([s.clicks for s in served]).astype(np.float64),
            z=np.concatenate([b.z for b in self._log]),
            phi=np.concatenate([b.phi for b in self._log]),
            scores=np.concatenate([s.scores for s in served]) / self.temperature,
            unit=np.concatenate([b.visitor for b in self._log]),
        )


def _logged(board: Board, served: Served, offset: NDArray[np.float64]) -> _Logged:
    rows = np.arange(len(board.visit))[:, None]
    z = np.moveaxis(board.z[:, rows, served.pool], 0, 2)  # -1 reads the last item, and is not open
    short: NDArray[np.float16] = np.where(served.pool[:, :, None] >= 0, z, 0.0).astype(np.float16)
    unseen = board.unseen[served.pool] & (served.pool >= 0)
    beside = None if board.beside is None else board.beside[rows, served.pool]
    return _Logged(short, board.phi, unseen, served, board.visit.visitor, offset, beside)


def _shown(logged: _Logged, row: int, *, gamma: float, nats: float, column: int) -> Observed:
    """The shown items of one slate."""
    places = logged.served.places[row]
    at = places[places >= 0]
    unseen = logged.unseen[row, at]
    phi = np.repeat(logged.phi[row][None], len(at), axis=0)
    phi[:, column] = unseen
    reward = logged.served.clicks[row, : len(at)].astype(np.float64)
    extra = gamma * nats * unseen
    extra = extra if logged.beside is None else extra + gamma * logged.beside[row, at]
    z = logged.z[row, at].astype(np.float64)
    return Observed(z, phi, np.arange(1, len(at) + 1), reward, np.ones(len(at)), extra)
