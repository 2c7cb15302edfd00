"""Interest as R = sigmoid(MLP(u, v)): who the user is and what they read, against what items are.

Legend: B windows, T places, D width, N items, M targets, S segments, H hard candidates.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy import sparse, special
from torch import Tensor
from torch.nn.functional import softplus

from steerec.contracts import Floats, History, Indices, Times
from steerec.data.dataset import Dataset
from steerec.errors import DataError
from steerec.heads.contract import Lesson, best
from steerec.heads.dislikes import disliked, nearness, still_disliked, unit_rows
from steerec.heads.item_attributes import attribute_vectors
from steerec.heads.item_inputs import ItemInputs, ItemTexts
from steerec.heads.losses import sampled_loss, softmax_loss
from steerec.heads.next_item import (
    LEAST_TARGETS,
    SMALL,
    gain,
    go_on_from,
    hold_back,
    negatives,
    tokens_of,
)
from steerec.heads.segments import Segments
from steerec.heads.towers import Shelf, Shortlist, Towers, TwoTowerConfig, shortlists
from steerec.heads.training import device_of, fingerprint, train
from steerec.heads.windows import Batch, Track, tracks, training_batches

JUDGED_CELLS = 4_000_000  # scores of stage 1 that a step spends on finding hard candidates
JUDGED_ROWS = 512  # targets of a step that the judge learns from, at most


@dataclass
class Visitor:
    """A user's newest events, who they are, and once asked for, what was made of them.

    Attributes:
        disliked: (n,) int32, items among the newest events that weigh below 0.
        segments: those the user belongs to.
        shortlist: None: not judged yet.
    """

    track: Track
    disliked: Indices
    segments: tuple[int, ...]
    shortlist: Shortlist | None = field(default=None, compare=False)

    @property
    def known(self) -> bool:
        """Whether there is anything to go by."""
        return len(self.track) > 0 or len(self.segments) > 0


@dataclass
class _Course:
    """The towers with their tracks, as `train` wants them."""

    net: Towers
    tracks: list[Track]
    held: list[Track]  # their last event is held back
    config: TwoTowerConfig
    counts: Floats  # (N,) events of each item
    members: sparse.csr_matrix
    repeats: bool

    @cached_property
    def share(self) -> Tensor:
        """(N,) of the events."""
        some = np.maximum(self.counts, 0.5)
        return torch.from_numpy(some / some.sum()).to(self.net.inputs.delta)

    def batches(self, rng: np.random.Generator) -> list[Batch]:
        """See Teachable."""
        tokens = tokens_of(self.tracks, self.config)
        made = training_batches(
            self.tracks, len(self.counts), length=self.config.length, tokens=tokens, rng=rng
        )
        return [batch for batch in made if len(batch.target)]

    def loss(self, batch: Batch) -> Tensor:
        """See Teachable: of stage 1 and of the judge."""
        device = self.net.inputs.delta.device
        x_ND, bias = self.net.inputs()
        table = self.net.items(x_ND)
        row = torch.from_numpy(batch.row).to(device)
        means = self.net.read(self.net.events(x_ND), torch.from_numpy(batch.item).to(device))
        told = torch.from_numpy(evened(self.members[batch.user].toarray())).to(device)
        u = self.net.users(means[row, torch.from_numpy(batch.place).to(device)], told[row])
        target = torch.from_numpy(batch.target).to(device)
        return self._first(u, table, bias, target) + self._judged(u, table, bias, target)

    def _first(self, u: Tensor, table: Tensor, bias: Tensor, target: Tensor) -> Tensor:
        if len(table) <= self.config.full_softmax:
            return softmax_loss(u, table, bias, target)
        drawn, log_in = negatives(self.share, self.config.negatives, len(target))
        return sampled_loss(u, table, bias, target, drawn_S=drawn, log_expected_N=log_in)

    def _judged(self, u: Tensor, table: Tensor, bias: Tensor, target: Tensor) -> Tensor:
        """Sigmoid cross-entropy of targets against candidates drawn from stage 1's best.

        The towers do not learn from it. Each candidate drawn stands for its share of those that
        were not, so that R is the chance of a candidate among all of them.
        """
        n = min(self.config.rerank, len(table))
        rows = min(JUDGED_ROWS, max(1, JUDGED_CELLS // len(table)))
        chosen = torch.randperm(len(target), device=u.device)[:rows]
        u, v, own = u[chosen].detach(), table.detach(), target[chosen, None]
        first = u @ v.T + bias.detach()
        top, items = first.topk(n)
        drawn = torch.randint(n, (len(u), self.config.hard), device=u.device)
        items = torch.cat([own, items.gather(1, drawn)], 1)
        logit = self.net.judge(u, v[items], first.gather(1, items) - top[:, -1:])
        others = softplus(logit[:, 1:]) * (items[:, 1:] != own)
        weight = n / self.config.hard
        loss: Tensor = (softplus(-logit[:, 0]) + weight * others.sum(1)).mean()
        return loss

    def validate(self) -> list[float] | None:
        """See Teachable: NDCG@10 of the events held back, over the whole catalogue."""
        if not self.held:
            return None
        shelf = self.net.shelf(self.counts > 0)
        histories = [track.slice(0, len(track) - 1) for track in self.held]
        told = evened(self.members[[t.user_idx for t in self.held]].toarray())
        found = shortlists(
            self.net, shelf, histories, told, length=self.config.length, n=self.config.rerank
        )
        vectors, bias = shelf.vectors.cpu().numpy(), shelf.bias.cpu().numpy()
        gains: list[float] = []
        for short, track in zip(found, self.held, strict=True):
            scores = short.scores(vectors @ short.u + bias, None)
            gains.append(gain(scores, track, repeats=self.repeats))
        return gains


def evened(member: Floats) -> Floats:
    """(n, S) rows of ones brought to length 1, so that who tells much is no louder."""
    found: Floats = member / np.sqrt(np.maximum(member.sum(axis=1, keepdims=True), 1))
    return found


@dataclass
class TwoTower:
    """Scores an item by the logit of R, for the best candidates of two towers' dot product.

    A user tower reads fading means of the history, its texts and the user's segments, an item
    tower text, attributes and what behaviour adds; u . v finds candidates, an MLP puts them in
    order. Items below the candidates keep the order of the dot product.

    Attributes:
        net: on the CPU, in evaluation mode.
        shelf: the catalogue as it is served.
        content: (N, k) texts and attributes of the items.
        segments, members: who belongs where, (n_users, S).
        curve: one entry for each epoch of the training.

    Source: Yi et al. 2019, Sampling-Bias-Corrected Neural Modeling, for the towers; Covington et
    al. 2016, Deep Neural Networks for YouTube Recommendations, for the two stages.
    """

    name: ClassVar[str] = "two_tower"
    steady: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    config: TwoTowerConfig
    net: Towers
    shelf: Shelf
    content: Floats
    segments: Segments
    members: sparse.csr_matrix
    curve: list[dict[str, Any]]

    def __post_init__(self) -> None:
        """The catalogue as arrays."""
        self.vectors, self.bias = self.shelf.vectors.numpy(), self.shelf.bias.numpy()
        self.known: NDArray[np.bool_] = self.shelf.known.numpy()
        self.n_items = len(self.bias)
        self._unit = unit_rows(self.vectors)

    @classmethod
    def fit(
        cls,
        data: Dataset,
        config: TwoTowerConfig,
        rng: np.random.Generator,
        lesson: Lesson | None = None,
    ) -> Self:
        """See Head.

        Raises:
            DataError: if there are too few steps from one event to the next, or the users' table
                lacks a column of `people`.
            TrainingError: if training was lost.
        """
        aid = lesson or Lesson()
        of = tracks(data)
        n_targets = sum(len(track) - 1 for track in of)
        if n_targets < LEAST_TARGETS:
            raise DataError(
                f"two_tower: {n_targets} steps from one event to a next one, expected at least "
                f"{LEAST_TARGETS}: give more events"
            )
        texts = ItemTexts.of(data, config.text_dims).vectors
        content = np.hstack([texts, attribute_vectors(data.items, config.attributes)])
        segments = _segments(data, config)
        counts = np.bincount(np.concatenate([t.item for t in of]), minlength=data.n_items)
        with torch.random.fork_rng():
            torch.manual_seed(int(rng.integers(2**31)))
            net = _towers(content, counts.astype(np.float32), len(segments.names), config)
        if aid.previous is not None and aid.rows is not None:
            _go_on(net, aid.previous, aid.rows, segments)
        course = _Course(
            net.to(device_of(config)),
            *hold_back(of, config, rng),
            config,
            counts.astype(np.float32),
            segments.table(data.users),
            data.has_repeats,
        )
        mark = fingerprint(cls.name, config, data.content_hash)
        if config.threads == 0 and n_targets < SMALL:
            config = replace(config, threads=1)
        curve = train(cls.name, course, config, rng, aid=aid, mark=mark)
        net.cpu().eval()
        shelf = net.shelf(course.counts > 0)
        return cls(config, net, shelf, content, segments, course.members, curve)

    def start(self, history: History) -> Visitor:
        """See Head."""
        newest = history.last(self.config.length)
        track = Track.of(history, self.n_items).last(self.config.length)
        segments = tuple(self.segments.of_user(history, self.members))
        return Visitor(track, disliked(newest, self.n_items), segments)

    def update(self, state: Visitor, event: History) -> Visitor:
        """See Head."""
        track = state.track.join(Track.of(event, self.n_items)).last(self.config.length)
        return Visitor(track, still_disliked(state.disliked, event, self.n_items), state.segments)

    def observe(self, state: Visitor, event: History) -> None:
        """See Head: nothing is counted live."""

    def score(self, states: Sequence[Visitor], items: Indices | None, now: Times) -> Floats:
        """See Head: logits of R; NaN for users of whom nothing is known."""
        self._judge(states)
        chosen = np.s_[:] if items is None else items
        wanted, bias, known = self.vectors[chosen], self.bias[chosen], self.known[chosen]
        scores = np.full((len(states), len(wanted)), np.nan, np.float32)
        judged = [(i, s.shortlist) for i, s in enumerate(states) if s.shortlist is not None]
        if judged:
            first = np.stack([short.u for _, short in judged]) @ wanted.T + bias
            for line, (row, short) in zip(first, judged, strict=True):
                scores[row] = short.scores(line, items)
        scores[:, ~known] = np.nan
        for row, state in enumerate(states):
            if len(state.disliked):
                near = nearness(self._unit, state.disliked, items)
                scores[row] -= self.config.dislike * near
        return scores

    def probability(self, states: Sequence[Visitor], items: Indices | None, now: Times) -> Floats:
        """R, in 0 to 1: the chance that a candidate comes next, if one of the candidates does."""
        found: Floats = special.expit(self.score(states, items, now))
        return found

    def retrieve(self, state: Visitor, n: int, now: float) -> Indices:
        """See Head: the best of the whole catalogue."""
        return best(self.score([state], None, np.array([now]))[0], n)

    def because(self, state: Visitor, item_idx: int) -> Floats:
        """See Head: the network does not reason from single events."""
        return np.empty(0, np.float32)

    def forget(self, user_idx: int, history: History) -> bool:
        """See Head: waits for the next refit."""
        return False

    def grown(self, data: Dataset) -> Self:
        """See Head: knows nothing of new items until the next fit."""
        return self

    def save(self, folder: Path) -> None:
        """See Head."""
        about = {
            "config": asdict(self.config),
            "names": self.segments.names,
            "edges": self.segments.edges,
            "curve": self.curve,
        }
        (folder / "two_tower.json").write_text(json.dumps(about, ensure_ascii=False), "utf-8")
        tensors = {k: v.contiguous() for k, v in self.net.state_dict().items()}
        tensors |= {f"shelf.{k}": v.contiguous() for k, v in vars(self.shelf).items()}
        tensors["content"] = torch.from_numpy(self.content)
        save_file(tensors, folder / "two_tower.safetensors")
        sparse.save_npz(folder / "members.npz", self.members)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See Head."""
        about = json.loads((folder / "two_tower.json").read_text("utf-8"))
        tensors = load_file(folder / "two_tower.safetensors")
        content = tensors.pop("content").numpy()
        names = ("vectors", "bias", "events", "known")
        shelf = Shelf(**{name: tensors.pop(f"shelf.{name}") for name in names})
        given: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in about["config"].items()
        }
        config = TwoTowerConfig(**given)
        segments = Segments(
            tuple((column, value) for column, value in about["names"]),
            {column: tuple(edges) for column, edges in about["edges"].items()},
        )
        counts = np.zeros(len(content), np.float32)
        net = _towers(content, counts, len(segments.names), config)
        net.load_state_dict(tensors)
        members = sparse.load_npz(folder / "members.npz")
        return cls(config, net.eval(), shelf, content, segments, members, about["curve"])

    def _judge(self, states: Sequence[Visitor]) -> None:
        """Read and judge together what has not been yet."""
        unread = [s for s in states if s.shortlist is None and s.known]
        if not unread:
            return
        told = np.zeros((len(unread), len(self.segments.names)), np.float32)
        for row, state in enumerate(unread):
            told[row, list(state.segments)] = 1.0
        found = shortlists(
            self.net,
            self.shelf,
            [s.track for s in unread],
            evened(told),
            length=self.config.length,
            n=self.config.rerank,
        )
        for state, short in zip(unread, found, strict=True):
            state.shortlist = short


def _segments(data: Dataset, config: TwoTowerConfig) -> Segments:
    """Of the users with events; none where nothing is told of them."""
    own = [c for c in data.users.columns if c != "user_id"]
    missing = sorted(set(config.people) - set(own))
    if missing:
        raise DataError(f"two_tower: users have no column {missing}; given: {own}")
    active = np.diff(data.starts) > 0
    return Segments.fit(
        data.users.filter(active),
        list(config.people) or own,
        bins=config.bins,
        least_users=config.least_users,
    )


def _towers(content: Floats, counts: Floats, n_segments: int, config: TwoTowerConfig) -> Towers:
    inputs = ItemInputs(content, counts, config.width, id_dropout=config.id_dropout)
    return Towers(inputs, n_segments, config)


def _go_on(net: Towers, previous: TwoTower, rows: Indices, segments: Segments) -> None:
    """Take over what earlier towers learnt; of people only if their segments are the same."""
    fresh = None if net.person is None else net.person.weight.detach().clone()
    go_on_from(net, previous.net, rows)
    same = segments.names == previous.segments.names
    if net.person is not None and fresh is not None and not same:
        net.person.weight.data.copy_(fresh)
