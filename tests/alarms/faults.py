"""Faults that can be made on the local platform, each with the alerts that it must cause.

A fault is a context manager: it breaks something on the running hosts, and puts it right again. What Prometheus and
Alertmanager make of it is the tests' business. No rule and no threshold is changed.
"""

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import requests
from belvedere_platform import Edge, Platform, docker, wait_until

Labels = dict[str, str]


@dataclass(frozen=True)
class Cause:
    """What is broken together, and the alerts that must tell of it.

    expected: alert → labels that it must have.
    pages: how many critical notifications may arrive, where this is counted. More would be a storm.
    page_within: seconds until the first page has arrived.
    """

    name: str
    make: Callable[[Platform], AbstractContextManager[None]]
    expected: dict[str, Labels]
    within: float
    pages: int | None = None
    page_within: float | None = None


# Alerts that no fault of this module causes, with the reason.
NOT_MADE = {
    "BackupTooOld": "takes 30 hours without a backup",
    "ClockSkewed": "all local hosts have the clock of the one machine they run on",
    "JourneyProbeMissing": "takes a platform that never had the probe",
    "LoginsFromNewNetworks": "takes logins from many networks, and here all clients have one",
    "LoginsLocked": "takes failed logins from many addresses, and here all clients have one",
    "MemoryPressure": "would starve the machine that all local hosts share, for ten minutes",
    "OneAccountFromManyAddresses": "takes clients with many addresses, and here all have one",
    "RestoreDrillTooOld": "takes 35 days without a drill",
    "RetentionNotRun": "takes two days without the job",
    "SigningKeyOld": "takes a key of 45 days",
    "SloBudgetBurnsSlowly": "its windows are days; where it fires sooner, SloBudgetBurnsFast holds it back",
    "ValkeyEvicts": "takes 25 minutes of more writes than fit",
}


def replicas(platform: Platform) -> list[str]:
    primary = platform.primary()
    return [host for host in platform.groups["postgres"] if host != primary]


def spare_edge(platform: Platform) -> str:
    """An edge without the address that clients use."""
    address = str(platform.description["edge"]).removeprefix("https://")
    return next(h for h in platform.groups["edge"] if address not in platform.ssh(h, "ip -brief address"))


@contextmanager
def stopped(platform: Platform, *units: str, hosts: list[str]) -> Iterator[None]:
    """Units that do not run."""
    names = " ".join(f"'{unit}'" for unit in units)
    for host in hosts:
        platform.ssh(host, f"sudo systemctl stop {names}", timeout=120)
    try:
        yield
    finally:
        for host in hosts:
            platform.ssh(host, f"sudo systemctl start --no-block {names}", timeout=120)


@contextmanager
def running(platform: Platform, host: str, name: str, script: str, *options: str) -> Iterator[None]:
    """A script that runs on the host meanwhile, in a unit of its own."""
    path = f"/usr/local/bin/{name}"  # nothing in /run may be executed
    platform.ssh(host, f"sudo tee {path} >/dev/null; sudo chmod 0755 {path}", script)
    platform.ssh(
        host, f"sudo systemd-run --quiet --collect --property=Type=exec --unit={name} {' '.join(options)} {path}"
    )
    try:
        yield
    finally:
        platform.ssh(host, f"sudo systemctl stop {name} 2>/dev/null; sudo rm -f {path}", timeout=120)


@contextmanager
def together(*faults: AbstractContextManager[None]) -> Iterator[None]:
    with ExitStack() as stack:
        for fault in faults:
            stack.enter_context(fault)
        yield


# PostgreSQL, PgBouncer, etcd


def postgresql_stopped(platform: Platform) -> AbstractContextManager[None]:
    return stopped(platform, "patroni", hosts=["db2"])


def database_stopped(platform: Platform) -> AbstractContextManager[None]:
    return stopped(platform, "patroni", hosts=[*replicas(platform), platform.primary()])


@contextmanager
def refused(platform: Platform, host: str, rule: str) -> Iterator[None]:
    """What leaves the host and matches the rule of nftables is refused."""
    chain = f"chain output {{\ntype filter hook output priority -100\n{rule} reject with tcp reset\n}}\n"
    platform.ssh(host, "sudo nft -f -", f"table inet alarm {{\n{chain}}}\n")
    try:
        yield
    finally:
        platform.ssh(host, "sudo nft delete table inet alarm")


def replica_receives_nothing(platform: Platform) -> AbstractContextManager[None]:
    rule = "meta skuid postgres tcp dport 5432 ip daddr != 127.0.0.1"
    return refused(platform, replicas(platform)[0], rule)


def replica_replays_nothing(platform: Platform) -> AbstractContextManager[None]:
    return platform.replay_stopped(replicas(platform)[1])


def etcd_member_stopped(platform: Platform) -> AbstractContextManager[None]:
    return platform.etcd_stopped([replicas(platform)[0]])


def etcd_majority_stopped(platform: Platform) -> AbstractContextManager[None]:
    return platform.etcd_stopped(replicas(platform))


SERVER_CONNECTIONS = """#!/usr/bin/python3
import glob, socket, time
parameters = b"user\\0postgres\\0database\\0postgres\\0\\0"
start = (len(parameters) + 8).to_bytes(4) + (3 << 16).to_bytes(4) + parameters
held = []
for _ in range(%d):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].connect(glob.glob("/var/run/postgresql/.s.PGSQL.*[0-9]")[0])
    held[-1].sendall(start)
time.sleep(3600)
"""


def server_connections_held(platform: Platform) -> AbstractContextManager[None]:
    """Nine in ten of a replica's connections, held by its superuser."""
    replica = replicas(platform)[1]
    wanted = 9 * int(platform.sql(replica, "show max_connections")) // 10
    return running(platform, replica, "alarm-connections", SERVER_CONNECTIONS % wanted, "-p", "User=postgres")


POOLER_CLIENTS = """#!/opt/api/current/bin/python
import random, sys, threading, time, psycopg2
count, host, database, statement = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
password = open("/etc/api/credentials/database_password").read()
def work():
    while True:
        try:
            connection = psycopg2.connect(host=host, port=6432, dbname=database, user="api", password=password,
                                          sslmode="require", connect_timeout=60)
            if statement:
                cursor = connection.cursor()
                cursor.execute("set local statement_timeout = 0")
                cursor.execute(statement)
                connection.rollback()
            else:
                time.sleep(3600)
        except psycopg2.Error as error:
            print(error, file=sys.stderr)
            time.sleep(random.uniform(0, 5))  # PgBouncer lets each wait for some seconds: not all for the same ones
for _ in range(count):
    threading.Thread(target=work).start()
"""


def pooler_clients(platform: Platform, name: str, count: int, database: str, sql: str) -> AbstractContextManager[None]:
    """Clients of PgBouncer on db2, which do nothing or run a statement again and again."""
    host = platform.groups["api"][0]
    script = POOLER_CLIENTS.replace("sys.argv[1]", repr(count), 1)
    for argument, value in ((2, platform.groups["pooler"][-1]), (3, database), (4, sql)):
        script = script.replace(f"sys.argv[{argument}]", repr(value), 1)
    return running(platform, host, name, script, "-p", "LimitNOFILE=8192")


def pooler_exhausted(platform: Platform) -> AbstractContextManager[None]:
    """More transactions than the pool for reads has connections."""
    pooler = platform.groups["pooler"][-1]
    answer = platform.prometheus(f'max(pgbouncer_databases_pool_size{{host="{pooler}"}})')
    count = int(answer[0]["value"][1]) + 20
    return pooler_clients(platform, "alarm-sleepers", count, "app_ro", "select pg_sleep(60)")


def pooler_nearly_full(platform: Platform) -> AbstractContextManager[None]:
    answer = platform.prometheus("max(pgbouncer_config_max_client_connections)")
    return pooler_clients(platform, "alarm-clients", 86 * int(answer[0]["value"][1]) // 100, "app", "")


# Hosts, and what runs on them


def lost_host(platform: Platform) -> str:
    return platform.groups["api"][-1]


@contextmanager
def host_lost(platform: Platform) -> Iterator[None]:
    docker("kill", lost_host(platform))
    try:
        yield
    finally:
        docker("start", lost_host(platform))


def edge_stopped(platform: Platform) -> AbstractContextManager[None]:
    return stopped(platform, "nginx", hosts=[spare_edge(platform)])


@contextmanager
def service_gone(platform: Platform) -> Iterator[None]:
    """No instance of api runs, while clients go on asking."""
    user = platform.edge.as_new_user()
    over = threading.Event()

    def ask() -> None:
        client = Edge(user.url, user.ca, user.token)
        while not over.wait(0.3):
            with suppress(requests.RequestException):
                client.get("/api/v1/items?limit=1")

    clients = [threading.Thread(target=ask) for _ in range(2)]
    units = {host: [f"api@{n}" for h, n in platform.instances("api") if h == host] for host in platform.groups["api"]}
    for client in clients:
        client.start()
    try:
        with together(*(stopped(platform, *names, hosts=[host]) for host, names in units.items())):
            yield
    finally:
        over.set()
        for client in clients:
            client.join()


LOGINS = """#!/usr/bin/python3
import http.client, json, ssl, threading, time, uuid
context = ssl.create_default_context(cafile=%(ca)r)
context.load_cert_chain(%(certificate)r, %(key)r)
def work(port, email, pause):
    while True:
        try:
            connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=20)
            body = {"email": email or f"{uuid.uuid4().hex}@example.com", "password": "not the right password"}
            connection.request("POST", "/login", json.dumps(body), {"Content-Type": "application/json"})
            connection.getresponse().read()
            connection.close()
        except OSError:
            pass
        time.sleep(pause)
for number in %(numbers)r:
    port = %(base)d + number
    for _ in range(16):
        threading.Thread(target=work, args=(port, "", 0)).start()
    threading.Thread(target=work, args=(port, "nobody-%(mark)s@example.com", 0.5)).start()
"""


@contextmanager
def logins_flooded(platform: Platform) -> Iterator[None]:
    """Wrong passwords for many accounts and for one, more at once than there are cores, at one host's instances."""
    host = platform.groups["auth"][0]
    auth = next(service for service in platform.services() if service["name"] == "auth")
    numbers = [number for each, number in platform.instances("auth") if each == host]
    values = {**platform.facts["tls"], "numbers": numbers, "base": auth["base_port"], "mark": os.urandom(4).hex()}
    with running(platform, host, "alarm-logins", LOGINS % values):
        yield


RESTARTS = """#!/bin/sh
for turn in 1 2 3 4 5 6; do systemctl kill --signal=KILL %s; sleep 25; done
"""


@contextmanager
def pages_guessed(platform: Platform) -> Iterator[None]:
    """A client that asks for one page after another that is not there."""
    over = threading.Event()

    def ask() -> None:
        client = Edge(platform.edge.url, platform.ca)
        while not over.wait(0.3):
            with suppress(requests.RequestException):
                client.get("/api/v1/nothing")

    client = threading.Thread(target=ask)
    client.start()
    try:
        yield
    finally:
        over.set()
        client.join()


SLOW_STATEMENTS = """#!/bin/sh
while sleep 0.2; do
  psql -XAtq -d app -c "begin; lock table api.items in share mode; select pg_sleep(0.4); rollback"
done
"""


@contextmanager
def statements_slow(platform: Platform) -> Iterator[None]:
    """Somebody locks a table for a moment, again and again, as an index that is built by hand does."""
    user = platform.edge.as_new_user()
    over = threading.Event()

    def write() -> None:
        client = Edge(user.url, user.ca, user.token)
        while not over.wait(0.5):
            with suppress(requests.RequestException):
                client.post("/api/v1/items", json={"title": "of an alarm", "body": ""})

    writer = threading.Thread(target=write)
    with running(platform, platform.primary(), "alarm-locks", SLOW_STATEMENTS, "-p", "User=postgres"):
        writer.start()
        try:
            yield
        finally:
            over.set()
            writer.join()


ERRORS = """#!/bin/sh
while sleep 5; do echo '{"level": "error", "service": "alarm", "event": "alarm", "message": "An error"}'; done
"""


def cache_stopped(platform: Platform) -> AbstractContextManager[None]:
    return stopped(platform, "valkey-server", hosts=platform.groups["cache"])


@contextmanager
def mails_refused(platform: Platform) -> Iterator[None]:
    """The mail server is away while people register, until the services give their mails up."""
    with stopped(platform, "mail-sink", hosts=platform.groups["mail_sink"]):
        for _ in range(6):
            platform.edge.as_new_user()
        yield


def errors_logged(platform: Platform) -> AbstractContextManager[None]:
    return running(platform, "app2", "alarm-errors", ERRORS)


def log_rules_unanswered(platform: Platform) -> AbstractContextManager[None]:
    """VictoriaLogs refuses vmalert, and nobody else."""
    user = platform.ssh("obs1", "ps -o uid= -C vmalert").strip()
    return refused(platform, "obs1", f"meta skuid {user} tcp dport 9428")


def deploy_broken(platform: Platform) -> AbstractContextManager[None]:
    """An instance that starts and dies, again and again."""
    return running(platform, "app1", "alarm-restarts", RESTARTS % "api@1.service")


@contextmanager
def unit_fails(platform: Platform) -> Iterator[None]:
    platform.ssh("app1", "sudo systemd-run --quiet --unit=alarm-fails /bin/false")
    try:
        yield
    finally:
        platform.ssh("app1", "sudo systemctl reset-failed alarm-fails")


@contextmanager
def small_disk(host: str, mount: str, megabytes: int, full: float) -> Iterator[None]:
    """A file system of its own on a host, filled to a share: a container's own disk is everybody's."""
    with tempfile.NamedTemporaryFile(prefix="belvedere-disk-") as image:
        os.truncate(image.name, megabytes * 2**20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image.name], check=True)
        loop = subprocess.run(
            ["losetup", "--find", "--show", image.name], check=True, capture_output=True, text=True
        ).stdout.strip()
        inside = ["nsenter", "--target", docker("inspect", "--format", "{{.State.Pid}}", host), "--mount"]
        device = Path(loop).stat().st_rdev
        node = f"/dev/alarm{mount.replace('/', '-')}"
        # The device is opened from this machine's control group: a container may not.
        make = f"mknod {node} b {os.major(device)} {os.minor(device)}; mkdir -p {mount}; mount {node} {mount}"
        free = f"df --output=avail -B1 {mount} | awk 'NR == 2 {{ printf \"%d\", $1 * {full} }}'"
        fill = f"fallocate -l $({free}) {mount}/fill"
        try:
            subprocess.run([*inside, "sh", "-euc", f"{make}; {fill}"], check=True)
            yield
        finally:
            subprocess.run([*inside, "sh", "-c", f"umount {mount}; rmdir {mount}; rm -f {node}"], check=True)
            subprocess.run(["losetup", "--detach", loop], check=True)


def disk_full(platform: Platform) -> AbstractContextManager[None]:
    return small_disk("app1", "/srv/full", 64, 0.98)


def disk_nearly_full(platform: Platform) -> AbstractContextManager[None]:
    return small_disk("app1", "/srv/nearly", 64, 0.93)


GROWS = """#!/bin/sh
while sleep 15; do head -c 20000 /dev/zero >> /srv/fills/grows; done
"""


@contextmanager
def disk_fills(platform: Platform) -> Iterator[None]:
    with small_disk("app1", "/srv/fills", 64, 0.7), running(platform, "app1", "alarm-grows", GROWS):
        yield


@contextmanager
def certificate_short(platform: Platform) -> Iterator[None]:
    """A host whose certificate is signed for 13 days, by the role that signs them."""
    sign = ("ansible", "app1", "--become", "-m", "ansible.builtin.include_role", "-a", "name=pki")
    anew = ("-e", "pki_renew_before=+36500d")
    platform.ansible(*sign, *anew, "-e", "pki_validity=+13d", timeout=180)
    try:
        yield
    finally:
        platform.ansible(*sign, *anew, timeout=180)


@contextmanager
def program_killed_for_memory(platform: Platform) -> Iterator[None]:
    """A program beyond its control group's memory. The kernel's counter is the machine's: all local hosts report it."""
    image = docker("inspect", "--format", "{{.Config.Image}}", "app1")
    limits = ["--memory", "64m", "--memory-swap", "64m", "--network", "none", "--entrypoint", "python3"]
    done = subprocess.run(
        ["docker", "run", "--rm", *limits, image, "-c", "b'x' * 10**9"], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 137, done
    yield


# What watches


NOISE = """#!/bin/sh
while sleep 5; do echo 'a line of another format' >> /var/log/nginx/access.log; done
"""


def access_log_of_another_format(platform: Platform) -> AbstractContextManager[None]:
    return running(platform, "edge1", "alarm-noise", NOISE)


def journals_not_uploaded(platform: Platform) -> AbstractContextManager[None]:
    """On all hosts but the one that is lost meanwhile."""
    hosts = [host for host in platform.hosts if host != lost_host(platform)]
    return stopped(platform, "systemd-journal-upload", hosts=hosts)


def traces_not_taken(platform: Platform) -> AbstractContextManager[None]:
    return stopped(platform, "jaeger", hosts=["obs1"])


def journey_stopped(platform: Platform) -> AbstractContextManager[None]:
    return stopped(platform, "journey-probe.timer", hosts=["obs1"])


@contextmanager
def moved_away(platform: Platform, host: str, path: str) -> Iterator[None]:
    platform.ssh(host, f"sudo mv {path} {path}.away")
    try:
        yield
    finally:
        platform.ssh(host, f"sudo mv {path}.away {path}")


def announcements_lost(platform: Platform) -> AbstractContextManager[None]:
    return moved_away(platform, "obs1", "/etc/prometheus/targets/nginx")


def backups_gone(platform: Platform) -> AbstractContextManager[None]:
    return moved_away(platform, platform.groups["backup"][0], "/var/lib/pgbackrest/backup")


@contextmanager
def archive_stopped(platform: Platform) -> Iterator[None]:
    with stopped(platform, "pgbackrest-repository", hosts=platform.groups["backup"]):
        platform.sql(platform.primary(), "select pg_switch_wal()")
        yield


BROKEN_RULE = json.dumps(
    {"groups": [{"name": "alarm", "rules": [{"record": "alarm", "expr": 'up{job="node"} * on () up{job="node"}'}]}]}
)


@contextmanager
def rule_broken(platform: Platform) -> Iterator[None]:
    """A rule that promtool takes, and that the data break."""
    rules, config = "/etc/prometheus/alarm.yml", "/etc/prometheus/prometheus.yml"
    add = f"sudo sed -i 's#^rule_files: \\[#&{rules}, #' {config} && grep -q {rules} {config}"
    remove = f"sudo sed -i 's#{rules}, ##' {config}; sudo rm {rules}"
    reload = "sudo systemctl reload prometheus"
    platform.ssh("obs1", f"sudo tee {rules}", BROKEN_RULE)
    try:
        platform.ssh("obs1", f"{add} && {reload}")
        yield
    finally:
        platform.ssh("obs1", f"{remove}; {reload}")


@contextmanager
def receiver_refuses(platform: Platform) -> Iterator[None]:
    """The receiver of the heartbeat answers 404; the others take what comes."""
    platform.ssh("obs1", "sudo touch /run/alarms/refuse-none")
    try:
        yield
    finally:
        platform.ssh("obs1", "sudo rm /run/alarms/refuse-none")


@contextmanager
def prometheus_stopped(platform: Platform) -> Iterator[None]:
    with stopped(platform, "prometheus", hosts=["obs1"]):
        yield
    wait_until("Prometheus answers again", lambda: platform.prometheus("vector(1)"), seconds=120, every=2)


# One after the other: what users or the database notice.
LOUD = [
    Cause(
        "PostgreSQL on db2 is stopped",
        postgresql_stopped,
        {"PostgresDown": {"host": "db2"}},
        within=120,
        pages=1,
        page_within=120,
    ),
    # Early: what burns a budget tells for an hour. It is the edge's: a service that does not run counts nothing.
    Cause(
        "no instance of api runs",
        service_gone,
        {"EdgeErrorsHigh": {}, "SloBudgetBurnsFast": {"service": "edge"}, "InstanceDown": {"job": "api"}},
        within=600,
        pages=2,
    ),
    Cause(
        "replicas that receive or replay nothing, poolers and servers whose connections run out",
        lambda p: together(
            replica_receives_nothing(p),
            replica_replays_nothing(p),
            etcd_member_stopped(p),
            pooler_exhausted(p),
            pooler_nearly_full(p),
            server_connections_held(p),
            journey_stopped(p),
        ),
        {
            "PostgresReplicaNotStreaming": {},
            "PostgresReplicationLag": {},
            "EtcdMemberLost": {},
            "PoolerClientsWait": {},
            "PoolerConnectionsHigh": {},
            "PostgresConnectionsHigh": {},
            "JourneyNotProbed": {},
        },
        within=600,
        pages=0,
    ),
    Cause("etcd's majority is stopped", etcd_majority_stopped, {"EtcdNoQuorum": {}}, within=180, pages=1),
    Cause(
        "PostgreSQL is stopped everywhere",
        database_stopped,
        {"PostgresNoPrimary": {}, "PoolerNoServer": {"proxy": "primary"}, "JourneyFails": {}},
        within=300,
        pages=1,
    ),
    Cause("Nginx on one edge is stopped", edge_stopped, {"EdgeProbeFailed": {}}, within=180, pages=1),
    Cause(
        "a flood of logins",
        logins_flooded,
        {"LoginFailuresHigh": {}, "PasswordHashingRefuses": {}, "ManyAccountsFromOneAddress": {}},
        within=780,
    ),
    # Last of these: what is counted in logs needs journals and vmalert, and takes a quarter of an hour.
    Cause(
        "no journal is uploaded, VictoriaLogs refuses vmalert, and an application host is lost",
        lambda p: together(journals_not_uploaded(p), log_rules_unanswered(p), host_lost(p)),
        {"HostDown": {}, "LogRulesFail": {}, "JournalUploadDown": {"host": "app1"}, "LogsNotIngested": {}},
        within=1200,
        pages=1,
    ),
]

# All at once, beside the loud ones: what nobody but an operator notices.
QUIET = [
    Cause("an instance dies again and again", deploy_broken, {"InstanceRestarts": {"host": "app1"}}, within=300),
    Cause("a program is killed for its memory", program_killed_for_memory, {"OutOfMemory": {}}, within=120),
    Cause("a unit fails", unit_fails, {"UnitFailed": {"name": "alarm-fails.service"}}, within=420),
    Cause("a rule that cannot be evaluated", rule_broken, {"RulesFail": {}}, within=480),
    Cause("a full disk", disk_full, {"DiskFull": {"mountpoint": "/srv/full", "severity": "critical"}}, within=240),
    Cause("a disk nearly full", disk_nearly_full, {"DiskFull": {"mountpoint": "/srv/nearly"}}, within=480),
    Cause("the receiver of the heartbeat refuses", receiver_refuses, {"NotificationsFail": {}}, within=600),
    Cause("Valkey is stopped", cache_stopped, {"ValkeyDown": {}, "ThrottleNotShared": {}}, within=480),
    Cause("a unit logs errors", errors_logged, {"LogErrorsHigh": {}}, within=780),
    Cause("somebody locks a table again and again", statements_slow, {"SlowStatements": {}}, within=900),
    Cause("a client asks for what is not there", pages_guessed, {"AddressProbes": {}}, within=900),
    Cause("an access log of another format", access_log_of_another_format, {"EdgeLogUnparsed": {}}, within=780),
    Cause("a certificate for 13 days", certificate_short, {"CertificateExpires": {"host": "app1"}}, within=780),
    Cause("the backups are gone", backups_gone, {"BackupStanzaBroken": {}}, within=900),
    Cause("the archive's server is stopped", archive_stopped, {"WalArchivingFailing": {}}, within=900),
    Cause("Jaeger is stopped", traces_not_taken, {"SpansDropped": {}}, within=900),
    Cause("the mail server is away", mails_refused, {"MailsNotSent": {}}, within=1800),
    Cause("the announcements of a job are lost", announcements_lost, {"TargetMissing": {"job": "nginx"}}, within=1500),
    Cause("a file system fills steadily", disk_fills, {"DiskFillsSoon": {"mountpoint": "/srv/fills"}}, within=2400),
]

CAUSES = [*LOUD, *QUIET]
