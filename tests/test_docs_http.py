"""Every curl command of the documentation, run on a small sample shop; and the client's page."""

import asyncio
import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest

from service_worlds import Clock, opened
from steerec.client import SteerecClient
from steerec.config import Settings
from steerec.data.sample import YEAR_END, sample_shop, write_csv
from steerec.encoders import EncoderConfig
from steerec.engine.intake import Source, take_in
from steerec.engine.model import fit
from steerec.engine.texts import encode_items, with_vectors
from steerec.service.app import ROUTES
from test_docs import ROOT, blocks

HTTP, GORSE, CLIENT = (ROOT / "docs" / name for name in ("http.md", "from-gorse.md", "client.md"))
HEADS = ("trending", "transitions", "ease", "content")


@dataclass
class Curl:
    """What a curl command asks for, read as curl reads it."""

    url: str = ""
    method: str = ""
    headers: dict = field(default_factory=dict)
    body: bytes | None = None
    query: list = field(default_factory=list)
    into: str | None = None

    @classmethod
    def of(cls, words, folder):
        made, left, in_url = cls(), list(words[1:]), False
        while left:
            word = left.pop(0)
            if word == "-X":
                made.method = left.pop(0)
            elif word == "-H":
                name, _, value = left.pop(0).partition(": ")
                made.headers[name] = value
            elif word in ("-d", "--data-binary"):
                given = left.pop(0)
                file = given.startswith("@")
                made.body = (folder / given[1:]).read_bytes() if file else given.encode()
            elif word == "--data-urlencode":
                name, _, value = left.pop(0).partition("=")
                made.query.append((name, value))
            elif word == "-G":
                in_url = True
            elif word == ">":
                made.into = left.pop(0)
            else:
                assert not word.startswith("-"), f"{word}: teach this reader what curl does"
                made.url = word
        assert in_url or not made.query
        made.method = made.method or ("GET" if made.body is None else "POST")
        return made

    @property
    def address(self):
        more = f"?{urlencode(self.query)}" if self.query else ""
        return re.sub(r"^http://127\.0\.0\.1:8080", "", self.url) + more


def shown(page):
    """Each command of a page with the lines of answer under it."""
    found = []
    for block in blocks(page, "console"):
        lines = block.text.splitlines()
        while lines:
            line = lines.pop(0)
            if not line.startswith("$ "):
                found[-1][1].append(line)
                continue
            while line.endswith("\\"):
                line = line[:-1] + lines.pop(0).strip()
            found.append((line[2:], []))
    return found


def run(page, shop, folder):
    """Run a page from top to bottom; yields each command with its answer and the one shown."""
    names = {}
    for command, wanted in shown(page):
        for name, value in names.items():
            command = command.replace(f"${name}", value)
        words = shlex.split(command)
        if words[0] != "curl":
            name, _, value = command.partition("=")
            assert name.isupper(), command
            names[name] = value
            continue
        curl = Curl.of(words, folder)
        given = {} if curl.body is None else {"content": curl.body}
        answer = shop.call(curl.method, curl.address, headers=curl.headers, **given)
        if curl.into:
            (folder / curl.into).write_bytes(answer.content)
        elif answer.headers["content-type"] == "application/json":
            told = answer.json()
            if isinstance(told, dict) and told.get("request_id"):
                names["REQUEST"], names["NEXT"] = told["request_id"], told.get("next") or ""
        yield command, answer, " ".join(wanted)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A small sample shop, fitted with the heads that take no time."""
    folder = tmp_path_factory.mktemp("sample")
    write_csv(sample_shop(n_items=200, n_users=150, n_events=4_000), folder / "shop")
    source = Source(data=str(folder / "shop"), cache_dir=folder)
    config = Settings(encoder=EncoderConfig(encoder="hashing"))
    data = take_in(source, config.clean, now=YEAR_END).data
    data = with_vectors(data, encode_items(data.items, config.encoder, cache_dir=folder))
    return fit(data, config.fit_config(HEADS), np.random.default_rng(0))


@pytest.fixture
def shop(sample, sqlite_url):
    loop = asyncio.new_event_loop()
    made = opened(sqlite_url, store_model=sample, clock=Clock(YEAR_END), loop=loop)
    yield made
    made.close()
    loop.close()


def fits(answer, wanted):
    """Whether an answer has the fields that are shown, and those values that are not left out."""
    for name, value in re.findall(r'"(\w+)": ("[^"]*"|\d+|true|false|…|\[|\{)', wanted):
        plain = json.dumps(json.loads(answer.content), ensure_ascii=False)
        found = f'"{name}": ' if value in "…[{" else f'"{name}": {value}'
        assert found in plain, f"{found} is not in {plain[:300]}"


def test_every_command_of_the_http_page_runs_and_each_route_is_shown(shop, tmp_path):
    n_run = 0
    for command, answer, wanted in run(HTTP, shop, tmp_path):
        expected = int((re.findall(r'"status": (\d+)', wanted) or [200])[0])
        assert answer.status_code == expected, f"{command}\n{answer.text}"
        fits(answer, wanted)
        n_run += 1
    assert n_run > 30
    called = re.findall(
        r'request_seconds_count\{method="(\w+)",route="([^"]+)"', shop.get("/metrics").text
    )
    assert {(route.method, route.path) for route in ROUTES} <= set(called)


def test_the_operators_page_names_every_metric(shop):
    page = (ROOT / "docs" / "operate.md").read_text("utf-8")
    told = shop.get("/metrics").text
    served = set(re.findall(r"^# TYPE (\w+)", told, re.M))
    served = {name for name in served if not name.endswith("_created")}
    assert served == set(re.findall(r"`(steerec_\w+)`", page))
    assert re.search(r"^steerec_store_bytes [1-9]", told, re.M)
    assert 'steerec_degraded{tenant="default"} 0.0' in told


def test_every_command_of_the_gorse_page_runs(shop, tmp_path):
    feedback = {"FeedbackType": "star", "UserId": "u00001", "ItemId": "p00003"}
    dump = {
        "users": {"UserId": "u00001", "Labels": {"city": "Pineridge"}, "Comment": ""},
        "items": {"ItemId": "p00003", "Timestamp": "2025-03-01T12:00:00Z", "Labels": None},
        "feedback": {**feedback, "Timestamp": "2025-03-01T12:00:00Z", "Value": 1},
    }
    for name, row in dump.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    answers = []
    for command, answer, wanted in run(GORSE, shop, tmp_path):
        assert answer.status_code == 200, f"{command}\n{answer.text}"
        fits(answer, wanted)
        answers.append(answer.json())
    assert answers[:3] == [{"RowAffected": 1}] * 3
    assert answers[-1] == {"RowAffected": 1}


def test_the_folder_of_a_dump_is_data_as_the_gorse_page_says(tmp_path):
    rows = [
        {
            "FeedbackType": "like",
            "UserId": f"u{n % 3}",
            "ItemId": f"i{n}",
            "Timestamp": "2025-03-01",
        }
        for n in range(6)
    ]
    (tmp_path / "feedback.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "items.jsonl").write_text(json.dumps({"ItemId": "i0", "Comment": "A kettle"}))
    came = take_in(
        Source(data=str(tmp_path), cache_dir=tmp_path), Settings().clean, now=YEAR_END
    ).data
    assert (came.n_users, came.n_items, came.n_events) == (3, 6, 6)
    assert came.items.filter(item_id="i0")["title"].to_list() == ["A kettle"]


def test_the_client_page_names_every_call():
    text = CLIENT.read_text("utf-8")
    named = {
        name
        for row in re.findall(r"^\| .* \| (.*) \|$", text, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    has = {name for name in vars(SteerecClient) if not name.startswith("_")}
    assert named == has - {"send", "close"}


def test_the_code_of_the_client_page_is_what_the_client_takes():
    (code,) = [block.text for block in blocks(CLIENT, "text")]
    compile(code, str(Path(CLIENT).name), "exec")
    used = set(re.findall(r"shop\.(\w+)\(", code))
    assert used <= set(vars(SteerecClient))
