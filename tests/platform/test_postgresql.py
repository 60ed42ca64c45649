"""The database tier: one primary, streaming replicas, the seed document's settings."""

from contextlib import ExitStack

import pytest
from belvedere_platform import Edge, Platform, wait_until


@pytest.fixture(scope="module")
def primary(platform: Platform) -> str:
    return platform.primary()


def test_patroni_has_one_primary_and_every_other_member_streams(platform: Platform) -> None:
    def ask() -> bool:
        members = {member["name"]: (member["role"], member["state"]) for member in platform.members()}
        assert set(members) == set(platform.groups["postgres"])
        states = sorted(members.values())
        assert states[0] == ("leader", "running"), members
        assert {state for _, state in states[1:]} == {"streaming"}, members
        return True

    wait_until("Patroni's members are healthy", ask)


def test_every_replica_streams_from_the_primary(platform: Platform, primary: str) -> None:
    rows = platform.sql(primary, "select application_name, state from pg_stat_replication order by 1").splitlines()
    assert rows == [f"{host}|streaming" for host in platform.groups["postgres"] if host != primary]


def test_replicas_replay_what_the_primary_writes(platform: Platform, primary: str) -> None:
    position = platform.sql(primary, "select pg_current_wal_flush_lsn()")
    for host in set(platform.groups["postgres"]) - {primary}:
        assert platform.sql(host, "select pg_is_in_recovery()") == "t"
        replayed = f"select pg_last_wal_replay_lsn() >= '{position}'::pg_lsn"
        wait_until(f"{host} has replayed {position}", lambda host=host, ask=replayed: platform.sql(host, ask) == "t")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("data_checksums", "on"),
        ("max_connections", "300"),
        ("ssl", "on"),
        ("password_encryption", "scram-sha-256"),
        ("log_min_duration_statement", "100ms"),
    ],
)
def test_every_member_has_the_setting(platform: Platform, setting: str, value: str) -> None:
    assert {host: platform.sql(host, f"show {setting}") for host in platform.groups["postgres"]} == dict.fromkeys(
        platform.groups["postgres"], value
    )


def test_statements_are_counted(platform: Platform, primary: str) -> None:
    assert int(platform.sql(primary, "select count(*) from pg_stat_statements")) > 0


def test_every_connection_of_a_service_is_encrypted(platform: Platform, primary: str) -> None:
    plain = (
        "select count(*) from pg_stat_ssl join pg_stat_activity using (pid) "
        "where not ssl and client_addr is not null and client_addr <> '127.0.0.1'"
    )
    assert platform.sql(primary, plain) == "0"


@pytest.mark.disruptive
def test_a_user_sees_their_own_write_while_replicas_lag(platform: Platform, primary: str) -> None:
    user = platform.edge.as_new_user()
    stranger = Edge(user.url, user.ca, user.token)  # the same user without the cookie that tells how far the write is
    assert user.get("/api/v1/items").json()["items"] == []
    replicas = sorted(set(platform.groups["postgres"]) - {primary})
    with ExitStack() as stack:
        for host in replicas:
            stack.enter_context(platform.replay_stopped(host))
        created = user.post("/api/v1/items", json={"title": "seen", "body": "at once"})
        assert created.status_code == 201, created.text
        assert stranger.get("/api/v1/items").json()["items"] == [], "replicas do lag, so the next line means something"
        assert [item["title"] for item in user.get("/api/v1/items").json()["items"]] == ["seen"]
    wait_until("replicas have it, too", lambda: stranger.get("/api/v1/items").json()["items"])
