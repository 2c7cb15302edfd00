"""Slates and events of the log together, in the order in which they came."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from steerec.store import Store
from steerec.store.impressions import Impression
from steerec.store.log import LoggedEvent
from steerec.tuning.joining import Joiner, Outcomes, Reaction, Shown
from steerec.tuning.reward import RewardConfig

AT_ONCE = 1_000  # rows of the log read together
Row = Impression | LoggedEvent


def rows_after(
    store: Store, tenant: str, seq: int, *, upto: int | None = None
) -> Iterator[tuple[list[Row], int]]:
    """Rows above `seq` in order, some at a time, each time with the place read up to."""
    shown: list[Impression] = []  # read, and not given yet: what makes a slate is slow to read
    events: list[LoggedEvent] = []
    while upto is None or seq < upto:
        if (wanted := AT_ONCE - len(shown)) > 0:
            last = shown[-1].seq if shown else seq
            shown += store.shown.read(tenant, after=last, limit=wanted)
        if (wanted := AT_ONCE - len(events)) > 0:
            last = events[-1].seq if events else seq
            events += store.log.read(tenant, after=last, limit=wanted)
        if not shown and not events:
            return
        ends = [part[-1].seq for part in (shown, events) if len(part) == AT_ONCE]
        seq = min(ends, default=max(part[-1].seq for part in (shown, events) if part))
        rows: list[Row] = [
            *(row for row in shown if row.seq <= seq),
            *(row for row in events if row.seq <= seq),
        ]
        shown = shown[sum(row.seq <= seq for row in shown) :]
        events = events[sum(row.seq <= seq for row in events) :]
        yield sorted(rows, key=lambda row: row.seq), seq


def reaction_of(row: LoggedEvent) -> Reaction:
    """An event as something a person did with a shown item."""
    event = row.event
    time = row.received if event.timestamp is None else min(event.timestamp, row.received)
    return Reaction(
        row.event_id, event.event, event.item_id, time, event.user_id, row.request_id, event.value
    )


def rewarded(
    store: Store, tenant: str, config: RewardConfig, *, newest: int, since: float, now: float
) -> list[tuple[Impression, NDArray[np.float64]]]:
    """The newest first pages whose reward is settled, oldest first, with each item's reward.

    Args:
        since: Unix seconds; pages shown before are not looked at.
    """
    found = _Rewards(Joiner(config), newest)
    first = store.shown.first_seq(tenant, since=since)
    for rows, _ in rows_after(store, tenant, max(first - 1, 0)) if first else ():
        for row in rows:
            found.take(row)
    found.settle(found.joiner.close(now))
    return [(p, found.rewards[name]) for name, p in found.pages.items() if name in found.rewards]


@dataclass
class _Rewards:
    """First pages and what came of them, of the newest only."""

    joiner: Joiner
    newest: int
    pages: OrderedDict[str, Impression] = field(default_factory=OrderedDict)
    rewards: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def take(self, row: Row) -> None:
        """One row of the log."""
        if isinstance(row, LoggedEvent):
            late = self.joiner.react(reaction_of(row), row.received)
            self.settle([] if late is None else [late])
            return
        self.settle(self.joiner.show(as_shown(row), row.time))
        if row.start == 0:
            self.pages[row.request_id] = row
        while len(self.pages) > self.newest:
            gone, _ = self.pages.popitem(last=False)
            self.rewards.pop(gone, None)

    def settle(self, found: Iterable[Outcomes]) -> None:
        """Rewards of pages that closed, or by how much they changed afterwards."""
        for outcomes in found:
            page = outcomes.shown.request_id
            if outcomes.shown.start == 0 and page in self.pages:
                self.rewards[page] = self.rewards.get(page, 0.0) + outcomes.reward


def as_shown(page: Impression) -> Shown:
    """A page without what only a learner needs."""
    nothing = np.zeros((len(page.items), 1))
    return Shown(
        page.request_id,
        page.user_id,
        page.items,
        page.time,
        nothing,
        np.zeros(1),
        page.scenario,
        page.arm or "live",
        page.start,
    )
