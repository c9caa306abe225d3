"""Who imports whom (docs/architecture.md), and that `import openxlstm` stays quick and light."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "openxlstm"
SHARED = {"errors", "files"}  # top-level modules that anything may use, and the package's own __version__

COMPUTES = {"ops", "layers", "models"}
MAY_IMPORT = {
    "errors": set(),
    "files": set(),
    "ops": set(),
    "layers": {"ops"},
    "nn": COMPUTES,
    "models": {"ops", "layers"},
    "data": set(),
    "tasks": {"data"},
    "testing": {"ops"},
    "inference": COMPUTES | {"data"},  # a prompt needs the tokenizer
    "training": COMPUTES | {"data", "tasks", "inference"},
    "forecasting": COMPUTES | {"data", "training"},
    "detection": COMPUTES | {"data", "training", "forecasting"},
    "recipes": COMPUTES | {"data", "tasks", "training", "forecasting", "detection"},
    "experiments": COMPUTES | {"data", "tasks", "inference", "training", "recipes"},
    "export": COMPUTES | {"inference", "data"},
    "serving": COMPUTES | {"inference", "data"},
    "integrations": COMPUTES | {"inference", "data"},
}
EVERYTHING = {*MAY_IMPORT, "cli"}
MAY_IMPORT["cli"] = MAY_IMPORT["__main__"] = EVERYTHING
MAY_IMPORT["__init__"] = {"models", "nn", "ops"}  # lazy exports

CORE_PACKAGES = {"torch", "numpy", "safetensors"}  # what may be imported where a file begins
# fmt: off
HEAVY = (
    "lightning", "lightning_fabric", "pytorch_lightning", "jsonargparse", "tensorboard", "rich", "tokenizers",
    "transformers", "datasets", "matplotlib", "PIL", "pandas", "pyarrow", "yaml", "huggingface_hub", "triton", "onnx",
    "onnxruntime", "symusic", "lm_eval", "fastapi", "scipy", "sklearn", "torch.utils.tensorboard", "torch._dynamo",
    "torch._inductor", "torch.distributed.fsdp",
)
# fmt: on


def files():
    return sorted(SOURCE.rglob("*.py"))


def part_of(path):
    """The folder below the package (ops, layers, ...) or the top-level module's name."""
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path):
    """(dotted name, True where the file runs it when imported), for every import in a file, those in functions too."""
    tree = ast.parse(path.read_text())
    package = ["openxlstm", *path.relative_to(SOURCE).parent.parts]
    inside = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            inside |= {id(child) for child in ast.walk(node)}
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            inside |= {id(child) for child in ast.walk(node)}
    for node in ast.walk(tree):
        at_import = id(node) not in inside
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            if name == "openxlstm":  # from openxlstm import ops
                yield from ((f"openxlstm.{alias.name}", at_import) for alias in node.names)
            else:
                yield name, at_import


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_who_imports_whom(path):
    part = part_of(path)
    assert part in MAY_IMPORT, f"{part} has no place in the plan of docs/architecture.md"
    for name, _ in imports(path):
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if top != "openxlstm" or not target or target == part or target in SHARED or target == "__version__":
            continue
        if target not in EVERYTHING:  # `from openxlstm import LanguageModel`: a lazy export of the package
            target = "models"
        assert target in MAY_IMPORT[part], f"{path.name} imports {name}: {part} may not import {target}"


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_begin_with_core_packages_only(path):
    allowed = CORE_PACKAGES | set(sys.stdlib_module_names) | {"openxlstm"}
    allowed |= {"triton"} if path.name == "triton.py" else set()  # such a file is itself imported inside a function, which
    allowed |= {"lightning"} if part_of(path) == "training" else set()  # test_imports_are_light_and_quick holds it to
    for name, at_import in imports(path):
        assert not at_import or name.partition(".")[0] in allowed, f"{path.name}: import {name} belongs into a function"


@pytest.mark.parametrize("part", sorted(COMPUTES))
def test_what_computes_needs_the_core_packages_only(part):
    optional = {"huggingface_hub", "yaml"} if part == "models" else {"triton"} if part == "ops" else set()
    allowed = CORE_PACKAGES | set(sys.stdlib_module_names) | {"openxlstm"} | optional
    for path in (SOURCE / part).rglob("*.py"):
        for name, _ in imports(path):
            assert name.partition(".")[0] in allowed, f"{path.relative_to(SOURCE)} imports {name}"


def test_there_is_no_utils():
    assert [path for path in files() if path.stem in ("utils", "helpers", "misc", "common")] == []


PROBE = """
import json, sys, time
start = time.perf_counter()
import torch
between = time.perf_counter()
before = set(sys.modules)
{statement}
end = time.perf_counter()
print(json.dumps([sorted(set(sys.modules) - before), between - start, end - between]))
"""


def probe(statement):
    env = os.environ | {"PYTHONPATH": str(SOURCE.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROBE.format(statement=statement)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # quiet
    added, torch_seconds, seconds = json.loads(done.stdout.splitlines()[-1])
    return added, torch_seconds, seconds


@pytest.mark.parametrize(
    "statement",
    [
        "import openxlstm",
        "from openxlstm import LanguageModel; import openxlstm.ops, openxlstm.layers, openxlstm.nn, openxlstm.inference",
        "import openxlstm.cli.generate, openxlstm.cli.doctor, openxlstm.training",
    ],
)
def test_imports_are_light_and_quick(statement):
    added, torch_seconds, seconds = probe(statement)
    heavy = [name for name in added if any(name == h or name.startswith(f"{h}.") for h in HEAVY)]
    assert not heavy
    # The promise is 0.5 s on top of torch. A busy machine slows both, so the bound grows with what torch itself took.
    assert seconds < max(0.5, torch_seconds), f"{statement}: {seconds:.2f} s on top of {torch_seconds:.2f} s for torch"
