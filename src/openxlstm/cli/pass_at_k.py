"""`openxlstm pass-at-k SAMPLES.jsonl --problems FILE --run-generated-code`: do the programs that a model wrote work?"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openxlstm.cli.arguments import VerbParser, number, numbers, say
from openxlstm.errors import UserError


def parser() -> VerbParser:
    """The options of the verb."""
    from openxlstm.cli.generate import add_machine_options

    p = VerbParser(
        "pass-at-k",
        "Run the programs in a file of samples against the tests of HumanEval or MBPP, and print pass@k.\n"
        "This runs code that nobody has read, so it must be asked for: --run-generated-code. Each program gets a process\n"
        "without files, network, other processes or environment, with little time and memory (Linux); where the kernel lacks\n"
        "what that needs, nothing is run.",
        [
            "openxlstm pass-at-k samples.jsonl --problems HumanEval.jsonl.gz --k 1,10 --run-generated-code",
            "openxlstm pass-at-k samples.jsonl --problems mbpp.jsonl --run-generated-code --out results.jsonl",
            "openxlstm pass-at-k new.jsonl --problems HumanEval.jsonl.gz --generate RUN --num-samples 20 --run-generated-code",
            "openxlstm pass-at-k --solutions --problems mbpp.jsonl --run-generated-code",
        ],
    )
    p.add_argument("samples", nargs="?", metavar="SAMPLES", help="a .jsonl with task_id and completion in each line")
    p.add_argument(
        "--problems", required=True, metavar="FILE", help="HumanEval.jsonl or mbpp.jsonl, as published; .gz and .xz too"
    )
    p.add_argument("--k", type=numbers(int, least=1), default=(1,), metavar="K,...", help="chances to count, such as 1,10,100")
    p.add_argument("--run-generated-code", action="store_true", help="yes, run it")
    p.add_argument(
        "--solutions", action="store_true",
        help="in place of samples the solutions that came with the problems, which should pass: a check of file and machine",
    )  # fmt: skip
    p.add_argument("--subset", action="store_true", help="SAMPLES need not have every problem; the mean is over those it has")
    p.add_argument("--out", metavar="FILE", help="write each sample with how it ended, as .jsonl")
    p.add_argument("--json", action="store_true", help="print the result as one JSON object")
    limits = p.add_argument_group("limits of a program")
    limits.add_argument("--seconds", type=number(int, least=1), default=10, metavar="N", help="of CPU time")
    limits.add_argument("--memory", type=number(int, least=64), default=1024, metavar="MIB", help="of address space")
    limits.add_argument("--jobs", type=number(int, least=1), default=1, metavar="N", help="programs at a time")
    make = p.add_argument_group("making samples first")
    make.add_argument("--generate", dest="run", metavar="RUN", help="a run or model folder that writes SAMPLES first")
    make.add_argument("--num-samples", type=number(int, least=1), default=1, metavar="N", help="of each problem")
    make.add_argument("--max-tokens", type=number(int, least=1), default=256, metavar="N", help="of a sample")
    make.add_argument("--temperature", type=number(least=0), default=0.2, metavar="T", help="0 = always the likeliest token")
    make.add_argument("--top-p", type=number(above=0, most=1), default=0.95, metavar="P", help="as in openxlstm generate")
    make.add_argument("--seed", type=number(int, least=0), default=0, metavar="N", help="other samples")
    add_machine_options(p)
    return p


def run(argv: Sequence[str]) -> int:
    """Run the verb."""
    args = parser().parse_args(argv)
    if not args.run_generated_code:
        raise UserError(
            "this runs programs that a model wrote; if that is what you want, add --run-generated-code (they run locked in: "
            "no files, network or processes)"
        )
    if args.solutions == bool(args.samples):
        raise UserError("name the file of SAMPLES, or give --solutions in place of it")
    if args.solutions and args.run:
        raise UserError("--solutions and --generate do not go together")
    from openxlstm.coding import Limits, Sample, read_problems, read_samples, sandbox_locks, score_samples, write_samples

    if args.run and args.num_samples < max(args.k):
        raise UserError(f"pass@{max(args.k)} needs --num-samples {max(args.k)} at least, and {args.num_samples} are to be made")
    if args.run and Path(args.samples).suffix in (".gz", ".xz"):
        raise UserError(f"{args.samples}: samples are written as plain text; give a name that does not end in .gz or .xz")
    problems = read_problems(args.problems)
    locks = sandbox_locks()
    if args.run:
        if Path(args.samples).exists():
            raise UserError(f"{args.samples} exists; without --generate it is scored, or name another file for new samples")
        write_samples(args.samples, make_samples(args, problems))
    if args.solutions:
        samples = [Sample(task_id, problem.solution) for task_id, problem in problems.items()]
    else:
        samples = read_samples(args.samples, problems)
    missing = len(problems) - len({sample.task_id for sample in samples})
    if missing and not args.subset:
        raise UserError(f"{args.samples}: {missing} of {len(problems)} problems have no sample; --subset scores the others")
    say(f"{len(samples):,} programs, locked in by {', '.join(locks)}")

    def report(done: int, outcome: Any) -> None:
        if done % 50 == 0:
            say(f"{done:,} of {len(samples):,} run")

    limits = Limits(seconds=args.seconds, memory=args.memory)
    scores = score_samples(problems, samples, args.k, limits=limits, jobs=args.jobs, report=report)
    if args.out:
        write_results(args.out, samples, scores)
    summary = {
        "problems": len(scores.counts),
        "of": len(problems),
        "samples": len(samples),
        **{f"pass@{k}": value for k, value in scores.pass_at.items()},
        "results": scores.results,
        "locks": list(scores.locks),
    }
    if args.json:
        print(json.dumps(summary, indent=2))
        return 0
    for k, value in scores.pass_at.items():
        print(f"pass@{k}: {value:.4f}")
    ended = ", ".join(f"{count} {result}" for result, count in scores.results.items())
    print(f"{len(scores.counts)} of {len(problems)} problems, {len(samples)} samples: {ended}")
    return 0


def make_samples(args: Any, problems: Any) -> list[Any]:
    """Samples of the model that `run` of a command line names, cut where they leave the function.

    A sample's draws depend on --seed, its problem's name and its number among the problem's samples: other seeds share none."""
    from openxlstm.cli.generate import load
    from openxlstm.coding import Sample
    from openxlstm.data.windows import mix
    from openxlstm.inference.generate import complete
    from openxlstm.inference.sampling import Sampling

    loaded = load(args)
    tokenizer, end = loaded.tokenizer, loaded.tokenizer.eos_id
    sampling = Sampling(temperature=args.temperature, top_p=None if args.top_p == 1 else args.top_p)
    found = []
    for place, problem in enumerate(problems.values(), 1):
        ids = [*([] if end is None else [end]), *tokenizer.encode(problem.prompt)]
        rows = complete(
            loaded.model,
            [ids] * args.num_samples,
            args.max_tokens,
            sampling=sampling,
            seed=[mix("samples", args.seed, problem.task_id, row) for row in range(args.num_samples)],
            eos_id=end,
            vocab_size=min(tokenizer.vocab_size, loaded.model.config.vocab_size),
        )
        found += [Sample(problem.task_id, problem.cut(tokenizer.decode(row))) for row in rows]
        if place % 10 == 0 or place == len(problems):
            say(f"samples of {place} of {len(problems)} problems")
    return found


def write_results(path: str, samples: Sequence[Any], scores: Any) -> None:
    """Each sample with its result and the reason, whole or not at all."""
    from openxlstm.files import write_atomic

    lines = [
        json.dumps(
            {
                "task_id": sample.task_id,
                "completion": sample.completion,
                "passed": outcome.passed,
                "result": outcome.result,
                "reason": outcome.reason,
            }
        )
        for sample, outcome in zip(samples, scores.outcomes, strict=True)
    ]
    write_atomic(path, "".join(f"{line}\n" for line in lines))
