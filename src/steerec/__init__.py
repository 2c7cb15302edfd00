"""steerec: a self-hosted recommender that learns, can be steered, and proves each change."""

from steerec.version import __version__

__all__ = ["__version__"]
