"""The table of the dialect's routes. Source: gorse's REST API, as PyGorse 0.5.1 speaks it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from steerec.service.calls import Handler, Route
from steerec.service.gorse import lists, rows
from steerec.service.gorse.shapes import (
    GorseFeedback,
    GorseItem,
    GorseQuery,
    GorseUser,
    ItemPatch,
    SessionFeedback,
    UserPatch,
)

BASE = "/gorse/api"


def _route(
    method: str, path: str, handle: Handler, scope: str, body: type[Any] | None = None
) -> Route:
    return Route(method, BASE + path, handle, scope, None, "gorse", query=GorseQuery, body=body)


_FEEDBACK: Any = list[GorseFeedback]
_SESSION: Any = list[SessionFeedback]
_ITEM, _USER = "/item/{item_id}", "/user/{user_id}"
_PAIR = "/{user_id}/{item_id}"

TABLE: tuple[Route, ...] = (
    _route("POST", "/user", rows.post_user, "catalogue", GorseUser),
    _route("POST", "/users", rows.post_users, "catalogue", list[GorseUser]),
    _route("GET", "/users", rows.get_users, "operate"),
    _route("GET", _USER, rows.get_user, "operate"),
    _route("PATCH", _USER, rows.patch_user, "catalogue", UserPatch),
    _route("DELETE", _USER, rows.delete_user, "catalogue"),
    _route("POST", "/item", rows.post_item, "catalogue", GorseItem),
    _route("POST", "/items", rows.post_items, "catalogue", list[GorseItem]),
    _route("GET", "/items", rows.get_items, "read"),
    _route("GET", _ITEM, rows.get_item, "read"),
    _route("PATCH", _ITEM, rows.patch_item, "catalogue", ItemPatch),
    _route("DELETE", _ITEM, rows.delete_item, "catalogue"),
    _route("PUT", _ITEM + "/category/{category}", rows.put_category, "catalogue"),
    _route("DELETE", _ITEM + "/category/{category}", rows.delete_category, "catalogue"),
    _route("POST", "/feedback", rows.post_feedback, "events", _FEEDBACK),
    _route("PUT", "/feedback", rows.put_feedback, "events", _FEEDBACK),
    _route("GET", "/feedback", rows.get_feedback, "operate"),
    _route("GET", "/feedback/{feedback_type}", rows.get_feedback, "operate"),
    _route("GET", "/feedback" + _PAIR, rows.get_user_feedback, "operate"),
    _route("DELETE", "/feedback" + _PAIR, rows.delete_feedback, "events"),
    _route("GET", "/feedback/{feedback_type}" + _PAIR, rows.get_one_feedback, "operate"),
    _route("DELETE", "/feedback/{feedback_type}" + _PAIR, rows.delete_feedback, "events"),
    _route("GET", _USER + "/feedback", rows.get_user_feedback, "operate"),
    _route("GET", _USER + "/feedback/{feedback_type}", rows.get_user_feedback, "operate"),
    _route("POST", "/bulk/users", rows.post_bulk_users, "catalogue"),
    _route("POST", "/bulk/items", rows.post_bulk_items, "catalogue"),
    _route("POST", "/bulk/feedback", rows.post_bulk_feedback, "events"),
    _route("GET", "/recommend/{user_id}", lists.get_recommend, "read"),
    _route("GET", "/recommend/{user_id}/{category}", lists.get_recommend, "read"),
    _route("POST", "/session/recommend", lists.post_session, "read", _SESSION),
    _route("POST", "/session/recommend/{category}", lists.post_session, "read", _SESSION),
    _route("GET", _ITEM + "/neighbors", lists.get_item_neighbours, "read"),
    _route("GET", _ITEM + "/neighbors/{category}", lists.get_item_neighbours, "read"),
    _route("GET", "/item-to-item/{name}/{item_id}", lists.get_item_neighbours, "read"),
    _route("GET", _USER + "/neighbors", lists.get_user_neighbours, "read"),
    _route("GET", "/user-to-user/{name}/{user_id}", lists.get_user_neighbours, "read"),
    _route("GET", "/popular", lists.get_popular, "read"),
    _route("GET", "/popular/{category}", lists.get_popular, "read"),
    _route("GET", "/non-personalized/popular", lists.get_popular, "read"),
    _route("GET", "/latest", lists.get_latest, "read"),
    _route("GET", "/latest/{category}", lists.get_latest, "read"),
    _route("GET", "/non-personalized/latest", lists.get_latest, "read"),
    _route("GET", "/health/live", rows.get_health, "open"),
    _route("GET", "/health/ready", rows.get_health, "open"),
)


def routes() -> Iterator[Route]:
    """Each route, with a slash at its end and without."""
    for route in TABLE:
        yield route
        yield replace(route, path=route.path + "/")
