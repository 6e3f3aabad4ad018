"""The sources of the three packages, parsed once, with their imports resolved to module names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("engine", "transports", "serializers")
DISTRIBUTION = "prefork"


@dataclass(frozen=True)
class Import:
    """One imported module name.

    :param target: absolute, ours as ``prefork.engine.x``; for ``from m import n`` both ``m`` and
        ``m.n`` may be meant, so `names` carries the second part.
    :param local: the statement stands inside a function.
    :param typing_only: the statement stands below ``if TYPE_CHECKING:``.
    """

    target: str
    names: tuple[str, ...]
    line: int
    local: bool
    typing_only: bool


class SourceModule:
    """One source file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.relative = path.relative_to(ROOT).as_posix()
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        self.is_package = parts[-1] == "__init__"
        if self.is_package:
            parts.pop()
        self.name = ".".join([DISTRIBUTION, *parts])
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text, filename=str(path))

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Every import statement of the file."""
        return tuple(self._walk(self.tree, local=False, typing_only=False))

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Every function and method, nested ones included."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node

    def _walk(self, node: ast.AST, *, local: bool, typing_only: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, (), child.lineno, local, typing_only)
            elif isinstance(child, ast.ImportFrom):
                names = tuple(alias.name for alias in child.names)
                yield Import(self._absolute(child), names, child.lineno, local, typing_only)
            else:
                inside = local or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                typed = typing_only or (
                    isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                )
                yield from self._walk(child, local=inside, typing_only=typed)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        up = node.level - 1 if self.is_package else node.level
        base = parts[: len(parts) - up]
        return ".".join([*base, node.module] if node.module else base)


class SourceTree:
    """All modules of the three packages by name."""

    def __init__(self, root: Path = ROOT) -> None:
        paths = sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))
        self.modules = {module.name: module for module in map(SourceModule, paths)}

    def packages(self) -> set[str]:
        """Every directory that holds a module, as a dotted package name."""
        below = {".".join([DISTRIBUTION, *m.path.relative_to(ROOT).parent.parts]) for m in self}
        return below | {f"{DISTRIBUTION}.{folder}" for folder in FOLDERS}

    def targets(self, module: SourceModule, *, typing_too: bool = False) -> dict[str, int]:
        """Names of everything a module imports when it is loaded, with a line number each.

        Our own modules come out as modules, whichever way the statement was written.
        """
        found: dict[str, int] = {}
        for item in module.imports:
            if item.local or (item.typing_only and not typing_too):
                continue
            for name in self._resolve(item):
                found.setdefault(name, item.line)
        return found

    def closure(self, prefix: str) -> dict[str, str]:
        """Everything loaded with the modules below `prefix`: name -> the module that imports it."""
        seen: dict[str, str] = {}
        stack = [m for m in self if m.name == prefix or m.name.startswith(prefix + ".")]
        done = {m.name for m in stack}
        while stack:
            module = stack.pop()
            for name in self.targets(module):
                seen.setdefault(name, module.name)
                if name in self.modules and name not in done:
                    done.add(name)
                    stack.append(self.modules[name])
        return seen

    def cycles(self) -> list[list[str]]:
        """Groups of modules that import each other when loaded."""
        graph = {m.name: [t for t in self.targets(m) if t in self.modules and t != m.name] for m in self}
        return [sorted(group) for group in _components(graph) if len(group) > 1]

    def __iter__(self) -> Iterator[SourceModule]:
        return iter(self.modules.values())

    def _resolve(self, item: Import) -> Iterator[str]:
        if not item.names:
            yield item.target
            return
        below = [f"{item.target}.{name}" for name in item.names]
        ours = [name for name in below if name in self.modules]
        yield from ours
        if len(ours) < len(below):
            yield item.target


def _components(graph: dict[str, list[str]]) -> list[list[str]]:
    """Strongly connected components (Kosaraju's two passes, without recursion)."""
    order: list[str] = []
    visited: set[str] = set()
    for start in graph:
        stack = [(start, iter(graph[start]))] if start not in visited else []
        visited.add(start)
        while stack:
            node, edges = stack[-1]
            for follower in edges:
                if follower not in visited:
                    visited.add(follower)
                    stack.append((follower, iter(graph[follower])))
                    break
            else:
                order.append(node)
                stack.pop()
    backwards: dict[str, list[str]] = {node: [] for node in graph}
    for node, followers in graph.items():
        for follower in followers:
            backwards[follower].append(node)
    groups: list[list[str]] = []
    assigned: set[str] = set()
    for node in reversed(order):
        if node in assigned:
            continue
        group, todo = [], [node]
        assigned.add(node)
        while todo:
            current = todo.pop()
            group.append(current)
            fresh = [n for n in backwards[current] if n not in assigned]
            assigned.update(fresh)
            todo.extend(fresh)
        groups.append(group)
    return groups
