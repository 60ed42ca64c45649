"""Migrations: `python -m servicekit.migrate <service> [--check]`, with the service's environment.

Prints `migrated: none` or `migrated: <from> -> <to>`; with --check changes nothing and prints `pending: <n>`.
A database at a revision that this release does not know was migrated by a newer one, and is left as it is: migrations
only add, so a former release works with it.
Everything happens in one transaction under a transaction-level lock, for PgBouncer in transaction mode keeps no
session; so two runs at once are safe, and a failed migration leaves nothing behind.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import psycopg2
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from servicekit.database import connect
from servicekit.settings import DatabaseSettings, load_or_exit

BASE = "base"  # before the first migration


def scripts_of(service: str) -> ScriptDirectory:
    """The service's migrations: inside its installed package, or beside it in a checkout."""
    spec = importlib.util.find_spec(service)
    if spec is None or spec.origin is None:
        raise SystemExit(f"migrate: there is no package {service!r}")
    package = Path(spec.origin).parent
    installed = package / "migrations"
    return ScriptDirectory(str(installed if installed.is_dir() else package.parent / "migrations"))


def revision(connection: Connection, scripts: ScriptDirectory, service: str) -> str | None:
    """Where the service's schema is; at this release's newest revision, if a newer release has gone further."""
    current = MigrationContext.configure(connection, opts={"version_table_schema": service}).get_current_revision()
    known = current is None or any(script.revision == current for script in scripts.walk_revisions())
    return current if known else scripts.get_current_head()


def pending(connection: Connection, service: str) -> int:
    """How many migrations have not been applied."""
    scripts = scripts_of(service)
    current = revision(connection, scripts, service)
    return sum(1 for _ in scripts.iterate_revisions(scripts.get_current_head(), current or BASE))


def migrate(connection: Connection, service: str) -> tuple[str, str]:
    """Bring the service's schema to its newest revision; the revisions before and after."""
    scripts = scripts_of(service)
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": f"migrate {service}"})
    before = revision(connection, scripts, service)
    head = scripts.get_current_head()
    if before != head:
        with EnvironmentContext(
            Config(), scripts, fn=lambda revision, _: scripts._upgrade_revs("head", revision)
        ) as environment:
            environment.configure(connection=connection, version_table_schema=service)
            environment.run_migrations()
    return before or BASE, head or BASE


def main() -> None:
    parser = argparse.ArgumentParser(prog="servicekit.migrate", description="Bring a service's schema up to date")
    parser.add_argument("service")
    parser.add_argument("--check", action="store_true", help="only say how many migrations are pending")
    arguments = parser.parse_args()
    settings = load_or_exit(DatabaseSettings, "migrate")
    engine = create_engine(
        "postgresql+psycopg2://",
        creator=lambda: connect(settings, settings.database_name, f"{arguments.service}-migrate"),
        poolclass=NullPool,
    )
    try:
        with engine.begin() as connection:
            if arguments.check:
                print(f"pending: {pending(connection, arguments.service)}")
                return
            before, after = migrate(connection, arguments.service)
    except (SQLAlchemyError, psycopg2.Error) as error:
        reason = " ".join(str(getattr(error, "orig", error)).split())
        sys.exit(f"migrate: {arguments.service} was left unchanged: {reason}")
    print("migrated: none" if before == after else f"migrated: {before} -> {after}")


if __name__ == "__main__":
    main()
