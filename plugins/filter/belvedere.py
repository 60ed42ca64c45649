"""Filters for what Jinja says badly: reading the services' declarations, SCRAM verifiers, names of role variables."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import string
import time
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleFilterError
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from markdown_it import MarkdownIt


def service_declarations(folder: str) -> list[dict[str, Any]]:
    """Return every `<folder>/<name>/service.yml`, parsed, in the order of their names."""
    declarations = [yaml.safe_load(path.read_text()) for path in sorted(Path(folder).glob("*/service.yml"))]
    if not declarations:
        raise AnsibleFilterError(f"no service is declared: {folder}/*/service.yml matches nothing")
    return declarations


def runbook_pages(folder: str) -> dict[str, str]:
    """Return the HTML of each runbook by its alert; a link from one to another becomes one within a page."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    pages = {path.stem: markdown.render(path.read_text()) for path in sorted(Path(folder).glob("*.md"))}
    return {alert: re.sub(r'href="(\w+)\.md"', r'href="#\1"', page) for alert, page in pages.items()}


def password() -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(32))


def private_key() -> str:
    """Return a new RSA key in PEM form."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(*form).decode()


def public_half(pem: str) -> str:
    """Return a private key's public half, in PEM form too."""
    key = serialization.load_pem_private_key(pem.encode(), None).public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def key_id(public_pem: str) -> str:
    """Return an RSA key's RFC 7638 thumbprint, by which tokens and key sets call it."""
    key = serialization.load_pem_public_key(public_pem.encode())
    if not isinstance(key, rsa.RSAPublicKey):
        raise AnsibleFilterError("a key for tokens is an RSA key")

    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    e, n = (
        encode(part.to_bytes((part.bit_length() + 7) // 8)) for part in (key.public_numbers().e, key.public_numbers().n)
    )
    return encode(hashlib.sha256(f'{{"e":"{e}","kty":"RSA","n":"{n}"}}'.encode()).digest())


def complete_secrets(present: dict[str, Any], passwords: list[str], services: list[str]) -> dict[str, Any]:
    """Return the secrets, the missing ones made: passwords of 32 letters and digits, and RSA keys for tokens.

    The key that signs tokens (`signing_key`, since `signing_key_since`) has a successor from the beginning
    (`signing_key_next`): others must know that one long before it signs.
    """
    complete = {name: present.get(name) or password() for name in passwords}
    for kind in ("database", "valkey"):  # a password for each service
        known = present.get(kind, {})
        complete[kind] = {service: known.get(service) or password() for service in services}
    complete["signing_key"] = present.get("signing_key") or private_key()
    complete["signing_key_since"] = present.get("signing_key_since") or int(time.time())
    complete["signing_key_next"] = present.get("signing_key_next") or private_key()
    return present | complete


DATABASE_PASSWORDS = ("postgresql_replication", "postgresql_rewind", "postgresql_monitor", "pgbouncer_stats")


LONGEST_TOKEN = 86400  # seconds: what TOKEN_LIFETIME may be at most


def change_secrets(present: dict[str, Any], change: str) -> dict[str, Any]:
    """Return the secrets after a step of changing some.

    * `next_database_passwords`: `database_next` has a password for each service, made now unless it is there.
    * `rotated_database_passwords`: those are the passwords now, and the ones that no request needs are new.
    * `next_signing_key`: the next key signs, another one comes next, and the former is retired.
    * `leaked_signing_key`: the same, but neither the former nor any retired key is good for anything any more.
    * `rotated_signing_key`: from now on nothing signs with what is retired.
    * `expired_signing_keys`: those are forgotten whose last token has expired.
    """
    retired = present.get("signing_keys_retired", [])
    if change in ("next_signing_key", "leaked_signing_key"):
        former = [*retired, {"key": public_half(present["signing_key"])}] if change == "next_signing_key" else []
        return present | {
            "signing_key": present["signing_key_next"],
            "signing_key_since": int(time.time()),
            "signing_key_next": private_key(),
            "signing_keys_retired": former,
        }
    if change == "rotated_signing_key":
        return present | {"signing_keys_retired": [{"since": int(time.time())} | key for key in retired]}
    if change == "expired_signing_keys":
        good = [key for key in retired if time.time() - key.get("since", time.time()) <= LONGEST_TOKEN]
        return present | {"signing_keys_retired": good}
    if change == "next_database_passwords":
        made = present.get("database_next", {})
        return present | {
            "database_next": {service: made.get(service) or password() for service in present["database"]}
        }
    if change == "rotated_database_passwords":
        kept = {name: value for name, value in present.items() if name != "database_next"}
        return kept | {"database": present["database_next"]} | {name: password() for name in DATABASE_PASSWORDS}
    if change:
        raise AnsibleFilterError(f"there is no change of secrets called {change}")
    return present


def published_keys(secrets: dict[str, Any]) -> list[str]:
    """Return the public keys that tokens may be signed with: the active one, the next, the retired ones."""
    private = [secrets["signing_key"], *([secrets["signing_key_next"]] if "signing_key_next" in secrets else [])]
    return [public_half(pem) for pem in private] + [key["key"] for key in secrets.get("signing_keys_retired", [])]


def signing_key_credential(secrets: dict[str, Any]) -> str:
    """Return what a service that signs tokens gets: the active key, and only the public halves of all others."""
    since = f"Active-Since: {secrets['signing_key_since']}\n" if "signing_key_since" in secrets else ""
    return since + "\n".join(pem.strip() for pem in (secrets["signing_key"], *published_keys(secrets)[1:])) + "\n"


def signing_key_ids(secrets: dict[str, Any]) -> list[str]:
    """Return the ids of the keys that tokens may be signed with, in their order in the key set."""
    return [key_id(pem) for pem in published_keys(secrets)]


def file_text(path: str) -> str:
    """Return a file's text; the lookup of the same use cannot be mapped over a list."""
    return Path(path).read_text()


def group_addresses(groups: list[dict[str, Any]], addresses: dict[str, str]) -> dict[str, list[str]]:
    """Return each group's addresses, from the items of `groups` (key, value) and each host's address."""
    return {group["key"]: [addresses[host] for host in group["value"]] for group in groups}


def edge_services(services: list[dict[str, Any]], groups: dict[str, list[str]], folder: str) -> list[dict[str, Any]]:
    """Return what edges need of each service: name, routes, their limits, and what all its hosts take at once.

    `folder` has the services' own folders, where their static files are.
    """
    for service in services:
        if unknown := sorted(set(service.get("limits", {})) - set(service["routes"])):
            raise AnsibleFilterError(f"{service['name']} limits routes that it does not declare: {unknown}")
    return [
        {
            "name": service["name"],
            "routes": service["routes"],
            "limits": service.get("limits", {}),
            "in_flight": service["in_flight"] * len(groups[service["group"]]),
            "static": [
                {"path": path, "folder": f"{folder}/{service['name']}/{files}"}
                for path, files in service.get("static", {}).items()
            ],
            "verify_tokens": service.get("verify_tokens", "self"),
        }
        for service in services
    ]


def service_connections(services: list[dict[str, Any]], groups: dict[str, list[str]], hosts: Any) -> dict[str, int]:
    """Return how many database connections each service may open: both pools, of all instances on all its hosts.

    A host whose facts nobody has asked (--limit) counts as one core, so one instance.
    """

    def instances(service: dict[str, Any], host: str) -> int:
        cores = hosts[host].get("ansible_facts", {}).get("processor_vcpus", 1)
        return int(service.get("instances", cores))

    return {
        service["name"]: sum(instances(service, host) for host in groups[service["group"]])
        * (service["database"]["pool_primary"] + service["database"]["pool_replica"])
        for service in services
    }


def service_flows(services: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the flow table's rows for the services' instances: at most 32 on a host, from base_port + 1."""
    return [
        {
            "name": f"{service['name']} instances",
            "port": f"{service['base_port'] + 1}-{service['base_port'] + 32}",
            "protocol": "tcp",
            "from": ["edge", "observability"],
            "to": service["group"],
            "tls": "mutual",
            "authentication": "certificate",
        }
        for service in services
    ]


def service_retention(services: list[dict[str, Any]], days: dict[str, int]) -> dict[str, dict[str, Any]]:
    """Return the rules by which old rows go, by `<service>.<table>`; `days` has the inventory's own."""
    rules = {
        f"{service['name']}.{table}": rule
        for service in services
        for table, rule in service.get("retention", {}).items()
    }
    if unknown := sorted(set(days) - set(rules)):
        raise AnsibleFilterError(f"no service declares how long these tables' rows are kept: {unknown}")
    return {table: rule | {"days": days.get(table, rule["days"])} for table, rule in rules.items()}


def chosen_credentials(available: dict[str, str], names: list[str]) -> dict[str, str]:
    """Return the named credentials. An error names what is missing, and shows no secret."""
    missing = sorted(set(names) - set(available))
    if missing:
        raise AnsibleFilterError(f"a service declares credentials that service_credentials does not have: {missing}")
    return {name: available[name] for name in names}


def scram_verifier(password: str, role: str, iterations: int = 4096) -> str:
    """Return PostgreSQL's SCRAM-SHA-256 verifier of a password.

    The salt is derived from the password and the role's name, so that the same input gives the same verifier and a
    rerun changes nothing; passwords here are long and random, so the salt has nothing to hide.
    Format: RFC 5803, as PostgreSQL stores it in pg_authid.rolpassword.
    """
    salt = hmac.digest(password.encode(), f"belvedere:{role}".encode(), "sha256")[:16]
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (base64.b64encode(part).decode() for part in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${iterations}:{salt64}${stored64}:{server64}"


def unknown_role_variables(names: list[str], roles_folder: str) -> list[str]:
    """Return the names that start with a role's name and an underscore, but that no argument spec declares."""
    declared: set[str] = set()
    prefixes: list[str] = []
    for spec in sorted(Path(roles_folder).glob("*/meta/argument_specs.yml")):
        prefixes.append(f"{spec.parent.parent.name}_")
        for entry in yaml.safe_load(spec.read_text())["argument_specs"].values():
            declared.update(entry.get("options", {}))
    return sorted(name for name in names if name.startswith(tuple(prefixes)) and name not in declared)


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        return {
            "chosen_credentials": chosen_credentials,
            "change_secrets": change_secrets,
            "complete_secrets": complete_secrets,
            "edge_services": edge_services,
            "file_text": file_text,
            "group_addresses": group_addresses,
            "runbook_pages": runbook_pages,
            "scram_verifier": scram_verifier,
            "service_connections": service_connections,
            "service_declarations": service_declarations,
            "service_flows": service_flows,
            "service_retention": service_retention,
            "signing_key_credential": signing_key_credential,
            "signing_key_ids": signing_key_ids,
            "unknown_role_variables": unknown_role_variables,
        }
