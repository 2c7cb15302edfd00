"""The tables, the same on SQLite and PostgreSQL; every row belongs to a tenant.

Change a table here and in a new file of `migrations/versions`; a test compares the two.
"""

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()

Time = sa.Double  # Unix seconds, UTC
Number = sa.BigInteger


def _table(name: str, *columns: sa.schema.SchemaItem) -> sa.Table:
    # Not WITHOUT ROWID: of those, SQLite's planner reads all of a tenant sooner than use an index.
    return sa.Table(name, metadata, *columns)


def _key(name: str, kind: type[sa.types.TypeEngine[Any]] = sa.Text) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


def _needed(name: str, kind: type[sa.types.TypeEngine[Any]] = sa.Text) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


# One row per tenant: its counters, and the lock that puts its writers in line.
tenants = _table(
    "tenants",
    _key("tenant"),
    _needed("last_seq", Number),
    _needed("last_number", Number),  # of items, see item_numbers
    _needed("n_events", Number),
    _needed("n_impressions", Number),
    _needed("n_erased", Number),
    sa.Column("strategy", sa.Integer),  # the version in force
)

events = _table(
    "events",
    _key("tenant"),
    _key("seq", Number),
    _needed("event_id"),
    _needed("user_id"),
    _needed("item_id"),
    _needed("event"),
    sa.Column("value", sa.Double),
    sa.Column("timestamp", Time),  # as claimed by the sender
    sa.Column("basket", sa.Text),
    sa.Column("request_id", sa.Text),
    sa.Column("context", sa.Text),  # JSON
    _needed("received", Time),
    sa.Index("events_id", "tenant", "event_id", unique=True),
    sa.Index("events_user", "tenant", "user_id", "seq"),
)


def _catalogue(name: str) -> sa.Table:
    return _table(
        name,
        _key("tenant"),
        _key("id"),
        _needed("attributes"),  # JSON object
        _needed("labels"),  # JSON list
        _needed("hidden", sa.Boolean),
        sa.Column("published", Time),
        sa.Column("expires", Time),
        sa.Column("stock", Number),
        _needed("deleted", sa.Boolean),  # kept for a while, so that others hear of it
        _needed("changed", Time),
        _needed("seq", Number),
        sa.Column("added", Time),  # first written; null: by a model, or before this was kept
        sa.Index(f"{name}_seq", "tenant", "seq"),
        sa.Index(
            f"{name}_deleted",
            "tenant",
            "changed",
            sqlite_where=sa.text("deleted"),
            postgresql_where=sa.text("deleted"),
        ),
    )


items = _catalogue("items")
users = _catalogue("users")

# Small lasting numbers for item ids, so that a pool of 200 is not 200 texts.
item_numbers = _table(
    "item_numbers",
    _key("tenant"),
    _key("number", Number),
    _needed("item_id"),
    sa.Index("item_numbers_id", "tenant", "item_id", unique=True),
)

impressions = _table(
    "impressions",
    _key("tenant"),
    _key("seq", Number),
    _needed("request_id"),
    _needed("start", sa.Integer),  # first place of this page
    sa.Column("user_id", sa.Text),
    _needed("time", Time),
    sa.Column("scenario", sa.Text),
    _needed("version", sa.Integer),
    _needed("epoch", sa.Integer),
    sa.Column("arm", sa.Text),
    _needed("seed", Number),
    sa.Column("more", sa.Text),  # JSON
    _needed("ids", sa.LargeBinary),  # numbers of the items shown and of the pool
    _needed("body", sa.LargeBinary),  # propensities, scores, w, phi
    sa.Index("impressions_request", "tenant", "request_id", "start", unique=True),
    sa.Index("impressions_user", "tenant", "user_id", "seq"),
)

# Answers kept under the caller's idempotency key.
answers = _table(
    "answers",
    _key("tenant"),
    _key("key"),
    _needed("request_id"),
    sa.Column("user_id", sa.Text),
    _needed("asked", sa.LargeBinary),  # digest of the request
    _needed("answer", sa.LargeBinary),
    _needed("made", Time),
    sa.Index("answers_made", "tenant", "made"),
)

strategies = _table(
    "strategies",
    _key("tenant"),
    _key("version", sa.Integer),
    _needed("made", Time),
    _needed("author"),
    _needed("parents"),  # JSON list of versions
    _needed("strategy"),  # JSON
    _needed("diff"),  # JSON
    sa.Column("data_hash", sa.Text),
    _needed("estimates"),  # JSON
)

promotions = _table(
    "promotions",
    _key("tenant"),
    _key("seq", Number),
    _needed("version", sa.Integer),
    _needed("author"),
    _needed("reason"),
    _needed("time", Time),
)

api_keys = _table(
    "api_keys",
    _key("key_id"),
    _needed("tenant"),
    _needed("sha256", sa.LargeBinary),
    _needed("scopes"),  # JSON list
    _needed("label"),
    _needed("created", Time),
    sa.Column("revoked", Time),
    sa.Index("api_keys_tenant", "tenant"),
)

checkpoints = _table(
    "checkpoints",
    _key("tenant"),
    _key("name"),
    _needed("seq", Number),
    _needed("body", sa.LargeBinary),
    _needed("time", Time),
)

experiments = _table(
    "experiments",
    _key("tenant"),
    _key("name"),
    _needed("plan"),  # JSON
    _needed("author"),
    _needed("started", Time),
    sa.Column("stopped", Time),
    sa.Column("reason", sa.Text),  # why it was stopped
)

# Where in the tenant's order each epoch of the online tuner was cut, the same for all processes.
epochs = _table(
    "epochs",
    _key("tenant"),
    _key("number", Number),
    _needed("seq", Number),
    _needed("time", Time),
    _needed("version", sa.Integer),  # the promoted strategy that it stands on
)

# What was erased, as digests: proof, and a guard against replays and restores.
erased_users = _table(
    "erased_users",
    _key("tenant"),
    _key("digest", sa.LargeBinary),
    _needed("seq", Number),
    _needed("time", Time),
    sa.Index("erased_users_seq", "tenant", "seq"),
)
erased_events = _table(
    "erased_events",
    _key("tenant"),
    _key("digest", sa.LargeBinary),
)
