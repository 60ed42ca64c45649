"""Every alert is made to fire by `make alarms`, or is listed there with the reason why not."""

from alarms.faults import CAUSES, NOT_MADE
from unit.test_alerts import NAMES

MADE = {alert for cause in CAUSES for alert in cause.expected} | {"Watchdog"}  # which has a test of its own


def test_every_alert_is_made_to_fire_or_listed_as_one_that_cannot_be():
    assert sorted(MADE | set(NOT_MADE)) == NAMES


def test_no_alert_is_both():
    assert MADE & set(NOT_MADE) == set()
