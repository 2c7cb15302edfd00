"""The strategy in force in words: who leads for whom, what moved it lately, what it gained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from steerec.engine.online import Stood, where_it_stood
from steerec.engine.standing import Standing, standings, told
from steerec.engine.strategies import from_json
from steerec.store import Store
from steerec.store.strategies import Promotion, StrategyVersion
from steerec.tuning.reward import RewardConfig

MOVES_TOLD = 4  # of a version's moved weights, the largest
HEADS_TOLD = 5  # that weigh most
PROMOTIONS_TOLD = 3  # the newest
WHEN = {  # contexts in which weights are told, as features that are 1
    "new visitors": ("bias", "length~0"),
    "after 5 events": ("bias", "length~5"),
    "after 50 events": ("bias", "length~50"),
    "after 50 events, of what they had before": (
        "bias",
        "length~50",
        "own:bias",
        "own:length~50",
    ),  # where people come back to things
}


@dataclass(frozen=True, eq=False)
class Account:
    """What is known of the strategy in force.

    Attributes:
        promotions: the newest, newest first.
        stood: the online tuner at its last checkpoint.
        standing: what the strategy earned; None: that was not looked up.
    """

    version: StrategyVersion
    promotions: Sequence[Promotion]
    stood: Stood
    standing: Standing | None = None

    @property
    def words(self) -> list[str]:
        """A line for each thing."""
        version = self.version
        return [
            f"Version {version.version}, by {version.author}, {when(version.made)}.",
            *in_context(version.strategy),
            *(f"  dial {name}: {value:g}" for name, value in version.strategy["dials"].items()),
            *(
                f"{when(move.time)} version {move.version} by {move.author}: {move.reason}"
                for move in self.promotions
            ),
            *_moved(version),
            *_online(version, self.stood),
            *([] if self.standing is None else _gained(self.standing)),
        ]


def account(
    store: Store, tenant: str, *, now: float, reward: RewardConfig | None = None
) -> Account | None:
    """What is known of the strategy in force; None: there is none yet.

    Args:
        reward: what reactions are worth; None: what it earned is not looked up, which reads the
            log's newest 20,000 slates.
    Raises:
        DataError: if it cannot be read, as one edited by hand may be.
    """
    current = store.strategies.current(tenant)
    if current is None:
        return None
    from_json(current.strategy, current.version)
    return Account(
        current,
        store.strategies.promotions(tenant, limit=PROMOTIONS_TOLD),
        where_it_stood(store, tenant, current),
        None if reward is None else standings(store, tenant, [current], reward, now=now)[0],
    )


def in_words(strategy: Mapping[str, Any], features: tuple[str, ...]) -> str:
    """The heads that weigh most where these features are 1, largest first."""
    columns = [at for at, name in enumerate(strategy["features"]) if name in features]
    weights = {
        head: sum(row[at] for at in columns)
        for head, row in zip(strategy["heads"], strategy["theta"], strict=True)
    }
    largest = sorted(weights.items(), key=lambda pair: -abs(pair[1]))[:HEADS_TOLD]
    return ", ".join(f"{head} {weight:.2f}" for head, weight in largest)


def when(seconds: float) -> str:
    """A time to the minute, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def number(value: float | None) -> str:
    """A weight, or that there was none."""
    return "none" if value is None else f"{value:.4f}"


def in_context(strategy: Mapping[str, Any]) -> list[str]:
    """A line for each context of WHEN that the strategy has weights for."""
    known = set(strategy["features"])
    return [
        f"  {who}: {in_words(strategy, features)}"
        for who, features in WHEN.items()
        if known.issuperset(features)
    ]


def _moved(version: StrategyVersion) -> list[str]:
    """What the version changed of the one that it was made of."""
    weights = version.diff.get("weights", {})
    largest = sorted(
        weights, key=lambda name: -abs((weights[name][1] or 0) - (weights[name][0] or 0))
    )
    if not largest:
        return []
    parts = [
        f"{name} {number(weights[name][0])} → {number(weights[name][1])}"
        for name in largest[:MOVES_TOLD]
    ]
    more = len(largest) - len(parts)
    end = f", and {more} more (steerec strategy diff)." if more > 0 else "."
    return [f"Moved from the version before: {', '.join(parts)}{end}"]


def _online(version: StrategyVersion, stood: Stood) -> list[str]:
    """What the online tuner made of it since, or why it stands still."""
    if stood.frozen is not None:
        until, why = when(stood.frozen.until), stood.frozen.reason
        return [f"The online tuner stands still until {until}: it was {why}."]
    if stood.theta is None:
        return []
    now_at = {**version.strategy, "theta": stood.theta.tolist()}
    return ["The online tuner has it at:", *in_context(now_at)]


def _gained(standing: Standing) -> list[str]:
    """What it gained: foretold, and true."""
    said = [
        f"Earned a slate in {arm}: {one.mean.mean:.4f} over {one.slates:,} slates of "
        f"{one.users:,} users."
        for arm, one in standing.arms.items()
    ]
    if standing.tuned is not None:
        said.append(f"Gained by the online tuner over it as promoted: {told(standing.tuned)}.")
    if standing.estimated is not None:
        said.append(f"Estimated gain over the version before: {told(standing.estimated)} a slate.")
    if standing.over_parent is not None:
        said.append(
            f"True gain over the version before, one after the other: {told(standing.over_parent)}."
        )
    return said
