"""The migration command, as Ansible runs it."""

import subprocess

import pytest
from conftest import cloned_database, database_environment, run_migrate

from servicekit.migrate import scripts_of

REVISIONS = [script.revision for script in scripts_of("auth").walk_revisions()]  # the newest first


@pytest.fixture
def empty(migrated):
    """The environment of a database in which auth's schema is empty, and a connection to it."""
    with cloned_database(migrated, "unmigrated") as connection:
        connection.execute("DROP SCHEMA auth CASCADE; CREATE SCHEMA auth AUTHORIZATION auth")
        yield database_environment("auth", f"{migrated.host}:{migrated.port}", "unmigrated"), connection


def test_migrating_says_what_changed_and_the_second_time_that_nothing_did(empty):
    environment, _ = empty
    assert run_migrate("auth", environment) == f"migrated: base -> {REVISIONS[0]}"
    assert run_migrate("auth", environment) == "migrated: none"


def test_a_check_counts_and_changes_nothing(empty):
    environment, connection = empty
    assert run_migrate("auth", environment, "--check") == f"pending: {len(REVISIONS)}"
    tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'auth'").fetchone()
    assert tables == (0,)
    run_migrate("auth", environment)
    assert run_migrate("auth", environment, "--check") == "pending: 0"


def test_a_failing_migration_leaves_nothing_behind(empty):
    environment, connection = empty
    connection.execute("CREATE TABLE auth.refresh_tokens ()")  # the migration's last table, already there
    with pytest.raises(subprocess.CalledProcessError) as raised:
        run_migrate("auth", environment)
    assert "left unchanged" in raised.value.stderr
    tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'auth'").fetchall()
    assert tables == [("refresh_tokens",)]


def test_the_version_table_is_in_the_services_own_schema(empty):
    environment, connection = empty
    run_migrate("auth", environment)
    assert connection.execute("SELECT version_num FROM auth.alembic_version").fetchone() == (REVISIONS[0],)


def test_a_database_that_a_newer_release_migrated_is_left_as_it_is(empty):
    environment, connection = empty
    run_migrate("auth", environment)
    connection.execute("UPDATE auth.alembic_version SET version_num = 'of a later release'")
    assert run_migrate("auth", environment, "--check") == "pending: 0"
    assert run_migrate("auth", environment) == "migrated: none"
    assert connection.execute("SELECT version_num FROM auth.alembic_version").fetchone() == ("of a later release",)


def test_a_missing_setting_is_one_line(empty):
    environment, _ = empty
    del environment["DATABASE_USER"]
    with pytest.raises(subprocess.CalledProcessError) as raised:
        run_migrate("auth", environment)
    assert raised.value.stderr.strip() == "migrate: wrong setting: DATABASE_USER: missing"
