"""Service level objectives: declarations in service.yml become Prometheus rules.

Bad requests are counted by window; what is burnt is their share over the share that the objective allows.
An alert asks for a long window, so that it is no blip, and for a short one, so that it ends soon after the trouble.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HEADER = "# Written by dashboards/slos.py from the service.yml files; 'make docs' writes it anew.\n"
# Prometheus keeps 15 days by default, and a budget cannot look further back.
BUDGET_WINDOW = "14d"
SHORT_WINDOWS = ("5m", "30m", "1h", "2h", "6h")
# Raw counters over days are dear to read; five-minute counts that lie end to end are the same.
LONG_WINDOWS = ("1d", "3d", BUDGET_WINDOW)
WINDOWS = (*SHORT_WINDOWS, *LONG_WINDOWS)
# The SRE workbook's burn rates: alert, severity, burn rate, long window, short window.
ALERTS = (
    ("SloBudgetBurnsFast", "critical", 14.4, "1h", "5m"),
    ("SloBudgetBurnsFast", "critical", 6, "6h", "30m"),
    ("SloBudgetBurnsSlowly", "warning", 3, "1d", "2h"),
    ("SloBudgetBurnsSlowly", "warning", 1, "3d", "6h"),
)
FEWEST_ERRORS = 10  # bad requests in the long window; with fewer nobody is told, however few requests there were

Rule = dict[str, Any]


@dataclass(frozen=True)
class Slo:
    """One objective: of the requests that `total` counts, at least the share `objective` is not in `bad`."""

    service: str
    name: str
    objective: float
    total: str  # PromQL with WINDOW in the place of the range
    bad: str

    @property
    def labels(self) -> dict[str, str]:
        return {"service": self.service, "slo": self.name}


def read_slos(root: Path) -> list[Slo]:
    """Return the objectives of every service, and those of the edge."""
    paths = [*sorted(root.glob("apps/*/service.yml")), root / "alerts" / "edge" / "service.yml"]
    return [slo for path in paths for slo in _declared(yaml.safe_load(path.read_text()))]


def _declared(service: dict[str, Any]) -> Iterator[Slo]:
    for name, declared in service.get("slos", {}).items():
        metric = declared.get("metric", service.get("metric"))
        counter = declared.get("counter", f"{metric}_count")
        requests = declared["requests"]
        if "availability" in declared:
            yield Slo(
                service["name"],
                f"{name}_availability",
                declared["availability"],
                total=_increase(counter, requests),
                bad=_increase(counter, f'{requests}, status=~"5.."'),
            )
        if "latency" in declared:
            answered = f'{requests}, status!~"5.."'  # what failed fast was not fast
            within = f'{answered}, le="{declared["latency"]["seconds"]}"'
            total = _increase(counter, answered)
            yield Slo(
                service["name"],
                f"{name}_latency",
                declared["latency"]["objective"],
                total=total,
                bad=f"clamp_min({total} - {_increase(f'{metric}_bucket', within)}, 0)",
            )


def _increase(metric: str, labels: str) -> str:
    return f"(sum(increase({metric}{{{labels}}}[WINDOW])) or vector(0))"


def recording_rules(slo: Slo) -> Iterator[Rule]:
    """Return the rules that count one objective's requests."""
    yield {"record": "slo:objective", "expr": f"vector({slo.objective:g})", "labels": slo.labels}
    for window in SHORT_WINDOWS:
        for name, expression in (("requests", slo.total), ("errors", slo.bad)):
            yield {
                "record": f"slo:{name}:increase{window}",
                "expr": expression.replace("WINDOW", window),
                "labels": slo.labels,
            }


def shared_rules() -> Iterator[Rule]:
    """Return the rules that are the same for every objective."""
    for window in LONG_WINDOWS:
        for name in ("requests", "errors"):
            # The steps of a subquery are whole five minutes of the clock: a new Prometheus has not met one yet.
            expression = f"sum_over_time(slo:{name}:increase5m[{window}:5m]) or slo:{name}:increase5m"
            yield {"record": f"slo:{name}:increase{window}", "expr": expression}
    for window in WINDOWS:
        errors, requests = f"slo:errors:increase{window}", f"slo:requests:increase{window}"
        yield {"record": f"slo:errors:ratio{window}", "expr": f"{errors} / ({requests} > 0) or {errors}"}
        yield {"record": f"slo:burn_rate:{window}", "expr": f"slo:errors:ratio{window} / (1 - slo:objective)"}
    yield {"record": "slo:error_budget_remaining:ratio", "expr": f"1 - slo:burn_rate:{BUDGET_WINDOW}"}


def alerting_rules() -> Iterator[Rule]:
    """Return the alerts, each for all objectives."""
    for name, severity, burn_rate, long, short in ALERTS:
        yield {
            "alert": name,
            "expr": (
                f"slo:burn_rate:{long} > {burn_rate:g} and slo:burn_rate:{short} > {burn_rate:g}"
                f" and slo:errors:increase{long} >= {FEWEST_ERRORS}"
            ),
            "labels": {"severity": severity, "window": long},
            "annotations": {
                "summary": "{{ $labels.service }} misses its objective {{ $labels.slo }}",
                "description": (
                    f"For {long} the error budget has been used up {{{{ $value | humanize }}}} times as fast"
                    f" as it lasts, and in the last {short} too."
                ),
                "runbook": f"docs/runbooks/{name}.md",
            },
        }


class _Dumper(yaml.SafeDumper):
    """Indents lists as the hand-written rules do."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def rendered(root: Path) -> str:
    """Return the rules file."""
    counts = [rule for slo in read_slos(root) for rule in recording_rules(slo)]
    # One group: its rules are evaluated in this order, while groups know nothing of each other.
    groups = [{"name": "slos", "interval": "1m", "rules": [*counts, *shared_rules(), *alerting_rules()]}]
    return HEADER + yaml.dump({"groups": groups}, Dumper=_Dumper, sort_keys=False, width=90)
