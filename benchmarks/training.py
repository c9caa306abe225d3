"""Speed of whole training steps: forward, loss, backward, clipping, AdamW. All sides in one process, in turn.

    pip install -c constraints.txt -e '.[bench,train]'
    python benchmarks/training.py --out benchmarks/results/training_<hardware>_<date>.json

Anchors: the `xlstm` package's xLSTMLMModel of the same shape and the same weights (sLSTM backend "vanilla", and its one mLSTM
backend, which is quadratic in T: by default only T = 256), and our own transformer with as many parameters: as deep
(`match_parameters`), and half as deep and as wide, which is the faster of the two. Everybody gets the same optimiser.

No number is taken before ours and the package agree on the loss, on the norm of the gradient, and on the loss after three
steps of AdamW.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import compare, environment
from torch import Tensor, nn

from openxlstm import LanguageModel
from openxlstm.models.config import LanguageModelConfig
from openxlstm.models.match import match_parameters
from openxlstm.models.patterns import expand
from openxlstm.training import OptimizerConfig, build_optimizer
from openxlstm.training.tuning import tune_cpu

VOCAB, HEADS = 256, 4
Run = Callable[[], object]


class Trainee:
    """A model that is trained: `step` is one optimiser step, `look` gives loss and gradient norm and changes nothing."""

    def __init__(self, model: nn.Module, logits: Callable[[Tensor], Tensor], batch: Tensor, precision: str) -> None:
        self.model, self.logits, self.precision = model.train(), logits, precision
        self.inputs, self.targets = batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
        self.optimizer = build_optimizer(model, OptimizerConfig())

    def loss(self) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            logits = self.logits(self.inputs)
        return F.cross_entropy(logits.float().flatten(0, 1), self.targets.flatten())

    def step(self) -> None:
        self.loss().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def look(self) -> tuple[float, float]:
        loss = self.loss()
        loss.backward()
        loss = loss.detach()
        norm = nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss), float(norm)


def package_model(num_blocks: int, dim: int, slstm_at: list[int], T: int) -> nn.Module:
    """The xlstm package's model, with a folder of its weights written by `as_ours`."""
    import xlstm

    config = xlstm.xLSTMLMModelConfig(
        vocab_size=VOCAB,
        context_length=T,
        num_blocks=num_blocks,
        embedding_dim=dim,
        slstm_at=slstm_at,
        mlstm_block=xlstm.mLSTMBlockConfig(
            mlstm=xlstm.mLSTMLayerConfig(conv1d_kernel_size=4, qkv_proj_blocksize=4, num_heads=HEADS)
        ),
        slstm_block=xlstm.sLSTMBlockConfig(
            slstm=xlstm.sLSTMLayerConfig(
                backend="vanilla",
                num_heads=HEADS,
                conv1d_kernel_size=4,
                bias_init="powerlaw_blockdependent",
                dtype="float32",
                enable_automatic_mixed_precision=False,
            ),
            feedforward=xlstm.FeedForwardConfig(proj_factor=1.3, act_fn="gelu"),
        ),
    )
    torch.manual_seed(0)
    model = xlstm.xLSTMLMModel(config)
    model.reset_parameters()
    return model


def as_ours(theirs: nn.Module, num_blocks: int, dim: int, slstm_at: list[int]) -> LanguageModel:
    """Our model with their weights, through the reader of their checkpoints."""
    import yaml
    from safetensors.torch import save_file

    settings = {
        "vocab_size": VOCAB,
        "num_blocks": num_blocks,
        "embedding_dim": dim,
        "slstm_at": slstm_at,
        "mlstm_block": {"mlstm": {"conv1d_kernel_size": 4, "qkv_proj_blocksize": 4, "num_heads": HEADS}},
        "slstm_block": {
            "slstm": {"backend": "vanilla", "num_heads": HEADS, "conv1d_kernel_size": 4},
            "feedforward": {"proj_factor": 1.3, "act_fn": "gelu"},
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.yaml").write_text(yaml.safe_dump(settings))
        save_file({n: t.clone().contiguous() for n, t in theirs.state_dict().items()}, Path(folder) / "model.safetensors")
        return LanguageModel.from_pretrained(folder)


def transformers(ours: LanguageModel) -> dict[str, LanguageModel]:
    """Twins of equal parameters: of equal depth, and half as deep."""
    config = LanguageModelConfig(
        vocab_size=VOCAB, dim=ours.config.dim, num_heads=HEADS, blocks=expand("transformer", ours.config.num_blocks)
    )
    half = replace(config, blocks=expand("transformer", ours.config.num_blocks // 2))
    return {
        f"transformer, {c.num_blocks} blocks": LanguageModel(match_parameters(c, ours.num_parameters())) for c in (config, half)
    }


def case(
    pattern: str, num_blocks: int, dim: int, B: int, T: int, precision: str, package: bool, **options: Any
) -> dict[str, Any]:
    """One shape: ours against everybody."""
    kinds = expand(pattern, num_blocks)
    slstm_at = [i for i, kind in enumerate(kinds) if kind == "slstm"]
    torch.manual_seed(1)
    batch = torch.randint(VOCAB, (B, T + 1))
    name = f"openxlstm {pattern}"
    trainees: dict[str, Trainee] = {}
    agreement = None
    if package and set(kinds) <= {"mlstm", "slstm"}:
        theirs = package_model(num_blocks, dim, slstm_at, T)
        ours = as_ours(theirs, num_blocks, dim, slstm_at)
        trainees[name] = Trainee(ours, lambda ids: ours(ids)[0], batch, precision)
        trainees["xlstm package"] = Trainee(theirs, theirs, batch, precision)
        agreement = agree(trainees[name], trainees["xlstm package"], 1e-4 if precision == "fp32" else 2e-2)
    else:
        torch.manual_seed(0)
        ours = LanguageModel(LanguageModelConfig(vocab_size=VOCAB, dim=dim, num_heads=HEADS, blocks=kinds))
        trainees[name] = Trainee(ours, lambda ids: ours(ids)[0], batch, precision)
    for title, twin in transformers(ours).items():
        trainees[title] = Trainee(twin, lambda ids, twin=twin: twin(ids)[0], batch, precision)  # type: ignore[misc]
    sizes = {title: sum(p.numel() for p in t.model.parameters()) for title, t in trainees.items()}
    timed = compare({title: t.step for title, t in trainees.items()}, name, warmup=1, **options)
    return {
        "what": f"{pattern}, {num_blocks} blocks, D={dim} V={VOCAB} B={B} T={T}, {precision}",
        "parameters": sizes,
        "agreement": agreement,
        "tokens_per_second": {title: round(B * T / ms * 1e3) for title, ms in timed["milliseconds"].items()},
        **timed,
    }


def settings_case(rounds: int) -> dict[str, Any]:
    """What each setting of docs/how-to/train-on-a-cpu.md brings: one model, other settings. The allocator's holds for the
    process and cannot be taken back, so everything is measured before it and after it. Leaves the process tuned."""
    torch.manual_seed(0)
    batch = torch.randint(VOCAB, (8, 257))
    config = LanguageModelConfig(vocab_size=VOCAB, dim=256, num_heads=HEADS, blocks=expand("mlstm_large", 6))

    def trainee(precision: str, products: str, fused: bool = True) -> Run:
        model = LanguageModel(config)
        chosen = Trainee(model, lambda ids: model(ids)[0], batch, precision)
        if not fused:
            chosen.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

        def step() -> None:
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision(products)
            chosen.step()
            torch.set_float32_matmul_precision(before)

        return step

    sides = {
        "fp32": trainee("fp32", "highest"),
        "fp32, torch's default AdamW": trainee("fp32", "highest", fused=False),
        "fp32, products by oneDNN": trainee("fp32", "medium"),
        "bf16": trainee("bf16", "highest"),
    }
    before = compare(sides, "fp32", rounds=rounds, warmup=2)
    tuned = tune_cpu()
    after = compare(sides, "fp32", rounds=rounds, warmup=2)
    return {
        "what": "settings, mlstm_large, 6 blocks, D=256 V=256 B=8 T=256",
        "tokens_per_second": {
            title + where: round(8 * 256 / ms * 1e3)
            for where, found in (("", before), (", memory kept", after))
            for title, ms in found["milliseconds"].items()
        },
        "tuned": tuned,
        "foreign_cpus": [before["foreign_cpus"], after["foreign_cpus"]],
    }


def shape(text: str) -> tuple[str, int, int]:
    """The parts of PATTERN:BLOCKS:DIM."""
    pattern, blocks, dim = text.rsplit(":", 2)
    return pattern, int(blocks), int(dim)


def agree(a: Trainee, b: Trainee, tolerance: float) -> dict[str, float]:
    """Relative differences; exits where they are too large. Leaves both after three steps."""
    (loss, norm), (loss_b, norm_b) = a.look(), b.look()
    for trainee in (a, b):
        for _ in range(3):
            trainee.step()
    later, later_b = a.look()[0], b.look()[0]
    found = {
        "loss": abs(loss - loss_b) / loss_b,
        "gradient norm": abs(norm - norm_b) / norm_b,
        "loss after 3 steps": abs(later - later_b) / later_b,
    }
    if not max(found.values()) <= tolerance:
        sys.exit(f"the sides differ, no time was taken: {found}")
    return found


def as_table(results: list[dict[str, Any]]) -> str:
    """One line a case and anchor."""
    lines = ["| case | other side | openxlstm tokens/s | other tokens/s | times faster |", "|---|---|---|---|---|"]
    for result in results:
        (ours, *_), rates = result["milliseconds"], result["tokens_per_second"]
        for other, ratio in result["times_faster"].items():
            lines.append(f"| {result['what']} | {other} | {rates[ours]} | {rates[other]} | {1 / ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds of each case (default 7)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 4096], help="T; B is 2048 / T, at least 1")
    parser.add_argument("--package-up-to", type=int, default=256, help="longest T at which the package is measured")
    parser.add_argument("--patterns", nargs="+", default=["xlstm[7:1]:8:216", "mlstm_large:6:256"], help="PATTERN:BLOCKS:DIM")
    parser.add_argument("--threads", type=int, help="threads of all sides (default: torch's number)")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU time: for one thread on a machine that others use")
    parser.add_argument("--settings", action="store_true", help="measure what each setting brings as well")
    parser.add_argument(
        "--cpu-tuning", action="store_true", help="the settings of docs/how-to/train-on-a-cpu.md, for all sides"
    )
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    options = dict(rounds=args.rounds, clock=time.process_time if args.cpu_time else time.perf_counter)
    tuned = tune_cpu() if args.cpu_tuning else None
    results = [
        case(*shape(text), max(2048 // T, 1), T, precision, args.package_up_to >= T, **options)
        for precision in args.precision
        for T in args.lengths
        for text in args.patterns
    ]
    print(as_table(results))
    if args.settings:
        found = settings_case(args.rounds)
        print(f"\n| {found['what']} | tokens/s |\n|---|---|")
        for title, rate in found["tokens_per_second"].items():
            print(f"| {title} | {rate} |")
        results.append(found)
    if args.out:
        record = {
            "environment": environment(("xlstm",))
            | {"cpu_tuning": tuned, "clock": "CPU time" if args.cpu_time else "wall time"},
            "results": results,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
