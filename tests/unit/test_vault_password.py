"""The script that makes the vault's password on first use."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "plugins" / "vault-password"


def test_many_first_users_at_once_read_one_password(tmp_path):
    (tmp_path / "plugins").mkdir()
    script = shutil.copy(SCRIPT, tmp_path / "plugins")

    def password(_: int) -> str:
        return subprocess.run([script], check=True, capture_output=True, text=True).stdout

    with ThreadPoolExecutor(20) as users:
        passwords = set(users.map(password, range(20)))

    assert len(passwords) == 1
    assert len(passwords.pop().strip()) == 44
    assert [path.name for path in (tmp_path / ".state").iterdir()] == ["vault_password"]
    assert (tmp_path / ".state" / "vault_password").stat().st_mode & 0o777 == 0o600
