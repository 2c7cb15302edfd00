"""Recommender: a fitted model that answers requests and learns from each event at once."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from steerec.contracts import (
    Choice,
    Encoder,
    Event,
    Floats,
    History,
    Indices,
    Query,
    Slate,
)
from steerec.engine.about import about_of
from steerec.engine.beside import Beside
from steerec.engine.calibrate import Curves
from steerec.engine.likeness import Likeness
from steerec.engine.model import Model
from steerec.engine.narrow import contenders, contenders_compiled
from steerec.engine.panel import Panel
from steerec.engine.people import People, Person
from steerec.engine.pool import Pool, PoolConfig
from steerec.engine.reasons import Reasons
from steerec.engine.remembered import Remembered
from steerec.engine.rules import Catalogue
from steerec.heads.contract import Prepares
from steerec.kernels import loaded

log = logging.getLogger(__name__)

Turn = Callable[[NDArray[np.float64]], NDArray[np.float64]]

WORTH_NARROWING = 3  # times as many candidates as the pool takes; below, all are as fast


@dataclass(frozen=True)
class Scored:
    """One request with the scores of its candidates.

    Attributes:
        items: (n,) the candidates, rising.
        z, weights: (n_heads, n) and (n_heads,), for the heads in `names`, which answered.
        extra: (n,) float64 nats beside Σ w z, for items without events or of one's own.
        blend: (n,) float64, Σ w z + extra.
        phi: (n_features,) of the request.
        allowed: (n_items,), the hard rules over the whole catalogue.
    """

    person: Person
    now: float
    items: Indices
    names: tuple[str, ...]
    z: Floats
    weights: NDArray[np.float64]
    extra: NDArray[np.float64]
    blend: NDArray[np.float64]
    phi: NDArray[np.float64]
    allowed: NDArray[np.bool_]
    skipped: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass
class Recommender:
    """Answers from an immutable model and from the events learnt since it was fitted.

    Attributes:
        rng: makes the request ids, so that the same seed gives the same slates.
        encoder: the one of the items' texts, for what users say of themselves; None: by words.
        available: Unix seconds → (n_items,), which items may be shown then; None: all.
        met: (n_items,) when each was first seen beside the model's events; None: nobody knows.
        score_cache_mb: of scores that only their user's own events can change; 0: none are kept.
        compiled: whether compiled loops answer once they are loaded, for one request at a time.
    """

    model: Model
    rng: np.random.Generator = field(default_factory=np.random.default_rng)
    pool: PoolConfig = field(default_factory=PoolConfig)
    encoder: Encoder | None = None
    available: Callable[[float], NDArray[np.bool_]] | None = None
    met: Callable[[], NDArray[np.float64]] | None = None
    score_cache_mb: float = 0.0
    compiled: bool = False

    def recommend(self, query: Query) -> Slate:
        """The best items for a user, a session or both; unknown users get what is popular.

        Fewer than `query.n` items come back where the rules leave no more.

        Raises:
            ValueError: if n is below 1.
            DataError: if the filter names an attribute that items do not have, or the encoder
                is not the one the items were encoded by.
        """
        scored = self.score(query, narrow=True)
        pool = self.shortlist(scored, query.n)
        return Slate(
            request_id=f"{int(self.rng.integers(2**63)):016x}",
            strategy_version=self.model.strategy.version,
            items=self.choices(scored, pool[: query.n]),
            skipped=scored.skipped,
            left_out=scored.left_out,
        )

    def recommend_many(self, queries: Iterable[Query]) -> list[Slate]:
        """One slate for each query."""
        return [self.recommend(query) for query in queries]

    def similar(self, item_id: str, n: int = 10) -> list[tuple[str, float]]:
        """At most `n` items like this one, best first: id and mean z, in nats over an average item.

        Raises:
            UnknownItemError: if the catalogue does not hold the item.
            DataError: if the model has no head that compares items.
        """
        _check_n(n)
        found = self._likeness.items(self._catalogue.index(item_id), n, self._people.latest())
        return [(str(self.model.data.item_ids[i]), score) for i, score in found]

    def similar_users(self, user_id: str, n: int = 10) -> list[tuple[str, float]]:
        """At most `n` users who share items with this one, best first: id and cosine.

        Rare items count more, rare as of the fit; events learnt since then count for all users.
        Empty for a user without liked items.
        """
        _check_n(n)
        people = self._people
        return self._likeness.users(
            user_id, people.history(user_id), n, people.live(), gone=people.forgotten()
        )

    def interest(self, query: Query, item_ids: Sequence[str]) -> dict[str, float]:
        """P(this item is the next one taken) for each item, under the query's conditions.

        The softmax of the blend's scores over every item that may be shown (filter, exclude,
        seen); 0 for one that may not. Over all of them the sum is 1. Above the pool's
        `full_catalogue`, items outside the pool count as average ones (score 0).

        Raises:
            UnknownItemError: if the catalogue does not hold an item.
        """
        wanted = np.array([self._catalogue.index(i) for i in item_ids], np.int32)
        scored = self.score(query, also=wanted)
        allowed = scored.allowed[scored.items]
        if not allowed.any():
            return dict.fromkeys(item_ids, 0.0)
        rest = int(scored.allowed.sum() - allowed.sum())
        logits = np.where(allowed, scored.blend, -np.inf)
        top = max(float(logits.max()), 0.0)
        mass = np.exp(logits - top)
        p = mass / (mass.sum() + rest * np.exp(-top))
        places = np.searchsorted(scored.items, wanted)
        return {i: float(p[at]) for i, at in zip(item_ids, places, strict=True)}

    def learn(self, event: Event) -> None:
        """Take in one event: the user's next list knows of it.

        Raises:
            UnknownItemError: if the catalogue does not hold the item.
        """
        self.learn_many([event])

    def learn_many(self, events: Sequence[Event]) -> None:
        """`learn` of many events, faster; of one user in the order given.

        Raises:
            UnknownItemError: if the catalogue does not hold an item; then none was taken in.
        """
        self._people.learn([(event, self._catalogue.index(event.item_id)) for event in events])

    def forget(self, user_id: str) -> dict[str, str]:
        """Drop a user's events and states; what `forgotten` says then."""
        user_idx = self.history(user_id).user_idx  # -1 also of who was forgotten before
        counted = len(self.live_histories().get(user_id, ())) > 0
        wait = set()
        for name, head in self.model.heads.items():
            exact = user_idx < 0 or head.forget(user_idx, self.model.data.history(user_idx))
            if not exact or (counted and getattr(head, "counts_live", False)):
                wait.add(name)
        self._people.forget(user_id, wait)
        self._panel.remembered.clear()  # heads took something out, or the person's own are there
        return self.forgotten(user_id)

    def forgotten(self, user_id: str) -> dict[str, str]:
        """Head → `exact` if it is as fitted without this user, who was forgotten.

        Else `next fit`, as with heads that counted events live: they cannot tell them apart.
        """
        wait = self._people.waiting(user_id)
        return {name: "next fit" if name in wait else "exact" for name in self.model.heads}

    def unlearn(self, user_id: str, item_ids: Iterable[str], kept: Iterable[Event]) -> None:
        """Take items out of a user's history, but for the events that are kept."""
        index = self.model.data.item_index
        gone = np.array([index[i] for i in item_ids if i in index], np.int32)
        stay = [(event, index[event.item_id]) for event in kept if event.item_id in index]
        self._people.unlearn(user_id, gone, stay)

    def grown(self, model: Model, *, anew: bool = False) -> "Recommender":
        """The same over a model that `growth.changed` made of this one; all learnt is kept.

        Args:
            anew: its heads are others: what they made of users so far is of no use to them.
        """
        new = replace(self, model=model)
        panel = self._panel.over(model)
        new.__dict__["_panel"] = panel
        new.__dict__["_people"] = self._people.moved_to(panel, anew=anew)
        return new

    def live_histories(self) -> dict[str, History]:
        """user_id → all events of each user who did something since the fit."""
        return self._people.live()

    def history(self, user_id: str) -> History:
        """The user's events with those learnt since the fit; empty for a user never seen."""
        return self._people.history(user_id)

    @property
    def failures(self) -> Mapping[str, int]:
        """Head name → how often it failed and was left out."""
        return dict(self._panel.failures)

    def prepare(self) -> None:
        """Work out what heads of compiled loops read, so that no list waits for it.

        It is for the time before anybody asks; where compiled loops do not answer it does nothing.
        """
        if self._panel.is_compiled:
            for head in self.model.heads.values():
                if isinstance(head, Prepares):
                    head.prepare()

    @property
    def remembered(self) -> Remembered:
        """What steady heads said to those who asked lately; do not change it."""
        return self._panel.remembered

    @property
    def slow(self) -> frozenset[str]:
        """Heads whose compiled loops failed, and which are asked the plain way since."""
        return frozenset(self._panel.slow)

    def shortlist(self, scored: Scored, n: int) -> Indices:
        """Places in `scored.items` of the final pool, best of the blend first."""
        allowed = scored.allowed[scored.items]
        return self._pool.shortlist(scored.blend, scored.z, allowed, n)

    def chosen(self, scored: Scored, n: int) -> Indices:
        """The places of `shortlist`, rising."""
        if not self._compiled:
            return np.sort(self.shortlist(scored, n))
        return self._pool.chosen(scored.blend, scored.z, scored.allowed[scored.items], n)

    def score(
        self,
        query: Query,
        *,
        also: Indices | None = None,
        narrow: bool = False,
        theta: NDArray[np.float64] | None = None,
        turn: Turn | None = None,
    ) -> Scored:
        """Score the candidates of a query, and the items in `also`.

        Args:
            narrow: leave out what cannot come into the pool.
            theta: (n_heads, n_features) in place of the model's.
            turn: what becomes of the head weights (n_heads,), such as a person's own part.
        """
        _check_n(query.n)
        now = self._people.latest() if query.now is None else query.now
        person, skipped = self._who(query, now)
        allowed = self._allowed(query, person, now)
        items = self._candidates(query, person, allowed, now, also)
        held = self._people.holds(query.user_id, person)
        names, raw = self._panel.answers(person.states, items, now, lasting=held)
        items = self._all_items if items is None else items
        phi = self._phi(query, person.history, now)
        weights = self._of(self._weights(phi, theta, turn), names)
        curves = self._curves(names, person.history.n_told)
        had = self._beside.had(person.history)
        if narrow:
            kept = self._contenders(raw, curves, weights, (allowed, had), items, n=query.n)
            items, raw = _only(items, raw, kept)
        z = curves.exactly(raw) if self._compiled else curves(raw)
        extra = self._beside.nats(z, names, items, phi, had)
        return Scored(
            person=person,
            now=now,
            items=items,
            names=names,
            z=z,
            weights=weights,
            extra=extra,
            blend=weights @ z + extra,
            phi=phi,
            allowed=allowed,
            skipped=skipped,
            left_out=self._others(names),
        )

    def _candidates(
        self,
        query: Query,
        person: Person,
        allowed: NDArray[np.bool_],
        now: float,
        also: Indices | None,
    ) -> Indices | None:
        """The items to score, rising; None: the whole catalogue."""
        items = self._pool.candidates(person.history, person.states, allowed, query.n, now)
        if items is None or also is None:
            return items
        return np.union1d(items, also).astype(np.int32)

    def _weights(
        self, phi: NDArray[np.float64], theta: NDArray[np.float64] | None, turn: Turn | None
    ) -> NDArray[np.float64]:
        """(n_heads,): w = θφ, and what becomes of it."""
        w = (self.model.strategy.theta if theta is None else theta) @ phi
        return w if turn is None else turn(w)

    def _allowed(self, query: Query, person: Person, now: float) -> NDArray[np.bool_]:
        """(n_items,): the hard rules."""
        repeats = self.model.repeats if query.repeats is None else query.repeats
        allowed = self._catalogue.allowed(query, person.history, repeats=repeats)
        return allowed if self.available is None else allowed & self.available(now)

    def _contenders(
        self,
        raw: Floats,
        curves: Curves,
        weights: NDArray[np.float64],
        flags: tuple[NDArray[np.bool_], NDArray[np.bool_] | None],
        items: Indices,
        *,
        n: int,
    ) -> Indices | slice:
        """Places of the items that can come into the pool.

        Args:
            flags: (n_items,) which may be shown, and which the user had before; see `Beside.had`.
        """
        most = max(self.pool.top, n)
        if len(items) <= WORTH_NARROWING * most:
            return slice(None)
        may, sure = flags[0], self._beside.apart(flags[1])
        if items is not self._all_items:
            may, sure = may[items], sure[items]
        each = self.pool.top_head
        find = contenders_compiled if self._compiled else contenders
        return find(raw, curves, weights, may, sure=sure, n=most, each=each)

    def _who(self, query: Query, now: float) -> tuple[Person, tuple[str, ...]]:
        """The user with what the query tells of them and its session, and unknown ids of that."""
        about = about_of(query, self.encoder, self.model.data.notes)
        person = self._people.with_about(self._people.person(query.user_id), about)
        if not query.session:
            return person, ()
        index = self.model.data.item_index
        skipped = tuple(i for i in query.session if i not in index)
        if skipped:
            log.info("session_items_skipped=%d first=%r", len(skipped), skipped[0])
        items = np.array([index[i] for i in query.session if i in index], np.int32)
        visit = History(
            items,
            np.ones(len(items), np.float32),
            np.full(len(items), now),
            np.full(len(items), -1, np.int32),
            person.history.user_idx,
        )
        return self._people.with_session(person, visit), skipped

    def _curves(self, names: tuple[str, ...], length: int) -> Curves:
        """The curves of these heads for a history of this length."""
        if (known := self._curves_of.get((names, length))) is not None:
            return known
        calibrations = self.model.calibrations
        curves = tuple(calibrations[name].curve(length) for name in names)
        key = tuple(map(id, curves))  # they live as long as the model
        if key not in self._laid_out:
            self._laid_out[key] = Curves(curves)
        self._curves_of[names, length] = self._laid_out[key]
        return self._laid_out[key]

    def _others(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The heads of the model besides these, which nearly always are all."""
        heads = self.model.heads
        return () if len(names) == len(heads) else tuple(n for n in heads if n not in names)

    def _phi(self, query: Query, history: History, now: float) -> NDArray[np.float64]:
        """(n_features,) of this request."""
        return self.model.phi.one(history, now, scenario=query.scenario, device=query.device)

    def _of(self, numbers: NDArray[np.float64], names: tuple[str, ...]) -> NDArray[np.float64]:
        """The rows of these heads."""
        heads = self.model.strategy.heads
        return numbers if names == heads else numbers[[heads.index(name) for name in names]]

    def choices(
        self, scored: Scored, places: Indices, propensity: Floats | None = None
    ) -> tuple[Choice, ...]:
        """The places of the list, best first, each with its sources and its reason.

        Args:
            propensity: (n_places,); None: all 1.
        """
        items = scored.items[places]
        history = scored.person.history
        weights = self._beside.weights(scored.weights, scored.names, items, scored.phi, history)
        z = scored.z[:, places].T
        parts = weights * z
        # A head that counts against speaks for what it finds unlikely: no reason to give.
        spoke = np.where(z > 0, parts, 0.0)
        reasons = self._reasons.of_all(scored.person, items, scored.names, spoke, scored.now)
        names = scored.names
        sources = [dict(zip(names, row, strict=True)) for row in parts.tolist()]
        ids, blend = self.model.data.item_ids[items], scored.blend[places]
        shown = np.ones(len(items)) if propensity is None else propensity
        rows = zip(ids, blend.tolist(), sources, reasons, shown.tolist(), strict=True)
        return tuple(
            Choice(str(item_id), score, position, share, reason.sentence, reason.because, p)
            for position, (item_id, score, share, reason, p) in enumerate(rows, 1)
        )

    @property
    def _compiled(self) -> bool:
        return self.compiled and loaded()

    @cached_property
    def _beside(self) -> Beside:
        return Beside(self.model)

    @cached_property
    def _all_items(self) -> Indices:
        return np.arange(self.model.data.n_items, dtype=np.int32)

    @cached_property
    def _laid_out(self) -> dict[tuple[int, ...], Curves]:
        return {}

    @cached_property
    def _curves_of(self) -> dict[tuple[tuple[str, ...], int], Curves]:
        """By heads and length, of which there are a few thousand at most."""
        return {}

    @cached_property
    def _panel(self) -> Panel:
        memory = Remembered(most_bytes=int(self.score_cache_mb * 1e6))
        return Panel(self.model, compiled=self.compiled, remembered=memory)

    @cached_property
    def _people(self) -> People:
        return People(self._panel)

    @cached_property
    def _catalogue(self) -> Catalogue:
        return Catalogue(self.model.data)

    @cached_property
    def _pool(self) -> Pool:
        return Pool(self._panel, self.pool, self.met)

    @cached_property
    def _reasons(self) -> Reasons:
        return Reasons(self._panel, self._catalogue)

    @cached_property
    def _likeness(self) -> Likeness:
        return Likeness(self._panel)


def _only(items: Indices, raw: Floats, kept: Indices | slice) -> tuple[Indices, Floats]:
    """Some of the items, and their scores, one head after the other."""
    if isinstance(kept, slice):
        return items[kept], raw[:, kept]
    return items[kept], raw.take(kept, axis=1)


def _check_n(n: int) -> None:
    if n < 1:
        raise ValueError(f"n={n}: expected at least 1")
