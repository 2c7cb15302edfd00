"""A task's training events and histories as one npz, for peers; targets are left out."""

from pathlib import Path

import numpy as np

from steerec.evaluation.protocols import Task


def export_split(task: Task, path: Path) -> None:
    """Write what a peer may know: who had what in training, and each case's events before it."""
    train, cases = task.split.train, task.split.cases
    first = cases.data.starts[cases.user_idx]
    sizes = cases.stop - first
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes) + np.repeat(first, sizes)
    np.savez(
        path,
        n_users=train.n_users,
        n_items=train.n_items,
        user_idx=train.user_idx,
        item_idx=train.item_idx,
        history_items=cases.data.item_idx[place],
        history_offsets=offsets,
        repeats=task.repeats,
    )
