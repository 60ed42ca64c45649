"""The database tier: one primary, streaming replicas, the seed document's settings."""

import json
from typing import Any

import pytest
from belvedere_platform import Platform, wait_until


def cluster(platform: Platform) -> list[dict[str, Any]]:
    """Patroni's view of its members."""
    tls = platform.facts["tls"]
    port = next(flow["port"] for flow in platform.facts["flows"] if flow["name"] == "patroni")
    certificate = f"--cacert {tls['ca']} --cert {tls['certificate']} --key {tls['key']}"
    host = platform.groups["postgres"][0]
    answer = platform.ssh(host, f"sudo curl --silent --fail --max-time 5 {certificate} https://{host}:{port}/cluster")
    members: list[dict[str, Any]] = json.loads(answer)["members"]
    return members


@pytest.fixture(scope="module")
def primary(platform: Platform) -> str:
    return next(str(member["name"]) for member in cluster(platform) if member["role"] == "leader")


def sql(platform: Platform, host: str, statement: str) -> str:
    return platform.ssh(host, f'cd / && sudo -u postgres psql -XAtc "{statement}"').strip()


def test_patroni_has_one_primary_and_every_other_member_streams(platform: Platform) -> None:
    def ask() -> bool:
        members = {member["name"]: (member["role"], member["state"]) for member in cluster(platform)}
        assert set(members) == set(platform.groups["postgres"])
        states = sorted(members.values())
        assert states[0] == ("leader", "running"), members
        assert {state for _, state in states[1:]} == {"streaming"}, members
        return True

    wait_until("Patroni's members are healthy", ask)


def test_every_replica_streams_from_the_primary(platform: Platform, primary: str) -> None:
    rows = sql(platform, primary, "select application_name, state from pg_stat_replication order by 1").splitlines()
    assert rows == [f"{host}|streaming" for host in platform.groups["postgres"] if host != primary]


def test_replicas_replay_what_the_primary_writes(platform: Platform, primary: str) -> None:
    position = sql(platform, primary, "select pg_current_wal_flush_lsn()")
    for host in set(platform.groups["postgres"]) - {primary}:
        assert sql(platform, host, "select pg_is_in_recovery()") == "t"
        replayed = f"select pg_last_wal_replay_lsn() >= '{position}'::pg_lsn"
        wait_until(f"{host} has replayed {position}", lambda host=host, ask=replayed: sql(platform, host, ask) == "t")  # type: ignore[misc]


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
    assert {host: sql(platform, host, f"show {setting}") for host in platform.groups["postgres"]} == dict.fromkeys(
        platform.groups["postgres"], value
    )


def test_statements_are_counted(platform: Platform, primary: str) -> None:
    assert int(sql(platform, primary, "select count(*) from pg_stat_statements")) > 0


def test_every_connection_of_a_service_is_encrypted(platform: Platform, primary: str) -> None:
    plain = (
        "select count(*) from pg_stat_ssl join pg_stat_activity using (pid) "
        "where not ssl and client_addr is not null and client_addr <> '127.0.0.1'"
    )
    assert sql(platform, primary, plain) == "0"
