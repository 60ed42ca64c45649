"""Operators: who may see the operations pages. playbooks/grant_operator.yml says who they are."""

from alembic import op

revision = "0005"
down_revision = "0003"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE auth.operators (
            account_id uuid PRIMARY KEY REFERENCES auth.accounts (id) ON DELETE CASCADE,
            granted_at timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    # The service asks who they are; an injected statement makes nobody one. A deleted account takes its row along.
    op.execute("REVOKE INSERT, UPDATE, TRUNCATE ON auth.operators FROM CURRENT_USER")
