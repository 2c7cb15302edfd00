"""Offline tuning: learn from the log's slates, and promote only what later slates find better."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import Strategy
from steerec.engine.logged import rewarded
from steerec.engine.online import TuningConfig
from steerec.engine.phi import UNSEEN_ITEM
from steerec.engine.proposals import searched_theta
from steerec.engine.strategies import difference, from_json, to_json
from steerec.errors import DataError
from steerec.store import Store
from steerec.store.impressions import Impression
from steerec.store.strategies import StrategyVersion
from steerec.tuning.design import Design, choose_columns
from steerec.tuning.learner import Learner, LearnerConfig
from steerec.tuning.observed import Observed
from steerec.tuning.ope.gate import Decision, GateConfig, gate
from steerec.tuning.ope.log import SlateLog
from steerec.tuning.ope.softmax import softmax_policy
from steerec.tuning.prior import Prior
from steerec.tuning.reward import DAY_S
from steerec.tuning.sums import Sums

log = logging.getLogger(__name__)

AUTHOR = "offline tuner"
STEPS = (1.0, 0.5)  # parts of the way to what was learnt that are proposed, longest first
PASSES = 5  # Newton steps of the fit
READ_DAYS = 28.0
MOST_SLATES = 20_000  # newest ones that are read
LEAST_SLATES = 20  # fewer say nothing at all
SEARCHED = 3_000  # newest slates that a search reads again and again


@dataclass(frozen=True, eq=False)
class Proposal:
    """A strategy, how it was found, and what the log says of it."""

    name: str
    strategy: Strategy
    decision: Decision


@dataclass(frozen=True)
class Tuned:
    """What a run of offline tuning came to.

    Attributes:
        slates: those that could be learnt from; they were drawn with chance.
        left_out: slates drawn without chance, or of another model.
        version: that was stored and put in force; None: the present one stays.
        asks: the proposal that the log knows too little of and that is shown to a few; None: there
            is none.
    """

    slates: int
    left_out: int
    tried: tuple[tuple[str, Decision], ...]
    version: StrategyVersion | None
    asks: Proposal | None = None

    @property
    def why(self) -> str:
        """One line on what was decided."""
        if not self.tried:
            return (
                f"{self.slates} slates to learn from, at least {LEAST_SLATES} are needed "
                f"({self.left_out} were drawn without chance or for another model): set "
                "scenarios.default.temperature, such as 0.1, and let people answer"
            )
        return "; ".join(
            f"{name}: {decision.action}, {decision.why}" for name, decision in self.tried
        )


@dataclass(frozen=True, eq=False)
class Slates:
    """Logged slates as arrays.

    Attributes:
        extra: (n, n_pool) nats beside Σ w z.
        temperature: (n,).
    """

    log: SlateLog
    extra: NDArray[np.float64]
    temperature: NDArray[np.float64]

    def scores(self, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, n_pool): score / temperature under θ, -inf where there is no item."""
        w = self.log.phi @ theta.T
        found = np.einsum("nh,nph->np", w, self.log.z.astype(np.float64)) + self.extra
        assert self.log.scores is not None, "they are made with scores"
        return np.where(self.log.scores > -np.inf, found / self.temperature[:, None], -np.inf)

    def take(self, rows: NDArray[np.int64]) -> "Slates":
        """Some of them."""
        names = ("shown", "propensity", "reward", "z", "phi", "scores", "unit")
        parts = {name: getattr(self.log, name)[rows] for name in names}
        return Slates(SlateLog(**parts), self.extra[rows], self.temperature[rows])


def tune(
    store: Store,
    tenant: str,
    config: TuningConfig,
    *,
    now: float,
    rng: np.random.Generator,
    gate_config: GateConfig | None = None,
) -> Tuned:
    """Learn from the earlier seven tenths of the slates; the later ones decide.

    Raises:
        DataError: if the tenant has no strategy yet.
    """
    current = store.strategies.current(tenant)
    if current is None:
        raise DataError(f"tenant {tenant!r} has no strategy yet: serve a model first")
    present = from_json(current.strategy, current.version)
    found = rewarded(
        store, tenant, config.reward, newest=MOST_SLATES, since=now - READ_DAYS * DAY_S, now=now
    )
    slates, left_out = slates_of(found, present)
    if slates is None or len(slates.log) < LEAST_SLATES:
        return Tuned(0 if slates is None else len(slates.log), left_out, (), None)
    n_early = int(0.7 * len(slates.log))
    early = slates.take(np.arange(n_early))
    late = slates.take(np.arange(n_early, len(slates.log)))
    proposals = _proposed(early, present, config, rng)
    tried: list[Proposal] = []
    gate_config = gate_config or GateConfig()
    level = 1 - (1 - gate_config.level) / len(
        proposals
    )  # Bonferroni: the best of several is chosen
    before = softmax_policy(late.log, late.scores(present.theta))
    for name, theta in proposals:
        after = softmax_policy(late.log, late.scores(theta))
        decision = gate(late.log, before, after, rng=rng, config=replace(gate_config, level=level))
        tried.append(Proposal(name, replace(present, theta=theta), decision))
        if decision.action == "promote":
            break
    said = tuple((one.name, one.decision) for one in tried)
    if tried[-1].decision.action == "promote":
        return Tuned(len(slates.log), left_out, said, _promote(store, tenant, tried[-1], now))
    return Tuned(len(slates.log), left_out, said, None, to_ramp(tried))


def to_ramp(tried: Sequence[Proposal]) -> Proposal | None:
    """The proposal to be shown to a few: of those that may be better, the one to lose least by.

    By the lower bound of its interval: a step so bold that the log stands for a handful of its
    slates comes after one that it knows more of. None: no proposal asks for it.
    """
    thin = [one for one in tried if one.decision.action == "ramp" and one.decision.interval[1] > 0]
    return max(thin, key=lambda one: one.decision.interval[0], default=None)


def _proposed(
    slates: Slates, present: Strategy, config: TuningConfig, rng: np.random.Generator
) -> list[tuple[str, NDArray[np.float64]]]:
    """θ worth trying, the boldest first: steps towards what was learnt, and what a search found."""
    learnt = learnt_theta(slates, present, config)
    newest = slates.take(np.arange(max(0, len(slates.log) - SEARCHED), len(slates.log)))
    found = searched_theta(
        newest.log, newest.scores, present.theta, learnt, trials=config.trials, rng=rng
    )
    steps = [(f"a step of {s:g}", present.theta + s * (learnt - present.theta)) for s in STEPS]
    return steps if found is None else [steps[0], ("the best of the search", found), *steps[1:]]


def slates_of(
    found: Sequence[tuple[Impression, NDArray[np.float64]]], strategy: Strategy
) -> tuple[Slates | None, int]:
    """The slates that were drawn by chance for these heads and features; how many were not."""
    fitting = [(one, won) for one, won in found if _fits(one, strategy)]
    left_out = len(found) - len(fitting)
    if not fitting:
        return None, left_out
    n, n_heads = len(fitting), len(strategy.heads)
    width = max(len(one.pool) for one, _ in fitting)
    length = max(len(one.items) for one, _ in fitting)
    z = np.zeros((n, width, n_heads), np.float16)
    extra, scores = np.zeros((n, width)), np.full((n, width), -np.inf)
    places = np.full((n, length), -1, np.int64)
    propensity, reward = np.full((n, length), np.nan), np.zeros((n, length))
    temperature = np.array([one.more["temperature"] for one, _ in fitting])
    for row, (one, won) in enumerate(fitting):
        pool, k = len(one.pool), len(one.items)
        z[row, :pool], extra[row, :pool] = one.scores[:, :-1], one.scores[:, -1]
        worth = one.scores.astype(np.float64) @ one.w.astype(np.float64)
        scores[row, :pool] = worth / temperature[row]
        place = {item: at for at, item in enumerate(one.pool)}
        places[row, :k] = [place[item] for item in one.items]
        propensity[row, :k], reward[row, :k] = one.propensity, won
    users: dict[str, int] = {}
    unit = [users.setdefault(one.user_id or one.request_id, len(users)) for one, _ in fitting]
    phi = np.stack([one.phi for one, _ in fitting]).astype(np.float64)
    made = SlateLog(places, propensity, reward, z, phi, scores, None, np.array(unit))
    return Slates(made, extra, temperature), left_out


def learnt_theta(slates: Slates, present: Strategy, config: TuningConfig) -> NDArray[np.float64]:
    """θ that the rewards of these slates speak for, as long as the present one."""
    n_heads, n_features = present.theta.shape
    columns = tuple(
        column
        for column in choose_columns(present.features, n_heads, n_positions=10)
        if present.features[column] != UNSEEN_ITEM
    )
    design = Design(n_heads, n_features, columns, 10)
    forgetless = LearnerConfig(memories=(1e12,), publish_every_s=0.0, surer=16.0, evidence_steps=12)
    prior = Prior(present.theta, config.precision, gamma=1.0)
    rows, epoch = _rows(slates), prior.epoch(design, 0.0)
    for _ in range(PASSES):  # Newton's steps: each reads the rows at the epoch before
        learner, sums = Learner(design, prior, forgetless, now=0.0), Sums(design, epoch, worker="")
        sums.observe(rows)
        learner.add([sums.take()])
        epoch = learner.publish(1.0)
    phi, theta = slates.log.phi, epoch.theta
    wanted, has = (float(np.linalg.norm(phi @ t.T)) for t in (present.theta, theta))
    return theta * (wanted / has) if has > 0 else present.theta


def _rows(slates: Slates) -> Observed:
    """All shown items, one a row."""
    slate, place = np.nonzero(slates.log.filled)
    at = slates.log.shown[slate, place]
    return Observed(
        slates.log.z[slate, at].astype(np.float64),
        slates.log.phi[slate],
        place + 1,
        slates.log.reward[slate, place],
        np.ones(len(slate)),
        slates.extra[slate, at],
    )


def _fits(shown: Impression, strategy: Strategy) -> bool:
    """Whether a slate was drawn by a plain softmax for these heads and features."""
    heads = tuple(shown.more.get("heads", ()))[:-1]
    drawn = float(shown.more.get("temperature", 0.0)) > 0 and not shown.more.get("diversity")
    whole = shown.start == 0 and len(shown.pool) > 0 and len(shown.items) > 0
    drawn = drawn and "teams" not in shown.more  # two softmaxes in turn
    return heads == strategy.heads and len(shown.phi) == len(strategy.features) and drawn and whole


def stored(store: Store, tenant: str, proposal: Proposal, *, now: float) -> StrategyVersion:
    """A proposal as a version that is not in force yet.

    Raises:
        DataError: if the tenant has no strategy yet.
    """
    current = store.strategies.current(tenant)
    if current is None:
        raise DataError(f"tenant {tenant!r} has no strategy yet: serve a model first")
    told = to_json(proposal.strategy)
    version = StrategyVersion(
        strategy=told,
        author=AUTHOR,
        made=now,
        parents=(current.version,),
        diff=difference(current.strategy, told),
        data_hash=current.data_hash,
        estimates={"proposal": proposal.name, **asdict(proposal.decision)},
    )
    return store.strategies.add(tenant, version)


def _promote(store: Store, tenant: str, proposal: Proposal, now: float) -> StrategyVersion:
    made = stored(store, tenant, proposal, now=now)
    store.strategies.promote(
        tenant,
        made.version,
        author=AUTHOR,
        now=now,
        reason=proposal.decision.why[:500],
        instead_of=made.parents[0],
    )
    return made
