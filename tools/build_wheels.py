"""Builds the wheels that the hosts install: each locked dependency for the hosts' Python, servicekit, the services.

    build_wheels.py APPS OUT

All wheels and their lock are in OUT/wheels.tar. A service's release is named by its version and a hash of everything
that goes into it; the name stands in OUT/version-<service>.
Prints `built` or `unchanged`. Nothing is built where the hashes are those of the last run.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

HOSTS_PYTHON = "3.13"
# With the newest platform alone, pip would take older releases of some packages without a word.
HOSTS_PLATFORMS = ["manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"]
BUILT_FROM = (".py", ".toml", ".txt", ".sql", ".mako", ".ini", ".yml", ".json")


def fingerprint(*paths: Path) -> str:
    """Return a hash of the named files, and of the sources below the named folders, tests left out."""
    digest = hashlib.sha256()
    for path in paths:
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in files:
            if file.is_file() and file.suffix in BUILT_FROM and "tests" not in file.parts and "build" not in file.parts:
                digest.update(f"{file.relative_to(path.parent)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def pip(*arguments: str) -> None:
    """Run pip; on failure show what it said and stop."""
    done = subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"pip {arguments[0]} failed; without wheels nothing can be installed:\n{done.stderr.strip()}")


def main(apps: Path, out: Path) -> None:
    lock = apps / "requirements.txt"
    services = [declaration.parent for declaration in sorted(apps.glob("*/service.yml"))]
    hashes = {service.name: fingerprint(lock, apps / "servicekit", service) for service in services}
    built = {path.name.removeprefix("version-"): path.read_text().rpartition("-")[2] for path in out.glob("version-*")}
    if built == hashes:
        print("unchanged")
        return

    fresh = out.with_suffix(".new")  # the old wheels stay until all the new ones are there
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    platforms = [argument for platform in HOSTS_PLATFORMS for argument in ("--platform", platform)]
    pip(
        "download",
        "--require-hashes",
        "--only-binary=:all:",
        "--no-deps",
        "--python-version",
        HOSTS_PYTHON,
        *platforms,
        "--dest",
        str(fresh),
        "--requirement",
        str(lock),
    )
    pip(
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(fresh),
        str(apps / "servicekit"),
        *map(str, services),
    )
    with tarfile.open(fresh / "wheels.tar", "w") as archive:  # one file travels faster than sixty
        for wheel in sorted(fresh.glob("*.whl")):
            archive.add(wheel, f"wheels/{wheel.name}")
        archive.add(lock, "wheels/requirements.txt")
    for name, hashed in hashes.items():
        version = next(fresh.glob(f"{name}-*.whl")).name.split("-")[1]
        (fresh / f"version-{name}").write_text(f"{version}-{hashed}")
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
    print("built")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
