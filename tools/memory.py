"""Prints each systemd unit's memory on this host as JSON: {unit: MiB}, by PSS, largest first. Runs there, as root."""

import json
import re
from collections import Counter
from pathlib import Path


def main() -> None:
    units: Counter[str] = Counter()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            rollup = (process / "smaps_rollup").read_text()
            groups = (process / "cgroup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        pss = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
        unit = re.search(r"/([^/\n]+\.(?:service|scope))(?:\n|$)", groups)
        units[unit[1] if unit else "other"] += int(pss[1]) if pss else 0
    print(json.dumps({unit: round(size / 1024) for unit, size in units.most_common()}))


if __name__ == "__main__":
    main()
