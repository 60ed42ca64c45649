"""Settings: what is missing or wrong is named in one line."""

import os
import subprocess
import sys

import pytest

from auth.settings import AuthSettings
from servicekit.settings import EXIT_CONFIG, ServiceSettings, SettingsError, load


@pytest.fixture
def good(tmp_path):
    (tmp_path / "database_password").write_text("secret\n")
    return {
        "BASE_PORT": "8100",
        "INSTANCE": "2",
        "DATABASE_HOSTS": "db1:6432,db2:6432",
        "DATABASE_USER": "auth",
        "CREDENTIALS_DIRECTORY": str(tmp_path),
    }


def test_a_good_environment_is_typed(good):
    settings = load(ServiceSettings, good)
    assert settings.port == 8102
    assert settings.database_password.get_secret_value() == "secret"
    assert settings.database_sslmode == "verify-full"
    assert settings.instance_id.endswith(":8102")


def test_a_password_is_never_shown(good):
    assert "secret" not in repr(load(ServiceSettings, good))


def test_a_credential_may_come_from_a_file_named_by_a_variable(good, tmp_path):
    path = tmp_path / "elsewhere"
    path.write_text("other")
    del good["CREDENTIALS_DIRECTORY"]
    settings = load(ServiceSettings, good | {"DATABASE_PASSWORD_FILE": str(path)})
    assert settings.database_password.get_secret_value() == "other"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BASE_PORT", ""),
        ("BASE_PORT", "http"),
        ("INSTANCE", "0"),
        ("DATABASE_HOSTS", "db1"),
        ("DATABASE_HOSTS", "db1:6432,db2"),
        ("DATABASE_SSLMODE", "maybe"),
        ("POOL_PRIMARY", "17"),
        ("POOL_WAIT", "-1"),
        ("TRACE_ENDPOINT", "obs1:4318"),
        ("TRACE_SAMPLE_RATIO", "2"),
        ("TLS_CA", "/nowhere/ca.pem"),
        ("CREDENTIALS_DIRECTORY", "/nowhere"),
    ],
)
def test_a_wrong_setting_is_one_line_with_its_name(good, name, value):
    with pytest.raises(SettingsError) as raised:
        load(ServiceSettings, good | {name: value})
    expected = "DATABASE_PASSWORD" if name == "CREDENTIALS_DIRECTORY" else name
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_certificate_without_its_key_is_refused(good, tmp_path):
    path = tmp_path / "cert"
    path.touch()
    with pytest.raises(SettingsError, match="TLS_KEY"):
        load(ServiceSettings, good | {"TLS_CA": str(path), "TLS_CERT": str(path)})


@pytest.mark.parametrize("pem", ["not a key", ""])
def test_a_wrong_signing_key_ends_the_start_with_one_line(good, tmp_path, pem):
    (tmp_path / "signing_key").write_text(pem)
    environment = good | {"TOKEN_ISSUER": "i", "TOKEN_AUDIENCE": "a", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", "import auth; auth.create_app()"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == EXIT_CONFIG
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "SIGNING_KEY" in ended.stderr


def test_auth_needs_threads_beside_those_that_hash(good, signing_key_file):
    good["SIGNING_KEY_FILE"] = str(signing_key_file)
    with pytest.raises(SettingsError, match="THREADS"):
        load(AuthSettings, good | {"TOKEN_ISSUER": "i", "TOKEN_AUDIENCE": "a", "THREADS": "2"})
