"""The layering of the design and the house rules that a machine can check, with the reason of each."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.source_tree import ROOT, SourceModule, SourceTree

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60

# What the supervisor may load: it stays small, safe to fork from for ever, and free of the app.
SUPERVISOR_MAY_IMPORT = {"billiard", "psutil", "setproctitle"}
SUPERVISOR_MUST_NOT_IMPORT = {"asyncio", "concurrent", "multiprocessing", "threading"}

# Who may import the code that runs in one kind of process only: the code that becomes that process.
PROCESS_ENTRANCES = {
    "prefork.engine.supervisor": {"prefork.engine.supervisor"},
    "prefork.engine.child": {"prefork.engine.child", "prefork.engine.template", "prefork.engine.testing"},
    "prefork.engine.agent": {"prefork.engine.agent", "prefork.engine.template", "prefork.engine.solo"},
    "prefork.engine.template": {"prefork.engine.template"},
    "prefork.engine.cli": {"prefork.engine.cli", "prefork.engine.__main__"},
}

# Function-local imports, each with its reason. Everything else imports at the top.
LOCAL_IMPORTS_ALLOWED = {
    "prefork.engine": "the table of lazy exports: the supervisor would load everything otherwise",
}

# Whole-process state set by a `global` statement, each with its reason.
GLOBALS_ALLOWED: dict[str, str] = {}

UNTELLING_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "simple", "stuff"}
PUBLIC_NAMES_KEPT_FROM_CELERY = {"prefork.engine.utils", "prefork.engine.utils.log"}


@pytest.fixture(scope="module")
def tree() -> SourceTree:
    return SourceTree()


def _under(name: str, *prefixes: str) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


@pytest.mark.parametrize(
    ("layer", "forbidden"),
    [
        ("prefork.transports", ("prefork.engine", "prefork.serializers")),
        ("prefork.serializers", ("prefork.engine", "prefork.transports")),
    ],
)
def test_the_leaves_know_nothing_of_the_engine_nor_of_each_other(
    tree: SourceTree, layer: str, forbidden: tuple[str, ...]
) -> None:
    wrong = [
        f"{module.relative}:{line} imports {target}"
        for module in tree
        if _under(module.name, layer)
        for target, line in tree.targets(module, typing_too=True).items()
        if _under(target, *forbidden)
    ]
    assert wrong == []


def test_one_transport_does_not_import_another(tree: SourceTree) -> None:
    wrong = []
    for module in tree:
        parts = module.name.split(".")
        if parts[1] != "transports" or len(parts) < 4:
            continue
        own = ".".join(parts[:3])
        for target, line in tree.targets(module, typing_too=True).items():
            folder = ".".join(target.split(".")[:3])
            is_transport = f"{folder}.__init__" in tree.modules or any(
                n.startswith(folder + ".") for n in tree.modules
            )
            if target.startswith("prefork.transports.") and folder != own and is_transport:
                wrong.append(f"{module.relative}:{line} imports {target}")
    assert wrong == []


def test_the_supervisor_loads_no_transport_no_task_and_no_user_code(tree: SourceTree) -> None:
    wrong = []
    for target, importer in tree.closure("prefork.engine.supervisor").items():
        top = target.split(".")[0]
        if top == "prefork":
            if _under(target, "prefork.transports", "prefork.serializers", *_other_processes()):
                wrong.append(f"{importer} imports {target}")
        elif top in SUPERVISOR_MUST_NOT_IMPORT or top not in sys.stdlib_module_names | SUPERVISOR_MAY_IMPORT:
            wrong.append(f"{importer} imports {target}")
    assert wrong == []


def _other_processes() -> list[str]:
    return ["prefork.engine.child", "prefork.engine.agent", "prefork.engine.template", "prefork.engine.app"]


@pytest.mark.parametrize("process", sorted(PROCESS_ENTRANCES))
def test_code_of_one_process_is_imported_only_where_that_process_begins(
    tree: SourceTree, process: str
) -> None:
    wrong = [
        f"{module.relative}:{line} imports {target}"
        for module in tree
        if not _under(module.name, *PROCESS_ENTRANCES[process])
        for target, line in tree.targets(module).items()
        if _under(target, process)
    ]
    assert wrong == []


def test_no_module_takes_part_in_an_import_cycle(tree: SourceTree) -> None:
    assert tree.cycles() == []


def test_imports_stand_at_the_top(tree: SourceTree) -> None:
    wrong = [
        f"{module.relative}:{item.line} imports {item.target} inside a function"
        for module in tree
        if module.name not in LOCAL_IMPORTS_ALLOWED
        for item in module.imports
        if item.local
    ]
    assert wrong == []


def test_nobody_imports_a_code_folder_by_its_bare_name(tree: SourceTree) -> None:
    others = [
        SourceModule(p)
        for p in sorted((ROOT / "tests").rglob("*.py")) + sorted((ROOT / "docs").rglob("*.py"))
    ]
    wrong = [
        f"{module.relative}:{item.line} imports {item.target}"
        for module in [*tree, *others]
        for item in module.imports
        if item.target.split(".")[0] in {"engine", "transports", "serializers"}
    ]
    assert wrong == []


def test_the_engine_never_imports_celery(tree: SourceTree) -> None:
    wrong = [
        f"{module.relative}:{item.line}"
        for module in tree
        for item in module.imports
        if item.target.split(".")[0] in {"celery", "django_celery_results"}
    ]
    assert wrong == []


def test_running_code_holds_one_copy_of_each_source_file(tree: SourceTree, tmp_path: Path) -> None:
    entrances = {"prefork.engine.__main__"} | {n for n in tree.modules if n.endswith(".__main__")}
    program = (
        "import importlib, sys, collections\n"
        f"for name in {sorted(set(tree.modules) - entrances)!r}: importlib.import_module(name)\n"
        "files = collections.defaultdict(set)\n"
        "for name, module in list(sys.modules.items()):\n"
        "    file = getattr(module, '__file__', None)\n"
        "    if file and name != '__main__': files[file].add(name)\n"
        "print([sorted(names) for names in files.values() if len(names) > 1 and any(\n"
        "    n.split('.')[0] in ('prefork', 'engine', 'transports', 'serializers') for n in names)])\n"
        "print([n for n in sys.modules if n.split('.')[0] in ('engine', 'transports', 'serializers')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "[]"]


def test_files_are_short(tree: SourceTree) -> None:
    lengths = {m.relative: len(m.text.splitlines()) for m in tree}
    assert {name: count for name, count in lengths.items() if count > FILE_LINES_MAX} == {}


def test_functions_are_short(tree: SourceTree) -> None:
    wrong = []
    for module in tree:
        for node in module.functions():
            first = (
                node.body[1] if ast.get_docstring(node, clean=False) and len(node.body) > 1 else node.body[0]
            )
            length = (node.end_lineno or 0) - first.lineno + 2
            if length > FUNCTION_LINES_MAX:
                wrong.append(f"{module.relative}:{node.lineno} {node.name} has {length} lines")
    assert wrong == []


def test_modules_are_named_by_their_noun(tree: SourceTree) -> None:
    wrong = [
        module.relative
        for module in tree
        if UNTELLING_NAMES & set(module.name.split(".")) and module.name not in PUBLIC_NAMES_KEPT_FROM_CELERY
    ]
    assert wrong == []


def test_nothing_is_left_to_be_done_later(tree: SourceTree) -> None:
    note = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX"]) + r")\b")
    unfinished = re.compile(r"\braise Not" + "Implemented(Error)?\\b")
    files = [m.path for m in tree]
    files += [
        p for folder in ("tests", "docs") for p in (ROOT / folder).rglob("*") if p.suffix in {".py", ".md"}
    ]
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if note.search(line) or unfinished.search(line)
    ]
    assert wrong == []


def test_no_exception_is_dropped_without_a_word(tree: SourceTree) -> None:
    wrong = []
    for module in tree:
        lines = module.text.splitlines()
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            silent = all(isinstance(statement, ast.Pass) for statement in node.body)
            if node.type is None and not any(isinstance(s, ast.Raise) for s in ast.walk(node)):
                wrong.append(f"{module.relative}:{node.lineno} bare except")
            if silent and not any("#" in line for line in lines[node.lineno - 1 : node.end_lineno]):
                wrong.append(f"{module.relative}:{node.lineno} except ...: pass without a reason")
    assert wrong == []


def test_no_module_keeps_state_made_at_import(tree: SourceTree) -> None:
    wrong = []
    for module in tree:
        for node in module.tree.body:
            value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
            empty_literal = (isinstance(value, ast.Dict) and not value.keys) or (
                isinstance(value, ast.List) and not value.elts
            )
            empty_call = (
                isinstance(value, ast.Call)
                and isinstance(value.func, ast.Name)
                and value.func.id
                in {"dict", "list", "set", "deque", "defaultdict", "WeakSet", "WeakValueDictionary"}
                and not value.args
            )
            if empty_literal or empty_call:
                wrong.append(f"{module.relative}:{node.lineno} an empty container waits to be filled")
    assert wrong == []


def test_a_global_statement_has_a_listed_reason(tree: SourceTree) -> None:
    wrong = [
        f"{module.relative}:{node.lineno}"
        for module in tree
        if module.name not in GLOBALS_ALLOWED
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Global)
    ]
    assert wrong == []


def test_there_are_no_metaclasses(tree: SourceTree) -> None:
    wrong = [
        f"{module.relative}:{node.lineno} {node.name}"
        for module in tree
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and any(keyword.arg == "metaclass" for keyword in node.keywords)
    ]
    assert wrong == []


def test_the_clock_is_read_in_one_module_of_the_engine(tree: SourceTree) -> None:
    readers = {
        "time",
        "time_ns",
        "monotonic",
        "monotonic_ns",
        "perf_counter",
        "perf_counter_ns",
        "clock_gettime",
    }
    wrong = [
        f"{module.relative}:{node.lineno} time.{node.attr}"
        for module in tree
        if _under(module.name, "prefork.engine") and module.name != "prefork.engine.clock"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "time"
        and node.attr in readers
    ]
    assert wrong == []
