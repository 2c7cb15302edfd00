"""The words of the evaluation report: names, explanations, and the answer in one paragraph."""

from collections.abc import Mapping
from typing import Any

from steerec.contracts import OWN
from steerec.errors import DataError

BASELINES = ("popularity", "recent_popularity")

METRICS: Mapping[str, str] = {
    "ndcg": "how high in the list the right item stands: 1 always first, 0 never in the list",
    "hr": "share of requests with a right item in the list",
    "recall": "share of the right items that the list holds, of those that could fit",
    "precision": "share of the list's places that hold a right item",
    "mrr": "1 / place of the first right item, averaged",
    "map": "precision at each right item, averaged: rewards finding all of them early",
    "coverage": "share of the catalogue that is shown to anyone",
    "exposure_gini": "inequality of how often items are shown: 0 all alike, 1 one item takes all",
    "novelty": "how surprising the shown items are, in bits: +1 means half as popular",
    "diversity": "how different the items of one list are from each other, 0 to 1",
    "popularity_share": "share of the list taken by the most popular 10 % of items",
    "calibration": "distance of the list's mix of genres from the user's own: 0 is the same mix",
}

NAMES: Mapping[str, str] = {
    "recent_popularity": "recent popularity",
    "blend_pooled": "blend, from the serving pool alone",
    "blend_warm_only": "blend, new items never shown",
}

SLICES: Mapping[str, str] = {
    "new_users": "new users (up to 5 events)",
    "short_history": "short histories (6 to 20 events)",
    "long_history": "long histories (over 20 events)",
    "cold_items": "items never seen in training",
    "cold_among_all": "items never seen in training, among all items",
    "cold_among_cold": "items never seen in training, among each other",
    "warm": "items seen in training, among all items",
    "rare_items": "items with 1 to 4 training events",
    "popular_items": "the most popular 10 % of items",
    "tail_items": "all other items",
    "gap_over_60s": "over a minute after the last event",
}

PROTOCOLS: Mapping[str, str] = {
    "loo": "Each user's last event was hidden, and each model ranked the whole catalogue to "
    "find it again. The event before it served to tune, all others to learn.",
    "successive": "The data was cut at one moment, after the first nine tenths of the time line. "
    "Models learnt from what came before, then had to name each next event after it.",
    "basket": "The data was cut at one moment, after the first nine tenths of the baskets. Models "
    "learnt from what came before, then had to name the items of each next basket.",
    "stream": "Events came in the order of time. Each was predicted first and learnt afterwards.",
    "cold": "One item in ten was taken out of everything that is learnt from, as if it were new. "
    "Then each user's last event was hidden, and each model ranked the whole catalogue, new items "
    "with it, to find it again.",
}

TRACKS: Mapping[str, str] = {
    "time-blind": "No model could read the time of the event it had to find.",
    "time-aware": "The moment of the request was known to the models, as it is in use.",
    "frozen": "Models learnt nothing after the cut; only the user's own history grew.",
    "live": "Models went on learning after the cut, each event after it was predicted.",
    "refit": "Models learnt each event after it was predicted, and were fitted anew on all events "
    "so far whenever these had grown by a quarter.",
    "all": "Items bought before counted as well.",
    "new": "Only items the user had not bought before were looked for and ranked.",
}


_FEATURES: Mapping[str, str] = {
    "bias": "always",
    "length~0": "no history",
    "length~1": "history of 1 event",
    "gap~10s": "last event 10 seconds ago",
    "gap~3600s": "last event an hour ago",
    "gap~86400s": "last event a day ago",
    "gap~2592000s": "last event a month ago",
    "day_sin": "hour of the day (sine)",
    "day_cos": "hour of the day (cosine)",
    "unseen_item": "item without events",
}


def feature_words(name: str) -> str:
    """A feature of the request in words: `length~20` is a history of about 20 events."""
    if name in _FEATURES:
        return _FEATURES[name]
    if name.startswith(OWN):
        return f"items had before: {feature_words(name.removeprefix(OWN))}"
    kind, _, number = name.partition("~")
    if kind == "length":
        return f"history of about {number} events"
    if kind == "since_fit":
        return f"history that came after the fit, of about {number} events"
    if name.startswith("taste"):
        return f"taste, direction {int(name.removeprefix('taste')) + 1}"
    return name.replace("=", " ").replace("_", " ")


def answer(result: Mapping[str, Any]) -> str:
    """One paragraph in words: what the best choice finds, and how that compares."""
    models = result["results"]
    hit = hit_metric(models)
    name = "blend" if "blend" in models else ranking(models, hit)[0]
    value = models[name][hit]
    who = "blend" if name == "blend" else f"model {name_of(name)}"
    text = f"The {who} {_found(result, hit)} {percent(value)} of cases"
    low, high = models[name].get("ci", {}).get(hit, (None, None))
    if low is not None:
        text += f" (95 % certain: between {percent(low)} and {percent(high)})"
    text += _against_baseline(models, name, hit) + _against_best(models, name, hit)
    return text + _cold(result, hit)


def _found(result: Mapping[str, Any], hit: str) -> str:
    places = _places(hit)
    if result.get("protocol") == "basket":
        return f"has at least one item of the next basket in the first {places} places in"
    return f"finds the next item in the first {places} places in"


def _against_baseline(models: Mapping[str, Any], name: str, hit: str) -> str:
    known = [b for b in BASELINES if b in models and b != name]
    if not known:
        return "."
    base = max(known, key=lambda b: models[b][hit])
    value, other = models[name][hit], models[base][hit]
    if other <= 0:
        return f"; {name_of(base)} never does."
    times = value / other
    how = (
        f"{times:.0f} times as often as"
        if times >= 3
        else f"{times:.1f} times as often as"
        if times >= 1.15
        else "hardly more often than"
        if times > 1
        else "as often as"
        if times == 1
        else "less often than"
    )
    return f", {how} {name_of(base)} ({percent(other)})."


def _against_best(models: Mapping[str, Any], name: str, hit: str) -> str:
    singles = single_models(models)
    if name != "blend" or not singles:
        return ""
    best = max(singles, key=lambda m: models[m][hit])
    gain = models[name][hit] - models[best][hit]
    word = "more" if gain >= 0 else "fewer"
    return (
        f" The best single model, {best}, reaches {percent(models[best][hit])}: putting the "
        f"models together finds {abs(gain) * 1000:.0f} {word} in a thousand."
    )


def _cold(result: Mapping[str, Any], hit: str) -> str:
    """What becomes of items never seen, where the protocol hid some."""
    loss, part = result.get("warm_loss"), result.get("slices", {}).get("cold_among_all", {})
    if loss is None or "blend" not in part:
        return ""
    return (
        f" Where the item was never seen before, the blend finds it in "
        f"{percent(part['blend'][hit])} of cases; in return, known items come out "
        f"{percent(max(loss['difference'], 0.0))} less well than if new ones were never shown."
    )


def single_models(models: Mapping[str, Any]) -> list[str]:
    """Names of the heads: neither the blend, in any form, nor a baseline."""
    return [m for m in models if not m.startswith("blend") and m not in BASELINES]


def ranking(models: Mapping[str, Any], metric: str) -> list[str]:
    """Names of the models, the best by `metric` first."""
    return sorted(models, key=lambda name: -models[name].get(metric, float("-inf")))


def first_of(models: Mapping[str, Any], *stems: str) -> str:
    """The first figure, such as ndcg@10, that begins with one of the stems.

    Raises:
        DataError: if no model has one.
    """
    for stem in stems:
        for row in models.values():
            for metric in row:
                if metric.split("@")[0] == stem:
                    return str(metric)
    raise DataError(
        f"no model has the figure {stems[0]}@k: expected the JSON of `steerec evaluate`"
    )


def hit_metric(models: Mapping[str, Any]) -> str:
    """The figure that says how often the list holds what was looked for."""
    return first_of(models, "hr", "recall")


def name_of(model: str) -> str:
    """A model's name as it is read aloud."""
    return NAMES.get(model, model)


def percent(value: float) -> str:
    """A share as per cent with one decimal."""
    return f"{100 * value:.1f} %"


def _places(metric: str) -> str:
    k = metric.partition("@")[2]
    return {"1": "one", "5": "five", "10": "ten", "20": "twenty"}.get(k, k)
