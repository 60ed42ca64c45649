"""What tests of a running platform share. The conftest.py of each folder of them takes it from here."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from belvedere_platform import PASSWORD, ROOT, Edge, Platform


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--platform", default="local", help="the inventory whose platform is tested (default: local)")


def pytest_configure(config: pytest.Config) -> None:
    for marker in (
        "needs(component): skipped, with the reason, where platform.json says that the component was left out",
        "disruptive: breaks something for a while; runs after the tests that only look",
    ):
        config.addinivalue_line("markers", marker)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: bool(item.get_closest_marker("disruptive")))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not any(item.iter_markers("needs")):
        return
    left_out = json.loads(description(item.config).read_text()).get("left_out") or {}
    for marker in item.iter_markers("needs"):
        if marker.args[0] in left_out:
            pytest.skip(f"{marker.args[0]} was left out: {left_out[marker.args[0]]}")


def description(config: pytest.Config) -> Path:
    path = ROOT / ".state" / str(config.getoption("--platform")) / "platform.json"
    if not path.exists():
        pytest.exit(f"{path} does not exist: is the platform up? 'make up' makes it", returncode=2)
    return path


@pytest.fixture(scope="session")
def platform(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    path = description(request.config)
    return Platform(path.parent.name, json.loads(path.read_text()), tmp_path_factory.mktemp("s"))


@pytest.fixture(scope="session")
def anonymous(platform: Platform) -> Edge:
    """Somebody without a token."""
    return platform.edge


@pytest.fixture(scope="session")
def user(platform: Platform) -> Edge:
    """A user who is logged in."""
    return platform.edge.as_new_user()


@pytest.fixture(scope="session")
def operator(platform: Platform) -> Iterator[str]:
    """The e-mail address of an account that is an operator's, until the tests end."""
    email = f"{uuid.uuid4().hex}@example.com"
    platform.edge.post("/register", json={"email": email, "password": PASSWORD})
    platform.grant(email, operator=True)
    yield email
    platform.grant(email, operator=False)
