"""Vectors from a service that speaks the OpenAI embeddings dialect."""

import email.utils
import logging
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np

from steerec.contracts import Floats
from steerec.encoders.settings import EncoderConfig, Progress, is_blank, unit_rows
from steerec.errors import ConfigError, EncoderError

log = logging.getLogger(__name__)

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
_RETRY = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


@dataclass(frozen=True)
class Timing:
    """Clock, pause and chance, so that tests need none of them.

    Attributes:
        now: Unix seconds.
        pause: waits so many seconds.
        chance: a number in [0, 1).
    """

    now: Callable[[], float] = time.time
    pause: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = field(default_factory=lambda: random.Random().random)


class RemoteEncoder:
    """Batches, a rate limit, and patience with a busy service."""

    def __init__(
        self,
        config: EncoderConfig,
        *,
        dim: int,
        key: str | None = None,
        timing: Timing | None = None,
    ) -> None:
        self._config = config
        self._key = key
        self._timing = timing or Timing()
        self._next_start = 0.0  # Unix seconds before which no request may start
        self.dim = dim
        self.name = f"remote-{config.model}@{config.url.rstrip('/')}-{dim}"

    @classmethod
    def open(
        cls,
        config: EncoderConfig,
        cache_dir: Path | None,
        *,
        environment: Mapping[str, str] | None = None,
        timing: Timing | None = None,
    ) -> Self:
        """Check the settings, and learn the vector length by one request where it is not set.

        Raises:
            ConfigError: if url or model is missing, or the key's variable is not set.
            EncoderError: if the service does not answer.
        """
        if not config.url.startswith(("http://", "https://")) or not config.model:
            raise ConfigError(
                f"remote encoder has url {config.url!r} and model {config.model!r}: give both, "
                "such as url = 'http://host:8000/v1'"
            )
        key = (os.environ if environment is None else environment).get(config.key_env)
        if config.key_env and not key:
            raise ConfigError(
                f"environment variable {config.key_env} is not set: put the key there"
            )
        dim = config.dim
        if not dim:
            probe = cls(config, dim=0, key=key, timing=timing)
            dim = len(probe._request(["dimension"])[0])
        return cls(config, dim=dim, key=key, timing=timing)

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> Floats:
        """See Encoder.

        Raises:
            EncoderError: if the service refuses, stays away, or answers what is no vector.
        """
        out = np.zeros((len(texts), self.dim), np.float32)
        rows = [i for i, text in enumerate(texts) if not is_blank(text)]
        size = self._config.batch_size
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            out[batch] = self._request([texts[i] for i in batch])
            if progress is not None:
                progress(start + len(batch), len(rows))
        return unit_rows(out)

    def _request(self, texts: list[str]) -> Floats:
        """(n, dim): one batch, tried again while the service is busy."""
        for attempt in range(self._config.retries + 1):
            self._keep_rate()
            response, problem = self._post(texts)
            if response is not None and response.status_code not in _RETRY:
                return self._vectors(response, len(texts))
            if attempt < self._config.retries:
                wait = self._wait(attempt, response)
                log.warning(
                    "remote_encoder=retry url=%s attempt=%d problem=%s wait_s=%.1f",
                    self._config.url,
                    attempt + 1,
                    problem,
                    wait,
                )
                self._timing.pause(wait)
        raise EncoderError(
            f"{self._config.url} did not answer after {self._config.retries + 1} tries "
            f"({problem}): check the service, or raise timeout_s or retries"
        )

    def _post(self, texts: list[str]) -> tuple[httpx.Response | None, str]:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            response = httpx.post(
                f"{self._config.url.rstrip('/')}/embeddings",
                json={"model": self._config.model, "input": texts},
                headers=headers,
                timeout=self._config.timeout_s,
            )
        except httpx.TransportError as e:
            return None, type(e).__name__
        return response, f"HTTP {response.status_code}"

    def _keep_rate(self) -> None:
        now = self._timing.now()
        if now < self._next_start:
            self._timing.pause(self._next_start - now)
        gap = 60.0 / self._config.requests_per_minute
        self._next_start = max(now, self._next_start) + gap

    def _wait(self, attempt: int, response: httpx.Response | None) -> float:
        """Seconds: what the service asks for, else doubling with half of it left to chance."""
        asked = None if response is None else response.headers.get("retry-after")
        if asked is not None:
            seconds = _retry_after(asked, self._timing.now())
            if seconds is not None:
                return min(seconds, _LONGEST_WAIT_S)
        longest = min(_FIRST_WAIT_S * 2.0**attempt, _LONGEST_WAIT_S)
        return longest * (0.5 + 0.5 * self._timing.chance())

    def _vectors(self, response: httpx.Response, n: int) -> Floats:
        if response.status_code != httpx.codes.OK:
            raise EncoderError(
                f"{self._config.url} refused with HTTP {response.status_code}: "
                f"{response.text[:200]!r}; check url, model and key"
            )
        try:
            out = _in_order(response.json()["data"], n)
        except (ValueError, KeyError, TypeError) as e:
            raise EncoderError(
                f"{self._config.url} answered no list of {n} embeddings ({e}): expected "
                '{"data": [{"index": 0, "embedding": [...]}]}'
            ) from e
        if self.dim and out.shape[1] != self.dim:
            raise EncoderError(
                f"{self._config.url} gave vectors of length {out.shape[1]}, expected {self.dim}: "
                "set encoder.dim to the model's"
            )
        if not np.isfinite(out).all() or not out.any(axis=1).all():
            raise EncoderError(
                f"{self._config.url} gave NaN, infinity or only zeros in a vector: check the model"
            )
        return out


def _in_order(entries: Sequence[Mapping[str, Any]], n: int) -> Floats:
    by_index = {int(entry["index"]): entry["embedding"] for entry in entries}
    if len(entries) != n or set(by_index) != set(range(n)):
        raise ValueError(f"{len(entries)} entries, indices {sorted(by_index)[:5]}…")
    out = np.array([by_index[i] for i in range(n)], np.float32)
    if out.ndim != 2 or not out.shape[1]:
        raise ValueError(f"vectors of shape {out.shape}")
    return out


def _retry_after(value: str, now: float) -> float | None:
    """Seconds from a number or an HTTP date; None where it is neither."""
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - now, 0.0)
    except ValueError:
        return None
