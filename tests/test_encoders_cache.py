import hashlib
import logging
import multiprocessing
import sqlite3

import numpy as np
import pytest

from steerec.encoders.cache import FLEETING, FLEETING_S, CachedEncoder, Fleeting
from steerec.encoders.hashing import HashingEncoder
from steerec.errors import EncoderError


class Counting(HashingEncoder):
    """Remembers what it was asked for."""

    def __init__(self):
        super().__init__(dim=16)
        self.asked = []

    def encode(self, texts):
        self.asked += texts
        return super().encode(texts)


def test_a_second_run_encodes_nothing(tmp_path):
    texts = ["red shirt", "", "blue shirt", "red shirt", "  "]
    first = CachedEncoder(Counting(), tmp_path)
    before = first.encode(texts)
    inner = Counting()
    second = CachedEncoder(inner, tmp_path)
    np.testing.assert_array_equal(second.encode(texts), before)
    assert inner.asked == []
    assert (first.hits, first.misses, second.hits, second.misses) == (0, 2, 2, 0)
    np.testing.assert_array_equal(before, HashingEncoder(dim=16).encode(texts))


def test_only_new_distinct_texts_go_to_the_model(tmp_path):
    CachedEncoder(Counting(), tmp_path).encode(["a", "b"])
    inner = Counting()
    CachedEncoder(inner, tmp_path).encode(["b", "c", "c", ""])
    assert inner.asked == ["c"]


def test_encoders_of_other_names_do_not_share_vectors(tmp_path):
    one, two = Counting(), Counting()
    one.name, two.name = "model/a", "model_a"  # equal once made fit for a file name
    CachedEncoder(one, tmp_path).encode(["x"])
    CachedEncoder(two, tmp_path).encode(["x"])
    assert two.asked == ["x"]


@pytest.mark.parametrize(
    "change", ["vector = zeroblob(64)", "vector = x'00'", "vector = 'text'", "vector = NULL"]
)
def test_a_damaged_vector_is_encoded_again_and_counted(tmp_path, caplog, change):
    cached = CachedEncoder(Counting(), tmp_path)
    right = cached.encode(["a", "b"])
    with sqlite3.connect(cached.path) as db:
        # The key is SHA-256 of name, NUL and text.
        key = hashlib.sha256(f"{cached.name}\0a".encode()).digest()
        assert db.execute(f"UPDATE vectors SET {change} WHERE key = ?", [key]).rowcount == 1
    db.close()
    inner = Counting()
    again = CachedEncoder(inner, tmp_path)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(again.encode(["a", "b"]), right)
    assert inner.asked == ["a"]
    assert again.damaged == 1
    assert "rows=1" in caplog.text
    np.testing.assert_array_equal(CachedEncoder(Counting(), tmp_path).encode(["a", "b"]), right)


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_a_file_that_is_no_database_is_put_aside_and_made_anew(tmp_path, caplog, keep):
    texts = [f"text {i}" for i in range(600)]
    cached = CachedEncoder(Counting(), tmp_path)
    right = cached.encode(texts)
    whole = cached.path.read_bytes()
    cached.path.write_bytes(whole[: int(len(whole) * keep)] + b"broken" * 1000)
    again = CachedEncoder(Counting(), tmp_path)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(again.encode(texts), right)
    assert again.damaged >= 1
    assert "vector_cache=" in caplog.text


def test_what_was_encoded_before_a_crash_is_kept(tmp_path):
    class Crashing(Counting):
        def encode(self, texts):
            if len(self.asked) >= 512:
                raise KeyboardInterrupt
            return super().encode(texts)

    texts = [f"text {i}" for i in range(1000)]
    with pytest.raises(KeyboardInterrupt):
        CachedEncoder(Crashing(), tmp_path).encode(texts)
    inner = Counting()
    CachedEncoder(inner, tmp_path).encode(texts)
    assert len(inner.asked) == 1000 - 512


def test_vectors_that_are_not_finite_are_never_stored(tmp_path):
    class Broken(Counting):
        def encode(self, texts):
            return np.full((len(texts), 16), np.nan, np.float32)

    with pytest.raises(EncoderError, match="nothing was stored"):
        CachedEncoder(Broken(), tmp_path).encode(["x"])
    assert CachedEncoder(Counting(), tmp_path).encode(["x"]).any()


def test_a_folder_that_cannot_be_used_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EncoderError, match="another one"):
        CachedEncoder(Counting(), tmp_path / "file" / "sub").encode(["x"])


def test_progress_hears_of_the_texts_that_were_not_on_disk(tmp_path):
    CachedEncoder(Counting(), tmp_path).encode(["known"])
    heard = []
    texts = ["known", *(f"text {i}" for i in range(600))]
    CachedEncoder(Counting(), tmp_path).encode(texts, progress=lambda *x: heard.append(x))
    assert heard == [(512, 600), (600, 600)]


def _encode_in_process(folder, texts):
    CachedEncoder(HashingEncoder(dim=16), folder).encode(texts)


def test_processes_share_a_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    texts = [[f"text {i}" for i in range(start, start + 800)] for start in (0, 400)]
    workers = [context.Process(target=_encode_in_process, args=(tmp_path, t)) for t in texts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    inner = Counting()
    CachedEncoder(inner, tmp_path).encode([f"text {i}" for i in range(1200)])
    assert inner.asked == []


def rows_of(cached):
    with sqlite3.connect(cached.path) as db:
        return db.execute("SELECT count(*) FROM vectors").fetchone()[0]


def test_the_file_holds_no_more_than_it_may_and_the_oldest_go_first(tmp_path):
    inner = Counting()
    cached = CachedEncoder(inner, tmp_path, most_mb=10 * (4 * 16 + 80) / 1e6)
    cached.encode([f"text {n}" for n in range(8)])
    cached.encode([f"more {n}" for n in range(8)])
    assert (rows_of(cached), cached.dropped) == (10, 6)
    inner.asked.clear()
    cached.encode([f"more {n}" for n in range(8)])
    assert inner.asked == []
    cached.encode(["text 0"])
    assert inner.asked == ["text 0"]


def test_what_people_say_is_held_for_a_minute_and_never_on_disk(tmp_path):
    inner, now = Counting(), [0.0]
    cached = CachedEncoder(inner, tmp_path)
    cached.encode(["an item"])
    cached.fleeting = held = Fleeting(inner, clock=lambda: now[0])
    said = held.encode(["light films", "no horror", "light films"])
    np.testing.assert_array_equal(said, inner.encode(["light films", "no horror", "light films"]))
    inner.asked.clear()
    held.encode(["light films"])
    assert inner.asked == []
    now[0] = FLEETING_S + 1
    held.encode(["light films"])
    assert (inner.asked, len(held), rows_of(cached)) == (["light films"], 1, 1)
    held.encode([f"wish {n}" for n in range(3 * FLEETING)])
    assert len(held) == FLEETING
    held.clear()
    assert len(held) == 0
    assert held.encode([]).shape == (0, 16)
