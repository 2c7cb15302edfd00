"""The heads of a model, asked so that one that fails is left out of that one answer."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from steerec.contracts import Floats, History, Indices
from steerec.engine.model import Model

log = logging.getLogger(__name__)

T = TypeVar("T")
States = Mapping[str, Any]  # head name → that head's state of one user; failed heads are absent


@dataclass(frozen=True)
class Panel:
    """All heads of a model, one question at a time.

    Attributes:
        failures: head name → how often it was left out since the start.
    """

    model: Model
    failures: Counter[str] = field(default_factory=Counter)

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

    def score(self, states: States, items: Indices | None, now: float) -> dict[str, Floats]:
        """Raw scores (n,) by head; a head that fails or answers nonsense is absent.

        Args:
            items: (n,) rising; None: the whole catalogue.
        """
        times = np.array([now])
        n = self.model.data.n_items if items is None else len(items)
        answers = {}
        for name, state in states.items():
            scores = self._attempt(name, self._row, name, state, items, times)
            if scores is None:
                continue
            if scores.shape != (n,) or np.isinf(scores).any():
                self._leave_out(name, f"shape {scores.shape} of ({n},) or infinite scores")
                continue
            answers[name] = scores
        return answers

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
        heads = self.model.heads
        asked = {
            name: self._attempt(name, heads[name].retrieve, s, n, now) for name, s in states.items()
        }
        return {name: found for name, found in asked.items() if found is not None}

    def because(self, name: str, state: Any, item_idx: int) -> Floats:
        """How much each event of one head's state spoke for the item; empty if it cannot tell."""
        if item_idx >= self.model.heads[name].n_items:
            return np.empty(0, np.float32)
        spoke = self._attempt(name, self.model.heads[name].because, state, item_idx)
        return np.empty(0, np.float32) if spoke is None else spoke

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
