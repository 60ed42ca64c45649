"""Playbooks that could do harm stop before they change anything, and say in a line what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from belvedere_platform import Platform
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519


@pytest.mark.parametrize(
    ("playbook", "variables", "reason"),
    [
        ("restore", {}, "Say where to go back to"),
        ("restore", {"restore_time": "yesterday"}, "'yesterday' is not a time with its offset from UTC"),
        ("restore", {"restore_time": "2999-01-01 00:00:00+00"}, "is in the future"),
        ("restore", {"restore_end": True, "restore_host": "db9"}, "db9 is none of the database's hosts"),
        ("restore", {"restore_end": True, "restore_confirm": "another"}, "That is not the cluster's name"),
        (
            "restore",
            {"restore_time": "2001-01-01 00:00:00+00", "restore_confirm": "belvedere"},
            "is before the end of the oldest backup",
        ),
        ("reinitialize", {}, "Name a replica"),
        ("switchover", {"switchover_to": "db9"}, "nothing was changed"),
        ("deploy", {}, "Say which service: -e service=… with one of api, auth"),
        ("deploy", {"service": "orders"}, "Say which service: -e service=… with one of api, auth"),
        ("deploy", {"service": "api", "version": "0.0"}, "has no release 0.0 of api, only "),
        ("rollback", {"service": "api", "version": "0.0"}, "has no release 0.0 of api; it has "),
        ("preflight", {"nginx_wrokers": 2}, "No role has an argument of this name: nginx_wrokers"),
        ("preflight", {"edge_certificate": "files"}, "say ca, file or acme"),
        ("preflight", {"edge_certificate": "file", "edge_certificate_file": "/nowhere"}, "There is no file '/nowhere'"),
        ("preflight", {"zone": "a"}, "losing one zone would lose the majority"),
        ("preflight", {"pgbouncer_max_db_connections": 200}, "more than PostgreSQL's max_connections, 300"),
        ("preflight", {"pgbouncer_max_client_conn": 10}, "more than pgbouncer_max_client_conn, 10"),
        ("preflight", {"postgresql_max_connections": 99999}, "connections would fit"),
        ("preflight", {"postgresql_parameters": {"max_connections": 500}}, "say postgresql_max_connections instead"),
        ("preflight", {"postgresql_retry_timeout": 15}, "must not be more than postgresql_ttl"),
    ],
)
def test_what_cannot_be_is_refused(platform: Platform, playbook: str, variables: dict[str, Any], reason: str) -> None:
    with pytest.raises(AssertionError) as refused:
        run(platform, playbook, variables)
    assert reason in " ".join(str(refused.value).split())


def test_a_wrong_primary_is_refused_and_the_right_one_stays(platform: Platform) -> None:
    primary = platform.primary()
    replica = next(host for host in platform.groups["postgres"] if host != primary)
    with pytest.raises(AssertionError) as refused:
        run(platform, "switchover", {"switchover_from": replica})
    assert f"The primary is {primary}" in " ".join(str(refused.value).split())
    assert platform.primary() == primary


def test_a_certificate_of_another_key_is_refused(platform: Platform, tmp_path: Path) -> None:
    formats = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key = tmp_path / "edge.key"
    key.write_bytes(ed25519.Ed25519PrivateKey.generate().private_bytes(*formats))
    files = {"edge_certificate_file": str(platform.ca), "edge_certificate_key_file": str(key)}
    with pytest.raises(AssertionError) as refused:
        run(platform, "preflight", {"edge_certificate": "file", **files})
    assert "is not of the key" in " ".join(str(refused.value).split())


def run(platform: Platform, playbook: str, variables: dict[str, Any]) -> None:
    platform.ansible(
        "ansible-playbook", f"playbooks/{playbook}.yml", "--extra-vars", json.dumps(variables), timeout=120
    )
