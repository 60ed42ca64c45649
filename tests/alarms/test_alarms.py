"""Each alert for a fault that can be made here is made to fire, and arrives where somebody would read it, once."""

import time
from contextlib import ExitStack

import pytest
from alarms.faults import LOUD, QUIET, Cause, prometheus_stopped
from alarms.watching import SEEN, Seen, Watch
from belvedere_platform import Platform, wait_until

SETTLES = 60  # seconds after the last expected alert in which a storm would show
OF_QUIET = {alert for cause in QUIET for alert in cause.expected}


def see_all(watch: Watch, cause: Cause) -> list[Seen]:
    seen = [watch.see(cause, alert, labels) for alert, labels in cause.expected.items()]
    SEEN.extend(seen)
    for each in seen:
        assert watch.works(each.runbook, each.alert), each.runbook
    return seen


@pytest.mark.parametrize("cause", LOUD, ids=lambda cause: cause.name)
def test_the_alerts_arrive_and_no_storm_behind_them(watch: Watch, cause: Cause) -> None:
    wait_until("none of its alerts fires for what was before", lambda: not watch.fires(cause), seconds=900, every=5)
    began = watch.begun[cause.name] = time.time()
    with cause.make(watch.platform):
        seen = see_all(watch, cause)
        if cause.pages is not None:
            time.sleep(SETTLES)  # it is silence that is waited for
    pages = watch.pages(began, but=OF_QUIET - set(cause.expected))
    for each in seen:
        each.pages = len(pages)
    told = [[alert["labels"]["alertname"] for alert in page["alerts"]] for page in pages]
    if cause.page_within:
        assert pages and pages[0]["at"] - began <= cause.page_within, told
    if cause.pages is not None:
        assert len(pages) <= cause.pages, told


@pytest.mark.parametrize("quiet_cause", QUIET, ids=lambda cause: cause.name)
def test_the_alert_arrives(watch: Watch, quiet: dict[str, ExitStack], quiet_cause: Cause) -> None:
    see_all(watch, quiet_cause)
    quiet[quiet_cause.name].close()


def test_whoever_hears_the_heartbeat_misses_it_when_prometheus_is_gone(platform: Platform, watch: Watch) -> None:
    """Both ways of the dead man's switch: it is heard each minute, and not heard when nobody watches."""
    began = time.time()
    heard = wait_until(
        "the heartbeat is heard three times",
        lambda: [each for each in watch.told(began) if each["severity"] == "none"][2:],
        seconds=240,
        every=5,
    )
    assert watch.works(heard[0]["alerts"][0]["annotations"]["runbook"], "Watchdog")
    assert heard[0]["at"] - began <= 190
    began = time.time()
    with prometheus_stopped(platform):
        wait_until(
            "two minutes without a heartbeat",
            lambda: time.time() - max(each["at"] for each in [*watch.told(began), {"at": began}]) > 120,
            seconds=600,
            every=5,
        )
    silent = time.time() - began
    SEEN.append(Seen("Prometheus is stopped: its absence is what tells", "Watchdog", 0, silent))
