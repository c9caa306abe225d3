"""Questions are asked, answered, kept and written down."""

import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from openxlstm.cli.main import main
from openxlstm.cli.report import with_data
from openxlstm.experiments import QUESTIONS, SCALES, Check, Setting, Trained, answer_all, cost
from openxlstm.experiments.answer import answer, finding
from openxlstm.experiments.question import (
    Evidence,
    ahead_everywhere,
    grown,
    growth,
    in_most,
    largest,
    of_law,
    rarest_first,
    score,
    share,
    steepest,
    worst,
)
from openxlstm.experiments.report import Report, as_markdown, write
from openxlstm.experiments.sweeps import Capacity, Scaling, Sweep
from openxlstm.recipes import recipe
from openxlstm.training.cells import Cell
from openxlstm.training.compare import Comparison, variant
from openxlstm.training.options import override

QUICK = {
    "trainer.steps": "3",
    "trainer.batch_size": "4",
    "trainer.threads": "1",
    "model.dim": "16",
    "data.eval_length": "5-12",
    "data.report_lengths": "",
    "data.test_samples": "32",
    "data.validation_samples": "32",
}


def question(name="quick", bar=2.0, **changes):
    """Parity by two tiny models after three steps."""
    made = Trained(
        name=name,
        claim="Three steps are enough.",
        published="nowhere",
        recipe="parity",
        checks=(Check(what="score of slstm", measure=score("slstm"), bar=bar, at_most=True),),
        settings={"minutes": Setting(models=("slstm", "lstm"), options=QUICK)},
    )
    return replace(made, **changes)


def measured(report):
    """The numbers of the first answer."""
    return [one.measured for one in report.answers[0].findings]


def test_a_report_says_what_holds_and_what_does_not(tmp_path):
    said = []
    questions = [question(), question("wrong", bar=-2.0), question("later", settings={})]
    report = answer_all(questions, "minutes", tmp_path, said.append)
    verdicts = ["holds", "does not hold here", "not tested at this scale"]
    assert [answer.verdict for answer in report.answers] == verdicts
    text = (tmp_path / "report.md").read_text()
    page = (tmp_path / "report.html").read_text()
    for name, verdict in zip(("quick", "wrong", "later"), verdicts, strict=True):
        assert f"## {name}: {verdict}" in text
        assert f"<h2>{name}: {verdict}</h2>" in page
    assert "openxlstm compare parity --models 'slstm,lstm' --seeds 0" in text
    assert '<img src="quick/compare.png"' in page
    assert (tmp_path / "quick" / "compare.png").exists()
    stored = json.loads((tmp_path / "report.json").read_text())["answers"]
    assert [answer["verdict"] for answer in stored] == verdicts
    assert stored[0]["findings"][0]["measured"] == measured(report)[0]

    said.clear()
    again = answer_all(questions[:1], "minutes", tmp_path, said.append)
    assert sum("finished before" in line for line in said) == 2
    assert again.answers == report.answers  # what else is in the folder stays


def test_two_questions_to_a_model_train_it_once(tmp_path):
    said = []
    twice = [question(), question("again", settings={"minutes": Setting(models=("lstm", "slstm"), options=QUICK)})]
    report = answer_all(twice, "minutes", tmp_path / "report", said.append, cells=tmp_path / "trained")
    first, second = report.answers
    assert sum("finished before" in line for line in said) == 2
    assert first.findings == second.findings
    assert len(list((tmp_path / "trained").iterdir())) == 2
    assert sorted(path.name for path in (tmp_path / "report" / "again").iterdir()) == [
        f"compare.{end}" for end in ("json", "md", "png")
    ]
    assert report.cost.startswith("2 trainings, one after the other 0.0 hours on ")
    assert report.cost in (tmp_path / "report" / "report.md").read_text()


def test_a_report_says_which_hours_were_whose(tmp_path):
    """A training whose machine is not known was made where the question was answered."""
    took, where = {"a": 3600.0, "b": 1800.0, "c": 7200.0}, {"a": "GPU", "c": "GPU"}
    trained = Evidence(rows={}, table="", command="", trainings=took, machines=where)
    one = replace(answer(QUESTIONS["parity"], trained), environment={"gpu": None, "cpu": "CPU"})
    report = Report(tmp_path, "hours", (), (one, replace(one, question="even_pairs")))
    assert report.cost == "3 trainings, one after the other 3.0 hours on GPU, 0.5 hours on CPU."


def test_a_report_names_what_has_no_answer(tmp_path):
    """Of some questions: the command asks those alone, and the others are named."""
    every = tuple(QUESTIONS.values())
    assert Report(tmp_path, "hours", every, ()).command == "openxlstm report --scale hours"
    report = Report(tmp_path, "hours", every[:2], (answer(every[0], None),))
    assert report.command == f"openxlstm report --scale hours --only {every[0].name},{every[1].name}"
    text = as_markdown(report)
    assert f"\nStill to come: {every[1].name}.\n" in text
    assert f"\nNot asked: {', '.join(question.name for question in every[2:])}.\n" in text


def test_a_report_grows_question_by_question(tmp_path, capsys):
    """What was answered in the folder stays, word for word, without its trained models; another scale needs another folder."""
    asked = [question(), question("wrong", bar=-2.0)]
    both = answer_all(asked, "minutes", tmp_path / "both")
    folder = tmp_path / "grown"
    for one in asked:
        report = answer_all([one], "minutes", folder, cells=tmp_path / one.name)
    texts = [(made / "report.md").read_text() for made in (folder, tmp_path / "both")]
    without_times = [re.sub(r"\d+ trainings.*|[\d,]+ \|$", "", text, flags=re.MULTILINE) for text in texts]
    assert without_times[0] == without_times[1]
    assert report.answers[1].findings == both.answers[1].findings
    files = answer(QUESTIONS["pixels"], report.answers[0].evidence)
    write(replace(report, answers=(replace(files, data="pictures"), *report.answers)))
    again = answer_all([QUESTIONS["pixels"]], "minutes", folder)  # without its files, but with what was measured on them
    assert again.answers[0].evidence is not None
    assert "--data pixels=pictures" in again.command
    assert main(["report", "--scale=hours", "--only=cost", "--out", str(folder)]) == 2
    assert "report.json: a report of scale minutes; choose another folder for one of scale hours" in capsys.readouterr().err
    (folder / "report.json").write_text('{"scale": "minutes", "answers": [{}]}')
    assert main(["report", "--only=cost", "--out", str(folder)]) == 2
    assert "report.json: not a report of this version" in capsys.readouterr().err


def test_a_model_that_fails_does_not_make_a_claim_hold(tmp_path):
    made = question(checks=(Check(what="score of mlstm", measure=score("mlstm"), bar=2.0, at_most=True),))
    report = answer_all([made], "minutes", tmp_path)  # mlstm is not among its models
    assert measured(report) == [None]
    assert report.answers[0].verdict == "does not hold here"
    assert "a model failed" in (tmp_path / "report.md").read_text()


def test_a_model_that_fails_with_one_seed_does_not_make_a_claim_hold():
    check = Check(what="score of mlstm", measure=score("mlstm"), bar=0.1, at_most=True)
    rows = {"mlstm": {"score": 0.0, "failed": 1}, "slstm": {"score": 1.0, "failed": 0}}
    assert finding(check, rows).measured is None
    assert not finding(check, rows).holds
    assert finding(replace(check, measure=score("slstm")), rows).measured == 1.0, "what it does not look at may fail"


@pytest.mark.parametrize(
    ("kind", "checks"),
    [
        (Scaling, (Check(what="ahead", measure=largest("mlstm", "lstm"), bar=0.0, at_most=True),)),
        (Scaling, (Check(what="R²", measure=of_law("mlstm", "R2"), bar=0.5),)),
        (Capacity, (Check(what="score", measure=score("mlstm"), bar=0.5),)),
    ],
)
@pytest.mark.parametrize(("lost", "holds"), [((), True), ((64,), False), ((40,), False)])
def test_models_are_compared_at_the_largest_width_that_was_asked_for(tmp_path, monkeypatch, kind, checks, lost, holds):
    """mlstm fails at a width with one of two seeds, or with both."""

    def fake(base, models, seeds, folder, *others):
        width = base.model.dim
        found = {"num_parameters": 100 * width, "validation": {"nats_per_token": 100 / width}, "test": {"score": 1.0}}
        cells = []
        for model in models:
            for seed in seeds:
                fails = model == "mlstm" and width in lost and (seed or width == 64)
                nats = {"nats_per_token": 100 / width + (model == "lstm")}
                report = None if fails else {**found, "seconds": 1.0, "validation": nats}
                cells.append(Cell(model, 1e-3, seed, base, folder / f"{model}-{seed}", report, "it broke" if fails else None))
        return Comparison(base, 0, folder, tuple(cells))

    monkeypatch.setattr("openxlstm.experiments.sweeps.compare", fake)
    monkeypatch.setattr("openxlstm.experiments.sweeps.carried", lambda config: 4.0 * config.model.dim)
    monkeypatch.setattr(kind, "draw", lambda *words: None)
    asked = kind(
        name="asked",
        claim="",
        published="",
        recipe="tiny",
        checks=checks,
        settings={"minutes": Setting(models=("mlstm", "lstm"), seeds=2)},
        widths={"minutes": (24, 40, 64)},
    )
    evidence = asked.ask("minutes", tmp_path, tmp_path, print)
    assert (answer(asked, evidence).verdict == "holds") == holds
    assert ("largest" in evidence.rows["mlstm"] or "score" in evidence.rows["mlstm"]) == (64 not in lost)
    assert evidence.rows["lstm"]["failed"] == 0


def test_a_question_about_files_says_that_it_needs_them(tmp_path, capsys):
    """Without them it is not asked; with them their path is part of the command."""
    asked = QUESTIONS["pixels"]
    (found,) = answer_all([asked], "minutes", tmp_path).answers
    assert found.verdict == "not tested at this scale"
    assert "Needs data, --data pixels=PATH: CIFAR-10" in (tmp_path / "report.md").read_text()
    (given,) = with_data([asked], f"pixels={tmp_path}")
    assert not given.lacks
    report = Report(tmp_path, "hours", (given,), (answer(given, None),))
    assert report.command == f"openxlstm report --scale hours --only pixels --data pixels={tmp_path}"
    assert f"--data.source={tmp_path}" in given.command(given.settings["minutes"])
    data = f"rare_words={tmp_path / 'unread'},pixels={tmp_path / 'nowhere'}"  # what is not asked needs no files
    assert main(["report", "--only=pixels", "--data", data, "--out", str(tmp_path / "out")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_scaling_compares_at_every_width_and_fits_a_law(tmp_path):
    asked = Scaling(
        name="grows",
        claim="More is better.",
        published="nowhere",
        recipe="tiny",
        checks=(Check(what="R²", measure=of_law("mlstm", "R2"), bar=0.0),),
        settings={"minutes": Setting(models=("mlstm", "lstm"), options={"trainer.steps": "2", "trainer.threads": "1"})},
        widths={"minutes": (24, 40, 64)},
    )
    (found,) = answer_all([asked], "minutes", tmp_path).answers
    rows = found.evidence.rows
    assert len(rows["mlstm"]["params"]) == len(rows["lstm"]["nats"]) == 3
    for mine, twin in zip(rows["mlstm"]["params"], rows["lstm"]["params"], strict=True):
        assert abs(mine / twin - 1) < 0.02
    assert sorted(path.name for path in (tmp_path / "grows").iterdir() if path.is_dir()) == ["width-24", "width-40", "width-64"]
    text = (tmp_path / "report.md").read_text()
    assert "for width in 24 40 64; do openxlstm compare tiny --models 'mlstm,lstm'" in text


def test_capacity_is_the_score_over_the_bytes_carried(tmp_path):
    asked = Capacity(
        name="holds",
        claim="A larger state holds more.",
        published="nowhere",
        recipe="mqar",
        dense=True,
        checks=(Check(what="score of mlstm", measure=score("mlstm"), bar=0.0),),
        settings={
            "minutes": Setting(
                models=("mlstm", "transformer"),
                options={
                    "trainer.steps": "2",
                    "trainer.batch_size": "4",
                    "trainer.threads": "1",
                    "data.vocab_size": "64",
                    "data.train_length": "16",
                    "data.eval_length": "16",
                    "data.report_lengths": "",
                    "data.test_samples": "8",
                    "data.validation_samples": "8",
                },
            )
        },
        widths={"minutes": (32, 64)},
    )
    (found,) = answer_all([asked], "minutes", tmp_path).answers
    rows = found.evidence.rows
    small, large = rows["mlstm"]["bytes"]
    assert 3.5 < large / small < 4.5  # the memory is a matrix, the convolution's window is not
    assert rows["transformer"]["bytes"][1] < 2.5 * rows["transformer"]["bytes"][0]  # keys and values of 16 steps
    assert (tmp_path / "holds" / "capacity.png").exists()


def test_losses_that_do_not_fall_have_no_law():
    asked, rising = QUESTIONS["scaling"], {"a": ([1e4, 3e4, 9e4], [2.0, 3.0, 4.0])}
    rows = asked.rows(rising, rising)
    assert "do not fall" in rows["a"]["no_law"]
    assert finding(Check(what="", measure=of_law("a", "R2"), bar=0.95), rows).measured is None
    assert "none: the losses do not fall" in asked.table(rising)


def test_checks():
    low, high = Check(what="", measure=score("a"), bar=1.0, at_most=True), Check(what="", measure=score("a"), bar=1.0)
    assert low.holds(1.0)
    assert high.holds(1.0)
    assert low.holds(0.5)
    assert not high.holds(0.5)
    assert not low.holds(math.nan)
    assert not high.holds(math.nan)
    rows = {"a": {"score": 1.0, "by_context": {"64": 2.0, "2048": 1.5}}, "b": {"score": 4.0}}
    assert share("a", "b")(rows) == 0.25
    assert in_most("a")({"a": {"scores": [1.0, 0.9, 0.2, 0.8, 0.7]}}) == 0.7
    assert in_most("a")({"a": {"scores": [0.3]}}) == 0.3
    assert grown("a", 2048)(rows) == -0.5
    rows = {"a": {"nats_per_token": 3.0}, "b": {"nats_per_token": 2.0}, "c": {"nats_per_token": 2.5}}
    assert steepest("a", "b")(rows) == -1.0
    assert steepest("a", "b", "c")(rows) == 0.5
    levels = {"a": (0.9, 0.7, 0.8), "b": (0.8, 0.6, 0.8)}
    rows = {name: {"by_length": [{"score": score} for score in scores]} for name, scores in levels.items()}
    assert worst("a")(rows) == 0.7
    assert ahead_everywhere("a", "b")(rows) == 0.0
    assert ahead_everywhere("b", "a")(rows) == pytest.approx(-0.1)
    rows = {"a": {"by_frequency": [5.0, 4.0, 1.0]}, "b": {"by_frequency": [8.0, 6.0, 1.0]}}
    assert rarest_first("a", "b")(rows) == 1.0
    assert rarest_first("b", "a")(rows) == -3.0


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", [name for name, asked in QUESTIONS.items() if isinstance(asked, Trained)])
def test_every_question_can_be_asked(name, scale):
    """Its settings exist, and the models that its checks look at are trained."""
    asked = QUESTIONS[name]
    setting = asked.settings[scale]
    config = override(recipe(asked.recipe), setting.options)
    for model in setting.models:
        variant(config.model, model)
    contexts = dict.fromkeys(map(str, (config.trainer.context, *config.trainer.report_contexts)), 1.0)
    lengths = [{"lengths": at, "score": 1.0} for at in getattr(config.data, "report_lengths", ())]
    row = {
        "score": 1.0,
        "scores": [1.0] * setting.seeds,
        "nats_per_token": 1.0,
        "by_context": contexts,
        "by_frequency": [1.0] * 10,
        "by_length": [{"lengths": "1", "score": 1.0}],
        "other_lengths": lengths,
    }
    rows = dict.fromkeys(setting.models, row)
    if isinstance(asked, Sweep):
        assert len(asked.widths[scale]) >= 2
        for width, model in itertools.product(asked.widths[scale], setting.models):
            variant(override(config, asked.at(str(width), str(2 * width))).model, model)
        points = {m: ([1e4, 3e4, 9e4], [3.0, 2.0, 1.5]) for m in setting.models}
        rows = asked.rows(points, points)
    for check in asked.checks:
        assert math.isfinite(check.measure(rows))
    assert asked.command(setting).startswith("openxlstm compare ")


def test_the_cost_of_attention_grows_and_that_of_xlstm_does_not(tmp_path, monkeypatch):
    monkeypatch.setitem(cost.CONTEXTS, "minutes", (16, 512))
    monkeypatch.setitem(cost.SIZES, "minutes", (32, 2))
    (found,) = answer_all([QUESTIONS["cost"]], "minutes", tmp_path).answers
    rows = found.evidence.rows
    assert rows["mlstm"]["state"][0] == rows["mlstm"]["state"][1]
    assert rows["transformer"]["state"][1] > 20 * rows["transformer"]["state"][0]
    assert all(x > 0 for columns in rows.values() for what in cost.MEASURED for x in columns[what])
    text = (tmp_path / "report.md").read_text()
    rate = 512 / rows["transformer"]["training"][1]
    assert f"| transformer | 512 | {rate:,.0f} |" in text
    assert "| transformer costs more than | training | prompt | one token | state |" in text
    assert re.search(r"^\| mlstm \|.*\| from \d+ on \|$", text, re.MULTILINE), "the state's is not a matter of time"
    assert (tmp_path / "cost" / "cost.png").exists()
    said = []
    (again,) = answer_all([QUESTIONS["cost"]], "minutes", tmp_path, said.append).answers
    assert "  measured before" in said
    assert again.findings == found.findings


def test_costs_are_measured_with_threads_of_their_own(tmp_path, monkeypatch):
    """Not with those that happened to be set; and again at another scale."""
    asked, used = QUESTIONS["cost"], []

    def fake(scale, say):
        used.append((scale, torch.get_num_threads()))
        columns = {what: [1.0] * len(cost.CONTEXTS[scale]) for what in cost.MEASURED}
        return {name: {"context": list(cost.CONTEXTS[scale]), **columns} for name in cost.MODELS}

    monkeypatch.setattr(cost, "measure", fake)
    monkeypatch.setattr(cost, "available_cpus", lambda: 3)
    monkeypatch.setattr(cost, "draw", lambda *words: None)
    before = torch.get_num_threads()
    for scale in ("minutes", "minutes", "hours"):
        asked.ask(scale, tmp_path, tmp_path, print)
    assert used == [("minutes", 3), ("hours", 3)]
    assert torch.get_num_threads() == before
    stored = json.loads((tmp_path / "cost.json").read_text())
    assert (stored["scale"], stored["threads"]) == ("hours", 3)
    (tmp_path / "cost.json").write_text(json.dumps(stored["models"]))  # as an earlier version wrote it
    assert asked.ask("hours", tmp_path, tmp_path, print).rows == stored["models"]
    assert len(used) == 2
    asked.ask("minutes", tmp_path, tmp_path, print)
    assert len(used) == 3


@pytest.mark.parametrize("scale", ["minutes", "hours"])
def test_the_committed_costs_are_taken_up(scale):
    path = Path(__file__).parents[2] / "experiments" / scale / "cost" / "cost.json"
    assert set(cost.measured_before(path, scale)) == set(cost.MODELS)
    assert cost.measured_before(path, "gpu") is None


def test_from_which_context_on_attention_costs_more():
    contexts = [100, 400, 1600]
    assert cost.crossing(contexts, [1, 1, 1], [2, 4, 8]) == "at 100 and on"
    assert cost.crossing(contexts, [8, 8, 8], [1, 2, 8]) == "not up to 1,600"
    assert cost.crossing(contexts, [2, 2, 2], [1, 4, 16]) == "from 200 on"
    assert cost.crossing(contexts, [1, 2, 2], [2, 1, 4]) == "from 800 on", "the last crossing counts"
    assert cost.crossing(contexts, [2, 2, None], [1, 4, None]) == "from 200 on"
    assert cost.crossing(contexts, [1, None, None], [None, 1, 1]) == "not measured"


def test_costs_say_where_memory_did_not_suffice(tmp_path):
    def full(message):
        raise torch.OutOfMemoryError(message)

    assert cost.if_it_fits(lambda: 3.0) == 3.0
    assert cost.if_it_fits(lambda: full("CUDA out of memory. Tried to allocate")) is None
    with pytest.raises(RuntimeError, match="illegal"):
        cost.if_it_fits(lambda: full("an illegal memory access"))
    whole = {what: [1.0, 2.0, 4.0, 8.0] for what in cost.MEASURED}
    found = {name: {"context": list(cost.CONTEXTS["gpu"]), **whole} for name in cost.MODELS}
    found["mlstm"] |= {"training": [1.0, None, None, None], "step": [1.0, 1.5, None, None], "state": [None] * 4}
    assert cost.as_table(found).count("out of memory") == 3 + 2 + 4
    assert growth("mlstm", "step")(found) == 1.5
    with pytest.raises(KeyError):
        growth("mlstm", "state")(found)
    cost.draw(found, tmp_path / "cost.png", "gpu")
    assert (tmp_path / "cost.png").exists()


def test_the_verb(capsys):
    assert main(["report", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in QUESTIONS)
    for words, message in (
        (["--scale=days"], "must be one of minutes, hours, gpu"),
        (["--only=pariti"], "unknown question 'pariti'; did you mean 'parity'?"),
        (["parity"], "--only=parity"),
        (["--only=,"], "--only names no question; openxlstm report --list shows them"),
        (["--only=parity,pixels", "--data=pixels=/nope"], "--data pixels=/nope: no such file or folder"),
        (["--data=parity=x"], "--data parity=x: expected NAME=PATH, where NAME is pixels or rare_words"),
        (["--data=pixels"], "--data pixels: expected NAME=PATH, where NAME is pixels"),
        (["--scail=hours"], "did you mean --scale"),
    ):
        assert main(["report", *words]) == 2
        assert message in capsys.readouterr().err


def test_trainings_at_a_time(tmp_path, monkeypatch):
    """One a core, or as many as the option says."""
    asked = []

    def ask(questions, scale, folder, say, jobs, cells):
        asked.append(jobs)
        return Report(folder, scale, tuple(questions), ())

    monkeypatch.setattr("openxlstm.experiments.answer_all", ask)
    monkeypatch.setattr("openxlstm.training.cells.available_cpus", lambda: 3)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--only=parity"]) == main(["report", "--only=parity", "--jobs=2"]) == 0
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert main(["report", "--only=parity"]) == 0
    assert asked == [3, 2, 1]
