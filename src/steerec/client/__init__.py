"""Python clients of a running service: `SteerecClient`, and `AsyncSteerecClient` for asyncio."""

from steerec.client.answers import (
    Choice,
    Entries,
    Entry,
    Erased,
    EventOutcome,
    EventsTaken,
    Experiment,
    Explanation,
    Health,
    History,
    Recommended,
    Scored,
    Tuned,
    Version,
)
from steerec.client.clients import AsyncSteerecClient, SteerecClient
from steerec.client.sending import Retries
from steerec.contracts import Event
from steerec.errors import ServiceError

__all__ = [
    "AsyncSteerecClient",
    "Choice",
    "Entries",
    "Entry",
    "Erased",
    "Event",
    "EventOutcome",
    "EventsTaken",
    "Experiment",
    "Explanation",
    "Health",
    "History",
    "Recommended",
    "Retries",
    "Scored",
    "ServiceError",
    "SteerecClient",
    "Tuned",
    "Version",
]
