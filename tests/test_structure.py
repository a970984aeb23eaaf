"""The rules of the house: who may import whom, and who may know the command line."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from experiments.settings import Settings, fields_of
from experiments.settings.published import MODELS

ROOT = Path(__file__).parent.parent
COMMANDS = {
    f"experiments.{name}"
    for name in ("train", "distill", "recommend", "export", "reproduce", "build_graph", "launch")
} | {"experiments.sweep.__main__"}
LAYERS = [  # each imports only those before it
    {"sevo_jax"},
    {"models"},
    {"experiments.settings", "experiments.numbers", "experiments.pages"},
    {"experiments.data"},
    {"experiments.run"},
    {"experiments.inputs"},
    {"experiments.evaluation", "experiments.metrics"},
    {"experiments.training"},
    {"experiments.serving"},
    {"experiments.summary"},
    {"experiments.runner"},
    {"experiments.tables"},
    {"experiments.paper"},
    {"experiments.beyond"},
    {"experiments.targets"},
    COMMANDS,
]
COMMAND_LINE = {"experiments.options", "experiments.sweep.arguments"} | COMMANDS
OTHERS_FLAGS = re.compile(r"--(xla_|force-reinstall|no-cache-dir|no-binary)")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {
    name_of(path): ast.parse(path.read_text())
    for package in ("sevo_jax", "models", "experiments")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports_of(tree: ast.Module) -> set[str]:
    """The modules that a file imports, and the names that it imports from them."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "imports are absolute"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer_of(module: str) -> int:
    """The place of a module in `LAYERS`; one that is in none may be imported by all."""
    inside = [
        (len(name), number)
        for number, layer in enumerate(LAYERS)
        for name in layer
        if f"{module}.".startswith(f"{name}.")
    ]
    return max(inside, default=(0, -1))[1]


def test_no_file_imports_a_command():
    commands = {name: imports_of(tree) & COMMANDS for name, tree in TREES.items()}
    assert not {name: found for name, found in commands.items() if found}


def test_imports_point_one_way():
    upward = {
        f"{name} -> {other}"
        for name, tree in TREES.items()
        for other in imports_of(tree) & TREES.keys()
        if layer_of(other) > layer_of(name) >= 0
    }
    assert not upward


def test_only_commands_spell_options():
    documented = ast.Module | ast.ClassDef | ast.FunctionDef
    spelled: set[str] = set()
    for name in TREES.keys() - COMMAND_LINE:
        nodes = list(ast.walk(TREES[name]))
        docstrings = {ast.get_docstring(n, clean=False) for n in nodes if isinstance(n, documented)}
        texts = {str(n.value) for n in nodes if isinstance(n, ast.Constant)} - docstrings
        spelled |= {
            f"{name}: {text}"
            for text in texts
            if re.search(r"(?<![\w-])--[a-z]", OTHERS_FLAGS.sub("", text))
        }
    assert not spelled


def test_options_have_types():
    for name, tree in TREES.items():
        for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
            for arg in function.args.posonlyargs + function.args.args + function.args.kwonlyargs:
                if arg.arg in ("options", "arguments", "settings", "request"):
                    assert ast.unparse(arg.annotation) != "Any", (name, function.name, arg.arg)


def test_each_setting_has_one_class():
    for entry in MODELS.values():
        parts = vars(Settings(entry.settings())).values()
        names = [name for part in parts for name in fields_of(type(part))]
        assert len(names) == len(set(names))
