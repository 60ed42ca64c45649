"""What dashboards know of the services: their declarations in apps/<name>/service.yml."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class DeclaredPanel:
    """A graph that a service wants beside those that all services have."""

    title: str
    description: str
    query: str  # PromQL; $instance are the instances chosen
    unit: str  # as Grafana names it
    legend: str = ""
    empty_when: str = ""


@dataclass(frozen=True)
class Service:
    """A service, the histogram of its requests' durations, and its own rows of panels."""

    name: str
    metric: str
    panels: dict[str, list[DeclaredPanel]] = field(default_factory=dict)


def read_services(folder: Path) -> list[Service]:
    """Return every service that is declared under the folder, by name."""
    return [_service(yaml.safe_load(path.read_text())) for path in sorted(folder.glob("*/service.yml"))]


def _service(declared: dict[str, Any]) -> Service:
    rows = declared.get("panels", {})
    panels = {row: [DeclaredPanel(**panel) for panel in panels] for row, panels in rows.items()}
    return Service(name=declared["name"], metric=declared["metric"], panels=panels)
