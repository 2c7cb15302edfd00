"""What the fields of the wire mean, in a few words each, as OpenAPI tells them."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

MEANINGS: Mapping[str, str] = MappingProxyType(
    {  # a field of all classes, or, after the class and a dot, of one
        "about": "what the person says of themselves or wants now; never written down",
        "accepted": "how many are new",
        "after": "the last id of the page before",
        "DiffQuery.after": "number of the other version; null: the one in force",
        "alpha": "how often a difference may be told that is none",
        "answers": "answers under idempotency keys that were deleted",
        "applied": "what had a part in the list, and what could not be used",
        "arm": "`live`, `control`, or an arm of an experiment",
        "arms": "what is compared",
        "attributes": "name → value; texts of items, such as `title`, are read by the encoder",
        "EntryPatch.attributes": "name → new value; null takes it away",
        "RecommendIn.attributes": "what is known of a person who is not in the users' table",
        "author": "who made or started it",
        "basket": "the same for all that was taken together",
        "because": "ids of the person's own items that spoke for it, strongest first",
        "before": "number of one version; null: the first that the other was made of",
        "candidates": "the only items that may be shown",
        "RankIn.candidates": "what to put in order",
        "changed": "when it was last written, Unix seconds",
        "context": "where and when it will be seen",
        "EventIn.context": "anything else, kept in the log",
        "ExplainOut.context": "feature of the request → its value",
        "count": "how many were changed",
        "data_hash": "the data it was learnt from",
        "degraded": "what is away, and what that means",
        "device": "such as `phone`; it counts where the model was fitted with devices",
        "dials": "`temperature` or `diversity`, where they differ",
        "DiffOut.dials": "dial → its values, before and after",
        "diff": "what it changed of its first parent",
        "diversity": "how much an item loses by being like those above",
        "ends": "when it stops by itself, Unix seconds; null: when it is told to",
        "entries": "each as one alone",
        "epoch": "how often the online tuner had moved that strategy",
        "estimates": "what was expected of it when it was made",
        "event": "any word for what was done; its weight is set in `[data.weights]`",
        "event_id": "your own name for this event: sent again under it, it counts once",
        "events": "each as one alone",
        "ErasedOut.events": "events that were deleted",
        "EventsOut.events": "what became of each, in the order they were sent",
        "exclude": "ids of items never to show",
        "RecommendQuery.exclude": "ids of items never to show, with commas between",
        "experiments": "as they were planned",
        "expires": "kept off all lists from this time on, Unix seconds; null: never",
        "filter": 'a condition on attributes, such as `price < 20 and "vegan" in tags`',
        "heads": "head → `exact`: what it learnt of them is undone; `next fit`: it will be then",
        "hidden": "whether it is kept off all lists",
        "id": "of the item or user",
        "impressions": "lists that were deleted",
        "in_force": "whether lists are made by it",
        "item_id": "of the item",
        "EventIn.item_id": "unknown items are made, unless `create_items = false`",
        "items": "best first",
        "ExplainOut.items": "of the list, with all their parts",
        "kind": "`split`: each user sees one arm; `interleave`: each list is made of both",
        "labels": "short words of it, the attribute `tags` of filters",
        "least_users": "users in each arm before a result counts",
        "left_out": "slates that could tell nothing",
        "limit": "entries on a page",
        "made": "when it was made, Unix seconds",
        "metric": "`reward`, or a kind of event: its number in a slate, averaged over users",
        "n": "length of the list; null: as the scenario says",
        "ListQuery.n": "how many",
        "RankIn.n": "how many of them to give back; null: all, 1,000 at most",
        "name": "of the experiment",
        "ArmIn.name": "of the arm",
        "next": "for the following items, good for 30 minutes; null: there are none",
        "EntriesOut.next": "the following page's `after`; null: this is the last",
        "RecommendQuery.next": "`next` of the answer before, for the following items of that list",
        "online": "how far the online tuner has moved it",
        "outcome": "new, replay (it was there), conflict (the id is another event's), or erased",
        "parents": "versions it was made of",
        "place": "kept with the list, and a slice of experiments",
        "plan": "as it was started",
        "pool_size": "how many items could be drawn",
        "position": "place in the list, from 1",
        "promoted": "the new version in force; null: none",
        "promotions": "which version, when, by whom and why",
        "propensity": "probability of this item at this place, given those above",
        "published": "kept off all lists before this time, Unix seconds; null: always there",
        "q": "words to search for: the best come first, on one page",
        "ramp": "the experiment that decides; null: none",
        "reason": "a sentence for the person",
        "PromoteIn.reason": "why, for the history",
        "RollbackIn.reason": "why, for the history",
        "records": "each with its `kind`",
        "repeats": "whether what they know may come again; null: as the scenario or model says",
        "replayed_the_same": "whether the logged pool, scores and seed give this list again",
        "request_id": "the list's name in the log",
        "EventIn.request_id": "of the list that this answers; clicks on lists move the strategy",
        "results": "what the arms have shown so far",
        "scenario": "a named placement with settings of its own",
        "ExperimentIn.scenario": "the only placement it runs in; null: all",
        "score": "in nats over an average item",
        "Scored.score": "the higher the better; of what, the call tells",
        "seed": "of the draw",
        "seq": "place in the log",
        "session": "items of this visit, oldest first",
        "session_id": "the `user_id` of their events until now",
        "shadow": "whether it is only reckoned, and shown to nobody",
        "share": "of the experiment's users",
        "slates": "slates that were learnt from",
        "sources": "head → its share of the score",
        "started": "when it began, Unix seconds",
        "status": "`ok` or `degraded`",
        "stock": "kept off all lists at 0; null: not counted",
        "stopped": "when it ended, Unix seconds; null: it runs",
        "strategy": "the whole of it: weights, dials, rules",
        "strategy_version": "the strategy that made it",
        "temperature": "how much chance is in the draw; 0: none",
        "time": "when it was made, Unix seconds",
        "Context.time": "when it will be seen, Unix seconds; null: now",
        "timestamp": "when it happened, Unix seconds; null, or in the future: now",
        "traffic": "the share of all users who take part",
        "tried": "strategies, and what was expected of each",
        "user_id": "known or unknown; null: an anonymous visitor",
        "EventIn.user_id": "who did it; they need not have been written before",
        "ExplainOut.user_id": "whose list it was",
        "users": "rows of the users' table that were deleted",
        "value": "a rating, a price, or what the kind of event says",
        "version": "its number in the history",
        "ArmIn.version": "the strategy it shows; null: what is in force",
        "RollbackIn.version": "its number in the history; null: the one in force before",
        "HealthOut.version": "of steerec",
        "versions": "the newest first",
        "weights": "head → its weight in this list",
        "DiffOut.weights": "HEAD.FEATURE → its values, before and after; null: it has none",
        "ArmIn.weights": "HEAD.FEATURE → weight, where it differs from the version",
        "why": "what was decided, and on what evidence",
    }
)
_IN_PATH = {  # what an address names → its meaning, and one of docs/http.md
    "user_id": ("known or unknown", "ann"),
    "item_id": ("of an item in the catalogue", "tea"),
    "request_id": ("of a list, from its answer", None),
    "name": ("of an experiment", "spring"),
}


def meaning_of(name: str, field: str) -> str:
    """Of a field of a class; empty: none is known."""
    return MEANINGS.get(f"{name}.{field}") or MEANINGS.get(field, "")


def in_path(path: str) -> list[dict[str, Any]]:
    """The parameters that stand in an address."""
    return [_named(name) for name in re.findall(r"{(\w+)(?::\w+)?}", path)]


def _named(name: str) -> dict[str, Any]:
    told: dict[str, Any] = {"name": name, "in": "path", "required": True}
    told["schema"] = {"type": "string", "minLength": 1, "maxLength": 256}
    meaning, example = _IN_PATH.get(name, ("", None))
    if meaning:
        told["description"] = meaning
    return told if example is None else {**told, "example": example}
