"""One battery for every encoder of the table."""

import json
import logging
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from steerec.encoders import ENCODERS, EncoderConfig, onnx_export, open_encoder
from steerec.encoders.cache import CachedEncoder
from steerec.encoders.hashing import HashingEncoder
from steerec.errors import ConfigError

TEXTS = [
    "red cotton shirt",
    "",
    "garden chair made of oak, with cushions, for the terrace or the balcony",
    "   ",
    "蓝色衬衫",
    "red cotton shirt",
    "!!!",
    "lamp " * 400,
]


class _Embeddings(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        vectors = HashingEncoder(dim=32).encode(body["input"])
        data = [{"index": i, "embedding": v.tolist()} for i, v in enumerate(vectors)]
        answer = json.dumps({"data": data[::-1]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


@contextmanager
def _service():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Embeddings)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("encoders")


@pytest.fixture(scope="module")
def url():
    with _service() as address:
        yield address


@pytest.fixture(scope="module", params=ENCODERS)
def config(request, url):
    if request.param == "remote":
        return EncoderConfig(
            encoder="remote", model="test", url=url, batch_size=3, requests_per_minute=1e6
        )
    return EncoderConfig(encoder=request.param, batch_size=3, threads=2, max_tokens=64)


@pytest.fixture(scope="module")
def encoder(config, cache_dir):
    opened = open_encoder(config, cache_dir=cache_dir)
    assert isinstance(opened, CachedEncoder)
    return opened._encoder  # the battery asks the encoder itself, not its cache


def test_vectors_have_the_promised_shape_and_type(encoder):
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), encoder.dim)
    assert vectors.dtype == np.float32


def test_no_texts_give_no_rows(encoder):
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_empty_texts_are_zero_and_others_have_unit_length(encoder):
    length = np.linalg.norm(encoder.encode(TEXTS), axis=1)
    np.testing.assert_allclose(length, [1, 0, 1, 0, 1, 1, 1, 1], atol=1e-5)
    assert not encoder.encode(["", " "]).any()


def test_a_text_has_the_same_vector_whatever_stands_beside_it(encoder):
    together = encoder.encode(TEXTS)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=2e-6)
    np.testing.assert_allclose(encoder.encode(TEXTS[::-1]), together[::-1], atol=2e-6)


def test_the_same_texts_give_the_same_vectors(encoder):
    np.testing.assert_array_equal(encoder.encode(TEXTS), encoder.encode(TEXTS))


def test_texts_alike_are_nearer_than_texts_unlike(encoder):
    shirt, other_shirt, chair = encoder.encode(
        ["red cotton shirt", "blue cotton shirt", "wooden garden chair"]
    )
    assert shirt @ other_shirt > shirt @ chair + 0.1


def test_the_name_tells_settings_apart_that_change_vectors(config, cache_dir, encoder):
    if config.encoder in ("text", "onnx"):
        other = EncoderConfig(encoder=config.encoder, max_tokens=32)
        assert open_encoder(other, cache_dir=cache_dir).name != encoder.name
    assert open_encoder(config, cache_dir=cache_dir).name == encoder.name


def test_an_opened_encoder_answers_a_second_time_from_its_cache(config, cache_dir):
    first = open_encoder(config, cache_dir=cache_dir).encode(TEXTS)
    second = open_encoder(config, cache_dir=cache_dir)
    np.testing.assert_array_equal(second.encode(TEXTS), first)
    assert second.misses == 0


@pytest.fixture(scope="module")
def int8(cache_dir):
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    made = open_encoder(EncoderConfig(encoder="onnx"), cache_dir=cache_dir)
    assert (root.handlers, root.level) == (handlers, level)  # conversion leaves logging alone
    return made._encoder


def test_int8_agrees_with_float32(int8, cache_dir):
    words = ["red", "cotton", "oak", "garden", "chair", "lamp", "novel", "sea", "tea", "knife"]
    rng = np.random.default_rng(5)
    texts = [" ".join(rng.choice(words, n)) for n in rng.integers(1, 40, 60)]
    exact = open_encoder(EncoderConfig(), cache_dir=cache_dir).encode(texts)
    cosine = (int8.encode(texts) * exact).sum(axis=1)
    assert cosine.mean() >= 0.98
    assert cosine.min() >= 0.96
    assert int8.agreement[0] >= 0.98


def test_a_damaged_int8_model_is_not_used(int8, cache_dir, monkeypatch):
    folder = next((cache_dir / "onnx").iterdir())
    whole = (folder / "tokenizer.json").read_bytes()
    converted = []

    def convert_quickly(files, made):  # what the conversion wrote before, instead of 20 s
        shutil.copytree(folder, made, dirs_exist_ok=True)
        (made / "tokenizer.json").write_bytes(whole)
        converted.append(files.key)

    monkeypatch.setattr(onnx_export, "_convert", convert_quickly)
    (folder / "tokenizer.json").write_bytes(whole[:-1])
    open_encoder(EncoderConfig(encoder="onnx"), cache_dir=cache_dir)
    assert len(converted) == 1
    open_encoder(EncoderConfig(encoder="onnx"), cache_dir=cache_dir)
    assert len(converted) == 1


def test_int8_without_a_cache_folder_is_a_config_error():
    with pytest.raises(ConfigError, match="cache folder"):
        open_encoder(EncoderConfig(encoder="onnx"), cache_dir=None)


def test_a_full_cache_needs_no_pytorch(cache_dir):
    texts = ["red cotton shirt", "lamp"]
    open_encoder(EncoderConfig(), cache_dir=cache_dir).encode(texts)
    code = (
        "import sys; from pathlib import Path\n"
        "from steerec.encoders import EncoderConfig, open_encoder\n"
        f"e = open_encoder(EncoderConfig(), cache_dir=Path({str(cache_dir)!r}))\n"
        f"assert e.encode({texts!r}).any(axis=1).all() and e.misses == 0\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
