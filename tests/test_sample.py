import hashlib
import json

import numpy as np
import polars as pl
import pytest

from steerec.data.clean import clean
from steerec.data.dataset import build_dataset
from steerec.data.read import read_tables
from steerec.data.rules import CleanConfig
from steerec.data.sample import (
    YEAR_END,
    YEAR_START,
    SampleShop,
    dirt,
    sample_shop,
    sample_shop_zh,
    write_csv,
)
from steerec.data.sample.catalogue import make_catalogue, partner_types
from steerec.data.sample.lexicon import load_lexicon
from steerec.data.tables import Tables

DAY_S = 86_400.0


@pytest.fixture(scope="module")
def shop() -> SampleShop:
    return sample_shop(dirty=False)


@pytest.fixture(scope="module")
def dirty_shop() -> SampleShop:
    return sample_shop()


def _digest(shop: SampleShop) -> str:
    digest = hashlib.sha256()
    for frame in (shop.events, shop.items, shop.users):
        digest.update(json.dumps(frame.columns).encode())
        digest.update(frame.write_ndjson().encode())
    return digest.hexdigest()


def _small(seed: int, **options: bool) -> SampleShop:
    return sample_shop(seed, n_items=300, n_users=100, n_events=3000, **options)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    assert _digest(_small(3)) == _digest(_small(3))
    assert _digest(_small(3)) != _digest(_small(4))
    assert _digest(sample_shop_zh(1)) == _digest(sample_shop_zh(1))


def test_the_shop_has_the_promised_size(shop):
    assert shop.items.height == 1500
    assert shop.users.height == 3000
    assert 99_900 <= shop.events.height <= 100_000
    assert shop.events["user_id"].n_unique() > 2_700


def test_events_are_in_order_of_time_within_the_year_and_of_known_things(shop):
    time = shop.events["timestamp"]
    assert time.is_sorted()
    assert time.min() >= YEAR_START
    assert time.max() < YEAR_END
    assert set(shop.events["user_id"]) <= set(shop.users["user_id"])
    assert set(shop.events["item_id"]) <= set(shop.items["item_id"])


def test_each_kind_of_event_occurs_and_only_ratings_have_stars(shop):
    kinds = {"view", "click", "cart", "purchase", "rating", "dislike"}
    assert set(shop.events["event"]) == kinds
    stars = shop.events.filter(pl.col("value").is_not_null())
    assert set(stars["event"]) == {"rating"}
    assert set(stars["value"]) == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_orders_belong_to_one_person_and_moment_and_some_hold_several_products(shop):
    bought = pl.col("event") == "purchase"
    assert shop.events.filter(bought)["basket"].null_count() == 0
    assert shop.events.filter(~bought)["basket"].drop_nulls().is_empty()
    orders = (
        shop.events.filter(bought)
        .group_by("basket")
        .agg(pl.col("user_id", "timestamp").n_unique(), pl.len().alias("lines"))
    )
    assert orders["user_id"].max() == orders["timestamp"].max() == 1
    assert (orders["lines"] > 1).mean() > 0.1


def test_nobody_acts_before_joining_and_nothing_is_seen_before_it_arrives(shop):
    joined = shop.events.join(shop.users, on="user_id").join(shop.items, on="item_id")
    assert joined.filter(pl.col("timestamp") < pl.col("joined") - 1).is_empty()
    assert joined.filter(pl.col("timestamp") < pl.col("published")).is_empty()
    assert shop.items.filter(pl.col("published") > YEAR_START).height == 375  # a quarter


def test_titles_are_unique_and_texts_read_like_a_shop(shop):
    items = shop.items
    assert items["title"].n_unique() == items.height
    assert items["categories"].list.len().to_list() == [2] * items.height
    assert items["categories"].list.get(0).n_unique() >= 10
    assert items["categories"].list.get(1).n_unique() >= 60
    sentences = items["description"].str.count_matches(r"[.](\s|$)")
    # "No. 7" in no description, so full stops count sentences.
    assert sentences.is_between(2, 5).all()
    assert not items["description"].str.contains(r"[{}]|None|  ").any()
    assert not items["title"].str.contains(r"[{}]|None|  ").any()
    assert not items["description"].str.contains(r"\b[Aa] [aeiouAEIOU]").any()
    assert items["price"].min() > 0


def test_every_partner_in_the_word_lists_exists():
    for name in ("words.toml", "words_zh.toml"):
        lexicon = load_lexicon(name)
        named = sum(len(kind.partners) for kind in lexicon.types)
        assert (partner_types(lexicon) >= 0).sum() == named > len(lexicon.types) / 2


def test_companions_are_of_a_partner_type():
    lexicon = load_lexicon("words.toml")
    shelves = make_catalogue(lexicon, 300, np.random.default_rng(0))
    partners = partner_types(lexicon)
    for item, companion in enumerate(shelves.companion):
        options = partners[shelves.kind[item]]
        if companion < 0:
            assert (options < 0).all()
        else:
            assert shelves.kind[companion] in options


def test_regulars_buy_what_runs_out_in_its_rhythm(shop):
    every = {kind.name: kind.every_days for kind in load_lexicon("words.toml").types}
    types = shop.items.select("item_id", kind=pl.col("categories").list.get(1))
    gaps = (
        shop.events.filter(pl.col("event") == "purchase")
        .join(types, on="item_id", maintain_order="left")
        .with_columns(gap=pl.col("timestamp").diff().over("user_id", "kind") / DAY_S)
        .drop_nulls("gap")
    )
    middle = dict(gaps.filter(pl.col("gap") > 3).group_by("kind").agg(pl.median("gap")).iter_rows())
    for name in ("Nappies", "Coffee beans", "Dog food"):
        assert 0.7 * every[name] < middle[name] < 1.5 * every[name] + 4
    again = gaps.group_by("kind").len().sort("len", descending=True)["kind"].head(10)
    assert all(every[name] for name in again)


def test_seasons_move_the_sales(shop):
    types = shop.items.select("item_id", kind=pl.col("categories").list.get(1))
    events = shop.events.join(types, on="item_id").with_columns(
        month=pl.from_epoch("timestamp").dt.month()
    )

    def share(kind: str, months: list[int]) -> float:
        inside = events.filter(pl.col("month").is_in(months))
        return inside.filter(pl.col("kind") == kind).height / inside.height

    assert share("Seeds", [3, 4]) > 1.5 * share("Seeds", [8, 9])
    assert share("Board games", [11, 12]) > 1.5 * share("Board games", [5, 6])
    assert share("Beach towels", [7]) > 1.5 * share("Beach towels", [1])


def test_buyers_of_cameras_soon_look_at_what_goes_with_them(shop):
    types = shop.items.select("item_id", kind=pl.col("categories").list.get(1))
    events = shop.events.join(types, on="item_id", maintain_order="left")
    partners = ["Memory cards", "Tripods", "Camera bags"]
    bought = events.filter((pl.col("event") == "purchase") & (pl.col("kind") == "Cameras"))
    looks = events.filter(pl.col("kind").is_in(partners)).select("user_id", at="timestamp")
    pairs = bought.join(looks, on="user_id", how="left").with_columns(
        near=(pl.col("at") - pl.col("timestamp")).is_between(3600, 10 * DAY_S)
    )
    followed = pairs.group_by("user_id", "timestamp").agg(pl.col("near").any())
    assert followed.height > 20
    assert followed["near"].mean() > 0.3


def test_hobbies_lean_on_who_people_are(shop):
    types = shop.items.select("item_id", kind=pl.col("categories").list.get(1))
    events = shop.events.join(types, on="item_id")

    def share(kind: str, people: pl.Expr) -> float:
        group = shop.users.filter(people)["user_id"]
        touched = events.filter(pl.col("kind") == kind)["user_id"].unique()
        return group.is_in(touched.implode()).mean()

    woman, man = pl.col("gender") == "f", pl.col("gender") == "m"
    old, young = pl.col("age_band").is_in(["55-64", "65+"]), pl.col("age_band").is_in(["18-24"])
    assert share("Lipsticks", woman) > 1.2 * share("Lipsticks", man)
    assert share("Knitting needles", old) > 1.2 * share("Knitting needles", young)
    assert share("Game controllers", young) > 1.2 * share("Game controllers", old)


def test_personal_and_sequential_models_beat_popularity(shop):
    scores = _ndcg_on_last_tenth(shop)
    assert scores["popularity"] < 0.04
    assert scores["neighbours"] > 3 * scores["popularity"]
    assert scores["transitions"] > 4 * scores["popularity"]
    assert scores["text"] > 2 * scores["popularity"]
    assert 0.08 < scores["transitions"] < 0.25


def _ndcg_on_last_tenth(shop: SampleShop) -> dict[str, float]:
    """NDCG@10 of the next product (not the same again), last 10 % of time, 1,000 targets."""
    data = build_dataset(shop.events.filter(pl.col("event") != "dislike"), shop.items)
    user, item, time = data.user_idx, data.item_idx, data.time
    moved = np.append(True, (user[1:] != user[:-1]) | (item[1:] != item[:-1]))
    user, item, time = user[moved], item[moved], time[moved]
    old = time <= np.quantile(time, 0.9)
    n = data.n_items
    counts = np.bincount(item[old], minlength=n).astype(float)
    seen = np.zeros((data.n_users, n), np.float32)
    seen[user[old], item[old]] = 1
    together = (seen.T @ seen) / np.sqrt(np.outer(counts + 10, counts + 10))
    np.fill_diagonal(together, 0)
    follow = np.zeros((n, n))
    before, after, who = item[old][:-1], item[old][1:], user[old]
    same = who[1:] == who[:-1]
    np.add.at(follow, (before[same], after[same]), 1)
    follow /= follow.sum(axis=1, keepdims=True) + 5
    words = _word_vectors(data.items)
    targets = np.flatnonzero(~old[1:] & (user[1:] == user[:-1])) + 1
    targets = np.random.default_rng(0).choice(targets, 1000, replace=False)
    models = {
        "popularity": lambda last: counts,
        "neighbours": lambda last: together[last].sum(axis=0),
        "transitions": lambda last: follow[last[-1]] + 0.5 * follow[last[:-1]].sum(axis=0),
        "text": lambda last: (words @ words[last].T).sum(axis=1),
    }
    gains = {name: [] for name in models}
    for at in targets:
        start = np.searchsorted(user, user[at])
        last = item[max(start, at - 5) : at]
        for name, model in models.items():
            score = model(last)
            better = (score > score[item[at]]).sum()
            rank = better + ((score == score[item[at]]).sum() - 1) / 2
            gains[name].append(1 / np.log2(rank + 2) if rank < 10 else 0.0)
    return {name: float(np.mean(gain)) for name, gain in gains.items()}


def _word_vectors(items: pl.DataFrame) -> np.ndarray:
    """(n_items, n_words) unit rows: words of title and description, rare ones heavier."""
    texts = (items["title"] + " " + items["description"]).str.to_lowercase()
    words = texts.str.extract_all(r"[a-z]{3,}").to_list()
    index = {word: i for i, word in enumerate(sorted({w for text in words for w in text}))}
    table = np.zeros((len(words), len(index)), np.float32)
    for row, text in enumerate(words):
        table[row, [index[word] for word in text]] = 1
    table *= np.log(len(words) / table.sum(axis=0))
    return table / np.linalg.norm(table, axis=1, keepdims=True)


def test_dirt_is_one_to_four_percent_and_the_rest_is_the_clean_shop(shop, dirty_shop):
    extra = dirty_shop.events.height - shop.events.height
    n = shop.events.height
    duplicates = round(n * dirt.EXACT_DUPLICATES) + round(n * dirt.NEAR_DUPLICATES)
    assert extra == duplicates + dirt.BOT_VIEWS
    assert 0.01 < extra / n < 0.04
    assert dirty_shop.users.equals(shop.users)
    assert dirty_shop.items["title"].equals(shop.items["title"])


def test_cleaning_finds_each_kind_of_dirt_and_gives_the_clean_shop_back(shop, dirty_shop):
    tables = Tables(dirty_shop.events, dirty_shop.items, dirty_shop.users)
    cleaned = clean(tables, CleanConfig(), now=YEAR_END)
    found = {(r.table, r.rule): r.rejected + r.repaired for r in cleaned.report.rules}
    n = shop.events.height
    assert found["events", "bot_rate"] == dirt.BOT_VIEWS
    assert found["events", "time_units"] == round(n * dirt.MILLISECOND_TIMES)
    assert found["events", "impossible_times"] == pytest.approx(n * dirt.FUTURE_TIMES, abs=3)
    missing = n * (dirt.MISSING_USERS + dirt.MISSING_ITEMS)
    assert found["events", "missing_ids"] == pytest.approx(missing, abs=3)
    assert found["events", "exact_duplicates"] == pytest.approx(n * dirt.EXACT_DUPLICATES, rel=0.1)
    assert found["events", "near_duplicates"] == pytest.approx(n * dirt.NEAR_DUPLICATES, rel=0.1)
    assert found["items", "prices"] == len(dirt.ABSURD_PRICES)
    departments = cleaned.tables.items["categories"].list.get(0)
    assert departments.equals(shop.items["categories"].list.get(0))
    rows = shop.events.with_columns(value=pl.col("value").cast(pl.Float64))
    lost = rows.join(
        cleaned.tables.events, on=["user_id", "item_id", "event", "timestamp"], how="anti"
    )
    assert lost.height < 0.003 * n


def test_the_chinese_shop_is_chinese_and_of_the_promised_size():
    shop = sample_shop_zh(dirty=False)
    assert shop.items.height == 200
    assert shop.users.height == 300
    assert 5_900 <= shop.events.height <= 6_000
    assert shop.items["title"].n_unique() == 200
    for name in ("title", "description"):
        assert shop.items[name].str.contains(r"\p{Han}").all()
        assert not shop.items[name].str.contains(r"[A-Za-z{}]").any()


def test_csv_files_are_read_back_as_the_same_tables(tmp_path):
    shop = _small(5)
    write_csv(shop, tmp_path / "new" / "folder")
    back = read_tables(tmp_path / "new" / "folder").tables
    assert back.events.select(shop.events.columns).equals(shop.events)
    assert back.items["item_id"].equals(shop.items["item_id"])
    assert back.items["price"].equals(shop.items["price"])
    stripped = pl.col("categories").list.eval(pl.element().str.strip_chars())
    assert back.items.select("categories").equals(shop.items.select(stripped))
    assert back.users.select("user_id", "city").equals(shop.users.select("user_id", "city"))


def test_a_shop_too_small_for_its_types_is_refused():
    with pytest.raises(ValueError, match="at least 190 items"):
        sample_shop(n_items=100)
    with pytest.raises(ValueError, match="one user"):
        sample_shop(n_users=0)
