"""The network that reads histories: settings, item vectors in, what is known after each place out.

Legend: B windows, T places, D width, N items.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steerec.contracts import Floats, Times
from steerec.errors import ConfigError
from steerec.heads.item_inputs import ItemInputs
from steerec.heads.training import TrainingConfig
from steerec.heads.windows import Track, query_batches

N_SCALES = 8  # time lags are described by how near they are to so many scales
SHORTEST_S, LONGEST_S = 1.0, 3.2e7  # a second to a year
QUERY_TOKENS = 20_000  # events read at once when many histories are asked with


@dataclass(frozen=True, kw_only=True)
class NextItemConfig(TrainingConfig):
    """Settings that networks of the next item share."""

    width: int = 64  # length of an item's vector
    length: int = 200  # newest events read
    dropout: float = 0.2  # share of numbers left out at random in training
    times: bool = True  # read times where the data has them; false: order only
    text_dims: int = 128  # dimensions kept of the items' text vectors; 0: do without texts
    id_dropout: float = 0.1  # share of items that each step places by their text alone
    full_softmax: int = 30_000  # up to so many items the loss is over all; above over a sample
    negatives: int = 4_096  # items in that sample
    loss: str = "softmax"  # or bpr_max, top1_max: each target against the sample
    dislike: float = 4.0  # nats that an item as good as equal to a disliked one loses

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if self.width < 8 or self.width % 8 or self.length < 2:
            raise ConfigError(
                f"width={self.width}, length={self.length}: expected a multiple of 8, and at "
                "least 2"
            )
        if self.loss not in ("softmax", "bpr_max", "top1_max"):
            raise ConfigError(f"loss={self.loss!r}: expected softmax, bpr_max or top1_max")
        if not (0 <= self.dropout < 1 and 0 <= self.id_dropout < 1):
            raise ConfigError(
                f"dropout={self.dropout}, id_dropout={self.id_dropout}: expected in [0, 1)"
            )
        if min(self.text_dims, self.full_softmax, self.dislike) < 0 or self.negatives < 1:
            raise ConfigError(
                f"text_dims={self.text_dims}, full_softmax={self.full_softmax}, dislike="
                f"{self.dislike}, negatives={self.negatives}: expected at least 0, 0, 0 and 1"
            )


def lag_features(lag: Times) -> Floats:
    """(..., N_SCALES) float32: nearness of the log of a time lag to evenly spaced scales.

    Lags below a second count as one, NaN gives zeros.
    """
    centres = np.linspace(np.log(SHORTEST_S), np.log(LONGEST_S), N_SCALES)
    width = centres[1] - centres[0]
    position = np.log(np.clip(lag, SHORTEST_S, LONGEST_S))[..., None]
    near = np.maximum(0.0, 1.0 - np.abs(position - centres) / width)
    found: Floats = np.nan_to_num(near).astype(np.float32)
    return found


class Reader(nn.Module):
    """Item vectors, a body that reads windows of them, and the moment of the request."""

    def __init__(
        self, inputs: ItemInputs, body: nn.Module, config: NextItemConfig, *, times: bool
    ) -> None:
        super().__init__()
        width = config.width
        self.inputs, self.body, self.times = inputs, body, times
        self.scale = width**0.5
        self.enter = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(width)
        if times:
            self.since_last = nn.Linear(N_SCALES, width, bias=False)
            self.until_next = nn.Linear(N_SCALES, width, bias=False)
            nn.init.zeros_(self.since_last.weight)
            nn.init.zeros_(self.until_next.weight)

    def read(self, table_ND: Tensor, item_BT: Tensor, time_BT: NDArray[np.float64]) -> Tensor:
        """(B, T, D): what is known after each place, before the moment of a request counts."""
        padded = torch.cat([table_ND, torch.zeros_like(table_ND[:1])])
        x = padded[item_BT] * self.scale
        if self.times:
            lag = np.diff(time_BT, axis=1, prepend=np.nan)
            x = x + self.since_last(torch.from_numpy(lag_features(lag)).to(x))
        h: Tensor = self.body(self.enter(x), time_BT if self.times else None)
        return h

    def ask(self, h: Tensor, lag: Times) -> Tensor:
        """The vectors that items are compared with, `lag` seconds after the last event."""
        if self.times:
            h = h + self.until_next(torch.from_numpy(lag_features(lag)).to(h))
        out: Tensor = self.norm(h)
        return out


@torch.no_grad()
def read_tracks(
    net: Reader, table: Tensor, of: Sequence[Track], length: int
) -> list[tuple[NDArray[np.int64], Tensor]]:
    """(positions in `of`, (b, D) after the last event) of all tracks with events."""
    found = []
    for chosen, batch in query_batches(of, len(table), length=length, tokens=QUERY_TOKENS):
        h = net.read(table, torch.from_numpy(batch.item).to(table.device), batch.time)
        last = np.array([min(len(of[i]), length) - 1 for i in chosen])
        found.append((chosen, h[torch.arange(len(chosen)), torch.from_numpy(last)]))
    return found
