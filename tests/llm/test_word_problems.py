"""Word problems: the generator and its three solutions, and how they are put to a model."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

from lora_reuse.llm.data import gsm, word_problems
from lora_reuse.llm.data.gsm import Problem
from lora_reuse.llm.data.word_problems import INSTANCES, LEVELS, graph, problem, templates
from lora_reuse.llm.scoring import solutions

torch.set_num_threads(1)


def printed(code: str) -> float:
    """What a program of ours prints, run here."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    return float(out.getvalue())


@pytest.mark.parametrize("level", LEVELS)
def test_words_and_both_programs_of_every_template_agree(level: str):
    for number in range(len(templates())):
        made = problem(number, level, 0, seed=1)
        gold = gsm.final(made.answer)
        assert printed(made.code) == printed(made.reusable) == gold > 0, made
        stated = solutions.equations(made.answer)
        assert len(stated) == len(graph(templates()[number], level)) == made.answer.count("\n")
        assert all(equation.holds for equation in stated)
        assert float(stated[-1].right) == gold
        assert "{" not in made.question + made.answer + made.code


def test_a_level_is_a_clause_and_a_node_more_on_the_same_graph():
    for template in templates():
        nodes = [[step[:2] for step in graph(template, level)] for level in LEVELS]
        assert [len(n) - len(nodes[0]) for n in nodes] == [0, 1, 2]
        assert nodes[2][:-1] == nodes[1]
        assert nodes[1][:-1] == nodes[0]
    questions = [problem(0, level, 0, seed=0).question for level in LEVELS]
    assert [len(re.findall(r"[.?](?= |$)", q)) - len(re.findall(r"[.?](?= |$)", questions[0])) for q in questions] == [
        0,
        1,
        2,
    ]


def test_the_reusable_function_is_the_same_at_every_level_and_its_defaults_change_nothing():
    for number in range(0, len(templates()), 7):
        levels = [problem(number, level, 3, seed=0) for level in LEVELS]
        assert len({p.reusable.split("\n\nprint")[0] for p in levels}) == 1
        assert [
            p.reusable.split("\n\nprint")[1].count("=") - levels[0].reusable.split("\n\nprint")[1].count("=")
            for p in levels
        ] == [0, 1, 2]
        assert len({p.code.count("\n") for p in levels}) == 3


def test_nothing_that_is_held_out_was_trained_on():
    for level in LEVELS:
        found = word_problems.problems(level, 4, seed=0)
        assert len(found) == len({p.question for p in found}) == 4 * INSTANCES
    taught = {p.question for level in LEVELS for p in gsm.trained("own", level, 4, 0)}
    for level in LEVELS:
        for split in ("dev", "test"):
            assert not taught & {p.question for p in gsm.asked("own", level, 4, 0, split)}
    assert min(int(p.id) for p in gsm.shots("own", 0)) >= 100  # the most templates that are asked


def test_the_same_seed_draws_the_same_and_another_another():
    one, again, other = (word_problems.problems("p1", 1, seed) for seed in (0, 0, 1))
    assert one == again
    assert not {p.question for p in one} & {p.question for p in other}


def test_the_command_shows_and_writes(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert word_problems.main(["show=p1", "count=1", "solutions=reusable"]) == 0
    assert "def solve(" in capsys.readouterr().out
    assert word_problems.main([f"write={tmp_path}", "templates=1"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "GSM_p1.jsonl",
        "GSM_p2.jsonl",
        "GSM_symbolic.jsonl",
        "reusable_code.jsonl",
    ]
    assert word_problems.main(["show=p3"]) == 2
    assert word_problems.main([f"write={tmp_path / 'GSM_p1.jsonl'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 2


# Prompts


def test_prompts_are_those_of_figure_7():
    asked = Problem("0", 0, "Q?", "A\n#### 1", "", "print(1)")
    assert gsm.prompt(asked, "cot") == "### Instruction:\nQ?\n\n### Response: Let's think step by step."
    assert gsm.prompt(asked, "tir") == (
        "### Instruction:\nPlease integrate natural language reasoning with programs to solve the problem:\nQ?\n\n"
        "### Response: Let's reason step by step using natural language with programs to solve the problem."
    )
    assert gsm.lesson(asked, "text") == (gsm.prompt(asked, "cot"), "A\n#### 1")
    assert gsm.lesson(asked, "reusable") == (gsm.prompt(asked, "tir"), "```python\nprint(1)\n```")


def test_eight_solved_examples_come_before_the_question():
    asked = problem(0, "p2", 0, 0)
    told = gsm.prompt(asked, "cot", gsm.shots("own", 0))
    assert told.endswith("\n\n" + gsm.prompt(asked, "cot"))
    assert told.count("### Instruction:") == 9
    assert told.count("\n#### ") == 8
    assert (
        solutions.own(told.split("Let's think step by step.")[1]) == gsm.shots("own", 0)[0].answer
    )  # where a base goes on, it is cut
