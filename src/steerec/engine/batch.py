"""Lists for all users at once, as one table."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from steerec.contracts import Query
from steerec.engine.model import Progress
from steerec.engine.recommender import Recommender
from steerec.errors import DataError
from steerec.heads.contract import unwatched

STEP = 100  # users between two words of progress


def lists_for_all(
    recommender: Recommender, query: Query, *, progress: Progress | None = None
) -> pl.DataFrame:
    """A row for each place of each known user's list: user_id, position, item_id, score, reason.

    Args:
        query: what is asked for everybody; its user is left aside.
    """
    tell, data = progress or unwatched, recommender.model.data
    index = data.item_index
    user, item, position = [], [], []
    score, reason = [], []
    for row, user_id in enumerate(data.user_ids):
        if row % STEP == 0:
            tell("recommend", row, data.n_users)
        slate = recommender.recommend(replace(query, user_id=str(user_id)))
        user += [row] * len(slate.items)
        item += [index[choice.item_id] for choice in slate.items]
        position += [choice.position for choice in slate.items]
        score += [choice.score for choice in slate.items]
        reason += [choice.reason for choice in slate.items]
    return pl.DataFrame(
        {
            "user_id": pl.Series(data.user_ids[np.array(user, int)], dtype=pl.String),
            "position": pl.Series(position, dtype=pl.Int16),
            "item_id": pl.Series(data.item_ids[np.array(item, int)], dtype=pl.String),
            "score": pl.Series(score, dtype=pl.Float32),
            "reason": pl.Series(reason, dtype=pl.String),
        }
    )


def write_parquet(table: pl.DataFrame, path: Path) -> None:
    """Write the table as a file that appears whole or not at all.

    Raises:
        DataError: if it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.write_parquet(part)
        part.replace(path)
    except OSError as e:
        raise DataError(f"{path} cannot be written ({e}): check folder and permission") from e
    finally:
        part.unlink(missing_ok=True)
