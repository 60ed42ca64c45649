"""The service that docs/add-a-service.md makes: its code runs, its migration passes, and what is generated knows it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from add_a_service import Page
from belvedere import service_declarations
from belvedere_platform import ROOT

PAGE = Page.read()


@pytest.fixture
def apps(tmp_path: Path) -> Path:
    PAGE.write(tmp_path)
    return tmp_path / "apps"


def test_the_page_has_all_files_and_commands():
    assert len(PAGE.files) == 7
    assert all(PAGE.commands.values())


def test_it_declares_what_every_service_does(apps: Path):
    (declared,) = service_declarations(str(apps))
    assert declared["name"] == "orders"
    (api,) = (each for each in service_declarations(str(ROOT / "apps")) if each["name"] == "api")
    optional = {"cpu_quota", "environment", "credentials"}
    assert set(api) - optional <= set(declared)


def test_its_code_is_as_clean_as_ours(apps: Path):
    command = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), str(apps)]
    done = subprocess.run(
        [*command, "--config", 'lint.isort.known-first-party=["orders", "servicekit"]'], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_its_migration_passes(apps: Path):
    command = [sys.executable, str(ROOT / "tools/check_migrations.py"), str(apps)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_it_starts_and_refuses_who_is_not_signed_in(apps: Path):
    script = """
import json
from orders import OrdersSettings, create_app
app = create_app(OrdersSettings(base_port=8300, database_hosts="localhost:1", database_user="orders",
    database_password="x", jwks_url="https://localhost/", token_issuer="x", token_audience="x"))
client = app.test_client()
print(json.dumps([client.post("/api/v1/orders", json={}).status_code, client.get("/readyz").status_code]))
"""
    path = os.pathsep.join([str(apps / "orders"), str(ROOT / "apps/servicekit")])
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [401, 200]
