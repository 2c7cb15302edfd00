"""Learners side by side in a generated logistic world that turns at half time (scenario T1).

Each request has a context and 30 items with the calibrated scores of six heads; five are drawn at a
temperature and clicked by a truth that no learner sees. All learners get the same requests and the
same random numbers, and every θ is drawn from at the length of the offline one, which is that of
the truth (a longer one is a colder sampler, which earns more whatever was learnt); rivals have
three rates each. Reported: clicks lost per 1,000 slates to the truth's own blend with the same
sampler, before the turn and after it, mean over seeds with a 95 % t interval. SquareCB draws in its
own way, so it can lose less than nothing.

    nice -n 10 python benchmarks/tuning/learners.py --seeds 5     (stores results/T1.json)
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from scipy import special, stats

from steerec.engine.evaluate import commit, machine
from steerec.tuning.design import Design
from steerec.tuning.learner import Learner, LearnerConfig, OnlineTuner
from steerec.tuning.observed import Observed
from steerec.tuning.prior import Prior
from steerec.tuning.rivals import Ftrl, FtrlConfig, Sgd, Thompson, squarecb

HEADS, FEATURES, POOL, PLACES = 6, 4, 30, 5
DESIGN = Design(HEADS, FEATURES, tuple(range(FEATURES)), PLACES)
TEMPERATURE = 0.3
LEVEL = -2.5
EVERY = 10  # slates an epoch
SGD_RATES = {"sgd .02": 0.02, "sgd .1": 0.1, "sgd .5": 0.5}
FTRL_RATES = {"ftrl .03": 0.03, "ftrl .1": 0.1, "ftrl .3": 0.3}
SQUARECB_RATES = {"squarecb 200": 200.0, "squarecb 1000": 1_000.0, "squarecb 5000": 5_000.0}


def request(rng):
    """Scores that hang together a little, as heads' do, and a context."""
    shared = rng.normal(size=(POOL, 1))
    z = np.clip(0.6 * shared + rng.normal(size=(POOL, HEADS)), -12, 12)
    return z, np.concatenate([[1.0], rng.random(FEATURES - 1)])


def truths(rng):
    """θ before and after the turn: other heads come to be right."""
    theta = 0.3 * rng.normal(size=(HEADS, FEATURES))
    theta[:, 0] += np.array([0.9, 0.6, 0.3, 0.1, 0.0, -0.1])
    return theta, theta[::-1].copy()


def offline(truth, rng):
    """What a fit on other data would have found: as long as the truth, and half of it wrong."""
    found = truth / np.linalg.norm(truth)
    noise = rng.normal(size=truth.shape)
    found = found + noise / np.linalg.norm(noise)
    return found * (np.linalg.norm(truth) / np.linalg.norm(found))


def makers(theta):
    """Name → tuner made anew."""
    prior = Prior(theta, 50.0, rate=0.1)

    def ours(**settings):
        config = LearnerConfig(publish_every_s=0.0, **settings)
        return OnlineTuner(Learner(DESIGN, prior, config, now=0.0))

    return {
        "frozen": lambda: None,
        "ours": ours,
        "ours, one memory": lambda: ours(memories=(200_000.0,)),
        "ours, rows believed in full": lambda: ours(trust=1.0),
        "thompson": lambda: Thompson(ours(), np.random.default_rng(7)),
        **dict.fromkeys(SQUARECB_RATES, ours),
        **{
            name: lambda rate=rate: Sgd(DESIGN, prior, now=0.0, rate=rate)
            for name, rate in SGD_RATES.items()
        },
        **{
            name: lambda rate=rate: Ftrl(DESIGN, prior, FtrlConfig(rate=rate), now=0.0)
            for name, rate in FTRL_RATES.items()
        },
    }


def draw(scores, noise, name, tuner, z, phi):
    """Places of five items: Gumbel top-k, or SquareCB position by position."""
    if name not in SQUARECB_RATES:
        return np.argsort(-(scores / TEMPERATURE + noise[:POOL]))[:PLACES]
    taken = []
    click = tuner.epoch.click(
        Observed(z, np.broadcast_to(phi, (POOL, FEATURES)), np.ones(POOL, int), np.zeros(POOL))
    )
    for place in range(PLACES):
        left = click.copy()
        left[taken] = -np.inf
        p = squarecb(left, learning_rate=SQUARECB_RATES[name])
        with np.errstate(divide="ignore"):
            taken.append(int(np.argmax(np.log(p) + noise[place * POOL : (place + 1) * POOL])))
    return np.array(taken)


def as_long(theta, start):
    """As long as the offline one, as a service has it: longer would be another temperature."""
    return theta * (np.linalg.norm(start) / max(np.linalg.norm(theta), 1e-12))


def play(name, make, start, both, slates, seed):
    """(slates,) expected clicks of each list, by the truth."""
    tuner, got = make(), np.zeros(slates)
    rng = np.random.default_rng(seed)
    for i in range(slates):
        z, phi = request(rng)
        noise, uniform = rng.gumbel(size=POOL * PLACES), rng.random(POOL)
        truth = both[i >= slates // 2]
        theta = start if tuner is None else as_long(tuner.epoch.theta, start)
        theta = truth if name == "oracle" else theta
        places = draw(z @ (theta @ phi), noise, name, tuner, z, phi)
        log_odds = z[places] @ (truth @ phi) + LEVEL - 0.7 * np.log(np.arange(1, PLACES + 1))
        p = special.expit(log_odds)
        got[i] = p.sum()
        if tuner is not None:
            tuner.observe(Observed.slate(z[places], phi, (uniform[places] < p) * 1.0))
            if i % EVERY == EVERY - 1:
                tuner.publish(float(i))
    return got


def run(slates, seeds):
    """Name → clicks lost per 1,000 slates, before and after the turn, one row a seed."""
    lost, seconds = {}, {}
    for seed in range(seeds):
        rng = np.random.default_rng([seed, 1])
        both = truths(rng)
        start = offline(both[0], rng)
        best = play("oracle", lambda: None, start, both, slates, seed)
        for name, make in makers(start).items():
            began = time.process_time()
            gap = best - play(name, make, start, both, slates, seed)
            seconds[name] = seconds.get(name, 0.0) + time.process_time() - began
            halves = [1_000 * half.mean() for half in np.split(gap, 2)]
            lost.setdefault(name, []).append([*halves, 1_000 * best.mean()])
    return lost, seconds


def summary(values):
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"mean": mean, "ci": [mean, mean]}
    low, high = stats.t.interval(0.95, len(values) - 1, mean, stats.sem(values))
    return {"mean": round(mean, 1), "ci": [round(float(low), 1), round(float(high), 1)]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--slates", type=int, default=4_000)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "T1.json")
    given = parser.parse_args()
    lost, seconds = run(given.slates, given.seeds)
    result = {
        "scenario": "T1",
        "commit": commit(),
        "machine": machine(),
        "seeds": given.seeds,
        "slates": given.slates,
        "oracle_clicks_per_1000": summary([row[2] for row in lost["frozen"]]),
        "lost_per_1000": {
            name: {
                "before": summary([row[0] for row in rows]),
                "after": summary([row[1] for row in rows]),
                "cpu_s": round(seconds[name], 1),
            }
            for name, rows in lost.items()
        },
    }
    text = json.dumps(result, indent=2)
    print(text)
    given.json.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
