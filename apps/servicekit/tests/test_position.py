"""Reading what one wrote: against a real standby whose replay is paused, and a client that carries its position."""

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import psycopg2
import pytest
from local_postgresql import free_port, program, server_user
from psycopg import OperationalError, connect

from servicekit import database as database_module
from servicekit import position
from servicekit.database import DatabaseUnavailable, Pool

BEHIND = "database_replica_behind_total"
ITEM = {"title": "A title", "body": "A body"}


@pytest.fixture(scope="module")
def standby_port(postgresql_server):
    """A standby of the tests' server."""
    folder = Path(tempfile.mkdtemp(prefix="belvedere-standby-"))
    user = server_user()
    if user:
        shutil.chown(folder, user)
    data, port = folder / "data", free_port()

    def run(name, *arguments):
        command = [program(name), "-D", str(data), *arguments]
        subprocess.run(command, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    primary = f"host={postgresql_server.host} port={postgresql_server.port} user={postgresql_server.user}"
    try:
        run("pg_basebackup", "--write-recovery-conf", "--checkpoint=fast", "--no-sync", f"--dbname={primary}")
        options = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off -c max_connections=200"
        run("pg_ctl", "start", "--wait", "--silent", f"--log={folder}/log", f"--options={options}")
        yield port
    finally:
        run("pg_ctl", "stop", "--mode=immediate", "--silent")
        shutil.rmtree(folder)


@pytest.fixture
def standby(standby_port, postgresql):
    """An administrator's connection to the standby, which has replayed all there is."""
    info = postgresql.info
    deadline = time.monotonic() + 20
    while True:  # the database itself may have to be replayed first
        try:
            connection = connect(host=info.host, port=standby_port, user=info.user, dbname=info.dbname, autocommit=True)
            break
        except OperationalError:
            assert time.monotonic() < deadline, "the standby never had the database"
            time.sleep(0.05)
    with connection:
        wait_until_replayed(connection, postgresql)
        yield connection
        connection.execute("SELECT pg_wal_replay_resume()")


@pytest.fixture
def api(start_api, standby, postgresql):
    """An api whose replica is the standby."""
    api = start_api(POOL_PRIMARY="2", POOL_REPLICA="2")
    info = standby.info

    def connect_to_standby():
        return psycopg2.connect(host=info.host, port=info.port, user="api", dbname=info.dbname)

    api.service.database._pools["replica"] = Pool(connect_to_standby, size=2, patience=0.3)
    return api


@pytest.fixture
def me(signer):
    return {"Authorization": f"Bearer {signer.sign(uuid4(), 'ada@example.org')}"}


def wait_until_replayed(standby, postgresql):
    (written,) = postgresql.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
    # At a segment's end (a base backup begins a new one) that is behind the next header, which only a record writes.
    postgresql.execute("SELECT pg_logical_emit_message(true, 'test', '')")
    postgresql.commit()
    deadline = time.monotonic() + 20
    while not standby.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (written,)).fetchone()[0]:
        assert time.monotonic() < deadline, f"the standby never replayed {written}"
        time.sleep(0.01)


def pause(standby):
    standby.execute("SELECT pg_wal_replay_pause()")
    deadline = time.monotonic() + 20
    while standby.execute("SELECT pg_get_wal_replay_pause_state()").fetchone() != ("paused",):
        assert time.monotonic() < deadline, "replay never paused"
        time.sleep(0.01)


def titles(api, user, **headers):
    answer = api.client.get("/api/v1/items", headers=user | headers)
    assert answer.status_code == 200
    return [item["title"] for item in answer.json["items"]]


def statements(api, since=0):
    return [span.name for span in api.spans()[since:] if "db.operation.name" in span.attributes]


def test_a_write_s_answer_carries_its_position_as_a_cookie_and_a_header(api, me, postgresql):
    (before,) = postgresql.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
    answer = api.client.post("/api/v1/items", json=ITEM, headers=me)
    sent = answer.headers[position.HEADER]
    assert postgresql.execute("SELECT %s::pg_lsn > %s::pg_lsn", (sent, before)).fetchone() == (True,)
    pair, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert pair == f"__Host-position={sent}"
    assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=60"} <= set(attributes)


def test_an_answer_to_a_read_carries_none(api, me):
    answer = api.client.get("/api/v1/items", headers=me)
    assert position.HEADER not in answer.headers
    assert "Set-Cookie" not in answer.headers


def test_a_client_sees_its_write_though_the_replica_is_behind(api, me, standby):
    pause(standby)
    api.client.post("/api/v1/items", json=ITEM, headers=me)
    assert titles(api, me) == ["A title"]
    assert statements(api) == ["INSERT primary", "SELECT primary"]
    assert f"{BEHIND} 1.0" in api.metrics()


def test_the_header_does_as_well_as_the_cookie(api, me, standby):
    pause(standby)
    sent = api.client.post("/api/v1/items", json=ITEM, headers=me).headers[position.HEADER]
    api.client.delete_cookie(position.COOKIE)
    assert titles(api, me, **{position.HEADER: sent}) == ["A title"]


def test_without_a_position_one_statement_goes_to_the_replica(api, me, standby):
    pause(standby)
    api.client.post("/api/v1/items", json=ITEM, headers=me)
    api.client.delete_cookie(position.COOKIE)
    assert titles(api, me) == []
    assert statements(api)[1:] == ["SELECT replica"]


def test_a_replica_that_has_replayed_the_write_is_read(api, me, standby, postgresql):
    api.client.post("/api/v1/items", json=ITEM, headers=me)
    wait_until_replayed(standby, postgresql)
    assert titles(api, me) == ["A title"]
    assert statements(api)[1:] == ["SELECT replica"]
    assert f"{BEHIND} 0.0" in api.metrics()


def test_a_change_and_a_deletion_are_seen_too(api, me, standby, postgresql):
    location = api.client.post("/api/v1/items", json=ITEM, headers=me).headers["Location"]
    wait_until_replayed(standby, postgresql)
    pause(standby)
    api.client.patch(location, json={"title": "Another"}, headers=me)
    assert api.client.get(location, headers=me).json["title"] == "Another"
    api.client.delete(location, headers=me)
    assert api.client.get(location, headers=me).status_code == 404


def test_what_the_primary_did_not_find_is_not_asked_of_it_twice(api, me, standby):
    pause(standby)
    api.client.post("/api/v1/items", json=ITEM, headers=me)
    assert api.client.get(f"/api/v1/items/{uuid4()}", headers=me).status_code == 404
    assert statements(api) == ["INSERT primary", "SELECT primary"]


def test_what_a_replica_did_not_find_is_asked_of_the_primary(api, me, standby, postgresql):
    pause(standby)
    location = api.client.post("/api/v1/items", json=ITEM, headers=me).headers["Location"]
    api.client.delete_cookie(position.COOKIE)
    assert api.client.get(location, headers=me | {position.HEADER: "0/1"}).status_code == 200
    assert statements(api)[1:] == ["SELECT replica", "SELECT primary"]


@pytest.mark.parametrize(
    "sent",
    ["", "x", "0", "/", "0/", "0/1'", "G/0", "123456789/0", "-1/0", "0/1\u00e9", "\u0661/1", "0/1,0/2", "0" * 4000],
)
def test_a_malformed_position_is_ignored(api, me, sent):
    assert titles(api, me, **{position.HEADER: sent, "Cookie": f"{position.COOKIE}={sent}"}) == []
    assert statements(api) == ["SELECT replica"]
    assert f"{BEHIND} 0.0" in api.metrics()


def test_a_position_that_no_server_has_reached_leads_to_the_primary(api, me):
    assert titles(api, me, **{position.HEADER: "FFFFFFFF/FFFFFFFF"}) == []
    assert statements(api) == ["SELECT primary"]


def test_a_write_whose_position_cannot_be_asked_for_succeeds_and_is_seen(api, me, standby, monkeypatch):
    pause(standby)
    monkeypatch.setattr(database_module, "WRITTEN_UP_TO", "SELECT pg_terminate_backend(pg_backend_pid())")
    answer = api.client.post("/api/v1/items", json=ITEM, headers=me)
    assert answer.status_code == 201
    assert answer.headers[position.HEADER] == position.UNKNOWN
    assert titles(api, me) == ["A title"]


def test_a_write_that_may_have_happened_leads_to_the_primary(api):
    with api.app.test_request_context():
        with pytest.raises(DatabaseUnavailable), api.service.database.primary() as session:
            session.execute("DO 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); END'", {})
        assert position.needed() == position.UNKNOWN


def test_a_primary_demoted_in_a_transaction_is_not_asked_any_more(api):
    with api.app.test_request_context():
        with pytest.raises(DatabaseUnavailable), api.service.database.transaction() as session:
            session.execute("SET LOCAL transaction_read_only = on", {})
            session.execute("DELETE FROM api.items", {})
        assert position.needed() == position.UNKNOWN


def test_a_transaction_that_wrote_has_a_position_and_one_that_read_has_none(api, postgresql):
    with api.app.test_request_context():
        with api.service.database.transaction() as session:
            session.one("SELECT 1", {})
        assert position.needed() is None
        with api.service.database.transaction() as session:
            session.execute("INSERT INTO api.users VALUES (gen_random_uuid(), 'a', 'a')", {})
        written = position.needed()
    (now,) = postgresql.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
    assert postgresql.execute("SELECT %s::pg_lsn <= %s::pg_lsn", (written, now)).fetchone() == (True,)


def test_a_request_sees_what_it_wrote_itself(api, standby):
    pause(standby)
    database = api.service.database
    with api.app.test_request_context():
        with database.primary() as session:
            session.execute("INSERT INTO api.users VALUES (gen_random_uuid(), 'fresh', 'a')", {})
        with database.replica() as session:
            assert session.all("SELECT email FROM api.users", {}) == [("fresh",)]


def test_the_question_and_the_reads_share_a_transaction_and_so_a_server(api, standby, postgresql):
    """In transaction mode PgBouncer may give each transaction another server."""
    wait_until_replayed(standby, postgresql)
    begun = "SELECT transaction_timestamp()"
    database = api.service.database
    with api.app.test_request_context(headers={position.HEADER: "0/1"}), database.replica() as session:
        assert session.one(begun, {}) == session.one(begun, {})
        assert session.target == "replica"
    with database.replica() as session:
        assert session.one(begun, {}) != session.one(begun, {})


@pytest.mark.parametrize("sql", ["SELECT 1", "SELECT 1/0"])
def test_after_such_a_read_the_connection_has_no_transaction(api, sql):
    database = api.service.database
    with api.app.test_request_context(headers={position.HEADER: "0/1"}):
        try:
            with database.replica() as session:
                session.one(sql, {})
        except psycopg2.DataError:
            pass
    connection = database._pools["replica"].acquire()
    assert connection.autocommit
    assert connection.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE
    database._pools["replica"].release(connection, broken=False)


def test_a_replica_s_connection_that_breaks_at_the_question_is_replaced(api, monkeypatch):
    database = api.service.database
    with database.replica() as session:
        (pid,) = session.one("SELECT pg_backend_pid()", {})
    break_it = f"SELECT CASE pg_backend_pid() WHEN {pid} THEN pg_terminate_backend({pid}) ELSE true END"
    monkeypatch.setattr(database_module, "HAS_REACHED", break_it)
    with api.app.test_request_context(headers={position.HEADER: "0/1"}), database.replica() as session:
        assert session.one("SELECT pg_backend_pid()", {}) != (pid,)
        assert session.target == "replica"


def test_a_server_that_has_become_the_primary_is_read(start_api, me):
    """Here the replica's name leads to the primary, as HAProxy's last resort does."""
    api = start_api()
    api.client.post("/api/v1/items", json=ITEM, headers=me)
    assert titles(api, me) == ["A title"]
    assert statements(api) == ["INSERT primary", "SELECT replica"]
