"""What an operator sees, in a real browser: the login, each tool behind it, each dashboard.

Pictures are kept in .state/<platform>/pictures. Where Debian's chromium is missing, Playwright's own is started.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from belvedere_platform import PASSWORD, ROOT, Platform
from playwright.sync_api import Browser, Page, expect, sync_playwright

DASHBOARDS = sorted((ROOT / "dashboards/json").glob("*.json"))
TOOLS = {  # where each is opened, and what its title has; built from source, Jaeger is without its pages
    "prometheus": ("/prometheus/graph?g0.expr=up&g0.tab=1", "Prometheus"),
    "alertmanager": ("/alertmanager/#/alerts", "Alertmanager"),
    "jaeger": ("/jaeger/search", "Jaeger|Test Page"),
    "logs": ("/logs/select/vmui/", "VictoriaLogs"),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(platform: Platform, browser: Browser, operator: str) -> Iterator[Page]:
    """A browser's page, of an operator who has logged in."""
    # Whether the certificate is good is asked elsewhere; a browser knows public CAs only.
    context = browser.new_context(ignore_https_errors=True, viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.goto(platform.url("ops"))
    expect(page).to_have_title("Operations: log in")
    page.get_by_label("E-mail").fill(operator)
    page.get_by_label("Password").fill("another than the right one")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).not_to_be_empty()
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_title(f"Belvedere ({platform.name}) operations")
    yield page
    context.close()


@pytest.fixture
def errors(page: Page) -> Iterator[list[str]]:
    """What scripts of the page threw meanwhile."""
    thrown: list[str] = []

    def note(error: Exception) -> None:
        thrown.append(str(error))

    page.on("pageerror", note)
    yield thrown
    page.remove_listener("pageerror", note)


def keep(platform: Platform, page: Page, name: str) -> None:
    folder = ROOT / ".state" / platform.name / "pictures"
    folder.mkdir(exist_ok=True)
    page.screenshot(path=folder / f"{name}.png", full_page=True)


def test_the_landing_page_says_how_each_tool_is(platform: Platform, page: Page, errors: list[str]) -> None:
    page.goto(platform.url("ops"))
    installed = page.locator("[data-health]")
    expect(installed).not_to_have_count(0)
    for tool in range(installed.count()):
        expect(installed.nth(tool)).to_have_text("up")
    keep(platform, page, "operations")
    assert errors == []


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_works_behind_the_login(platform: Platform, page: Page, errors: list[str], tool: str) -> None:
    path, title = TOOLS[tool]
    page.goto(platform.url("ops") + path)
    expect(page).to_have_title(re.compile(title), timeout=15_000)
    page.wait_for_load_state("networkidle")
    keep(platform, page, tool)
    assert errors == []


@pytest.mark.needs("grafana")
@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_drawn(platform: Platform, page: Page, errors: list[str], path: Path) -> None:
    dashboard = json.loads(path.read_text())
    page.set_viewport_size({"width": 1400, "height": 4000})  # Grafana asks for what is in sight only
    page.goto(f"{platform.url('ops')}/grafana/d/{dashboard['uid']}?kiosk")
    expect(page.get_by_text(dashboard["title"]).first).to_be_attached(timeout=30_000)
    page.wait_for_load_state("networkidle")
    expect(page.get_by_test_id("data-testid Panel status error")).to_have_count(0)
    keep(platform, page, f"dashboard-{path.stem}")
    assert errors == []
