"""steerec: a self-hosted recommender that learns, can be steered, and proves each change."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from steerec.version import __version__

if TYPE_CHECKING:
    from steerec.contracts import Event, Query
    from steerec.data.dataset import build_dataset
    from steerec.data.read import read_tables
    from steerec.engine.model import FitConfig, fit
    from steerec.engine.recommender import Recommender
    from steerec.engine.snapshot import load_snapshot, save_snapshot

__all__ = [
    "Event",
    "FitConfig",
    "Query",
    "Recommender",
    "__version__",
    "build_dataset",
    "fit",
    "load_snapshot",
    "read_tables",
    "save_snapshot",
]

# Looked up when first asked for, so that `import steerec` and `steerec --help` stay fast.
_HOMES = {
    "Event": "contracts",
    "FitConfig": "engine.model",
    "Query": "contracts",
    "Recommender": "engine.recommender",
    "build_dataset": "data.dataset",
    "fit": "engine.model",
    "load_snapshot": "engine.snapshot",
    "read_tables": "data.read",
    "save_snapshot": "engine.snapshot",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"steerec has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"steerec.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
