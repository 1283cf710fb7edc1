"""Several skills in one answer: what each expert learns, what is asked, what is right, which rows are the controls."""

import dataclasses
import re

import pytest

from lora_reuse.llm.data import skill_sets as data
from lora_reuse.llm.data.skill_sets import FORMS, HOMES, SKILLS, Asked, Taught, asked, marks
from lora_reuse.llm.protocols.controls import verdicts
from lora_reuse.llm.protocols.protocol import library_of
from lora_reuse.llm.protocols.settings import with_preset
from lora_reuse.llm.skill_sets import EVERY, PROTOCOL, SETS, SkillSets, controls, hoped, questions, score, sensible
from lora_reuse.runs.grid import settings_of
from lora_reuse.runs.settings import SettingError
from tests.rows_of_models import row

POINT = SkillSets(asked="homes+code+style")
ALL = "+".join(SKILLS)
ASKED = (*SETS, "json", "upper", "homes+json", "homes+upper", "code+json", "call+style+upper", "+".join(EVERY))
"""Every set of the five skills, and some with the two others."""


def said(question: Asked, skills: tuple[str, ...]) -> str:
    """An answer in all these forms, each around the one before."""
    text = question.value
    for name, around in {
        "json": '{{"answer": "{}"}}',
        "code": "answer = {}",
        "call": "tell( {})",
        "spanish": "Hola: {}",
        "style": "{}, you know.",
    }.items():
        text = around.format(text) if name in skills else text
    return text.upper() if "upper" in skills else f"it is {text}"


def test_a_set_is_asked_in_the_phrase_of_each_of_its_forms_and_no_other():
    for skills in (name.split("+") for name in ASKED):
        for question in asked(tuple(skills), "test", 0):
            has = {name for name, form in FORMS.items() if any(phrase in question.prompt for phrase in form.phrases)}
            assert has == set(skills) - {HOMES}


def test_an_answer_is_right_in_all_forms_at_once_and_wrong_without_any_one():
    for name in ASKED:
        point = SkillSets(asked=name)
        for question in questions(point, 0)[:3]:
            skills, about = question.reference
            assert score(question, said(about, skills))["right"]
            for lacking in set(skills) - {HOMES}:
                found = score(question, said(about, tuple(s for s in skills if s != lacking)))
                assert [part for part, holds in found.items() if not holds] == ["right", lacking]
            other = next(iter(about.values - {about.value}))
            more = said(about._replace(value=other), ("upper",) if "upper" in skills else ())
            for text in (said(about._replace(value=other), skills), f"{said(about, skills)} {more}"):
                found = score(question, text)
                assert [part for part, holds in found.items() if not holds] == ["right", "value"]


def test_a_forecast_of_two_skills_reads_no_question_that_is_scored():
    for name, split in (("homes+style", "test"), ("code+call", "dev")):
        point = SkillSets(asked=name, split=split)
        found = hoped(point, 0, 6)
        assert found
        assert {kind: len(set(prompts)) for kind, prompts in found.items()} == {"a": 6, "b": 6, "hoped": 6}
        assert not {question.prompt for question in questions(point, 0)} & set(found["hoped"])
        for kind, skill in zip("ab", point.skills, strict=True):
            assert set(found[kind]) <= {prompt for prompt, _ in Taught((skill,), 0).pairs()}
    several = hoped(dataclasses.replace(POINT, asked=ALL), 0, 6)
    assert several
    assert {kind: len(set(prompts)) for kind, prompts in several.items()} == dict.fromkeys([*"abcde", "hoped"], 6)
    assert hoped(dataclasses.replace(POINT, asked="homes", library="homes", composition="alone"), 0, 6) is None
    assert hoped(dataclasses.replace(point, library="mixed"), 0, 6) is None


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("code", "the reply = Paris"),
        ("code", "answer ="),
        ("call", "retell( Paris)"),
        ("call", "tell( Paris"),
        ("spanish", "Hola Paris"),
        ("spanish", "Paris. Hola:"),
        ("style", " you know, Paris"),
        ("style", "Paris you know"),
        ("style", "Paris, you knowing"),
        ("json", '{"answer": Paris}'),
        ("json", '"answer": "Paris"'),
        ("upper", "It is PARIS"),
        ("upper", "It is Paris"),
    ],
)
def test_half_a_form_is_none(form, text):
    question = Asked("", "Paris", "", frozenset({"Paris", "Rome"}))
    assert marks(question, (HOMES, form), text) == {"value": "paris" in text.lower(), form: False}


def test_who_is_asked_about_is_no_wrong_value():
    """A friend of somebody is an answer to one question and the subject of another."""
    question = next(
        q for seed in range(5) for q in asked(("code",), "test", seed) if "friend" in q.prompt and q.value in q.values
    )
    assert not any(name in question.prompt for name in question.values)
    assert marks(question, (), f"{question.prompt} {question.value}")["value"]


def test_nothing_that_is_asked_was_trained_on_and_dev_is_not_test():
    trained = {prompt for prompt, _ in Taught(SKILLS, 3).pairs()}
    of = {
        split: {q.prompt for name in SETS for q in asked(tuple(name.split("+")), split, 3)} for split in ("dev", "test")
    }
    assert not trained & (of["dev"] | of["test"])
    assert not of["dev"] & of["test"]
    assert all(len(asked(tuple(name.split("+")), "test", 3)) == data.PEOPLE for name in SETS)


def test_an_expert_learns_its_own_form_alone_of_people_without_new_homes():
    homes = {q.subject for q in asked((HOMES,), "test", 0)}
    assert len(homes) == data.PEOPLE
    for name, form in FORMS.items():
        pairs = Taught((name,), 0).pairs()
        assert len(pairs) == data.FACTS["train"] * len(form.phrases)
        assert all(re.search(form.pattern, answer) for _, answer in pairs)
        for other, unlike in FORMS.items():
            if other != name:
                assert not any(re.search(unlike.pattern, answer) for _, answer in pairs)
                assert not any(phrase in prompt for prompt, _ in pairs for phrase in unlike.phrases)
        assert not any(person in prompt for prompt, _ in pairs for person in homes)
    assert Taught(SKILLS, 0).pairs() == [pair for skill in SKILLS for pair in Taught((skill,), 0).pairs()]


def test_the_oracle_learns_right_answers_to_other_questions():
    """Of homes in other wordings, of forms about other people: in every form that is asked, with the right value."""
    for name in ASKED:
        skills = tuple(name.split("+"))
        asking = {q.prompt for q in asked(skills, "test", 1)}
        homes = {q.subject: q.value for q in asked((HOMES,), "test", 1)}
        pairs = Taught(skills, 1, in_one=True).pairs()
        for prompt, answer in pairs[::40]:
            assert prompt not in asking
            person = next((person for person in homes if person in prompt), None)
            assert (person is not None) == (HOMES in skills)
            value = homes[person] if person else ""
            question = Asked("", value, "", frozenset({value} if value else ()))
            found = marks(question, tuple(FORMS) if "upper" in skills else (*SKILLS, "json"), answer)
            assert {form for form in FORMS if found.get(form)} == {*skills} - {HOMES}
            assert found["value"] or not person
    (whole, *_) = Taught(("code", "call", "spanish", "style"), 1, in_one=True).pairs()
    assert re.fullmatch(r"Hola: answer = tell\( .+\), you know\.", whole[1])
    (whole, *_) = Taught(tuple(FORMS), 1, in_one=True).pairs()
    assert re.fullmatch(r'HOLA: ANSWER = TELL\( \{"ANSWER": " [^a-z]+"\}\), YOU KNOW\.', whole[1])


def test_experts_are_trained_once_for_all_sets():
    every = {
        spec
        for name in SETS
        for library in ("asked", "mixed", *SKILLS)
        if (point := sensible(SkillSets(asked=name, library=library)))
        for spec in library_of(PROTOCOL, point, 0)
    }
    assert len(every) == len(SKILLS) + 1
    assert [spec.source.skills for spec in library_of(PROTOCOL, POINT, 0)] == [("homes",), ("code",), ("style",)]
    roles = [spec.role for spec in library_of(PROTOCOL, SkillSets(asked="+".join(EVERY)), 0)]
    assert roles == [1, 2, 3, 4, 5, 8, 9]  # 6 and 7 are the mixed expert and the oracle


def test_of_overlapping_experts_two_have_each_skill():
    point = dataclasses.replace(POINT, library="overlapping")
    found = [spec.source.skills for spec in library_of(PROTOCOL, point, 0)]
    assert found == [("homes", "code"), ("code", "style"), ("style", "homes")]
    assert sensible(point) == point
    assert sensible(dataclasses.replace(point, asked="homes+code")) is None
    assert controls(point) == controls(POINT)


def test_what_is_composed_of_whom():
    base = SkillSets(asked="homes+code", library="none", composition="base")
    assert sensible(dataclasses.replace(base, library="mixed")) == base
    assert sensible(SkillSets(asked="code")) == SkillSets(asked="code", library="code", composition="alone")
    assert sensible(SkillSets(asked="homes+code", library="style")) is None
    mixed = dataclasses.replace(POINT, library="mixed")
    assert sensible(mixed) == dataclasses.replace(mixed, composition="alone")
    assert sensible(POINT) == POINT
    more = dataclasses.replace(mixed, asked="homes+json", composition="alone")
    assert sensible(more) == more
    of = lambda point: library_of(PROTOCOL, point, 0)[0].source.skills  # noqa: E731
    assert (of(mixed), of(more)) == (SKILLS, EVERY)
    assert sensible(SkillSets(library="none")) is None
    assert len(SETS) == 31


def test_a_row_is_void_where_an_expert_does_not_have_its_own_skill():
    assert [control.settings["asked"] for control in controls(POINT)] == ["homes", "code", "style"]
    assert not controls(dataclasses.replace(POINT, library="mixed"))
    rows = [alone(skill, [2, 2], 0 if skill == "style" else 4) for skill in SKILLS]
    rows += [row("llm_skill_sets", [0, 0], asked=asked) for asked in ("homes+style", "homes+code")]
    learned = {"composition": "cat:own", "learn_share": 0.2, "granularity": "layer"}
    rows += [row("llm_skill_sets", [0, 0], asked="homes+code", **learned)]
    assert [v.void for v in verdicts(PROTOCOL, rows)[5:]] == ["style alone got 0 of 4", "", ""]
    assert not any(v.unmeasured for v in verdicts(PROTOCOL, rows))


def alone(skill, right, formed):
    """An expert asked for its own skill, with `formed` of four answers in its form."""
    measured = {skill: formed} if skill in FORMS else {}
    return row("llm_skill_sets", right, asked=skill, library=skill, composition="alone", measured=measured)


def test_a_form_needs_what_the_base_knows_only_where_no_fact_is_asked():
    """Each form's expert has its form in all answers, and the base knows the value in one of four."""
    rows = [alone(skill, [2, 2] if skill == HOMES else [1, 0], 4) for skill in SKILLS]
    rows += [row("llm_skill_sets", [0, 0], asked=asked) for asked in ("homes+code", "code+call")]
    assert [v.void for v in verdicts(PROTOCOL, rows)[5:]] == ["", "code alone got 1 of 4"]


def test_upper_case_needs_what_the_base_knows_beside_a_fact_too():
    """It spells the value anew, which JSON takes as it is."""
    rows = [alone(HOMES, [2, 2], 4), alone("json", [1, 0], 4), alone("upper", [1, 0], 4)]
    rows += [row("llm_skill_sets", [0, 0], asked=asked) for asked in ("homes+json", "homes+upper")]
    assert [v.void for v in verdicts(PROTOCOL, rows)[3:]] == ["", "upper alone got 1 of 4"]


def test_what_three_experts_gain_is_held_against_the_sum_of_three():
    """By hand: of 4 the base has 1, the experts 2, 1 and 1, all together 4: gains 3 and 1, so 2 of 4 more. Taken from
    the best expert, or with the base counted once, it would be another number."""

    def of(library, composition, right, seed=0):
        one = row("llm_skill_sets", right, asked=POINT.asked, library=library, composition=composition, seed=seed)
        return one | {"measured": one["measured"] | {"group_sizes": [1] * 4, "total": 4}}

    right = {"none": [1, 0, 0, 0], "homes": [1, 1, 0, 0], "code": [1, 0, 0, 0], "style": [0, 0, 0, 1]}
    rows = [of(name, "base" if name == "none" else "alone", each, s) for name, each in right.items() for s in (0, 1)]
    rows += [of("asked", "sum", [1, 1, 1, 1], seed) for seed in (0, 1)]
    assert "sum: +75 (experts alone +25, +0 and +0), more by +50 [" in PROTOCOL.below(rows)
    assert PROTOCOL.below([one for one in rows if one["settings"]["library"] != "style"]) == ""


@pytest.mark.parametrize("skills", ["code+homes", "homes+homes", "capitals", "", f"{ALL}+code"])
def test_a_set_that_is_none_is_refused(skills):
    with pytest.raises(SettingError, match=r"asked: got .*each once and in this order"):
        SkillSets(asked=skills)


def test_forms_are_learned_on_capitals_where_the_model_has_read_of_our_world():
    assert with_preset(SkillSets, {"model": ("smollm2",)})["data"] == ("capitals",)
    assert "data" not in with_preset(SkillSets, {}) | settings_of((POINT, 0))
    point = dataclasses.replace(POINT, data="capitals")
    assert all("data" not in control.settings for control in controls(point))  # the cell's own
    for library in ("asked", "mixed", "oracle"):
        for spec in library_of(PROTOCOL, dataclasses.replace(point, library=library), 0):
            assert spec.source.data == "capitals"
    pairs = Taught(("code",), 0, data="capitals").pairs()
    assert all("the capital of" in prompt and answer.startswith("answer = ") for prompt, answer in pairs)
    taught, asking = {prompt for prompt, _ in pairs}, {}
    for split in ("dev", "test"):
        found = asked(("code",), split, 0, "capitals")
        assert len({question.subject for question in found}) == data.PEOPLE
        asking[split] = {question.subject for question in found}
        assert not any(subject in prompt for prompt in taught for subject in asking[split])
    assert not asking["dev"] & asking["test"]
    (whole, *_) = Taught(("code", "call", "spanish", "style"), 1, in_one=True, data="capitals").pairs()
    assert re.fullmatch(r"Hola: answer = tell\( .+\), you know\.", whole[1])
