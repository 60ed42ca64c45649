"""plugins/filter/belvedere.py."""

import base64
import hmac
import itertools
from pathlib import Path
from typing import Any

import belvedere
import pytest
from ansible.errors import AnsibleFilterError
from psycopg import pq

ROOT = Path(__file__).resolve().parents[2]


def test_a_verifier_is_what_postgresql_computes_for_the_same_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = pq.PGconn.connect_start(b"host=/nonexistent")  # libpq's own implementation, which needs no server
    theirs = connection.encrypt_password(b"correct horse", b"app", b"scram-sha-256").decode()
    salt = base64.b64decode(theirs.split(":")[1].split("$")[0])
    digest = hmac.digest

    def with_their_salt(key: bytes, message: bytes, name: str) -> bytes:
        return salt if message == b"belvedere:app" else digest(key, message, name)

    monkeypatch.setattr(hmac, "digest", with_their_salt)
    assert belvedere.scram_verifier("correct horse", "app") == theirs


def test_a_verifier_is_the_same_again_and_another_for_another_role_or_password() -> None:
    verifier = belvedere.scram_verifier("secret", "app")
    assert verifier == belvedere.scram_verifier("secret", "app")
    assert verifier != belvedere.scram_verifier("secret", "other")
    assert verifier != belvedere.scram_verifier("secret2", "app")


def test_a_verifier_does_not_contain_the_password() -> None:
    assert "secret" not in belvedere.scram_verifier("secret", "app")


def test_the_services_declarations_are_read_in_the_order_of_their_names() -> None:
    declared = belvedere.service_declarations(str(ROOT / "apps"))
    assert [service["name"] for service in declared] == sorted(
        path.parent.name for path in ROOT.glob("apps/*/service.yml")
    )


def test_no_declaration_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnsibleFilterError, match="no service is declared"):
        belvedere.service_declarations(str(tmp_path))


def test_services_of_two_declarations_share_no_port() -> None:
    declared: list[dict[str, Any]] = belvedere.service_declarations(str(ROOT / "apps"))
    bases = sorted(service["base_port"] for service in declared)
    assert all(after - before >= 64 for before, after in itertools.pairwise(bases)), bases


def test_a_misspelt_role_variable_is_found_and_a_declared_one_is_not(tmp_path: Path) -> None:
    spec = tmp_path / "pgbouncer/meta/argument_specs.yml"
    spec.parent.mkdir(parents=True)
    spec.write_text("argument_specs: {main: {options: {pgbouncer_port: {type: int}}}}")
    names = ["pgbouncer_port", "pgbouncer_prot", "platform_name"]
    assert belvedere.unknown_role_variables(names, str(tmp_path)) == ["pgbouncer_prot"]
