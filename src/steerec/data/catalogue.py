"""The cleaning rules for the catalogue and the users."""

import html
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator

import polars as pl

from steerec.data.counted import counted
from steerec.data.rules import Verdict

TEXTS = ("title", "description")
_SHOWN = 3  # spellings that the report names
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2060\ufeff]")
_TAG = re.compile(
    r"</?(?:p|br|b|i|em|strong|ul|ol|li|div|span|h[1-6])\b[^>]{0,200}>", re.IGNORECASE
)


def duplicate_entries(table: pl.DataFrame, key: str) -> Verdict:
    """Reject later rows with an id that an earlier one has."""
    reason = pl.when(~pl.col(key).is_first_distinct()).then(
        pl.format("{} " + key + " again; the first row stays", pl.col(key))
    )
    return Verdict(table, table.select(reason.alias("reason"))["reason"])


def prices(items: pl.DataFrame, z: float, min_items: int) -> Verdict:
    """Name prices far from their category's, on a log scale; the caller nulls them.

    The category is the first of the item's; one with few prices is compared with the whole
    catalogue. Zero, negative and not finite prices are named too.
    """
    possible = pl.col("price").is_finite() & (pl.col("price") > 0)
    frame = items.select(
        pl.col("price"),
        pl.when(possible).then(pl.col("price").log()).alias("log"),
        _first_category(items).alias("group"),
    )
    frame = frame.with_columns(
        group=pl.when(pl.col("log").count().over("group") >= min_items).then(pl.col("group"))
    )
    frame = frame.with_columns(distance=(pl.col("log") - pl.col("log").median().over("group")))
    spread = pl.max_horizontal(
        1.4826 * pl.col("distance").abs().median().over("group"), pl.lit(0.25)
    )
    score = pl.col("distance") / spread
    enough = pl.col("log").count().over("group") >= min_items
    reason = (
        pl.when(~possible)
        .then(pl.format("price {} is no possible price", pl.col("price")))
        .when((score.abs() > z) & enough)
        .then(pl.format("price {} has a robust z-score of {}", pl.col("price"), score.round(1)))
    )
    return Verdict(items, frame.select(reason.alias("reason"))["reason"])


def texts(items: pl.DataFrame) -> Verdict:
    """Normalise titles and descriptions: NFKC, entities, control characters, spaces."""
    names = [name for name in TEXTS if name in items.columns]
    cleaned = items.with_columns(
        pl.Series(name, [clean_text(t) for t in items[name]], pl.String) for name in names
    )
    changed = pl.any_horizontal(pl.col(n).ne_missing(items[n]) for n in names) if names else None
    repaired = 0 if changed is None else int(cleaned.select(changed.sum()).item())
    return Verdict(cleaned, repaired=repaired)


def clean_text(text: str | None) -> str | None:
    """One text without entities, markup of paragraphs, control characters and double spaces."""
    if text is None:
        return None
    plain = _TAG.sub(" ", html.unescape(text)) if "&" in text or "<" in text else text
    plain = _CONTROL.sub("", unicodedata.normalize("NFKC", plain))
    return " ".join(plain.split()) or None


def categories(items: pl.DataFrame, *, rare_ratio: float, min_chars: int) -> Verdict:
    """Write each category in its commonest spelling.

    Spellings that differ in case, spaces and punctuation are one. A rare long one that is a
    single edit away from a common one is a misspelling of it.
    """
    counts = items.select(pl.col("categories").explode().alias("name")).drop_nulls()
    tally = dict(counts.group_by("name").len("n").sort("name").iter_rows())
    renames = spelling_map(tally, rare_ratio=rare_ratio, min_chars=min_chars)
    if not renames:
        return Verdict(items)
    merged = (
        pl.col("categories")
        .list.eval(pl.element().replace(renames))
        .list.unique(maintain_order=True)
    )
    repaired = items.select(merged.ne_missing(pl.col("categories")).sum()).item()
    shown = ", ".join(f"{a!r} → {b!r}" for a, b in list(renames.items())[:_SHOWN])
    if len(renames) > _SHOWN:
        shown += f" and {counted(len(renames) - _SHOWN, 'more spelling')}"
    return Verdict(items.with_columns(categories=merged), repaired=int(repaired), note=shown)


def spelling_map(tally: dict[str, int], *, rare_ratio: float, min_chars: int) -> dict[str, str]:
    """Spelling → commonest spelling, only where they differ; ties go to the first in order."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in tally:
        groups[_folded(name)].append(name)
    best = {key: max(sorted(names), key=tally.__getitem__) for key, names in groups.items()}
    total = {key: sum(tally[n] for n in names) for key, names in groups.items()}
    target = _misspellings(total, rare_ratio, min_chars)
    return {
        name: best[target.get(key, key)]
        for key, names in groups.items()
        for name in names
        if name != best[target.get(key, key)]
    }


def _misspellings(total: dict[str, int], rare_ratio: float, min_chars: int) -> dict[str, str]:
    """Rare key → common key one edit away. Common keys come first, so chains cannot form."""
    ordered = sorted(total, key=lambda k: (-total[k], k))
    by_deletion: dict[str, list[str]] = defaultdict(list)
    found: dict[str, str] = {}
    for key in ordered:
        # Digits name things: "size 10" is no misspelling of "size 12".
        if len(key) < min_chars or any(c.isdigit() for c in key):
            continue
        near = {k for d in _deletions(key) for k in by_deletion[d]}
        fits = [k for k in near if total[key] <= rare_ratio * total[k] and is_one_edit(key, k)]
        if fits:
            found[key] = min(fits, key=lambda k: (-total[k], k))
            continue
        for deletion in _deletions(key):
            by_deletion[deletion].append(key)
    return found


def _deletions(key: str) -> Iterator[str]:
    """The key and all it becomes by leaving one character out: one edit apart share one."""
    yield key
    for i in range(len(key)):
        yield key[:i] + key[i + 1 :]


def is_one_edit(a: str, b: str) -> bool:
    """Whether one insertion, deletion, replacement or swap of neighbours turns `a` into `b`."""
    if abs(len(a) - len(b)) > 1 or a == b:
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if start is None:
        return True  # one is the other with a character more at its end
    rest_a, rest_b = a[start:], b[start:]
    swapped = len(a) == len(b) and rest_a[:2] == rest_b[1::-1] and rest_a[2:] == rest_b[2:]
    return swapped or rest_a[1:] == rest_b[1:] or rest_a[1:] == rest_b or rest_a == rest_b[1:]


def _folded(name: str) -> str:
    lower = unicodedata.normalize("NFKC", name).casefold().strip()
    kept = re.sub(r"[\W_]+", "", lower)
    return kept if len(kept) > 2 else lower  # C, C++ and C# stay apart


def _first_category(items: pl.DataFrame) -> pl.Expr:
    if "categories" in items.columns:
        return pl.col("categories").list.first()
    return pl.lit(None, dtype=pl.String)
