"""Errors as the caller sees them: application/problem+json (RFC 9457), never a traceback."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

import msgspec
from starlette.responses import Response

from steerec.errors import (
    ConfigError,
    DataError,
    EncoderError,
    QueueFullError,
    SteerecError,
    StorageError,
    UnknownItemError,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
AWAY_RETRY_S = 2  # seconds after which a caller may try again when the database was away

_STATUS: Mapping[type[SteerecError], HTTPStatus] = {
    UnknownItemError: HTTPStatus.NOT_FOUND,
    QueueFullError: HTTPStatus.TOO_MANY_REQUESTS,
    StorageError: HTTPStatus.SERVICE_UNAVAILABLE,
    EncoderError: HTTPStatus.SERVICE_UNAVAILABLE,
    DataError: HTTPStatus.UNPROCESSABLE_ENTITY,
    ConfigError: HTTPStatus.UNPROCESSABLE_ENTITY,
}


@dataclass
class Problem(Exception):
    """What is wrong with a call, for its sender.

    Attributes:
        detail: what was given, what was expected, what to do.
    """

    status: HTTPStatus
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def answer(self, request_id: str) -> Response:
        """The response; `instance` is the id under which the logs speak of this call."""
        body = {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": int(self.status),
            "detail": self.detail,
            "instance": request_id,
        }
        return Response(
            msgspec.json.encode(body),
            int(self.status),
            headers=dict(self.headers),
            media_type=MEDIA_TYPE,
        )


def problem_of(error: Exception) -> Problem:
    """The problem that an error raised on purpose is; anything else is our fault, status 500."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, QueueFullError):
        wait_s = max(1, round(error.retry_after_s))
        return Problem(HTTPStatus.TOO_MANY_REQUESTS, str(error), {"Retry-After": str(wait_s)})
    if isinstance(error, StorageError | EncoderError):
        headers = {"Retry-After": str(AWAY_RETRY_S)}
        return Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error), headers)
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            return Problem(status, str(error))
    log.error("unexpected error=%s", type(error).__name__, exc_info=error)
    return Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "the server failed on this call and logged why under the id in `instance`: report it",
    )


def refused(status: HTTPStatus, detail: str, **headers: str) -> Problem:
    """A problem to raise; header names with underscores for hyphens."""
    return Problem(status, detail, {name.replace("_", "-"): v for name, v in headers.items()})
