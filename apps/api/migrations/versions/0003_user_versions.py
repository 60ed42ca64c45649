"""Versions of users: a time that grows with each change, as items have it."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("ALTER TABLE api.users ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now()")
