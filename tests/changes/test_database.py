"""What operators do to the database tier while clients write and read: no request fails, and no write is lost."""

from pathlib import Path

import pytest
from belvedere_platform import DATA, ROOT, Platform, configure, docker, wait_until
from ledger import Watch, report


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
