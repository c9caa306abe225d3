"""Kernels compiled for GPUs that are not here: what a launch would be on the device, and what the compiler made of it.

    with gpu.recording() as launches:
        run_something(...)
    for launch in launches:
        found = compile_ahead(launch, 90)
        assert found.spills == 0

The launch's own arguments give types, alignment and constants, so that what is compiled is what the device would run. Triton
must be installed and not interpreted; kernels and arguments may be on the CPU.
"""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openxlstm.ops.gpu import Launch

SHARED_LIMIT = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10}
"""Bytes of shared memory that one program may have, by compute capability."""

MATRIX = ("HMMA", "HGMMA", "UTCHMMA", "UTCQMMA", "UTCMMA")
ASYNCHRONOUS = ("LDGSTS", "UTMALDG", "UBLKCP")
SPILLS = ("STL", "LDL")


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of one kernel."""

    name: str
    registers: int  # a thread
    shared: int  # bytes a program
    instructions: Counter[str]  # of the machine code, by opcode without its modifiers
    overwritten: tuple[str, ...]  # buffers of shared memory that products may read too late, see `_overwritten`

    def count(self, opcodes: tuple[str, ...]) -> int:
        """How many instructions with one of these opcodes there are."""
        return sum(self.instructions[name] for name in opcodes)

    @property
    def spills(self) -> int:
        """Instructions that move registers to local memory and back."""
        return self.count(SPILLS)

    @property
    def matrix(self) -> int:
        """Matrix instructions."""
        return self.count(MATRIX)

    @property
    def asynchronous(self) -> int:
        """Asynchronous copies from global to shared memory."""
        return self.count(ASYNCHRONOUS)


def specialization(launch: Launch, capability: int) -> tuple[Any, ...]:
    """What Triton compiles a kernel for: two launches with equal ones share a binary, others compile anew."""
    bound, types, options, _ = _bind(launch, capability)
    constants = {name: bound[name] for name, kind in zip(bound, types) if kind[0] == "constexpr"}
    return launch.kernel.__name__, tuple(map(str, types)), tuple(constants.items()), tuple(sorted(options.items()))


def compile_ahead(launch: Launch, capability: int) -> Compiled:
    """Compile the kernel of a launch for an NVIDIA GPU of this compute capability and read the machine code."""
    import triton

    bound, types, options, backend = _bind(launch, capability)
    kernel = launch.kernel
    options, signature, constants, attributes = kernel._pack_args(backend, dict(launch.options), bound, types, options)
    source = triton.compiler.ASTSource(kernel, signature, constants, attributes)
    found = triton.compile(source, target=_target(capability), options=options.__dict__)
    registers, instructions = _read(found.asm["cubin"])
    return Compiled(kernel.__name__, registers, found.metadata.shared, instructions, _overwritten(found.asm["ttgir"]))


def _target(capability: int) -> Any:
    from triton.backends.compiler import GPUTarget

    return GPUTarget("cuda", capability, 32)


def _bind(launch: Launch, capability: int) -> tuple[Any, Any, Any, Any]:
    """The steps of JITFunction.run between the call and the compiler, which otherwise need a device."""
    from triton.compiler.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    kernel, backend = launch.kernel, make_backend(_target(capability))
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, types, options = bind(*launch.args, **launch.options, debug=False)
    return bound, types, options, backend


def _read(cubin: bytes) -> tuple[int, Counter[str]]:
    """Registers a thread and instructions by opcode."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage, code = (_cuobjdump(option, path) for option in ("-res-usage", "-sass"))
    registers = re.search(r"REG:(\d+)", usage)
    assert registers, usage
    # "        /*0010*/                   @!P0 HGMMA.64x128x16.F32.BF16 R24, ... ;"
    opcodes = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", code, re.MULTILINE)
    assert opcodes, "no machine code"
    return int(registers[1]), Counter(opcodes)


def _overwritten(code: str) -> tuple[str, ...]:
    """Buffers that are the operand of a product which runs on into later iterations of its loop, and that other code reads too.

    Of such a buffer Triton (3.6 and 3.7, Hopper) keeps as many copies as the other code needs, one fewer than the product does:
    with more iterations than stages the product reads what was loaded for a later one. Found on an H100, where the result was
    wrong by half and no tool on a CPU had shown anything. `code` is the compiler's TTGIR, whose loops are indented.
    """
    found: list[str] = []
    base: dict[str, str] = {}  # of a view, the buffer
    loops: list[tuple[int, set[str], set[str]]] = []  # of each that is open: its depth, what is read, what running products use
    for line in code.splitlines():
        depth = len(line) - len(line.lstrip())
        while loops and depth <= loops[-1][0]:
            _, read, used = loops.pop()
            found += sorted(read & used)
        if view := re.match(r"\s*(%\S+) = ttg\.memdesc_\w+ (%\w+)", line):
            base[view[1]] = base.get(view[2], view[2])
        if "scf.for" in line:
            loops.append((depth, set(), set()))
        elif loops and (load := re.search(r"ttg\.local_load (%\w+)", line)):
            loops[-1][1].add(base.get(load[1], load[1]))
        elif loops and (wait := re.search(r"warp_group_dot_wait (.*?) \{pendings = [1-9]", line)):
            loops[-1][2].update(base[name] for name in re.findall(r"%\w+", wait[1]) if name in base)
    return tuple(found)


def _cuobjdump(option: str, path: Path) -> str:
    from triton import knobs

    return subprocess.run([knobs.nvidia.cuobjdump.path, option, str(path)], capture_output=True, text=True, check=True).stdout
