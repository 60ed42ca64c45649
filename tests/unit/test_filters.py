"""plugins/filter/belvedere.py."""

import base64
import hmac
import itertools
import time
from pathlib import Path
from typing import Any, cast

import belvedere
import pytest
from ansible.errors import AnsibleFilterError
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from psycopg import pq

from auth.tokens import TokenSigner, load_signing_keys

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


def test_missing_secrets_are_made_and_present_ones_are_kept() -> None:
    present = {"ops_password": "mine", "extra": "mine too", "database": {"auth": "theirs"}}
    made = belvedere.complete_secrets(present, ["ops_password", "ca_passphrase"], ["auth", "api"])
    assert (made["ops_password"], made["extra"], made["database"]["auth"]) == ("mine", "mine too", "theirs")
    assert len(made["ca_passphrase"]) == len(made["database"]["api"]) == len(made["valkey"]["api"]) == 32
    assert len({made["ca_passphrase"], made["database"]["api"], made["valkey"]["api"], made["valkey"]["auth"]}) == 4
    assert load_pem_private_key(made["signing_key"].encode(), None).key_size >= 2048  # type: ignore[union-attr]
    assert belvedere.complete_secrets(made, ["ops_password", "ca_passphrase"], ["auth", "api"]) == made


@pytest.fixture
def secrets() -> dict[str, Any]:
    return belvedere.complete_secrets({}, [], [])


def test_a_signing_key_s_next_one_is_known_before_it_signs_and_the_former_after(secrets: dict[str, Any]) -> None:
    active, following = belvedere.signing_key_ids(secrets)
    rotated = belvedere.change_secrets(secrets, "next_signing_key")
    ids = belvedere.signing_key_ids(rotated)
    assert (ids[0], ids[2:]) == (following, [active])
    assert ids[1] not in (active, following)
    assert active not in belvedere.signing_key_ids(belvedere.change_secrets(rotated, "leaked_signing_key"))


def test_a_retired_key_is_forgotten_a_day_after_the_rotation_ended(
    secrets: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rotating = belvedere.change_secrets(secrets, "next_signing_key")
    monkeypatch.setattr(time, "time", lambda: 1e10)  # a rotation that was cut short may take any time
    rotating = belvedere.change_secrets(rotating, "expired_signing_keys")
    assert len(belvedere.signing_key_ids(rotating)) == 3
    ended = belvedere.change_secrets(rotating, "rotated_signing_key")
    for day, keys in ((86399, 3), (86401, 2)):
        monkeypatch.setattr(time, "time", lambda day=day: 1e10 + day)
        later = belvedere.change_secrets(ended, "expired_signing_keys")
        assert belvedere.change_secrets(ended, "rotated_signing_key") == ended
        assert len(belvedere.signing_key_ids(later)) == keys


def test_a_service_is_handed_one_private_key_and_reads_it_as_it_was_meant(secrets: dict[str, Any]) -> None:
    rotated = belvedere.change_secrets(secrets, "next_signing_key")
    text = belvedere.signing_key_credential(rotated)
    assert text.count("PRIVATE KEY") == 2  # the first and the last line of one
    keys = load_signing_keys(text)
    assert keys.since == rotated["signing_key_since"]
    signer = TokenSigner(keys.active, "issuer", "audience", 60, cast(Any, None), keys.others)  # traces nothing here
    assert [key["kid"] for key in signer.jwks()["keys"]] == belvedere.signing_key_ids(rotated)


def test_a_signing_key_of_one_s_own_vault_needs_nothing_beside_it(secrets: dict[str, Any]) -> None:
    text = belvedere.signing_key_credential({"signing_key": secrets["signing_key"]})
    assert text.strip() == secrets["signing_key"].strip()


def test_instances_flows_of_two_services_do_not_overlap() -> None:
    flows = belvedere.service_flows(
        [{"name": "a", "group": "a", "base_port": 8100}, {"name": "b", "group": "b", "base_port": 8200}]
    )
    (first, last), (following, _) = (map(int, flow["port"].split("-")) for flow in flows)
    assert (first, last) == (8101, 8132)
    assert last < following


def test_a_group_s_addresses_are_its_hosts_in_their_order() -> None:
    groups = [{"key": "edge", "value": ["edge2", "edge1"]}, {"key": "none", "value": []}]
    addresses = {"edge1": "10.0.0.1", "edge2": "10.0.0.2"}
    assert belvedere.group_addresses(groups, addresses) == {"edge": ["10.0.0.2", "10.0.0.1"], "none": []}


def test_a_service_s_connections_are_those_of_all_its_instances_on_all_hosts() -> None:
    database = {"pool_primary": 8, "pool_replica": 12}
    services: list[dict[str, Any]] = [
        {"name": "by_cores", "group": "apps", "database": database},
        {"name": "fixed", "group": "apps", "database": database, "instances": 3},
    ]
    hosts = {"app1": {"ansible_facts": {"processor_vcpus": 4}}, "app2": {}}  # nobody asked app2
    assert belvedere.service_connections(services, {"apps": ["app1", "app2"]}, hosts) == {"by_cores": 100, "fixed": 120}


def test_an_edge_lets_in_what_all_hosts_of_a_service_take_together() -> None:
    service = {"name": "api", "group": "apps", "routes": ["/api/"], "in_flight": 64, "base_port": 8200}
    (edge_service,) = belvedere.edge_services([service], {"apps": ["a", "b", "c"]}, "/apps")
    assert edge_service["in_flight"] == 192


def test_an_edge_serves_a_service_s_own_files_and_verifies_tokens_where_that_is_declared() -> None:
    service = {"name": "shop", "group": "apps", "routes": ["/shop/"], "in_flight": 8}
    (plain,) = belvedere.edge_services([service], {"apps": ["a"]}, "/apps")
    assert (plain["static"], plain["verify_tokens"]) == ([], "self")
    declared = service | {"static": {"/shop/ui/": "ui"}, "verify_tokens": "edge"}
    (with_files,) = belvedere.edge_services([declared], {"apps": ["a"]}, "/apps")
    assert with_files["static"] == [{"path": "/shop/ui/", "folder": "/apps/shop/ui"}]
    assert with_files["verify_tokens"] == "edge"


def test_a_limit_of_a_route_that_is_not_declared_is_an_error() -> None:
    service = {"name": "api", "group": "apps", "routes": ["/api/"], "limits": {"/apo/": {}}, "in_flight": 64}
    with pytest.raises(AnsibleFilterError, match="/apo/"):
        belvedere.edge_services([service], {"apps": ["a"]}, "/apps")


def test_passwords_are_changed_in_two_steps_and_an_interrupted_first_step_keeps_what_it_made() -> None:
    present = belvedere.complete_secrets({}, [*belvedere.DATABASE_PASSWORDS, "ops_password"], ["api", "auth"])
    both = belvedere.change_secrets(present, "next_database_passwords")
    assert both["database"] == present["database"]
    assert set(both["database_next"]) == {"api", "auth"}
    assert belvedere.change_secrets(both, "next_database_passwords") == both
    after = belvedere.change_secrets(both, "rotated_database_passwords")
    assert after["database"] == both["database_next"]
    assert "database_next" not in after
    assert {name for name in present if after[name] != present[name]} == {*belvedere.DATABASE_PASSWORDS, "database"}


def test_an_unknown_change_of_secrets_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="no change of secrets called typo"):
        belvedere.change_secrets({}, "typo")


def test_a_runbook_is_a_page_and_links_to_others_within_it(tmp_path: Path) -> None:
    (tmp_path / "DiskFull.md").write_text("See [HostDown](HostDown.md), [us](https://example.net/a.md) and <script>.")
    (tmp_path / "HostDown.md").write_text("| a | b |\n|---|---|\n| 1 | 2 |")
    pages = belvedere.runbook_pages(str(tmp_path))
    assert list(pages) == ["DiskFull", "HostDown"]
    assert 'href="#HostDown"' in pages["DiskFull"]
    assert 'href="https://example.net/a.md"' in pages["DiskFull"]
    assert "<script>" not in pages["DiskFull"]
    assert "<table>" in pages["HostDown"]


def test_an_inventory_says_how_long_rows_are_kept_but_not_of_tables_that_no_service_declares() -> None:
    services: list[dict[str, Any]] = [{"name": "a", "retention": {"logs": {"age": ["at"], "days": 9}}}, {"name": "b"}]
    assert belvedere.service_retention(services, {}) == {"a.logs": {"age": ["at"], "days": 9}}
    assert belvedere.service_retention(services, {"a.logs": 3}) == {"a.logs": {"age": ["at"], "days": 3}}
    with pytest.raises(AnsibleFilterError, match=r"b\.logs"):
        belvedere.service_retention(services, {"b.logs": 3})
