"""Audit events: a table that only grows."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE auth.audit_events (
            id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            happened_at timestamptz NOT NULL DEFAULT now(),
            event       text NOT NULL,
            reason      text,
            account_id  uuid,           -- references nothing: what happened outlives the account
            session_id  uuid,
            request_id  text NOT NULL,
            address     inet,
            user_agent  text
        )
        """
    )
    op.execute("CREATE INDEX audit_events_account ON auth.audit_events (account_id, happened_at)")
    # The service owns the table and could undo both by DDL, which it never speaks; a mistake or an injected
    # statement meets the missing privilege, and an administrator's slip the trigger.
    op.execute("REVOKE UPDATE, DELETE, TRUNCATE ON auth.audit_events FROM CURRENT_USER")
    op.execute(
        """
        CREATE FUNCTION auth.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% on %.%: it is append-only', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
                USING ERRCODE = 'insufficient_privilege';
        END
        $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON auth.audit_events
        FOR EACH STATEMENT EXECUTE FUNCTION auth.refuse_change()
        """
    )
