"""When a call is sent again, after how long, and what an answer that is no good means."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import msgspec

from steerec.client.asks import Ask, T
from steerec.errors import ServiceError

AGAIN = frozenset({429, 503})


@dataclass(frozen=True)
class Retries:
    """How often and how late a call is sent again.

    Only calls that may be sent twice are: reads, writes by id, events with ids (the client gives
    each event one), lists with an idempotency key.

    Attributes:
        most: further tries after the first; 0: none.
        first_s: wait before the second try, doubled for each one after it and made shorter by
            chance, by up to a half, so that many clients do not come back together.
        most_s: longest wait; if the service asks for a longer one, the error is raised at once.
    """

    most: int = 3
    first_s: float = 0.1
    most_s: float = 10.0

    def wait_s(self, tries: int, told_s: float | None, rng: random.Random) -> float | None:
        """Seconds to wait after so many tries; None: give up.

        Args:
            told_s: what the service asked for.
        """
        if tries > self.most or (told_s is not None and told_s > self.most_s):
            return None
        own = min(self.first_s * 2.0 ** (tries - 1), self.most_s)
        return max(own * (1.0 - rng.random() / 2.0), told_s or 0.0)


def request_of(ask: Ask[Any]) -> dict[str, Any]:
    """The arguments of httpx's `request`."""
    headers = dict(ask.headers)
    if ask.body is not None:
        headers["Content-Type"] = "application/json"
    params = {k: str(v).lower() if isinstance(v, bool) else v for k, v in ask.params.items()}
    return {
        "method": ask.method,
        "url": ask.path,
        "params": params,
        "headers": headers,
        "content": ask.body,
    }


def told_s(response: httpx.Response, now: float) -> float | None:
    """Seconds that `Retry-After` asks for, given as a number or as a time."""
    text = response.headers.get("Retry-After", "").strip()
    if not text:
        return None
    if text.isdigit():
        return float(text)
    try:
        time = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() - now)


def now() -> float:
    """Unix seconds."""
    return datetime.now(UTC).timestamp()


def result_of(ask: Ask[T], response: httpx.Response) -> T:
    """The result of a good answer.

    Raises:
        ServiceError: for any other answer, and for one that cannot be read.
    """
    if response.status_code not in (200, ask.also_good):
        raise refusal(response)
    try:
        return ask.read(response.content)
    except msgspec.DecodeError as e:
        raise ServiceError(
            f"{ask.method} {ask.path} was answered with something else than expected ({e}): is "
            "this the address of a steerec of this version?",
            status=response.status_code,
        ) from e


def refusal(response: httpx.Response) -> ServiceError:
    """The error that an answer stands for; problem+json tells what is wrong."""
    told: dict[str, Any] = {}
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        told = msgspec.json.decode(response.content, type=dict[str, Any])
    detail = str(told.get("detail") or response.text[:300] or response.reason_phrase)
    request = response.request
    return ServiceError(
        f"{request.method} {request.url.path}: {response.status_code}: {detail}",
        status=response.status_code,
        detail=detail,
        instance=told.get("instance"),
    )


def unreachable(method: str, path: str, error: httpx.HTTPError) -> ServiceError:
    """The error for a call that got no answer."""
    return ServiceError(
        f"{method} {path} got no answer ({type(error).__name__}: {error}): is the service "
        "running at this address?"
    )
