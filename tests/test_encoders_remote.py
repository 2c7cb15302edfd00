import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from steerec.encoders import EncoderConfig
from steerec.encoders.remote import RemoteEncoder, Timing
from steerec.errors import ConfigError, EncoderError


class Service:
    """A real HTTP server that answers what the test lined up, then well."""

    def __init__(self):
        self.lined_up = []  # functions of the request body that give (status, headers, text)
        self.bodies, self.keys, self.paths = [], [], []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.bodies.append(body)
                service.keys.append(self.headers.get("Authorization"))
                service.paths.append(self.path)
                answer = service.lined_up.pop(0) if service.lined_up else well
                status, headers, text = answer(body)
                if status == 0:  # hang up without an answer
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


def vector(text):
    return [float(len(text)), 1.0, 0.0]


def well(body):
    data = [{"index": i, "embedding": vector(t)} for i, t in enumerate(body["input"])]
    return 200, {}, json.dumps({"data": data[::-1]})  # not in order, as the dialect allows


def busy(status=503, **headers):
    return lambda body: (status, {k.replace("_", "-"): v for k, v in headers.items()}, "busy")


def says(data):
    return lambda body: (200, {}, data if isinstance(data, str) else json.dumps(data))


@pytest.fixture
def service():
    made = Service()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


class Clock:
    """Time that passes only by pausing."""

    def __init__(self):
        self.time, self.pauses = 1_000_000.0, []
        self.timing = Timing(now=lambda: self.time, pause=self.pause, chance=lambda: 0.0)

    def pause(self, seconds):
        self.pauses.append(seconds)
        self.time += seconds


def opened(service, clock=None, environment=None, **settings):
    settings = {"dim": 3, "requests_per_minute": 1e6, "batch_size": 2, "retries": 3} | settings
    config = EncoderConfig(encoder="remote", model="m", url=service.url, **settings)
    timing = (clock or Clock()).timing
    return RemoteEncoder.open(config, None, environment=environment or {}, timing=timing)


def test_texts_go_in_batches_and_come_back_in_order(service):
    texts = ["a", "", "bbb", "cc", "dddd"]
    got = opened(service).encode(texts)
    expected = np.array([vector(t) if t else [0, 0, 0] for t in texts])
    length = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(got, expected / np.where(length > 0, length, 1), rtol=1e-6)
    assert [b["input"] for b in service.bodies] == [["a", "bbb"], ["cc", "dddd"]]
    assert service.bodies[0]["model"] == "m"
    assert service.paths[0] == "/v1/embeddings"


def test_the_key_comes_from_the_environment_and_is_never_logged(service, caplog):
    service.lined_up = [busy()]
    encoder = opened(service, environment={"MY_KEY": "s3cret"}, key_env="MY_KEY")
    with caplog.at_level(logging.DEBUG):
        encoder.encode(["a"])
    assert service.keys == ["Bearer s3cret"] * 2
    assert "problem=HTTP 503" in caplog.text
    assert "s3cret" not in caplog.text + encoder.name + repr(vars(encoder)["_config"])


def test_a_missing_key_or_url_is_a_config_error(service):
    with pytest.raises(ConfigError, match="MY_KEY"):
        opened(service, key_env="MY_KEY")
    with pytest.raises(ConfigError, match="url"):
        RemoteEncoder.open(EncoderConfig(encoder="remote", model="m"), None)


@pytest.mark.parametrize("trouble", [busy(429), busy(500), busy(503), busy(0)])
def test_a_busy_service_is_asked_again_after_doubling_waits(service, trouble):
    clock = Clock()
    service.lined_up = [trouble] * 3
    assert opened(service, clock).encode(["a"]).any()
    waits = [p for p in clock.pauses if p > 0.1]
    assert waits == [0.25, 0.5, 1.0]  # half of 0.5, 1, 2, chance giving nothing
    assert len(service.bodies) == 4


def test_the_wait_the_service_asks_for_is_kept(service):
    clock = Clock()
    date = "Mon, 12 Jan 1970 13:46:50 GMT"  # 1,000,010 seconds
    service.lined_up = [busy(429, Retry_After="7"), busy(429, Retry_After="soon")]
    opened(service, clock).encode(["a"])
    assert [p for p in clock.pauses if p > 0.1] == [7.0, 0.5]
    later = Clock()
    service.lined_up = [busy(503, Retry_After=date)]
    opened(service, later).encode(["a"])
    assert [p for p in later.pauses if p > 0.1] == [10.0]


def test_a_service_that_stays_away_is_an_error_after_the_last_try(service):
    service.lined_up = [busy()] * 9
    with pytest.raises(EncoderError, match=r"after 4 tries \(HTTP 503\)"):
        opened(service).encode(["a"])
    assert len(service.bodies) == 4


def test_a_slow_service_is_an_error_and_not_waited_for(service):
    let_go = threading.Event()

    def slow(body):
        let_go.wait(5)
        return 0, {}, ""

    service.lined_up = [slow]
    with pytest.raises(EncoderError, match=r"1 tries \(ReadTimeout\)"):
        opened(service, timeout_s=0.1, retries=0).encode(["a"])
    let_go.set()


def test_a_refusal_is_not_tried_again(service):
    service.lined_up = [lambda body: (401, {}, "wrong key")]
    with pytest.raises(EncoderError, match=r"HTTP 401: 'wrong key'"):
        opened(service).encode(["a"])
    assert len(service.bodies) == 1


def test_requests_keep_their_distance(service):
    clock = Clock()
    opened(service, clock, batch_size=1, requests_per_minute=60).encode(["a", "b", "c"])
    assert clock.pauses == [1.0, 1.0]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("no json", "no list"),
        ({"error": "x"}, "no list"),
        ({"data": []}, "no list"),
        ({"data": [{"index": 1, "embedding": [1, 2, 3]}]}, "no list"),
        ({"data": [{"index": 0, "embedding": "x"}]}, "no list"),
        ({"data": [{"index": 0, "embedding": []}]}, "no list"),
        ({"data": [{"index": 0, "embedding": [1, 2]}]}, "length 2, expected 3"),
        ('{"data": [{"index": 0, "embedding": [1, NaN, 2]}]}', "NaN"),
        ({"data": [{"index": 0, "embedding": [0, 0, 0]}]}, "only zeros"),
    ],
)
def test_an_answer_that_is_no_vector_is_refused(service, answer, problem):
    service.lined_up = [says(answer)]
    with pytest.raises(EncoderError, match=problem):
        opened(service).encode(["a"])


def test_the_length_is_learnt_where_it_is_not_set(service):
    assert opened(service, dim=0).dim == 3
