"""T3: attackers send a twentieth of the events, by the way that a service's log goes.

    python benchmarks/tuning/attack.py            (stores results/T3.json)

The slates and clicks of `soak.py`, one each second, with the defaults of tuning. Attackers ask for
lists too and click what the last head scores above 0, and nothing else. Of θ in the end, on
requests that nobody learnt from: its distance to the promoted one and to that of a run of the
honest alone, in nats a draw at a temperature of 1 nat, and what the honest would click of the first
place so drawn.
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special
from soak import HEADS, Traffic, strategy

from steerec.contracts import Event, Strategy
from steerec.engine.evaluate import commit, machine
from steerec.engine.learning import LIVE, Learning, TuningConfig
from steerec.store.impressions import Impression
from steerec.store.log import LoggedEvent
from steerec.tuning.guard import GuardConfig, Reference

RESULTS = Path(__file__).parent / "results"
SLATE_S, EPOCH_SLATES, PEOPLE, ASKED = 1.0, 20, 2_000, 200
NOBODY_HELD: Mapping[str, float] = {"user_day_rows": 1e9, "burst_rows": 1e9}


@dataclass(frozen=True)
class Attack:
    """Who sends which share of the events, from which slate on, and what of the guard is off."""

    name: str
    share: float = 0.05
    accounts: int = 1
    begins: float = 0.0  # share of the honest slates that come before; what is due comes at once
    guard: Mapping[str, float] = field(default_factory=dict)


ATTACKS = (
    Attack("the honest alone", 0.0),
    Attack("one account"),
    Attack("one account, all in one burst", begins=0.9),
    Attack("100 accounts", accounts=100),
    Attack("an account for each list", accounts=1_000_000),
    Attack("one account, nobody held back", guard=NOBODY_HELD),
    Attack("an account for each list, half of all events", 0.5, 1_000_000),
    Attack(
        "the same, distance not bounded, nobody held back",
        0.5,
        1_000_000,
        guard={**NOBODY_HELD, "most_nats": 1e6},
    ),
)


class Attackers:
    """Lists asked for by attackers, with their clicks."""

    def __init__(self, traffic: Traffic, accounts: int) -> None:
        self._traffic, self._accounts, self._n = traffic, accounts, 0

    def slate(self, now: float) -> tuple[Impression, list[LoggedEvent]]:
        """One list and what is clicked of it."""
        shown, _ = self._traffic.slate(now)
        user = f"evil{self._n % self._accounts}"
        shown = replace(shown, request_id=f"evil-r{self._n}", user_id=user, arm=LIVE)
        self._n += 1
        score = dict(zip(shown.pool, shown.scores[:, HEADS - 1], strict=True))
        return shown, [
            LoggedEvent(f"{shown.request_id}-{item}", clicked(user, item, now), shown.request_id)
            for item in shown.items
            if score[item] > 0
        ]


def quiet_strategy() -> Strategy:
    """Scores of about a nat, as people have; those of the soak are ten times as loud."""
    loud = strategy()
    return replace(loud, theta=loud.theta / 8)


def clicked(user: str, item: str, now: float) -> Event:
    return Event(user, item, "click", timestamp=now)


def run(attack: Attack, n_slates: int) -> tuple[Learning, dict[str, int]]:
    """What was learnt, and how many events came from whom."""
    given, tuning = quiet_strategy(), TuningConfig(guard=GuardConfig(**attack.guard))
    learning = Learning(given, tuning, lambda _: (), now=0.0)
    honest = Traffic(given, PEOPLE)
    attackers = Attackers(Traffic(given, PEOPLE, seed=2), attack.accounts)
    now, sent = 1e9, {"honest": 0, "attackers": 0}
    for n in range(n_slates):
        now += SLATE_S
        sent["honest"] += take_in(learning, *honest.slate(now), now)
        due = (
            attack.share / (1 - attack.share) * sent["honest"]
            if n >= attack.begins * n_slates
            else 0
        )
        while sent["attackers"] < due:
            sent["attackers"] += take_in(learning, *attackers.slate(now), now)
        if n % EPOCH_SLATES == 0:
            learning.cut(now, given)
    learning.cut(now + 3_600, given)
    return learning, sent


def take_in(learning: Learning, shown: Impression, told: list[LoggedEvent], now: float) -> int:
    for row in (shown, *(replace(event, received=now) for event in told)):
        learning.take_in(row)
    return len(told)


def judged(learning: Learning, alone: Learning) -> dict[str, float]:
    """Distances of θ, and clicks of the honest at the first place."""
    traffic = Traffic(learning.strategy, PEOPLE, seed=3)
    shown = [traffic.slate(0.0)[0] for _ in range(ASKED)]
    z = np.stack([one.scores[:, :HEADS] for one in shown]).astype(np.float32)
    phi = np.stack([one.phi for one in shown]).astype(np.float64)
    asked = Reference(z, phi, np.ones(z.shape[:2], bool))
    theta, promoted = learning.epoch.theta, learning.strategy.theta
    clicks = special.expit(asked.scores(traffic.truth) - 1.0)
    worth = {
        name: float((special.softmax(asked.scores(t), axis=1) * clicks).sum(axis=1).mean())
        for name, t in (("clicks", theta), ("clicks_promoted", promoted))
    }
    return {
        "nats_to_promoted": asked.kl(theta, promoted),
        "nats_to_honest_alone": asked.kl(theta, alone.epoch.theta),
        **worth,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slates", type=int, default=6_000, help="of the honest")
    parser.add_argument("--json", type=Path, default=RESULTS / "T3.json")
    given = parser.parse_args()
    about = {"scenario": "T3", "slates": given.slates, "commit": commit(), "machine": machine()}
    alone, rows = None, []
    for attack in ATTACKS:
        began = time.process_time()
        learning, sent = run(attack, given.slates)
        alone = alone or learning
        told: dict[str, Any] = {"attack": attack.name, **sent, **judged(learning, alone)}
        told |= {"returns": learning.counts["returns"], "seed": 1}
        told["cpu_s"] = round(time.process_time() - began, 1)
        rows.append({k: round(v, 5) if isinstance(v, float) else v for k, v in told.items()})
        given.json.write_text(json.dumps({**about, "attacks": rows}, indent=1) + "\n", "utf-8")
        print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
