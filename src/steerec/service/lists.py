"""Routes that answer with lists: recommend, rank, similar, popular, latest, explain."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from steerec.contracts import Choice, Query, Slate
from steerec.engine import browsing, past
from steerec.engine.about import read_ahead
from steerec.engine.condition_masks import unknown_attributes
from steerec.engine.serving import Served
from steerec.errors import SteerecError
from steerec.service.calls import Call
from steerec.service.problems import refused
from steerec.service.schemas import (
    ChoiceOut,
    Context,
    ExplainOut,
    ListQuery,
    RankIn,
    RecommendIn,
    RecommendQuery,
    Scored,
    ScoredOut,
    SlateOut,
)
from steerec.store.impressions import Answer as Kept
from steerec.store.impressions import Impression
from steerec.store.values import check_optional_id

log = logging.getLogger(__name__)

PAGES_S = 1_800.0  # a list can be paged for so long; its pool is frozen
OTHERS_S = 0.3  # until what another process has served is on the disk
SHARES = 6  # heads named with an item, those with the largest parts


async def get_recommend(call: Call) -> SlateOut | Response:
    """The best items for a user, with the reason of each.

    Unknown users get what is popular. `next` of an answer, given back as the parameter `next`,
    brings the following items of the same list; it is good for 30 minutes.
    """
    given: RecommendQuery = call.query
    user_id = call.path["user_id"]
    if given.next is not None:
        return await _page(call, given.next, given.n)
    wanted = RecommendIn(
        user_id=user_id,
        n=given.n,
        scenario=given.scenario,
        context=None if given.device is None else Context(device=given.device),
        exclude=[i for i in (given.exclude or "").split(",") if i],
        filter=given.filter,
        repeats=given.repeats,
    )
    return await _recommend(call, wanted)


async def post_recommend(call: Call) -> SlateOut | Response:
    """The best items for a user, a session of this visit, or both.

    With the header `Idempotency-Key`, a call that is sent again gets the same answer and counts
    as one impression.
    """
    return await _recommend(call, call.body)


async def post_rank(call: Call) -> SlateOut | Response:
    """The caller's own candidates in order, best first; unknown ids are named in `applied`."""
    given: RankIn = call.body
    wanted = RecommendIn(
        user_id=given.user_id,
        session=given.session,
        n=given.n or min(len(given.candidates), 1_000),
        scenario=given.scenario,
        context=given.context,
        candidates=given.candidates,
        repeats=True,
    )
    return await _recommend(call, wanted)


async def get_similar_items(call: Call) -> ScoredOut:
    """Items like this one, by all heads that compare items."""
    query: ListQuery = call.query
    found = browsing.similar_items(
        call.tenant.live, call.path["item_id"], query.n, condition=query.filter, now=call.now
    )
    return ScoredOut(items=[Scored(id=i, score=score) for i, score in found])


async def get_similar_users(call: Call) -> ScoredOut:
    """Users who share items with this one, rare items counting more."""
    query: ListQuery = call.query
    found = call.tenant.live.recommender.similar_users(call.path["user_id"], query.n)
    return ScoredOut(items=[Scored(id=i, score=score) for i, score in found])


async def get_popular(call: Call) -> ScoredOut:
    """What most people turn to of late: scores are logarithms of shares of all events."""
    query: ListQuery = call.query
    found = browsing.popular(call.tenant.live, query.n, condition=query.filter, now=call.now)
    return ScoredOut(items=[Scored(id=i, score=score) for i, score in found])


async def get_latest(call: Call) -> ScoredOut:
    """The newest items: scores are Unix seconds of publishing, or of first being seen."""
    query: ListQuery = call.query
    found = browsing.latest(call.tenant.live, query.n, condition=query.filter, now=call.now)
    return ScoredOut(items=[Scored(id=i, score=score) for i, score in found])


async def get_explain(call: Call) -> ExplainOut:
    """What a past list was made from: weights, context, every item's parts, and the draw."""
    request_id = call.path["request_id"]
    told = past.explain(call.tenant.live, request_id) if await _pages(call, request_id) else None
    if told is None:
        raise refused(
            HTTPStatus.NOT_FOUND,
            f"no list has the request id {request_id!r}: it was not served here, its user was "
            "erased, or retention has dropped it",
        )
    return msgspec.convert(told, ExplainOut)


async def _recommend(call: Call, wanted: RecommendIn) -> SlateOut | Response:
    key = call.request.headers.get("idempotency-key")
    if key is not None:
        kept = await asyncio.to_thread(_kept, call, key, wanted)
        if kept is not None:
            return kept
    if wanted.about:  # which takes a while: nobody else waits for it
        await asyncio.to_thread(read_ahead, wanted.about, call.tenant.live.encoder)
    if wanted.user_id:
        await call.tenant.catch_up_with(wanted.user_id, call.now)
    began = time.perf_counter()
    served = call.tenant.live.recommend(
        query_of(call, wanted), request_id=call.request_id, now=call.now
    )
    call.tenant.telemetry.stage("rank", time.perf_counter() - began)
    out = _out(served.slate, _applied(served, wanted, call), _next(served))
    if key is None:
        log_impression(call, served.impression)
        return out
    body = msgspec.json.encode(out)
    answer = Kept(key, call.request_id, _asked(wanted), body)
    earlier = await call.tenant.store.shown.append_async(
        call.tenant.name, served.impression, answer=answer
    )
    if earlier is None:
        return _sent(body)
    _check_same(earlier, wanted)  # two came at once
    return _sent(earlier.answer)


def query_of(call: Call, wanted: RecommendIn) -> Query:
    """What the engine is asked for.

    Raises:
        DataError: if a list for this user or scenario could not be logged.
    """
    placement = check_optional_id(wanted.scenario or None, "scenario")
    scenario = call.tenant.live.config.scenario(placement)
    context = wanted.context or Context()
    return Query(
        user_id=check_optional_id(wanted.user_id, "user_id"),
        session=tuple(wanted.session),
        n=wanted.n or scenario.n,
        exclude=frozenset(wanted.exclude),
        now=call.now if context.time is None else context.time,
        repeats=wanted.repeats,
        scenario=placement,
        device=context.device,
        place=context.place,
        about=wanted.about,
        attributes=wanted.attributes,
        condition=wanted.filter,
        candidates=None if wanted.candidates is None else frozenset(wanted.candidates),
    )


async def _page(call: Call, token: str, n: int | None) -> SlateOut:
    request_id, _, told = token.partition(".")
    if not (told.isascii() and told.isdigit()) or not 0 < int(told[:9]) <= 10_000:
        raise refused(
            HTTPStatus.UNPROCESSABLE_ENTITY, f"next={token!r}: expected `next` of an answer"
        )
    start, live = int(told), call.tenant.live
    pages = await _pages(call, request_id)
    own = pages and pages[0].user_id == call.path["user_id"]
    if not own or call.now - pages[0].time > PAGES_S:
        raise refused(
            HTTPStatus.NOT_FOUND, "this list is over or is not this user's: ask for a new one"
        )
    n = n or pages[0].more["n"]
    page = past.page(live, request_id, start=start, n=n, now=call.now)
    assert page is not None, "its first page is there"
    log_impression(call, page)
    parts = browsing.parts_of(pages[0], page)
    slate = Slate(request_id, page.version, parts, epoch=page.epoch, arm=page.arm or "live")
    more = start + n < len(pages[0].pool)
    return _out(slate, {}, f"{request_id}.{start + n}" if more else None)


async def _pages(call: Call, request_id: str) -> Sequence[Impression]:
    """The pages of a list; one that was served just now may still be on its way to the disk.

    Also another process may have served it.
    """
    store, name = call.tenant.store, call.tenant.name
    if found := await asyncio.to_thread(store.shown.get, name, request_id):
        return found
    await asyncio.wrap_future(store.writer.submit(lambda *_: [None], name, [None]))
    found = await asyncio.to_thread(store.shown.get, name, request_id)
    until = time.monotonic() + (OTHERS_S if call.tenant.shared else 0.0)
    while not found and time.monotonic() < until:
        await asyncio.sleep(0.05)
        found = await asyncio.to_thread(store.shown.get, name, request_id)
    return found


def log_impression(call: Call, impression: Impression) -> None:
    """Store an impression without keeping its reader waiting; a loss is counted, never silent."""
    telemetry, name = call.tenant.telemetry, call.tenant.name

    def lost(error: BaseException) -> None:
        telemetry.lost_impressions.labels(name).inc()
        log.error("impression_lost=1 request=%s error=%s", impression.request_id, error)

    def done(future: Future[Any]) -> None:
        if (error := future.exception()) is not None:
            lost(error)

    try:
        call.tenant.store.shown.submit(name, impression, may_wait=True).add_done_callback(done)
    except SteerecError as error:
        lost(error)


def _kept(call: Call, key: str, wanted: RecommendIn) -> Response | None:
    if not 0 < len(key) <= 256:
        raise refused(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"Idempotency-Key has {len(key)} characters, expected 1 to 256",
        )
    earlier = call.tenant.store.shown.answered(call.tenant.name, key)
    if earlier is None:
        return None
    _check_same(earlier, wanted)
    return _sent(earlier.answer)


def _check_same(earlier: Kept, wanted: RecommendIn) -> None:
    if earlier.asked != _asked(wanted):
        raise refused(
            HTTPStatus.CONFLICT,
            f"Idempotency-Key {earlier.key!r} was used for another request: take a new one",
        )


def _asked(wanted: RecommendIn) -> bytes:
    return hashlib.sha256(msgspec.json.encode(wanted, order="sorted")).digest()


def _sent(body: bytes) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(body, headers=headers, media_type="application/json")


def _next(served: Served) -> str | None:
    shown = len(served.slate.items)
    if shown == 0 or shown >= len(served.impression.pool):
        return None
    return f"{served.slate.request_id}.{shown}"


def _applied(served: Served, wanted: RecommendIn, call: Call) -> dict[str, Any]:
    """What had a part in the list, and what could not be used."""
    applied: dict[str, Any] = {"pool": len(served.impression.pool)}
    config = call.tenant.live.config
    scenario = config.scenario(wanted.scenario)
    if wanted.scenario and not config.knows(wanted.scenario):
        applied["unknown_scenario"] = wanted.scenario
    conditions = [c for c in (scenario.condition, wanted.filter) if c]
    if conditions:
        applied["filter"] = conditions[0] if len(conditions) == 1 else _joined(conditions)
    items = call.tenant.live.model.data.items
    if scenario.condition and (missing := unknown_attributes(scenario.condition, items)):
        applied["unknown_attributes"] = list(missing)
    if served.slate.skipped:
        applied["unknown_session_items"] = list(served.slate.skipped)
    if wanted.candidates is not None:
        index = call.tenant.live.model.data.item_index
        unknown = [i for i in wanted.candidates if i not in index]
        if unknown:
            applied["unknown_candidates"] = unknown
    if served.slate.left_out:
        applied["heads_left_out"] = list(served.slate.left_out)
    return applied


def _joined(conditions: Sequence[str]) -> str:
    return " and ".join(f"({condition})" for condition in conditions)


def _out(slate: Slate, applied: dict[str, Any], following: str | None) -> SlateOut:
    return SlateOut(
        request_id=slate.request_id,
        strategy_version=slate.strategy_version,
        epoch=slate.epoch,
        arm=slate.arm,
        items=[_choice(choice) for choice in slate.items],
        applied=applied,
        next=following,
    )


def _choice(choice: Choice) -> ChoiceOut:
    parts = sorted(choice.sources.items(), key=_size, reverse=True)[:SHARES]
    return ChoiceOut(
        item_id=choice.item_id,
        score=round(choice.score, 6),
        sources={name: round(part, 4) for name, part in parts if part},
        reason=choice.reason,
        because=list(choice.because),
        propensity=choice.propensity,
        position=choice.position,
    )


def _size(told: tuple[str, float]) -> float:
    return abs(told[1])
