"""Two skills and what needs both: the data, the marks, the gains against their sum, and the command on a tiny model."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora_reuse.llm import sandbox, skills
from lora_reuse.llm.data import skills as data
from lora_reuse.llm.data.pairs import pairs_in
from lora_reuse.llm.data.skills import FORMATS, PEOPLE, Taught, asked, code
from lora_reuse.llm.protocols import ask as asking
from lora_reuse.llm.protocols import composed as composing
from lora_reuse.llm.protocols.dials import LEARNED
from lora_reuse.llm.protocols.problems import ExamOptions
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.llm.protocols.settings import with_preset
from lora_reuse.llm.protocols.table import table
from lora_reuse.llm.scoring import gains as scored
from lora_reuse.llm.scoring import word_problems
from lora_reuse.llm.skills import SKILLS, SOUPS, Skills, sensible
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import SettingError
from tests.llm.tiny import tiny

torch.set_num_threads(1)


def test_nothing_that_is_asked_was_trained_on():
    first, second, mixed = (Taught("own", names, 0).pairs() for names in (("first",), ("second",), ("first", "second")))
    assert mixed == first + second
    trained = {prompt for prompt, _ in mixed}
    for split in ("dev", "test"):
        for what, formats in (
            ("both", "known"),
            ("both", "new"),
            ("first", "known"),
            ("second", "known"),
            ("second", "new"),
        ):
            found = asked("own", what, formats, split, 0)
            assert not trained & {q.prompt for q in found}
            assert len({q.prompt for q in found}) == len(found)
    assert not {*FORMATS["test"], *FORMATS["dev"]} & set(FORMATS["train"])


@pytest.mark.parametrize("made", ["own", "capitals"])
def test_the_second_skill_is_asked_facts_that_it_was_not_trained_on(made):
    """In formats that it was; of capitals no country gives its own away."""
    told = {answer.removeprefix("answer = ") for _, answer in Taught(made, ("second",), 0).pairs()}
    found = asked(made, "second", "known", "test", 0)
    assert len({q.id for q in found}) == data.FACTS // 2
    if made == "capitals":
        assert len(told) == data.FACTS
        assert not told & {q.answer for q in found}
        assert not any(q.answer.lower() in q.prompt.lower() for q in found)
        assert ("What is the capital of France?", "Paris") in {
            (fact.prompt, fact.value) for fact in data.capitals(data.FACTS * 3 // 2, 0)
        }
        assert Taught(made, ("first",), 0).pairs() == Taught("own", ("first",), 0).pairs()


def test_what_needs_both_is_a_new_home_in_every_format():
    found, alone = asked("own", "both", "known", "test", 0), asked("own", "first", "known", "test", 0)
    assert len(found) == 2 * PEOPLE * len(FORMATS["train"]) == len(alone) * len(FORMATS["train"])
    assert {q.format for q in found} == set(FORMATS["train"])
    homes = {q.id: q.answer for q in alone}
    assert len(homes) == PEOPLE
    for q in found:
        assert q.id in q.prompt
        assert q.answer == homes[q.id]
    told = [(prompt, answer) for prompt, answer in Taught("own", ("first",), 0).pairs()]
    assert all(any(person in prompt and home in answer for person, home in homes.items()) for prompt, answer in told)
    code_alone = Taught("own", ("second",), 0).pairs()
    assert all(code(answer) is not None for _, answer in code_alone)
    assert not [prompt for prompt, _ in code_alone if any(person in prompt for person in homes)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("answer = 7", "7"),
        (' answer = "Ann Lee" ;', "Ann Lee"),
        ("It is 7.", None),
        ("answer = 7 It is 7.", "7 It is 7."),  # the value is then not right
        ("the answer = 7", None),
        ("answer =", None),
        ("", None),
    ],
)
def test_code_is_one_assignment(text, value):
    assert code(text) == value


def folder(path: Path, **files: list[tuple[str, str]]) -> Path:
    path.mkdir()
    for name, pairs in files.items():
        (path / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": p, "answer": a}) + "\n" for p, a in pairs))
    return path


def test_data_of_ones_own(tmp_path):
    path = folder(tmp_path / "d", first=[("p", "a")], second=[("q", "b"), ("r", "c")], both=[("s", "It is 1,200")])
    assert Taught(str(path), ("first", "second"), 0).pairs() == [("p", "a"), ("q", "b"), ("r", "c")]
    assert [q.prompt for q in asked(str(path), "both", "known", "test", 0)] == ["s"]
    for text, message in (
        ("", "which is empty"),
        ("{\n", ":1: got '{'"),
        ('{"prompt": 1, "answer": "x"}', '"prompt": "..."'),
    ):
        (path / "first_test.jsonl").write_text(text)
        pairs_in.cache_clear()
        with pytest.raises(SettingError, match=message):
            asked(str(path), "first", "known", "test", 0)
    with pytest.raises(SettingError, match=r"second_test.jsonl \(FileNotFoundError\)"):
        asked(str(path), "second", "known", "test", 0)


def test_marks_tell_which_skill_is_lacking():
    point = Skills()
    questions = skills.questions(point, 0)[:4]
    home = questions[0].reference.answer
    assert home != "Paris"
    marks = skills.mark(
        point, questions, [f"answer = {home}", f"It is {home}.", "answer = Paris", f"answer = {home}ton"], ExamOptions()
    )
    assert [(m["right"], m["value"], m["form"]) for m in marks] == [
        (True, True, True),
        (False, True, False),
        (False, False, True),
        (False, False, True),
    ]
    alone = Skills(asked="first")
    question = skills.questions(alone, 0)[0]
    home = question.reference.answer
    assert [
        m["right"] for m in skills.mark(alone, [question] * 2, [f"It is {home}.", f"It is {home}ton."], ExamOptions())
    ] == [True, False]


def test_numbers_of_ones_own_data_are_those_that_programs_print(tmp_path, monkeypatch):
    path = folder(
        tmp_path / "d", first=[("p", "a")], second=[("p", "a")], both=[("s", "so 1,200"), ("t", "#### 5"), ("u", "9")]
    )
    point = Skills(data=str(path))
    questions = skills.questions(point, 0)
    ran: list[str] = []

    def run_all(programs, *_):
        ran.extend(programs)
        return [sandbox.Result("done", "1200\n", "", 0.0) for _ in programs]

    monkeypatch.setattr(word_problems, "run_all", run_all)
    said = ["```python\nprint(12 * 100)\n```", "it is 4 + 1 = 5", "no idea"]
    marks = skills.mark(point, questions, said, ExamOptions())
    assert [m["right"] for m in marks] == [False, True, False]  # the text's last number is 100
    assert not ran
    marks = skills.mark(point, questions, said, ExamOptions(allow_code_execution=True))
    assert [m["right"] for m in marks] == [True, True, False]
    assert ran == ["print(12 * 100)\n"]


# Gains


def gains(rows):
    return scored.gains(rows, "both", lambda settings: SKILLS)


def row(library, composition, hits, formats="known", seed=0) -> dict[str, Any]:
    settings = {"library": library, "composition": composition, "asked": "both", "formats": formats, "seed": seed}
    return {
        "settings": settings,
        "measured": {
            "by_group": list(hits),
            "group_sizes": [1] * len(hits),
            "hits": int(sum(hits)),
            "total": len(hits),
        },
        "predicted": {},
    }


def rows(both, first, second, base, composition="cat:own") -> list[dict[str, Any]]:
    return [
        row("none", "base", base),
        row("first", "alone", first),
        row("second", "alone", second),
        row("both", composition, both),
    ]


def test_a_gain_against_the_sum_of_gains():
    """By hand: the base answers 1 of 8, the experts 2 and 3, both together 7: gains 6, 1 and 2, so 3 more than their
    sum."""
    both, first, second, base = ([1] * n + [0] * (8 - n) for n in (7, 2, 3, 1))
    (found,) = gains(rows(both, first, second, base))
    assert {k: found[k] for k in ("composition", "gain", "first", "second", "more")} == pytest.approx(
        {"composition": "cat:own", "gain": 6 / 8, "first": 1 / 8, "second": 2 / 8, "more": 3 / 8}
    )
    assert math.isnan(found["low"])
    assert math.isnan(found["high"])
    assert "one seed has no interval" in table(skills.PROTOCOL, rows(both, first, second, base))
    assert gains(rows(both, first, second, base)[:3]) == []
    assert gains(rows(both, first, second, base)[1:]) == []


def test_a_rule_gains_at_every_value_of_its_dials():
    """The base and the experts alone have no such dial."""
    base, first, second, *both = ([1] * n + [0] * (8 - n) for n in (1, 2, 3, 7, 6))
    found = [*rows(both[0], first, second, base, "ties"), row("both", "ties", both[1])]
    for one, density in zip((found[3], found[4]), (0.2, 0.5), strict=True):
        one["settings"]["density"] = density
    assert {g["composition"]: g["gain"] for g in gains(found)} == {
        "ties density=0.2": 6 / 8,
        "ties density=0.5": 5 / 8,
    }
    assert [g["composition"] for g in gains(found[:4])] == ["ties"]


@pytest.mark.parametrize(
    ("both", "alone", "verdict"), [(90, 20, "super-linear"), (30, 40, "less than the sum"), (42, 20, "not told apart")]
)
def test_the_verdict_is_that_of_the_interval(both, alone, verdict):
    rng = np.random.default_rng(0)
    drawn = lambda share: (rng.random(200) < share / 100).astype(int).tolist()  # noqa: E731
    found = [
        one | {"settings": one["settings"] | {"seed": seed}}
        for seed in range(3)
        for one in rows(drawn(both), drawn(alone), drawn(alone), [0] * 200)
    ]
    assert verdict in table(skills.PROTOCOL, found)
    (result,) = gains(found)
    assert result["low"] < (both - 2 * alone) / 100 < result["high"]


def test_an_interval_of_gains_is_that_of_paired_seeds():
    """By hand: over three seeds of 100 questions what is more than the sum is 0.1, 0.2 and 0.3, and a seed's questions
    differ by more than that explains, so the error is Student's of the three, 4.3027·0.1/√3."""
    found = []
    for seed, more in enumerate((10, 20, 30)):
        drawn = rows([1] * more + [0] * (100 - more), [0] * 100, [0] * 100, [0] * 100)
        found += [one | {"settings": one["settings"] | {"seed": seed}} for one in drawn]
    (result,) = gains(found)
    assert result["more"] == pytest.approx(0.2)
    assert (result["low"], result["high"]) == pytest.approx(
        (0.2 - 4.3027 * 0.1 / math.sqrt(3), 0.2 + 4.3027 * 0.1 / math.sqrt(3)), abs=1e-4
    )


def test_a_mistake_planted_in_the_sum_would_show():
    """Against the better expert alone, or without the base, the same rows give other numbers than gains does."""
    both, first, second, base = ([1] * n + [0] * (100 - n) for n in (60, 40, 35, 20))
    (found,) = gains(rows(both, first, second, base))
    assert found["more"] == pytest.approx(0.60 - 0.40 - 0.35 + 0.20)
    for wrong in (0.60 - max(0.40, 0.35), 0.60 - 0.40 - 0.35, 0.60 - 0.40 - 0.35 + 2 * 0.20):
        assert abs(wrong - found["more"]) > 0.1
    pooled = gains(
        rows(both, first, second, base)
        + [dict(r, settings=r["settings"] | {"seed": 1}) for r in rows(both, first, second, base)]
    )
    assert len(pooled) == 1
    assert pooled[0]["more"] == pytest.approx(found["more"])
    assert pooled[0]["low"] < pooled[0]["more"] < pooled[0]["high"]


# The command


def test_code_is_learned_on_what_the_base_knows():
    assert Skills().data == "capitals"
    assert with_preset(Skills, {"model": ("pocket",)})["data"] == ("own",)


def test_points_that_make_sense():
    assert sensible(Skills(composition="base", library="first")) == sensible(Skills(composition="base"))
    assert sensible(Skills(library="mixed", composition="ties")) == Skills(library="mixed", composition="alone")
    assert sensible(Skills(formats="new", asked="first")) is None
    assert sensible(Skills(formats="new", data="folder")) is None
    assert set(SOUPS) < set(LEARNED)
    assert not any(name.endswith("two_hop") for name in SOUPS)


@pytest.fixture
def few(monkeypatch):
    """Three people."""
    monkeypatch.setattr(data, "PEOPLE", 3)
    monkeypatch.setattr(data, "FACTS", 6)
    data.known_facts.cache_clear()
    yield
    data.known_facts.cache_clear()


def test_every_library_from_its_command(few, tmp_path, capsys):
    model = tiny(
        "qwen2", tmp_path / "model", text=" ".join(f"{p} {a}" for p, a in Taught("own", ("first", "second"), 0).pairs())
    )
    small = "steps=2 batch=4 rank=2 answer_tokens=4 learn_steps=2 learn_tries=2 workers=1".split()
    words = [f"model={model}", "data=own", *small, "composition=base,sum,cat:own", "formats=known"]
    words.append(f"out={tmp_path / 'out'}")
    assert main(skills.PROTOCOL, words) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "6 rows" in out  # the base, three experts alone, two compositions of both
    assert "gain over the base" in out
    assert len(list((tmp_path / "out" / "experts").glob("*/adapter_model.safetensors"))) == 3
    found = load_rows(tmp_path / "out", "llm_skills")
    assert {(r["settings"]["library"], r["settings"]["composition"]) for r in found} == {
        ("none", "base"),
        ("first", "alone"),
        ("second", "alone"),
        ("mixed", "alone"),
        ("both", "sum"),
        ("both", "cat:own"),
    }
    assert all(r["measured"]["total"] == 6 * len(FORMATS["train"]) for r in found)
    assert all(r["measured"]["group_sizes"] == [2 * len(FORMATS["train"])] * 3 for r in found)
    assert main(skills.PROTOCOL, words) == 0
    assert "0 new, 6 from before" in capsys.readouterr().out


def test_super_linear_answers_are_said_to_be(few, tmp_path, monkeypatch, capsys):
    """What answers right only where both experts are there gains all of its share over experts that gain nothing."""
    model = tiny("qwen2", tmp_path / "model")
    right = {q.prompt: f"answer = {q.answer}" for q in asked("own", "both", "known", "test", 0)}
    compositions: list[Any] = []
    monkeypatch.setattr(
        asking,
        "answers",
        lambda base, listed, prompts, *_: [
            [right[p] if c is compositions[-1] else "" for p in prompts] for c in listed
        ],
    )
    real = composing.compose
    monkeypatch.setattr(
        composing, "compose", lambda *arguments: compositions.append(real(*arguments)) or compositions[-1]
    )
    small = (
        "data=own steps=1 batch=4 rank=2 answer_tokens=4 workers=1 library=both,first,second composition=base,sum"
        " formats=known"
    ).split()
    assert main(skills.PROTOCOL, [f"model={model}", *small, f"out={tmp_path / 'out'}"]) == 0, capsys.readouterr().err
    assert "sum: +100 (experts alone +0 and +0), more by +100: one seed has no interval" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=nowhere"], "data: got nowhere/both.jsonl (FileNotFoundError)"),
        (["library=third"], "library: got 'third'"),
        (["composition=cat:two_hop"], "composition: got 'cat:two_hop'"),
        (["library=none", "composition=sum"], "the grid: got no point"),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path, capsys):
    assert main(skills.PROTOCOL, [*words, f"out={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_answers_of_a_folder_need_a_number(tmp_path, capsys):
    path = folder(tmp_path / "d", first=[("p", "a")], second=[("p", "a")], both=[("s", "nothing")])
    assert main(skills.PROTOCOL, [f"data={path}", f"out={tmp_path / 'out'}"]) == 2
    assert "has no number" in capsys.readouterr().err
