"""Experiments, and the cuts of epochs. A frozen copy of that day: never edit, add a file."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add both tables."""
    op.create_table(
        "experiments",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("started", sa.Double, nullable=False),
        sa.Column("stopped", sa.Double),
        sa.Column("reason", sa.Text),
    )
    op.create_table(
        "epochs",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
    )
