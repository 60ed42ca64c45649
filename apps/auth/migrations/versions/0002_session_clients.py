"""When and from where a session was last used, for its owner to recognise it."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # Expands only: the release before does not name these columns, and its sessions get their defaults.
    op.execute(
        """
        ALTER TABLE auth.sessions
            ADD COLUMN last_used_at timestamptz NOT NULL DEFAULT now(),
            ADD COLUMN address      inet,
            ADD COLUMN user_agent   text
        """
    )
