"""Accounts, sessions and their refresh tokens."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE auth.accounts (
            id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            email         text NOT NULL UNIQUE CHECK (email = lower(email)),
            password_hash text NOT NULL,
            created_at    timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    op.execute(
        """
        CREATE TABLE auth.sessions (
            id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            account_id uuid NOT NULL REFERENCES auth.accounts ON DELETE CASCADE,
            created_at timestamptz NOT NULL DEFAULT now(),
            expires_at timestamptz NOT NULL,
            revoked_at timestamptz
        )
        """
    )
    op.execute("CREATE INDEX sessions_account ON auth.sessions (account_id)")
    op.execute(
        """
        CREATE TABLE auth.refresh_tokens (
            digest     bytea PRIMARY KEY,
            session_id uuid NOT NULL REFERENCES auth.sessions ON DELETE CASCADE,
            issued_at  timestamptz NOT NULL DEFAULT now(),
            used_at    timestamptz
        )
        """
    )
    op.execute("CREATE INDEX refresh_tokens_session ON auth.refresh_tokens (session_id)")
