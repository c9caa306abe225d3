"""What `gpu.py` measures: each side is a function that hands its cases to a Bench. Imports a competitor where it is run."""

import copy
import importlib.util
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openxlstm import LanguageModel
from openxlstm.models.presets import preset
from openxlstm.ops import mlstm_scan, slstm_scan
from openxlstm.ops.backend import Backend
from openxlstm.ops.mlstm import scan as mlstm

Inputs = list[Tensor]
ALLOWED = 0.03  # |out - truth| / |truth| of a bfloat16 kernel: four roundings; beyond it computes something else
TRUTH_STEPS = 384  # of the case that is held against float64: three chunks of 128, of which mlstm_kernels takes whole ones
CHUNK = 128  # for the counts of operations
SPEC_TFLOPS = {"A100": 312, "H100": 989, "H200": 989, "B200": 2250}
"""Dense bfloat16 rates of the makers' data sheets (SXM), for the share of the peak (MFU)."""


@dataclass(frozen=True)
class Shape:
    """Sizes of one case: heads of width K (queries, keys; of the sLSTM all) and V (values)."""

    B: int
    T: int
    H: int
    K: int
    V: int

    @property
    def what(self) -> str:
        widths = f"{self.K}" if self.K == self.V else f"{self.K}/{self.V}"
        return f"{self.H} heads {widths}, B={self.B} T={self.T}"

    def small(self) -> "Shape":
        """The same widths, for a comparison with float64."""
        return replace(self, B=1, T=min(self.T, TRUTH_STEPS), H=min(self.H, 2))


MLSTM = [
    *(Shape(B, T, 8, 256, 512) for B, T in ((32, 2048), (8, 8192), (2, 32768), (1, 65536))),
    *(Shape(B, T, 16, 128, 256) for B, T in ((32, 2048), (8, 8192), (1, 65536))),
    Shape(8, 2048, 4, 128, 256),
    Shape(8, 2048, 4, 96, 192),
]
RIVALS = [shape for shape in MLSTM if shape.T == 8192]
SLSTM = [Shape(16, 1024, 12, 64, 64), Shape(16, 1024, 6, 128, 128), Shape(16, 1024, 4, 256, 256)]
ATTENTION = [Shape(B, T, 32, 128, 128) for B, T in ((32, 2048), (8, 8192), (2, 32768))]
TINY = {"mlstm": [Shape(1, 20, 1, 16, 16)], "slstm": [Shape(2, 4, 1, 16, 16)], "attention": [Shape(1, 20, 1, 16, 16)]}


class Bench:
    """Takes the times of one side and writes a row a case, at once, so that what comes after a crash is all that is lost.

    rehearse: tiny shapes on the CPU, the kernels interpreted, wall-clock times: for the program, not for its numbers.
    """

    def __init__(self, side: str, path: Path, *, rehearse: bool, rounds: int) -> None:
        self.side, self.path, self.rehearse = side, path, rehearse
        self.device, self.rounds = torch.device("cpu" if rehearse else "cuda"), 2 if rehearse else rounds
        self.warmup = 1 if rehearse else 5

    def shapes(self, kind: str, full: list[Shape]) -> list[Shape]:
        return TINY[kind] if self.rehearse else full

    def write(self, **row: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"side": self.side, **row}) + "\n")

    def measure(
        self,
        case: str,
        make: Callable[[int], Inputs],
        run: Callable[..., Tensor],
        *,
        floors: tuple[float, float] | None = None,
        **more: Any,
    ) -> None:
        """Forward without a graph, and forward + backward to every input from a random cotangent. Two sets of inputs take
        turns, so that none waits in the cache. floors: milliseconds of the two passes that no kernel can beat."""
        sets = [[x.to(self.device).requires_grad_() for x in make(seed)] for seed in range(1 if self.rehearse else 2)]
        cotangent = torch.randn_like(run(*sets[0]).detach())

        def forward(turn: int) -> None:
            with torch.no_grad():
                run(*sets[turn % len(sets)])

        def both(turn: int) -> None:
            inputs = sets[turn % len(sets)]
            torch.autograd.grad(run(*inputs), inputs, cotangent)

        for number, (part, work) in enumerate((("forward", forward), ("forward+backward", both))):
            with self.surviving(case):
                found, peak = self.time(work), self.peak(work)
                floor = floors[number] if floors else None
                ratio = found["milliseconds"] / floor if floor else None
                self.write(case=case, part=part, **found, peak_mib=peak, floor_ms=floor, over_floor=ratio, **more)

    @contextmanager
    def surviving(self, case: str) -> Iterator[None]:
        """What cannot be measured (too little memory, shared or not; a pass that a kernel refuses) is a row with the reason."""
        try:
            yield
        except Exception as error:
            first = str(error).splitlines() or [""]
            self.write(case=case, reason=f"{type(error).__name__}: {first[0][:150]}")

    def time(self, work: Callable[[int], object]) -> dict[str, Any]:
        """Median and spread of single calls, by CUDA events."""
        for turn in range(self.warmup):
            work(turn)
        times = self._by_events(work) if self.device.type == "cuda" else self._by_wall_clock(work)
        return {"milliseconds": statistics.median(times), "fastest": min(times), "slowest": max(times)}

    def _by_events(self, work: Callable[[int], object]) -> list[float]:
        marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(self.rounds)]
        torch.cuda.synchronize()
        for turn, (start, end) in enumerate(marks):
            start.record()
            work(turn)
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in marks]

    def _by_wall_clock(self, work: Callable[[int], object]) -> list[float]:
        times = []
        for turn in range(self.rounds):
            start = time.perf_counter()
            work(turn)
            times.append((time.perf_counter() - start) * 1e3)
        return times

    def peak(self, work: Callable[[int], object]) -> float | None:
        """MiB that a call takes above what is there before it."""
        if self.device.type != "cuda":
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work(0)
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def agrees(self, case: str, out: Tensor, truth: Tensor) -> bool:
        """Whether a side computes what it should; if not, a row says so and no time is taken."""
        error = distance(out, truth)
        if not error <= ALLOWED:
            self.write(case=case, reason=f"its result is {error:.1e} away from float64: no time was taken")
        return error <= ALLOWED


def distance(out: Tensor, truth: Tensor) -> float:
    """|out - truth| / |truth|, Euclidean, in float64."""
    out, truth = out.detach().double().cpu(), truth.detach().double().cpu()
    return float((out - truth).norm() / truth.norm())


def randn(*shape: int, rng: torch.Generator, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, generator=rng, device=rng.device).to(dtype)


def mlstm_inputs(s: Shape, seed: int, device: torch.device) -> Inputs:
    """q, k, v, and the gates in float32 as the layers make them; forget gates mostly open."""
    rng = torch.Generator(device).manual_seed(seed)
    q, k, v = randn(s.B, s.T, s.H, s.K, rng=rng), randn(s.B, s.T, s.H, s.K, rng=rng), randn(s.B, s.T, s.H, s.V, rng=rng)
    i, f = (randn(s.B, s.T, s.H, rng=rng, dtype=torch.float32) for _ in range(2))
    return [q, k, v, i, f + 3]


def slstm_inputs(s: Shape, seed: int, device: torch.device) -> Inputs:
    """Gates W x, R and b, all in bfloat16."""
    rng = torch.Generator(device).manual_seed(seed)
    gates, R = randn(s.B, s.T, 4, s.H, s.K, rng=rng), randn(s.H, s.K, 4, s.K, rng=rng) / s.K**0.5
    return [gates, R, randn(4, s.H, s.K, rng=rng)]


def mlstm_floors(s: Shape, limits: dict[str, float]) -> tuple[float, float]:
    """Milliseconds of forward and of both passes if every product ran at the rate of a large one and every input and output
    moved once: per token and head 4 K V + L (K + V) operations forward, 10 K V + L (3 K + 2 V) backward, L = 128; bfloat16."""
    steps, d = s.B * s.T * s.H, s.K * s.V
    forward = bound(steps * (4 * d + CHUNK * (s.K + s.V)), steps * 4 * (s.K + s.V), limits)
    backward = bound(steps * (10 * d + CHUNK * (3 * s.K + 2 * s.V)), steps * 8 * (s.K + s.V), limits)
    return forward, forward + backward


def bound(operations: float, bytes_moved: float, limits: dict[str, float]) -> float:
    return max(operations / limits["tflops"] / 1e9, bytes_moved / limits["gbs"] / 1e6)


def errors(bench: Bench, case: str, op: Callable[..., Any], inputs: Inputs) -> bool:
    """The gate for ours: h and every gradient against plain torch in float64, beside plain torch in the same dtype."""
    for row in rows(bench.path):
        if row["side"] == bench.side and row["case"] == case and row.get("part") == "errors":
            return bool(row["errors"]["h"]["ours"] <= ALLOWED)
    cotangent = torch.randn(op(*inputs, backend="torch")[0].shape, generator=torch.Generator().manual_seed(1))

    def results(backend: str, dtype: torch.dtype | None, device: torch.device) -> Inputs:
        leaves = [x.to(device, dtype or x.dtype).detach().requires_grad_() for x in inputs]
        h = op(*leaves, backend=backend)[0]
        return [h, *torch.autograd.grad(h, leaves, cotangent.to(h))]

    truth = results("torch", torch.float64, bench.device)  # which the tests hold against the definition
    ours, plain = (results(name, None, bench.device) for name in ("triton", "torch"))
    found = {
        name: {"ours": distance(a, t), "plain": distance(p, t)}
        for name, a, p, t in zip(("h", "d0", "d1", "d2", "d3", "d4"), ours, plain, truth)
    }
    bench.write(case=case, part="errors", errors=found, worst=max(e["ours"] / e["plain"] for e in found.values()))
    return bench.agrees(case, ours[0], truth[0])


def ceilings(bench: Bench) -> None:
    """What this GPU does at best: a copy far larger than its caches, and a product of two large matrices."""
    size, n = (2**10, 64) if bench.rehearse else (2**30, 8192)
    a, b = torch.empty(size, dtype=torch.uint8, device=bench.device), torch.empty(size, dtype=torch.uint8, device=bench.device)
    x, y = (torch.randn(n, n, device=bench.device).bfloat16() for _ in range(2))
    copied, product = bench.time(lambda _: a.copy_(b)), bench.time(lambda _: x @ y)
    bench.write(case="copy", part="ceiling", gbs=2 * size / copied["milliseconds"] / 1e6, **copied)
    bench.write(case="product", part="ceiling", tflops=2 * n**3 / product["milliseconds"] / 1e9, **product)


def our_mlstm(bench: Bench) -> None:
    for s in bench.shapes("mlstm", MLSTM):
        if not errors(bench, s.small().what, mlstm_scan, mlstm_inputs(s.small(), 0, bench.device)):
            continue
        known = limits(bench.path)
        floors = mlstm_floors(s, known) if known else None
        for repeat in (False, True)[: 2 if s in RIVALS else 1]:  # the second time shows the noise
            bench.measure(
                s.what + " again" * repeat,
                lambda seed, s=s: mlstm_inputs(s, seed, bench.device),
                lambda *x: mlstm_scan(*x, backend="triton")[0],
                floors=floors,
            )


def our_slstm(bench: Bench) -> None:
    for s in bench.shapes("slstm", SLSTM):
        if errors(bench, s.small().what, slstm_scan, slstm_inputs(s.small(), 0, bench.device)):
            bench.measure(
                s.what,
                lambda seed, s=s: slstm_inputs(s, seed, bench.device),
                lambda *x: slstm_scan(*x, backend="triton")[0],
            )


def tfla(**options: int) -> Callable[[Bench], None]:
    """mlstm_kernels' chunkwise kernels, from the layout they were written for; and once from that of a layer."""

    def side(bench: Bench) -> None:
        from mlstm_kernels.torch.chunkwise.triton_xl_chunk import mlstm_chunkwise__xl_chunk

        chosen = {"chunk_size": 16 if bench.rehearse else 128, "autocast_kernel_dtype": torch.bfloat16, **options}
        if bench.rehearse:  # in Triton's interpreter bfloat16 products are wrong, and its programs are written for T = 2^n
            chosen["autocast_kernel_dtype"] = torch.float32

        def run(*x: Tensor) -> Tensor:
            return mlstm_chunkwise__xl_chunk(*x, **chosen)

        for s in bench.shapes("mlstm", RIVALS):
            s = replace(s, T=32) if bench.rehearse else s

            def inputs(s: Shape, seed: int) -> Inputs:
                given = (x.float() if bench.rehearse else x for x in mlstm_inputs(s, seed, bench.device))
                return [x.transpose(1, 2).contiguous() for x in given]

            small = s if bench.rehearse else s.small()
            truth = mlstm_scan(*(x.double() for x in mlstm_inputs(small, 0, bench.device)), backend="torch")[0]
            if bench.agrees(s.what, run(*inputs(small, 0)).transpose(1, 2), truth):
                bench.measure(s.what, lambda seed, s=s: inputs(s, seed), run)
                bench.measure(
                    s.what + ", from [B, T, H, D]",
                    lambda seed, s=s: mlstm_inputs(s, seed, bench.device),
                    lambda *x: run(*(y.transpose(1, 2).contiguous() for y in x)),
                )

    return side


def attention(backend: str) -> Callable[[Bench], None]:
    def side(bench: Bench) -> None:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        def run(*qkv: Tensor) -> Tensor:
            with sdpa_kernel(getattr(SDPBackend, backend)):
                return F.scaled_dot_product_attention(*qkv, is_causal=True)

        def inputs(s: Shape, seed: int) -> Inputs:
            rng = torch.Generator(bench.device).manual_seed(seed)
            return [randn(s.B, s.H, s.T, s.K, rng=rng) for _ in range(3)]

        for s in bench.shapes("attention", ATTENTION):
            small = inputs(s.small(), 0)
            truth = F.scaled_dot_product_attention(*(x.double().cpu() for x in small), is_causal=True)
            if bench.agrees(s.what, run(*small), truth):
                bench.measure(s.what, lambda seed, s=s: inputs(s, seed), run)

    return side


def fla(kind: str) -> Callable[[Bench], None]:
    """flash-linear-attention's kernels nearest to the mLSTM: a scalar decay a head (and step), no input gate, no normaliser."""

    def side(bench: Bench) -> None:
        if kind == "simple_gla":
            from fla.ops.simple_gla import chunk_simple_gla as kernel
        else:
            from fla.ops.retention import chunk_retention as kernel

        def run(q: Tensor, k: Tensor, v: Tensor, *g: Tensor) -> Tensor:
            return kernel(q, k, v, *g)[0]

        def inputs(s: Shape, seed: int) -> Inputs:
            q, k, v, _, f = mlstm_inputs(s, seed, bench.device)
            return [q, k, v, F.logsigmoid(f)] if kind == "simple_gla" else [q, k, v]

        for s in bench.shapes("mlstm", RIVALS):
            small = inputs(s.small(), 0)
            q, k, v = (x.double() for x in small[:3])
            g = small[3].double() if kind == "simple_gla" else retention_decay(s.small(), q)
            f_pre = g - torch.log(-torch.expm1(g))  # logsigmoid of it is g
            truth = mlstm_scan(q, k, v, torch.zeros_like(g), f_pre, normalize=False, backend="torch")[0]
            if bench.agrees(s.what, run(*small), truth):
                bench.measure(s.what, lambda seed, s=s: inputs(s, seed), run)

    return side


def retention_decay(s: Shape, like: Tensor) -> Tensor:
    """Log decay of each head, the same at every step."""
    heads = torch.arange(s.H, device=like.device, dtype=torch.float64)
    return torch.log1p(-torch.exp2(-5 - heads)).expand(s.B, s.T, s.H).contiguous()


def cudnn_lstm(bench: Bench) -> None:
    """nn.LSTM of the same hidden size, one dense head. It makes W x itself; its row says what that costs alone."""
    for s in bench.shapes("slstm", SLSTM[:1]):
        size = s.H * s.K
        for dtype in (torch.bfloat16, torch.float16):
            lstm = nn.LSTM(size, size, batch_first=True).to(bench.device, dtype)
            x = torch.randn(s.small().B, s.small().T, size, device=bench.device).to(dtype)
            truth = nn.LSTM(size, size, batch_first=True).double()
            truth.load_state_dict(lstm.state_dict())
            name = f"nn.LSTM {size} {str(dtype).split('.')[1]}, B={s.B} T={s.T}"
            if not bench.agrees(name, lstm(x)[0], truth(x.double().cpu())[0]):
                continue
            weights = list(lstm.parameters())
            projection = torch.randn(size, 4 * size, device=bench.device).to(dtype)

            def make(
                seed: int, s: Shape = s, size: int = size, dtype: torch.dtype = dtype, weights: Inputs = weights
            ) -> Inputs:
                rng = torch.Generator(bench.device).manual_seed(seed)
                return [randn(s.B, s.T, size, rng=rng, dtype=dtype), *weights]

            given = make(0)[0]
            alone = bench.time(lambda _, given=given, projection=projection: given @ projection)["milliseconds"]
            bench.measure(name, make, lambda x, *_, lstm=lstm: lstm(x)[0], projection_ms=alone)


def flashrnn(bench: Bench) -> None:
    from flashrnn import flashrnn as kernel

    def run(gates: Tensor, R: Tensor, b: Tensor) -> Tensor:
        name = str(gates.dtype).split(".")[1]
        states, _ = kernel(gates, R, b, function="slstm", backend="triton_fused", dtype=name)
        return states[0]

    def inputs(s: Shape, seed: int) -> Inputs:
        gates, R, b = (x.half() if bench.rehearse else x for x in slstm_inputs(s, seed, bench.device))
        return [gates, R.permute(2, 0, 3, 1).contiguous(), b]  # gate, head, to, from

    for s in bench.shapes("slstm", SLSTM[:2]):
        small = replace(s.small(), B=16)
        truth = slstm_scan(*(x.double() for x in slstm_inputs(small, 0, bench.device)), backend="torch")[0]
        with bench.surviving(s.what):  # heads of 128 need more shared memory than there is
            if bench.agrees(s.what, run(*inputs(small, 0)), truth):
                bench.measure(s.what, lambda seed, s=s: inputs(s, seed), run)


def training(cell: str) -> Callable[[Bench], None]:
    """Whole steps of the published 164M shape: forward, loss, backward, clipping, AdamW; bfloat16 autocast."""

    def side(bench: Bench) -> None:
        B, T = (1, 32) if bench.rehearse else (16, 2048)
        changes: dict[str, Any] = dict(vocab_size=64, dim=32, num_heads=2, blocks=("mlstm_large",)) if bench.rehearse else {}
        if cell == "mlstm_kernels":
            mlstm.BACKENDS = (Backend(cell, theirs(bench)),)
        torch.manual_seed(0)
        model = LanguageModel(preset("large-164M", **changes)).to(bench.device)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        ids = torch.randint(model.config.vocab_size, (B, T + 1), device=bench.device)

        def step(_: int = 0) -> Tensor:
            with torch.autocast(bench.device.type, torch.bfloat16, enabled=not bench.rehearse):
                logits = model(ids[:, :-1])[0]
            loss = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return loss.detach()

        first = [float(step()) for _ in range(3)]
        if not all(map(math.isfinite, first)):
            bench.write(case="164M", reason=f"the loss is not finite: {first}")
            return
        found, peak = bench.time(step), bench.peak(step)
        rate = B * T / found["milliseconds"] * 1e3
        used = rate * training_operations(model) / 1e12
        spec = peak_rate(bench)
        bench.write(
            case="164M",
            part="training step",
            **found,
            losses=first,
            peak_mib=peak,
            tokens_per_second=round(rate),
            tflops=used,
            mfu=used / spec if spec else None,
        )

    return side


def theirs(bench: Bench) -> Callable[..., Any]:
    """mlstm_kernels as a backend, in the layout that it needs."""
    from mlstm_kernels.torch.chunkwise.triton_xl_chunk import mlstm_chunkwise__xl_chunk

    tuned = dict(chunk_size=16) if bench.rehearse else dict(chunk_size=128, num_warps_intra=8, num_stages_intra=2)

    def run(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: Any, *, eps: float, **_: Any) -> Any:
        kind = torch.float32 if bench.rehearse else torch.bfloat16
        inputs = [x.transpose(1, 2).contiguous() for x in (q, k, v, i.float(), f.float())]
        h = mlstm_chunkwise__xl_chunk(*inputs, eps=eps, autocast_kernel_dtype=kind, **tuned)
        return h.transpose(1, 2).to(v.dtype), state

    return run


def training_operations(model: LanguageModel) -> float:
    """Operations a token: 6 for each weight of a product, and the cells' own, forward and backward (`mlstm_floors`)."""
    config = model.config
    products = sum(p.numel() for p in model.parameters() if p.dim() == 2) - model.embedding.weight.numel() * (
        not config.tie_embeddings
    )
    K, V = (int(config.dim * factor) // config.num_heads for factor in (config.qk_factor, config.v_factor))
    cell = 14 * K * V + CHUNK * (4 * K + 3 * V)
    return 6 * products + len(config.blocks) * config.num_heads * cell


def peak_rate(bench: Bench) -> float | None:
    """TFLOP/s of the data sheet, or what a large product reached."""
    if bench.device.type != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((float(rate) for model, rate in SPEC_TFLOPS.items() if model in name), limits(bench.path).get("tflops"))


def decode(bench: Bench) -> None:
    """A 7B-shaped model, one stream, at the start of a text and 64k tokens into it, against reading weights and memory once."""
    from openxlstm.inference.graph import GraphDecoder

    far, part = (8, 4) if bench.rehearse else (65536, 4096)
    changes: dict[str, Any] = dict(vocab_size=64, dim=32, num_heads=2, blocks=("mlstm_large",)) if bench.rehearse else {}
    dtype = torch.float32 if bench.rehearse else torch.bfloat16
    with bench.device, default_dtype(dtype), torch.no_grad():
        model = LanguageModel(preset("large-7B", **changes)).eval()
        ids = torch.randint(model.config.vocab_size, (1, far))
        decoder = GraphDecoder(model)
        token = ids[:, 0]
        weights = sum(p.nbytes for p in model.parameters())
        weights -= 0 if model.config.tie_embeddings else model.embedding.weight.nbytes  # of which a token reads one row
        moved = weights + 2 * decoder.state_bytes
        truth = copy.deepcopy(model).float()(ids[:, :1])[0][:, 0]
        ours, plain = (distance(logits, truth) for logits in (decoder.step(token), model(ids[:, :1])[0][:, 0]))
        plain = max(plain, 1e-6)  # none where the model is float32 itself
        bench.write(case="decode 7B", part="errors", errors={"logits": {"ours": ours, "plain": plain}}, worst=ours / plain)
        if not ours <= 2 * plain:  # of 32 layers in bfloat16, so no limit of a kernel's
            bench.write(case="decode 7B", reason="its logits are further from float32 than the model's: no time was taken")
            return
        state: Any = None
        for position in (0, far):
            if position:
                for begin in range(0, far, part):
                    _, state = model(ids[:, begin : begin + part], state)
                decoder.load_state(state)
            found = bench.time(lambda _: decoder.step(token))
            gbs = moved / found["milliseconds"] / 1e6
            copied = limits(bench.path).get("gbs")
            share = gbs / copied if copied else None
            bench.write(case=f"decode 7B at {position}", part="token", **found, gbs=gbs, share_of_copy=share)


class default_dtype(AbstractContextManager[None]):
    """New parameters in another dtype, for a while."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __enter__(self) -> None:
        self.before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *_: object) -> None:
        torch.set_default_dtype(self.before)


def limits(path: Path) -> dict[str, float]:
    """What `ceilings` found, for this run's floors; empty where it did not run."""
    found: dict[str, float] = {}
    for row in rows(path):
        if row.get("part") == "ceiling":
            found |= {name: row[name] for name in ("gbs", "tflops") if name in row}
    return found


def rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


@dataclass(frozen=True)
class Side:
    """What is run in a process of its own. needs: the module it imports and the package that brings it."""

    run: Callable[[Bench], None]
    seconds: int = 60
    needs: tuple[str, str] | None = None

    def missing(self) -> str | None:
        if self.needs is None or importlib.util.find_spec(self.needs[0]) is not None:
            return None
        return f"pip install {self.needs[1]}"


MLSTM_KERNELS = ("mlstm_kernels", "mlstm_kernels==2.0.6")
FLA = ("fla", "fla-core==0.6.0 einops")
SIDES: dict[str, Side] = {
    "ceilings": Side(ceilings, 40),
    "openxlstm mLSTM": Side(our_mlstm, 100),
    "openxlstm sLSTM": Side(our_slstm, 60),
    "mlstm_kernels as shipped": Side(tfla(), 50, MLSTM_KERNELS),
    "mlstm_kernels 8 warps 2 stages": Side(tfla(num_warps_intra=8, num_stages_intra=2), 45, MLSTM_KERNELS),
    "mlstm_kernels 8 warps 3 stages": Side(tfla(num_warps_intra=8, num_stages_intra=3), 45, MLSTM_KERNELS),
    "SDPA flash": Side(attention("FLASH_ATTENTION"), 40),
    "SDPA cuDNN": Side(attention("CUDNN_ATTENTION"), 40),
    "cuDNN LSTM": Side(cudnn_lstm, 30),
    "FlashRNN Triton": Side(flashrnn, 60, ("flashrnn", "flashrnn==1.0.8 einops ninja")),
    "training openxlstm": Side(training("auto"), 60),
    "training mlstm_kernels": Side(training("mlstm_kernels"), 60, MLSTM_KERNELS),
    "decode openxlstm": Side(decode, 60, ("openxlstm.inference.graph", "a version of openxlstm that decodes on GPUs")),
    "fla simple_gla": Side(fla("simple_gla"), 45, FLA),
    "fla retention": Side(fla("retention"), 45, FLA),
}
"""In this order; together they may take longer than the run, which then leaves out the last ones and says so."""
