"""Two towers and the judge above them: R = sigmoid(MLP(u, v)) on the best that u . v finds.

Legend: B windows, T places, K paces of forgetting, E numbers of an event, D width, N items,
M users, S segments, C candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steerec.contracts import Floats, Indices
from steerec.errors import ConfigError
from steerec.heads.item_inputs import ItemInputs
from steerec.heads.training import TrainingConfig
from steerec.heads.windows import Track, query_batches

ATTRIBUTES = ("categories", "brand", "price", "year")
QUERY_TOKENS = 20_000  # events read at once when many histories are asked with
QUERY_CELLS = 8_000_000  # scores of stage 1 held at once


@dataclass(frozen=True, kw_only=True)
class TwoTowerConfig(TrainingConfig):
    """Settings of `TwoTower`."""

    width: int = 64  # length of a user's and an item's vector
    hidden: int = 128  # numbers in the hidden layer of each MLP
    length: int = 100  # newest events read
    keep: tuple[float, ...] = (0.0, 0.6, 0.9, 0.99)  # weight an event keeps at each later one
    dropout: float = 0.2  # share of numbers left out at random in training
    text_dims: int = 128  # dimensions kept of the items' text vectors; 0: do without texts
    attributes: tuple[str, ...] = ATTRIBUTES  # item columns read where given; no counts of events
    people: tuple[str, ...] = ()  # columns of the users' table to read; empty: all
    bins: int = 5  # ranges that a users' column of numbers is cut into
    least_users: int = 20  # a value that fewer users share is left out
    id_dropout: float = 0.1  # share of items that each step places by text and attributes alone
    user_dropout: float = 0.1  # share of targets read without history, and as many without person
    rerank: int = 200  # candidates that the judge puts in order
    hard: int = 32  # candidates that a target is judged against in training
    full_softmax: int = 30_000  # up to so many items stage 1 learns over all; above in batches
    negatives: int = 4_096  # items beside the targets in a batch's sample
    dislike: float = 4.0  # nats that an item as good as equal to a disliked one loses

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        counts = (self.width, self.hidden, self.length, self.rerank, self.hard, self.negatives)
        if min(counts) < 1 or min(self.bins, self.least_users) < 2:
            raise ConfigError(
                f"two_tower: width, hidden, length, rerank, hard, negatives = {counts}, bins = "
                f"{self.bins}, least_users = {self.least_users}: expected at least 1, and 2 for "
                "the last two"
            )
        if not self.keep or not all(0 <= k <= 1 for k in self.keep):
            raise ConfigError(f"two_tower: keep={self.keep}: expected numbers from 0 to 1")
        if not (
            0 <= self.dropout < 1 and 0 <= self.id_dropout < 1 and 0 <= self.user_dropout < 0.5
        ):
            raise ConfigError(
                f"two_tower: dropout={self.dropout}, id_dropout={self.id_dropout}, user_dropout="
                f"{self.user_dropout}: expected in [0, 1), [0, 1) and [0, 0.5)"
            )
        if min(self.text_dims, self.full_softmax, self.dislike) < 0:
            raise ConfigError(
                f"two_tower: text_dims={self.text_dims}, full_softmax={self.full_softmax}, "
                f"dislike={self.dislike}: expected at least 0"
            )


@dataclass(frozen=True)
class Shelf:
    """The catalogue as histories are compared with it, and as they read it.

    Attributes:
        vectors: (N, D) of the item tower.
        bias: (N,).
        events: (N, E) an event with the item, as the user tower reads it.
        known: (N,) bool, items with a text, attributes, or events in training.
    """

    vectors: Tensor
    bias: Tensor
    events: Tensor
    known: Tensor


@dataclass(frozen=True)
class Shortlist:
    """What one user's candidates were judged to be worth.

    Attributes:
        u: (D,) of the user tower.
        items: (C,) int32 rising, the best by stage 1.
        logit: (C,) of R.
        cut: the lowest candidate's score in stage 1.
    """

    u: Floats
    items: Indices
    logit: Floats
    cut: float

    def scores(self, first: Floats, items: Indices | None) -> Floats:
        """Candidates by the logit of R, all others below them in the order of stage 1.

        Args:
            first: (n,) scores of `items` in stage 1; None: of the whole catalogue.
        """
        found: Floats = self.logit.min() + np.minimum(first - np.float32(self.cut), 0)
        if items is None:
            found[self.items] = self.logit
            return found
        place = np.searchsorted(self.items, items).clip(max=len(self.items) - 1)
        judged = self.items[place] == items
        found[judged] = self.logit[place[judged]]
        return found


class Towers(nn.Module):
    """User tower, item tower, and the judge of candidates."""

    def __init__(self, inputs: ItemInputs, n_segments: int, config: TwoTowerConfig) -> None:
        super().__init__()
        width, k = config.width, inputs.text.shape[1]
        self.inputs, self.config, self.scale = inputs, config, width**0.5
        self.heard = nn.Linear(k, width, bias=False) if k else None
        self.person = nn.Linear(n_segments, width, bias=False) if n_segments else None
        n_read = len(config.keep) * width * (1 + bool(k)) + width * bool(n_segments)
        # Not called body: Muon on matrices this wide takes longer than all the rest of a step.
        self.parts = nn.ModuleDict(
            {
                "direct": nn.Linear(n_read, width),
                "user": _Mlp(n_read, config.hidden, width, config.dropout),
                "item": _Mlp(width, config.hidden, width, config.dropout),
            }
        )
        self.enter = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(width)
        self.judging = _Mlp(3 * width, config.hidden, 1, config.dropout)
        self.steepness = nn.Parameter(torch.ones(()))
        self.level = nn.Parameter(torch.tensor(-5.0))  # one of some hundred candidates comes
        if self.heard is not None:
            nn.init.normal_(self.heard.weight, std=width**-0.5)
        if self.person is not None:
            nn.init.normal_(self.person.weight)

    def items(self, x_ND: Tensor) -> Tensor:
        """(N, D): the item tower over text, attributes and what behaviour adds."""
        out: Tensor = x_ND + self.parts["item"](x_ND * self.scale)
        return out

    def events(self, x_ND: Tensor) -> Tensor:
        """(N, E): item vectors, and texts and attributes by a map of the user tower's own."""
        if self.heard is None:
            alone: Tensor = x_ND * self.scale
            return alone
        both: Tensor = torch.cat([x_ND, self.heard(self.inputs.text)], 1) * self.scale
        return both

    def read(self, events_NE: Tensor, item_BT: Tensor) -> Tensor:
        """(B, T, K, E): fading means of the events up to each place, one for each pace."""
        padded = torch.cat([events_NE, torch.zeros_like(events_NE[:1])])
        weight_KTT = fading(item_BT.shape[1], self.config.keep).to(padded)
        return torch.einsum("kts,bse->btke", weight_KTT, self.enter(padded[item_BT]))

    def users(self, means_MKE: Tensor, told_MS: Tensor) -> Tensor:
        """(M, D): the user tower; zeros stand for a history or a person that is not known."""
        history = means_MKE.flatten(1)
        if self.person is None:
            return self._tower(history)
        person = self.person(told_MS)
        if self.training:
            dice = torch.rand(len(history), 1, device=history.device)
            share, told = self.config.user_dropout, told_MS.any(1, keepdim=True)
            history = history * ((dice >= share) | ~told)
            person = person * ((dice < share) | (dice >= 2 * share))
        return self._tower(torch.cat([history, person], 1))

    def judge(self, u_MD: Tensor, v_MCD: Tensor, over_MC: Tensor) -> Tensor:
        """(M, C) logits of R = sigmoid(MLP(u, v)), which start in the order of stage 1.

        Args:
            over_MC: scores of stage 1 above the lowest candidate's.
        """
        u = u_MD[:, None].expand_as(v_MCD)
        deeper = self.judging(torch.cat([u, v_MCD, u * v_MCD], -1)).squeeze(-1)
        out: Tensor = self.steepness * over_MC + self.level + deeper
        return out

    @torch.no_grad()
    def shelf(self, seen: NDArray[np.bool_]) -> Shelf:
        """The catalogue to serve with: items never seen by their text and attributes alone."""
        x, bias = self.inputs.table(seen)
        known = torch.from_numpy(seen).to(x.device) | self.inputs.text.any(1)
        return Shelf(self.items(x), bias, self.events(x), known)

    def _tower(self, read_MR: Tensor) -> Tensor:
        out: Tensor = self.norm(self.parts["direct"](read_MR) + self.parts["user"](read_MR))
        return out


class _Mlp(nn.Module):
    """One hidden layer with ReLU; it starts at 0, so what it is added to leads at first."""

    def __init__(self, n_in: int, hidden: int, n_out: int, dropout: float) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(n_in, hidden), nn.Linear(hidden, n_out)
        self.drop = nn.Dropout(dropout)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.drop(torch.relu(self.hidden(x))))
        return out


def fading(t: int, keep: Sequence[float]) -> Tensor:
    """(K, T, T) weights keep ** lag of the events up to each place, rows of length 1.

    Rows of length 1 rather than of sum 1: means of many events stay as large as those of few.
    """
    place = torch.arange(t)
    lag = (place[:, None] - place[None, :]).float()
    weight = torch.tensor(keep)[:, None, None] ** lag.clamp(min=0)
    weight = torch.where(lag >= 0, weight, 0.0)
    return weight / weight.square().sum(-1, keepdim=True).sqrt()


@torch.no_grad()
def shortlists(
    net: Towers, shelf: Shelf, of: Sequence[Track], told_MS: Floats, *, length: int, n: int
) -> list[Shortlist]:
    """Read histories and people, take the best `n` items of each by stage 1, and judge them."""
    u_MD = _users(net, shelf, of, told_MS, length)
    n = min(n, int(shelf.known.sum()))
    rows = max(1, QUERY_CELLS // len(shelf.bias))
    found: list[Shortlist] = []
    for u in torch.split(u_MD, rows):
        first = (u @ shelf.vectors.T + shelf.bias).masked_fill(~shelf.known, -torch.inf)
        top, items = first.topk(n)
        logit = net.judge(u, shelf.vectors[items], top - top[:, -1:]).cpu().numpy()
        order = items.argsort(1).cpu().numpy()
        chosen = items.cpu().numpy().astype(np.int32)
        cut = top[:, -1].tolist()
        found += [
            Shortlist(one, i[o], r[o], c)
            for one, i, r, o, c in zip(u.cpu().numpy(), chosen, logit, order, cut, strict=True)
        ]
    return found


def _users(net: Towers, shelf: Shelf, of: Sequence[Track], told_MS: Floats, length: int) -> Tensor:
    """(M, D): the user tower after the last event of each track, which may have none."""
    device, n_items = shelf.bias.device, len(shelf.bias)
    shape = (len(of), len(net.config.keep), shelf.events.shape[1])
    means = torch.zeros(shape, device=device)
    for chosen, batch in query_batches(of, n_items, length=length, tokens=QUERY_TOKENS):
        read = net.read(shelf.events, torch.from_numpy(batch.item).to(device))
        last = torch.from_numpy((batch.item < n_items).sum(axis=1) - 1)
        means[torch.from_numpy(chosen)] = read[torch.arange(len(chosen)), last]
    return net.users(means, torch.from_numpy(told_MS).to(device))
