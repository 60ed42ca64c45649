"""The database is backed up: a backup is there and young, WAL is archived, and Prometheus knows."""

from belvedere_platform import Platform, wait_until


def test_the_newest_backup_is_there_and_prometheus_knows_its_age(platform: Platform) -> None:
    age = "min(pgbackrest_backup_since_last_completion_seconds)"
    series = wait_until("Prometheus knows the age", lambda: platform.prometheus(age), seconds=90)
    assert 0 <= float(series[0]["value"][1]) < 30 * 3600


def test_the_repository_is_good(platform: Platform) -> None:
    series = wait_until("Prometheus has it", lambda: platform.prometheus("pgbackrest_stanza_status"), seconds=90)
    assert [each["value"][1] for each in series] == ["0"]


def test_wal_is_archived_within_seconds(platform: Platform) -> None:
    primary = platform.primary()
    # A restore point is something to archive, where nobody has written since the last switch.
    switch = "select pg_create_restore_point('test'); select pg_walfile_name(pg_switch_wal())"
    segment = platform.sql(primary, switch).splitlines()[-1]
    archived = f"select last_archived_wal >= '{segment}' from pg_stat_archiver"  # noqa: S608 PostgreSQL's own name
    wait_until(f"{segment} is archived", lambda: platform.sql(primary, archived) == "t", seconds=15)


def test_every_database_host_can_read_the_repository(platform: Platform) -> None:
    command = "sudo -u postgres pgbackrest --config=/etc/pgbackrest/database.conf --stanza=belvedere info"
    for host in platform.groups["postgres"]:
        assert "status: ok" in platform.ssh(host, command)


def test_the_repository_is_for_its_owner_only(platform: Platform) -> None:
    for host in platform.groups["backup"]:
        assert platform.ssh(host, "sudo stat -c '%U %a' /var/lib/pgbackrest").split() == ["pgbackrest", "750"]
        assert platform.ssh(host, "sudo stat -c '%U:%G %a' /etc/pgbackrest/repository.conf").split() == [
            "root:pgbackrest",
            "640",
        ]
