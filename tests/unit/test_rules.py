# SPDX-License-Identifier: Apache-2.0
"""The rules of CONTRIBUTING.md that no linter knows, for the Python sources."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "python" / "innkeeper"

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

# The drawing in ARCHITECTURE.md, "Layers": imports point to a lower number only.
MIDDLE = [
    "agent",
    "containers",
    "disks",
    "early",
    "hypervisors",
    "images",
    "networks",
    "regions",
    "registry",
    "shares",
    "switchboard",
]
LAYERS = {
    "__main__": 6,
    "testing": 6,
    "api": 5,
    "cli": 5,
    "ssh": 4,
    "keeper": 3,
    **dict.fromkeys(MIDDLE, 2),
    "system": 1,
    "model": 0,
    "errors": 0,
    "rings": 0,
    "_version": 0,
}
# Within the lowest row: a value that makes no sense says so with an error.
ALSO_ALLOWED = {("model", "errors")}
# Files that are copied into guests, where there is nothing else of this package: they
# make their own sockets, and import nothing of it.
STANDALONE = {"rings"}
# The native module is wrapped by the package that owns the device; the checks of the
# host, which live beside the keeper, try to load it.
NATIVE_USERS = {"keeper", "switchboard"}

SYSTEM_ONLY_MODULES = frozenset(
    [
        "ctypes",
        "fcntl",
        "multiprocessing",
        "pty",
        "resource",
        "select",
        "selectors",
        "socket",
        "subprocess",
        "termios",
        "tty",
    ]
)
SYSTEM_ONLY_CALLS = re.compile(
    r"(os\.(fork|forkpty|exec\w+|spawn\w+|posix_spawnp?|system|popen|kill|killpg|pipe2?|pidfd_open)"
    r"|signal\.pidfd_send_signal|asyncio\.create_subprocess_\w+)$"
)
VAGUE_NAMES = frozenset(
    ["common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"]
)


# Where the time of day is meant: it is written down, shown, or compared with a file's.
WALL_CLOCK = {
    "innkeeper.agent.announce": "the guest's clock",
    "innkeeper.agent.control": "the guest's clock",
    "innkeeper.api.machine": "a record's time",
    "innkeeper.cli.logs": "--since",
    "innkeeper.cli.ls": "how long ago",
    "innkeeper.cli.sessions": "how long ago",
    "innkeeper.disks.store": "a disk's age",
    "innkeeper.images.store": "ages of files",
    "innkeeper.keeper.console": "a log's time",
    "innkeeper.keeper.guestlog": "a log's time",
    "innkeeper.keeper.lifecycle": "a record's time",
    "innkeeper.keeper.logs": "a log's time",
    "innkeeper.keeper.audit": "a log's time",
    "innkeeper.registry.machines": "a record's time",
    "innkeeper.registry.names": "a record's time",
    "innkeeper.system.clock": "changes of the clock",
}


@dataclass(frozen=True)
class Source:
    """A Python file and its syntax tree."""

    path: Path
    text: str
    tree: ast.Module

    def at(self, node: ast.AST, what: str) -> str:
        return f"{self.path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}: {what}"

    @property
    def module(self) -> str:
        """The dotted name, for a file of the package."""
        parts = self.path.relative_to(PACKAGE.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def part(self) -> str:
        """The file's folder or module right below innkeeper, as in LAYERS."""
        return [*self.module.split("."), ""][1]


def _is_generated(path: Path) -> bool:
    return path.parent.name == "pb" and "_pb2" in path.name


@cache
def sources() -> tuple[Source, ...]:
    """All Python files written by hand."""
    found = []
    for folder in ("python", "tests", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not _is_generated(path):
                text = path.read_text()
                found.append(Source(path, text, ast.parse(text, str(path))))
    return tuple(found)


@cache
def package_sources() -> tuple[Source, ...]:
    return tuple(source for source in sources() if PACKAGE in source.path.parents)


def check(violations: list[str]) -> None:
    if violations:
        pytest.fail("\n".join(violations), pytrace=False)


def _functions(source: Source) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _imports(tree: ast.AST, *, for_types: bool) -> Iterator[tuple[ast.stmt, str]]:
    """Every imported dotted name, also in functions; `for_types`: TYPE_CHECKING blocks too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)
        elif for_types or not _is_type_checking(node):
            yield from _imports(node, for_types=for_types)


def test_imports_point_down() -> None:
    violations = []
    for source in package_sources():
        if source.part == "":
            continue
        if source.part not in LAYERS:
            violations.append(source.at(source.tree, f"{source.part} is not in the drawing"))
            continue
        for node, name in _imports(source.tree, for_types=True):
            if not name.startswith("innkeeper."):
                continue
            target = name.split(".")[1]
            if target == "_core":
                allowed = source.part in NATIVE_USERS
            else:
                # Names of the package itself, such as __version__, are the lowest layer.
                allowed = (
                    target == source.part
                    or (source.part, target) in ALSO_ALLOWED
                    or LAYERS.get(target, 0) < LAYERS[source.part]
                )
            if not allowed:
                violations.append(source.at(node, f"{source.part} must not import {target}"))
    check(violations)


def test_what_is_copied_into_guests_needs_the_standard_library_alone() -> None:
    check(
        [
            source.at(node, f"{name} is not there in a guest")
            for source in package_sources()
            if source.part in STANDALONE
            for node, name in _imports(source.tree, for_types=True)
            if name.split(".")[0] not in {"__future__", *sys.stdlib_module_names}
        ]
    )


def test_there_are_no_import_cycles() -> None:
    modules = {source.module: source for source in package_sources()}
    graph: dict[str, set[str]] = {}
    for name, source in modules.items():
        targets = (target for _, target in _imports(source.tree, for_types=False))
        # `from a.b import c`: c is a module, or a name in the module a.b.
        known = (t if t in modules else t.rpartition(".")[0] for t in targets)
        graph[name] = {target for target in known if target in modules and target != name}

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(graph[start])
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo.extend(graph[name])
        return seen

    check([f"{name} imports itself over others" for name in graph if name in reachable(name)])


def test_only_system_touches_processes_and_descriptors() -> None:
    violations = []
    for source in package_sources():
        if source.part in {"system", *STANDALONE}:
            continue
        for node, name in _imports(source.tree, for_types=True):
            if name.split(".")[0] in SYSTEM_ONLY_MODULES or SYSTEM_ONLY_CALLS.match(name):
                violations.append(source.at(node, f"{name} belongs in innkeeper.system"))
        violations += [
            source.at(node, f"{ast.unparse(node)} belongs in innkeeper.system")
            for node in ast.walk(source.tree)
            if isinstance(node, ast.Attribute) and SYSTEM_ONLY_CALLS.match(ast.unparse(node))
        ]
    check(violations)


def test_no_file_is_too_long() -> None:
    check(
        [
            f"{source.path.relative_to(ROOT)}: {lines} lines, at most {MAX_FILE_LINES}"
            for source in sources()
            if (lines := source.text.count("\n")) > MAX_FILE_LINES
        ]
    )


def test_no_function_is_too_long() -> None:
    violations = []
    for source in sources():
        for node in _functions(source):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                documentation = node.body[0]
                lines -= (documentation.end_lineno or 0) - documentation.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                violations.append(source.at(node, f"{node.name} has {lines} lines"))
    check(violations)


def test_names_say_something() -> None:
    violations = []
    for source in sources():
        words = re.split(r"[_.]", ".".join(source.path.relative_to(ROOT).with_suffix("").parts))
        if vague := VAGUE_NAMES.intersection(words):
            violations.append(f"{source.path.relative_to(ROOT)}: {min(vague)} says nothing")
    check(violations)


def test_every_module_says_what_it_is_for() -> None:
    check(
        [
            source.at(source.tree, "no module docstring")
            for source in sources()
            if source.tree.body and ast.get_docstring(source.tree) is None
        ]
    )


def test_every_function_says_what_it_returns() -> None:
    check(
        [
            source.at(node, f"{node.name} has no return annotation")
            for source in sources()
            for node in _functions(source)
            if node.returns is None
        ]
    )


def test_broad_excepts_give_their_reason_on_the_line() -> None:
    violations = []
    for source in sources():
        lines = source.text.splitlines()
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = "" if node.type is None else ast.unparse(node.type)
            broad = node.type is None or re.search(r"\b(Base)?Exception\b", caught)
            # One that cleans up and raises again swallows nothing.
            raises_again = isinstance(last := node.body[-1], ast.Raise) and last.exc is None
            if broad and not raises_again and "#" not in lines[node.lineno - 1]:
                violations.append(source.at(node, "a broad except needs its reason on the line"))
    check(violations)


def test_there_are_no_shell_strings() -> None:
    check(
        [
            source.at(node, "shell=True")
            for source in sources()
            for node in ast.walk(source.tree)
            if isinstance(node, ast.keyword)
            and node.arg == "shell"
            and not (isinstance(node.value, ast.Constant) and node.value.value is False)
        ]
    )


def test_waits_use_the_monotonic_clock() -> None:
    found = set()
    violations = []
    for source in package_sources():
        for node in ast.walk(source.tree):
            called = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if called in ("time.time", "time.time_ns", "datetime.now", "datetime.datetime.now"):
                found.add(source.module)
                if source.module not in WALL_CLOCK:
                    violations.append(source.at(node, f"{called} jumps; time.monotonic() does not"))
            if isinstance(node, ast.BinOp | ast.Compare) and "time.time()" in ast.unparse(node):
                told = ast.unparse(node)
                if "timeout" in told or "deadline" in told:
                    violations.append(source.at(node, f"{told}: a clock that jumps"))
    check(
        violations
        + [f"{module}: in WALL_CLOCK for nothing" for module in WALL_CLOCK.keys() - found]
    )
