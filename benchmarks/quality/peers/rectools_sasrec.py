"""RecTools SASRec on one exported split: ten items a case after every epoch, until time is up.

Runs in an environment of its own (requirements-rectools.txt), without steerec, and sees training
events and histories only. After each epoch its lists are written and a line of JSON is printed; it
goes on when a line is typed. Seconds are those of training: making lists and waiting do not count.
"""

import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from compete import N, peak_rss_mib
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

BLOCK = 256
MOST_EPOCHS = 10_000  # time ends it


class Lists(Callback):
    """Lists ten unseen items for each case after every epoch.

    Attributes:
        known: (n_known,) our index of the model's items, padding left out.
    """

    def __init__(self, arrays: dict[str, np.ndarray], length: int, seconds: float, out: Path):
        self.history, self.offsets = arrays["history_items"], arrays["history_offsets"]
        self.repeats = bool(arrays["repeats"])
        self.length, self.limit_s, self.out = length, seconds, out
        self.began, self.spent_s = 0.0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        paused = time.perf_counter()
        trained_s = paused - self.began - self.spent_s
        epoch = trainer.current_epoch + 1
        np.savez(self.out / f"{epoch:04d}.npz", lists=self.lists(pl_module))
        told = {"epoch": epoch, "seconds": trained_s, "peak_rss_mib": peak_rss_mib()}
        print(json.dumps(told), flush=True)
        sys.stdin.readline()
        trainer.should_stop = trained_s >= self.limit_s
        self.spent_s += time.perf_counter() - paused

    def lists(self, module: Any) -> np.ndarray:
        """(n_cases, 10) int32, by the model's own encoder of sessions and dot product."""
        ids = module.data_preparator.item_id_map.get_external_sorted_by_internal()
        known = np.array(ids[module.data_preparator.n_item_extra_tokens :], np.int64)
        place = np.zeros(max(known.max(), self.history.max()) + 1, np.int64)
        place[known] = np.arange(len(known)) + module.data_preparator.n_item_extra_tokens
        rows = []
        module.eval()
        with torch.no_grad():
            vectors = module.torch_model.item_model.get_all_embeddings()
            for start in range(0, len(self.offsets) - 1, BLOCK):
                stop = min(start + BLOCK, len(self.offsets) - 1)
                rows.append(self.block(module, vectors, place, start, stop))
        module.train()
        found = np.concatenate(rows)
        first = module.data_preparator.n_item_extra_tokens
        return np.where(found < first, -1, known[np.maximum(found - first, 0)]).astype(np.int32)

    def block(
        self, module: Any, vectors: torch.Tensor, place: np.ndarray, start: int, stop: int
    ) -> np.ndarray:
        """The model's numbers of the ten best items of some cases; 0 where there are fewer."""
        x = np.zeros((stop - start, self.length), np.int64)
        seen = []
        for row, case in enumerate(range(start, stop)):
            own = place[self.history[self.offsets[case] : self.offsets[case + 1]]]
            own = own[own > 0]
            seen.append(own)
            if len(newest := own[-self.length :]):
                x[row, -len(newest) :] = newest
        asked = module.torch_model.encode_sessions({"x": torch.from_numpy(x)}, vectors)[:, -1]
        scores = (asked @ vectors.T).numpy()
        scores[:, : module.data_preparator.n_item_extra_tokens] = -np.inf
        if not self.repeats:
            for row, own in enumerate(seen):
                scores[row, own] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :N]
        return np.where(np.isneginf(np.take_along_axis(scores, best, axis=1)), 0, best)


def events_of(arrays: dict[str, np.ndarray]) -> Dataset:
    """The training events; their order within a user stands for the time."""
    n = len(arrays["item_idx"])
    order = pd.Timestamp("2000-01-01") + pd.to_timedelta(np.arange(n), unit="s")
    return Dataset.construct(
        pd.DataFrame(
            {
                Columns.User: arrays["user_idx"],
                Columns.Item: arrays["item_idx"],
                Columns.Weight: 1.0,
                Columns.Datetime: order,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", type=Path, required=True, help="npz of export_split")
    parser.add_argument("--out", type=Path, required=True, help="folder for the lists")
    parser.add_argument("--minutes", type=float, required=True, help="of training")
    parser.add_argument("--length", type=int, required=True, help="events of a history")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seed_everything(options.seed, verbose=False)
    with np.load(options.split) as file:
        arrays = dict(file)
    lists = Lists(arrays, options.length, 60 * options.minutes, options.out)

    def trainer() -> Trainer:
        quiet = dict.fromkeys(
            ("enable_progress_bar", "enable_model_summary", "logger", "enable_checkpointing"), False
        )
        limits = {"max_epochs": MOST_EPOCHS, "devices": 1, "accelerator": "cpu"}
        return Trainer(**limits, **quiet, callbacks=[lists])

    model = SASRecModel(
        n_factors=64,
        n_blocks=2,
        loss="softmax",
        batch_size=128,
        session_max_len=options.length,
        get_trainer_func=trainer,
    )
    print(json.dumps({"version": version("rectools"), "torch": torch.__version__}), flush=True)
    model.fit(events_of(arrays))


if __name__ == "__main__":
    main()
