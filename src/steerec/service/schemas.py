"""What goes over the wire, checked on the way in; OpenAPI is made from these same classes."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

Id = Annotated[str, Meta(min_length=1, max_length=256, description="an id of the caller's own")]
Text = Annotated[str, Meta(max_length=2_000)]
Name = Annotated[str, Meta(min_length=1, max_length=64, description="without a slash")]
Count = Annotated[int, Meta(ge=1, le=1_000)]
Version = Annotated[int, Meta(ge=1, le=2**53)]
Time = Annotated[float, Meta(ge=0, le=1e11, description="Unix seconds, UTC")]
Json = dict[str, Any]


class Body(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What a caller sends: unknown fields are errors."""


class Answer(Struct, kw_only=True):
    """What a caller gets."""


# Events


class EventIn(Body):
    """One thing a user did with an item.

    An event that is sent again under the same `event_id` counts once.
    """

    user_id: Id
    item_id: Id
    event: Annotated[str, Meta(min_length=1, max_length=64)] = "view"
    event_id: Id | None = None
    value: Annotated[float, Meta(ge=-1e12, le=1e12)] | None = None
    timestamp: Time | None = None
    basket: Id | None = None
    request_id: Id | None = None
    context: Json | None = None


class EventsIn(Body):
    """Many events: all are stored, or none."""

    events: Annotated[
        list[EventIn],
        Meta(min_length=1, max_length=10_000, description="send more in several calls"),
    ]


class EventOut(Answer):
    """What became of an event: new, replay (it was there already), conflict, or erased."""

    event_id: str
    outcome: str
    seq: int


class EventsOut(Answer):
    """Outcomes in the order of the events, given once all are on disk."""

    accepted: int
    events: list[EventOut]


# Recommendations


class Context(Body):
    """Where and when a list will be seen; all of it is logged with the list."""

    device: Annotated[str, Meta(max_length=64)] | None = None
    time: Time | None = None
    place: Annotated[str, Meta(max_length=256)] | None = None


class RecommendIn(Body):
    """What is asked for: a user, a session of this visit, or both."""

    user_id: Id | None = None
    session: Annotated[list[Id], Meta(max_length=1_000)] = []
    n: Count | None = None
    scenario: Annotated[str, Meta(max_length=64)] | None = None
    context: Context | None = None
    exclude: Annotated[list[Id], Meta(max_length=10_000)] = []
    filter: Text | None = None
    candidates: Annotated[list[Id], Meta(min_length=1, max_length=10_000)] | None = None
    about: Text | None = None
    attributes: Json = {}
    repeats: bool | None = None


class RankIn(Body):
    """The caller's own candidates, to be put in order for a user."""

    candidates: Annotated[list[Id], Meta(min_length=1, max_length=10_000)]
    user_id: Id | None = None
    session: Annotated[list[Id], Meta(max_length=1_000)] = []
    scenario: Annotated[str, Meta(max_length=64)] | None = None
    context: Context | None = None
    n: Count | None = None


class RecommendQuery(Body):
    """The same as parameters of the address."""

    n: Count | None = None
    scenario: Annotated[str, Meta(max_length=64)] | None = None
    device: Annotated[str, Meta(max_length=64)] | None = None
    filter: Text | None = None
    exclude: Annotated[str, Meta(max_length=8_000, description="ids with commas")] | None = None
    repeats: bool | None = None
    next: Annotated[str, Meta(max_length=300, description="`next` of the answer before")] | None = (
        None
    )


class ChoiceOut(Answer):
    """One place of a list: sources are shares of the score, in nats over an average item."""

    item_id: str
    score: float
    sources: dict[str, float]
    reason: str
    because: list[str]
    propensity: float
    position: int


class SlateOut(Answer):
    """A list, and what made it; send `request_id` with the events that answer it."""

    request_id: str
    strategy_version: int
    epoch: int
    arm: str
    items: list[ChoiceOut]
    applied: Json
    next: str | None = None


class Scored(Answer):
    """An item or a user with a score, best first."""

    id: str
    score: float


class ScoredOut(Answer):
    """Best first."""

    items: list[Scored]


class ListQuery(Body):
    """How many, and of what kind."""

    n: Count = 10
    filter: Text | None = None


# Catalogue and people


class EntryIn(Body):
    """An item or a user as it is from now on."""

    id: Id
    attributes: Json = {}
    labels: Annotated[list[Id], Meta(max_length=1_000)] = []
    hidden: bool = False
    published: Time | None = None
    expires: Time | None = None
    stock: Annotated[int, Meta(ge=0, le=2**53)] | None = None


class EntriesIn(Body):
    """Many at once: all are stored, or none."""

    entries: Annotated[
        list[EntryIn],
        Meta(
            min_length=1,
            max_length=5_000,
            description="send more in several calls, or as JSON lines to /api/items/import or "
            "/api/users/import",
        ),
    ]


class EntryPatch(Body):
    """Only what changes; an attribute set to null is removed."""

    attributes: Json | UnsetType = UNSET
    labels: list[Id] | UnsetType = UNSET
    hidden: bool | UnsetType = UNSET
    published: Time | UnsetType | None = UNSET
    expires: Time | UnsetType | None = UNSET
    stock: Annotated[int, Meta(ge=0, le=2**53)] | UnsetType | None = UNSET


class EntryOut(Answer):
    """An item or a user."""

    id: str
    attributes: Json
    labels: list[str]
    hidden: bool
    published: float | None
    expires: float | None
    stock: int | None
    changed: float


class EntriesOut(Answer):
    """A page in the order of ids; `next` is where the following one begins."""

    entries: list[EntryOut]
    next: str | None = None


class PageQuery(Body):
    """Which page; `q` searches by words instead."""

    after: Annotated[str, Meta(max_length=256)] = ""
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100
    q: Annotated[str, Meta(max_length=500)] | None = None


class Counted(Answer):
    """How many were changed."""

    count: int


class MergeIn(Body):
    """The id under which somebody was anonymous until now."""

    session_id: Id


class ErasedOut(Answer):
    """What was erased; a head says `exact`, or `next fit` where it forgets at the next one."""

    events: int
    impressions: int
    answers: int
    users: int
    heads: dict[str, str]


class RecordsOut(Answer):
    """Every record held of a person."""

    records: list[Json]


# The strategy


class VersionOut(Answer):
    """A version of the strategy; versions never change."""

    version: int
    author: str
    made: float
    parents: list[int]
    diff: Json
    estimates: Json
    data_hash: str | None
    in_force: bool
    strategy: Json
    online: Json | None = None


class StrategyQuery(Body):
    """What is told of the strategy in force."""

    gains: Annotated[bool, Meta(description="what it earned too: the log is read for it")] = False


class StrategyOut(VersionOut, kw_only=True):
    """The strategy in force, in words too, and what people's answers made of it since."""

    words: list[str]
    live_theta: list[list[float]] | None
    frozen: Json | None


class HistoryOut(Answer):
    """Versions, the newest first, and what was put in force when."""

    versions: list[VersionOut]
    promotions: list[Json]


class DiffQuery(Body):
    """Which two versions."""

    before: Version | None = None
    after: Version | None = None


class DiffOut(Answer):
    """What differs; what both have is left out."""

    weights: dict[str, list[float | None]] = {}
    dials: dict[str, list[float | None]] = {}


class PromoteIn(Body):
    """The version to put in force."""

    version: Version
    reason: Annotated[str, Meta(max_length=500)] = ""


class RollbackIn(Body):
    """The version to go back to; null: the one that was in force before."""

    version: Version | None = None
    reason: Annotated[str, Meta(max_length=500)] = ""


class TunedOut(Answer):
    """What offline tuning came to.

    `promoted` is the new version in force, `ramp` the experiment that decides; null: there is none.
    """

    slates: int
    left_out: int
    why: str
    promoted: int | None
    ramp: str | None
    tried: list[Json]


# Experiments


class ArmIn(Body):
    """What one arm shows: a stored version, other weights, other dials, or what is in force."""

    name: Name
    share: Annotated[float, Meta(gt=0, le=1)]
    version: Version | None = None
    weights: Annotated[
        dict[str, Annotated[float, Meta(ge=-1e6, le=1e6)]],
        Meta(description="HEAD.FEATURE → weight, over the version"),
    ] = {}
    dials: Annotated[dict[str, float], Meta(description="temperature, diversity")] = {}
    shadow: bool = False


class ExperimentIn(Body):
    """What is compared; shares of the arms that are shown sum to 1."""

    name: Name
    arms: Annotated[list[ArmIn], Meta(min_length=1, max_length=20)]
    metric: Annotated[
        str, Meta(max_length=64, description="reward, or a kind of event; a slate, of each user")
    ] = "reward"
    kind: Literal["split", "interleave"] = "split"
    scenario: Annotated[str, Meta(max_length=64)] | None = None
    traffic: Annotated[float, Meta(gt=0, le=1, description="share of the users")] = 1.0
    ends: Time | None = None
    least_users: Annotated[int, Meta(ge=2, le=10**9, description="in each arm")] = 100
    alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.05


class ExperimentOut(Answer):
    """An experiment as it was planned, with what it has shown where that was asked for."""

    name: str
    plan: Json
    author: str
    started: float
    stopped: float | None
    results: Json | None = None


class ExperimentsOut(Answer):
    """The oldest first."""

    experiments: list[ExperimentOut]


# Operations


class HealthOut(Answer):
    """Whether the service can do its work; degraded says what is away."""

    status: str
    version: str
    degraded: list[str] = []


class ExplainOut(Answer):
    """What a past list was made from; drawn again from the log it comes out the same."""

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
    weights: dict[str, float]
    context: dict[str, float]
    pool_size: int
    items: list[Json]
    replayed_the_same: bool


class Nothing(Body):
    """No parameters."""
