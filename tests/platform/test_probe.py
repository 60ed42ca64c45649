"""The platform is used by a probe, as by a user, and tells how that went."""

from belvedere_platform import Platform, wait_until

PHASES = {"connect", "login", "write", "read", "delete", "logout"}


def test_every_phase_of_the_journey_succeeds_each_minute(platform: Platform) -> None:
    def whole() -> bool:
        phases = platform.prometheus("probe_journey_phase_success == 1 and on (host) probe_journey_success == 1")
        seen = {(each["metric"]["host"], each["metric"]["phase"]) for each in phases}
        return seen == {(host, phase) for host in platform.groups["observability"] for phase in PHASES}

    wait_until("a whole journey is seen", whole, seconds=120)  # a journey of a fault before may still be shown
    assert platform.prometheus("time() - probe_journey_last_run_timestamp_seconds > 90") == []


def test_the_probe_leaves_nothing_behind(platform: Platform) -> None:
    """At most the item of a journey that is on its way."""
    count = "SELECT count(*) FROM api.items WHERE title = 'Journey'"
    assert int(platform.sql(platform.primary(), count)) <= len(platform.groups["observability"])
