"""The heads of a model, asked so that one that fails is left out of that one answer."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

import steerec.kernels as kernels
from steerec.contracts import Floats, History, Indices
from steerec.engine.model import Model
from steerec.engine.remembered import NOTHING, Remembered, Rows, Said
from steerec.heads.contract import HistoryHead, Room
from steerec.kernels import loaded

log = logging.getLogger(__name__)

T = TypeVar("T")
Answer = Callable[[Any, Indices | None, float, Room, Floats], bool]  # see heads.contract.Quick
Count = Callable[[History, int, float, float], None]  # see heads.contract.Counts
States = Mapping[str, Any]  # head name → that head's state of one user; failed heads are absent


@dataclass(frozen=True)
class Panel:
    """All heads of a model, one question at a time.

    Attributes:
        failures: head name → how often it was left out since the start.
        compiled: whether compiled loops answer, once they are loaded, for one request at a time.
        slow: heads that failed there and are asked the plain way since.
        remembered: what steady heads said; cleared by whoever changes a head.
    """

    model: Model
    failures: Counter[str] = field(default_factory=Counter)
    compiled: bool = False
    slow: set[str] = field(default_factory=set)
    room: Room = field(default_factory=Room)
    remembered: Remembered = field(default_factory=Remembered)

    @property
    def is_compiled(self) -> bool:
        """Whether compiled loops answer now."""
        return self.compiled and loaded()

    def over(self, model: Model) -> "Panel":
        """A panel of the heads of another model, which goes on counting.

        What steady heads said is kept if they are the same, as where a price has changed.
        """
        steady = (n for n, head in self.model.heads.items() if getattr(head, "steady", False))
        same = model.data.n_items == self.model.data.n_items and all(
            model.heads.get(name) is self.model.heads[name] for name in steady
        )
        memory = self.remembered if same else self.remembered.afresh()
        return Panel(model, self.failures, compiled=self.compiled, remembered=memory)

    def start(self, history: History, names: Iterable[str] | None = None) -> States:
        """Each head's state of a user with this history.

        Args:
            names: only of these heads; None: all.
        """
        heads = self.model.heads
        asked = {
            n: self._attempt(n, heads[n].start, history)
            for n in (heads if names is None else names)
        }
        return {name: state for name, state in asked.items() if state is not None}

    def update(self, states: States, event: History) -> States:
        """The states after one event."""
        heads = self.model.heads
        asked = {n: self._attempt(n, heads[n].update, s, event) for n, s in states.items()}
        return {name: state for name, state in asked.items() if state is not None}

    def observe(self, states: States, event: History) -> None:
        """Let each head count one event of the user in `states` (before it)."""
        for name, state in states.items():
            self._attempt(name, self.model.heads[name].observe, state, event)

    def count(
        self,
        name: str,
        count: Count,
        before: History,
        item_idx: int,
        weight: float,
        time: float,
    ) -> None:
        """`observe` of one event by a head that takes it as plain numbers."""
        self._attempt(name, count, before, item_idx, weight, time)

    def answers(
        self, states: States, items: Indices | None, now: float, *, lasting: bool = False
    ) -> tuple[tuple[str, ...], Floats]:
        """The heads that answered, and their raw scores (n_heads, n); others are left out.

        Args:
            items: (n,) rising; None: the whole catalogue.
            lasting: whether these states will be asked with again, until their user does something.
        """
        memory = self.remembered if lasting and self.remembered.most_bytes else None
        if self.is_compiled:
            names, raw = self._told(states, items, now, memory, compiled=True)
            if kernels.asking.finite(raw):
                return names, raw
        return self._told(states, items, now, memory, compiled=False)

    def _told(
        self,
        states: States,
        items: Indices | None,
        now: float,
        memory: Remembered | None,
        *,
        compiled: bool,
    ) -> tuple[tuple[str, ...], Floats]:
        """The answers, those of steady heads out of the memory if it has them."""
        if memory is None:
            return self._answered(states, items, now, NOTHING, compiled=compiled)
        era, rows = memory.era, memory.rows(states, items, compiled=compiled)
        names, raw = self._answered(states, items, now, rows, compiled=compiled)
        if not rows:
            at, steady = self._steady(names)
            said = Said(states, items, compiled, steady, raw.take(at, axis=0))
            memory.keep(said, era=era)
        return names, raw

    def _answered(
        self, states: States, items: Indices | None, now: float, said: Rows, *, compiled: bool
    ) -> tuple[tuple[str, ...], Floats]:
        n = self.model.data.n_items if items is None else len(items)
        raw, names = np.empty((len(self.model.heads), n), np.float32), list[str]()
        for name, answer in self._answering:
            if name not in states:
                continue
            out = raw[len(names)]
            if (row := said.get(name)) is not None:
                out[:] = row
                names.append(name)
            elif compiled and answer and self._quick(name, answer, states[name], items, now, out):
                names.append(name)
            elif (own := self._checked(name, states[name], items, now)) is not None:
                out[:] = own
                names.append(name)
        return tuple(names), raw[: len(names)]

    def score(self, states: States, items: Indices | None, now: float) -> dict[str, Floats]:
        """`answers` by head."""
        names, raw = self.answers(states, items, now)
        return dict(zip(names, raw, strict=True))

    @cached_property
    def _answering(self) -> list[tuple[str, Answer | None]]:
        """Each head, and how it answers by compiled loops if it can."""
        return [(name, getattr(head, "answer", None)) for name, head in self.model.heads.items()]

    def _steady(self, names: tuple[str, ...]) -> tuple[Indices, tuple[str, ...]]:
        """The steady ones of these heads: their rows and names."""
        if names not in self._steady_of:
            heads = self.model.heads
            rows = [at for at, n in enumerate(names) if getattr(heads[n], "steady", False)]
            self._steady_of[names] = np.array(rows, np.int32), tuple(names[at] for at in rows)
        return self._steady_of[names]

    @cached_property
    def _steady_of(self) -> dict[tuple[str, ...], tuple[Indices, tuple[str, ...]]]:
        return {}

    def _quick(
        self,
        name: str,
        answer: Answer,
        state: Any,
        items: Indices | None,
        now: float,
        out: Floats,
    ) -> bool:
        """Let a head answer by compiled loops; whether it could."""
        if self.slow and name in self.slow:
            return False
        n_known = self.model.heads[name].n_items
        if n_known != self.model.data.n_items:  # items came later: see `_row`
            n_known = n_known if items is None else int(np.searchsorted(items, n_known))
            out[n_known:] = np.nan
            items, out = None if items is None else items[:n_known], out[:n_known]
        try:
            return answer(state, items, now, self.room, out)
        except Exception as e:  # as in `_attempt`; here the head is asked again, the plain way
            self.slow.add(name)
            self.remembered.clear()  # of compiled loops
            log.warning("head=%s compiled=0 reason=%s: %s", name, type(e).__name__, e)
            return False

    def _checked(self, name: str, state: Any, items: Indices | None, now: float) -> Floats | None:
        """One head's scores (n,); None if it fails or answers nonsense."""
        n = self.model.data.n_items if items is None else len(items)
        scores = self._attempt(name, self._row, name, state, items, np.array([now]))
        if scores is not None and (scores.shape != (n,) or np.isinf(scores).any()):
            self._leave_out(name, f"shape {scores.shape} of ({n},) or infinite scores")
            return None
        return scores

    def _row(self, name: str, state: Any, items: Indices | None, times: Any) -> Floats:
        """One head's scores; NaN for items that came to the catalogue after it was fitted."""
        head, n_all = self.model.heads[name], self.model.data.n_items
        if head.n_items == n_all:
            row: Floats = head.score([state], items, times)[0]
            return row
        n = n_all if items is None else len(items)
        padded = np.full(n, np.nan, np.float32)
        n_known = head.n_items if items is None else int(np.searchsorted(items, head.n_items))
        known = None if items is None else items[:n_known]
        padded[:n_known] = head.score([state], known, times)[0]
        return padded

    def retrieve(self, states: States, n: int, now: float) -> dict[str, Indices]:
        """Each head's own candidates, best first."""
        heads, answers = self.model.heads, {}
        for name, state in states.items():
            found, find = None, getattr(heads[name], "find", None)
            if find is not None and self.is_compiled and name not in self.slow:
                found = self._attempt(name, find, state, n, now, self.room)
            if found is None:
                found = self._attempt(name, heads[name].retrieve, state, n, now)
            if found is not None:
                answers[name] = found
        return answers

    def because(self, name: str, state: Any, item_idx: int) -> Floats:
        """How much each event of one head's state spoke for the item; empty if it cannot tell."""
        if item_idx >= self.model.heads[name].n_items:
            return np.empty(0, np.float32)
        spoke = self._attempt(name, self.model.heads[name].because, state, item_idx)
        return np.empty(0, np.float32) if spoke is None else spoke

    def because_each(self, name: str, states: States, items: Indices) -> Floats:
        """(n_items, n) `because` of several items, none named twice; n = 0 if it cannot tell."""
        head, state = self.model.heads[name], states[name]
        if getattr(type(head), "because", None) is HistoryHead.because:
            return np.empty((len(items), 0), np.float32)
        quick = getattr(head, "because_each", None) if self.is_compiled else None
        if quick is not None and int(items.max(initial=0)) < head.n_items:
            told = self._attempt(name, quick, state, items, self.room)
            return np.empty((len(items), 0), np.float32) if told is None else told
        each = [self.because(name, state, item_idx) for item_idx in items.tolist()]
        told = np.zeros((len(items), max(map(len, each), default=0)), np.float32)
        for row, one in zip(told, each, strict=True):
            row[len(row) - len(one) :] = one
        return told

    def _attempt(self, name: str, call: Callable[..., T], *given: Any) -> T | None:
        # The one broad catch: a head may be anybody's code, and whatever it raises must cost
        # this answer that head only, never the whole list. It is logged and counted.
        try:
            return call(*given)
        except Exception as e:
            self._leave_out(name, f"{type(e).__name__}: {e}")
            return None

    def _leave_out(self, name: str, reason: str) -> None:
        self.failures[name] += 1
        log.warning("head=%s left_out=1 failures=%d reason=%s", name, self.failures[name], reason)
