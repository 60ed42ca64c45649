"""Builds dashboards into dashboards/json/<uid>.json and the SLOs' rules into alerts/slos.yml; --check: is one stale?"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import overview, service, signals, slos, tiers
from dashboards.declarations import read_services

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "dashboards" / "json"
RULES = ROOT / "alerts" / "slos.yml"
SCHEMA_VERSION = 42  # what current Grafana writes; the SDK would say 36, which Grafana migrates at each load


def rendered() -> dict[Path, str]:
    """Return what each file should hold."""
    files = {RULES: slos.rendered(ROOT)}
    services = read_services(ROOT / "apps")
    for dashboard in [overview.build(services), *map(service.build, services), *tiers.build(), *signals.build()]:
        dashboard.schema_version = SCHEMA_VERSION
        for number, panel in enumerate(dashboard.panels or [], start=1):
            panel.id_val = number
        text = json.dumps(dashboard, cls=JSONEncoder, indent=2, sort_keys=True)
        files[FOLDER / f"{dashboard.uid}.json"] = f"{text}\n"
    return files


def main() -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(prog="python -m dashboards", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is stale")
    check: bool = parser.parse_args().check
    files = rendered()
    present = {path: path.read_text() for path in [*FOLDER.glob("*.json"), *ROOT.glob(str(RULES.relative_to(ROOT)))]}
    stale = sorted(path for path in files.keys() | present.keys() if files.get(path) != present.get(path))
    for path in stale:
        name = path.relative_to(ROOT)
        if check:
            print(f"{name} is stale: run 'python -m dashboards'")
        elif path in files:
            path.write_text(files[path])
            print(f"wrote {name}")
        else:
            path.unlink()
            print(f"removed {name}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
