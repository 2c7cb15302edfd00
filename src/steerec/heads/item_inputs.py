"""Item vectors of a network: text through a linear map, plus what behaviour adds to it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from steerec.contracts import Floats
from steerec.data.dataset import Dataset
from steerec.errors import DataError
from steerec.heads.whitening import Whitening


@dataclass(frozen=True)
class ItemTexts:
    """Whitened text vectors of a catalogue, and how to whiten more of them.

    Attributes:
        whitening: None where the catalogue has no vectors, or all are alike.
        vectors: (n_items, k) float32 of unit length, zero rows without text; k = 0 without any.
    """

    whitening: Whitening | None
    vectors: Floats

    @classmethod
    def of(cls, data: Dataset, dims: int, *, earlier: "ItemTexts | None" = None) -> "ItemTexts":
        """Whiten the vectors of the data's items, if they have any that differ.

        Args:
            earlier: of a head that is gone on from: its directions are kept where they fit, since
                its weights mean nothing in others.
        """
        nothing = cls(None, np.zeros((data.n_items, 0), np.float32))
        if data.vectors is None or dims == 0:
            return nothing
        old = None if earlier is None else earlier.whitening
        if old is not None and len(old.mean) == data.vectors.shape[1] and old.dim <= dims:
            return cls(old, old.transform(data.vectors))
        try:
            whitening = Whitening.fit(data.vectors, dim=dims, shrink=0.0)
        except DataError:  # fewer than two items with a text: nothing sets them apart
            return nothing
        vectors = whitening.transform(data.vectors)
        return cls(whitening, vectors) if vectors.any() else nothing

    @property
    def known(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """(n_items,): whether an item has a text that says something."""
        return np.asarray(self.vectors.any(axis=1))


class ItemInputs(nn.Module):
    """The table of item vectors: E_i = W t_i + delta_i, delta within a ball, left out at random.

    Leaving delta (and the item's own bias) out of some rows at each step makes the network place
    an item by its text alone: so it scores items that nobody has seen.

    Source: the idea of dropping the id path is Volkovs et al. 2017, DropoutNet.
    """

    text: Tensor

    def __init__(self, texts: Floats, counts: Floats, width: int, *, id_dropout: float) -> None:
        super().__init__()
        n_items, k = texts.shape
        self.id_dropout = id_dropout if k else 0.0
        self.register_buffer("text", torch.from_numpy(texts), persistent=False)
        self.has_text = bool(k)
        # Coordinates of variance 1 / width in sum, as a softmax over dot products likes to start.
        self.to_width = nn.Linear(k, width, bias=False) if k else None
        share = 0.5 if k else 1.0
        self.delta = nn.Parameter(torch.randn(n_items, width) * (share / width) ** 0.5)
        if self.to_width is not None:
            nn.init.normal_(self.to_width.weight, std=(share / width) ** 0.5)
        log_share = np.log((counts + 1) / (counts + 1).sum()).astype(np.float32)
        self.bias = nn.Parameter(torch.from_numpy(log_share))
        self.cold_bias = nn.Parameter(torch.tensor(float(log_share.min())))
        self.most = 4.0  # longest delta; text parts start with a length of about .7

    def forward(self) -> tuple[Tensor, Tensor]:
        """(n_items, width) vectors and (n_items,) biases; in training some rows by text alone."""
        length = self.delta.norm(dim=1, keepdim=True)
        delta = self.delta * (self.most / length.clamp(min=self.most))
        if self.to_width is None:
            return delta, self.bias
        by_text = self.to_width(self.text)
        if not self.training or self.id_dropout == 0:
            return by_text + delta, self.bias
        kept = (torch.rand(len(delta), device=delta.device) >= self.id_dropout).float()
        bias = kept * self.bias + (1 - kept) * self.cold_bias
        return by_text + kept[:, None] * delta, bias

    @torch.no_grad()
    def table(self, seen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[Tensor, Tensor]:
        """The vectors and biases to serve with: unseen items by their text alone."""
        kept = torch.from_numpy(seen).to(self.delta)
        length = self.delta.norm(dim=1, keepdim=True)
        vectors = self.delta * (self.most / length.clamp(min=self.most)) * kept[:, None]
        if self.to_width is not None:
            vectors = vectors + self.to_width(self.text)
        return vectors, kept * self.bias + (1 - kept) * self.cold_bias
