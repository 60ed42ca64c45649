"""What is proven by mail: that an address is its account's, and who may set a forgotten password anew."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    # Expands only: to the release before, an account has no such column, and the table nobody.
    op.execute("ALTER TABLE auth.accounts ADD COLUMN IF NOT EXISTS email_verified_at timestamptz")
    op.execute(
        """
        CREATE TABLE IF NOT EXISTS auth.mail_tokens (
            digest     bytea PRIMARY KEY,
            account_id uuid NOT NULL REFERENCES auth.accounts ON DELETE CASCADE,
            purpose    text NOT NULL CHECK (purpose IN ('verification', 'reset')),
            created_at timestamptz NOT NULL DEFAULT now(),
            expires_at timestamptz NOT NULL,
            used_at    timestamptz
        )
        """
    )
    op.execute("CREATE INDEX IF NOT EXISTS mail_tokens_account ON auth.mail_tokens (account_id)")
