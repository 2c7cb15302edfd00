"""What networks of the next item share: fitted on tracks, asked with a history, served as vectors.

Legend: B windows, T places, D width, N items, M targets.
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
from torch import Tensor, nn

from steerec.contracts import Floats, History, Indices, Times
from steerec.data.dataset import Dataset
from steerec.errors import DataError
from steerec.heads.contract import Lesson, best
from steerec.heads.dislikes import disliked, nearness, still_disliked, unit_rows
from steerec.heads.item_inputs import ItemInputs, ItemTexts
from steerec.heads.losses import pairwise_max_loss, sampled_loss, softmax_loss
from steerec.heads.reader import NextItemConfig, Reader, lag_features, read_tracks
from steerec.heads.training import TrainingConfig, device_of, fingerprint, train
from steerec.heads.whitening import Whitening
from steerec.heads.windows import Batch, Track, tracks, training_batches

LEAST_BATCHES = 60  # steps of an epoch, where the data are few
SMALL = 50_000  # targets; below, one thread is faster than several
LEAST_TARGETS = 20  # fewer steps teach a network nothing


@dataclass
class Reading:
    """A user's newest events and, once asked for, what the network made of them.

    Attributes:
        disliked: (n,) int32, items among the newest events that weigh below 0.
        h: (width,) before the moment of the request plays a part; None: not read yet.
    """

    track: Track
    disliked: Indices
    h: Floats | None = field(default=None, compare=False)


def tokens_of(of: Sequence[Track], config: TrainingConfig) -> int:
    """Events in a batch: as set, but few enough for LEAST_BATCHES in an epoch."""
    n_events = sum(len(track) for track in of)
    return int(np.clip(n_events // LEAST_BATCHES, 256, config.batch_tokens))


def hold_back(
    of: Sequence[Track], config: TrainingConfig, rng: np.random.Generator
) -> tuple[list[Track], list[Track]]:
    """Tracks to learn from, and those of some users whole, whose last event the others lack."""
    long = np.flatnonzero([len(track) >= 3 for track in of])
    n_held = min(config.validation_users, len(long) // 10)
    held = set(rng.choice(long, n_held, replace=False).tolist()) if n_held else set()
    learnt = [t.slice(0, len(t) - 1) if i in held else t for i, t in enumerate(of)]
    return learnt, [of[i] for i in sorted(held)]


def negatives(share: Tensor, n: int, n_targets: int) -> tuple[Tensor, Tensor]:
    """(n,) items drawn, and (N,) log of each item's probability to be in a batch with them.

    Args:
        share: (N,) of the events; `n_targets` of them join what is drawn.
    """
    q = share.sqrt() / share.sqrt().sum()  # flatter: targets bring what is popular
    drawn = torch.multinomial(q, n, replacement=True)
    return drawn, torch.log(-torch.expm1(-(n * q + n_targets * share)))


def gain(scores: Floats, track: Track, *, repeats: bool) -> float:
    """NDCG@10 of the track's last event; its others are out of the list unless there are repeats.

    Args:
        scores: (n_items,), which this may write to.
    """
    target = int(track.item[-1])
    if not repeats:
        scores[track.item[:-1][track.item[:-1] != target]] = -np.inf
    rank = 1 + int((scores > scores[target]).sum())
    return 1 / float(np.log2(rank + 1)) if rank <= 10 else 0.0


@dataclass
class _Course:
    """The network with its tracks, as `train` wants them."""

    net: Reader
    tracks: list[Track]
    held: list[Track]  # their last event is held back
    config: NextItemConfig
    n_items: int
    share: Tensor  # (N,) of the events
    repeats: bool

    @cached_property
    def tokens(self) -> int:
        """Events in a batch."""
        return tokens_of(self.tracks, self.config)

    def batches(self, rng: np.random.Generator) -> list[Batch]:
        """See Teachable."""
        made = training_batches(
            self.tracks,
            self.n_items,
            length=self.config.length,
            tokens=self.tokens,
            rng=rng,
        )
        return [batch for batch in made if len(batch.target)]

    def loss(self, batch: Batch) -> Tensor:
        """See Teachable."""
        device = self.net.inputs.delta.device
        table, bias = self.net.inputs()
        h_BTD = self.net.read(table, torch.from_numpy(batch.item).to(device), batch.time)
        row, place = torch.from_numpy(batch.row), torch.from_numpy(batch.place)
        lag = batch.target_time - batch.time[batch.row, batch.place]
        h = self.net.ask(h_BTD[row.to(device), place.to(device)], lag)
        target = torch.from_numpy(batch.target).to(device)
        if self.config.loss == "softmax" and self.n_items <= self.config.full_softmax:
            return softmax_loss(h, table, bias, target)
        return self._sampled(h, table, bias, target)

    def _sampled(self, h: Tensor, table: Tensor, bias: Tensor, target: Tensor) -> Tensor:
        drawn, log_in = negatives(self.share, self.config.negatives, len(target))
        if self.config.loss != "softmax":
            return pairwise_max_loss(h, table, bias, target, drawn_S=drawn, kind=self.config.loss)
        return sampled_loss(h, table, bias, target, drawn_S=drawn, log_expected_N=log_in)

    def validate(self) -> list[float] | None:
        """See Teachable: NDCG@10 of the events held back, over the whole catalogue."""
        if not self.held:
            return None
        table, bias = self.net.inputs()
        table, bias = table.detach(), bias.detach()
        histories = [track.slice(0, len(track) - 1) for track in self.held]
        gains: list[float] = []
        for chosen, h in read_tracks(self.net, table, histories, self.config.length):
            lag = np.array([self.held[i].time[-1] - histories[i].time[-1] for i in chosen])
            with torch.no_grad():
                scores = (self.net.ask(h, lag) @ table.T + bias).cpu().numpy()
            for row, i in enumerate(chosen):
                gains.append(gain(scores[row], self.held[i], repeats=self.repeats))
        return gains


def _enrol(
    cls: Any,
    data: Dataset,
    of: list[Track],
    texts: ItemTexts,
    config: Any,
    rng: np.random.Generator,
) -> _Course:
    """A fresh network on its device, and the tracks parted into those learnt and those held."""
    times = bool(config.times and data.has_times)
    counts = np.bincount(np.concatenate([t.item for t in of]), minlength=data.n_items)
    device = device_of(config)
    seed = int(rng.integers(2**31))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inputs = ItemInputs(
            texts.vectors, counts.astype(np.float32), config.width, id_dropout=config.id_dropout
        )
        net = Reader(inputs, cls.body(config, times=times), config, times=times).to(device)
    learnt, held = hold_back(of, config, rng)
    share = torch.from_numpy(np.maximum(counts, 0.5) / np.maximum(counts, 0.5).sum())
    return _Course(
        net,
        learnt,
        held,
        config,
        data.n_items,
        share.float().to(device),
        data.has_repeats,
    )


def go_on_from(net: nn.Module, previous: nn.Module, rows: Indices) -> None:
    """Take over what an earlier network learnt; rows of items follow the items.

    Args:
        rows: (n_items,) the item's row in the earlier network, -1 where it has none.
    """
    old = previous.state_dict()
    kept = rows >= 0
    state = net.state_dict()
    for name, tensor in state.items():
        earlier = old.get(name)
        if earlier is None:
            continue
        if len(tensor.shape) and name.startswith("inputs.") and len(tensor) == len(rows):
            tensor[torch.from_numpy(kept)] = earlier[torch.from_numpy(rows[kept]).long()].to(tensor)
        elif tensor.shape == earlier.shape:
            tensor.copy_(earlier)
    net.load_state_dict(state)


@dataclass
class NextItem:
    """A trained network of the next item; subclasses bring a body.

    Attributes:
        net: on the CPU, in evaluation mode.
        vectors, bias: (N, D), (N,) what histories are compared with.
        known: (N,) items with a text or with events in training; others score NaN.
        texts: how texts of the catalogue became vectors.
        curve: one entry for each epoch of the training.
    """

    name: ClassVar[str] = ""
    trains: ClassVar[bool] = True
    config: Any
    net: Reader
    vectors: Floats
    bias: Floats
    known: NDArray[np.bool_]
    texts: ItemTexts
    curve: list[dict[str, Any]]

    def __post_init__(self) -> None:
        """Sizes and the table as a tensor."""
        self.n_items = len(self.vectors)
        self._all_known = bool(self.known.all())
        norm, late = self.net.norm, self.net.until_next if self.net.times else None
        self._asking = (
            norm.weight.detach().numpy(),
            norm.bias.detach().numpy(),
            None if late is None else late.weight.detach().numpy().T,
        )
        self._table = torch.from_numpy(self.vectors)
        self._unit = unit_rows(self.vectors)

    @classmethod
    def config_class(cls) -> type[NextItemConfig]:
        """The class of its settings."""
        raise NotImplementedError

    @classmethod
    def body(cls, config: Any, *, times: bool) -> nn.Module:
        """(B, T, D) and times to (B, T, D), each place from itself and those before it."""
        raise NotImplementedError

    @classmethod
    def fit(
        cls,
        data: Dataset,
        config: Any,
        rng: np.random.Generator,
        lesson: Lesson | None = None,
    ) -> Self:
        """See Head.

        Raises:
            DataError: if there are too few steps from one event to the next.
            TrainingError: if training was lost.
        """
        aid = lesson or Lesson()
        of = tracks(data)
        n_targets = sum(len(track) - 1 for track in of)
        if n_targets < LEAST_TARGETS:
            raise DataError(
                f"{cls.name}: {n_targets} steps from one event to a next one, expected at least "
                f"{LEAST_TARGETS}: give more events"
            )
        earlier = None if aid.previous is None else aid.previous.texts
        texts = ItemTexts.of(data, config.text_dims, earlier=earlier)
        course = _enrol(cls, data, of, texts, config, rng)
        if aid.previous is not None and aid.rows is not None:
            go_on_from(course.net, aid.previous.net, aid.rows)
        mark = fingerprint(cls.name, config, data.content_hash)
        if config.threads == 0 and n_targets < SMALL:
            config = replace(config, threads=1)
        curve = train(cls.name, course, config, rng, aid=aid, mark=mark)
        net = course.net.cpu().eval()
        seen = np.bincount(np.concatenate([t.item for t in of]), minlength=data.n_items) > 0
        vectors, bias = net.inputs.table(seen)
        known = seen | texts.known
        return cls(config, net, vectors.numpy(), bias.numpy(), known, texts, curve)

    def start(self, history: History) -> Reading:
        """See Head."""
        track = Track.of(history, self.n_items).last(self.config.length)
        return Reading(track, disliked(history.last(self.config.length), self.n_items))

    def update(self, state: Reading, event: History) -> Reading:
        """See Head."""
        track = state.track.join(Track.of(event, self.n_items)).last(self.config.length)
        return Reading(track, still_disliked(state.disliked, event, self.n_items))

    def observe(self, state: Any, event: History) -> None:
        """See Head: nothing is counted live."""

    def score(self, states: Sequence[Reading], items: Indices | None, now: Times) -> Floats:
        """See Head: logits of the next item."""
        self._read(states)
        rows = [i for i, state in enumerate(states) if state.h is not None]
        wanted, bias = (
            (self.vectors, self.bias) if items is None else (self.vectors[items], self.bias[items])
        )
        scores = np.full((len(states), len(wanted)), np.nan, np.float32)
        if rows:
            h = np.stack([self._h(states[i]) for i in rows])
            lag = np.array([now[i] - states[i].track.time[-1] for i in rows])
            scores[rows] = self._ask(h, lag) @ wanted.T + bias
            if not self._all_known:
                scores[:, ~(self.known if items is None else self.known[items])] = np.nan
        for row, state in enumerate(states):
            if len(state.disliked):
                near = nearness(self._unit, state.disliked, items)
                scores[row] -= self.config.dislike * near
        return scores

    def _ask(self, h: Floats, lag: Times) -> Floats:
        """`Reader.ask` in NumPy: a request's path, several times as fast for one row."""
        weight, bias, late = self._asking
        if late is not None:
            h = h + lag_features(lag) @ late
        centred = h - h.mean(axis=1, keepdims=True)
        spread = np.sqrt((centred * centred).mean(axis=1, keepdims=True) + self.net.norm.eps)
        asked: Floats = centred / spread * weight + bias
        return asked

    def retrieve(self, state: Reading, n: int, now: float) -> Indices:
        """See Head: the best of the whole catalogue."""
        return best(self.score([state], None, np.array([now]))[0], n)

    def because(self, state: Reading, item_idx: int) -> Floats:
        """See Head: the network does not reason from single events."""
        return np.empty(0, np.float32)

    def forget(self, user_idx: int, history: History) -> bool:
        """See Head: waits for the next refit."""
        return False

    def grown(self, data: Dataset) -> Self:
        """See Head: new items are placed by their texts."""
        n_new, inputs = data.n_items - self.n_items, self.net.inputs
        vectors = np.zeros((n_new, self.vectors.shape[1]), np.float32)
        known = np.zeros(n_new, bool)
        whitening, to_width = self.texts.whitening, inputs.to_width
        if whitening is not None and to_width is not None and data.vectors is not None:
            texts = whitening.transform(data.vectors[self.n_items :])
            known = np.asarray(texts.any(axis=1))
            vectors = texts @ to_width.weight.detach().numpy().T
        bias = np.full(n_new, float(inputs.cold_bias.detach()), np.float32)
        return replace(
            self,
            vectors=np.concatenate([self.vectors, vectors]),
            bias=np.concatenate([self.bias, bias]),
            known=np.concatenate([self.known, known]),
        )

    def save(self, folder: Path) -> None:
        """See Head."""
        about = {"config": asdict(self.config), "times": self.net.times, "curve": self.curve}
        (folder / f"{self.name}.json").write_text(json.dumps(about), "utf-8")
        tensors = {k: v.contiguous() for k, v in self.net.state_dict().items()}
        tensors["served.vectors"] = torch.from_numpy(self.vectors)
        tensors["served.bias"] = torch.from_numpy(self.bias)
        tensors["served.known"] = torch.from_numpy(self.known)
        tensors["served.texts"] = torch.from_numpy(self.texts.vectors)
        save_file(tensors, folder / f"{self.name}.safetensors")
        if self.texts.whitening is not None:
            self.texts.whitening.save(folder / "whitening.npz")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See Head."""
        about = json.loads((folder / f"{cls.name}.json").read_text("utf-8"))
        tensors = load_file(folder / f"{cls.name}.safetensors")
        served = {
            k: tensors.pop(f"served.{k}").numpy() for k in ("vectors", "bias", "known", "texts")
        }
        file = folder / "whitening.npz"
        whitening = Whitening.load(file) if file.is_file() else None
        config = cls.config_class()(**about["config"])
        texts = ItemTexts(whitening, served["texts"])
        inputs = ItemInputs(
            texts.vectors, np.zeros(len(texts.vectors), np.float32), config.width, id_dropout=0.0
        )
        net = Reader(inputs, cls.body(config, times=about["times"]), config, times=about["times"])
        net.load_state_dict(tensors)
        return cls(
            config,
            net.eval(),
            served["vectors"],
            served["bias"],
            served["known"],
            texts,
            about["curve"],
        )

    @staticmethod
    def _h(state: Reading) -> Floats:
        assert state.h is not None, "asked only of states that were read"
        return state.h

    def _read(self, states: Sequence[Reading]) -> None:
        """Let the network read the histories it has not read yet, together."""
        unread = [s for s in states if s.h is None and len(s.track)]
        if not unread:
            return
        for chosen, h in read_tracks(
            self.net, self._table, [s.track for s in unread], self.config.length
        ):
            for i, row in zip(chosen, h.numpy(), strict=True):
                unread[i].h = row
