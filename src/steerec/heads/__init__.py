"""One file per algorithm that predicts interest; chosen by name."""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from steerec.errors import ConfigError

HEADS: dict[str, str] = {
    "trending": "steerec.heads.trending:Trending",
    "repeat": "steerec.heads.repeat:Repeat",
    "transitions": "steerec.heads.transitions:Transitions",
    "autoregressive": "steerec.heads.autoregressive:Autoregressive",
    "ease": "steerec.heads.ease:Ease",
    "item_knn": "steerec.heads.item_knn:ItemKnn",
    "user_knn": "steerec.heads.user_knn:UserKnn",
    "als": "steerec.heads.als:Als",
    "ratings": "steerec.heads.ratings:Ratings",
    "content": "steerec.heads.content:Content",
    "sequence": "steerec.heads.sequence:Sequence",
    "gru": "steerec.heads.gru:Gru",
    "two_tower": "steerec.heads.two_tower:TwoTower",
    "demographic": "steerec.heads.demographic:Demographic",
    "social": "steerec.heads.social:Social",
}
TRAINED = frozenset({"sequence", "gru", "two_tower"})  # train by epochs: minutes, not seconds
BY_NAME = frozenset({"ratings"})  # no part of `quick`: they cost time and help some data only
QUICK = tuple(name for name in HEADS if name not in TRAINED | BY_NAME)


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """Names of heads, with `all`, `quick` and `trained` standing for those of the table."""
    groups = {
        "all": tuple(HEADS),
        "quick": QUICK,
        "trained": tuple(n for n in HEADS if n in TRAINED),
    }
    return tuple(dict.fromkeys(name for word in names for name in groups.get(word, (word,))))


def load_head(name: str) -> Any:
    """The head class of this name; `module:Class` names one of your own.

    Raises:
        ConfigError: if no head has the name.
    """
    if name not in HEADS and ":" not in name:
        raise ConfigError(f"no head is called {name!r}; there are {', '.join(HEADS)}")
    module, _, attribute = HEADS.get(name, name).partition(":")
    return getattr(import_module(module), attribute)
