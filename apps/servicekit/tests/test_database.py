"""The pools and what is retried, against a real server whose connections are really broken."""

import threading
import time
from pathlib import Path

import psycopg2
import pytest
from conftest import cloned_database

from servicekit.database import DatabaseUnavailable, Pool, PoolExhausted, connect
from servicekit.settings import DatabaseSettings

BACKEND = "SELECT pg_backend_pid()"


@pytest.fixture
def database(start_api):
    return start_api(POOL_PRIMARY="2", POOL_REPLICA="2").service.database


@pytest.fixture
def make_pool(postgresql):
    info = postgresql.info
    pools = []

    def connect():
        return psycopg2.connect(host=info.host, port=info.port, user="api", dbname=info.dbname)

    def make(size=1, patience=0.05, idle_timeout=30):
        pools.append(Pool(connect, size, patience, idle_timeout))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def kill(postgresql, pid):
    """End a backend, as a failover does, and wait until its connection is closed."""
    postgresql.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


@pytest.fixture
def passwords_asked(postgresql):
    """Let the server ask this role for a password, which it does of nobody else."""
    (name,) = postgresql.execute("SHOW hba_file").fetchone()
    hba = Path(name)
    before = hba.read_text()
    postgresql.execute("CREATE ROLE somebody LOGIN PASSWORD 'present'")
    postgresql.commit()
    hba.write_text(f"host all somebody all scram-sha-256\n{before}")
    postgresql.execute("SELECT pg_reload_conf()")
    yield
    hba.write_text(before)
    postgresql.execute("SELECT pg_reload_conf()")
    postgresql.execute("DROP ROLE somebody")
    postgresql.commit()


@pytest.mark.parametrize("passwords", ["present", "next\npresent", "present\nformer"])
def test_either_password_will_do_while_it_is_being_changed(postgresql, passwords_asked, passwords):
    connect(as_somebody(postgresql, passwords), postgresql.info.dbname, "test").close()


def test_a_password_that_is_neither_is_refused(postgresql, passwords_asked):
    with pytest.raises(psycopg2.OperationalError, match="authentication failed"):
        connect(as_somebody(postgresql, "next\nformer"), postgresql.info.dbname, "test")


def as_somebody(postgresql, passwords):
    hosts = f"{postgresql.info.host}:{postgresql.info.port}"
    return DatabaseSettings(
        database_hosts=hosts, database_user="somebody", database_sslmode="disable", database_password=passwords
    )


def test_a_released_connection_is_used_again(make_pool):
    pool = make_pool()
    first = pool.acquire()
    pool.release(first, broken=False)
    assert pool.acquire() is first


def test_a_full_pool_waits_and_then_gives_up(make_pool):
    pool = make_pool(size=1, patience=0.1)
    pool.acquire()
    begun = time.monotonic()
    with pytest.raises(PoolExhausted):
        pool.acquire()
    assert 0.1 <= time.monotonic() - begun < 2


def test_who_waits_gets_the_next_released_connection(make_pool):
    pool = make_pool(size=1, patience=10)
    lent, got = pool.acquire(), []
    waiting = threading.Thread(target=lambda: got.append(pool.acquire()))
    waiting.start()
    deadline = time.monotonic() + 5
    while pool.waiting == 0:
        assert time.monotonic() < deadline, "the thread never waited"
    pool.release(lent, broken=False)
    waiting.join(5)
    assert got == [lent]


def test_a_broken_connection_makes_room_for_a_new_one(make_pool):
    pool = make_pool()
    first = pool.acquire()
    pool.release(first, broken=True)
    assert pool.acquire() is not first
    assert first.closed


def test_connections_idle_for_too_long_are_closed(make_pool):
    pool = make_pool(idle_timeout=0.01)
    pool.release(pool.acquire(), broken=False)
    time.sleep(0.02)
    assert pool.idle == 0


def test_a_failed_connect_gives_its_place_back(make_pool):
    pool = make_pool()
    working, pool._connect = pool._connect, lambda: psycopg2.connect(host="127.0.0.1", port=1)
    with pytest.raises(DatabaseUnavailable):
        pool.acquire()
    pool._connect = working
    assert pool.acquire()


def test_a_connection_that_the_server_closed_while_idle_is_not_lent_again(database, postgresql):
    with database.primary() as session:
        pid = session.one(BACKEND, {})[0]
    kill(postgresql, pid)
    with database.primary() as session:  # not a SELECT, so nothing would retry it
        assert session.one("WITH pid AS (SELECT pg_backend_pid()) TABLE pid", {})[0] != pid


def test_a_read_whose_connection_breaks_is_retried_once_on_a_fresh_one(database, postgresql):
    with database.replica() as session:
        pid = session.one(BACKEND, {})[0]
        kill(postgresql, pid)
        assert session.one(BACKEND, {})[0] != pid


def test_a_write_whose_connection_breaks_is_not_retried(database, postgresql):
    with pytest.raises(DatabaseUnavailable), database.primary() as session:
        kill(postgresql, session.one(BACKEND, {})[0])
        session.execute("DELETE FROM api.items", {})
    with database.primary() as session:
        assert session.one("SELECT 1", {}) == (1,)


def test_a_read_inside_a_transaction_is_not_retried(database, postgresql):
    with pytest.raises(DatabaseUnavailable), database.transaction() as session:
        kill(postgresql, session.one(BACKEND, {})[0])
        session.one(BACKEND, {})


def test_a_transaction_is_all_or_none(database):
    user = {"id": "6a5a6e26-3c6f-4f8e-9a44-111111111111"}
    with pytest.raises(RuntimeError), database.transaction() as session:
        session.execute("INSERT INTO api.users (id, email, display_name) VALUES (%(id)s, 'a', 'a')", user)
        raise RuntimeError
    with database.primary() as session:
        assert session.one("SELECT count(*) FROM api.users", {}) == (0,)


def test_a_connection_is_in_autocommit_again_after_a_transaction(database, postgresql):
    with database.transaction() as session:
        pid = session.one(BACKEND, {})[0]
    with database.primary() as session:
        assert session.one(BACKEND, {})[0] == pid
        session.execute("INSERT INTO api.users VALUES (gen_random_uuid(), 'a', 'a')", {})
    assert postgresql.execute("SELECT count(*) FROM api.users").fetchone() == (1,)


def test_reads_go_to_the_primary_when_no_replica_can_be_reached(start_api):
    api = start_api(DATABASE_RO_NAME="no_such_database")
    with api.service.database.replica() as session:
        assert session.one("SELECT 1", {}) == (1,)
    assert 'operation="SELECT",service="api",target="primary"} 1.0' in api.metrics()
    assert api.log("replica_unavailable")


def test_a_row_that_is_not_on_the_replica_yet_is_found_on_the_primary(start_api, migrated, postgresql):
    postgresql.execute("INSERT INTO api.users VALUES (gen_random_uuid(), 'fresh', 'a')")
    with cloned_database(migrated, "lagging"):
        api = start_api(DATABASE_RO_NAME="lagging")
        find = "SELECT email FROM api.users WHERE email = 'fresh'"
        assert api.service.database.find(lambda session: session.one(find, {})) == ("fresh",)
        api.service.database.close()


def test_a_demoted_primary_counts_as_unavailable(database, postgresql):
    with pytest.raises(DatabaseUnavailable), database.primary() as session:
        session.execute("SET default_transaction_read_only = on", {})
        session.execute("DELETE FROM api.items", {})
    with database.primary() as session:
        assert session.one("SHOW default_transaction_read_only", {}) == ("off",)


def test_one_lost_pooler_is_survived(start_api, postgresql):
    port = postgresql.info.port
    api = start_api(DATABASE_HOSTS=f"127.0.0.1:1,127.0.0.1:{port}")
    for _ in range(5):
        with api.service.database.primary() as session:
            assert session.one("SELECT 1", {}) == (1,)
        api.service.database.close()


def test_connections_say_which_instance_they_belong_to(start_api):
    api = start_api(INSTANCE="3")
    with api.service.database.primary() as session:
        assert session.one("SELECT current_setting('application_name')", {}) == ("api@3",)
