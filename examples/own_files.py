"""From CSV files to lists with reasons."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from steerec import FitConfig, Query, Recommender, build_dataset, fit, read_tables
from steerec.data.clean import clean
from steerec.data.rules import CleanConfig
from steerec.data.sample import YEAR_END, sample_shop, write_csv

with TemporaryDirectory() as name:
    folder = Path(name)
    write_csv(sample_shop(n_items=200, n_users=200, n_events=5_000), folder)  # put yours here

    read = read_tables(folder / "events.csv", items=folder / "items.csv")
    print("columns:", dict(read.mapping))

    cleaned = clean(read.tables, CleanConfig(), now=YEAR_END)
    for rule, table, _, repaired, rejected, note in cleaned.report.as_rows():
        if (repaired, rejected) != ("0", "0"):
            print(f"{table}: {rule} repaired {repaired}, rejected {rejected} {note}")
    cleaned.write_quarantine(folder / "quarantine.jsonl")

    data = build_dataset(cleaned.tables.events, cleaned.tables.items)
    heads = ("trending", "repeat", "transitions", "ease", "content")
    recommender = Recommender(fit(data, FitConfig(heads=heads), np.random.default_rng(0)))

    titles = dict(data.items.select("item_id", "title").iter_rows())
    for user_id in ("u00003", "u00011", "somebody new"):
        print(f"\nfor {user_id}:")
        for choice in recommender.recommend(Query(user_id=user_id, n=5, repeats=False)).items:
            print(f"  {choice.position}. {titles[choice.item_id]}: {choice.reason}")
