"""Idempotency keys."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # The owner's row may come after the key, in the same transaction: it is made with the first item.
    op.execute(
        """
        CREATE TABLE api.idempotency_keys (
            owner_id    uuid NOT NULL REFERENCES api.users ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
            key         text NOT NULL,
            fingerprint bytea NOT NULL,
            response    jsonb,
            created_at  timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (owner_id, key)
        )
        """
    )
    op.execute("CREATE INDEX idempotency_keys_by_age ON api.idempotency_keys (created_at)")
