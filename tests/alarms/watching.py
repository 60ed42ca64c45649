"""Receivers that Alertmanager tells, and what became of each alert."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from alarms.faults import Cause, Labels
from belvedere_platform import Platform, wait_until

PORT = 9095  # on obs1's loopback
SEVERITIES = ("critical", "warning", "none")
SINK = f"""#!/usr/bin/python3
# Writes down what Alertmanager tells: a line of JSON for each notification.
import http.server, json, os, time
class Sink(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        severity = self.path.strip("/")
        refused = os.path.exists("/run/alarms/refuse-" + severity)
        if not refused:
            with open("/run/alarms/told", "a") as file:
                file.write(json.dumps({{"at": time.time(), "severity": severity, "alerts": told["alerts"]}}) + "\\n")
        self.send_response(404 if refused else 200)
        self.end_headers()
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", {PORT}), Sink).serve_forever()
"""


def seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def matches(labels: Labels, alert: str, wanted: Labels) -> bool:
    return labels.items() >= ({"alertname": alert} | wanted).items()


@dataclass
class Seen:
    """An alert: seconds from the fault until it fired, and until somebody was told, or what held it back."""

    cause: str
    alert: str
    fires: float
    told: float | None
    held_back_by: str = ""
    pages: int = 0
    runbook: str = ""


SEEN: list[Seen] = []


@dataclass
class Watch:
    """Alertmanager and its receivers, asked while something is broken."""

    platform: Platform
    begun: dict[str, float] = field(default_factory=dict)  # cause → when

    def told(self, since: float = 0) -> list[dict[str, Any]]:
        """The notifications, in their order."""
        # The first notification makes the file.
        lines = self.platform.ssh("obs1", "sudo cat /run/alarms/told 2>/dev/null || true").splitlines()
        return [notification for notification in map(json.loads, lines) if notification["at"] >= since]

    def pages(self, since: float, but: set[str]) -> list[dict[str, Any]]:
        """Critical notifications of what began since then, if it is not only other causes' alerts."""
        return [
            page
            for page in self.told(since)
            if page["severity"] == "critical"
            and {a["labels"]["alertname"] for a in page["alerts"] if seconds(a["startsAt"]) >= since} - but
        ]

    def see(self, cause: Cause, alert: str, labels: Labels) -> Seen:
        """Wait until the alert fired for this cause, and was told or held back by another that was."""
        begun = self.begun[cause.name]
        now = time.time()

        def seen() -> Seen | None:
            for notification in self.told(begun):
                for each in notification["alerts"]:
                    fired = seconds(each["startsAt"])
                    if matches(each["labels"], alert, labels) and fired >= begun:
                        found = Seen(cause.name, alert, fired - begun, notification["at"] - begun)
                        found.runbook = each["annotations"]["runbook"]
                        return found
            for each in self.platform.ask("alertmanager", "/api/v2/alerts", filter=f'alertname="{alert}"').json():
                inhibitors = each["status"]["inhibitedBy"]
                if matches(each["labels"], alert, labels) and inhibitors and seconds(each["startsAt"]) >= begun:
                    found = Seen(cause.name, alert, seconds(each["startsAt"]) - begun, None)
                    found.runbook = each["annotations"]["runbook"]
                    found.held_back_by = self._name(inhibitors[0])
                    return found
            return None

        left = max(begun + cause.within - now, 10)
        found = wait_until(f"{alert} {labels} was told or held back ({cause.name})", seen, seconds=left, every=3)
        assert found
        return found

    def _name(self, fingerprint: str) -> str:
        alerts = self.platform.ask("alertmanager", "/api/v2/alerts").json()
        return next((a["labels"]["alertname"] for a in alerts if a["fingerprint"] == fingerprint), fingerprint)

    def fires(self, cause: Cause) -> bool:
        """Whether one of the cause's alerts fires by now."""
        alerts = self.platform.ask("prometheus", "/api/v1/alerts").json()["data"]["alerts"]
        return any(
            each["state"] == "firing" and matches(each["labels"], alert, labels)
            for each in alerts
            for alert, labels in cause.expected.items()
        )

    def works(self, link: str, alert: str) -> bool:
        """Whether the runbook's link leads to the alert's runbook."""
        page, _, anchor = link.partition("#")
        ops = self.platform.url("ops")
        assert page.startswith(ops), link
        return anchor == alert and f'id="{alert}"' in self.platform.ask("ops", page.removeprefix(ops)).text


@contextmanager
def receivers(platform: Platform) -> Iterator[None]:
    """Alertmanager tells a sink beside it, as its role's argument says; afterwards whom the inventory names."""
    names = {
        severity: {"webhook_configs": [{"url": f"http://127.0.0.1:{PORT}/{severity}", "send_resolved": False}]}
        for severity in SEVERITIES
    }
    play = ("ansible-playbook", "playbooks/observability.yml", "--tags", "alertmanager")
    try:
        platform.ssh("obs1", "sudo mkdir -p /run/alarms && sudo rm -f /run/alarms/* && sudo tee /run/alarms/sink", SINK)
        platform.ssh("obs1", "sudo systemd-run --quiet --collect --unit=alarm-sink /usr/bin/python3 /run/alarms/sink")
        platform.ansible(*play, "-e", json.dumps({"alertmanager_receivers": names}), timeout=300)
        yield
    finally:
        platform.ansible(*play, timeout=300)
        platform.ssh("obs1", "sudo systemctl stop alarm-sink; sudo rm -rf /run/alarms")
