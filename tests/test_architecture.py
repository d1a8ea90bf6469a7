"""The shape of the code: who may import whom, how large things get, and what is never used."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import jitr_core

ROOT = Path(__file__).parents[1]
PACKAGES = ("jitr_core", "jitr_langchain", "jitr_llamaindex")

SHARED = {
    "types",
    "errors",
    "config",
    "settings",
    "_version",
    "amounts",
    "equivalence",
    "estimate",
    "judge",
    "own",
    "promises",
    "calllog",
    "structured",
    "layout",
    "forms",
    "files",
    "base_models",
    "integration",
    "prices",
    "observe",
    "obstacles",
}
"""Parts that know nothing of the loop; everybody may import them."""

STAGES = {
    "identify",
    "collect",
    "search",
    "students",
    "certify",
    "promote",
    "route",
    "audit",
    "savings",
    "store",
    "vectors",
}
"""Parts of the loop; they meet in the hubs."""

HUBS = {
    "pipeline",
    "present",
    "outlook",
    "policies",
    "background",
    "crowd",
    "serving",
    "drift",
    "holds",
    "probation",
    "memory",
    "questions",
    "freely",
    "diary",
    "earlier",
    "engine",
    "manage",
    "terms",
    "jobs",
    "export",
    "cli",
    "report",
    "demo",
    "doctor",
    "worth",
}
"""Where the stages meet, and what is above."""

ALLOWED = {
    ("search", "students"),  # a search trains students …
    ("search", "collect"),  # … on a data set
    ("store", "identify"),  # the default of the hash that groups examples
}
"""The only imports from stage to stage."""

HEAVY = ("numpy", "scipy", "sklearn", "torch", "transformers", "peft", "onnxruntime", "chromadb", "sqlalchemy")
FRAMEWORKS = ("langchain", "langchain_core", "langgraph", "llama_index", "llama_index_core")


@dataclass(frozen=True)
class Import:
    """One import statement: `module` imports `target`, at the top, in a function or for types only."""

    module: str
    target: str
    where: str


def sources() -> dict[str, Path]:
    """All modules of the packages, by dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = sources()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def targets(module: str, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Dotted names that a statement imports: submodules rather than the package they are taken from."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        parts = module.split(".") if MODULES[module].name == "__init__.py" else module.split(".")[:-1]
        base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
    for alias in node.names:
        yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base


def imports() -> Iterator[Import]:
    def walk(module: str, node: ast.AST, where: str) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inner = where
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                inner = "types"
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and where == "top":
                inner = "function"
            if isinstance(child, ast.Import | ast.ImportFrom):
                yield from (Import(module, target, where) for target in targets(module, child))
            yield from walk(module, child, inner)

    for name, tree in TREES.items():
        yield from walk(name, tree, "top")


IMPORTS = list(imports())


def part(module: str) -> str:
    """The part of jitr_core that a module belongs to; "" for the package itself and for other packages."""
    return module.split(".")[1] if module.startswith("jitr_core.") else ""


def between_parts() -> Iterator[tuple[str, str, Import]]:
    for statement in IMPORTS:
        source, target = part(statement.module), part(statement.target)
        if source and target and source != target:
            yield source, target, statement


def test_every_part_of_the_core_has_its_place():
    assert {part(module) for module in MODULES} - {""} <= SHARED | STAGES | HUBS


def test_what_all_share_knows_nothing_of_the_loop():
    wrong = [statement for source, target, statement in between_parts() if source in SHARED and target not in SHARED]
    assert not wrong


def test_stages_do_not_import_each_other():
    wrong = [
        statement
        for source, target, statement in between_parts()
        if source in STAGES and target not in SHARED and (source, target) not in ALLOWED
    ]
    assert not wrong


def test_imports_have_no_cycle_not_even_in_functions_or_for_types():
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for statement in IMPORTS:
        if statement.target in MODULES:
            graph[statement.module].add(statement.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_the_core_imports_an_integration_only_in_functions_of_the_command_line():
    wrong = [
        statement
        for statement in IMPORTS
        if statement.module.startswith("jitr_core")
        and statement.target.startswith(PACKAGES[1:])
        and not (statement.module.startswith("jitr_core.cli") and statement.where == "function")
    ]
    assert not wrong


def test_only_an_integration_imports_its_framework():
    homes = {"langchain": "jitr_langchain", "langgraph": "jitr_langchain", "llama_index": "jitr_llamaindex"}
    wrong = [
        statement
        for statement in IMPORTS
        for framework, home in homes.items()
        if statement.target.startswith(framework) and not statement.module.startswith(home)
    ]
    assert not wrong


@pytest.mark.parametrize(
    "module", ["jitr_core", "jitr_core.types", "jitr_core.engine", "jitr_core.identify", "jitr_core.cli"]
)
def test_importing_the_core_loads_nothing_heavy(module):
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & set(HEAVY + FRAMEWORKS)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_modules_and_functions_are_short(module):
    source = MODULES[module].read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 400
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1 - len((ast.get_docstring(node) or "").splitlines())
            assert lines <= 60, f"{node.name} has {lines} lines"


def test_nothing_that_runs_code_on_loading_is_used():
    modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
    assert not [statement for statement in IMPORTS if statement.target.split(".")[0] in modules]
    calls = re.compile(r"\b(torch|yaml)\.load\(|(?<![\w.])(eval|exec)\(|allow_pickle=True")
    assert not [name for name, path in MODULES.items() if calls.search(path.read_text(encoding="utf-8"))]


def test_the_public_names_are_listed_in_order_and_are_the_namespace():
    listed = jitr_core.__all__
    assert listed == sorted(listed, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    public = {
        name for name, value in vars(jitr_core).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public | {"__version__"} == set(listed)


def test_the_changelog_begins_with_this_version():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == jitr_core.__version__
