"""The database tier's faults: no acknowledged write is lost, none is there twice, and writes are back in time.

Where the issue names a bound in seconds, the test prints what it took and asserts twice the bound: machines are noisy.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from belvedere_platform import ROOT, Platform, wait_until
from faults.ledger import Ledger, Watch


def docker(*arguments: str) -> None:
    subprocess.run(["docker", *arguments], check=True, capture_output=True, timeout=60)


@contextmanager
def stopped(host: str) -> Iterator[None]:
    """A host that loses its power, and gets it back."""
    docker("kill", host)
    try:
        yield
    finally:
        docker("start", host)


@contextmanager
def cut_off(host: str) -> Iterator[None]:
    """A host that lives on, but whose network drops every packet without a word. `docker exec` still reaches it."""
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority -100; policy drop; {direction} lo accept; }}\n"
        for hook, direction in (("input", "iif"), ("output", "oif"))
    )
    subprocess.run(
        ["docker", "exec", "-i", host, "nft", "-f", "-"],
        input=f"table inet cut_off {{ {chains} }}",
        check=True,
        text=True,
        capture_output=True,
    )
    try:
        yield
    finally:
        docker("exec", host, "nft", "delete", "table", "inet", "cut_off")


DATA = "/var/lib/postgresql/17"


@contextmanager
def small_disk(platform: Platform, replica: str, image: Path) -> Iterator[None]:
    """PostgreSQL's data on a file system of their own, 2 GB in a file: a container's own disk is everybody's."""
    subprocess.run(["truncate", "--size", "2G", str(image)], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    done = subprocess.run(["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True)
    loop = Path(done.stdout.strip())
    inspected = subprocess.run(
        ["docker", "inspect", "--format", "{{.State.Pid}}", replica], check=True, capture_output=True, text=True
    )
    # The device is opened from this machine's control group: a container may not.
    inside = ["nsenter", "--target", inspected.stdout.strip(), "--mount", "sh", "-euc"]
    try:
        platform.ssh(replica, "sudo systemctl stop patroni", timeout=120)
        subprocess.run(
            [
                *inside,
                f"mknod /dev/small_disk b {os.major(loop.stat().st_rdev)} {os.minor(loop.stat().st_rdev)}; "
                f"mount /dev/small_disk /mnt; chown postgres: /mnt; cp -a {DATA}/main /mnt/; umount /mnt; "
                f"mount /dev/small_disk {DATA}",
            ],
            check=True,
        )
        try:
            platform.ssh(replica, "sudo systemctl start patroni", timeout=120)
            yield
        finally:
            platform.ssh(replica, "sudo systemctl stop patroni", timeout=120)
            # The data underneath are old: Patroni copies the primary's anew.
            subprocess.run([*inside, f"umount {DATA}; rm /dev/small_disk; rm -rf {DATA}/main"], check=True)
            platform.ssh(replica, "sudo systemctl start patroni", timeout=120)
    finally:
        subprocess.run(["losetup", "--detach", str(loop)], check=True)
        image.unlink()


def takes_a_write(host: str) -> bool:
    """Whether PostgreSQL on the host, asked on the host itself, takes a write that waits for no replica."""
    statement = "set synchronous_commit = off; create table split_brain (); drop table split_brain"
    done = subprocess.run(
        ["docker", "exec", host, "runuser", "-u", "postgres", "--", "timeout", "5", "psql", "-XAtqc", statement],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode != 124, f"{host} neither takes nor refuses a write"
    return done.returncode == 0


def another_leads(platform: Platform, primary: str) -> bool:
    members = platform.members()
    return any(
        member["role"] == "leader" and member["state"] == "running" for member in members if member["name"] != primary
    )


def report(ledger: Ledger, writes_within: float) -> None:
    writes, reads = f"{ledger.without_writes:.1f} s without writes", f"{ledger.without_reads:.1f} s without reads"
    print(f"{ledger.fault}: {writes} (bound {writes_within:g}), {reads}")
    assert ledger.without_writes <= 2 * writes_within


@pytest.fixture
def primary(platform: Platform) -> str:
    return platform.primary()


@pytest.fixture
def replicas(platform: Platform, primary: str) -> list[str]:
    return [host for host in platform.groups["postgres"] if host != primary]


@pytest.mark.quick
def test_the_primary_s_postmaster_is_killed(platform: Platform, primary: str, watch: Watch) -> None:
    with watch("primary's postmaster killed (-9)") as ledger:
        platform.ssh(primary, "sudo pkill --signal KILL --oldest --exact postgres")
        time.sleep(1)  # the writes that go on are those after the fault
    report(ledger, writes_within=10)


@pytest.mark.quick
def test_patroni_is_killed(platform: Platform, primary: str, watch: Watch) -> None:
    with watch("Patroni killed (-9) on the primary") as ledger:
        platform.ssh(primary, "sudo systemctl kill --kill-whom=main --signal=KILL patroni")
        time.sleep(10)
    report(ledger, writes_within=10)


def test_the_primary_s_host_is_lost(platform: Platform, primary: str, watch: Watch) -> None:
    with watch("primary's host lost") as ledger, stopped(primary):
        wait_until("another member leads", lambda: another_leads(platform, primary), seconds=60)
        ledger.writes_go_on()
    report(ledger, writes_within=30)


def test_the_primary_is_cut_off_but_alive(platform: Platform, primary: str, watch: Watch) -> None:
    assert takes_a_write(primary), "the question itself must work"
    with watch("primary cut off the network, but alive") as ledger, cut_off(primary):
        wait_until("another member leads", lambda: another_leads(platform, primary), seconds=60)
        assert not takes_a_write(primary), "two members take writes at once"
        ledger.writes_go_on()
        assert not takes_a_write(primary), "two members take writes at once"
        ledger.note = "the old primary refuses writes"
    report(ledger, writes_within=30)


def test_both_replicas_are_lost(platform: Platform, replicas: list[str], watch: Watch) -> None:
    """postgresql_synchronous_mode_strict is off: a primary without replicas goes on alone."""
    with watch("both replicas' PostgreSQL killed (-9): the primary goes on alone") as ledger:
        try:
            for host in replicas:
                platform.ssh(
                    host, "sudo systemctl kill --signal=KILL patroni; sudo systemctl stop patroni", timeout=120
                )
            ledger.writes_go_on()
        finally:
            for host in replicas:
                platform.ssh(host, "sudo systemctl start patroni", timeout=120)
    report(ledger, writes_within=30)


def test_a_strict_primary_stops_without_replicas(platform: Platform, replicas: list[str], watch: Watch) -> None:
    """postgresql_synchronous_mode_strict: nothing is acknowledged that is on one disk only."""
    configure(platform, postgresql_synchronous_mode_strict=True)
    try:
        with watch("both replicas lost, strict: the primary takes no writes") as ledger:
            try:
                for host in replicas:
                    platform.ssh(host, "sudo systemctl stop patroni", timeout=120)
                stopped = len(ledger.acknowledged)
                time.sleep(15)
                assert len(ledger.acknowledged) == stopped, "a write was acknowledged that only the primary has"
            finally:
                for host in replicas:
                    platform.ssh(host, "sudo systemctl start patroni", timeout=120)
            ledger.note = "as asked"
        assert ledger.without_writes >= 15
    finally:
        configure(platform)


def test_one_etcd_member_is_lost(platform: Platform, primary: str, watch: Watch) -> None:
    with watch("one etcd member lost (the primary's own)") as ledger, platform.etcd_stopped([primary]):
        time.sleep(25)  # longer than the lease
    assert platform.primary() == primary
    report(ledger, writes_within=5)


def test_etcd_loses_its_quorum(platform: Platform, primary: str, watch: Watch) -> None:
    """Failsafe mode: a primary that reaches all members stays primary without etcd."""
    lost = platform.groups["etcd"][:2]
    with watch("etcd's quorum lost: failsafe mode keeps the primary") as ledger, platform.etcd_stopped(lost):
        time.sleep(30)  # longer than the lease
    wait_until("the same member leads", lambda: platform.primary() == primary, seconds=60)
    report(ledger, writes_within=5)


def test_a_pooler_s_host_is_lost(platform: Platform, primary: str, watch: Watch) -> None:
    pooler = next(host for host in platform.groups["pooler"] if host != primary)
    with watch("one pooler's host lost (a replica with it)") as ledger, stopped(pooler):
        ledger.writes_go_on()
        time.sleep(10)
    report(ledger, writes_within=10)


def test_a_lagging_replica_gets_no_reads(platform: Platform, primary: str, replicas: list[str], watch: Watch) -> None:
    readers = "select count(*) from pg_stat_activity where usename = 'api'"

    def is_in_app_ro(host: str) -> bool:
        """Whether every pooler's HAProxy counts the replica as one that may be read."""
        query = f'min(haproxy_server_status{{proxy="replicas",server="{host}",state="UP"}})'
        return [float(each["value"][1]) for each in platform.prometheus(query)] == [1]

    with watch("a replica lags: it leaves app_ro") as ledger:
        lagging = max(replicas, key=lambda host: int(platform.sql(host, readers)))
        assert int(platform.sql(lagging, readers)) > 0
        with platform.replay_stopped(lagging):
            emitted = (
                "select count(pg_logical_emit_message(false, 'lag', repeat('x', 1000000))) from generate_series(1, 40)"
            )
            platform.sql(primary, emitted)
            wait_until(f"nobody reads from {lagging}", lambda: int(platform.sql(lagging, readers)) == 0, seconds=30)
            wait_until(f"{lagging} has left app_ro", lambda: not is_in_app_ro(lagging), seconds=45)
        wait_until(f"{lagging} is in app_ro again", lambda: is_in_app_ro(lagging), seconds=90)
    report(ledger, writes_within=5)
    assert ledger.without_reads <= 5


def test_a_replica_s_disk_is_full(
    platform: Platform, primary: str, replicas: list[str], watch: Watch, tmp_path: Path
) -> None:
    full = replicas[0]
    filler = f"{DATA}/filler"

    def streams() -> bool:
        return any(member["name"] == full and member["state"] == "streaming" for member in platform.members())

    def stops_streaming() -> bool:
        emitted = (
            "select count(pg_logical_emit_message(false, 'full', repeat('x', 1000000))) from generate_series(1, 40)"
        )
        platform.sql(primary, emitted)
        return not streams()

    with small_disk(platform, full, tmp_path / "disk"):
        wait_until(f"{full} streams from its small disk", streams, seconds=60)
        with watch("a replica's disk is full") as ledger:
            # Most of it at once; what the file system needs for itself leaves some blocks, which are filled one by one.
            most = f"$(( $(df --output=avail --block-size=1M {DATA} | tail -1) - 8 ))M"
            rest = f"! dd if=/dev/zero of={filler} bs=4k oflag=append conv=notrunc status=none 2>/dev/null"
            platform.ssh(full, f"sudo sh -c 'fallocate --length {most} {filler} && {rest}'")
            wait_until(f"{full} stops for want of disk", stops_streaming, seconds=90)
            ledger.writes_go_on()
            platform.ssh(full, f"sudo rm {filler}")
            wait_until(f"{full} streams again by itself", streams, seconds=120)
    report(ledger, writes_within=5)


@pytest.mark.quick
def test_a_planned_switchover_fails_no_request(platform: Platform, primary: str, watch: Watch) -> None:
    with watch("planned switchover (PAUSE, RESUME)") as ledger:
        platform.ansible("ansible-playbook", "playbooks/switchover.yml", timeout=120)
    assert platform.primary() != primary
    assert (list(ledger.unknown.values()), ledger.failed_reads) == ([], [])
    report(ledger, writes_within=5)


def test_a_switchover_that_patroni_refuses_lets_writes_go_on(platform: Platform, primary: str, watch: Watch) -> None:
    unknown_to_patroni = "switchover_candidate=db9"  # set past the playbook's own checks
    with (
        watch("switchover that Patroni refuses") as ledger,
        pytest.raises(AssertionError, match=r"TASK \[Hand over\]"),
    ):
        platform.ansible(
            "ansible-playbook", "playbooks/switchover.yml", "--extra-vars", unknown_to_patroni, timeout=120
        )
    assert platform.primary() == primary
    assert (list(ledger.unknown.values()), ledger.failed_reads) == ([], [])
    report(ledger, writes_within=5)


def test_every_password_changes_and_no_request_fails(platform: Platform, watch: Watch) -> None:
    def verifiers() -> dict[str, str]:
        rows = platform.sql(
            platform.primary(), "select rolname, rolpassword from pg_authid where rolpassword is not null"
        )
        return dict(row.split("|", 1) for row in rows.splitlines())

    before = verifiers()
    assert set(before) >= {"api", "auth", "monitor", "replicator", "rewind"}
    with watch("every password of the database changed") as ledger:
        platform.ansible("ansible-playbook", "playbooks/rotate_passwords.yml", timeout=900)
    after = verifiers()
    assert [name for name in before if after[name] == before[name]] == []
    assert (list(ledger.unknown.values()), ledger.failed_reads) == ([], [])
    report(ledger, writes_within=5)


def test_the_ca_and_every_certificate_are_renewed_and_no_request_fails(platform: Platform, watch: Watch) -> None:
    def issuers() -> dict[str, str]:
        show = "openssl x509 -in /etc/belvedere/tls/host.crt -noout -ext authorityKeyIdentifier"
        return {host: platform.ssh(host, show) for host in platform.hosts}

    before, ca, units = issuers(), Path(platform.ca).read_text(), lives(platform)
    assert len(set(before.values())) == 1, before
    with watch("CA and every certificate renewed") as ledger:
        platform.ansible("ansible-playbook", "playbooks/renew_ca.yml", timeout=900)
    after = issuers()
    assert len(set(after.values())) == 1, after
    assert [host for host in before if after[host] == before[host]] == []
    assert (now := Path(platform.ca).read_text()) != ca
    assert now.count("BEGIN CERTIFICATE") == 1
    restarted = {program for (host, program), since in lives(platform).items() if since != units[host, program]}
    assert restarted == {"etcd"}
    wait_until(
        "every target can be scraped with its new certificate",
        lambda: platform.prometheus("count(up)") and not platform.prometheus("up == 0"),
        seconds=90,
    )
    assert (list(ledger.unknown.values()), ledger.failed_reads) == ([], [])
    report(ledger, writes_within=5)


def started(platform: Platform, host: str) -> str:
    return platform.sql(host, "select pg_postmaster_start_time()")


def test_every_member_restarts_and_no_request_fails(platform: Platform, watch: Watch) -> None:
    members = platform.groups["postgres"]
    before = {host: started(platform, host) for host in members}
    with watch("rolling restart") as ledger:
        platform.ansible("ansible-playbook", "playbooks/rolling_restart.yml", timeout=300)
    assert [host for host in members if started(platform, host) == before[host]] == []
    assert (list(ledger.unknown.values()), ledger.failed_reads) == ([], [])
    report(ledger, writes_within=5)


def test_an_update_restarts_nobody_where_there_is_none(platform: Platform) -> None:
    members = platform.groups["postgres"]
    before = {host: started(platform, host) for host in members}
    platform.ansible("ansible-playbook", "playbooks/update_database.yml", timeout=300)
    assert {host: started(platform, host) for host in members} == before


# Debian has one minor version at a time. The next one is made of it here: a package of a higher version, whose programs
# call themselves otherwise. Prints what they call themselves.
NEXT_MINOR = r"""
import json, pathlib, re, subprocess
folder, program = pathlib.Path("/var/local/next-minor"), "/usr/lib/postgresql/17/bin/postgres"
folder.mkdir(exist_ok=True)
def run(*command):
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
version = run(program, "--version").split()[2]
following = version[:-1] + str((int(version[-1]) + 1) % 10)
run("apt-get", "download", "postgresql-17")
run("dpkg-deb", "--raw-extract", *map(str, folder.glob("postgresql-17_*.deb")), "unpacked")
control = folder / "unpacked/DEBIAN/control"
control.write_text(re.sub("(?m)^(Version: .*)", r"\1+next", control.read_text()))
for file in (folder / "unpacked/usr/lib/postgresql/17/bin").iterdir():
    file.write_bytes(file.read_bytes().replace(f"{version} (Debian".encode(), f"{following} (Debian".encode()))
(folder / "unpacked/DEBIAN/md5sums").unlink()
run("dpkg-deb", "--build", "-Znone", "unpacked", "next.deb")
size, digest = (folder / "next.deb").stat().st_size, run("sha256sum", "next.deb").split()[0]
fields = run("dpkg-deb", "--field", "next.deb").strip()
(folder / "Packages").write_text(f"{fields}\nFilename: ./next.deb\nSize: {size}\nSHA256: {digest}\n")
pathlib.Path("/etc/apt/sources.list.d/next-minor.list").write_text(f"deb [trusted=yes] file:{folder} ./\n")
print(json.dumps(following))
"""
NO_NEXT_MINOR = """
set -eu
rm -rf /etc/apt/sources.list.d/next-minor.list /var/local/next-minor
apt-get --quiet --quiet update
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
version=$(apt-cache madison postgresql-17 | awk 'NR == 1 {print $3}')
apt-get --quiet --quiet --yes --allow-downgrades install "postgresql-17=$version"
"""


def test_an_update_goes_from_member_to_member_and_no_request_fails(platform: Platform, watch: Watch) -> None:
    members = platform.groups["postgres"]

    def versions() -> list[str]:
        return [platform.sql(host, "show server_version").split()[0] for host in members]

    before, others = versions(), lives(platform)
    assert len(set(before)) == 1, before
    try:
        following = {platform.python(host, NEXT_MINOR, timeout=120) for host in members}
        assert len(following) == 1
        assert following != set(before)
        with watch("an update of PostgreSQL, member by member") as ledger:
            platform.ansible("ansible-playbook", "playbooks/update_database.yml", timeout=600)
        assert set(versions()) == following
        after = lives(platform)
        restarted = {program for (host, program), since in after.items() if since != others[host, program]}
        assert restarted == {"postgres"}
        assert (list(ledger.unknown.values()), ledger.failed_reads) == ([], [])
        report(ledger, writes_within=5)
    finally:
        for host in members:
            platform.ssh(host, "sudo sh", NO_NEXT_MINOR, timeout=180)
        platform.ansible("ansible-playbook", "playbooks/rolling_restart.yml", timeout=300)
    assert versions() == before


def test_a_replica_is_copied_anew(platform: Platform, primary: str, replicas: list[str], watch: Watch) -> None:
    identity = f"stat --format %W {DATA}/main/PG_VERSION"  # when this copy of the file was made
    before = platform.ssh(replicas[0], f"sudo {identity}")
    with watch("a replica copied anew") as ledger:
        command = ("ansible-playbook", "playbooks/reinitialize.yml", "--extra-vars")
        platform.ansible(*command, f"reinitialize_host={replicas[0]}", timeout=300)
    assert platform.ssh(replicas[0], f"sudo {identity}") != before
    report(ledger, writes_within=5)
    with pytest.raises(AssertionError, match="nothing was changed"):
        platform.ansible(*command, f"reinitialize_host={primary}", timeout=60)


UNITS = {"etcd": ["etcd"], "postgres": ["patroni"], "pooler": ["haproxy", "pgbouncer"]}


def lives(platform: Platform) -> dict[tuple[str, str], str]:
    """Since when each program of the data tier runs, by host and program."""
    since = {
        (host, unit): platform.ssh(host, f"systemctl show --value --property ExecMainStartTimestamp {unit}")
        for group, units in UNITS.items()
        for host in platform.groups[group]
        for unit in units
    }
    return since | {(host, "postgres"): started(platform, host) for host in platform.groups["postgres"]}


def configure(platform: Platform, **variables: object) -> None:
    """Apply the data tier's playbook, with other variables than the inventory's."""
    platform.ansible("ansible-playbook", "playbooks/data.yml", "--extra-vars", json.dumps(variables), timeout=600)


def test_only_a_setting_that_needs_it_restarts_postgresql(platform: Platform, watch: Watch) -> None:
    members = platform.groups["postgres"]
    before = lives(platform)
    with watch("a setting changed that needs no restart") as ledger:
        configure(platform, postgresql_parameters={"log_min_duration_statement": 120})
    assert [platform.sql(host, "show log_min_duration_statement") for host in members] == ["120ms"] * len(members)
    assert lives(platform) == before
    report(ledger, writes_within=5)
    with watch("a setting changed that needs a restart") as ledger:
        configure(platform, postgresql_parameters={"max_locks_per_transaction": 72})
    assert [platform.sql(host, "show max_locks_per_transaction") for host in members] == ["72"] * len(members)
    after = lives(platform)
    assert {program for (host, program), since in after.items() if since != before[host, program]} == {"postgres"}
    report(ledger, writes_within=10)
    configure(platform)  # a limit that shrinks: the primary goes first
    assert [platform.sql(host, "show max_locks_per_transaction") for host in members] == ["64"] * len(members)
    assert [platform.sql(host, "show log_min_duration_statement") for host in members] == ["100ms"] * len(members)


def test_a_database_host_is_replaced_by_a_new_one(platform: Platform, primary: str, watch: Watch) -> None:
    command = ("ansible-playbook", "playbooks/remove_member.yml", "--extra-vars")
    with pytest.raises(AssertionError, match="Hand over first"):
        platform.ansible(*command, f"remove_host={primary}", timeout=120)
    poolers = platform.groups["pooler"]
    replaced = next(host for host in platform.groups["postgres"] if host != primary and host not in poolers)
    with watch("a database host replaced by a new one") as ledger:
        platform.ansible(*command, f"remove_host={replaced}", timeout=120)
        left = len(platform.groups["postgres"]) - 1
        wait_until("its lease ends", lambda: len(platform.members()) == left, seconds=60)
        docker("rm", "--force", "--volumes", replaced)
        platform.ansible("ansible-playbook", "playbooks/local_hosts.yml", timeout=300)
        platform.ansible("ansible-playbook", "site.yml", timeout=1200)
    assert (list(ledger.unknown.values()), ledger.failed_reads) == ([], [])
    report(ledger, writes_within=5)


def test_a_replica_is_added_and_taken_out(platform: Platform, watch: Watch, tmp_path: Path) -> None:
    inventory, larger = str(ROOT / "inventories/local"), tmp_path / "larger.yml"
    larger.write_text("postgres: {hosts: {db4: {ansible_host: 172.30.0.34}}}\n")
    four = ("ansible-playbook", "--inventory", inventory, "--inventory", str(larger))
    tier = ("site.yml", "--limit", "localhost,postgres,pooler,backup")

    def names() -> set[str]:
        return {str(member["name"]) for member in platform.members() if member["state"] in ("running", "streaming")}

    three = names()
    with watch("a replica added, and taken out") as ledger:
        platform.ansible(*four, "playbooks/local_hosts.yml", timeout=300)
        try:
            platform.ansible(*four, *tier, timeout=1200)
            assert names() == three | {"db4"}
            wait_until(
                "poolers read from db4",
                lambda: platform.prometheus(
                    'min(haproxy_server_status{proxy="replicas",server="db4",state="UP"}) == 1'
                ),
                seconds=60,
            )
            platform.ansible(*four, "playbooks/remove_member.yml", "--extra-vars", "remove_host=db4", timeout=180)
        finally:
            docker("rm", "--force", "--volumes", "db4")
        platform.ansible("ansible-playbook", "playbooks/forget_host.yml", "--extra-vars", "forget_host=db4")
        platform.ansible("ansible-playbook", *tier, timeout=900)
    assert names() == three
    wait_until(
        "nobody looks for db4 any more",
        lambda: not platform.prometheus('{host="db4"} or haproxy_server_status{server="db4"}'),
        seconds=360,
        every=5,
    )
    assert (list(ledger.unknown.values()), ledger.failed_reads) == ([], [])
    report(ledger, writes_within=5)
