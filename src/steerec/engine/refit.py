"""Refit: a model fitted again on its own data, the log since then, and the catalogue as it is."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from steerec.contracts import Strategy
from steerec.data.dataset import DEFAULT_WEIGHTS, Dataset, build_dataset
from steerec.encoders import EncoderConfig
from steerec.engine.about import ENCODER_NOTE
from steerec.engine.carry import REQUESTS, carry_over
from steerec.engine.growth import ItemChange, columns_of, table_with
from steerec.engine.holdout import LEAST_AFTER
from steerec.engine.lessons import Aids, going_on_from, trains
from steerec.engine.live import LOG_SEQ
from steerec.engine.model import UNSEEN_DIAL, FitConfig, Model, Progress, fit
from steerec.engine.strategies import CARRIED, FIT, difference, from_json, speaks_of, to_json
from steerec.engine.texts import HASHING, encode_items, with_vectors
from steerec.errors import DataError
from steerec.store import Store
from steerec.store.catalogue import Catalogue, Entry
from steerec.store.erase import digest_of_user
from steerec.store.log import LoggedEvent
from steerec.store.strategies import StrategyVersion

log = logging.getLogger(__name__)

_COLUMNS = {
    "user_id": pl.String,
    "item_id": pl.String,
    "event": pl.String,
    "value": pl.Float64,
    "timestamp": pl.Float64,
    "basket": pl.String,
}
AT_ONCE = 5_000  # changed entries of a catalogue read together


@dataclass(frozen=True, kw_only=True)
class RefitConfig:
    """What a refit is told beside the model and the store.

    Attributes:
        weights: event kind → weight, over what the model's data have.
        template: text of an item; empty: from its text columns.
        n_requests: reference requests that θ is carried over by.
    """

    fit: FitConfig
    encoder: EncoderConfig
    cache_dir: Path
    weights: Mapping[str, float] = field(default_factory=lambda: DEFAULT_WEIGHTS)
    template: str = ""
    n_requests: int = REQUESTS


@dataclass(frozen=True)
class Refitted:
    """A new model; its strategy has the number of `version`, which is stored and not in force.

    Attributes:
        n_new: events of the log that the model before did not have.
    """

    model: Model
    version: StrategyVersion
    n_new: int


def refit(
    store: Store,
    tenant: str,
    base: Model | None,
    config: RefitConfig,
    rng: np.random.Generator,
    *,
    now: float,
    progress: Progress | None = None,
) -> Refitted:
    """Fit on all that is known now, and store the new model's strategy as a version.

    A strategy in force that came with a fit makes room for the new fit's own. One that people or
    tuners have moved since is carried over: θ is fitted so that reference requests score as before.

    Args:
        base: the model that serves; None: there is none but the model of nothing.
    Raises:
        DataError: if there are too few events to fit on.
        StorageError, EncoderError: if the store or the encoder is away.
    """
    data = data_of_now(store, tenant, None if base is None else base.data, config.weights)
    n_new = data.n_events - (0 if base is None else base.data.n_events)
    told = _encoder_config(base, config.encoder)
    vectors = encode_items(data.items, told, template=config.template, cache_dir=config.cache_dir)
    data = with_vectors(data, vectors)
    aids = _aids(store, tenant, base, data, config.fit)
    model = fit(data, config.fit, rng, progress=progress, aids=aids)
    version = _version(store, tenant, base, model, config.n_requests, rng=rng, now=now)
    log.info("tenant=%s refit=1 events=%d version=%d", tenant, data.n_events, version.version)
    strategy = from_json(version.strategy, version.version)
    return Refitted(replace(model, strategy=strategy), version, n_new)


def data_of_now(
    store: Store, tenant: str, base: Dataset | None, weights: Mapping[str, float]
) -> Dataset:
    """The data of a served model with the store's later events, its items and its users.

    Late events stand where they would stand live. Who was erased since is left out.

    Args:
        base: None: from the store alone.
    Raises:
        DataError: if there are no events.
    """
    after = 0 if base is None else int(base.notes.get(LOG_SEQ, "0"))
    until = store.last_seq(tenant)  # before anything is read: what comes later is read again
    logged = list(store.log.iterate(tenant, after=after))
    erased = _Erased.of(store, tenant, after)
    fresh = [one for one in logged if not erased.has(one.event.user_id, one.seq)]
    old = _none() if base is None else _table_of(base)
    gone = {user for user in old["user_id"].unique() if erased.has(user, after)}
    old = old.filter(~pl.col("user_id").is_in(gone))
    events = pl.concat([old, _table_of_log(fresh)], how="diagonal")
    if events.is_empty():
        raise DataError(f"tenant {tenant!r} has no events yet: send some, then fit")
    users = _users(store, tenant, base, erased, after)
    data = build_dataset(
        events.with_columns(_in_order(events)).drop("place"),
        _items(store, tenant, base),
        users,
        weights={**(base.kind_weights if base is not None else {}), **weights},
        social=_social(base, users),
    )
    newest = max([until, *(one.seq for one in logged[-1:])])
    return replace(data, notes={**data.notes, LOG_SEQ: str(newest)})


def read_by_hashing(data: Dataset) -> bool:
    """Whether the items were encoded without a model."""
    return data.notes.get(ENCODER_NOTE, "").startswith(HASHING)


@dataclass(frozen=True)
class _Erased:
    """Who was erased, and when.

    Attributes:
        at: digest → seq of the erasure.
    """

    tenant: str
    at: Mapping[bytes, int]

    @classmethod
    def of(cls, store: Store, tenant: str, after: int) -> "_Erased":
        at: dict[bytes, int] = {}
        while found := store.persons.erasures(tenant, after=after):
            at.update({erasure.digest: erasure.seq for erasure in found})
            after = found[-1].seq
        return cls(tenant, at)

    def has(self, user_id: str, seq: int) -> bool:
        """Whether the user was erased after this place; they may have come back since."""
        return bool(self.at) and self.at.get(digest_of_user(self.tenant, user_id), -1) > seq


def _none() -> pl.DataFrame:
    return pl.DataFrame(schema={**_COLUMNS, "place": pl.Int64})


def _table_of(data: Dataset) -> pl.DataFrame:
    """The events in source order; `place` counts them by user in the user's order."""
    numbers = pl.Series(data.basket, dtype=pl.Int32)
    table = pl.DataFrame(
        {
            "user_id": pl.Series(data.user_ids[data.user_idx], dtype=pl.String),
            "item_id": pl.Series(data.item_ids[data.item_idx], dtype=pl.String),
            "event": pl.Series(np.array(data.kinds, object)[data.kind], dtype=pl.String),
            "value": pl.Series(data.value, dtype=pl.Float64).fill_nan(None),
            "timestamp": pl.Series(data.time, dtype=pl.Float64).fill_nan(None),
            "basket": pl.DataFrame({"n": numbers}).select(
                pl.when(pl.col("n") >= 0).then(pl.format("fitted\t{}", "n"))
            )["n"],
            "place": pl.Series(np.arange(data.n_events), dtype=pl.Int64),
        }
    )
    order: list[int] = np.argsort(data.row, kind="stable").tolist()
    return table.select(pl.all().gather(order))


def _table_of_log(logged: Sequence[LoggedEvent]) -> pl.DataFrame:
    rows = [
        (
            one.event.user_id,
            one.event.item_id,
            one.event.event,
            one.event.value,
            _when(one),
            None if one.event.basket is None else f"{one.event.user_id}\t{one.event.basket}",
        )
        for one in logged
    ]
    return pl.DataFrame(rows, schema=_COLUMNS, orient="row")


def _when(logged: LoggedEvent) -> float:
    """When it happened: as told, but no later than it came."""
    told = logged.event.timestamp
    return logged.received if told is None else min(told, logged.received)


def _in_order(events: pl.DataFrame) -> pl.Series:
    """(n_events,) `seq`: each user's order, which late events join by their time.

    As live: an event without a time stays with the one before it.
    """
    fitted = pl.col("place").is_not_null()
    placed = events.with_row_index("source").sort("place", "source", nulls_last=True)
    since = pl.col("timestamp").fill_null(float("-inf"))
    key = pl.when(fitted).then(since.cum_max().over("user_id", fitted)).otherwise(since)
    source = placed.with_columns(key.alias("key")).sort("key", maintain_order=True)["source"]
    seq = np.empty(len(events))
    seq[source.to_numpy()] = np.arange(len(events))
    return pl.Series("seq", seq)


def _items(store: Store, tenant: str, base: Dataset | None) -> pl.DataFrame:
    """The catalogue as it is: what was deleted is hidden, since histories still name it."""
    none = pl.DataFrame({"item_id": pl.Series([], dtype=pl.String)})
    table = none if base is None else base.items
    entries = _entries(store.items, tenant)
    table = table_with(table, [_change(e, table.columns) for e in entries if not e.deleted])
    gone = [entry.id for entry in entries if entry.deleted]
    if not gone:
        return table
    was = pl.col("hidden").cast(pl.Boolean) if "hidden" in table.columns else pl.lit(value=False)
    hidden = was.fill_null(value=False) | pl.col("item_id").is_in(gone)
    return table.with_columns(hidden.alias("hidden"))


def _users(
    store: Store, tenant: str, base: Dataset | None, erased: _Erased, after: int
) -> pl.DataFrame:
    none = pl.DataFrame({"user_id": pl.Series([], dtype=pl.String)})
    table = none if base is None else base.users
    stay = [not erased.has(user, after) for user in table["user_id"]]
    table = table.filter(pl.Series(stay, dtype=pl.Boolean)).rename({"user_id": "item_id"})
    changes = [
        ItemChange(entry.id, dict(entry.attributes))
        for entry in _entries(store.users, tenant)
        if not entry.deleted
    ]
    return table_with(table, changes).rename({"item_id": "user_id"})


def _entries(catalogue: Catalogue, tenant: str) -> list[Entry]:
    """All entries, deletions too."""
    found: list[Entry] = []
    while more := catalogue.changes(tenant, after=found[-1].seq if found else 0, limit=AT_ONCE):
        found += more
    return found


def _change(entry: Entry, columns: Sequence[str]) -> ItemChange:
    """The entry as a row; `hidden` where the table has that column, or it would be forgotten."""
    hidden = {"hidden": entry.hidden} if "hidden" in columns else {}
    return ItemChange(entry.id, {**columns_of(entry), **hidden})


def _social(base: Dataset | None, users: pl.DataFrame) -> pl.DataFrame | None:
    """Friendships among those who are still there."""
    if base is None or base.social is None:
        return None
    names = base.user_ids[base.social]
    pairs = pl.DataFrame({"user_id": names[:, 0].astype(str), "friend_id": names[:, 1].astype(str)})
    stay = users["user_id"].implode()
    return pairs.filter(pl.col("user_id").is_in(stay) & pl.col("friend_id").is_in(stay))


def _encoder_config(base: Model | None, config: EncoderConfig) -> EncoderConfig:
    """The encoder that serves: hashing needs no model, so a model that has it keeps it."""
    hashed = base is not None and read_by_hashing(base.data)
    return replace(config, encoder=HASHING) if hashed else config


def _aids(store: Store, tenant: str, base: Model | None, data: Dataset, config: FitConfig) -> Aids:
    """Trained heads go on from those that serve, where enough is new and nobody was erased."""
    if base is None or not any(trains(name) for name in base.heads if name in config.heads):
        return Aids()
    if not (base.data.has_times and data.has_times):
        return Aids()
    after = int(base.data.notes.get(LOG_SEQ, "0"))
    if store.persons.erasures(tenant, after=after, limit=1):
        log.info("tenant=%s going_on=0 reason=erasures: heads train anew", tenant)
        return Aids()
    newest = float(base.data.time.max())
    first = data.starts[:-1][data.user_idx] == np.arange(data.n_events)
    known = np.isin(data.item_ids[data.item_idx], base.data.item_ids[base.data.item_idx])
    if int(((data.time > newest) & ~first & known).sum()) < LEAST_AFTER:
        return Aids()
    return going_on_from(base, share=config.refit_share)


def _version(
    store: Store,
    tenant: str,
    base: Model | None,
    model: Model,
    n_requests: int,
    *,
    rng: np.random.Generator,
    now: float,
) -> StrategyVersion:
    """The new model's strategy, stored under the next number."""
    current = store.strategies.current(tenant)
    strategy, author, estimates = model.strategy, FIT, dict[str, Any]()
    if base is not None and current is not None and current.author != FIT:
        if speaks_of(current, base.strategy):
            before = from_json(current.strategy, current.version)
            carried = carry_over(base, before.theta, model, rng, n_requests=n_requests)
            strategy, author = _with_dials(model.strategy, before, carried.theta), CARRIED
            estimates = {"scores_as_before": {"requests": carried.requests, "r2": carried.r2}}
        else:
            log.warning("tenant=%s version=%d not_carried=1", tenant, current.version)
    told = to_json(strategy)
    return store.strategies.add(
        tenant,
        StrategyVersion(
            strategy=told,
            author=author,
            made=now,
            parents=() if current is None else (current.version,),
            diff={} if current is None else difference(current.strategy, told),
            data_hash=model.data.content_hash,
            estimates=estimates,
        ),
    )


def _with_dials(fitted: Strategy, before: Strategy, theta: NDArray[np.float64]) -> Strategy:
    """The carried θ with the dials in force, but for what an item without events gets."""
    dials = {**before.dials, UNSEEN_DIAL: fitted.dials.get(UNSEEN_DIAL, 0.0)}
    return replace(fitted, theta=theta, dials=dials)
