"""Lists as gorse has them: recommended, for a session, neighbours, popular, latest."""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from steerec.contracts import Event, Query
from steerec.data.dataset import DEFAULT_WEIGHTS
from steerec.engine import browsing
from steerec.errors import DataError, UnknownItemError
from steerec.service import lists
from steerec.service.calls import Call
from steerec.service.gorse.rows import sent
from steerec.service.gorse.shapes import GorseQuery, SessionFeedback, among, seconds_of
from steerec.store.log import LoggedEvent, Outcome

SCENARIO = "gorse"  # [scenarios.gorse] sets how lists of this dialect are made

NOTHING = "false"  # no item at all
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3_600.0}


async def get_recommend(call: Call) -> Response:
    """The best items for a user; with the header `X-API-Version: 2`, with scores."""
    query: GorseQuery = call.query
    wait_s = seconds_of_duration(query.write_back_delay)
    await call.tenant.catch_up_with(call.path["user_id"], call.now)
    shown = _recommended(call, Query(user_id=call.path["user_id"]))
    if query.write_back_type and shown:
        await _write_back(call, [str(one["Id"]) for one in shown], wait_s)
    if call.request.headers.get("x-api-version", "").strip() == "2":
        return sent(shown)
    return sent([one["Id"] for one in shown])


async def post_session(call: Call) -> Response:
    """The best items for a visit, told as feedback."""
    body: list[SessionFeedback] = call.body
    weights = {**DEFAULT_WEIGHTS, **call.tenant.live.model.data.kind_weights}
    visit = sorted(body, key=lambda one: seconds_of(one.timestamp) or call.now)
    liked = tuple(one.item_id for one in visit if weights.get(one.feedback_type, 1.0) > 0)
    seen = frozenset(one.item_id for one in visit)
    return sent(_recommended(call, Query(session=liked, exclude=seen)))


async def get_item_neighbours(call: Call) -> Response:
    """Items like this one; none for an item that nobody knows."""

    def similar(n: int, condition: str | None) -> browsing.Listed:
        live, item_id = call.tenant.live, call.path["item_id"]
        try:
            return browsing.similar_items(live, item_id, n, condition=condition, now=call.now)
        except UnknownItemError:
            return []

    return _list(call, similar)


async def get_user_neighbours(call: Call) -> Response:
    """Users who share items with this one."""
    query: GorseQuery = call.query
    most = max(1, query.offset + query.n)
    found = call.tenant.live.recommender.similar_users(call.path["user_id"], most)
    return sent(_cut(found, query))


async def get_popular(call: Call) -> Response:
    """What most people turn to of late."""
    return _list(
        call,
        lambda n, condition: browsing.popular(
            call.tenant.live, n, condition=condition, now=call.now
        ),
    )


async def get_latest(call: Call) -> Response:
    """The newest items."""
    return _list(
        call,
        lambda n, condition: browsing.latest(
            call.tenant.live, n, condition=condition, now=call.now
        ),
    )


# Inside


def _recommended(call: Call, wanted: Query) -> list[dict[str, Any]]:
    """The page that is asked for, logged as shown."""
    query: GorseQuery = call.query
    condition = _condition(call)
    if query.n == 0 or condition == NOTHING:
        return []
    live = call.tenant.live
    wanted = replace(
        wanted,
        n=query.offset + query.n,
        scenario=SCENARIO,
        condition=condition,
        repeats=live.config.scenario(SCENARIO).repeats or False,
    )
    served = live.recommend(wanted, request_id=call.request_id, now=call.now)
    choices, all_of_it = served.slate.items[query.offset :], served.impression
    if choices:
        page = replace(
            all_of_it,
            start=query.offset,
            items=all_of_it.items[query.offset :],
            propensity=all_of_it.propensity[query.offset :],
        )
        lists.log_impression(call, page)
    return [{"Id": choice.item_id, "Score": choice.score} for choice in choices]


def _list(call: Call, found: Callable[[int, str | None], browsing.Listed]) -> Response:
    """A list without what the parameter `user-id` names as read."""
    query: GorseQuery = call.query
    condition, live = _condition(call), call.tenant.live
    if condition == NOTHING:
        return sent([])
    read: set[str] = set()
    if query.user_id:
        ids = live.model.data.item_ids
        read = {str(ids[i]) for i in live.recommender.history(query.user_id).item_idx}
    most = max(1, query.offset + query.n + len(read))
    return sent(_cut([one for one in found(most, condition) if one[0] not in read], query))


def _cut(found: browsing.Listed, query: GorseQuery) -> list[dict[str, Any]]:
    page = found[query.offset : query.offset + query.n]
    return [{"Id": i, "Score": score} for i, score in page]


def _condition(call: Call) -> str | None:
    """That an item is in the category asked for; NOTHING where no item has one."""
    query: GorseQuery = call.query
    category = call.path.get("category") or query.category
    if not category:
        return None
    if "categories" not in call.tenant.live.model.data.items.columns:
        return NOTHING
    return among(category)


async def _write_back(call: Call, item_ids: Sequence[str], wait_s: float) -> None:
    """Store what was shown as feedback, on disk at once, which counts after a while."""
    query: GorseQuery = call.query
    user_id, time = call.path["user_id"], call.now + wait_s
    batch = [
        LoggedEvent(
            f"{call.request_id}-{item_id}"[:256],
            Event(user_id, item_id, query.write_back_type, None, time),
        )
        for item_id in item_ids
    ]
    tenant = call.tenant
    told = await tenant.store.log.append_async(tenant.name, batch, now=call.now)
    fresh = [
        replace(one, seq=was.seq, received=time)
        for one, was in zip(batch, told, strict=True)
        if was.outcome is Outcome.NEW
    ]
    if wait_s <= 0:
        tenant.live.take(fresh, now=call.now)
    else:
        later = lambda: tenant.live.take(fresh, now=time)  # noqa: E731
        asyncio.get_running_loop().call_later(wait_s, later)


def seconds_of_duration(text: str) -> float:
    """A duration as Go writes it, such as `10m` or `1h30m`."""
    parts = re.findall(r"([0-9.]+)(ms|s|m|h)", text)
    if "".join(a + b for a, b in parts) != text:
        raise DataError(f"write-back-delay={text!r}: expected one such as 10m or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
