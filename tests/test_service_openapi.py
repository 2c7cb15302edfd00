"""The OpenAPI document: valid, complete, true; and a fuzzer that believes it."""

import json
import re
from collections import Counter
from contextlib import suppress

import httpx
import jsonschema_rs
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from service_worlds import opened
from steerec.service.app import ROUTES
from steerec.service.gorse import routes as gorse
from steerec.service.meanings import MEANINGS
from steerec.service.openapi import document

DOCUMENT = document(ROUTES)
GORSE = document(gorse.TABLE)  # not shown to callers, but it tells the fuzzer what to send


@pytest.fixture(scope="module")
def demo(loop, tmp_path_factory):
    """A service in which the items and users of the examples exist."""
    made = opened(f"sqlite:///{tmp_path_factory.mktemp('demo')}/s.db", loop=loop)
    for item in ("tea", "coffee"):
        made.post("/api/items", {"id": item, "attributes": {"title": item}})
    made.post("/api/users", {"id": "ann"})
    arms = [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5}]
    made.post("/api/experiments", {"name": "spring", "arms": arms})
    made.settle()
    yield made
    made.close()


def operations():
    for path, spot in DOCUMENT["paths"].items():
        for method, told in spot.items():
            yield method.upper(), path, told


def bundled(schema):
    return {**schema, "components": DOCUMENT["components"]}


def test_the_document_is_valid_openapi(demo):
    """Every schema in it is valid JSON Schema 2020-12, and every reference leads somewhere."""
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema_rs.meta.validate(schema)
        assert schema.get("description") or name in ("Problem",)
    names = DOCUMENT["components"]["schemas"].keys()
    refs = set(re.findall(r"#/components/schemas/([^\"]+)", msgspec.json.encode(DOCUMENT).decode()))
    assert refs <= names
    assert DOCUMENT["openapi"].startswith("3.1")
    assert demo.get("/openapi.json").json() == msgspec.json.decode(msgspec.json.encode(DOCUMENT))
    assert demo.get("/docs").status_code == 200


def test_every_route_of_the_app_is_documented_and_nothing_else(demo):
    served = {
        (method, route.path)
        for route in demo.app.routes
        for method in (getattr(route, "methods", None) or ())
        if route.path.startswith(("/api", "/metrics")) and method != "HEAD"
    }
    assert {(method, path) for method, path, _ in operations()} == served


def test_every_operation_says_what_it_does_and_how_it_fails():
    seen = set()
    for _, path, told in operations():
        assert told["summary"], path
        assert told["operationId"] not in seen
        seen.add(told["operationId"])
        assert "default" in told["responses"]
        assert all(p["description"] for p in told["parameters"]), path
        named = {p["name"] for p in told["parameters"] if p["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path))
        body = told.get("requestBody")
        for content in (body or {}).get("content", {}).values():
            assert content["example"], path


def test_every_field_says_what_it_means_and_no_meaning_is_left_over():
    shown = DOCUMENT["components"]["schemas"].items()
    fields = {
        f"{name}.{field}": told for name, s in shown for field, told in s["properties"].items()
    }
    assert [field for field, told in fields.items() if not told.get("description")] == []
    assert MEANINGS.keys() <= fields.keys() | {field.partition(".")[2] for field in fields}


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{r.method} {r.path}")
def test_every_example_works_and_its_answer_fits_its_schema(demo, route):
    told = DOCUMENT["paths"][route.path][route.method.lower()]
    slate = demo.post("/api/recommend", {"user_id": "ann"}).json()
    demo.flush()
    given = {p["name"]: p.get("example") for p in told["parameters"]}
    given["request_id"] = slate["request_id"]
    gone = {"item_id": "coffee", "user_id": "bob"}  # what may be deleted
    path = route.path.format(**{**given, **(gone if route.method == "DELETE" else {})})
    body = told.get("requestBody", {}).get("content", {})
    more = {}
    if "application/json" in body:
        more = {"json": body["application/json"]["example"]}
        check(body["application/json"]["schema"], more["json"])
    elif body:
        more = {"content": body["application/x-ndjson"]["example"]}
    answer = demo.call(route.method, path, **more)
    assert 200 <= answer.status_code < 300, answer.text
    content = told["responses"][str(answer.status_code)]["content"]
    if "application/json" in content:
        check(content["application/json"]["schema"], answer.json())


def check(schema, value):
    jsonschema_rs.validator_for(bundled(schema)).validate(value)


def test_schemas_and_decoders_agree_on_what_is_refused():
    """The same classes check what comes and are told of: each limit refuses just beyond it."""
    event = {"user_id": "a", "item_id": "b"}
    cases = [
        ("EventIn", {**event, "user_id": ""}),
        ("EventIn", {**event, "user_id": "a" * 257}),
        ("EventIn", {**event, "event": "e" * 65}),
        ("EventIn", {**event, "timestamp": -1}),
        ("EventIn", {**event, "other": 1}),
        ("EventsIn", {"events": []}),
        ("RecommendIn", {"n": 0}),
        ("RecommendIn", {"n": 1001}),
        ("RecommendIn", {"candidates": []}),
        ("RankIn", {}),
        ("EntryIn", {"id": "a", "stock": -1}),
        ("RollbackIn", {"version": 0}),
    ]
    kinds = {k.__name__: k for r in ROUTES for k in (r.body, r.many) if k is not None}
    for name, value in cases:
        schema = {"$ref": f"#/components/schemas/{name}"}
        assert not jsonschema_rs.validator_for(bundled(schema)).is_valid(value), (name, value)
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(value, kinds[name])


@schemathesis.serializer("application/x-ndjson")
def lines(ctx, value):
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


# Fuzzed: whatever fits the document, and much that does not, never fails the server


def fuzz(shop, n, told=DOCUMENT):
    """Call every operation with n cases that fit the document, and n that do not."""
    statuses = Counter()
    for found in schemathesis.openapi.from_dict(told).get_all_operations():
        for mode in GenerationMode:
            _fuzz_one(shop, found.ok(), mode, n, statuses)
        shop.settle()
    return statuses


def _fuzz_one(shop, operation, mode, n, statuses):
    @settings(
        max_examples=n,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def run(case):
        try:
            answer = sent(shop, case)
        except httpx.InvalidURL:  # longer than this client sends
            return
        statuses[answer.status_code] += 1
        assert answer.status_code < 500, (case, answer.text)
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
        elif answer.headers["content-type"] == "application/json":
            told = operation.definition.raw["responses"][str(answer.status_code)]["content"]
            if "application/json" in told:  # not where any JSON may come
                check(told["application/json"]["schema"], answer.json())

    with suppress(Unsatisfiable):  # nothing can be wrong about a call without parameters
        run()


def sent(shop, case):
    told = case.as_transport_kwargs(base_url="http://shop")
    content = told.get("data")
    if "json" in told:
        content = json.dumps(told["json"]).encode()
    own = {k: v for k, v in told["headers"].items() if k.lower() not in ("host", "cookie")}
    headers = {k: str(v).encode("latin-1", "replace") for k, v in own.items()}
    given = {} if content is None else {"content": content}
    return shop.call(told["method"], told["url"], headers=headers, params=told["params"], **given)


def test_nothing_that_a_fuzzer_sends_is_a_fault_of_ours(demo):
    statuses = fuzz(demo, 2)
    assert statuses[200] > len(ROUTES) / 2
    assert statuses[422] > len(ROUTES) / 4


def test_nothing_that_a_fuzzer_sends_to_the_gorse_dialect_is_a_fault_of_ours(demo):
    statuses = fuzz(demo, 1, GORSE)
    assert statuses[200] > len(gorse.TABLE) / 4


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("told", [DOCUMENT, GORSE], ids=["own", "gorse"])
def test_nothing_that_a_fuzzer_sends_for_long_is_a_fault_of_ours(demo, told):
    statuses = fuzz(demo, 200, told)
    assert statuses[200] > 50 * len(told["paths"]) / 2
