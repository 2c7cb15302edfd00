"""Card transactions in order of time (the set credit-fraud)."""

import numpy as np
import polars as pl
from cases import Cases

DAY_S = 86_400.0


def read_transactions(folder):
    """Cases in order of time from transactions.parquet; `source` is left out, it tells the label.

    phi: 1, a large amount, night.
    """
    table = pl.read_parquet(folder / "transactions.parquet").sort("seconds_since_first")
    values = table.select(pl.col(r"^V\d+$")).cast(pl.Float64).to_numpy()
    seconds = table["seconds_since_first"].to_numpy().astype(float)
    return as_cases(values, seconds, table["amount_eur"].to_numpy(), table["is_fraud"].to_numpy())


def as_cases(values, seconds, amount, fraud):
    n, hour = len(values), seconds % DAY_S / 3_600
    round_ = np.column_stack([np.sin(hour * np.pi / 12), np.cos(hour * np.pi / 12)])
    return Cases(
        unit=np.arange(n),
        time=seconds,
        x=np.column_stack([values, np.log1p(amount), round_]),
        phi=np.column_stack([np.ones(n), amount > 100, hour < 7]).astype(float),
        loss=amount.astype(float),
        outcome=fraud.astype(float),
        trail=np.full((n, 1), -1),
        after=np.full(n, -1),
    )
