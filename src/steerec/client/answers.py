"""What the service answers, as values; fields that a newer service adds are passed over."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from steerec.contracts import Choice

Json = Mapping[str, Any]


class EventOutcome(Struct, frozen=True):
    """What became of an event: new, replay (it was there already), conflict, or erased."""

    event_id: str
    outcome: str
    seq: int


class EventsTaken(Struct, frozen=True):
    """Outcomes in the order of the events; `accepted` of them are new."""

    accepted: int
    events: tuple[EventOutcome, ...]


class Recommended(Struct, frozen=True):
    """A list, best first; send `request_id` with the events that answer it.

    Attributes:
        next: for the following items of the same list; None at its end.
    """

    request_id: str
    strategy_version: int
    items: tuple[Choice, ...]
    epoch: int = 0
    arm: str = "live"
    applied: Json = {}
    next: str | None = None

    @property
    def item_ids(self) -> list[str]:
        """The items alone."""
        return [choice.item_id for choice in self.items]


class Scored(Struct, frozen=True):
    """An item or a user with a score."""

    id: str
    score: float


class ScoredList(Struct, frozen=True):
    """Best first."""

    items: tuple[Scored, ...]


class Entry(Struct, frozen=True, omit_defaults=True):
    """An item or a user.

    Attributes:
        hidden: never shown while it is true.
        published, expires: Unix seconds between which an item may be shown; None: no bound.
        stock: at 0 an item is not shown; None: not counted.
        changed: Unix seconds of its last change; the service sets it.
    """

    id: str
    attributes: Json = {}
    labels: tuple[str, ...] = ()
    hidden: bool = False
    published: float | None = None
    expires: float | None = None
    stock: int | None = None
    changed: float = 0.0


class Entries(Struct, frozen=True):
    """A page in the order of ids; `next` is the parameter `after` of the following one."""

    entries: tuple[Entry, ...]
    next: str | None = None


class Counted(Struct, frozen=True):
    """How many were changed."""

    count: int


class Erased(Struct, frozen=True):
    """What was erased; a head says `exact`, or `next fit` where it forgets at the next one."""

    events: int
    impressions: int
    answers: int
    users: int
    heads: Mapping[str, str]


class Records(Struct, frozen=True):
    """Every record held of a person."""

    records: tuple[Json, ...]


class Version(Struct, frozen=True):
    """A version of the strategy."""

    version: int
    author: str
    made: float
    parents: tuple[int, ...]
    diff: Json
    estimates: Json
    data_hash: str | None
    in_force: bool
    strategy: Json
    online: Json | None = None
    words: tuple[str, ...] = ()  # of the one in force, when asked for by itself
    live_theta: tuple[tuple[float, ...], ...] | None = None
    frozen: Json | None = None


class History(Struct, frozen=True):
    """Versions, the newest first, and what was put in force when."""

    versions: tuple[Version, ...]
    promotions: tuple[Json, ...]


class StrategyDiff(Struct, frozen=True):
    """What differs between two versions: name → its values before and after."""

    weights: Mapping[str, tuple[float | None, float | None]] = {}
    dials: Mapping[str, tuple[float | None, float | None]] = {}


class Tuned(Struct, frozen=True):
    """What learning from the log came to.

    Attributes:
        slates: of the log that could be used; `left_out` could not.
        why: what was promoted or kept, and on what evidence.
        promoted: the new version in force; None: the one before stays.
        ramp: the experiment that is to decide; None: there is none.
        tried: each proposal with what later slates said of it.
    """

    slates: int
    left_out: int
    why: str
    promoted: int | None
    ramp: str | None
    tried: tuple[Json, ...]


class Experiment(Struct, frozen=True):
    """An experiment as it was planned; `results` where they were asked for."""

    name: str
    plan: Json
    author: str
    started: float
    stopped: float | None
    results: Json | None = None


class Experiments(Struct, frozen=True):
    """The oldest first."""

    experiments: tuple[Experiment, ...]


class Explanation(Struct, frozen=True):
    """What a past list was made from."""

    request_id: str
    user_id: str | None
    time: float
    scenario: str | None
    strategy_version: int
    epoch: int
    arm: str
    temperature: float
    diversity: float
    seed: int
    weights: Mapping[str, float]
    context: Mapping[str, float]
    pool_size: int
    items: tuple[Json, ...]
    replayed_the_same: bool


class Health(Struct, frozen=True):
    """Whether the service can do its work; `degraded` says what is away."""

    status: str
    version: str
    degraded: tuple[str, ...] = ()


__all__ = [
    "Choice",
    "Counted",
    "Entries",
    "Entry",
    "Erased",
    "EventOutcome",
    "EventsTaken",
    "Experiment",
    "Experiments",
    "Explanation",
    "Health",
    "History",
    "Json",
    "Recommended",
    "Records",
    "Scored",
    "ScoredList",
    "StrategyDiff",
    "Tuned",
    "Version",
]
