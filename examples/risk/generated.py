"""Small generated data of the two kinds, so that the recipes run anywhere."""

import numpy as np
import polars as pl
from clients import Clients
from scipy.special import expit
from transactions import as_cases

MONTH_S = 30 * 86_400.0


def some_clients(n=1_500, months=6, seed=0):
    """Clients with a hidden carefulness; those who fall behind tend to stay behind."""
    rng = np.random.default_rng(seed)
    care, limit = rng.normal(size=n), np.round(rng.lognormal(11.5, 0.7, n), -3) + 1_000
    status, late = np.zeros((n, months + 1)), np.zeros(n, bool)
    for month in range(months + 1):
        late = rng.random(n) < expit(-2.6 - 1.1 * care + 2.8 * late)
        idle = (care > 1) & ~late
        status[:, month] = np.where(late, 2, np.where(idle, -1, 0))
    use = np.clip(0.5 - 0.2 * care[:, None] + 0.15 * rng.normal(size=(n, months)), 0, 1.2)
    bill = use * limit[:, None]
    payment = bill * np.where(status[:, :months] >= 2, 0.0, 0.1 + 0.4 * rng.random((n, months)))
    profile = pl.DataFrame(
        {
            "user_id": [f"c{i}" for i in range(n)],
            "credit_limit_ntd": limit.astype(int),
            "age": rng.integers(21, 70, n),
            "sex": rng.choice(["female", "male"], n),
            "education": rng.choice(["school", "university"], n),
            "marriage": rng.choice(["married", "single"], n),
        }
    )
    time = 1_112_313_600.0 + MONTH_S * np.arange(months)
    end = (status[:, months] >= 2).astype(float)
    return Clients(status[:, :months], bill, payment, time, end, profile)


def some_transactions(n=2_000, hours=48, seed=0):
    """Transactions of which a tenth is fraud, of a kind that shifts at half time."""
    rng = np.random.default_rng(seed)
    seconds = np.sort(rng.uniform(0, hours * 3_600.0, n))
    fraud = rng.random(n) < 0.1
    values = rng.normal(size=(n, 8))
    late = seconds > hours * 1_800.0
    values[fraud, 0] += 2.0
    values[fraud & ~late, 1] -= 2.0
    values[fraud & late, 2] += 2.0
    return as_cases(values, seconds, rng.lognormal(3.0, 1.5, n), fraud)
