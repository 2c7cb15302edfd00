"""Vectors on disk by content, so that a second run encodes nothing."""

import hashlib
import logging
import re
import sqlite3
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np

from steerec.contracts import Encoder, Floats
from steerec.encoders.settings import Progress, is_blank
from steerec.errors import EncoderError

log = logging.getLogger(__name__)

T = TypeVar("T")

_CHUNK = 512  # texts between two writes: what a crash can lose
_LOOKUP = 500  # keys in one query; older SQLite allows 999
_WAIT_S = 60.0  # for another process that writes
_ROW_BYTES = 80  # of a stored vector, beside its numbers
FLEETING = 256  # newest texts of people that memory holds
FLEETING_S = 60.0  # seconds for which they are used; the next call drops what is older
_TABLE = "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, crc INTEGER, vector BLOB)"


class CachedEncoder:
    """An encoder that asks its file first; several processes may share the folder.

    Args:
        most_mb: the file holds no more; what was written first goes first.

    Attributes:
        hits, misses: distinct texts of each call found on disk, and encoded anew.
        damaged: stored vectors that did not match their checksum and were encoded again.
        dropped: stored vectors that made room for newer ones.
        loading: whether its model is being loaded just now, so that a new text would wait.
        fleeting: the same encoder for what people say of themselves, which never reaches the disk.
    """

    def __init__(self, encoder: Encoder, folder: Path, *, most_mb: float = 4_000.0) -> None:
        self._encoder = encoder
        self.fleeting = Fleeting(encoder)
        self.loading = False
        self._most_rows = max(1, int(most_mb * 1e6 / (4 * encoder.dim + _ROW_BYTES)))
        self.name = encoder.name
        self.dim = encoder.dim
        # The name's hash keeps two names apart that differ only in characters files cannot have.
        tail = hashlib.sha256(self.name.encode()).hexdigest()[:8]
        self.path = folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', self.name)[:80]}-{tail}.sqlite"
        self.hits = self.misses = self.damaged = self.dropped = 0

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> Floats:
        """See Encoder; `progress` hears of the texts that were not on disk."""
        out = np.zeros((len(texts), self.dim), np.float32)
        rows = [i for i, text in enumerate(texts) if not is_blank(text)]
        keys_of_rows = [self._key(texts[i]) for i in rows]
        by_key = {key: texts[i] for i, key in zip(rows, keys_of_rows, strict=True)}
        if not by_key:
            return out
        slot = {key: j for j, key in enumerate(by_key)}
        distinct = np.empty((len(slot), self.dim), np.float32)
        known = self._read(list(by_key))
        stored = np.frombuffer(b"".join(known.values()), "<f4").reshape(-1, self.dim)
        distinct[[slot[key] for key in known]] = stored
        missing = [key for key in by_key if key not in known]
        self.hits += len(known)
        self.misses += len(missing)
        missing.sort(key=lambda key: -len(by_key[key]))  # chunks of equal lengths encode faster
        for start in range(0, len(missing), _CHUNK):
            keys = missing[start : start + _CHUNK]
            fresh = self._encode_checked([by_key[key] for key in keys])
            self._write(dict(zip(keys, fresh, strict=True)))
            distinct[[slot[key] for key in keys]] = fresh
            if progress is not None:
                progress(start + len(keys), len(missing))
        out[rows] = distinct[[slot[key] for key in keys_of_rows]]
        return out

    def warm(self) -> None:
        """Have the model loaded before the first text that needs it comes.

        Raises:
            EncoderError: if it cannot be loaded, or its service does not answer.
        """
        self.loading = True
        try:
            self._encoder.encode(["warm"])
        finally:
            self.loading = False

    def _key(self, text: str) -> bytes:
        return hashlib.sha256(f"{self.name}\0{text}".encode()).digest()

    def _encode_checked(self, texts: list[str]) -> Floats:
        vectors = self._encoder.encode(texts)
        if vectors.shape != (len(texts), self.dim) or not np.isfinite(vectors).all():
            raise EncoderError(
                f"{self.name} gave vectors of shape {vectors.shape}, expected finite numbers "
                f"({len(texts)}, {self.dim}): nothing was stored, check the encoder"
            )
        return vectors

    def _read(self, keys: list[bytes]) -> Mapping[bytes, bytes]:
        if not self.path.exists():
            return {}
        found: dict[bytes, bytes] = {}
        damaged = 0
        for key, crc, blob in self._use(lambda db: _select(db, keys)):
            if isinstance(blob, bytes) and self._intact(crc, blob):
                found[key] = blob
            else:
                damaged += 1
        if damaged:
            self.damaged += damaged
            log.warning("vector_cache=damaged path=%s rows=%d action=encode", self.path, damaged)
        return found

    def _intact(self, crc: object, blob: bytes) -> bool:
        return len(blob) == 4 * self.dim and zlib.crc32(blob) == crc

    def _write(self, vectors: Mapping[bytes, Floats]) -> None:
        blobs = ((key, np.asarray(v, "<f4").tobytes()) for key, v in vectors.items())
        rows = [(key, zlib.crc32(blob), blob) for key, blob in blobs]
        self.dropped += self._use(lambda db: _insert(db, rows, self._most_rows))

    def _use(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Do it on a connection of its own; a file that is no database is put aside first.

        Raises:
            EncoderError: if the file cannot be opened or written.
        """
        try:
            return self._once(action)
        except sqlite3.OperationalError as e:
            raise EncoderError(
                f"vector cache {self.path} cannot be used ({e}): check the folder's permissions "
                "and space, or give another cache folder"
            ) from e
        except sqlite3.DatabaseError as e:
            aside = self.path.with_name(f"{self.path.name}.damaged")
            log.warning("vector_cache=unreadable path=%s error=%s moved_to=%s", self.path, e, aside)
            self.damaged += 1
            with suppress(FileNotFoundError):  # another process was first
                self.path.replace(aside)
            return self._once(action)

    def _once(self, action: Callable[[sqlite3.Connection], T]) -> T:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise EncoderError(
                f"vector cache folder {self.path.parent} cannot be made ({e}): give another one"
            ) from e
        with closing(sqlite3.connect(self.path, timeout=_WAIT_S)) as db:
            db.execute(_TABLE)
            return action(db)


def _select(db: sqlite3.Connection, keys: Sequence[bytes]) -> list[tuple[bytes, object, object]]:
    rows: list[tuple[bytes, object, object]] = []
    for start in range(0, len(keys), _LOOKUP):
        part = keys[start : start + _LOOKUP]
        marks = ",".join("?" * len(part))
        rows += db.execute(f"SELECT key, crc, vector FROM vectors WHERE key IN ({marks})", part)
    return rows


def _insert(
    db: sqlite3.Connection, rows: Sequence[tuple[bytes, int, bytes]], most_rows: int
) -> int:
    """Write the rows, and drop the oldest above so many in all; how many were dropped."""
    with db:  # one transaction: a crash leaves all of them or none
        db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)
        # Rows are numbered as they come, so the newest number tells at once what is too old.
        newest = db.execute("SELECT max(rowid) FROM vectors").fetchone()[0]
        gone = db.execute("DELETE FROM vectors WHERE rowid <= ?", (newest - most_rows,)).rowcount
    if gone:
        log.info("vector_cache=full rows=%d dropped=%d", most_rows, gone)
    return gone


class Fleeting:
    """An encoder that holds the newest texts in memory, used for a minute, and nothing on disk.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, encoder: Encoder, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._encoder, self._clock = encoder, clock
        self.name, self.dim = encoder.name, encoder.dim
        self._held: OrderedDict[str, tuple[float, Floats]] = OrderedDict()
        self._door = Lock()

    def __len__(self) -> int:
        return len(self._held)

    def clear(self) -> None:
        """Hold nothing any more."""
        with self._door:
            self._held.clear()

    def encode(self, texts: Sequence[str]) -> Floats:
        """See Encoder."""
        now = self._clock()
        with self._door:
            while self._held and now - next(iter(self._held.values()))[0] > FLEETING_S:
                self._held.popitem(last=False)
            known = {text: self._held[text][1] for text in texts if text in self._held}
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        if missing:
            known |= dict(zip(missing, self._encoder.encode(missing), strict=True))
            self._hold({text: known[text] for text in missing}, now)
        rows = [known[text] for text in texts]
        return np.stack(rows) if rows else np.zeros((0, self.dim), np.float32)

    def _hold(self, fresh: Mapping[str, Floats], now: float) -> None:
        with self._door:
            self._held |= {text: (now, vector) for text, vector in fresh.items()}
            while len(self._held) > FLEETING:
                self._held.popitem(last=False)
