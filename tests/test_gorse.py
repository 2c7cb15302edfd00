"""The gorse dialect, by the requests that PyGorse 0.5.1 sends: its paths, slashes and shapes.

`benchmarks/compat/pygorse.py` runs PyGorse itself, which the project does not depend on.
"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service_worlds import opened, problem
from steerec.service.app import ROUTES
from steerec.service.gorse import routes, shapes
from steerec.store.catalogue import Entry

AT = "2024-03-01T12:00:00Z"
SECONDS = 1_709_294_400.0
ITEM = {
    "ItemId": "kettle",
    "IsHidden": False,
    "Labels": ["steel", "quiet"],
    "Categories": ["kitchen", "tea"],
    "Timestamp": AT,
    "Comment": "A kettle",
}
USER = {"UserId": "bob", "Labels": {"gender": "M", "age": 24}, "Comment": "my user"}


@pytest.fixture
def items(shop):
    """Item ids of the fitted model."""
    return [str(i) for i in shop.tenant().live.model.data.item_ids]


def call(shop, method, path, body=None, version=None, **params):
    """As PyGorse does it: the body as JSON, the key as a header, only 200 is good."""
    headers = {"X-API-Key": "api_key"} | ({"X-API-Version": version} if version else {})
    given = {} if body is None else {"json": body}
    if params:
        given["params"] = {name.replace("_", "-"): value for name, value in params.items()}
    answer = shop.call(method, f"/gorse/api{path}", headers=headers, **given)
    assert answer.status_code == 200, answer.text
    return answer.json()


def feedback(kind, user_id, item_id, time=AT, value=0.0):
    return {
        "FeedbackType": kind,
        "UserId": user_id,
        "ItemId": item_id,
        "Timestamp": time,
        "Value": value,
    }


def liked(shop, user_id="bob"):
    """Items of a user's `like` feedback, as gorse lists it."""
    found = call(shop, "GET", f"/user/{user_id}/feedback/like")
    return [one["ItemId"] for one in found]


# Users and items


def test_a_user_is_read_as_it_was_inserted(shop):
    assert call(shop, "POST", "/user", USER) == {"RowAffected": 1}
    assert call(shop, "GET", "/user/bob") == USER
    assert call(shop, "PATCH", "/user/bob", {"Labels": ["new"], "Comment": None}) == {
        "RowAffected": 1
    }
    assert call(shop, "GET", "/user/bob") == {**USER, "Labels": ["new"]}


def test_an_item_is_read_as_it_was_inserted(shop):
    assert call(shop, "POST", "/item", ITEM) == {"RowAffected": 1}
    assert call(shop, "GET", "/item/kettle") == ITEM


def test_an_item_is_changed_where_the_patch_is_not_null(shop):
    call(shop, "POST", "/item", ITEM)
    patch = {
        "Categories": ["garden"],
        "Comment": None,
        "IsHidden": None,
        "Labels": {"colour": "red"},
        "Timestamp": None,
    }
    assert call(shop, "PATCH", "/item/kettle", patch) == {"RowAffected": 1}
    changed = {**ITEM, "Categories": ["garden"], "Labels": {"colour": "red"}}
    assert call(shop, "GET", "/item/kettle") == changed
    assert call(shop, "PUT", "/item/kettle/category/tea") == {"RowAffected": 1}
    assert call(shop, "DELETE", "/item/kettle/category/garden") == {"RowAffected": 1}
    assert call(shop, "GET", "/item/kettle")["Categories"] == ["tea"]


@settings(max_examples=60, deadline=None)
@given(
    labels=st.none()
    | st.lists(st.text("abc", min_size=1), max_size=3)
    | st.lists(st.floats(-5, 5), min_size=1, max_size=3)
    | st.dictionaries(
        st.sampled_from(["title", "tags", "comment", "colour", "categories", "embedding"]),
        st.text("xyz", min_size=1) | st.lists(st.floats(0, 1)) | st.integers(0, 9),
    ),
    categories=st.lists(st.text("de", min_size=1), max_size=2),
    comment=st.text("fg", max_size=3),
    seconds=st.none() | st.integers(0, 4_000_000_000) | st.floats(0, 4e9),
)
def test_no_label_is_lost_on_the_way_to_the_store_and_back(labels, categories, comment, seconds):
    item = shapes.GorseItem(
        item_id="i",
        categories=categories,
        comment=comment,
        timestamp=shapes.text_of(seconds),
        labels=labels,
    )
    back = shapes.item_of_entry(shapes.entry_of_item(item))
    assert back.labels == (labels or None)
    assert (back.categories, back.comment) == (categories, comment)
    assert back.timestamp == item.timestamp


def test_many_are_inserted_and_paged_with_cursors(bare):
    users = [{"UserId": f"u{n}"} for n in range(5)]
    assert call(bare, "POST", "/users", users) == {"RowAffected": 5}
    found, cursor, pages = [], "", 0
    while cursor or not pages:
        page = call(bare, "GET", "/users", n=2, cursor=cursor)
        found += [user["UserId"] for user in page["Users"]]
        cursor, pages = page["Cursor"], pages + 1
    assert found == ["u0", "u1", "u2", "u3", "u4"]
    assert pages == 3
    call(bare, "POST", "/items", [ITEM, {"ItemId": "tea", "Timestamp": ""}])
    page = call(bare, "GET", "/items", n=10, cursor="")
    assert [item["ItemId"] for item in page["Items"]] == ["kettle", "tea"]
    assert page["Items"][1] == {
        "ItemId": "tea",
        "IsHidden": False,
        "Categories": [],
        "Timestamp": "0001-01-01T00:00:00Z",
        "Labels": None,
        "Comment": "",
    }
    assert page["Cursor"] == ""


def test_words_find_items(bare):
    call(bare, "POST", "/items", [ITEM, {**ITEM, "ItemId": "samovar", "Comment": "A samovar"}])
    bare.settle()
    page = call(bare, "GET", "/items", q="samovar", n=3)
    assert [item["ItemId"] for item in page["Items"]] == ["samovar"]


def test_what_is_deleted_is_gone_and_may_come_back(shop, items):
    call(shop, "POST", "/user", USER)
    call(shop, "POST", "/item", ITEM)
    call(shop, "POST", "/feedback", [feedback("like", "bob", items[0])])
    assert call(shop, "DELETE", "/user/bob") == {"RowAffected": 1}
    assert call(shop, "DELETE", "/item/kettle") == {"RowAffected": 1}
    for path in ("/user/bob", "/item/kettle"):
        assert "insert it first" in problem(shop.get(f"/gorse/api{path}"), 404)
    assert liked(shop) == []
    assert len(shop.tenant().live.recommender.history("bob")) == 0
    call(shop, "POST", "/feedback", [feedback("like", "bob", items[0])])
    assert liked(shop) == [items[0]]


# Feedback


def test_feedback_counts_at_once_and_makes_unknown_users_and_items(shop, items):
    rows = [feedback("like", "ann", items[0]), feedback("star", "ann", "a-new-item", value=2.5)]
    assert call(shop, "POST", "/feedback", rows) == {"RowAffected": 2}
    assert len(shop.tenant().live.recommender.history("ann")) == 2
    assert call(shop, "GET", "/user/ann") == {"UserId": "ann", "Labels": None, "Comment": ""}
    assert call(shop, "GET", "/item/a-new-item")["ItemId"] == "a-new-item"
    (star,) = call(shop, "GET", "/user/ann/feedback/star")
    assert star == {**rows[1], "Updated": AT, "Labels": None, "Comment": ""}
    assert [one["FeedbackType"] for one in call(shop, "GET", "/user/ann/feedback")] == [
        "like",
        "star",
    ]


def test_the_same_feedback_again_counts_once_and_later_feedback_adds_up(shop, items):
    later = "2024-03-02T12:00:00Z"
    row = feedback("watch", "ann", items[0], value=1.0)
    for _ in range(2):
        call(shop, "POST", "/feedback", [row])
    call(shop, "POST", "/feedback", [{**row, "Timestamp": later, "Value": 2.0}])
    (watch,) = call(shop, "GET", f"/feedback/ann/{items[0]}")
    assert (watch["Value"], watch["Timestamp"], watch["Updated"]) == (3.0, AT, later)
    assert len(shop.tenant().live.recommender.history("ann")) == 2


def test_put_replaces_what_there_was_of_the_type(shop, items):
    one, other = feedback("watch", "ann", items[0], value=1.0), feedback("like", "ann", items[0])
    call(shop, "POST", "/feedback", [one, other])
    assert call(shop, "PUT", "/feedback", [{**one, "Value": 7.0}]) == {"RowAffected": 1}
    assert call(shop, "GET", f"/feedback/watch/ann/{items[0]}")["Value"] == 7.0
    assert call(shop, "GET", f"/feedback/like/ann/{items[0]}")["FeedbackType"] == "like"
    assert len(shop.tenant().live.recommender.history("ann")) == 2


def test_deleted_feedback_counts_no_more(shop, items):
    model = shop.tenant().live.model
    user = str(model.data.user_ids[0])
    before = call(shop, "GET", f"/recommend/{user}/", n=5, offset=0)
    # Of an item without events its first one says what no deletion takes back before the next fit.
    two = [item for item in before if not model.unseen[model.data.item_index[item]]][:2]
    call(shop, "POST", "/feedback", [feedback("like", user, i, AT) for i in two])
    during = call(shop, "GET", f"/recommend/{user}/", n=len(items), offset=0)
    assert not set(two) & set(during)
    for item in two:
        assert call(shop, "DELETE", f"/feedback/{user}/{item}") == {"RowAffected": 1}
    assert liked(shop, user) == []
    after = call(shop, "GET", f"/recommend/{user}/", n=5, offset=0)
    assert len(two) == 2
    assert set(two) <= set(after)
    assert call(shop, "DELETE", f"/feedback/{user}/{two[0]}") == {"RowAffected": 0}


def test_one_type_is_deleted_and_the_other_stays(shop, items):
    rows = [feedback("like", "ann", items[0]), feedback("star", "ann", items[0])]
    call(shop, "POST", "/feedback", rows)
    assert call(shop, "DELETE", f"/feedback/like/ann/{items[0]}") == {"RowAffected": 1}
    assert [one["FeedbackType"] for one in call(shop, "GET", "/user/ann/feedback")] == ["star"]
    assert call(shop, "GET", f"/feedback/like/ann/{items[0]}") == {}
    assert len(shop.tenant().live.recommender.history("ann")) == 1


def test_deleted_feedback_stays_away_after_a_restart(sqlite_url, loop):
    shop = opened(sqlite_url, loop=loop)
    item = str(shop.tenant().live.model.data.item_ids[0])
    rows = [feedback("like", "ann", item), feedback("like", "ben", item)]
    call(shop, "POST", "/feedback", rows)
    call(shop, "DELETE", f"/feedback/ann/{item}")
    shop.close()
    again = opened(sqlite_url, loop=loop)
    try:
        histories = [len(again.tenant().live.recommender.history(u)) for u in ("ann", "ben")]
        assert histories == [0, 1]
    finally:
        again.close()


def test_all_feedback_is_paged(shop, items):
    rows = [feedback("like" if n % 2 else "star", f"u{n}", items[n]) for n in range(5)]
    call(shop, "POST", "/feedback", rows)
    first = call(shop, "GET", "/feedback", n=3, cursor="")
    rest = call(shop, "GET", "/feedback", n=3, cursor=first["Cursor"])
    assert [one["UserId"] for one in (*first["Feedback"], *rest["Feedback"])] == [
        f"u{n}" for n in range(5)
    ]
    assert rest["Cursor"] == ""
    stars = call(shop, "GET", "/feedback/like", n=10, cursor="")
    assert [one["UserId"] for one in stars["Feedback"]] == ["u1", "u3"]


# Lists


def test_a_list_is_ids_or_with_version_2_ids_and_scores(shop):
    user = str(shop.tenant().live.model.data.user_ids[0])
    bare = call(shop, "GET", f"/recommend/{user}/", n=4, offset=0)
    scored = call(shop, "GET", f"/recommend/{user}/", version="2", n=4, offset=0)
    assert [one["Id"] for one in scored] == bare == shop.ids(user, n=4, repeats="false")
    assert all(set(one) == {"Id", "Score"} for one in scored)
    assert [one["Score"] for one in scored] == sorted(
        (one["Score"] for one in scored), reverse=True
    )


def test_offset_goes_on_where_the_page_before_ended_and_only_the_page_is_logged(shop):
    user = str(shop.tenant().live.model.data.user_ids[0])
    eight = call(shop, "GET", f"/recommend/{user}/", n=8, offset=0)
    assert call(shop, "GET", f"/recommend/{user}/", n=3, offset=5) == eight[5:]
    shop.flush()
    pages = shop.service.store.shown.of_user("default", user)
    assert [(page.start, list(page.items)) for page in pages] == [(0, eight), (5, eight[5:])]
    told = shop.get(f"/api/requests/{pages[1].request_id}/explain").json()
    assert told["replayed_the_same"]
    assert [item["position"] for item in told["items"]] == [6, 7, 8]
    assert call(shop, "GET", f"/recommend/{user}/", n=3, offset=9_000) == []


def test_a_category_keeps_to_its_items(bare):
    assert call(bare, "GET", "/recommend/ann/tea", n=5, offset=0) == []
    call(bare, "POST", "/items", [ITEM, {**ITEM, "ItemId": "pot", "Categories": ["kitchen"]}])
    bare.settle()
    assert set(call(bare, "GET", "/recommend/ann/tea", n=5, offset=0)) == {"kettle"}
    assert set(call(bare, "GET", "/recommend/ann/kitchen", n=5, offset=0)) == {"kettle", "pot"}
    assert [i["Id"] for i in call(bare, "GET", "/latest/tea", n=5)] == ["kettle"]
    assert call(bare, "GET", '/recommend/ann/no"such', n=5, offset=0) == []


def test_write_back_stores_what_was_shown_and_the_next_list_goes_on(shop):
    given = {"n": 3, "offset": 0, "write_back_type": "read"}
    first = call(shop, "GET", "/recommend/ann/", **given)
    second = call(shop, "GET", "/recommend/ann/", **given)
    assert len(first) == len(second) == 3
    assert not set(first) & set(second)
    stored = call(shop, "GET", "/user/ann/feedback/read")
    assert [one["ItemId"] for one in stored] == first + second


def test_write_back_with_a_delay_is_stored_now_and_counts_later(shop):
    given = {"n": 3, "offset": 0, "write_back_type": "read", "write_back_delay": "10m"}
    first = call(shop, "GET", "/recommend/ann/", **given)
    assert call(shop, "GET", "/recommend/ann/", n=3, offset=0) == first
    stored = call(shop, "GET", "/user/ann/feedback/read")
    wanted = shapes.text_of(shop.clock() + 600)
    assert [(one["ItemId"], one["Timestamp"]) for one in stored] == [(i, wanted) for i in first]


def test_write_back_counts_when_its_time_has_come(shop):
    given = {"n": 3, "offset": 0, "write_back_type": "read", "write_back_delay": "1ms"}
    first = call(shop, "GET", "/recommend/ann/", **given)
    for _ in range(3):  # each takes longer than the delay, and lets the loop run
        call(shop, "GET", "/users", n=10, cursor="")
    assert not set(first) & set(call(shop, "GET", "/recommend/ann/", n=3, offset=0))


@pytest.mark.parametrize(
    ("text", "seconds"), [("", 0), ("10m", 600), ("1h30m", 5_400), ("250ms", 0.25), ("1.5s", 1.5)]
)
def test_durations_are_read_as_go_writes_them(text, seconds):
    from steerec.service.gorse.lists import seconds_of_duration

    assert seconds_of_duration(text) == seconds


def test_a_session_is_answered_without_its_own_items_and_leaves_no_user(shop, items):
    visit = [
        {"FeedbackType": "like", "UserId": "0", "ItemId": items[2], "Timestamp": "2010-01-01"},
        {"FeedbackType": "dislike", "UserId": "0", "ItemId": items[5], "Timestamp": "2009-01-01"},
        {"FeedbackType": "like", "UserId": "0", "ItemId": items[1], "Timestamp": "2008-01-01"},
    ]
    found = call(shop, "POST", "/session/recommend?n=3", visit)
    assert len(found) == 3
    own = shop.post(
        "/api/recommend",
        {"session": [items[1], items[2]], "exclude": [items[5]], "n": 3, "repeats": False},
    ).json()
    assert [one["Id"] for one in found] == [one["item_id"] for one in own["items"]]
    bare = [{"ItemId": one["ItemId"], "FeedbackType": one["FeedbackType"]} for one in visit[::-1]]
    assert call(shop, "POST", "/session/recommend/?n=3", bare) == found
    assert call(shop, "GET", "/user/0/feedback") == []


def test_neighbours_are_those_of_our_own_api(shop, items):
    user = str(shop.tenant().live.model.data.user_ids[0])
    for kind, one in (("item", items[0]), ("user", user)):
        own = shop.get(f"/api/{kind}s/{one}/similar?n=6").json()["items"]
        wanted = [{"Id": i["id"], "Score": i["score"]} for i in own]
        assert call(shop, "GET", f"/{kind}/{one}/neighbors?n=4&offset=0") == wanted[:4]
        assert call(shop, "GET", f"/{kind}/{one}/neighbors/?n=4&offset=2") == wanted[2:6]
        assert call(shop, "GET", f"/{kind}-to-{kind}/neighbors/{one}?n=4") == wanted[:4]
    assert call(shop, "GET", "/item/nobody-knows-it/neighbors?n=4&offset=0") == []


def test_popular_and_latest_are_those_of_our_own_api_less_what_a_user_has_read(shop):
    for name in ("popular", "latest"):
        own = [i["id"] for i in shop.get(f"/api/{name}?n=6").json()["items"]]
        found = [one["Id"] for one in call(shop, "GET", f"/{name}", n=6)]
        assert found == own
        assert call(shop, "GET", f"/non-personalized/{name}", n=6, offset=4)[0]["Id"] == own[4]
        call(shop, "POST", "/feedback", [feedback("like", f"new-{name}", own[0])])
        without = [one["Id"] for one in call(shop, "GET", f"/{name}", n=5, user_id=f"new-{name}")]
        assert own[0] not in without
        assert without


# The dump, times, mistakes


def test_a_dump_is_taken_in_and_taken_in_again_changes_nothing(shop, items):
    rows = [feedback("like", f"u{n % 3}", items[n]) for n in range(10)]
    dump = {
        "users": [{**USER, "UserId": f"u{n}"} for n in range(3)],
        "items": [ITEM, {**ITEM, "ItemId": "pot", "Labels": {"a": 1}}],
        "feedback": rows,
    }
    for kind, told in dump.items():
        lines = "\n".join(map(json.dumps, told)) + "\n\n"
        for _ in range(2):
            answer = shop.post(f"/gorse/api/bulk/{kind}", content=lines)
            assert answer.json() == {"RowAffected": len(told)}, answer.text
    assert call(shop, "GET", "/item/pot")["Labels"] == {"a": 1}
    assert len(call(shop, "GET", "/feedback", n=100, cursor="")["Feedback"]) == 10
    assert len(shop.tenant().live.recommender.history("u0")) == 4


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"ItemId": 3}', "the body has no UserId (it has ItemId)"),
        (b'{"UserId": "\xff"}', "byte 12 of the body, 0xff, is not UTF-8"),
        (b'{"UserId": "a", "Labels": ' + b"[" * 9_000, "the JSON is nested too deeply"),
    ],
)
def test_a_wrong_line_of_a_dump_is_named(shop, line, told):
    answer = shop.post("/gorse/api/bulk/users", content=b'{"UserId": "a"}\n' + line)
    assert f"line 2 is no row of gorse's: {told}" in problem(answer, 422)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (AT, SECONDS),
        ("2024-03-01T13:00:00+01:00", SECONDS),
        ("2024-03-01 12:00:00", SECONDS),
        ("2024-03-01T12:00:00.250000001Z", SECONDS + 0.25),
        ("1709294400", SECONDS),
        ("1709294400000", SECONDS),
        ("Fri, 01 Mar 2024 12:00:00 GMT", SECONDS),
        ("", None),
        (None, None),
        ("0001-01-01T00:00:00Z", None),
    ],
)
def test_times_are_read_as_gorse_takes_them(text, seconds):
    assert shapes.seconds_of(text) == seconds


@pytest.mark.parametrize(
    ("method", "path", "body", "told"),
    [
        ("POST", "/user", {"UserId": ""}, 'UserId is "": expected a text of 1 to 256'),
        ("POST", "/feedback", feedback("like", "a", "b"), "expected a list of objects"),
        ("POST", "/feedback", [feedback("like", "a", "b", "soon")], "Timestamp 'soon'"),
        ("POST", "/item", {**ITEM, "Categories": [3]}, "Categories"),
        ("GET", "/recommend/ann/?n=-1", None, "n is -1: expected a whole number from 0"),
        ("GET", "/recommend/ann/?write-back-delay=soon", None, "expected one such as 10m"),
        ("GET", "/users?cursor=%25", None, "cursor '%'"),
        ("GET", "/feedback?cursor=eHl6", None, "cursor 'eHl6'"),
    ],
)
def test_a_mistake_is_told(shop, method, path, body, told):
    answer = shop.call(method, f"/gorse/api{path}", **({"json": body} if body else {}))
    assert told in problem(answer, 422)


def test_a_key_may_do_in_the_dialect_what_it_may_elsewhere(sqlite_url, loop):
    shop = opened(sqlite_url, loop=loop, keys=True)
    text, _ = shop.service.store.keys.issue("default", ["read"], now=0.0)
    try:
        assert "no key was sent" in problem(shop.get("/gorse/api/latest"), 401)
        assert shop.get("/gorse/api/latest", key=text).status_code == 200
        answer = shop.call("POST", "/gorse/api/user", key=text, json=USER)
        assert "this call needs 'catalogue'" in problem(answer, 403)
        assert shop.get("/gorse/api/health/ready").json()["Ready"] is True
    finally:
        shop.close()


def test_no_route_of_the_dialect_hides_one_of_ours_and_each_ends_with_a_slash_too():
    paths = {(route.method, route.path) for route in routes.routes()}
    assert not paths & {(route.method, route.path) for route in ROUTES}
    assert {(m, p.rstrip("/") + "/") for m, p in paths} <= paths
    assert len(paths) == 2 * len(routes.TABLE)


def test_an_item_of_our_own_api_is_an_item_of_gorse():
    entry = Entry("i", {"title": "T", "price": 3.5, "categories": "tea"}, ("a",))
    found = shapes.item_of_entry(entry)
    assert (found.comment, found.categories) == ("T", ["tea"])
    assert found.labels == {"tags": ["a"], "price": 3.5}
