"""What listens, and what can be reached from where, is exactly the flow table."""

import json
import re
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from belvedere_platform import Platform

Flow = dict[str, Any]

# Tries to connect to every address:port it reads, at once, and prints those that answered.
CONNECT = """
import concurrent.futures, json, socket
def reached(target):
    try:
        socket.create_connection(target, timeout=1.5).close()
        return True
    except OSError:
        return False
targets = json.loads('''{targets}''')
with concurrent.futures.ThreadPoolExecutor(128) as pool:
    print(json.dumps([target for target, answer in zip(targets, pool.map(reached, targets)) if answer]))
"""


def ports(flow: Flow) -> range:
    first, _, last = str(flow["port"]).partition("-")
    return range(int(first), int(last or first) + 1)


def flows_to(platform: Platform, host: str) -> list[Flow]:
    """The flows that may reach a host."""
    return [flow for flow in platform.facts["flows"] if flow["to"] == "all" or host in platform.groups[flow["to"]]]


def allowed(platform: Platform, source: str, host: str) -> list[Flow]:
    """The flows from a host (or `control`) to another."""

    def may(peer: str) -> bool:
        if peer == "clients" or (peer == "control" and not platform.facts["control_addresses"]):
            return True
        return source == "control" if peer == "control" else source in platform.groups[peer]

    return [flow for flow in flows_to(platform, host) if any(may(peer) for peer in flow["from"])]


@pytest.fixture(scope="module")
def listeners(platform: Platform) -> dict[str, dict[tuple[str, int], str]]:
    """What listens on an address that other hosts can use, by host: (protocol, port) and the program."""

    def ask(host: str) -> dict[tuple[str, int], str]:
        found = {}
        for line in platform.ssh(host, "sudo ss -Htulpn").splitlines():
            protocol, _, _, _, local, *rest = line.split()
            address, port = local.rsplit(":", 1)
            if not re.match(r"127\.|\[::1\]|\[::ffff:127\.", address):
                program = re.search(r'"([^"]+)"', " ".join(rest))
                found[protocol, int(port)] = program[1] if program else "?"
        return found

    with ThreadPoolExecutor(8) as pool:
        return dict(zip(platform.hosts, pool.map(ask, platform.hosts), strict=True))


def test_nothing_listens_that_is_not_in_the_flow_table(
    platform: Platform, listeners: dict[str, dict[tuple[str, int], str]]
) -> None:
    strangers = [
        f"{host}: {program} on {protocol}/{port}"
        for host, found in listeners.items()
        for (protocol, port), program in sorted(found.items())
        if not any(protocol == flow["protocol"] and port in ports(flow) for flow in flows_to(platform, host))
    ]
    assert strangers == []


def test_every_flow_has_somebody_who_listens(
    platform: Platform, listeners: dict[str, dict[tuple[str, int], str]]
) -> None:
    left_out = " ".join(platform.left_out)
    silent = [
        f"{host}: nobody on {flow['protocol']}/{flow['port']} ({flow['name']})"
        for host in platform.hosts
        for flow in flows_to(platform, host)
        if flow["protocol"] in ("tcp", "udp")
        and not any((flow["protocol"], port) in listeners[host] for port in ports(flow))
        # The tools' proxies listen whether or not a tool was left out; these two flows end at the tool itself.
        and not (flow["name"] == "traces" and "jaeger" in left_out)
        and not (flow["name"] == "journals" and "victorialogs" in left_out)
    ]
    assert silent == []


def one_host_of_each_kind(platform: Platform) -> list[str]:
    """A host for each set of groups, and the control node: what may be reached depends on nothing else."""
    kinds: dict[tuple[str, ...], str] = {}
    for host in platform.hosts:
        kinds.setdefault(tuple(group for group, members in sorted(platform.groups.items()) if host in members), host)
    return [*kinds.values(), "control"]


def connect(platform: Platform, source: str, targets: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
    """Those of the targets that accept a connection from the source."""
    script = CONNECT.replace("{targets}", json.dumps(sorted(targets)))
    if source != "control":
        return {(address, port) for address, port in platform.python(source, script)}

    def answers(target: tuple[str, int]) -> bool:
        try:
            socket.create_connection(target, timeout=1.5).close()
            return True
        except OSError:
            return False

    targets = sorted(targets)
    with ThreadPoolExecutor(128) as pool:
        return {target for target, answer in zip(targets, pool.map(answers, targets), strict=True) if answer}


def test_what_can_be_reached_is_what_the_flow_table_allows(
    platform: Platform, listeners: dict[str, dict[tuple[str, int], str]]
) -> None:
    addresses: dict[str, str] = platform.facts["addresses"]
    interesting = {ports(flow)[0] for flow in platform.facts["flows"] if flow["protocol"] == "tcp"}
    faults = []
    for source in one_host_of_each_kind(platform):
        others = [host for host in platform.hosts if host != source]
        tried, expected = set(), set()
        for host in others:
            listening = {port for protocol, port in listeners[host] if protocol == "tcp"}
            tried |= {(addresses[host], port) for port in listening | interesting}
            may = {port for flow in allowed(platform, source, host) for port in ports(flow)}
            expected |= {(addresses[host], port) for port in listening & may}
        reached = connect(platform, source, tried)
        names = {address: host for host, address in addresses.items()}
        faults += [
            f"{source} reaches {names[at]}:{port}, which no flow allows" for at, port in sorted(reached - expected)
        ]
        faults += [f"{source} does not reach {names[at]}:{port}" for at, port in sorted(expected - reached)]
    assert faults == []


def test_a_flow_without_tls_says_why(platform: Platform) -> None:
    assert [flow["name"] for flow in platform.facts["flows"] if flow["tls"] == "none" and not flow.get("reason")] == []


def test_flows_of_mutual_tls_refuse_who_has_no_certificate(
    platform: Platform, listeners: dict[str, dict[tuple[str, int], str]]
) -> None:
    """Asked from a host that may connect: a handshake without a certificate, and a request that would be answered."""
    script = """
import json, socket, ssl
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
answered = []
for name, address, port in json.loads('''{targets}'''):
    try:
        with context.wrap_socket(socket.create_connection((address, port), timeout=3)) as connection:
            connection.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')
            status = connection.recv(100).split(b' ')[1:2]
            if status and status[0] not in (b'400', b'401', b'403', b'495', b'496'):
                answered.append([name, address, port, status[0].decode()])
    except OSError:
        pass
print(json.dumps(answered))
"""
    answered = []
    for source in one_host_of_each_kind(platform)[:-1]:
        targets = [
            (flow["name"], platform.facts["addresses"][host], port)
            for host in platform.hosts
            if host != source
            for flow in allowed(platform, source, host)
            for port in ports(flow)
            if flow["tls"] == "mutual" and ("tcp", port) in listeners[host]
        ]
        answered += platform.python(source, script.replace("{targets}", json.dumps(targets)))
    assert answered == []
