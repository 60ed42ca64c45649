"""Refuse a migration that would stop a busy table, or break the release that still runs: squawk reads each one's SQL.

docs/migrations.md says how to do the same safely. `python tools/check_migrations.py [folder of services]`
"""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory

ROOT = Path(__file__).resolve().parents[1]
NOT_ASKED = (
    "require-lock-timeout",  # PostgreSQL's role of each service has both time-outs
    "require-statement-timeout",
)


def sql(script: Script) -> str:
    """What one migration would send."""
    written = io.StringIO()
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True, "output_buffer": written})
    with Operations.context(context):
        script.module.upgrade()
    return written.getvalue()


def main() -> int:
    apps = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "apps"
    folders = sorted(apps.glob("*/migrations"))
    if not folders:
        sys.exit(f"no service under {apps} has migrations")
    with tempfile.TemporaryDirectory() as temporary:
        for folder in folders:
            for script in ScriptDirectory(str(folder)).walk_revisions():
                (Path(temporary) / f"{folder.parent.name}_{Path(script.path).stem}.sql").write_text(sql(script))
        files = sorted(str(path) for path in Path(temporary).iterdir())
        squawk = ["squawk", "--pg-version", "17.0", "--assume-in-transaction", f"--exclude={','.join(NOT_ASKED)}"]
        return subprocess.run([*squawk, *files], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
