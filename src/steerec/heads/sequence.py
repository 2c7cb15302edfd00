"""What comes next, read from the whole history by a causal transformer with fading memory.

Legend: B windows, T places, D width, K paces of forgetting.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from steerec.errors import ConfigError
from steerec.heads.next_item import NextItem
from steerec.heads.reader import LONGEST_S, NextItemConfig

N_PACES = 8  # exponential kernels of a fading layer
SHORTEST_TIME_S = 60.0  # half-life of the quickest kernel over time, before training


@dataclass(frozen=True, kw_only=True)
class SequenceConfig(NextItemConfig):
    """Settings of `Sequence`."""

    layers: str = "fa"  # one letter a layer: f fading memory, a attention
    attention_heads: int = 2  # heads of an attention layer, a divisor of width

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if not self.layers or set(self.layers) - set("fa"):
            raise ConfigError(f"layers={self.layers!r}: expected letters f and a, such as 'fa'")
        if self.attention_heads < 1 or self.width % self.attention_heads:
            raise ConfigError(
                f"attention_heads={self.attention_heads}: expected a divisor of width={self.width}"
            )


class Sequence(NextItem):
    """Scores each item as the next one after the user's newest events, in their order.

    The first layer sums the past at several fixed paces of exponential forgetting, as linear
    models of the next step do; attention above it looks for what the sums miss. It learns as much
    in a third of the epochs as attention alone (docs/log.md).

    Source: Kang and McAuley 2018, SASRec, for causal attention trained on every step; Sun et al.
    2023, Retentive Network, sec. 2, for decays in place of softmax; full softmax loss after
    Klenitskiy and Vasilev 2023.
    """

    name: ClassVar[str] = "sequence"

    @classmethod
    def body(cls, config: Any, *, times: bool) -> nn.Module:
        """See NextItem."""
        return _Body(config, times=times)

    @classmethod
    def config_class(cls) -> type[NextItemConfig]:
        """See NextItem."""
        return SequenceConfig


class _Body(nn.Module):
    def __init__(self, config: SequenceConfig, *, times: bool) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(config.length, config.width) * 0.02)
        self.blocks = nn.ModuleList(_Block(kind, config, times=times) for kind in config.layers)

    def forward(self, x: Tensor, time: NDArray[np.float64] | None) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        x = x + self.places[: x.shape[1]]
        for block in self.blocks:
            x = block(x, time)
        return x


class _Block(nn.Module):
    """One layer that mixes places, then a gated layer within each place; both add to x."""

    def __init__(self, kind: str, config: SequenceConfig, *, times: bool) -> None:
        super().__init__()
        width = config.width
        inner = 8 * width // 3 // 8 * 8
        self.before_mix, self.before_think = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix = _Fading(width, times=times) if kind == "f" else _Attention(config)
        self.spread = nn.Linear(width, 2 * inner, bias=False)
        self.gather = nn.Linear(inner, width, bias=False)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, time: NDArray[np.float64] | None) -> Tensor:
        x = x + self.drop(self.mix(self.before_mix(x), time))
        value, gate = self.spread(self.before_think(x)).chunk(2, -1)
        out: Tensor = x + self.drop(self.gather(value * functional.silu(gate)))
        return out


class _Attention(nn.Module):
    """Causal softmax attention."""

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        self.n_heads = config.attention_heads
        self.ask = nn.Linear(config.width, 3 * config.width, bias=False)
        self.join = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, time: NDArray[np.float64] | None) -> Tensor:
        b, t, d = x.shape
        parts = self.ask(x).view(b, t, 3, self.n_heads, d // self.n_heads).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        out: Tensor = self.join(y.transpose(1, 2).reshape(b, t, d))
        return out


class _Fading(nn.Module):
    """Sums of the past that fade at K trained paces, by place and (half of them) by time."""

    def __init__(self, width: int, *, times: bool) -> None:
        super().__init__()
        self.n_timed = N_PACES // 2 if times else 0
        keep = torch.linspace(-2.0, 5.0, N_PACES - self.n_timed)  # .12 to .993 a place
        self.keep = nn.Parameter(keep)
        scales = torch.logspace(
            np.log10(SHORTEST_TIME_S), np.log10(LONGEST_S), max(self.n_timed, 1)
        )
        self.log_scale_s = nn.Parameter(scales.log()[: self.n_timed])
        self.value = nn.Linear(width, 2 * width, bias=False)
        self.join = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, time: NDArray[np.float64] | None) -> Tensor:
        b, t, d = x.shape
        value, gate = self.value(x).chunk(2, -1)
        value = value.view(b, t, N_PACES, d // N_PACES)
        n_placed = N_PACES - self.n_timed
        y = torch.einsum("kts,bskc->btkc", self._by_place(t), value[:, :, :n_placed])
        if time is not None and self.n_timed:
            late = torch.einsum("bkts,bskc->btkc", self._by_time(time, x), value[:, :, n_placed:])
            y = torch.cat([y, late], dim=2)
        out: Tensor = self.join(y.reshape(b, t, d) * functional.silu(gate))
        return out

    def _by_place(self, t: int) -> Tensor:
        """(K, T, T): keep ** lag, rows of length 1."""
        place = torch.arange(t, device=self.keep.device)
        lag = (place[:, None] - place[None, :]).float()
        decay = functional.logsigmoid(self.keep)[:, None, None] * lag.clamp(min=0)
        return _unit(torch.where(lag >= 0, decay.exp(), 0.0))

    def _by_time(self, time: NDArray[np.float64], x: Tensor) -> Tensor:
        """(B, K, T, T): exp(-seconds / scale), rows of length 1; unknown times do not fade."""
        lag_s = np.nan_to_num(time[:, :, None] - time[:, None, :]).clip(min=0)
        lag = torch.from_numpy(lag_s.astype(np.float32)).to(x)[:, None]
        decay = torch.exp(-lag / self.log_scale_s.exp()[:, None, None])
        return _unit(torch.tril(decay))


def _unit(kernel: Tensor) -> Tensor:
    """Rows of length 1, so that sums of many events are as large as sums of few."""
    return kernel / kernel.square().sum(-1, keepdim=True).sqrt()
