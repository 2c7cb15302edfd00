"""What comes next, read from the history by a gated recurrent network."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from steerec.errors import ConfigError
from steerec.heads.next_item import NextItem
from steerec.heads.reader import NextItemConfig


@dataclass(frozen=True, kw_only=True)
class GruConfig(NextItemConfig):
    """Settings of `Gru`."""

    length: int = 50  # newest events read
    memory: int = 128  # numbers the network remembers of a history
    layers: int = 1  # recurrent layers, one above the other

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if min(self.memory, self.layers) < 1:
            raise ConfigError(
                f"memory={self.memory}, layers={self.layers}: expected at least 1 and 1"
            )


class Gru(NextItem):
    """Scores each item as the next one after the user's newest events.

    Source: Hidasi et al. 2016, Session-based Recommendations with Recurrent Neural Networks, for
    the network; Hidasi and Karatzoglou 2018 for cross-entropy over many negatives, here all items
    (a corrected sample above `full_softmax` of them) and each step of a history a target.
    """

    name: ClassVar[str] = "gru"

    @classmethod
    def body(cls, config: Any, *, times: bool) -> nn.Module:
        """See NextItem."""
        return _Body(config)

    @classmethod
    def config_class(cls) -> type[NextItemConfig]:
        """See NextItem."""
        return GruConfig


class _Body(nn.Module):
    def __init__(self, config: GruConfig) -> None:
        super().__init__()
        self.gru = nn.GRU(config.width, config.memory, config.layers, batch_first=True)
        self.drop = nn.Dropout(config.dropout)
        self.join = nn.Linear(config.memory, config.width, bias=False)

    def forward(self, x: Tensor, time: NDArray[np.float64] | None) -> Tensor:
        """(B, T, D) to (B, T, D); the newest item speaks beside the memory."""
        memory, _ = self.gru(x)
        out: Tensor = x + self.join(self.drop(memory))
        return out
