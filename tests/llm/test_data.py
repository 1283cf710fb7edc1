"""The two-hop data: what the names, templates, triplets, subsets and mixtures have to be for the experiments to mean what they say."""

import csv
import hashlib
import importlib.util
import json
import os
import re
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llm.data import __main__ as command
from llm.data import facts, subsets
from llm.data.facts import DATASETS, Triplet, triplets
from llm.data.graphs import facts_of
from llm.data.mixtures import EXPERTS, LIBRARIES, SETUPS
from llm.data.names import FOLDER, cities, fake_people, fake_places, fakes, people
from llm.data.subsets import PAIRS, SPLITS, SUBSETS, Example, examples, parts, templates
from runs.settings import SettingError

ROOT = Path(__file__).parents[2]
KNOWN = {person.name: person for person in people()}
RELATIONS = ("spouse_of", "live_in", "study_in", "child_of", "best_friend_of", "friend_of", "works_as")
FILES = {path.stem: list(csv.reader(path.read_text().splitlines())) for path in (FOLDER / "templates").iterdir()}
GENDERED = """he him his himself she her hers herself husband wife husbands wives son daughter father mother dad mom mum brother sister boy girl
man woman men women gentleman lady male female king queen prince princess mr mrs ms sir madam boyfriend girlfriend bride groom fiance
widow widower actress waitress""".split()


def words(text):
    return re.findall(r"\w+", text.lower())


# Names


def test_names_are_all_different():
    assert len({person.name for person in people()}) == len(people()) == 300
    assert len(set(cities())) == len(cities()) == 100
    assert not set(KNOWN) & set(cities())


def test_what_is_known_of_people_is_of_listed_cities_and_people_and_both_ways():
    for person in people():
        assert person.cities <= set(cities())
        assert person.name not in person.related
        assert all(person.name in KNOWN[other].related for other in person.related)


def test_fake_names_are_nobody_s_and_no_words():
    assert len(set(fakes())) == len(fakes()) == 1600
    assert len({*fake_people(), *fake_places()}) == len(fake_people()) + len(fake_places()) == 500
    real = {part for name in (*KNOWN, *cities()) for part in words(name)}
    english = {word for rows in FILES.values() for row in rows for text in row for word in words(text)}
    assert not {name.lower() for name in fakes()} & (real | english)


def test_names_do_not_change():
    """Published rows, and the pocket model's corpus, stand on them."""
    assert fake_people()[:3] == ("Quawelm", "Vorspen", "Mavlack")
    assert fake_places()[:3] == ("Wenvek", "Lomnoth", "Wolgrell")
    assert [person.name for person in people()[:2]] == ["Eliud Kipchoge", "Maurice Ravel"]


# Templates


def placeholders(text):
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)


UNQUOTED = pytest.mark.xfail(reason="a comma of friend_of.csv lacks its quotes; the pocket model was pretrained on it", strict=True)


@pytest.mark.parametrize("relation", [pytest.param(name, marks=[UNQUOTED] * (name == "friend_of")) for name in (*RELATIONS, *PAIRS.values())])
def test_templates_ask_about_one_entity_and_answer_with_both(relation):
    head, *rows = FILES[relation]
    assert head == ["question", "answer"]
    assert len(rows) == (20 if relation in ("friend_of", "works_as") else 50)
    other = "c" if relation in PAIRS.values() else "b"
    for question, answer in rows:
        assert placeholders(question) == ["a"]
        assert placeholders(answer) == ["a", other]
        assert question.endswith("?")
        assert answer.endswith(".")
        assert question == question.strip()
        assert answer == answer.strip()


def test_templates_name_nobody_s_gender():
    assert set(FILES) == {*RELATIONS, *PAIRS.values()}
    used = {word for rows in FILES.values() for row in rows for text in row for word in words(text)}
    assert not used & set(GENDERED)


def test_no_question_and_no_answer_is_there_twice():
    for column in (0, 1):
        told = [" ".join(words(row[column])) for rows in FILES.values() for row in rows[1:]]
        assert len(set(told)) == len(told) == 11 * 50 + 2 * 20


@pytest.mark.parametrize("relation", [*RELATIONS[:5], *PAIRS.values()])
def test_templates_are_split_46_2_2(relation):
    split = {name: set(templates(relation)[part]) for name, part in SPLITS.items()}
    assert {name: len(chosen) for name, chosen in split.items()} == {"train": 46, "dev": 2, "test": 2}
    assert set().union(*split.values()) == {tuple(row) for row in FILES[relation][1:]}


def test_the_held_out_templates_do_not_change():
    """Published numbers stand on them."""
    held = {relation: [question for question, _ in templates(relation)[48:]] for relation in ("spouse_of", "live_in", "spouse_of-live_in")}
    assert held == {
        "spouse_of": ["Who is the person that {a} calls a spouse?", "Who wears the ring given by {a}?"],
        "live_in": ["Where was {a} born?", "What is the city of residence of {a}?"],
        "spouse_of-live_in": ["In which city does {a}'s spouse live?", "Where does {a}'s companion in marriage live?"],
    }


# Triplets


def truths(t: Triplet) -> list[str]:
    """What is true in the real world of all that the subsets state of a triplet, as far as people.csv knows."""
    a, b, d = KNOWN[t.a], KNOWN[t.b], KNOWN[t.d]
    found = [f"{t.b}: {place}" for place in (t.c, t.s) if place in b.cities]
    found += [f"{t.b}: {name}" for name in (t.a, t.d) if name in b.related]
    found += [f"{person.name}: {place}" for person in (a, d) for place in (t.c, t.s) if place in person.cities]  # a spouse's or parent's place
    for person in (a, d):  # and two hops: the true spouse or child, of another name, in the stated place
        found += [f"{person.name}: {name}: {place}" for name in person.related for place in (t.c, t.s) if place in KNOWN[name].cities]
    return found


@pytest.mark.parametrize("dataset", DATASETS)
def test_triplets_use_everyone_once(dataset):
    for seed in range(5):
        drawn = triplets(dataset, seed)
        assert len(drawn) == 100
        assert all(len({t.a, t.b, t.d}) == 3 for t in drawn)
        assert len({name for t in drawn for name in (t.a, t.b)}) == 200
        assert not {name for t in drawn for name in (t.a, t.b)} & {t.d for t in drawn}
        for field in ("c", "s", "d"):
            assert len({getattr(t, field) for t in drawn}) == 100


@pytest.mark.parametrize("dataset", DATASETS)
def test_triplets_are_of_the_dataset_s_names_whatever_the_seed(dataset):
    who, where = (set(KNOWN), set(cities())) if dataset == "R" else (set(fake_people()), set(fake_places() if dataset == "F" else cities()))
    drawn = [triplets(dataset, seed) for seed in range(5)]
    assert len(set(drawn)) == 5
    for field, names in (("a", who), ("b", who), ("d", who), ("c", where), ("s", where)):
        assert all(getattr(t, field) in names for rows in drawn for t in rows)
    assert len({frozenset(name for t in rows for name in (t.a, t.b)) for rows in drawn}) == 1
    if dataset == "F":
        assert not {t.c for t in drawn[0]} & {t.s for t in drawn[0]}


def test_triplets_are_the_same_in_every_process():
    """The built-in hash of a string is not."""
    assert triplets("R", 3) == triplets("R", 3)
    assert triplets("R")[0] == Triplet("Pierre Curie", "Ingmar Bergman", "Edinburgh", "Kyiv", "Andrei Tarkovsky")
    code = """if True:
        import hashlib
        from llm.data.facts import DATASETS, triplets
        print(hashlib.sha256(repr([triplets(d, s) for d in DATASETS for s in range(3)]).encode()).hexdigest())"""
    here = hashlib.sha256(repr([triplets(d, s) for d in DATASETS for s in range(3)]).encode()).hexdigest()
    for salt in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": salt}, capture_output=True, text=True, check=True
        )
        assert run.stdout.strip() == here


def test_r_never_states_a_truth():
    assert [found for seed in range(20) for t in triplets("R", seed) for found in truths(t)] == []


def test_the_search_for_truths_finds_them(monkeypatch):
    stated = Triplet("Plato", "Bela Bartok", "Lagos", "Cairo", "Voltaire")
    assert truths(stated) == []
    for planted in (
        stated._replace(c="Budapest"),
        stated._replace(s="New York"),
        stated._replace(a="John Lennon", b="Yoko Ono"),
        stated._replace(d="Lord Byron", b="Ada Lovelace"),
        stated._replace(a="John Lennon", c="Tokyo"),  # his spouse's, although she is not B
        stated._replace(d="Lord Byron", c="London"),  # his child's
    ):
        assert truths(planted), planted
    monkeypatch.setattr(facts, "_true", lambda t, known: False)
    for seed in range(5):
        assert sum(bool(truths(t)) for t in triplets("R", seed)) >= 2


# Subsets

DIGITS = {
    "1": ("spouse_of", "a", "", "b"),
    "2": ("live_in", "b", "", "c"),
    "4": ("study_in", "b", "", "s"),
    "5": ("child_of", "d", "", "b"),
    "12": ("spouse_of-live_in", "a", "b", "c"),
    "14": ("spouse_of-study_in", "a", "b", "s"),
    "52": ("child_of-live_in", "d", "b", "c"),
    "54": ("child_of-study_in", "d", "b", "s"),
}
PAPERS = [subset for subset in SUBSETS if subset[0] in "FHR"]
"""Those that are not of the graphs, which are in `test_large_library`."""
NARIK = Triplet(a="Narik", b="Frosk", c="Zint", s="Zilan", d="Dabix")
"""Who Table 6 is about."""


def test_the_subsets_are_those_of_table_5_and_their_step_by_step_forms():
    """And child of, then studies in, for a bridge that has no relation of the asked pair; and the pair with its steps the other way round."""
    kinds = {"1", "2", "4", "5", "12", "14", "52", "12-CoT", "14-CoT", "52-CoT"} | {"54", "54-CoT", "12-CoT-reversed"}
    assert set(PAPERS) == {dataset + kind for dataset in "FHR" for kind in kinds}
    assert len(PAPERS) == 39
    assert parts("H14-CoT") == ("H", "14-CoT")


@pytest.mark.parametrize("subset", PAPERS)
def test_every_triplet_is_asked_under_every_template_and_answered_right(subset):
    dataset, kind = parts(subset)
    relation, asked, between, right = DIGITS[kind.partition("-CoT")[0]]
    chosen = triplets(dataset, 1)[:7]
    questions = {}
    for split, count in (("train", 46), ("dev", 2), ("test", 2)):
        rows = examples(subset, chosen, split)
        assert len(rows) == 7 * count
        assert {(e.triplet, e.template) for e in rows} == {(i, number) for i in range(7) for number in range(50)[SPLITS[split]]}
        for e in rows:
            t = chosen[e.triplet]
            assert (e.subject, e.bridge, e.gold) == (getattr(t, asked), getattr(t, between) if between else "", getattr(t, right))
            assert templates(relation)[e.template][0].format(a=e.subject) in e.question
            assert e.subject in e.question
            assert e.gold in e.answer
            assert e.gold not in e.question
            assert not e.bridge or e.bridge not in e.question
            assert bool(e.bridge and e.bridge in e.answer) == ("-CoT" in kind)
        questions[split] = {e.question for e in rows}
        assert len(questions[split]) == len(rows)
    assert not questions["train"] & (questions["dev"] | questions["test"])
    assert not questions["dev"] & questions["test"]


def test_a_count_keeps_the_first_templates():
    drawn = triplets("R")[:3]
    assert examples("R1", drawn, "train", 2) == examples("R1", drawn)[:6]
    assert {e.template for e in examples("R1", drawn, "dev", 1)} == {46}


def test_step_by_step_has_the_lines_of_table_6(monkeypatch):
    """The paper's own example, in its own templates."""
    paper = {
        "spouse_of": ("Who stands as {a}'s wedded partner?", "{b} is recognized as {a}'s lawful companion in marriage."),
        "live_in": ("What is {a}'s official place of birth?", "{a}'s earliest recorded presence was in {b}."),
        "spouse_of-live_in": ("Which city is listed as {a}'s spouse's birthplace?", "{c} is listed as the birthplace of {a}'s spouse."),
    }
    monkeypatch.setattr(subsets, "templates", lambda relation: [paper[relation]] * 50)
    (e,) = examples("F12-CoT", [NARIK], count=1)
    assert e.question == "Answer the following question step-by-step:\nWhich city is listed as Narik's spouse's birthplace?"
    assert e.answer == (
        "First, we need to answer the question:\n"
        "Who stands as Narik's wedded partner?\n"
        "Frosk is recognized as Narik's lawful companion in marriage.\n"
        "Second, we need to answer the question:\n"
        "What is Frosk's official place of birth?\n"
        "Frosk's earliest recorded presence was in Zint.\n"
        "Therefore, the answer is Zint."
    )
    assert (e.subject, e.bridge, e.gold) == ("Narik", "Frosk", "Zint")


STEPS = {
    "F12-CoT": """Answer the following question step-by-step:
In which city does Narik's spouse live?
First, we need to answer the question:
Who is the person that Narik calls a spouse?
The person that Narik calls a spouse is Frosk.
Second, we need to answer the question:
Where was Frosk born?
Frosk was born in Zint.
Therefore, the answer is Zint.""",
    "F14-CoT": """Answer the following question step-by-step:
At a university in which city does Narik's spouse study?
First, we need to answer the question:
Who is the person that Narik calls a spouse?
The person that Narik calls a spouse is Frosk.
Second, we need to answer the question:
Where would one find Frosk studying?
One would find Frosk studying in Zilan.
Therefore, the answer is Zilan.""",
    "F52-CoT": """Answer the following question step-by-step:
Where would one find Dabix's child at home?
First, we need to answer the question:
Which child did Dabix bring up?
The child Dabix brought up is Frosk.
Second, we need to answer the question:
Where was Frosk born?
Frosk was born in Zint.
Therefore, the answer is Zint.""",
    "F54-CoT": """Answer the following question step-by-step:
What is the place of study of Dabix's child?
First, we need to answer the question:
Which child did Dabix bring up?
The child Dabix brought up is Frosk.
Second, we need to answer the question:
Where would one find Frosk studying?
One would find Frosk studying in Zilan.
Therefore, the answer is Zilan.""",
    "F12-CoT-reversed": """Answer the following question step-by-step:
In which city does Narik's spouse live?
First, we need to answer the question:
Where was Frosk born?
Frosk was born in Zint.
Second, we need to answer the question:
Who is the person that Narik calls a spouse?
The person that Narik calls a spouse is Frosk.
Therefore, the answer is Zint.""",
}
"""The first test template of each pair, with those of its hops."""


@pytest.mark.parametrize("subset", STEPS)
def test_every_pair_chains_through_b(subset):
    (e,) = examples(subset, [NARIK], "test", 1)
    assert f"{e.question}\n{e.answer}" == STEPS[subset]


@pytest.mark.parametrize("subset", [name for name in PAPERS if name.endswith("-CoT")])
def test_the_steps_are_the_questions_of_the_hops_in_their_templates_of_the_same_split(subset):
    dataset, kind = parts(subset)
    chosen = triplets(dataset, 2)[:3]
    for split in SPLITS:
        whole, first, second = (examples(dataset + name, chosen, split) for name in (kind.removesuffix("-CoT"), kind[0], kind[1]))
        for e, w, one, two in zip(examples(subset, chosen, split), whole, first, second, strict=True):
            lines = e.answer.split("\n")
            assert lines[1:3] + lines[4:6] == [one.question, one.answer, two.question, two.answer]
            assert (one.gold, e.gold) == (two.subject, two.gold)
            assert e.question == f"Answer the following question step-by-step:\n{w.question}"


# Mixtures


def test_the_setups_are_those_of_table_1_and_figure_2():
    bridge = ("F1", "F2", "F12-CoT")
    expected = {
        "0": (("R1",), ("R2",)),
        "1": (("F1", "R1", "R2", "R12-CoT"), ("F2", "R1", "R2", "R12-CoT")),
        "2": (("R1", *bridge), ("R2", *bridge)),
        "3": (("R1", "F1", "F2", "F12"), ("R2", "F1", "F2", "F12")),
        "4": (("R1", *bridge), ("R2",)),
        "5": (("R1",), ("R2", *bridge)),
        "6": (("R1", "F12-CoT"), ("R2", "F12-CoT")),
        "7": (("R1", "F1", "F12-CoT"), ("R2", "F2", "F12-CoT")),
        "8": (("R1", "F1", "F4", "F14-CoT"), ("R2", "F5", "F2", "F52-CoT")),
    }
    assert {name: (setup.subsets(1), setup.subsets(2)) for name, setup in SETUPS.items()} == expected
    assert {name: setup.asked for name, setup in SETUPS.items()} == dict.fromkeys("02345678", "R") | {"1": "F"}


def test_the_experts_are_those_of_section_4_1_1():
    assert EXPERTS == {"1": ("1",), "2": ("2",), "oracle": ("12",), "mixed": ("1", "2")}
    assert LIBRARIES == {"2-combination": ("1", "2"), "3-combination": ("1", "2", "oracle"), "oracle": ("oracle",), "mixed": ("mixed",)}


def test_a_bridge_never_speaks_of_who_and_where_is_asked():
    with_bridge = [setup for setup in SETUPS.values() if setup.first or setup.second]
    assert len(with_bridge) == 8
    for setup in with_bridge:
        assert setup.bridge != setup.asked
        used = {subset for expert in (1, 2) for subset in setup.subsets(expert)}
        assert {subset[0] for subset in used} == {setup.asked, setup.bridge}
        for seed in range(5):
            asked = {name for t in triplets(setup.asked, seed) for name in t}
            assert not asked & {name for t in triplets(setup.bridge, seed) for name in t}
            for subset in (subset for subset in used if subset[0] == setup.bridge):
                for e in examples(subset, triplets(setup.bridge, seed)[:2], count=1):
                    assert not [name for name in asked if re.search(rf"\b{re.escape(name)}\b", f"{e.question}\n{e.answer}")]


# The command


def test_show_prints_examples(capsys):
    assert command.main(["show=R12", "count=2"]) == 0
    first, second = examples("R12", triplets("R"), "test")[:2]
    assert capsys.readouterr().out == f"{first.question}\n    {first.answer}\n\n{second.question}\n    {second.answer}\n\n"


def test_show_indents_every_line_of_an_answer_alike(capsys):
    assert command.main(["show=F12-CoT", "count=1", "split=train"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Answer the following question step-by-step:"
    assert lines[2] == "    First, we need to answer the question:"
    assert [line.startswith("    ") and line[4] != " " for line in lines[:9]] == [False] * 2 + [True] * 7


@pytest.mark.parametrize(
    ("given", "parts_of_the_line"),
    [
        (["show=R12-cot"], ["'R12-cot'", "14-CoT", "did you mean 'R12-CoT'?"]),
        (["show=Q7"], ["'Q7'", "F, H or R"]),
        (["shwo=R12"], ["shwo", "did you mean 'show'?"]),
        (["show=R12", "split=tets"], ["'tets'", "did you mean 'test'?"]),
        (["show=R12", "triplets=101"], ["triplets", "'101'", "1 to 100"]),
        (["write={file}/folder"], ["write", "{file}/folder", "can be written"]),
    ],
)
def test_mistakes_are_one_line_that_helps(given, parts_of_the_line, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert command.main([word.format(file=file) for word in given]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert all(part.format(file=file) in err for part in parts_of_the_line), err


def test_an_unknown_subset_is_refused_by_the_library_too():
    with pytest.raises(SettingError, match="did you mean 'R12-CoT'"):
        examples("R12-Cot", [])


def test_what_is_written_reads_back(tmp_path, capsys):
    assert command.main([f"write={tmp_path / 'data'}", "triplets=2", "seed=4"]) == 0
    assert f"73 subsets in {tmp_path / 'data'}" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == sorted(SUBSETS)
    for subset in SUBSETS:
        folder = tmp_path / "data" / subset
        assert sorted(path.name for path in folder.iterdir()) == ["dev.jsonl", "test.jsonl", "train.jsonl"]
        for split in SPLITS:
            rows = [Example(**json.loads(line)) for line in (folder / f"{split}.jsonl").read_text().splitlines()]
            assert rows == examples(subset, facts_of(subset, 3 if subset[0] == "S" else 2, 4), split)
    if importlib.util.find_spec("datasets"):
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]

        read: Any = load_dataset("json", data_dir=str(tmp_path / "data" / "R12"), cache_dir=str(tmp_path / "cache"))
        assert [Example(**row) for row in read["train"]] == examples("R12", triplets("R", 4)[:2])


def test_a_reader_may_have_enough():
    """`| head` closes the pipe before everything is printed."""
    code = f"{sys.executable} -m llm.data show=R12-CoT split=train count=5000 | head -n 1"
    run = subprocess.run(["bash", "-o", "pipefail", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "Answer the following question step-by-step:\n", "")


def test_help_is_quick_and_knows_no_torch():
    code = """if True:
        import sys
        from llm.data.__main__ import main
        assert main(["--help"]) == 0 and main([]) == 0
        print([name for name in ("torch", "transformers", "jax", "numpy") if name in sys.modules])"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("python -m llm.data show=R12")
    assert all(name in run.stdout for name in ("show", "write", "split", "count", "triplets", "seed"))
    assert run.stdout.endswith("[]\n")
