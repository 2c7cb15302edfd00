"""A model of your own beside the built-in ones: cheap things for people who buy cheap things.

A head is named by `module:Class`; its settings are the class `<Class>Config` of the same module.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from steerec import FitConfig, Query, Recommender, build_dataset, fit
from steerec.contracts import Floats, History, Indices, Times
from steerec.data.dataset import Dataset
from steerec.data.sample import sample_shop
from steerec.errors import ConfigError, DataError
from steerec.heads.contract import HistoryHead


@dataclass(frozen=True, kw_only=True)
class PriceLevelConfig:
    """Settings of `PriceLevel`."""

    last: int = 20  # newest events whose prices make the level

    def __post_init__(self) -> None:
        if self.last < 1:
            raise ConfigError(f"price level: last={self.last}, expected at least 1")


@dataclass
class PriceLevel(HistoryHead):
    """Scores an item by how near its log price is to those of the user's newest items."""

    name: ClassVar[str] = "price_level"
    config: PriceLevelConfig
    log_price: Floats  # (n_items,), NaN where there is no price

    @property
    def n_items(self) -> int:
        """Items in the catalogue."""
        return len(self.log_price)

    @classmethod
    def fit(cls, data: Dataset, config: PriceLevelConfig, rng: np.random.Generator) -> Self:
        """See Head."""
        if "price" not in data.items.columns:
            raise DataError("price level: items have no column price")
        price = data.items["price"].cast(float).fill_null(float("nan")).to_numpy()
        return cls(config, np.log(price).astype(np.float32))

    def score(self, states: Sequence[History], items: Indices | None, now: Times) -> Floats:
        """See Head."""
        wanted = self.log_price if items is None else self.log_price[items]
        scores = np.full((len(states), len(wanted)), np.nan, np.float32)
        for row, state in enumerate(states):
            levels = self.log_price[state.last(self.config.last).item_idx]
            levels = levels[~np.isnan(levels)]
            if len(levels):
                scores[row] = -np.abs(wanted - levels.mean())
        return scores

    def save(self, folder: Path) -> None:
        """See Head."""
        (folder / "config.json").write_text(json.dumps(asdict(self.config)))
        np.save(folder / "log_price.npy", self.log_price, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See Head."""
        config = PriceLevelConfig(**json.loads((folder / "config.json").read_text()))
        return cls(config, np.load(folder / "log_price.npy", allow_pickle=False))


def main() -> None:
    shop = sample_shop(n_items=200, n_users=200, n_events=5_000, dirty=False)
    data = build_dataset(shop.events, shop.items, shop.users)
    mine = "own_head:PriceLevel"
    config = FitConfig(heads=("trending", "transitions", mine), settings={mine: {"last": 10}})
    recommender = Recommender(fit(data, config, np.random.default_rng(0)))
    for choice in recommender.recommend(Query(user_id="u00003", n=3)).items:
        shares = {name: round(share, 2) for name, share in choice.sources.items()}
        print(choice.item_id, shares)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # so that own_head can be found by its name
    main()
