#!/usr/bin/python
"""Gets one pinned artifact from the first source that has it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

DOCUMENTATION = r"""
module: artifact_fetch
short_description: Gets one pinned artifact from the first source that has it
description:
  - Runs on the control node.
  - Keeps each artifact in a folder <name>-<version>-<architecture>, which appears only when it is whole.
  - file, mirror and release give the release's archive, whose checksum must be the pinned one; go builds it.
  - Concurrent calls for the same artifact wait for one another.
options:
  name: {type: str, required: true, description: The artifact's name.}
  pin: {type: dict, required: true, description: 'Its version, url, sha256 by architecture and, optionally, member.'}
  architecture: {type: str, required: true, description: The architecture wanted.}
  directory: {type: path, required: true, description: Where artifacts are kept.}
  sources: {type: list, elements: str, required: true, description: 'Which sources to try, in order.'}
  file: {type: str, default: "", description: An archive on this machine.}
  mirror: {type: str, default: "", description: A URL under which archives are.}
  required: {type: bool, default: true, description: Whether to fail when no source has it.}
  timeout: {type: int, default: 10, description: Seconds to wait for an answer.}
  go_files: {type: path, required: true, description: 'Where <name>/go.mod is, and go.txt, which pins Go.'}
"""


class Unavailable(Exception):
    """A source does not have the artifact; the next one may."""


class Mismatch(Exception):
    """A file is not the one that was pinned: nothing may be tried after it."""


class Artifact:
    """One pinned artifact for one architecture, and the ways to get it."""

    def __init__(self, module: AnsibleModule) -> None:
        options = module.params
        self._module = module
        self._name: str = options["name"]
        self._pin: dict[str, Any] = options["pin"]
        self._architecture: str = options["architecture"]
        self._directory = Path(options["directory"])
        self._file: str = options["file"]
        self._mirror: str = options["mirror"]
        self._timeout: int = options["timeout"]
        self._go_files = Path(options["go_files"])
        self._work = self._directory / f".{self._name}-{self._architecture}"

    def present(self, source: str) -> dict[str, str]:
        """Say where the artifact of this source is, if it was fetched before; else return nothing."""
        version = self._built_version() if source == "go" else str(self._pin["version"])
        path = self._folder(version) / self._file_name(source)
        return {"version": version, "path": str(path), "source": source} if version and path.exists() else {}

    def fetch(self, source: str) -> None:
        """Get the artifact from this source, whole or not at all; raise Unavailable or Mismatch."""
        shutil.rmtree(self._work, ignore_errors=True)
        try:
            whole = self._work / "whole"
            whole.mkdir(parents=True)
            if source == "go":
                version = self._built_version()
                self._build(whole / self._file_name(source))
            else:
                version = str(self._pin["version"])
                self._unpack(self._archive(source), whole / self._file_name(source))
            whole.rename(self._folder(version))
        finally:
            shutil.rmtree(self._work, ignore_errors=True)

    def _folder(self, version: str) -> Path:
        return self._directory / f"{self._name}-{version}-{self._architecture}"

    def _file_name(self, source: str) -> str:
        """Name the file as others see it: a program by the artifact's name, an archive by its own."""
        return self._name if source == "go" or self._pin.get("member") else os.path.basename(self._pin["url"])

    def _archive(self, source: str) -> Path:
        """Return the release's archive, its checksum verified."""
        wanted = self._pin["sha256"].get(self._architecture)
        if wanted is None:
            raise Unavailable(f"no checksum is pinned for {self._architecture}")
        url = self._pin["url"].replace("{arch}", self._architecture)
        if source == "file":
            path, origin = Path(self._file).expanduser(), self._file
            if not path.is_file():
                raise Unavailable(f"{path} is not there")
        else:
            path = self._work / "archive"
            origin = url if source == "release" else f"{self._mirror.rstrip('/')}/{os.path.basename(url)}"
            self._download(origin, path)
        with path.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != wanted:
            raise Mismatch(
                f"{self._name} {self._pin['version']}: {origin} has the SHA-256 {found}, but {wanted} is pinned. "
                f"It was not installed. Take '{source}' out of artifact_sources, or name an archive that you trust "
                "in artifact_files."
            )
        return path

    def _download(self, url: str, path: Path) -> None:
        try:
            with open_url(url, timeout=self._timeout) as answer, path.open("wb") as opened:
                shutil.copyfileobj(answer, opened)
        except OSError as error:
            raise Unavailable(f"{url} cannot be fetched ({getattr(error, 'reason', error)})") from error

    def _unpack(self, archive: Path, target: Path) -> None:
        if not self._pin.get("member"):
            shutil.copyfile(archive, target)
            return
        with tarfile.open(archive) as opened:
            member = opened.extractfile(self._pin["member"].replace("{arch}", self._architecture))
            if member is None:
                raise Unavailable(f"{archive} holds no {self._pin['member']}")
            with target.open("wb") as written:
                shutil.copyfileobj(member, written)
        target.chmod(0o755)

    def _go_module(self) -> str:
        path = self._go_files / self._name / "go.mod"
        return path.read_text() if path.is_file() else ""

    def _go_package(self) -> str:
        found = re.search(r"^tool (\S+)$", self._go_module(), re.MULTILINE)
        return found.group(1) if found else ""

    def _built_version(self) -> str:
        """Return the version that go.mod requires of the module which holds the tool."""
        for module, version in re.findall(r"^\s+(\S+) v(\S+)", self._go_module(), re.MULTILINE):
            if self._go_package().startswith(f"{module}/"):
                return str(version)
        return ""

    def _build(self, target: Path) -> None:
        if not self._go_package():
            raise Unavailable("it cannot be built with Go alone")
        sources = self._work / "sources"
        shutil.copytree(self._go_files / self._name, sources)
        environment = {
            "CGO_ENABLED": "0",  # no C compiler needed, and any architecture can be built on any
            "GOARCH": self._architecture,
            "GOFLAGS": "-mod=readonly -modcacherw",  # go.sum decides what is used; caches can be removed
            "GOOS": "linux",
            "GOTOOLCHAIN": "local",  # never fetch another Go than the pinned one
            "GOWORK": "off",
        }
        go, own = self._go(sources, environment)
        if own:  # a Go that came for this build leaves no caches behind
            environment |= {"GOPATH": str(self._work / "path"), "GOCACHE": str(self._work / "cache")}
        command = [go, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", str(target), self._go_package()]
        code, _, errors = self._module.run_command(command, cwd=str(sources), environ_update=environment)
        if code != 0:
            raise Unavailable(f"building {self._go_package()} {self._built_version()} failed ({_last_line(errors)})")

    def _go(self, sources: Path, environment: dict[str, str]) -> tuple[str, bool]:
        """Return a Go that is new enough for go.mod, and whether it is this role's own, by pip."""
        go = shutil.which("go")
        # With GOTOOLCHAIN=local an older Go refuses go.mod.
        if go and self._module.run_command([go, "list", "-m"], cwd=str(sources), environ_update=environment)[0] == 0:
            return go, False
        venv = self._directory / "go"
        pins = str(self._go_files / "go.txt")
        for command in (
            [sys.executable, "-m", "venv", str(venv)],
            [str(venv / "bin/pip"), "install", "--quiet", "--no-deps", "--require-hashes", "-r", pins],
        ):
            code, output, errors = self._module.run_command(command)
            if code != 0:
                raise Unavailable(f"no Go here is new enough, and pip gets none ({_last_line(errors or output)})")
        return str(venv / "bin/go"), True


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def main() -> None:
    """Run the module."""
    text = {"type": "str", "default": ""}
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "pin": {"type": "dict", "required": True},
            "architecture": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "sources": {"type": "list", "elements": "str", "required": True},
            "file": text,
            "mirror": text,
            "required": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 10},
            "go_files": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    options = module.params
    unset = {source for source in ("file", "mirror") if not options[source]}
    sources = [source for source in options["sources"] if source not in unset]
    directory = Path(options["directory"])
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    artifact = Artifact(module)
    reasons: list[str] = []
    with (directory / f".{options['name']}-{options['architecture']}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for source in sources:
            if found := artifact.present(source):
                module.exit_json(changed=False, found=found, reason="")
        if module.check_mode:
            # What may be left out probably was, and will be again.
            module.exit_json(changed=options["required"], found={}, reason="a dry run fetches nothing")
        for source in sources:
            try:
                artifact.fetch(source)
            except Unavailable as error:
                reasons.append(f"{source}: {error}")
            except Mismatch as error:
                module.fail_json(msg=str(error))
            else:
                module.exit_json(changed=True, found=artifact.present(source), reason="")
    reason = "; ".join(reasons) or "no source is set up for it"
    if options["required"]:
        module.fail_json(
            msg=f"{options['name']} cannot be had. {reason}. Name its archive in artifact_files, set artifact_mirror, "
            "or go on without it with artifact_required: false."
        )
    module.exit_json(changed=False, found={}, reason=reason)


if __name__ == "__main__":
    main()
