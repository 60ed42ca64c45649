"""Users and items."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE api.users (
            id           uuid PRIMARY KEY,
            email        text NOT NULL,
            display_name text NOT NULL,
            created_at   timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    op.execute(
        """
        CREATE TABLE api.items (
            id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            owner_id   uuid NOT NULL REFERENCES api.users ON DELETE CASCADE,
            title      text NOT NULL,
            body       text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    op.execute("CREATE INDEX items_of_owner ON api.items (owner_id, created_at DESC, id DESC)")
