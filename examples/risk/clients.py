"""Credit-card clients month by month (the set credit-default): what is known at each decision."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from cases import Cases

LAGS = 3  # months whose figures are features one by one
LGD = 0.75  # share of the balance that is lost with an unsecured card
USE, PAID = (0.01, 0.8), (0.1, 0.9)  # edges of the steps of use and payment
STATUS = (-2, 3)  # statuses beyond are rare and count as the last
PROFILE = ("credit_limit_ntd", "age", "sex", "education", "marriage")


@dataclass(frozen=True, eq=False)
class Clients:
    """status, bill, payment: (n, months); time: (months,); defaulted: (n,) the month after."""

    status: np.ndarray
    bill: np.ndarray
    payment: np.ndarray
    time: np.ndarray
    defaulted: np.ndarray
    profile: pl.DataFrame  # user_id and the columns of PROFILE

    @classmethod
    def read(cls, folder):
        """From events.parquet and users.parquet."""
        users = pl.read_parquet(folder / "users.parquet")
        events = pl.read_parquet(folder / "events.parquet")
        time = events["timestamp"].unique().sort().to_numpy().astype(float)

        def wide(name):
            one = events.filter(pl.col("event") == name).sort("timestamp")
            one = one.pivot(on="timestamp", index="user_id", values="value")
            one = users.select("user_id").join(one, on="user_id", how="left")
            return one.drop("user_id").cast(pl.Float64).to_numpy()

        three = (wide(name) for name in ("repayment_status", "bill", "payment"))
        defaulted = users["default_next_month"].cast(pl.Float64).to_numpy()
        return cls(*three, time, defaulted, users.select("user_id", *PROFILE))

    def without_first(self, n):
        """All clients but the first n of the file."""
        return self._some(slice(n, None))

    def first(self, n):
        """The first n clients; None: all."""
        return self._some(slice(n))

    def _some(self, rows):
        tables = (self.status[rows], self.bill[rows], self.payment[rows])
        return Clients(*tables, self.time, self.defaulted[rows], self.profile[rows])

    @property
    def months(self):
        return len(self.time)

    def cases(self, month):
        """The decisions of a month, from what was known in it; months count from 0."""
        n, limit = len(self.profile), self.profile["credit_limit_ntd"].to_numpy()
        codes, last = self.codes(), month + 1 == self.months
        late = self.defaulted if last else two_or_more(self.status[:, month + 1])
        trail = np.full((n, self.months), -1)
        trail[:, self.months - month - 1 :] = codes[:, : month + 1]
        return Cases(
            unit=np.arange(n),
            time=np.full(n, self.time[month]),
            x=self.features(month),
            phi=context(self.status[:, month], self.bill[:, month] / limit),
            loss=LGD * np.nan_to_num(np.maximum(self.bill[:, month], 0)),
            outcome=late,
            trail=trail,
            after=np.full(n, -1) if last else codes[:, month + 1],
        )

    def features(self, month):
        """(n, d): the newest months one by one, all of them together, and the profile."""
        limit = self.profile["credit_limit_ntd"].to_numpy()[:, None]
        use, paid = self.bill / limit, self.paid()
        amount = np.log1p(np.maximum(self.payment, 0))
        parts = [newest(a, month) for a in (self.status, use, paid, amount)]
        past = np.s_[:, : month + 1]
        for found in (self.status[past], two_or_more(self.status)[past], use[past]):
            parts += [found.max(axis=1), found.mean(axis=1)]
        parts += [np.log(limit), self.profile["age"].to_numpy(), *one_hot(self.profile)]
        return np.column_stack(parts).astype(float)

    def paid(self):
        """(n, months): payment over the bill before; NaN in the first month."""
        owed = np.maximum(self.bill[:, :-1], 1)
        share = np.clip(self.payment[:, 1:] / owed, 0, 2)
        return np.column_stack([np.full(len(share), np.nan), share])

    def codes(self):
        """(n, months): status, use of the limit and payment in steps, as one number."""
        limit = self.profile["credit_limit_ntd"].to_numpy()[:, None]
        status = np.clip(np.nan_to_num(self.status), *STATUS).astype(int) - STATUS[0]
        use = np.digitize(np.nan_to_num(self.bill / limit), USE)
        paid = np.digitize(np.nan_to_num(self.paid(), nan=PAID[0]), PAID)
        return (status * 3 + use) * 3 + paid


def two_or_more(status):
    """1.0 where a client is two months late or more; NaN stays."""
    return np.where(np.isnan(status), np.nan, status >= 2)


def context(status, use):
    """(n, 4): 1, late now, no use of credit, limit nearly used up."""
    return np.column_stack([np.ones(len(status)), status > 0, status < 0, use > USE[-1]])


def newest(table, month):
    """(n, LAGS): the newest months of a table, NaN before the first."""
    wanted = [table[:, month - k] if month >= k else table[:, 0] * np.nan for k in range(LAGS)]
    return np.column_stack(wanted)


def one_hot(profile):
    for column in ("sex", "education", "marriage"):
        for value in profile[column].unique().sort()[:-1]:
            yield (profile[column] == value).to_numpy()


def named(code):
    """The three parts of a code in words: what the two towers read of a behaviour."""
    return [f"status{code // 9 + STATUS[0]}", f"use{code // 3 % 3}", f"paid{code % 3}"]


def is_late(code):
    return code // 9 + STATUS[0] >= 2
