"""Old rows of auth's tables go by the job on the database's hosts, as auth's declaration says; young ones stay."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
JOB = ROOT / "roles/retention/files/retention.py"
RULES = {
    f"auth.{table}": rule
    for table, rule in yaml.safe_load((ROOT / "apps/auth/service.yml").read_text())["retention"].items()
}
CREDENTIALS = {"email": "ada@example.org", "password": "correct horse battery"}


@pytest.fixture
def remove(postgresql, tmp_path):
    """Run the job with these rules; its metrics."""

    def remove(rules=RULES, batch=2):
        (tmp_path / "rules.json").write_text(json.dumps(rules))
        info = postgresql.info
        environment = os.environ | {
            "RETENTION_RULES": str(tmp_path / "rules.json"),
            "RETENTION_METRICS": str(tmp_path / "retention.prom"),
            "RETENTION_DATABASE": f"host={info.host} port={info.port} dbname={info.dbname} user=postgres",
            "RETENTION_BATCH": str(batch),
        }
        done = subprocess.run([sys.executable, str(JOB)], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return (tmp_path / "retention.prom").read_text()

    return remove


@pytest.fixture
def account(auth, postgresql):
    auth.client.post("/register", json=CREDENTIALS)
    return postgresql.execute("SELECT id FROM auth.accounts").fetchone()[0]


def add_events(postgresql, *ages):
    """Events of these ages in days; their ids."""
    statement = (
        "INSERT INTO auth.audit_events (event, request_id, happened_at)"
        " VALUES ('x', '0', now() - make_interval(days => %s)) RETURNING id"
    )
    return [postgresql.execute(statement, [age]).fetchone()[0] for age in ages]


def test_events_go_after_ninety_days_and_the_service_still_may_not_remove_any(remove, postgresql):
    # What other tests left behind is young and has the lowest ids, before which the job would stop.
    postgresql.execute("SET session_replication_role = replica")
    postgresql.execute("DELETE FROM auth.audit_events")
    postgresql.execute("RESET session_replication_role")
    old = add_events(postgresql, 400, 200, 92, 91, 91)
    young = add_events(postgresql, 89, 1, 0)
    metrics = remove()
    left = {row[0] for row in postgresql.execute("SELECT id FROM auth.audit_events").fetchall()}
    assert left.issuperset(young)
    assert left.isdisjoint(old)
    assert 'retention_removed_rows{table="auth.audit_events"} 5\n' in metrics
    assert "retention_last_success_timestamp_seconds " in metrics
    info = postgresql.info
    with (
        psycopg.connect(host=info.host, port=info.port, dbname=info.dbname, user="auth") as service,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"),
    ):
        service.execute("SET session_replication_role = replica")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
        postgresql.execute("DELETE FROM auth.audit_events")


def test_sessions_go_thirty_days_after_their_end_and_their_tokens_with_them(auth, account, remove, postgresql):
    def session(expires, revoked=None):
        row = postgresql.execute(
            "INSERT INTO auth.sessions (account_id, expires_at, revoked_at)"
            " VALUES (%s, now() + make_interval(days => %s), now() + make_interval(days => %s)) RETURNING id",
            [account, expires, revoked],
        ).fetchone()
        postgresql.execute("INSERT INTO auth.refresh_tokens VALUES (%s, %s)", [os.urandom(32), row[0]])
        return row[0]

    expired, revoked, cut_short = session(-31), session(-31, -40), session(10, -31)
    goes_on, ended = session(10), session(10, -29)
    remove()
    left = {row[0] for row in postgresql.execute("SELECT id FROM auth.sessions").fetchall()}
    assert left == {goes_on, ended}
    assert left.isdisjoint({expired, revoked, cut_short})
    assert {row[0] for row in postgresql.execute("SELECT session_id FROM auth.refresh_tokens").fetchall()} == left


def test_mail_tokens_go_a_day_after_they_have_expired(account, remove, postgresql):
    for number, hours in enumerate((-25, -23, 1)):
        postgresql.execute(
            "INSERT INTO auth.mail_tokens (digest, account_id, purpose, expires_at)"
            " VALUES (%s, %s, 'reset', now() + make_interval(hours => %s))",
            [bytes([number]), account, hours],
        )
    remove()
    assert postgresql.execute("SELECT digest FROM auth.mail_tokens ORDER BY 1").fetchall() == [(b"\x01",), (b"\x02",)]


def test_only_the_oldest_events_are_looked_at(remove, postgresql):
    """The first batch with a young row in it ends the work: the table is not read as a whole."""
    remove()
    postgresql.execute("ALTER TABLE auth.audit_events DISABLE TRIGGER append_only")
    postgresql.execute("DELETE FROM auth.audit_events")
    postgresql.execute("ALTER TABLE auth.audit_events ENABLE TRIGGER append_only")
    add_events(postgresql, 1, 1, 1, 100)  # this last one cannot be in life: ids grow with time
    remove()
    assert postgresql.execute("SELECT count(*) FROM auth.audit_events").fetchone() == (4,)
