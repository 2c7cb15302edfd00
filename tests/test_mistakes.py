"""What a caller is told of a body or of parameters that cannot be used."""

import json

import msgspec
import pytest

from steerec.service.calls import decoder_of
from steerec.service.gorse.shapes import GorseFeedback, GorseQuery
from steerec.service.mistakes import told_of
from steerec.service.problems import Problem
from steerec.service.schemas import (
    EntriesIn,
    EntryIn,
    EntryPatch,
    EventIn,
    EventsIn,
    ExperimentIn,
    Nothing,
    PageQuery,
    RecommendIn,
    RecommendQuery,
)

SECRET = "steerec_0123456789abcdef_" + "5e" * 32
EVENT = {"user_id": "a", "item_id": "b"}
MIB = 1 << 20


def refusal(raw, kind=EventIn, many=None):
    with pytest.raises(Problem) as caught:
        decoder_of(kind, many)(raw if isinstance(raw, bytes) else json.dumps(raw).encode())
    return caught.value


def of_query(kind, **given):
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(given, kind, strict=False)
    return told_of(caught.value, kind, given)


def of_event(raw):
    return refusal(raw, EventIn, EventsIn).detail


def test_a_number_that_is_too_large_is_told_as_such():
    raw = b'{"id": "a", "attributes": {"price": 1e309}}'
    told = 'attributes is {"price": 1e309}: expected for each name numbers up to 1.7e308; change it'
    assert told in refusal(raw, EntryIn).detail
    assert "value is 1e400: expected a number from -1,0" in of_event(
        b'{"user_id": "a", "item_id": "a", "value": 1e400}'
    )


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"user_id": 5}, "user_id is 5: expected a text of 1 to 256 characters (an id of the"),
        ({"user_id": ""}, 'user_id is "": expected a text of 1'),
        (
            {"event": "e" * 70},
            "eee… (70 characters): expected a text of 1 to 64 characters; change",
        ),
        ({"value": "12"}, 'value is "12": expected a number from -1,000,000,000,000 to 1,000,000,'),
        ({"value": True}, "value is true: expected a number"),
        ({"context": [1, 2]}, "context is a list of 2: expected an object, or null"),
        ({"timestamp": "2026-01-01"}, "send 1767225600 for it, not a date as text"),
        ({"timestamp": "2026-01-01T01:00:00.5+01:00"}, "send 1767225600.5 for it"),
        ({"timestamp": "0001-01-01T00:00:00+23:00"}, "seconds such as 1767225600"),
        (
            {"timestamp": "now"},
            'timestamp is "now": expected a number (Unix seconds, UTC), or null',
        ),
        ({"timestamp": "now"}, "send seconds such as 1767225600, not a text"),
        ({"timestamp": 1_767_225_600_000}, "such as 1767225600, not milliseconds"),
        ({"timestamp": -1}, "timestamp is -1: expected a number (Unix seconds, UTC)"),
        ({"timestmap": 3}, "has the field timestmap, which is not known: did you mean timestamp?"),
        ({"colour": 3}, "expected some of user_id, item_id, event, event_id, value, timestamp"),
        ({"colour": 3}, "facts of your own go into context"),
        ({"eventz": []}, "request_id, context, events"),
    ],
)
def test_a_field_of_an_event_is_told_with_what_came_and_what_to_do(more, told):
    assert told in of_event({**EVENT, **more})
    one_of_many = of_event({"events": [EVENT, {**EVENT, **more}]})
    assert one_of_many.startswith("events[1]")
    assert told.removesuffix(", events").removeprefix("did") in one_of_many.replace(
        "events[1].", ""
    )


@pytest.mark.parametrize(
    ("raw", "status", "told"),
    [
        (b'{"user_id": "a"}', 422, "the body has no item_id (it has user_id): expected a text"),
        (b"{}", 422, "the body has no user_id: expected a text"),
        (
            b"[1, 2]",
            422,
            'is a list of 2: expected an object with user_id and item_id, or {"events"',
        ),
        (
            b'{"events": []}',
            422,
            "events is a list of 0: expected a list of 1 to 10000 objects; ch",
        ),
        (b'{"events": [7]}', 422, "events[0] is 7: expected an object with user_id and item_id"),
        (b'{"user_id": "a", "it', 400, "the JSON is cut: byte 20 is its end, after"),
        (b'{"user_id": "a",}', 400, "at byte 16, {"),
        (b'{"user_id": "a",}', 400, "leave the last comma out"),
        (b'{"user_id" "a"}', 400, "whether a comma, a quote or a bracket is missing before it"),
        (b'{"user_id": "a"} x', 400, "send one value and nothing after it"),
        (b'{"user_id": "\\ud800"}', 400, "both halves of an escaped pair"),
        (b'{"user_id": "a\nb"}', 400, r"write a line break as \n"),
        (b'{"value": NaN}', 400, "JSON has no NaN and no infinity, send null"),
        (b"{'user_id': 'a'}", 400, "put texts and names in double quotes"),
        (
            b"user_id=a",
            400,
            'at byte 0, user_id=a: invalid character; send a JSON object, such as {"',
        ),
        (b'{"user_id": tru}', 400, "send null, true, false, a number"),
        (b'{"user_id": "\xff"}', 400, "byte 13 of the body, 0xff, is not UTF-8"),
        (b'{"context": ' + b'{"a": ' * 5_000, 400, "nested too deeply: expected a few hundred"),
    ],
)
def test_a_body_that_cannot_be_read_is_told_where(raw, status, told):
    problem = refusal(raw, EventIn, EventsIn)
    assert (int(problem.status), told in problem.detail) == (status, True), problem.detail


@pytest.mark.parametrize(
    ("kind", "body", "told"),
    [
        (EntryIn, {"id": "a", "hidden": "yes"}, 'hidden is "yes": expected true or false; change'),
        (EntryIn, {"id": "a", "stock": 2.5}, "stock is 2.5: expected a whole number from 0 to 9,0"),
        (EntryIn, {"id": "a", "labels": [1]}, "labels[0] is 1: expected a text"),
        (EntryIn, {"id": "a", "price": 1}, "facts of your own go into attributes"),
        (EntryPatch, {"hidden": None}, "hidden is null: expected true or false"),
        (EntryPatch, [], "a list of 0: expected an object with some of attributes, labels, hidden"),
        (RecommendIn, {"context": {"time": "x"}}, 'context.time is "x": expected a number (Unix'),
        (RecommendIn, {"context": {"tim": 1}}, "did you mean time? expected some of device, time"),
        (ExperimentIn, {"name": "a", "arms": [{"name": "b", "share": 0}]}, "arms[0].share is 0"),
        (ExperimentIn, {"name": "a", "arms": [{"name": "b", "share": 0}]}, "above 0 and at most 1"),
        (ExperimentIn, {"name": "a", "arms": [], "kind": "x"}, "a list of 1 to 20 objects"),
        (ExperimentIn, {"name": "a", "kind": "x"}, 'kind is "x": expected "interleave" or "split"'),
        (ExperimentIn, {"name": "a", "alpha": 1}, "alpha is 1: expected a number above 0"),
        (
            ExperimentIn,
            {"name": "a", "arms": [{"name": "b", "share": 1, "weights": {"x": "y"}}]},
            'arms[0].weights is {"x": "y"}: expected for each name a number from -1,000,000',
        ),
        (list[GorseFeedback], {}, "the body is {}: expected a list of objects"),
        (list[GorseFeedback], [{"FeedbackType": "a"}], "[0] has no UserId (it has FeedbackType)"),
    ],
)  # fmt: skip
def test_bodies_of_other_calls_are_told_of_as_well(kind, body, told):
    problem = refusal(body, kind)
    assert told in problem.detail
    assert problem.status == 422


@pytest.mark.parametrize(
    ("kind", "given", "told"),
    [
        (
            RecommendQuery,
            {"n": "-1"},
            "the parameter n is -1: expected a whole number from 1 to 1000",
        ),
        (RecommendQuery, {"n": "-1"}, "1 to 1000; change it, or leave it out"),
        (RecommendQuery, {"n": "ten"}, 'the parameter n is "ten": expected a whole number'),
        (RecommendQuery, {"n": ""}, 'the parameter n is "": expected'),
        (
            RecommendQuery,
            {"repeats": "maybe"},
            'repeats is "maybe": expected true or false; change',
        ),
        (RecommendQuery, {"senario": "x"}, "the parameter senario is not known: did you mean scen"),
        (RecommendQuery, {"m": "3"}, "expected some of n, scenario, device, filter, exclude"),
        (PageQuery, {"limit": "5000"}, "limit is 5000: expected a whole number from 1 to 1000"),
        (Nothing, {"x": "1"}, "the parameter x is not known: expected none, leave it out"),
        (GorseQuery, {"n": "-1"}, "n is -1: expected a whole number from 0 to 10000"),
    ],
)
def test_a_parameter_is_told_with_what_came_and_what_to_do(kind, given, told):
    assert told in of_query(kind, **given)


def test_more_than_may_be_sent_at_once_are_told_where_to_go():
    entries = refusal({"entries": [{"id": "a"}] * 100_000}, EntryIn, EntriesIn).detail
    assert entries.startswith("entries is a list of 100,000: expected a list of 1 to 5000 objects")
    assert "in several calls, or as JSON lines to /api/items/import" in entries
    assert of_event({"events": [EVENT] * 10_001}).endswith("; send more in several calls")


@pytest.mark.parametrize("body", [{"timestamp": SECRET}, {"basket": {"key": SECRET}}, {SECRET: 1}])
def test_a_key_is_never_repeated(body):
    detail = of_event({**EVENT, **body})
    assert "steerec_0123456789abcdef_***" in detail
    assert "5e5e" not in detail
    assert "5e5e" not in of_event(json.dumps({"user_id": SECRET}).encode()[:-1])


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (
            b'{"events": [' + b"1," * 4 * MIB + b"1]}",
            "events[0] is a whole number: expected an object",
        ),
        (b'{"user_id": "' + b"a" * 8 * MIB + b'"}', "(8,388,608 characters)"),
        (b'{"' + b"a" * 8 * MIB + b'": 1}', "aaa…, which is not known"),
        (b'{"' + b" - at `$.user_id" * MIB + b'": 1}', "which is not known: expected some of"),
        (b'{"events": [' + b"[" * 8 * MIB, "nested too deeply"),
        (b" " * 8 * MIB + b"[1", "the body is a list: expected an object"),
    ],
    ids=["many", "long", "long name", "name like a place", "deep", "blank"],
)
def test_a_hostile_body_is_told_of_in_a_short_sentence(raw, told):
    detail = of_event(raw)
    assert told in detail
    assert len(detail) < 300
