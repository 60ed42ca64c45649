"""Writes each role's README.md from its argument spec, or with --check says which are not up to date."""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent


def readme(role: str, spec: dict[str, Any]) -> str:
    """The README's text: what the role does, how to call it, its arguments."""
    options: dict[str, dict[str, Any]] = spec.get("options", {})
    required = {name: option for name, option in options.items() if option.get("required")}
    optional = {name: option for name, option in options.items() if not option.get("required")}
    lines = [f"# {role}", "", f"{spec['short_description']}.", ""]
    lines += [*_paragraphs(spec.get("description", [])), "", "## Use", "", *_example(role, required), ""]
    if required:
        lines += ["## Required arguments", "", "| argument | type | what it is |", "|---|---|---|"]
        lines += [f"| `{name}` | {_type(option)} | {_description(option)} |" for name, option in required.items()]
        lines += [""]
    if optional:
        lines += ["## Optional arguments", "", "| argument | type | default | what it is |", "|---|---|---|---|"]
        lines += [
            f"| `{name}` | {_type(option)} | `{_cell(_yaml(option.get('default')))}` | {_description(option)} |"
            for name, option in optional.items()
        ]
        lines += [""]
    lines += [
        f"Test it with `make roles ROLE={role}`. This page is made from `meta/argument_specs.yml` by `make docs`."
    ]
    return "\n".join(lines) + "\n"


def _example(role: str, required: dict[str, dict[str, Any]]) -> list[str]:
    lines = ["```yaml", "- ansible.builtin.include_role:", f"    name: {role}"]
    if required:
        lines += ["  vars:", *(f"    {name}: …" for name in required)]
    return (
        [*lines, "```", "", "In this repository `inventories/common/` binds the required arguments."]
        if required
        else [*lines, "```"]
    )


def _paragraphs(description: str | list[str]) -> list[str]:
    return [description] if isinstance(description, str) else [f"- {line}" for line in description]


def _type(option: dict[str, Any]) -> str:
    kind = f"{option['type']} of {option['elements']}" if "elements" in option else str(option["type"])
    return kind + (", secret" if option.get("no_log") else "")


def _description(option: dict[str, Any]) -> str:
    text = option["description"]
    text = text if isinstance(text, str) else " ".join(text)
    if "choices" in option:
        text += f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}."
    return _cell(text)


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a README is not up to date")
    check = parser.parse_args().check
    specs = sorted((ROOT / "roles").glob("*/meta/argument_specs.yml"))
    if not specs:
        sys.exit("role_readmes.py: no role was found")
    stale = []
    for path in specs:
        role = path.parent.parent
        text = readme(role.name, yaml.safe_load(path.read_text())["argument_specs"]["main"])
        target = role / "README.md"
        if not target.exists() or target.read_text() != text:
            stale.append(target)
            if not check:
                target.write_text(text)
    for target in stale:
        print(f"{target.relative_to(ROOT)} {'is not up to date: run make docs' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
