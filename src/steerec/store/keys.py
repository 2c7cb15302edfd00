"""API keys: 256 random bits, of which only the SHA-256 is kept."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from steerec.store.database import Database
from steerec.store.schema import api_keys
from steerec.store.values import check_id, from_json, to_json

_PREFIX = "steerec"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key; its secret is not.

    Attributes:
        created, revoked: Unix seconds; `revoked` is None while the key is good.
    """

    key_id: str
    tenant: str
    scopes: tuple[str, ...]
    label: str
    created: float
    revoked: float | None = None


class ApiKeys:
    """The keys of all tenants, found by the id inside the key."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def issue(
        self, tenant: str, scopes: Sequence[str], *, now: float, label: str = ""
    ) -> tuple[str, ApiKey]:
        """Make a key. The text is returned this once and cannot be had again."""
        key_id, secret = secrets.token_hex(8), secrets.token_hex(32)
        text = f"{_PREFIX}_{key_id}_{secret}"
        key = ApiKey(key_id, check_id(tenant, "tenant"), tuple(scopes), label, now)
        row = {
            "key_id": key_id,
            "tenant": tenant,
            "sha256": hashlib.sha256(text.encode()).digest(),
            "scopes": to_json([check_id(scope, "scope") for scope in scopes], "scopes"),
            "label": label and check_id(label, "label"),
            "created": now,
        }
        with self._database.write() as connection:
            self._database.lock_tenant(connection, tenant)
            connection.execute(sa.insert(api_keys), row)
        return text, key

    def check(self, text: str) -> ApiKey | None:
        """The key this text is; None if it is unknown, altered or revoked."""
        parts = text.split("_")
        if len(parts) != 3 or parts[0] != _PREFIX or not parts[1].isalnum() or not text.isascii():
            return None
        wanted = sa.select(api_keys).where(api_keys.c.key_id == parts[1])
        with self._database.read() as connection:
            row = connection.execute(wanted).first()
        if row is None or row.revoked is not None:
            return None
        given = hashlib.sha256(text.encode()).digest()
        return _from_row(row) if hmac.compare_digest(given, bytes(row.sha256)) else None

    def revoke(self, tenant: str, key_id: str, *, now: float) -> bool:
        """Make a key worthless from now on; False if the tenant has no such key in use."""
        t = api_keys
        mine = (t.c.key_id == key_id, t.c.tenant == tenant, t.c.revoked.is_(None))
        with self._database.write() as connection:
            return connection.execute(sa.update(t).where(*mine).values(revoked=now)).rowcount == 1

    def list(self, tenant: str) -> list[ApiKey]:
        """All keys of a tenant, revoked ones too, oldest first."""
        t = api_keys
        wanted = sa.select(t).where(t.c.tenant == tenant).order_by(t.c.created, t.c.key_id)
        with self._database.read() as connection:
            return [_from_row(row) for row in connection.execute(wanted)]


def _from_row(row: sa.Row[Any]) -> ApiKey:
    scopes = tuple(from_json(row.scopes))
    return ApiKey(row.key_id, row.tenant, scopes, row.label, row.created, row.revoked)
