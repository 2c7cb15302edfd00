"""PyGorse itself, unchanged from PyPI, against `steerec serve --sample`: every call it has.

PyGorse brings requests and aiohttp, which the project does not depend on, so it runs in an
environment of its own: `sh benchmarks/compat/pygorse.sh` makes that, starts the service and runs
this file in it. Prints one line for each call, and ends with an error if one is not as expected.
"""

import asyncio
import inspect
import json
import sys
from datetime import UTC, datetime
from importlib.metadata import version

from gorse import AsyncGorse, Gorse, GorseException, Score

URL = sys.argv[1]
AT = datetime(2026, 3, 1, 12, tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
USER = {"UserId": "100", "Labels": ["a", "b", "c"], "Comment": "comment"}
ITEM = {
    "ItemId": "100",
    "IsHidden": False,
    "Labels": ["a", "b", "c"],
    "Categories": ["d", "e"],
    "Timestamp": AT,
    "Comment": "A blue teapot",
}


class Both:
    """Each call through the waiting client or the awaited one; notes which were made."""

    def __init__(self, client):
        self.client, self.made = client, []

    def __getattr__(self, name):
        def call(*args, **kwargs):
            found = getattr(self.client, name)(*args, **kwargs)
            if inspect.iscoroutine(found):
                found = asyncio.run(found)
            self.made.append(name)
            return found

        return call


def rows(n):
    return {"RowAffected": n}


def status_of(call, *args):
    try:
        call(*args)
    except GorseException as e:
        return e.status_code
    return 200


def check(name, found, expected=True):
    assert found == expected, f"{name}: {found!r:.300}, expected {expected!r:.300}"
    print(f"ok {name}")


def feedback(kind, item_id, user_id="100"):
    row = {"FeedbackType": kind, "UserId": user_id, "ItemId": item_id, "Timestamp": AT}
    return {**row, "Value": 1.0, "Comment": "c"}


def users(client):
    check("insert_user", client.insert_user(USER), rows(1))
    check("get_user", client.get_user("100"), USER)
    check("insert_users", client.insert_users([{"UserId": "101"}, {"UserId": "102"}]), rows(2))
    found, cursor = client.get_users(2)
    more, _ = client.get_users(1, cursor)
    check("get_users", [u["UserId"] for u in found + more], ["100", "101", "102"])
    check("delete_user", client.delete_user("100"), rows(1))
    check("get_user of nobody", status_of(client.get_user, "100"), 404)


def items(client):
    check("insert_item", client.insert_item(ITEM), rows(1))
    check("get_item", client.get_item("100"), ITEM)
    check("update_item", client.update_item("100", is_hidden=True, comment="Gone"), rows(1))
    check("get_item", client.get_item("100"), {**ITEM, "IsHidden": True, "Comment": "Gone"})
    client.insert_item({**ITEM, "ItemId": "101"})
    found, cursor = client.get_items(1)
    more, _ = client.get_items(1, cursor)
    check("get_items", [i["ItemId"] for i in found + more], ["100", "101"])
    check("search_items", isinstance(client.search_items("teapot", 3), list))
    check("delete_item", [client.delete_item(i) for i in ("100", "101")], [rows(1)] * 2)
    check("get_item of nothing", status_of(client.get_item, "100"), 404)


def events(client, shown):
    check("insert_feedback", client.insert_feedback("like", "100", shown[0], AT), rows(1))
    reads = [feedback("read", item_id) for item_id in shown[1:3]]
    check("insert_feedbacks", client.insert_feedbacks(reads), rows(2))
    listed = client.list_feedbacks("read", "100")
    wanted = [{**row, "Updated": AT, "Labels": None} for row in reads]
    check("list_feedbacks", listed, wanted)
    first, cursor = client.get_feedbacks(2)
    rest, _ = client.get_feedbacks(1, cursor)
    check("get_feedbacks", len(first + rest), 3)
    for item_id in shown[:3]:
        check("delete_feedback", client.delete_feedback("100", item_id), rows(1))
    check("list_feedbacks of none", client.list_feedbacks("read", "100"), [])


def lists(client):
    first = client.get_recommend("100", n=5)
    check("get_recommend", all(isinstance(one, Score) for one in first) and len(first), 5)
    ids = [one.id for one in first]
    rest = [one.id for one in client.get_recommend("100", n=3, offset=2)]
    check("get_recommend from an offset", rest, ids[2:])
    check("get_recommend of a category", client.get_recommend("100", "no such", n=3), [])
    back = {"write_back_type": "read", "write_back_delay": "0s", "n": 2}
    client.get_recommend("write-back", **back)
    check("write-back", len(client.list_feedbacks("read", "write-back")), 2)
    client.delete_user("write-back")
    session = client.session_recommend([feedback("like", ids[0]), feedback("like", ids[1])], 3)
    check("session_recommend", [set(one) for one in session], [{"Id", "Score"}] * 3)
    near = client.get_neighbors(ids[0], n=3)
    check("get_neighbors", [set(one) for one in near], [{"Id", "Score"}] * 3)
    return ids


def main():
    print(f"PyGorse {version('PyGorse')} at {URL}")
    told = {}
    for kind in (Gorse, AsyncGorse):
        client = Both(kind(URL, "api_key"))
        users(client)
        items(client)
        events(client, lists(client))
        calls = {name for name in vars(kind) if not name.startswith("_")}
        check(f"{kind.__name__}: every call was made", calls, calls & set(client.made))
        told[kind.__name__] = len(calls)
    print(json.dumps({"pygorse": version("PyGorse"), "calls": told, "failed": 0}))


main()
