"""When items and users were first written. A frozen copy of that day: never edit, add a file."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column; of what is there nobody knows."""
    for table in ("items", "users"):
        op.add_column(table, sa.Column("added", sa.Double))
