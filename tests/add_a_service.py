"""docs/add-a-service.md as a test follows it: the files it shows, and the commands under each heading."""

import re
from dataclasses import dataclass
from pathlib import Path

from belvedere_platform import ROOT

PAGE = ROOT / "docs" / "add-a-service.md"
FILE = re.compile(r"^`(apps/\S+)`\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Page:
    """What the page tells to write and to run."""

    files: dict[str, str]
    commands: dict[str, list[str]]  # by heading, each block as it stands there

    @classmethod
    def read(cls) -> "Page":
        text = PAGE.read_text()
        sections = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
        commands = {title: COMMANDS.findall(body) for title, body in zip(sections[1::2], sections[2::2], strict=True)}
        return cls(dict(FILE.findall(text)), commands)

    def write(self, folder: Path) -> None:
        """Write the files below the folder, as a reader does."""
        for name, text in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
