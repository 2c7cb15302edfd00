"""Keys, scopes, tenants, limits and hostile input over HTTP."""

import json
import logging
import re
import ssl
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError, URLError
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from served import Server
from service_worlds import opened, problem
from steerec.cli import app as verbs
from steerec.config import ServiceConfig
from steerec.errors import ConfigError
from steerec.service.app import ROUTES
from steerec.service.gate import KEPT_S, SCOPES
from steerec.service.telemetry import JsonLines
from steerec.store import open_store

ROOT = Path(__file__).parents[1]
BODIES = {  # what each route with a body is called with; the rest need none
    "/api/events": {"user_id": "ann", "item_id": "i0001"},
    "/api/users/{user_id}/merge": {"session_id": "visitor"},
    "/api/recommend": {"user_id": "ann"},
    "/api/rank": {"user_id": "ann", "candidates": ["i0001"]},
    "/api/items": {"id": "x"},
    "/api/users": {"id": "x"},
    "/api/items/{item_id}": {"stock": 1},
    "/api/users/{user_id}": {"hidden": False},
    "/api/strategy/promote": {"version": 1},
    "/api/strategy/rollback": {"version": 1},
}


def key_for(shop, *scopes, tenant="default"):
    return shop.service.store.keys.issue(tenant, scopes, now=shop.clock.now)[0]


def called(shop, route, key=None, **headers):
    path = route.path.format(user_id="ann", item_id="i0001", request_id="r1", name="first")
    body = BODIES.get(route.path)
    more = {"json": body} if body is not None and route.method in ("POST", "PATCH") else {}
    return shop.call(route.method, path, key=key, headers=headers, **more)


@pytest.fixture
def locked(sqlite_url, loop):
    made = opened(sqlite_url, loop=loop, keys=True)
    yield made
    made.close()


@pytest.fixture(scope="module")
def guarded(loop, tmp_path_factory):
    """One service with keys, for tests that change nothing in it."""
    made = opened(f"sqlite:///{tmp_path_factory.mktemp('keys')}/s.db", loop=loop, keys=True)
    yield made
    made.close()


# Keys


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{r.method} {r.path}")
def test_every_route_needs_a_key_of_its_scope(guarded, route):
    if route.scope == "open":
        assert called(guarded, route).status_code == 200
        return
    assert "X-API-Key" in problem(called(guarded, route), 401)
    others = [scope for scope in SCOPES if scope not in (route.scope, "admin", "open")]
    refused = called(guarded, route, key_for(guarded, *others))
    assert route.scope in problem(refused, 403)
    assert called(guarded, route, key_for(guarded, route.scope)).status_code not in (401, 403)


def test_an_admin_may_call_everything(guarded):
    key = key_for(guarded, "admin")
    for route in ROUTES:
        assert called(guarded, route, key).status_code not in (401, 403, 500)


def test_altered_and_foreign_keys_are_unknown(guarded):
    key = key_for(guarded, "read")
    prefix, key_id, secret = key.split("_")
    flipped = secret[:-1] + ("0" if secret[-1] != "0" else "1")
    for wrong in (f"{prefix}_{key_id}_{flipped}", key + "0", key[:-1], key.upper(), "'", key_id):
        answer = guarded.get("/api/popular", key=wrong)
        assert "unknown" in problem(answer, 401)
        assert secret not in answer.text


def test_a_revoked_key_is_refused_within_seconds_and_at_once_where_it_was_revoked(locked):
    now = [0.0]
    gate = locked.service.counter.gate
    gate.clock = lambda: now[0]
    key = key_for(locked, "read")
    key_id = key.split("_")[1]
    assert locked.get("/api/popular", key=key).status_code == 200
    assert locked.service.store.keys.revoke("default", key_id, now=1.0)
    now[0] = KEPT_S + 1
    problem(locked.get("/api/popular", key=key), 401)
    other = key_for(locked, "read")
    assert locked.get("/api/popular", key=other).status_code == 200
    locked.service.store.keys.revoke("default", other.split("_")[1], now=1.0)
    gate.forget(other.split("_")[1])
    problem(locked.get("/api/popular", key=other), 401)


def test_a_key_is_as_long_as_256_bits_and_only_its_digest_is_kept(locked):
    key = key_for(locked, "read")
    secret = key.split("_")[2]
    assert len(secret) * 4 == 256
    with locked.service.store.database.read() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM api_keys").all()
    assert secret not in str(rows)


def test_one_key_is_slowed_down_and_others_are_not(sqlite_url, loop):
    shop = opened(sqlite_url, loop=loop, keys=True, calls_per_s=2.0, burst=3)
    now = [0.0]
    shop.service.counter.gate.clock = lambda: now[0]
    fast, other = key_for(shop, "read"), key_for(shop, "read")
    statuses = [shop.get("/api/popular", key=fast).status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    answer = shop.get("/api/popular", key=fast)
    problem(answer, 429)
    assert int(answer.headers["Retry-After"]) >= 1
    assert shop.get("/api/popular", key=other).status_code == 200
    now[0] = 0.5  # one token more
    assert shop.get("/api/popular", key=fast).status_code == 200
    problem(shop.get("/api/popular", key=fast), 429)
    shop.close()


# Tenants


def test_a_dump_over_http_restores_and_leaves_no_file(locked, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    key = key_for(locked, "admin")
    event = {"user_id": "ann", "item_id": "i0001", "event_id": "e1"}
    locked.post("/api/events", event, key=key)
    answer = locked.get("/api/dump", key=key)
    assert answer.headers["content-type"] == "application/zip"
    assert not list(tmp_path.glob("steerec-dump-*"))
    (tmp_path / "dump.zip").write_bytes(answer.content)
    other = open_store(f"sqlite:///{tmp_path}/other.db")
    other.restore(tmp_path / "dump.zip")
    assert [one.event_id for one in other.log.iterate("default")] == ["e1"]
    assert other.keys.check(key) is not None
    other.close()


def test_a_tenant_cannot_cross_anywhere(locked):
    """Whatever the first one has, the second neither reads, nor changes, nor deletes."""
    one = key_for(locked, "admin")
    two = key_for(locked, "admin", tenant="rival")
    event = {"user_id": "ann", "item_id": "i0001", "event_id": "e1"}
    assert locked.post("/api/events", event, key=one).json()["accepted"] == 1
    locked.post("/api/items", {"id": "secret-item"}, key=one)
    locked.post("/api/users", {"id": "ann", "attributes": {"age": 30}}, key=one)
    slate = locked.get("/api/recommend/ann", key=one).json()
    asked = {"json": {"user_id": "ann"}, "headers": {"Idempotency-Key": "k1"}}
    kept = locked.call("POST", "/api/recommend", key=one, **asked).json()
    locked.flush()

    def reads(path, status):
        answer = locked.get(path, key=two)
        assert answer.status_code == status, path
        assert status == 404 or "secret-item" not in answer.text  # a refusal names what was asked
        return answer

    reads("/api/items/secret-item", 404)
    reads("/api/users/ann", 404)
    reads(f"/api/requests/{slate['request_id']}/explain", 404)
    reads(f"/api/recommend/ann?next={slate['next']}", 404)
    reads("/api/items/i0001/similar", 404)
    assert "holds all tenants" in problem(locked.get("/api/dump", key=two), 403)
    for path in ("/api/items", "/api/items/export", "/api/users", "/api/users/export"):
        assert "ann" not in reads(path, 200).text
    assert reads("/api/users/ann/data", 200).json() == {"records": []}
    assert reads("/api/recommend/ann", 200).json()["items"] == []
    assert reads("/api/popular", 200).json() == {"items": []}
    again = locked.call("POST", "/api/recommend", key=two, **asked).json()
    assert again["request_id"] != kept["request_id"]
    # Nor does what it writes, merges or erases touch the first.
    assert locked.post("/api/events", event, key=two).json()["events"][0]["outcome"] == "new"
    locked.post("/api/users/eve/merge", {"session_id": "ann"}, key=two)
    problem(locked.call("PATCH", "/api/items/secret-item", json={"stock": 0}, key=two), 404)
    assert locked.call("DELETE", "/api/items/secret-item", key=two).json() == {"count": 0}
    erased = locked.call("DELETE", "/api/users/ann/data", key=two).json()
    assert erased["events"] == 1
    assert locked.get("/api/items/secret-item", key=one).status_code == 200
    assert len(locked.get("/api/users/ann/data", key=one).json()["records"]) >= 3
    assert len(locked.tenant().live.recommender.history("ann")) == 1
    metrics = locked.get("/metrics").text
    assert "ann" not in metrics
    assert "secret-item" not in metrics


def test_a_key_of_one_tenant_cannot_revoke_anothers(locked):
    key = key_for(locked, "read")
    assert not locked.service.store.keys.revoke("rival", key.split("_")[1], now=1.0)
    assert locked.get("/api/popular", key=key).status_code == 200


# Logs


def test_no_secret_is_ever_logged(locked, caplog):
    caplog.set_level(logging.DEBUG)
    key = key_for(locked, "admin")
    wrong = key[:-1] + ("0" if key[-1] != "0" else "1")
    for route in ROUTES:
        called(locked, route, key)
        called(locked, route, wrong)
    locked.call("POST", "/api/events", key=key, content=b'{"user_id": ')
    secret = key.split("_")[2]
    told = "\n".join(f"{r.getMessage()} {r.exc_info} {vars(r)}" for r in caplog.records)
    assert "default" in told  # something was logged
    assert secret not in told
    assert secret[:-1] not in told


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "shop.example", ""])
def test_without_keys_only_addresses_of_this_machine_are_listened_on(host):
    with pytest.raises(ConfigError, match="would let everybody in: set keys = true"):
        ServiceConfig(host=host)
    with pytest.raises(ConfigError, match="would let everybody in"):
        replace(ServiceConfig(), host=host)  # as the command line does
    assert ServiceConfig(host=host, keys=True).host == host
    for own in ("127.0.0.1", "::1", "localhost"):
        assert ServiceConfig(host=own).host == own


def certificate(folder):
    """A key and a certificate for 127.0.0.1, signed by itself."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=steerec-test"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    made = folder / "cert.pem", folder / "key.pem"
    command += ["-out", str(made[0]), "-keyout", str(made[1])]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return made


def healthy(port):
    """Whether the health check of the image, of a service at this port, says that it lives."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    _, _, *words = json.loads(re.search(r"^HEALTHCHECK .*\n *CMD (.*)$", text, re.M)[1])
    assert ":8080/" in words[0]
    code = words[0].replace(":8080/", f":{port}/")
    return subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0


def test_the_images_health_check_knows_a_service_from_what_refuses_and_from_none(tmp_path):
    files = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with HTTPServer(("127.0.0.1", 0), files) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        assert not healthy(server.server_port)  # 404
        (tmp_path / "api/health").mkdir(parents=True)
        (tmp_path / "api/health/live").write_text("{}")
        assert healthy(server.server_port)
        server.shutdown()
    assert not healthy(server.server_port)


def test_a_service_speaks_tls_and_logs_calls_by_their_id_and_no_secret(tmp_path):
    cert, private = certificate(tmp_path)
    flags = ("--tls-certificate", str(cert), "--tls-key", str(private))
    redis = "redis://:open-sesame@127.0.0.1:1/0"  # nobody is there, which is logged
    server = Server(
        tmp_path,
        service="keys = true",
        trusted=cert,
        environment={"STEEREC_REDIS_URL": redis},
        flags=flags,
    )
    store = open_store(server.url)
    key, _ = store.keys.issue("default", ["admin"], now=time.time())
    store.close()
    wrong = key[:-1] + ("0" if key[-1] != "0" else "1")
    server.start()
    try:
        event = {"user_id": "ann", "item_id": "tea"}
        assert server.call("/api/events", event, X_API_Key=key)["accepted"] == 1
        with pytest.raises(HTTPError, match="401"):
            server.call("/api/events", event, X_API_Key=wrong)
        with pytest.raises(HTTPError, match=r"404|422"):
            server.call(f"/api/items/{key}?q={key}", X_API_Key=key)
        assert healthy(server.port)
        server.tls = ssl.create_default_context()
        with pytest.raises(URLError, match="self-signed"):
            server.call("/api/health/live")
        server.tls, server.base = None, server.base.replace("https", "http")
        with pytest.raises(OSError, match=r"closed|reset|aborted"):
            server.call("/api/health/live")
    finally:
        assert server.stop() == 0
    told = server.log.read_text("utf-8")
    rows = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    assert {"time", "level", "logger", "message"} <= rows[0].keys()
    assert "Traceback" not in told
    assert f"{server.base.replace('http', 'https')}, http://127.0.0.1:" in told  # where docs are
    assert any(row["message"].startswith("redis=away") for row in rows)
    for secret in (key.split("_")[2], wrong.split("_")[2], "open-sesame"):
        assert secret not in told


def test_a_certificate_needs_its_key_and_is_read_before_all_else(tmp_path):
    cert, private = (str(path) for path in certificate(tmp_path))

    def told(*words):
        result = CliRunner().invoke(verbs, ["serve", "--port", "0", *words])
        assert result.exit_code == 1
        return result.stderr

    assert "tls_key=None: give both or none" in told("--tls-certificate", cert)
    assert "tls_certificate=None" in told("--tls-key", private)
    nowhere = str(tmp_path / "nowhere.pem")
    for given in (nowhere, cert, __file__):
        error = told("--tls-certificate", cert, "--tls-key", given)
        assert f"tls_key={given}: they cannot be used" in error
        assert "expected readable PEM files of a certificate and of its key" in error


def test_what_a_call_leaves_in_the_log_has_its_id(shop, monkeypatch, caplog):
    def broken(*_, **__):
        raise ValueError("inner workings")

    monkeypatch.setattr(shop.tenant().live, "recommend", broken)
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(json.loads(JsonLines().format(record)))
    logging.getLogger("steerec").addHandler(handler)
    answer = shop.get("/api/recommend/ann")
    logging.getLogger("steerec").removeHandler(handler)
    (line,) = lines
    assert "inner workings" in line["error"]
    assert line["request_id"] == answer.headers["X-Request-ID"] == answer.json()["instance"]


def test_a_fault_of_ours_tells_the_caller_nothing_of_its_inside(shop, monkeypatch, caplog):
    def broken(*_, **__):
        raise ValueError("inner workings")

    monkeypatch.setattr(shop.tenant().live, "recommend", broken)
    answer = shop.get("/api/recommend/ann")
    assert "inner workings" not in problem(answer, 500)
    assert answer.headers["X-Request-ID"] in answer.text
    assert "inner workings" in caplog.text


# Hostile bodies


def sent(shop, path, content, **headers):
    headers = {"Content-Type": "application/json", **headers}
    return shop.call("POST", path, content=content, headers=headers)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 422),
        (b"null", 422),
        (b"7", 422),
        (b"\xff\xfe", 400),
        (b'{"user_id": "\xff"}', 400),
        (b'{"user_id": "a", "item_id": "i", "value": NaN}', 400),
        (b'{"user_id": "a", "item_id": "i", "value": 1e999}', 422),
        (b'{"user_id": "a", "item_id": "i", "timestamp": -1}', 422),
        (b'{"user_id": "a", "item_id": "i", "timestamp": "now"}', 422),
        (b'{"user_id": "a", "item_id": "i", "colour": 1}', 422),
        (b'{"user_id": "", "item_id": "i"}', 422),
        (b'{"user_id": "' + b"a" * 257 + b'", "item_id": "i"}', 422),
        (b'{"user_id": "a\\u0000b", "item_id": "i"}', 422),
        (b'{"user_id": "\\ud800", "item_id": "i"}', 400),
        (b'{"user_id": "a", "item_id": "i", "context": ' + b"[" * 100_000, 400),
        (b'{"user_id": "a", "item_id": "i", "context": {"a": ' + b'{"a": ' * 2_000, 400),
        (b'{"events": []}', 422),
        (b'{"events": {"user_id": "a"}}', 422),
        (b'{"events": [1]}', 422),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_body_that_is_wrong_is_a_problem_that_says_why(quiet, content, status):
    assert problem(sent(quiet, "/api/events", content), status)


@pytest.fixture(scope="module")
def quiet(loop, tmp_path_factory):
    """One service for tests that are refused."""
    made = opened(f"sqlite:///{tmp_path_factory.mktemp('quiet')}/s.db", loop=loop)
    yield made
    assert made.service.store.log.read("default") == []
    made.close()


def test_deep_json_that_closes_is_refused_or_stored_but_never_fails(shop):
    deep = b'{"a": ' * 500 + b"1" + b"}" * 500
    content = b'{"user_id": "a", "item_id": "i", "context": ' + deep + b"}"
    assert sent(shop, "/api/events", content).status_code in (200, 400, 422)
    content = b'{"id": "deep", "attributes": ' + deep + b"}"
    assert sent(shop, "/api/items", content).status_code in (200, 400, 422)
    shop.settle()
    assert shop.get("/api/items").status_code == 200


def test_a_body_that_is_too_long_is_413_whether_it_says_so_or_not(quiet):
    long = b" " * 10_000_000
    assert "8,388,608" in problem(sent(quiet, "/api/events", long), 413)

    async def parts():
        for _ in range(200):
            yield b" " * 50_000

    problem(sent(quiet, "/api/events", parts()), 413)


def test_100_000_items_in_one_call_are_refused_and_as_lines_taken(shop):
    entries = [{"id": f"n{i}"} for i in range(100_000)]
    answer = shop.post("/api/items", {"entries": entries})
    assert "5000 objects; send more in several calls, or as JSON lines" in problem(answer, 422)
    lines = "\n".join(json.dumps(entry) for entry in entries[:3_000])
    answer = shop.call("POST", "/api/items/import", content=lines)
    assert answer.json() == {"count": 3_000}
    content = '{"id": "end", "attributes": {"title": "a\u2028b\x85c"}}\n{"id": 5}'
    answer = shop.call("POST", "/api/items/import", content=content.encode())
    assert problem(answer, 422) == "line 2 is no entry: id is 5: expected a text that is not empty"
    answer = shop.call("POST", "/api/items/import", content=content.split("\n")[0].encode())
    assert answer.json() == {"count": 1}
    answer = shop.call("POST", "/api/items/import", content=b'{"id": "x"}\n{"id": "\xff"}')
    assert problem(answer, 400).startswith("line 2, byte 20 of the body, is not UTF-8")
    shop.settle()
    assert len(shop.ids("ann", n=20)) == 20


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/api/recommend/ann", {"n": -1}),
        ("/api/recommend/ann", {"n": 0}),
        ("/api/recommend/ann", {"n": 1_001}),
        ("/api/recommend/ann", {"n": "ten"}),
        ("/api/recommend/ann", {"n": "9" * 400}),
        ("/api/recommend/ann", {"m": 3}),
        ("/api/recommend/ann", [("n", "3"), ("n", "4")]),
        ("/api/recommend/ann", {"next": "nothing"}),
        ("/api/recommend/ann", {"next": "a.b"}),
        ("/api/recommend/ann", {"next": "a.\u0665"}),
        ("/api/recommend/ann", {"next": "a.\u00b2"}),
        ("/api/recommend/ann", {"next": "a." + "9" * 298}),
        ("/api/recommend/" + "a" * 257, {}),
        ("/api/recommend/a%00b", {}),
        ("/api/popular", {"n": -5}),
        ("/api/items", {"limit": 0}),
        ("/api/items", {"after": "\x00"}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_parameters_out_of_range_are_refused(quiet, path, params):
    assert problem(quiet.get(path, params=params), 422)


@pytest.mark.parametrize(
    "hostile",
    [
        "__import__('os').system('id')",
        "price < ",
        "price < 20 and " * 100 + "price < 20",
        "(" * 500 + "price < 20" + ")" * 500,
        "not " * 400 + "hidden",
        "no_such < 3",
        "title < 3",
        "price in " + str(list(range(300))),
        "price = 1; DROP TABLE items",
        "price < 1e999",
        'title == "' + "a" * 1_900 + '"',
        "item_id.__class__",
        "\x00",
    ],
    ids=lambda text: text[:30],
)
def test_a_hostile_filter_is_refused_or_matches_as_written_and_never_runs(quiet, hostile):
    answer = quiet.get("/api/recommend/ann", params={"filter": hostile})
    if answer.status_code != 200:
        problem(answer, 422)
    assert quiet.get("/api/popular", params={"filter": hostile}).status_code in (200, 422)


def test_ids_with_slashes_and_percent_signs_are_reached_by_their_escaped_form(shop):
    for name in ("shoes/red", "50%2F50", "a/../b", "/"):
        assert shop.post("/api/items", {"id": name, "attributes": {"title": name}}).json()
        shop.settle()
        path = f"/api/items/{quote(name, safe='')}"
        assert shop.get(path).json()["id"] == name
        assert shop.call("PATCH", path, json={"stock": 3}).json()["stock"] == 3
        shop.event(f"user {name}", name)
        mine = shop.get(f"/api/users/{quote(f'user {name}', safe='')}/data").json()["records"]
        assert [record["event"]["item_id"] for record in mine] == [name]
        assert shop.get(f"{path}/similar").status_code == 200
        assert shop.get(f"/gorse/api/item/{quote(name, safe='')}/").json()["ItemId"] == name
        assert shop.call("DELETE", path).json() == {"count": 1}
    problem(shop.get("/api%2Fitems/tea"), 404)


@pytest.mark.parametrize(
    "path",
    [
        "/api/recommend/%ff", "/api/users/a%c3%28/data", "/api/items/%ed%a0%80/similar",
        "/api/items/%ff%2Fa", "/api/recommend/ann?exclude=%ff", "/gorse/api/item/%fe",
    ],
)  # fmt: skip
def test_escapes_that_are_no_text_are_refused_and_not_read_as_another_id(quiet, path):
    told = problem(quiet.get(path), 422)
    assert "not UTF-8" in told
    assert quiet.get("/api/recommend/%C3%A9%F0%9F%8D%B5").status_code == 200


def test_paths_that_do_not_exist_are_problems(quiet):
    answer = quiet.get("/api/nothing")
    problem(answer, 404)
    assert answer.json()["instance"] == answer.headers["x-request-id"] != ""
    problem(quiet.call("DELETE", "/api/events"), 405)
    problem(quiet.get("/api/../etc/passwd"), 404)
