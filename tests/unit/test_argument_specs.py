"""Every role's argument spec is whole, and says the same as its defaults, its files and the inventories."""

import re
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from belvedere import unknown_role_variables
from jinja2 import nodes

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
ANATOMY = [
    "meta/argument_specs.yml",
    "defaults/main.yml",
    "tasks/main.yml",
    "molecule/default/molecule.yml",
    "molecule/default/converge.yml",
    "molecule/default/verify.yml",
    "README.md",
]

PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "path": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
    "raw": (object,),
}
ANSIBLE_NAMES = {
    "ansible_facts",
    "inventory_hostname",
    "lookup",
    "query",
    "omit",
    "item",
    "dict",
    "range",
    "now",
    "role_path",
}

every_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


def load(path: Path) -> dict[str, Any]:
    return (yaml.safe_load(path.read_text()) if path.exists() else None) or {}


def options_of(role: Path) -> dict[str, dict[str, Any]]:
    """The options of all the role's entry points; none where there is no spec, which the anatomy's test tells."""
    entry_points = load(role / "meta/argument_specs.yml").get("argument_specs", {}).values()
    return {name: option for entry_point in entry_points for name, option in entry_point["options"].items()}


def strings_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in strings_in(part)]
    if isinstance(value, list):
        return [text for part in value for text in strings_in(part)]
    return [value] if isinstance(value, str) else []


def names_in(template: str) -> set[str]:
    """The variables that a template reads and does not set itself."""
    syntax = jinja2.Environment(extensions=["jinja2.ext.do"])  # noqa: S701 it renders nothing
    found = list(syntax.parse(template).find_all(nodes.Name))
    return {name.name for name in found if name.ctx == "load"} - {name.name for name in found if name.ctx != "load"}


def is_template(value: Any) -> bool:
    return isinstance(value, str) and "{{" in value


def test_there_are_roles() -> None:
    assert ROLES


@every_role
def test_a_role_has_the_whole_anatomy(role: Path) -> None:
    assert [name for name in ANATOMY if not (role / name).is_file()] == []


@every_role
def test_every_option_carries_the_role_s_name_a_type_and_a_description(role: Path) -> None:
    faults = []

    def check(options: dict[str, dict[str, Any]], where: str) -> None:
        for name, option in options.items():
            if option.get("type") not in PYTHON_TYPES:
                faults.append(f"{where}{name}: type is {option.get('type')!r}")
            if option.get("type") == "list" and "elements" not in option:
                faults.append(f"{where}{name}: a list without elements")
            if not option.get("description"):
                faults.append(f"{where}{name}: no description")
            check(option.get("options", {}), f"{where}{name}.")

    check(options_of(role), "")
    shared = re.compile(rf"{role.name}_|pki_|secrets$|services$")  # the TLS material of a host is every role's
    faults += [f"{name}: not {role.name}_*" for name in options_of(role) if not shared.match(name)]
    assert faults == []


@every_role
def test_defaults_and_spec_agree_in_keys_values_and_types(role: Path) -> None:
    options, defaults = options_of(role), load(role / "defaults/main.yml")
    faults = []
    for name, option in options.items():
        required, has_default = option.get("required", False), "default" in option
        if required and (has_default or name in defaults):
            faults.append(f"{name}: required, and has a default")
        elif not required and not (has_default and name in defaults):
            faults.append(f"{name}: optional, and not in both the spec's and the role's defaults")
        elif not required and option["default"] != defaults[name]:
            faults.append(f"{name}: {option['default']!r} in the spec, {defaults[name]!r} in defaults/main.yml")
        elif not required and not is_template(defaults[name]):
            value, kinds = defaults[name], PYTHON_TYPES.get(option["type"], (object,))
            if not isinstance(value, kinds) or (isinstance(value, bool) and option["type"] in ("int", "float", "str")):
                faults.append(f"{name}: {value!r} is not of type {option['type']}")
            if "choices" in option and not set(value if isinstance(value, list) else [value]) <= set(option["choices"]):
                faults.append(f"{name}: {value!r} is none of its choices")
    faults += [f"{name}: in defaults/main.yml, not in the spec" for name in defaults if name not in options]
    assert faults == []


@every_role
def test_secrets_are_marked_and_have_no_default(role: Path) -> None:
    secret = re.compile(r"_(password|passphrase|secret)s?$")
    options = options_of(role)
    assert [name for name, option in options.items() if secret.search(name) and not option.get("no_log")] == []
    # An empty default is none: a list of receivers, say, that nobody has to have.
    assert [name for name, option in options.items() if option.get("no_log") and option.get("default")] == []


@every_role
def test_defaults_use_only_what_the_spec_declares(role: Path) -> None:
    known = set(options_of(role)) | set(load(role / "vars/main.yml")) | ANSIBLE_NAMES
    used = {name for text in strings_in(load(role / "defaults/main.yml")) for name in names_in(text)}
    assert sorted(used - known) == []


@every_role
def test_tasks_and_templates_use_no_undeclared_variable_of_the_role(role: Path) -> None:
    code = "".join(path.read_text() for folder in ("tasks", "handlers") for path in role.glob(f"{folder}/*.yml"))
    made_here = set(re.findall(r"\b(?:register|loop_var|index_var): (\w+)", code))
    made_here |= set(re.findall(rf"^\s+({role.name}_\w+):", code, re.MULTILINE))  # set_fact and vars
    known = set(options_of(role)) | set(load(role / "vars/main.yml")) | made_here
    texts = [path.read_text() for path in role.glob("templates/**/*") if path.is_file()]
    for folder in ("tasks", "handlers", "vars"):
        for path in role.glob(f"{folder}/*.yml"):
            texts += [text for text in strings_in(yaml.safe_load(path.read_text())) if "{{" in text or "{%" in text]
    used = {name for text in texts for name in names_in(text) if name.startswith(f"{role.name}_")}
    assert sorted(used - known) == []


@every_role
def test_every_option_is_used(role: Path) -> None:
    files = [
        path
        for folder in ("tasks", "handlers", "templates", "files", "vars", "defaults")
        for path in role.glob(f"{folder}/**/*")
    ]
    code = "\n".join(path.read_text(errors="replace") for path in files if path.is_file())
    # A default defines its option, which is no use of it.
    code = re.sub(rf"^{role.name}_\w+:", "", code, flags=re.MULTILINE)
    assert [name for name in options_of(role) if not re.search(rf"\b{name}\b", code)] == []


INVENTORY_FILES = sorted(
    {
        *(ROOT / "inventories/common").glob("*.yml"),
        *(path for path in (ROOT / "inventories").glob("*/*_vars/**/*.yml") if not path.is_symlink()),
    }
)


@pytest.mark.parametrize("path", INVENTORY_FILES, ids=lambda path: str(path.relative_to(ROOT / "inventories")))
def test_inventories_set_only_variables_that_a_role_declares(path: Path) -> None:
    assert unknown_role_variables(list(load(path)), str(ROOT / "roles")) == []
