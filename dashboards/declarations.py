"""What dashboards know of the services: their declarations in apps/<name>/service.yml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Service:
    """A service, and the histogram of its requests' durations."""

    name: str
    metric: str


def read_services(folder: Path) -> list[Service]:
    """Return every service that is declared under the folder, by name."""
    declarations = [yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*/service.yml"))]
    return [Service(name=declaration["name"], metric=declaration["metric"]) for declaration in declarations]
