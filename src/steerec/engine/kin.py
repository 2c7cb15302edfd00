"""Look-alikes: an item that nobody has taken yet is scored as the items that read like it are."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from steerec.heads.content import Content
from steerec.heads.contract import Head
from steerec.heads.item_knn import ItemKnn


def with_kin(heads: Mapping[str, Head], wanted: NDArray[np.bool_]) -> dict[str, Head]:
    """The heads, of which `item_knn` knows what `content` says of those items without events.

    Args:
        wanted: (n_items,) of `content`'s catalogue, whose look-alikes are looked for; those that
            had events when `item_knn` was fitted keep their own scores.
    """
    content, knn = heads.get("content"), heads.get("item_knn")
    if not isinstance(content, Content) or not isinstance(knn, ItemKnn) or knn.config.kin == 0:
        return dict(heads)
    known = np.zeros(content.n_items, bool)
    known[: knn.n_items] = knn.known
    new = np.flatnonzero(wanted & ~known).astype(np.int32)
    if len(new) == 0 or not known.any():
        return dict(heads)
    kin = content.look_alikes(new, known, n=knn.config.kin, sharpness=knn.config.alike)
    return {**heads, "item_knn": knn.with_kin(kin)}
