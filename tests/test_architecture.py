"""Who imports whom: one way, towards the ground, as each package's docstring says."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOREIGN = {"tests", "bench", "docs"}
PROGRAMS = {
    *("train", "test", "interpolate", "suggest_labels", "make_dataset", "check_dataset", "convert_checkpoint"),
    *("compare_results", "demo", "status"),
}
SHARED_PACKAGE = "datasets"  # its sub-packages are packages of their own


def modules():
    """{dotted name: path} of the product's modules."""
    paths = [path.relative_to(ROOT) for path in ROOT.rglob("*.py")]
    paths = [path for path in paths if not path.parts[0].startswith(".") and path.parts[0] not in FOREIGN | {"data", "logs"}]
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): ROOT / path for path in paths}


def imports_of(path, known):
    """Dotted names of the product's modules that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & known if inner & known else {node.module}
    return found & known


def package_of(module):
    """`training` of training.loop, `datasets.meshes` of datasets.meshes.obj; a module at the root is its own."""
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] == SHARED_PACKAGE else 1])


MODULES = modules()
GRAPH = {name: imports_of(path, MODULES.keys()) for name, path in MODULES.items()}
PACKAGES = sorted({name for name, path in MODULES.items() if path.name == "__init__.py"} - {SHARED_PACKAGE})


def test_the_graph_is_not_empty():
    assert {"dataio", "rendering.renderer"} <= GRAPH["training.watch"] | GRAPH["test"] and len(PACKAGES) >= 9


def test_no_cycle_among_modules():
    list(graphlib.TopologicalSorter(GRAPH).static_order())  # raises CycleError, which names the cycle


def test_no_cycle_among_packages():
    between = {}
    for name, imported in GRAPH.items():
        between.setdefault(package_of(name), set()).update(package_of(other) for other in imported)
    between = {package: others - {package} for package, others in between.items()}
    list(graphlib.TopologicalSorter(between).static_order())


def test_nothing_imports_a_program():
    assert {name: imported & PROGRAMS for name, imported in GRAPH.items() if imported & PROGRAMS} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_what_its_docstring_says(package):
    doc = ast.get_docstring(ast.parse(MODULES[package].read_text()))
    allowed = re.search(r"May import:? ([\w., \n]+)\.\s*$", doc)
    assert allowed, f"{package}/__init__.py: expected a last sentence `May import: a, b, c.`"
    allowed = {name.strip() for name in re.split(r",|\n", allowed[1]) if name.strip()}
    members = [name for name in GRAPH if package_of(name) == package and name != package]
    found = {package_of(other) for name in members for other in GRAPH[name]} - {package}
    assert found <= allowed, f"{package} imports {sorted(found - allowed)} as well"
    assert allowed <= found, f"{package} does not import {sorted(allowed - found)}"


def test_an_init_holds_a_docstring_and_nothing_else():
    for package in [*PACKAGES, SHARED_PACKAGE]:
        body = ast.parse(MODULES[package].read_text()).body
        assert len(body) == 1 and isinstance(body[0], ast.Expr), package


def test_torch_has_the_only_global_generator_that_is_used():
    """It is the one that train.py seeds; other random numbers come from generators with seeds of their own."""
    others = re.compile(r"^import random\b|np\.random\.(?!default_rng|Generator|Philox|SeedSequence)", re.MULTILINE)
    assert [name for name, path in MODULES.items() if others.search(path.read_text())] == []


def test_the_root_is_small():
    programs_to_come = 5
    assert len([name for name in MODULES if "." not in name and MODULES[name].parent == ROOT]) <= 20 + programs_to_come


@pytest.mark.parametrize("name", sorted(MODULES))
def test_modules_and_functions_stay_short(name):
    text = MODULES[name].read_text()
    assert len(text.splitlines()) <= 320
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    long = {node.name: node.end_lineno - node.lineno + 1 for node in functions if node.end_lineno - node.lineno >= 60}
    assert not long
