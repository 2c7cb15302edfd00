"""Who may call, what, and how often: API keys with scopes, and a limit of calls for each key."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from threading import Lock

from steerec.errors import StorageError
from steerec.service.problems import refused
from steerec.store.keys import ApiKey, ApiKeys

SCOPES: Mapping[str, str] = {
    "read": "lists, similar items, search, items",
    "events": "send events and merge sessions",
    "catalogue": "write items and users",
    "operate": "the strategy, explanations, export and erasure of persons",
    "admin": "the dump of all tenants, and all of the others",
    "open": "what needs no key: whether the service lives",
}
OWNER = "default"  # the tenant of a service without keys
KEPT_S = 10.0  # a key that was good is not looked up again for so long
STALE_S = 3_600.0  # and not believed for longer while the store is away
MOST_KEPT = 10_000


@dataclass(frozen=True)
class Caller:
    """Who calls: a tenant, under the name of a key."""

    tenant: str
    key_id: str
    scopes: frozenset[str]


@dataclass
class _Held:
    """A key that was good, when that was so, and when it was last asked for."""

    key: ApiKey
    good: float
    looked: float


@dataclass
class _Bucket:
    """A token bucket. Source: RFC 2697's idea, one rate and one burst."""

    tokens: float
    at: float


@dataclass
class Gate:
    """Admits calls.

    Attributes:
        keys: None: no keys are asked for, everybody is the owner (on this machine only).
        rate: calls a second that one key may make, on average; 0: as many as it likes.
        burst: calls at once after a pause.
    """

    keys: ApiKeys | None
    rate: float = 0.0
    burst: float = 100.0
    clock: Callable[[], float] = time.monotonic
    _known: OrderedDict[bytes, _Held] = field(default_factory=OrderedDict)
    _buckets: OrderedDict[str, _Bucket] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    async def admit(self, text: str | None, scope: str) -> Caller:
        """The caller, if the key is good, allowed to do this, and not too fast.

        Raises:
            Problem: 401, 403 or 429.
        """
        if scope == "open":
            return Caller(OWNER, "", frozenset())
        if self.keys is None:
            self._slow_down("")
            return Caller(OWNER, "", frozenset(SCOPES))
        key = await self._key(text)
        scopes = frozenset(key.scopes)
        if scope not in scopes and "admin" not in scopes:
            raise refused(
                HTTPStatus.FORBIDDEN,
                f"this key may {', '.join(sorted(scopes)) or 'nothing'}; this call needs {scope!r}",
            )
        self._slow_down(key.key_id)
        return Caller(key.tenant, key.key_id, scopes)

    def forget(self, key_id: str) -> None:
        """A key was revoked here: it counts as unknown at once."""
        with self._lock:
            gone = [digest for digest, held in self._known.items() if held.key.key_id == key_id]
            for digest in gone:
                del self._known[digest]

    async def _key(self, text: str | None) -> ApiKey:
        if not text:
            raise refused(
                HTTPStatus.UNAUTHORIZED,
                "no key was sent: send it as the header X-API-Key; an operator makes one with "
                "`steerec key create`",
                WWW_Authenticate="ApiKey",
            )
        digest, now = hashlib.sha256(text.encode()).digest(), self.clock()
        with self._lock:
            held = self._known.get(digest)
        if held is not None and now - held.looked < KEPT_S:
            return held.key
        return await asyncio.to_thread(self._look, text, digest, held)

    def _look(self, text: str, digest: bytes, held: _Held | None) -> ApiKey:
        """The key as the store has it now; while it is away, as it was not long ago."""
        assert self.keys is not None
        try:
            key = self.keys.check(text)
        except StorageError:
            if held is None or self.clock() - held.good >= STALE_S:
                raise
            held.looked = self.clock()  # not again for each call: a server may take long to fail
            return held.key  # lists go on from memory while the store is away
        if key is None:
            self._drop(digest)
            raise refused(
                HTTPStatus.UNAUTHORIZED,
                "this key is unknown or was revoked",
                WWW_Authenticate="ApiKey",
            )
        with self._lock:
            self._known[digest] = _Held(key, self.clock(), self.clock())
            while len(self._known) > MOST_KEPT:
                self._known.popitem(last=False)
        return key

    def _drop(self, digest: bytes) -> None:
        with self._lock:
            self._known.pop(digest, None)

    def _slow_down(self, key_id: str) -> None:
        """Raises a problem where the key has no call left at this moment."""
        if self.rate <= 0:
            return
        with self._lock:
            now = self.clock()
            bucket = self._buckets.setdefault(key_id, _Bucket(self.burst, now))
            bucket.tokens = min(self.burst, bucket.tokens + (now - bucket.at) * self.rate)
            bucket.at = now
            self._buckets.move_to_end(key_id)
            while len(self._buckets) > MOST_KEPT:
                self._buckets.popitem(last=False)
            if bucket.tokens < 1:
                wait_s = max(1, round((1 - bucket.tokens) / self.rate))
                raise refused(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    f"more than {self.rate:g} calls a second with this key: wait {wait_s} s",
                    Retry_After=str(wait_s),
                )
            bucket.tokens -= 1
