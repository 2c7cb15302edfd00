"""The house rules that a reader relies on: who imports whom, and how long things may get."""

import ast
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "steerec"
# docs/architecture.md has the same table; each row imports only rows above it and its own folder.
ROWS = (
    ("contracts", "errors", "version"),
    ("client", "kernels"),
    ("data", "store"),
    ("encoders", "heads", "tuning", "instructions", "evaluation", "simulation"),
    ("engine",),
    ("config",),
    ("service", "dashboard"),
    ("cli",),
    ("__init__", "__main__"),
)
ROW = {name: number for number, row in enumerate(ROWS) for name in row}
# Third party: where it may be imported at all.
HOMES = {
    **dict.fromkeys(("fastapi", "starlette", "uvicorn"), ("service", "dashboard")),
    **dict.fromkeys(("typer", "click", "argparse"), ("cli",)),
    **dict.fromkeys(("torch", "sentence_transformers", "transformers"), ("encoders", "heads")),
    "matplotlib": ("evaluation",),
    "numba": ("kernels",),
    "alembic": ("store",),
    "optuna": ("engine",),
    **dict.fromkeys(("redis", "aiokafka", "opentelemetry"), ("service",)),
}
SLOW = {"torch", "sentence_transformers", "transformers"}  # only inside functions, but for
NETWORKS = {  # modules of trained heads, which the tables load by name when they are asked for
    f"heads/{name}.py"
    for name in (
        "gru",
        "item_inputs",
        "losses",
        "next_item",
        "reader",
        "sequence",
        "towers",
        "training",
        "two_tower",
    )
}
NO_NAMES = {"utils", "util", "helpers", "common", "core", "manager", "misc"}
MOST_FILE_LINES = 500
MOST_FUNCTION_LINES = 40


def offences(path: PurePosixPath, text: str) -> list[str]:
    """What a file (path below src/steerec) does against the rules, one line each."""
    tree = ast.parse(text)
    found = [*_of_names(path), *_of_lengths(tree, text), *_of_imports(path, tree)]
    return [f"{path}:{line}: {what}" for line, what in sorted(found)]


def _of_names(path: PurePosixPath) -> Iterator[tuple[int, str]]:
    for part in path.with_suffix("").parts:
        if part in NO_NAMES:
            yield 1, f"the name {part!r} says nothing: name what it does"
    if _place(path) not in ROW:
        yield 1, f"{_place(path)!r} has no row in the table of imports: give it one"


def _of_lengths(tree: ast.Module, text: str) -> Iterator[tuple[int, str]]:
    n_lines = len(text.splitlines())
    if n_lines > MOST_FILE_LINES:
        yield 1, f"{n_lines} lines, at most {MOST_FILE_LINES}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            n_lines = _length(node)
            if n_lines > MOST_FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {n_lines} lines, at most {MOST_FUNCTION_LINES}"


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without the docstring."""
    assert function.end_lineno is not None
    n_lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function, clean=False) is None:
        return n_lines
    docstring = function.body[0]
    assert docstring.end_lineno is not None
    return n_lines - (docstring.end_lineno - docstring.lineno + 1)


def _of_imports(path: PurePosixPath, tree: ast.Module) -> Iterator[tuple[int, str]]:
    here = _place(path)
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node, name in _imported(tree):
        top, _, rest = name.partition(".")
        if not top:
            yield node.lineno, "relative import: write the full name"
        elif top == "steerec":
            yield from ((node.lineno, what) for what in _against_rows(here, rest.split(".")[0]))
        elif here not in HOMES.get(top, (here,)):
            yield node.lineno, f"{top} belongs into {' or '.join(HOMES[top])}, not into {here}"
        elif top in SLOW and id(node) not in inside and str(path) not in NETWORKS:
            yield node.lineno, f"{top} is slow to import: import it inside the function"


def _against_rows(here: str, other: str) -> Iterator[str]:
    if not other:
        yield "imports steerec itself, which imports everything: name the module"
    elif other not in ROW:
        yield f"{here} imports {other}, which has no row in the table"
    elif here in ROW and other != here and ROW[other] >= ROW[here]:
        yield f"{here} imports {other}, which stands in row {ROW[other]}, not above {ROW[here]}"


def _imported(tree: ast.Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """Each import with the full name of what it brings; "" for a relative one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield node, ""
        elif isinstance(node, ast.ImportFrom) and node.module == "steerec":
            yield from ((node, f"steerec.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node, str(node.module)


def _place(path: PurePosixPath) -> str:
    """The folder or module directly below src/steerec."""
    return PurePosixPath(path.parts[0]).stem


def test_the_source_keeps_the_rules():
    found = [
        offence
        for file in sorted(SOURCE.rglob("*.py"))
        for offence in offences(
            PurePosixPath(file.relative_to(SOURCE).as_posix()), file.read_text("utf-8")
        )
    ]
    assert not found, f"{len(found)} offences:\n" + "\n".join(found)


LONG = "def long():\n" + "    x = 1\n" * 40
DOCUMENTED = 'def short():\n    """One.\n\n' + "    More.\n" * 40 + '    """\n' + "    x = 1\n" * 30


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("data/x.py", "from steerec.engine.model import fit", "data imports engine, which stands"),
        ("heads/x.py", "from steerec.encoders import load_encoder", "heads imports encoders"),
        ("data/x.py", "import steerec.store.log", "data imports store"),
        ("contracts.py", "from steerec.errors import DataError", "contracts imports errors"),
        ("engine/x.py", "from steerec.config import Settings", "engine imports config"),
        ("engine/x.py", "def f():\n    from steerec.cli import main", "engine imports cli"),
        ("engine/x.py", "from steerec import Recommender", "no row in the table"),
        ("engine/x.py", "import steerec", "imports steerec itself"),
        ("engine/x.py", "from . import model", "relative import"),
        ("engine/x.py", "from ..data import read", "relative import"),
        ("engine/x.py", "import fastapi", "fastapi belongs into service or dashboard"),
        ("engine/x.py", "from typer import echo", "typer belongs into cli"),
        ("data/x.py", "def f():\n    import torch", "torch belongs into encoders or heads"),
        ("heads/x.py", "import torch.nn as nn", "torch is slow to import"),
        ("data/x.py", "import matplotlib.pyplot", "matplotlib belongs into evaluation"),
        ("data/helpers.py", "", "the name 'helpers' says nothing"),
        ("data/core/x.py", "", "the name 'core' says nothing"),
        ("shop/x.py", "", "'shop' has no row"),
        ("data/x.py", LONG, "long has 41 lines, at most 40"),
        ("data/x.py", "async " + LONG, "long has 41 lines, at most 40"),
        ("data/x.py", "class A:\n" + "    x = 1\n" * 500, "501 lines, at most 500"),
    ],
)
def test_each_rule_sees_its_offence(path, text, expected):
    (found,) = offences(PurePosixPath(path), text)
    assert found.startswith(f"{path}:")
    assert expected in found


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("engine/x.py", "from steerec.heads.contract import Head\nfrom steerec.engine import phi"),
        ("engine/x.py", "from steerec.version import __version__"),
        ("heads/x.py", "def f():\n    import torch"),
        ("evaluation/x.py", "def f():\n    from matplotlib import pyplot"),
        ("cli.py", "import typer\nfrom steerec.engine.model import fit"),
        ("__init__.py", "from steerec.version import __version__"),
        ("data/x.py", DOCUMENTED),
        ("data/x.py", "import numpy as np\nfrom collections import abc"),
    ],
)
def test_what_is_allowed_passes(path, text):
    assert offences(PurePosixPath(path), text) == []
