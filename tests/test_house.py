# SPDX-License-Identifier: Apache-2.0
"""The rules of the house (docs/architecture.md), read off the source: layers, doors, size, licence."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from bootcd import errors

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "bootcd"

ROWS = (
    ("errors",), ("model", "schedule"), ("layout",), ("config",),
    ("formats", "linux"),
    ("store", "registry", "boot"),
    ("deploy",),
    ("ops",),
    ("daemon", "cli"),
)
"""Bottom first. A room may import from the rows below it, and from itself."""

DOORS = {
    "subprocess": ("linux/run.py",),
    "ctypes": ("linux/",),
    "fcntl": ("linux/",),
    "dbus_next": ("daemon/bus.py", "cli/client.py"),
    "asyncio": ("daemon/", "cli/client.py"),
    "requests": ("registry/",),
    "urllib3": ("registry/",),
    "cryptography": ("registry/", "formats/authenticode.py"),
    "yaml": ("registry/",),
    "urllib.request": (),
    "http": ("registry/",),
    "socket": ("registry/", "daemon/", "linux/"),
    "argparse": ("cli/", "daemon/main.py"),
    "rich": ("cli/",),
    "multiprocessing": (),
    "pickle": (),
    "tempfile": ("linux/",),
}
"""Module → who alone may import it."""

PURE = {"os", "io", "pathlib", "time", "datetime", "shutil", "glob", "socket", "threading", "logging"}
"""What formats/ does without: no files, no clock, no sockets. `from os import fsdecode` and the like are no files."""

IMPORT_NAMES = {"dbus_next": "dbus-next", "systemd": "systemd-python", "yaml": "PyYAML"}
"""Modules whose package has another name."""

MAX_LINES = 500

REPOSITORY_FILES = ("src", "tests", "demo", "benchmarks", "examples", "tools", "man", "data", "docs", ".ci", "systemd",
                    "initramfs", "dbus-interfaces")
"""Where every file of ours carries its licence."""


@dataclass(frozen=True)
class Import:
    module: Path
    line: int
    name: str
    """Absolute dotted name; for `from x import y`, x.y where that is a module of ours, else x."""
    names: tuple[str, ...] = ()
    lazy: bool = False
    """Not at the top of the module, so no cycle when it is imported."""
    typing: bool = False
    """Under TYPE_CHECKING: never happens when the program runs."""

    def __str__(self) -> str:
        return f"{self.module.relative_to(ROOT)}:{self.line} imports {self.name}"


@cache
def modules() -> tuple[Path, ...]:
    return tuple(sorted(PACKAGE.rglob("*.py")))


@cache
def parsed(module: Path) -> ast.Module:
    return ast.parse(module.read_text(), str(module))


def dotted(module: Path) -> str:
    parts = module.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name: str) -> str:
    """The room of a dotted name: bootcd.formats.tar → formats."""
    return name.split(".")[1] if "." in name else ""


def row(name: str) -> int:
    return next((number for number, rooms in enumerate(ROWS) if room(name) in rooms), -1)


@cache
def imports(module: Path) -> tuple[Import, ...]:
    return tuple(_imports(module))


def _imports(module: Path) -> Iterator[Import]:
    package = dotted(module) if module.name == "__init__.py" else dotted(module).rpartition(".")[0]
    ours = {dotted(other) for other in modules()}
    tree = parsed(module)
    top = {id(node) for node in ast.walk(tree) if node in tree.body}
    typing = {id(inner) for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
              for inner in ast.walk(node)}
    for node in ast.walk(tree):
        when = (id(node) not in top, id(node) in typing)
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, node.lineno, alias.name, (), *when)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            plain = tuple(alias.name for alias in node.names if f"{base}.{alias.name}" not in ours)
            for alias in node.names:
                if f"{base}.{alias.name}" in ours:
                    yield Import(module, node.lineno, f"{base}.{alias.name}", (), *when)
            if plain:
                yield Import(module, node.lineno, base, plain, *when)


def every_import() -> Iterator[Import]:
    for module in modules():
        yield from imports(module)


def inside(module: Path, places: tuple[str, ...]) -> bool:
    name = module.relative_to(PACKAGE).as_posix()
    return any(name == place or (place.endswith("/") and name.startswith(place)) for place in places)


def test_every_module_has_a_row() -> None:
    homeless = [dotted(module) for module in modules() if row(dotted(module)) < 0 and dotted(module) != "bootcd"]
    assert not homeless, f"no room of the house: {homeless}"


def test_imports_point_down() -> None:
    wrong = []
    for found in every_import():
        if not found.name.startswith("bootcd.") or dotted(found.module) == "bootcd":
            continue
        here = dotted(found.module)
        if room(found.name) != room(here) and row(found.name) >= row(here):
            wrong.append(str(found))
    assert not wrong, "imports that do not point down:\n" + "\n".join(wrong)


def test_no_import_cycles() -> None:
    graph = {dotted(module): {found.name for found in imports(module) if found.name.startswith("bootcd.")
                              and not found.lazy and found.name != dotted(module)} for module in modules()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, "import cycle: " + " → ".join([*path[path.index(name):], name])
        if name not in done:
            for target in sorted(graph.get(name, ())):
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_doors() -> None:
    wrong = [str(found) for found in every_import() for name, places in DOORS.items()
             if (found.name == name or found.name.startswith(name + ".")) and not inside(found.module, places)]
    assert not wrong, "imports through a wall:\n" + "\n".join(wrong)


def test_formats_are_pure() -> None:
    harmless = {"fsencode", "fsdecode", "makedev", "major", "minor", "path"}
    wrong = [str(found) for found in every_import()
             if inside(found.module, ("formats/",)) and found.name.split(".")[0] in PURE
             and not (found.name == "os" and found.names and set(found.names) <= harmless)]
    wrong += [f"{module.relative_to(ROOT)}:{node.lineno} calls open()" for module in modules()
              if inside(module, ("formats/",)) for node in ast.walk(parsed(module))
              if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"]
    assert not wrong, "formats take bytes and give values:\n" + "\n".join(wrong)


def test_only_cli_prints() -> None:
    wrong = [f"{module.relative_to(ROOT)}:{node.lineno}" for module in modules() if not inside(module, ("cli/",))
             for node in ast.walk(parsed(module))
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "input")]
    assert not wrong, f"print or input outside cli/: {wrong}"


def test_programs_are_started_by_one_module() -> None:
    starters = {"system", "popen", "fork", "forkpty", "posix_spawn", "posix_spawnp"}
    wrong = [f"{module.relative_to(ROOT)}:{node.lineno} os.{node.attr}" for module in modules()
             if not inside(module, ("linux/",)) for node in ast.walk(parsed(module))
             if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
             and (node.attr in starters or node.attr.startswith(("exec", "spawn")))]
    assert not wrong, wrong


def test_no_star_imports() -> None:
    assert not [str(found) for found in every_import() if "*" in found.names]


def test_foreign_packages_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["terminal"]
    declared = {requirement.split(">")[0].split(";")[0].strip() for requirement in wanted}
    declared |= {"bootcd", "_bootcd_fsverity"}
    declared |= {name for name, package in IMPORT_NAMES.items() if package in declared}
    declared |= {"urllib3"}  # comes with requests, which hands out its exceptions
    foreign = {found.name.split(".")[0] for found in every_import() if not found.typing} - sys.stdlib_module_names
    assert foreign <= declared, f"imported but not in pyproject.toml: {foreign - declared}"


@pytest.mark.parametrize("module", modules(), ids=dotted)
def test_module(module: Path) -> None:
    lines = module.read_text().splitlines()
    assert len(lines) < MAX_LINES, f"{len(lines)} lines: time to split it"
    assert lines, "lacks its SPDX line"
    assert not parsed(module).body or ast.get_docstring(parsed(module)), "lacks a docstring that says what it is for"
    if any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in parsed(module).body):
        assert "from __future__ import annotations" in lines


def test_licence_line() -> None:
    files = [path for place in REPOSITORY_FILES for path in (ROOT / place).rglob("*")
             if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")]
    files += [ROOT / name for name in ("Makefile", "meson.build", "meson.options", "pyproject.toml")]
    ours = {".py", ".c", ".h", ".sh", ".build", ".options", ".toml", ".bash", ".zsh", ".fish", ".1", ".5", ".7", ".8"}
    lacking = [str(path.relative_to(ROOT)) for path in files if (path.suffix in ours or not path.suffix)
               and not _is_data(path) and b"SPDX-License-Identifier: Apache-2.0" not in path.read_bytes()[:400]]
    assert not lacking, f"no SPDX line: {lacking}"


def _is_data(path: Path) -> bool:
    """Test data: files that are input and not ours to write on."""
    return bool({"data", "image"} & set(path.relative_to(ROOT).parts[1:]))


def test_error_table() -> None:
    found = errors.all_errors()
    names = [cls.__name__ for cls in found]
    assert len(set(names)) == len(names)
    assert len({cls.bus_name() for cls in found}) == len(found)
    families = [cls for cls in errors.BootcdError.__subclasses__() if cls.__module__ == errors.__name__]
    statuses = [errors.BootcdError.exit_status, *(cls.exit_status for cls in families)]
    assert len(set(statuses)) == len(statuses), "two families share an exit status"
    for family in families:
        for cls in family.__subclasses__():
            assert cls.exit_status == family.exit_status, f"{cls.__name__} leaves the status of its family"
    assert errors.__doc__ is not None
    missing = [name for name in names if name not in errors.__doc__]
    assert not missing, f"not in the table of errors.py: {missing}"
    for cls in found:
        assert cls.__doc__, f"{cls.__name__} says nothing"
