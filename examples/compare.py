"""Is a fit with one more head better? The same requests, paired, with intervals."""

from steerec import FitConfig
from steerec.data.sample import sample_shop
from steerec.data.tables import Tables
from steerec.engine.evaluate import evaluate
from steerec.evaluation.protocols import prepare

shop = sample_shop(n_items=200, n_users=300, n_events=8_000, dirty=False)
task = prepare(Tables(shop.events, shop.items, shop.users), "successive")
result = evaluate(task, FitConfig(heads=("trending", "transitions", "ease")), seed=0)

print(f"{result['requests']} requests of {result['users']} users, {result['protocol']}")
for name, row in sorted(result["results"].items(), key=lambda kv: -kv[1]["ndcg@10"]):
    low, high = row["ci"]["ndcg@10"]
    print(f"{name:18} NDCG@10 {row['ndcg@10']:.4f}  [{low:.4f}, {high:.4f}]")

print("\nminus the blend, on the same requests:")
for name, row in result["paired"].items():
    print(f"{name:18} {row['difference']:+.4f}  [{row['low']:+.4f}, {row['high']:+.4f}]")
