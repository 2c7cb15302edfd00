"""Fraud found under a review budget, tuned as labels come. Follow it from top to bottom.

python examples/risk/credit_fraud.py                          generated transactions, seconds
python examples/risk/credit_fraud.py --data DIR/credit-fraud    the sample of the real set
"""

import argparse
from pathlib import Path

import numpy as np
from figures import Ranked, of_reviews
from generated import some_transactions
from hourly import Desk, PlainScore, TunedScore, decided, run
from scorers import Linear, Tree, Unlike
from transactions import read_transactions

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", type=Path, help="folder of the set credit-fraud")
given = parser.parse_args()

# 1. Transactions in order of time; nobody knows the card or the customer, so there is no user's
#    tower: the third scorer says how unlike the usual a transaction is, without any label.
cases = read_transactions(given.data) if given.data else some_transactions()
makers = {"linear": Linear, "tree": Tree, "unlike": Unlike}

# 2. A tenth of each hour is reviewed. Reviews tell the label at once, customers after a day.
desk = Desk(budget=0.1)

# 3. The loop, and one model by itself, each living with the labels that its own reviews brought.
ways = {
    "tuned blend": TunedScore(makers, again=True),
    "boosting, once": PlainScore(Tree, again=False),
    "boosting, refitted": PlainScore(Tree, again=True),
}
for name, way in ways.items():
    ledger = run(way, cases, desk, np.random.default_rng(0))
    rows = decided(ledger)
    some, even = cases[rows], np.ones(len(rows))
    found = Ranked(ledger.p[rows], some.outcome).separation(even)
    at = of_reviews(ledger.reviewed[rows], some.outcome, some.loss, weight=even, review_cost=2.0)
    print(
        f"{name:20} AUC {found['auc']:.3f}  KS {found['ks']:.3f}  reviewed {at['reviewed']:.3f}, "
        f"precision {at['precision']:.3f}, recall {at['recall']:.3f}, "
        f"{at['missed']:.2f} EUR of fraud missed a transaction"
    )
theta = ways["tuned blend"].blend.theta
for name, row in zip(makers, theta, strict=True):
    print(f"{name:10} weighs {row[0]:+.2f}; {row[0] + row[1]:+.2f} for a large amount")
