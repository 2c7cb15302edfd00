"""Findings about the catalogue and the users: leaks, features, texts that do not fit."""

import re
from collections.abc import Iterator

import numpy as np
import polars as pl
from scipy.stats import spearmanr

from steerec.data.counted import counted
from steerec.data.findings import NOTICE, OK, WARNING, Finding
from steerec.data.health_facts import EventFacts

# Columns whose name says that they were counted from what users did, later events included.
_COUNTED = re.compile(
    r"^n_|_count$|_counts$|count_|^num_|popular|average_rating|avg_rating|mean_rating|rating_mean"
    r"|^sales|sold|clicks|^views|best_?sell|trending|^rank$|_rank$",
    re.IGNORECASE,
)
_OUTCOME = re.compile(r"result|outcome|churn|label|target|next_|is_fraud|converted", re.IGNORECASE)
_REVIEW = re.compile(r"review|comment", re.IGNORECASE)
_TEXTS = ("title", "description", "text")
_LATIN, _LETTER, _WIDE = r"\p{Latin}", r"\p{L}", r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]"
_ENGLISH = r"(?i)\b(the|and|of|with|for|to|is|from|by)\b"
# words that only hold sentences together in German, French, Spanish, Italian, Dutch, Portuguese
_OTHER = (
    r"(?i)\b(und|der|die|das|mit|für|ist|les|des|et|est|pour|avec|los|las|una|para|con|che|della"
    r"|per|het|een|voor|não|uma|com|dos)\b"
)
_SAMPLE = 2000  # event texts looked up in item texts
_TEXT_SAMPLE = 20_000  # item texts whose letters are counted


def catalogue_findings(
    facts: EventFacts, items: pl.DataFrame | None, *, max_tokens: int
) -> Iterator[Finding]:
    """Look at the items table beside the events."""
    if items is None or len(items.columns) == 1:
        yield Finding(
            "no_items",
            NOTICE,
            "Nothing is known about the items but their ids",
            "There are no titles, categories or prices.",
            "Give an items table: without it, new items cannot be recommended nor reasons told.",
        )
        return
    items = items.with_columns(pl.col("item_id").cast(pl.String))
    yield from _id_findings(facts, items)
    yield from _leak_findings(facts, items)
    yield from _review_findings(facts, items)
    yield from _feature_findings(items, "items")
    yield from _text_findings(items, max_tokens)


def user_findings(facts: EventFacts, users: pl.DataFrame | None) -> Iterator[Finding]:
    """Look at the users table beside the events."""
    if users is None:
        return
    known = facts.per_user.join(
        users.select(pl.col("user_id").cast(pl.String)), on="user_id", how="semi"
    )
    without = len(facts.per_user) - len(known)
    if without:
        yield Finding(
            "users_not_in_table",
            NOTICE,
            "Users of events that the users table lacks",
            f"Without a row of attributes: {without:,} of {counted(len(facts.per_user), 'user')}.",
            "They are served by their events alone.",
        )
    outcomes = [c for c in users.columns if c != "user_id" and _OUTCOME.search(c)]
    if outcomes:
        yield Finding(
            "outcome_columns",
            WARNING,
            "User columns that look like an outcome",
            f"{', '.join(outcomes)}: known only after the events they would help to predict.",
            "Leave such columns out of the user features.",
        )
    yield from _feature_findings(users, "users")


def _id_findings(facts: EventFacts, items: pl.DataFrame) -> Iterator[Finding]:
    copies = len(items) - items["item_id"].n_unique()
    if copies:
        yield Finding(
            "duplicate_items",
            WARNING,
            "Item ids that occur more than once",
            f"{counted(copies, 'row')} of the items table with an id that an earlier row has.",
            "Cleaning keeps the first; merge them if they differ.",
        )
    unknown = facts.per_item.join(items, on="item_id", how="anti")
    if len(unknown):
        yield Finding(
            "items_not_in_catalogue",
            WARNING if len(unknown) > 0.05 * len(facts.per_item) else NOTICE,
            "Items of events that the catalogue lacks",
            f"Without a row: {len(unknown):,} of {counted(len(facts.per_item), 'item')} with "
            f"events, such as {unknown['item_id'][0]!r}.",
            "Are ids written the same in both tables? Items without a row have no text.",
        )
    n_items = items["item_id"].n_unique()
    silent = items.select("item_id").unique().join(facts.per_item, on="item_id", how="anti")
    if len(silent):
        yield Finding(
            "items_without_events",
            NOTICE,
            "Items nobody has met yet",
            f"Without any event: {len(silent):,} of {counted(n_items, 'item')}.",
            "Only their text and attributes can bring them forward: check that these are good.",
        )


def _leak_findings(facts: EventFacts, items: pl.DataFrame) -> Iterator[Finding]:
    counted = items.join(facts.per_item, on="item_id", how="left")
    counted = counted.with_columns(pl.col("n_events").fill_null(0))
    named, alike = [], []
    for name, kind in items.schema.items():
        if not kind.is_numeric():
            continue
        if _COUNTED.search(name):
            named.append(name)
        elif _correlation(counted[name], counted["n_events"]) > 0.9:
            alike.append(name)
    if named or alike:
        words = [f"{', '.join(named)}: counted from events, by their name."] if named else []
        words += [f"{', '.join(alike)}: rise and fall with the number of events."] if alike else []
        yield Finding(
            "leaking_columns",
            WARNING,
            "Item columns that may hold the future",
            " ".join(words),
            "Counts over the whole log know the test period. Leave them out, or rebuild them from "
            "the training period; steerec counts popularity itself.",
        )
    else:
        yield Finding("leaking_columns", OK, "No item column follows the event counts", "", "")


def _correlation(column: pl.Series, n_events: pl.Series) -> float:
    """Rank correlation where the column is known; 0 where that says nothing."""
    a, b = column.cast(pl.Float64).fill_null(np.nan).to_numpy(), n_events.to_numpy()
    known = np.isfinite(a)
    a, b = a[known], b[known]
    if len(a) < 20 or (a == a[0]).all() or (b == b[0]).all():
        return 0.0
    return float(spearmanr(a, b).statistic)


def _review_findings(facts: EventFacts, items: pl.DataFrame) -> Iterator[Finding]:
    """Find item texts put together from what users wrote in their events."""
    named = [c for c in items.columns if _REVIEW.search(c) and items[c].dtype == pl.String]
    share = _copied_share(facts.raw, items)
    if named or share > 0.05:
        words = f"Columns {', '.join(named)}. " if named else ""
        words += f"{share:.0%} of the texts in events occur in their item's text." if share else ""
        yield Finding(
            "texts_from_reviews",
            WARNING,
            "Item texts that hold users' own words",
            words.strip(),
            "A review written later tells the future: build texts from the training period only.",
        )


def _copied_share(raw: pl.DataFrame, items: pl.DataFrame) -> float:
    texts = [c for c in _TEXTS if items.schema.get(c) == pl.String]
    step = max(len(raw) // _SAMPLE, 1)
    sample = raw.gather_every(step).with_columns(pl.col("item_id").cast(pl.String))
    long = [c for c, kind in raw.schema.items() if kind == pl.String and _is_prose(sample, c)]
    if not texts or not long:
        return 0.0
    known = items.unique("item_id", keep="first").select(
        "item_id", _text=pl.concat_str(texts, separator=" ", ignore_nulls=True)
    )
    joined = sample.join(known, on="item_id", how="inner")
    shares = [
        joined.select(
            pl.col("_text").str.contains(pl.col(c).str.slice(0, 40), literal=True).mean()
        ).item()
        for c in long
    ]
    return float(max((s for s in shares if s is not None), default=0.0))


def _is_prose(sample: pl.DataFrame, column: str) -> bool:
    """Whether events bring words of their own here, rather than their item's title."""
    words = sample[column].str.count_matches(r"\S+").mean()
    own = sample[column].n_unique() > 1.2 * sample["item_id"].n_unique()
    return own and isinstance(words, float) and words >= 2.5


def _feature_findings(table: pl.DataFrame, name: str) -> Iterator[Finding]:
    if table.is_empty():
        return
    missing = {c: table[c].null_count() / len(table) for c in table.columns[1:]}
    mostly = [f"{c} ({share:.0%})" for c, share in missing.items() if 0.5 < share < 1]
    constant = [c for c in table.columns[1:] if _is_constant(table[c])]
    if mostly:
        yield Finding(
            f"missing_{name}",
            NOTICE,
            f"Columns of {name} that are mostly empty",
            ", ".join(mostly),
            "They help only where they are filled; leave them out of the text template.",
        )
    if constant and len(table) > 1:
        yield Finding(
            f"constant_{name}",
            NOTICE,
            f"Columns of {name} that say nothing",
            f"{', '.join(constant)}: empty, or the same in every row.",
            "Leave them out.",
        )


def _is_constant(column: pl.Series) -> bool:
    if column.null_count() == len(column):
        return True
    if isinstance(column.dtype, pl.List | pl.Array | pl.Struct | pl.Object) or column.null_count():
        return False
    return column.n_unique() == 1


def _text_findings(items: pl.DataFrame, max_tokens: int) -> Iterator[Finding]:
    columns = [c for c in _TEXTS if items.schema.get(c) == pl.String]
    if not columns:
        yield Finding(
            "no_texts",
            NOTICE,
            "Items have no text",
            f"No column {', '.join(_TEXTS)} was found.",
            "Map the column that names an item as title; attributes are used as they are.",
        )
        return
    text = pl.concat_str(columns, separator=" ", ignore_nulls=True).str.strip_chars()
    texts = items.select(text=text.fill_null(""))
    yield from _filled_findings(texts)
    filled = texts.filter(pl.col("text") != "")
    facts = filled.gather_every(max(len(filled) // _TEXT_SAMPLE, 1)).with_columns(
        letters=pl.col("text").str.count_matches(_LETTER),
        latin=pl.col("text").str.count_matches(_LATIN),
        wide=pl.col("text").str.count_matches(_WIDE),
        chars=pl.col("text").str.len_chars(),
        words=pl.col("text").str.count_matches(r"\S+"),
        english=pl.col("text").str.count_matches(_ENGLISH),
        other=pl.col("text").str.count_matches(_OTHER),
    )
    yield from _fit_findings(facts, max_tokens)


def _filled_findings(texts: pl.DataFrame) -> Iterator[Finding]:
    filled = texts.filter(pl.col("text") != "")
    empty = 1 - len(filled) / max(len(texts), 1)
    if empty > 0.05:
        yield Finding(
            "empty_texts",
            WARNING if empty > 0.3 else NOTICE,
            "Items without any text",
            f"{empty:.0%} of the items have no title and no description.",
            "They cannot be found by content; fill in at least a title.",
        )
    same = 1 - filled["text"].n_unique() / len(filled) if len(filled) else 0.0
    if same > 0.05:
        yield Finding(
            "same_texts",
            NOTICE,
            "Items with the same text",
            f"{same:.0%} of the texts repeat another item's: content cannot tell them apart.",
            "Add what distinguishes them, such as size or colour, or merge variants.",
        )


def _fit_findings(filled: pl.DataFrame, max_tokens: int) -> Iterator[Finding]:
    if filled.is_empty():
        return
    foreign = _mean(filled, pl.col("latin") < 0.5 * pl.col("letters"))
    long = filled.filter(pl.col("words") >= 6)
    other = _mean(long, (pl.col("other") >= 2) & (pl.col("other") > pl.col("english")))
    codes = _mean(filled, pl.col("letters") < 0.3 * pl.col("chars"))
    tokens = (pl.col("chars") - pl.col("wide")) / 4 + pl.col("wide")  # near enough for a warning
    cut = _mean(filled, tokens > max_tokens)
    if foreign > 0.1 or other > 0.1:
        yield Finding(
            "not_english",
            WARNING,
            "Texts that the default encoder does not read",
            f"{foreign:.0%} of the texts are mostly in another script than Latin; {other:.0%} of "
            "the longer ones read like another language. all-MiniLM-L6-v2 was made for English.",
            "Choose a multilingual model; the lexical channel of `content` works in any language.",
        )
    if codes > 0.3:
        yield Finding(
            "codes_as_texts",
            NOTICE,
            "Texts that are mostly digits and signs",
            f"{codes:.0%} of the texts have few letters: codes say nothing to an encoder.",
            "Map a column with words as title, or leave the text out.",
        )
    if cut > 0.05:
        yield Finding(
            "long_texts",
            NOTICE,
            "Texts longer than the encoder reads",
            f"About {cut:.0%} of the texts pass {max_tokens} tokens; the rest of them is not read.",
            "Put what matters first in the text template, or shorten the description.",
        )
    if foreign <= 0.1 and other <= 0.1 and codes <= 0.3 and cut <= 0.05:
        yield Finding("texts_fit", OK, "Texts fit the encoder", "", "")


def _mean(table: pl.DataFrame, condition: pl.Expr) -> float:
    return float(table.select(condition.mean()).item() or 0.0)
