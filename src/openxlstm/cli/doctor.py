"""`openxlstm doctor`: what works on this machine, what is missing, and a self-test of the backends against the definition."""

import importlib.util
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import openxlstm.ops
from openxlstm import __version__
from openxlstm.cli.arguments import VerbParser
from openxlstm.cli.extras import OPTIONAL
from openxlstm.ops import gpu, native
from openxlstm.ops.state import leaves

TOLERANCE = {"cpu": 1e-4, "cuda": 5e-3}
"""Largest error of float32 results and gradients over the largest true value, by kind of device. Rounding over the 33 steps
of the test gives about 1e-6 on a CPU and, with TF32 products, up to 1e-3 on a GPU; wrong code is off by 1e-2 or more."""


def parser() -> VerbParser:
    """The options of the verb."""
    p = VerbParser(
        "doctor",
        "Show versions, hardware, the backends of each operation and which one is used here, optional packages and what each "
        "gives.\nThe self-test computes each operation, forward and backward, with every backend that runs here and compares "
        "it\nwith the step-by-step definition in float64. Exit code 0: usable; 1: the self-test failed.",
        ["openxlstm doctor", "openxlstm doctor --json | python -m json.tool"],
    )
    p.add_argument("--json", action="store_true", help="print everything as one JSON object")
    return p


def run(argv: Sequence[str]) -> int:
    """Run the verb."""
    args = parser().parse_args(argv)
    report = examine()
    print(json.dumps(report, indent=2) if args.json else as_text(report))
    return 0 if report["usable"] else 1


def examine() -> dict[str, Any]:
    """Everything the report says."""
    operations = [examine_operation(name, device) for device in devices() for name in openxlstm.ops.DOORS]
    failed = [
        f"{op['operation']} on {op['device']}, backend {entry['backend']}: {entry['reason']}"
        for op in operations
        for entry in op["backends"]
        if entry["status"] == "wrong"
    ]
    failed += [f"{op['operation']} on {op['device']}: no backend runs" for op in operations if op["auto"] is None]
    return {
        "usable": not failed,
        "failed": failed,
        "versions": versions(),
        "machine": machine(),
        "operations": operations,
        "packages": packages(),
        "folders": folders(),
    }


def versions() -> dict[str, str | None]:
    """This package and what it cannot do without."""
    return {
        "openxlstm": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": installed_version("numpy"),
        "safetensors": installed_version("safetensors"),
    }


def machine() -> dict[str, Any]:
    """Hardware, and what torch makes of it."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            gpus.append(f"{about.name}, {about.total_memory / 2**30:.0f} GiB, compute {about.major}.{about.minor}")
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        memory = None
    return {
        "system": platform.platform(terse=True),
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpus": usable,
        "threads": torch.get_num_threads(),
        "cpu_kernels": native.describe(),
        "gpu_kernels": gpu.describe(),
        "decoding": decoding(),
        "memory_gib": None if memory is None else round(memory, 1),
        "gpus": gpus,
        "no_gpu_because": None if gpus else no_gpu_because(),
    }


def decoding() -> dict[str, str]:
    """How `generate` reads tokens by itself, by kind of device."""
    from openxlstm.inference.graph import SERVED

    ways = {
        "cpu": ("native, one compiled call a token", native.missing()),
        "cuda": (f"graph, one CUDA graph a token, for blocks {', '.join(SERVED)}", no_graph_because()),
    }
    return {device: way if reason is None else f"torch, the model itself: {reason}" for device, (way, reason) in ways.items()}


def no_graph_because() -> str | None:
    """Why no model can be decoded as a CUDA graph here, or None."""
    if gpu.interpreted():
        return "TRITON_INTERPRET is set, which is for tests"
    return gpu.missing()


def cpu_name() -> str:
    """The processor as it calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def no_gpu_because() -> str:
    """Why torch sees no GPU."""
    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch is built for CPUs"
    return f"this torch is built for {'CUDA' if torch.version.cuda else 'ROCm'}, but it finds no GPU or no driver"


def devices() -> list[str]:
    """Where the backends are tried."""
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def examine_operation(name: str, device: str) -> dict[str, Any]:
    """Try every backend of one door; `auto` takes the first that can run."""
    door, make = getattr(openxlstm.ops, name), INPUTS.get(name)
    entries: list[dict[str, Any]] = []
    truth = None if make is None else outputs_and_gradients(door, make(), "cpu", torch.float64, "reference")
    for backend in openxlstm.ops.backends_of(name):
        entry: dict[str, Any] = {"backend": backend.name, "status": "missing", "reason": backend.missing()}
        entries.append(entry)
        if entry["reason"] is not None:
            continue
        entry["status"] = "untested"
        if make is None or truth is None:
            continue
        try:
            start = time.perf_counter()
            found = outputs_and_gradients(door, make(), device, torch.float32, backend.name)
            entry["milliseconds"] = round((time.perf_counter() - start) * 1e3, 1)
        except ValueError as error:
            entry |= {"status": "refuses", "reason": one_line(error).partition("cannot run here: ")[2] or one_line(error)}
        except Exception as error:  # whatever a backend does wrong is what this looks for
            entry |= {"status": "wrong", "reason": f"{type(error).__name__}: {one_line(error)}"}
        else:
            entry["error"] = error_of(found, truth)
            good = entry["error"] <= TOLERANCE[device]  # false for NaN
            entry["status"] = "works" if good else "wrong"
            if not good:
                entry["reason"] = f"differs from the definition by {entry['error']:.1e} (allowed {TOLERANCE[device]:.0e})"
    auto = next((entry["backend"] for entry in entries if entry["status"] not in ("missing", "refuses")), None)
    return {"operation": name, "device": device, "auto": auto, "backends": entries}


def outputs_and_gradients(
    door: Callable[..., Any], inputs: list[Tensor], device: str, dtype: torch.dtype, backend: str
) -> list[Tensor]:
    """Outputs, last state and the gradients of a weighted sum of the outputs, as float64 on the CPU."""
    inputs = [x.to(device=device, dtype=dtype).requires_grad_() for x in inputs]
    found = door(*inputs, backend=backend)
    found = found if isinstance(found, tuple) else (found,)
    total = torch.zeros((), device=device, dtype=torch.float64)
    for y in (x for x in found if isinstance(x, Tensor)):  # and not the states of cells
        total = total + (y * torch.linspace(-1, 1, y.numel(), device=device, dtype=dtype).view(y.shape)).sum()
    gradients = torch.autograd.grad(total, inputs)
    return [x.detach().double().cpu() for x in (*(leaf for part in found for leaf in memory(part)), *gradients)]


def memory(state: Any) -> list[Tensor]:
    """The leaves of a state without the free choice of scale `m`: C, c and n times exp(m)."""
    if not hasattr(state, "m"):
        return leaves(state)
    scale = state.m.double().exp()
    fields = {name: x.double() for name, x in state._asdict().items() if name != "m"}
    return [x if name == "h" else x * scale.reshape(*scale.shape, *[1] * (x.dim() - scale.dim())) for name, x in fields.items()]


def error_of(found: list[Tensor], truth: list[Tensor]) -> float:
    """The largest difference over the largest true value of each tensor; NaN if anything is NaN."""
    errors = [(a - b).abs().max() / b.abs().max().clamp_min(1e-3) for a, b in zip(found, truth, strict=True)]
    return float(torch.stack(errors).max())


def random(*shapes: tuple[int, ...]) -> list[Tensor]:
    """The same standard normal numbers each time."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def mlstm_inputs() -> list[Tensor]:
    """q, k, v, i_pre, f_pre: two chunks and a rest for most chunk lengths."""
    return random((2, 33, 2, 16), (2, 33, 2, 16), (2, 33, 2, 16), (2, 33, 2), (2, 33, 2))


def recurrent_inputs() -> list[Tensor]:
    """gates, R, b of a cell with four gates."""
    gates, R, b = random((2, 33, 4, 2, 16), (2, 16, 4, 16), (4, 2, 16))
    return [gates, R / 4, b]


def layer_inputs() -> list[Tensor]:
    """x, W, R, b of an LSTM of one head, the only kind that torch's own kernel knows."""
    x, W, R, b = random((2, 33, 16), (4, 1, 16, 16), (1, 16, 4, 16), (4, 1, 16))
    return [x, W / 4, R / 4, b]


INPUTS: dict[str, Callable[[], list[Tensor]]] = {
    "mlstm_scan": mlstm_inputs,
    "slstm_scan": recurrent_inputs,
    "lstm_scan": recurrent_inputs,
    "lstm_layer": layer_inputs,
    "causal_conv1d": lambda: random((2, 33, 16), (16, 4), (16,)),
    "gated_activation": lambda: random((2, 33, 32)),
    "head_norm": lambda: random((2, 33, 2, 16), (32,)),
    "qkv_gates": lambda: random((2, 33, 16), (16, 4), (16,), (4, 4, 4), (4, 4, 4), (4, 4, 4), (4, 48), (4,)),
}
"""Arguments for the self-test, by door."""


def packages() -> list[dict[str, Any]]:
    """Optional packages: version or None, the extra that brings each, what it gives."""
    return [
        {"package": entry.module, "version": found(entry.module), "extra": entry.extra, "gives": entry.gives}
        for entry in OPTIONAL
    ]


def found(module: str) -> str | None:
    """The version of an installed package, by its import name, without importing it."""
    try:
        if importlib.util.find_spec(module) is None:
            return None
    except (ImportError, ValueError):  # there is something of that name, and it is broken
        return None
    return installed_version({"yaml": "pyyaml", "PIL": "pillow"}.get(module, module)) or "installed"


def installed_version(distribution: str) -> str | None:
    """The version of a distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def folders() -> list[dict[str, Any]]:
    """Where runs, prepared text and temporary files go, and whether that is possible."""
    from openxlstm.training.run import cache_dir

    places = [("runs", Path("runs")), ("prepared text", cache_dir()), ("temporary files", Path(tempfile.gettempdir()))]
    return [{"what": what, "path": str(path), "problem": write_problem(path)} for what, path in places]


def write_problem(folder: Path) -> str | None:
    """Why nothing can be written below `folder` (or, while it does not exist, where it would be made), or None."""
    try:
        while not folder.exists() and folder != folder.parent:  # which raises below a folder that may not be read
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x" * 4096)
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None


def as_text(report: dict[str, Any]) -> str:
    """The report for a reader."""
    v, m = report["versions"], report["machine"]
    lines = [
        f"openxlstm {v['openxlstm']}   python {v['python']}   torch {v['torch']}   numpy {v['numpy']}   "
        f"safetensors {v['safetensors']}",
        "",
        "machine",
        f"  system   {m['system']}" + (f", {m['memory_gib']} GiB memory" if m["memory_gib"] else ""),
        f"  CPU      {m['cpu']}, {m['cpus']} cores usable, {m['threads']} threads, {m['cpu_capability']}",
        f"  kernels  {m['cpu_kernels']}",
        *(f"  GPU      {gpu}" for gpu in m["gpus"]),
    ]
    if not m["gpus"]:
        lines.append(f"  GPU      none: {m['no_gpu_because']}")
    lines.append(f"  Triton   {m['gpu_kernels']}")
    lines += [f"  decode   on {device}: {how}" for device, how in m["decoding"].items()]
    lines += ["", "backends (* = what 'auto' takes here; error = against the definition in float64, gradients included)"]
    for op in report["operations"]:
        lines.append(f"  {op['operation']} on {op['device']}")
        for entry in op["backends"]:
            star = "*" if entry["backend"] == op["auto"] else " "
            detail = f"error {entry['error']:.0e}" if entry["status"] == "works" else entry["reason"] or ""
            lines.append(f"    {star} {entry['backend']:<10} {entry['status']:<9} {detail}".rstrip())
    lines += ["", "optional packages"]
    for entry in report["packages"]:
        have = entry["version"] or "missing"
        how = "" if entry["version"] else f"   pip install 'openxlstm[{entry['extra']}]'"
        lines.append(f"  {entry['package']:<16} {have:<10} {entry['gives']}{how}")
    lines += ["", "folders"]
    lines += [
        f"  {entry['what']:<16} {entry['path']}: " + (f"not writable: {entry['problem']}" if entry["problem"] else "writable")
        for entry in report["folders"]
    ]
    lines += ["", *(f"FAILED: {failure}" for failure in report["failed"])]
    lines.append("usable: the self-test passed" if report["usable"] else "not usable: the self-test failed")
    return "\n".join(lines)


def one_line(error: BaseException) -> str:
    """The message without line breaks."""
    return " ".join(str(error).split())
