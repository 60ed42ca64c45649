"""What was lost comes back: a table that somebody dropped, as it was the second before."""

import time

import pytest
from belvedere_platform import Platform, wait_until

REPOSITORY = "/etc/pgbackrest/repository.conf"


def test_a_dropped_table_comes_back_as_it_was_the_second_before(platform: Platform) -> None:
    primary = platform.primary()
    platform.sql(primary, "drop table if exists public.dear")
    platform.sql(primary, "create table public.dear as select generate_series(1, 1000) as number")
    time.sleep(1)  # the moment to go back to lies between two commits
    moment = platform.sql(primary, "select to_char(now() at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS.MS') || '+00'")
    time.sleep(1)
    platform.sql(primary, "drop table public.dear")
    begun = time.monotonic()
    platform.ansible(
        "ansible-playbook",
        "playbooks/restore.yml",
        "--extra-vars",
        f'{{"restore_time": "{moment}", "restore_confirm": "belvedere"}}',
        timeout=900,
    )
    print(f"restored in {time.monotonic() - begun:.0f} s")
    for host in platform.groups["postgres"]:
        assert platform.sql(host, "select count(*) from public.dear") == "1000", host
    platform.sql(platform.primary(), "drop table public.dear")


def test_the_backups_can_be_restored_elsewhere_with_every_row(platform: Platform) -> None:
    output = platform.ansible("ansible-playbook", "playbooks/restore_drill.yml", timeout=900).stdout
    assert "every checksum is right" in output


def refused(platform: Platform) -> str:
    variables = '{"restore_end": true, "restore_confirm": "belvedere"}'
    with pytest.raises(AssertionError) as error:
        platform.ansible("ansible-playbook", "playbooks/restore.yml", "--extra-vars", variables, timeout=120)
    return " ".join(str(error.value).split())


def test_a_repository_with_a_wrong_key_is_refused(platform: Platform) -> None:
    backup = platform.groups["backup"][0]
    primary = platform.primary()
    platform.ssh(backup, f"sudo cp --preserve {REPOSITORY} {REPOSITORY}.right")
    platform.ssh(backup, f"sudo sed -i s/^repo1-cipher-pass=.*/repo1-cipher-pass=wrong/ {REPOSITORY}")
    try:
        assert "cannot read the backups: nothing was changed" in refused(platform)
    finally:
        platform.ssh(backup, f"sudo mv {REPOSITORY}.right {REPOSITORY}")
    assert platform.primary() == primary


def test_a_restore_without_etcd_is_refused(platform: Platform) -> None:
    primary = platform.primary()
    with platform.etcd_stopped(platform.groups["etcd"][:2]):
        assert "etcd does not answer, and Patroni cannot start without it" in refused(platform)
    wait_until("the same member leads", lambda: platform.primary() == primary, seconds=60)
