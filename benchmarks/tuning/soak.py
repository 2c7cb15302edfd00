"""T2: a million events through the tuner; cost of each and memory, at ten marks.

    python benchmarks/tuning/soak.py                        (stores results/T2.json)
    python benchmarks/tuning/soak.py --events 20000 --json look.json
    python benchmarks/tuning/soak.py --people 100000 --json benchmarks/tuning/results/T2-people.json

Times are of the processor, as the machine is seldom idle.

The log's rows go through the same code that follows a service's log (`engine/learning.py`): joined
to what was shown, learnt, watched, held, an epoch a second. Eight heads and as many columns of φ as
fit into 256 numbers; slates of ten; people come back; half of the reactions come after their page
was closed. What the store does is not in it.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from steerec.contracts import Event, Strategy
from steerec.engine.evaluate import commit, machine
from steerec.engine.learning import CONTROL, LIVE, Learning, TuningConfig
from steerec.store.impressions import Impression
from steerec.store.log import LoggedEvent
from steerec.tuning.design import Design, choose_columns
from steerec.tuning.experiments import stable_share
from steerec.tuning.reward import RewardConfig

RESULTS = Path(__file__).parent / "results"
HEADS, POOL, PLACES = 8, 40, 10
PEOPLE = 5_000  # few enough to have come by the third mark: each one known takes some room
FEATURES = (
    "bias",
    *(f"scenario={name}" for name in ("home", "cart", "mail", "search")),
    *(f"length~{n}" for n in (0, 1, 2, 5, 10, 20, 50, 100)),
    *(f"device={name}" for name in ("phone", "tablet", "desktop")),
    *(f"recency~{n}" for n in range(4)),
    *(f"hour~{n}" for n in range(4)),
)
SLATE_S = 0.05  # twenty slates a second: an epoch for every twenty
CLOSE_S, LATE_S = 100.0, 200.0  # after a page was shown: when it closes, when half the clicks come
MOST_KEPT = 5_000  # pages in memory, so that a short run shows whether they are all that grows
EPOCH_SLATES = 20
MARKS = 10


def strategy() -> Strategy:
    rng = np.random.default_rng(0)
    theta = rng.normal(0.3, 0.2, (HEADS, len(FEATURES)))
    heads = tuple(f"head{k}" for k in range(HEADS))
    return Strategy(heads, FEATURES, theta, 1, {})


class Traffic:
    """Slates and clicks that follow another θ than the promoted one."""

    def __init__(self, promoted: Strategy, people: int = PEOPLE, *, seed: int = 1) -> None:
        self._rng, self._people = np.random.default_rng(seed), people
        self.truth = promoted.theta[::-1]
        self._theta, self._heads = promoted.theta, [*promoted.heads, "extra"]
        self._n = 0

    def slate(self, now: float) -> tuple[Impression, list[LoggedEvent]]:
        rng, n = self._rng, self._n
        self._n += 1
        user = f"u{int(self._people * rng.random() ** 2)}"
        z = rng.normal(size=(POOL, HEADS)).astype(np.float16)
        phi = np.concatenate([[1.0], rng.random(len(FEATURES) - 1)]).astype(np.float32)
        scores = z.astype(np.float64) @ (self._theta @ phi)
        places = np.argsort(-(scores / 0.3 + rng.gumbel(size=POOL)))[:PLACES]
        pool = tuple(f"i{k}" for k in rng.choice(50_000, POOL, replace=False))
        arm = CONTROL if stable_share("control", user) < 0.05 else LIVE
        shown = Impression(
            request_id=f"r{n}",
            time=now,
            items=tuple(pool[p] for p in places),
            propensity=np.full(PLACES, 0.1, np.float32),
            user_id=user,
            arm=arm,
            pool=pool,
            scores=np.hstack([z, np.zeros((POOL, 1), np.float16)]),
            phi=phi,
            more={"heads": self._heads, "temperature": 0.3},
        )
        log_odds = z[places].astype(np.float64) @ (self.truth @ phi) - 1.0
        clicked = rng.random(PLACES) < 1 / (1 + np.exp(-log_odds))
        told = [
            LoggedEvent(
                f"e{n}-{k}", Event(user, shown.items[k], "click", timestamp=now), f"r{n}", now
            )
            for k in np.flatnonzero(clicked)
        ]
        return shown, told


def soak(n_events: int, people: int = PEOPLE) -> Iterator[dict[str, Any]]:
    """What is known at each mark: cost and memory at it and at those before."""
    reward = RewardConfig(close_after_s=CLOSE_S, most_kept=MOST_KEPT)
    given, config = strategy(), TuningConfig(reward=reward)
    mark = max(n_events // MARKS, 1)
    columns = choose_columns(FEATURES, HEADS, n_positions=PLACES)
    size = Design(HEADS, len(FEATURES), columns, PLACES).size
    learning = Learning(given, config, lambda _: (), now=0.0)
    traffic, process = Traffic(given, people), psutil.Process()
    waiting: list[tuple[float, LoggedEvent]] = []
    events: list[float] = []
    slates: list[float] = []
    epochs: list[float] = []
    marks, now, done, at = [], 1e9, 0, 0

    def timed(where: list[float], call: Any, *what: Any) -> None:
        began = time.thread_time()
        call(*what)
        where.append(time.thread_time() - began)

    while done < n_events:
        now += SLATE_S
        shown, told = traffic.slate(now)
        timed(slates, learning.take_in, shown)
        late = len(told) // 2
        waiting += [(now + LATE_S, event) for event in told[:late]]
        ready = list(told[late:])
        while at < len(waiting) and waiting[at][0] <= now:
            ready.append(waiting[at][1])
            at += 1
        if at > 10_000:
            del waiting[:at]
            at = 0
        for event in ready:
            timed(events, learning.take_in, replace(event, received=now))
        done += len(ready)
        if len(slates) % EPOCH_SLATES == 0:
            timed(epochs, learning.cut, now, given)
        if done // mark > len(marks) or done >= n_events:
            marks.append(_mark(done, learning, process, events, slates, epochs))
            yield {"numbers_learnt": size, "marks": marks, "counts": learning.counts}


def _mark(
    done: int,
    learning: Learning,
    process: psutil.Process,
    events: list[float],
    slates: list[float],
    epochs: list[float],
) -> dict[str, Any]:
    """What the last stretch cost; the lists begin anew."""
    per_event = (sum(events) + sum(slates) + sum(epochs)) / max(len(events), 1)
    told = {
        "events": done,
        "people": len(learning.offsets),
        "rss_mib": round(process.memory_info().rss / 2**20, 1),
        "ms_per_event_all_in": round(1e3 * per_event, 4),
        "event_ms": _quantiles(events),
        "slate_ms": _quantiles(slates),
        "epoch_ms": _quantiles(epochs),
        "epoch": learning.epoch.number,
        "finite": bool(np.isfinite(learning.epoch.theta).all()),
        "load": round(os.getloadavg()[0], 1),
    }
    for some in (events, slates, epochs):
        some.clear()
    return told


def _quantiles(seconds: list[float]) -> dict[str, float]:
    found = 1e3 * np.quantile(seconds, [0.5, 0.99]) if seconds else np.zeros(2)
    return {"p50": round(float(found[0]), 4), "p99": round(float(found[1]), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--people", type=int, default=PEOPLE, help="who come back")
    parser.add_argument("--json", type=Path, default=RESULTS / "T2.json")
    given = parser.parse_args()
    began = time.process_time()
    about = {
        "scenario": "T2",
        "people": given.people,
        "commit": commit(),
        "machine": machine(),
        "seed": 1,
    }
    about["people"] = given.people
    for found in soak(
        given.events, given.people
    ):  # stored at each mark, so that a run that is cut tells too
        finished = time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime())
        cpu_s = round(time.process_time() - began, 1)
        told = {**about, "finished": finished, "cpu_s": cpu_s, **found}
        given.json.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
        print(json.dumps(found["marks"][-1]), flush=True)


if __name__ == "__main__":
    main()
