"""tools/check_migrations.py."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def check(folder: Path, statement: str) -> subprocess.CompletedProcess[str]:
    versions = folder / "orders" / "migrations" / "versions"
    versions.mkdir(parents=True)
    lines = ["from alembic import op", 'revision = "0001"', "down_revision = None", "def upgrade():"]
    (versions / "0001_orders.py").write_text("\n".join([*lines, f"    op.execute({statement!r})"]) + "\n")
    command = [sys.executable, str(ROOT / "tools" / "check_migrations.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("CREATE INDEX orders_by_buyer ON orders.orders (buyer)", "require-concurrent-index-creation"),
        ("ALTER TABLE orders.orders DROP COLUMN buyer", "ban-drop-column"),
        ("ALTER TABLE orders.orders RENAME COLUMN buyer TO customer", "renaming-column"),
        ("ALTER TABLE orders.orders ALTER COLUMN amount TYPE bigint", "changing-column-type"),
        ("ALTER TABLE orders.orders ALTER COLUMN buyer SET NOT NULL", "adding-not-nullable-field"),
    ],
)
def test_what_would_stop_a_table_or_break_the_running_release_is_refused(
    tmp_path: Path, statement: str, rule: str
) -> None:
    done = check(tmp_path, statement)
    assert done.returncode != 0
    assert rule in done.stdout
    assert "orders_0001_orders.sql" in done.stdout


def test_what_waits_for_nobody_passes(tmp_path: Path) -> None:
    done = check(tmp_path, "ALTER TABLE orders.orders ADD COLUMN note text")
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_migration_at_all_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "check_migrations.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "has migrations" in done.stderr
