"""A risk score tuned as outcomes come, month by month. Follow it from top to bottom.

python examples/risk/credit_default.py                         generated clients, seconds
python examples/risk/credit_default.py --data DIR/credit-default   the real set, minutes
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from clients import Clients
from figures import Ranked, of_reviews, top
from generated import some_clients
from monthly import Plain, Policy, Tuned, run
from scorers import Linear, Tree, TwoTowers

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", type=Path, help="folder of the set credit-default")
given = parser.parse_args()

# 1. The clients, and one list of decisions a month. A decision of month m reads months up to m;
#    what came of it is known a month later.
clients = Clients.read(given.data) if given.data else some_clients()
months = [clients.cases(month) for month in range(clients.months)]

# 2. What a review costs, and how many there may be.
policy = Policy(budget=0.1, most=0.3, review_cost=5_000.0)

# 3. The scorers. Any object with fit(cases, rng) and score(cases) will do.
makers = {"linear": Linear, "tree": Tree, "two_tower": partial(TwoTowers, clients.profile)}

# 4. The loop: ours, and one model by itself that is refitted as often.
ways = {"tuned blend": Tuned(makers), "boosting, refitted": Plain(Tree, again=True)}
for name, way in ways.items():
    print(name)
    for number, month in enumerate(run(way, months, policy, np.random.default_rng(0)), 2):
        cases, p = month.cases, month.p
        even = np.ones(len(cases))
        found = Ranked(p, cases.outcome).separation(even)
        at = {"weight": even, "review_cost": policy.review_cost}
        budget = of_reviews(top(p, policy.budget), cases.outcome, cases.loss, **at)
        cost = of_reviews(month.by_cost, cases.outcome, cases.loss, **at)
        print(
            f"  month {number}: AUC {found['auc']:.3f}  KS {found['ks']:.3f}  "
            f"{100 * policy.budget:.0f} % reviewed find {100 * budget['recall']:.1f} %;  "
            f"by cost {100 * cost['reviewed']:.1f} % reviewed, {cost['cost']:.0f} a client"
        )

# 5. What the blend came to: the weight of each scorer for a usual client, and for a late one.
theta = ways["tuned blend"].blend.theta
for name, row in zip(makers, theta, strict=True):
    print(f"{name:10} weighs {row[0]:+.2f}; {row[0] + row[1]:+.2f} where the client is late now")
