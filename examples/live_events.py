"""Events that change the next list, and how long that takes."""

from time import perf_counter

import numpy as np

from steerec import Event, FitConfig, Query, Recommender, build_dataset, fit
from steerec.data.sample import YEAR_END, sample_shop

shop = sample_shop(n_items=200, n_users=200, n_events=5_000, dirty=False)
data = build_dataset(shop.events, shop.items, shop.users)
heads = ("trending", "transitions", "item_knn", "content")
recommender = Recommender(fit(data, FitConfig(heads=heads), np.random.default_rng(0)))
titles = dict(data.items.select("item_id", "title").iter_rows())

query = Query(user_id="a visitor", n=5, now=YEAR_END + 60)
before = recommender.recommend(query)
clicked = str(data.item_ids[42])

began = perf_counter()
recommender.learn(Event("a visitor", clicked, "click", timestamp=YEAR_END + 30))
after = recommender.recommend(query)
took_ms = 1000 * (perf_counter() - began)

print("before:", ", ".join(titles[c.item_id] for c in before.items))
print("click: ", titles[clicked])
print("after: ", ", ".join(titles[c.item_id] for c in after.items))
print(f"learnt and answered in {took_ms:.1f} ms")
for choice in after.items:
    print(f"  {titles[choice.item_id]}: {choice.reason}")

chances = recommender.interest(query, [c.item_id for c in after.items])
print("chance to be next:", {titles[i]: f"{p:.1%}" for i, p in chances.items()})
