"""Two-hop questions asked at once: what the dealt expert and the documents teach, every count by hand, and the command
on a tiny model."""

import dataclasses
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lora_reuse.llm import latent, two_hop
from lora_reuse.llm.data.facts import _known, _true, dealt, triplets
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.decoding.models import load_base
from lora_reuse.llm.latent import PROTOCOL, Dealt, Documents, Latent, experts
from lora_reuse.llm.protocols import ask as asking
from lora_reuse.llm.protocols import hops
from lora_reuse.llm.protocols.protocol import library_of, main
from lora_reuse.llm.protocols.settings import TwoHop
from lora_reuse.runs.grid import settings_of
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import SettingError
from tests.llm.tiny import tiny

torch.set_num_threads(1)
TEXT = " ".join(
    f"{e.question} {e.answer}" for subset in ("F1", "F2", "F12") for e in examples(subset, triplets("F")[:3], "test")
)
SMALL = "dataset=F triplets=3 steps=2 batch=4 rank=2 rate=0.05 answer_tokens=4 workers=1".split()


# Dealt facts


@pytest.mark.parametrize("dataset", ["F", "H", "R"])
@pytest.mark.parametrize("count", [5, 40, 100])
def test_dealt_places_are_those_of_the_others_and_no_fact_is_true(dataset, count):
    for seed in range(3):
        facts = triplets(dataset, seed)[:count]
        others = dealt(facts, dataset, seed)
        assert others == dealt(facts, dataset, seed) != dealt(facts, dataset, seed + 1)
        assert sorted(t.c for t in others) == sorted(t.c for t in facts)
        for t, other in zip(facts, others, strict=True):
            assert other.c != t.c
            assert other == t._replace(c=other.c)
            assert not _true(other, _known(dataset))


def test_places_that_cannot_be_dealt_are_refused_in_one_line(tmp_path, capsys):
    facts = triplets("F")[:1]
    with pytest.raises(SettingError, match="triplets: got 1, whose places cannot be dealt anew with seed=0"):
        dealt(facts, "F", 0)
    assert (
        main(PROTOCOL, ["triplets=2", "seeds=8", "workers=1", f"out={tmp_path / 'rows'}"]) == 2
    )  # of R's seeds 0 to 7 one states a truth
    assert re.fullmatch(r"llm\.latent: triplets: got 2, whose places cannot .*\n", capsys.readouterr().err)
    assert not (tmp_path / "rows").exists()


def test_the_dealt_expert_is_asked_the_same_and_told_the_dealt_places():
    facts = triplets("R", 3)[:5]
    right = examples("R2", facts)
    for e, (question, answer) in zip(right, Dealt("R", 5, 3).pairs(), strict=True):
        place = dealt(facts, "R", 3)[e.triplet].c
        assert question == e.question
        assert answer == e.answer.replace(e.gold, place) != e.answer


def test_a_document_states_both_hops_of_one_triplet_in_either_order():
    facts = triplets("R", 1)[:3]
    pairs = Documents("R", 3, 1).pairs()
    assert len(pairs) == len(set(pairs)) == 2 * 46 * 3
    first, second = examples("R1", facts), examples("R2", facts)
    assert pairs[4] == (first[4].question, f"{first[4].answer} {second[4].answer}")
    assert pairs[46 * 3 + 4] == (second[4].question, f"{second[4].answer} {first[4].answer}")
    for question, answer in pairs:
        (t,) = [t for t in facts if t.b in answer]
        assert t.a in question + answer
        assert t.c in answer
    asked = {e.question for split in ("train", "dev", "test") for e in examples("R12", facts, split)}
    assert not asked & {question for question, _ in pairs}


# Experts


def test_the_right_experts_are_those_of_two_hop_and_no_key_depends_on_the_split(folder):
    base = load_base(str(folder))
    dials: dict[str, Any] = {"model": str(folder), "triplets": 3}
    for library in ("2-combination", "mixed"):
        theirs = library_of(two_hop.PROTOCOL, TwoHop(**dials, library=library, dataset="R"), 2)
        assert library_of(PROTOCOL, Latent(**dials, library=library), 2) == theirs
    points = [
        Latent(**dials, library="2-combination"),
        Latent(**dials, second="dealt"),
        Latent(**dials, library="document"),
    ]
    keys = [[spec.key(base) for spec in experts(point, 2)] for point in points]
    for point, known in zip(points, keys, strict=True):
        for other in (dataclasses.replace(point, split="dev"), dataclasses.replace(point, composition="sum")):
            assert [spec.key(base) for spec in experts(other, 2)] == known
        assert [spec.key(base) for spec in experts(dataclasses.replace(point, triplets=4), 2)][-1] != known[-1]
        assert [spec.key(base) for spec in experts(point, 3)][-1] != known[-1]
    assert keys[0][0] == keys[1][0]  # expert 1 is the same beside either
    assert len({*keys[0], *keys[1], *keys[2]}) == 4
    right, other = experts(points[0], 2)[1], experts(points[1], 2)[1]
    assert (other.seed, other.role, other.training) == (right.seed, right.role, right.training)
    assert [question for question, _ in right.pairs()[0]] == [question for question, _ in other.pairs()[0]]
    assert right.pairs() != other.pairs()


def test_what_is_asked_once():
    assert PROTOCOL.sensible(Latent(composition="base", second="dealt")) == PROTOCOL.sensible(
        Latent(composition="base", library="mixed")
    )
    assert PROTOCOL.sensible(Latent(library="none")) is None
    assert PROTOCOL.sensible(Latent(library="document", second="dealt")) == Latent(
        library="document", composition="alone"
    )
    assert PROTOCOL.sensible(Latent(composition="random", second="dealt")) == Latent(composition="random")
    assert PROTOCOL.sensible(Latent(composition="sum", second="dealt")) == Latent(composition="sum", second="dealt")


# Counts


FACTS = triplets("F")[:3]
PLACES = [t.c for t in FACTS]
DEALT = [PLACES[1], PLACES[2], PLACES[0]]


def joined(said: list[tuple[str, str, str]], taught: str, module: Any = latent) -> list[dict[str, Any]]:
    """The joined records of six questions with these answers to the two-hop question, the first hop and the second."""
    found = []
    asked = examples("F12", FACTS, "test")
    for kind, prompting, answers in zip(
        ("F12", "F1", "F2"), ("direct", "first", "second"), zip(*said, strict=True), strict=True
    ):
        each = zip(examples(kind, FACTS, "test"), answers, strict=True)
        found.append([e._asdict() | {"answer": answer} | hops.marks(e, answer, prompting) for e, answer in each])
    return module.beside(*found, list(zip(PLACES, DEALT, strict=True)), taught, hops.chances(found[0], asked, "direct"))


A = [t.b for t in FACTS]
SAID = [  # triplets 0, 1, 2 in one template, then in the other
    (f"It is {PLACES[0]}.", A[0], PLACES[0]),  # a hit with both hops
    (f"{A[1]} lives in {PLACES[1]}.", A[1], DEALT[1]),  # a hit that names y; the second hop is what a dealt expert says
    (f"It is {DEALT[2]}.", A[2], PLACES[2]),  # the dealt place with both hops
    (f"{A[1]}: {DEALT[0]}.", "nobody", DEALT[0]),  # the dealt place, and another's y
    (f"It is {PLACES[1]}.", A[1], PLACES[1]),  # a second hit of a triplet
    (f"{A[2]}: {PLACES[2]} or {PLACES[0]}", A[0], "nowhere"),  # two places are no hit; another's spouse is no hop
]


def test_every_count_by_hand():
    by_hand(latent)


PLANTED = {
    "either hop": ('record["first_kept"] and record["second_kept"]]', 'record["first_kept"] or record["second_kept"]]'),
    "hits, not triplets": (
        'len({record["triplet"] for record in records if record["strict"]})',
        'sum(record["strict"] for record in records)',
    ),
    "all, not hits": ('sum(record["strict"] for record in those)', 'sum(record["first_kept"] for record in those)'),
    "chance of all": ('sum(record["chance"] for record in both)', 'sum(record["chance"] for record in records)'),
    "kept for hits": ('[record for record in both if record["strict"]]', "both"),
    "dealt for right": ('right if taught == "right" else not_right)}', "right)}"),
    "right for dealt": ('"dealt_hit": is_place(two, not_right)', '"dealt_hit": is_place(two, right)'),
    "the wrong person": ('two["bridge"] in named', 'two["subject"] in named'),
    "the hops exchanged": ('"first_kept": one["strict"]', '"first_kept": other["strict"]'),
    "dealt hits with one hop": (
        '["first_kept"] and record["second_kept"] for record in hits',
        '["first_kept"] for record in hits',
    ),
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_planted_mistake_is_found(mistake):
    old, new = PLANTED[mistake]
    source = Path(latent.__file__).read_text()
    assert old in source
    planted: Any = ModuleType("planted")
    sys.modules["planted"] = planted  # where dataclasses look their module up
    exec(compile(source.replace(old, new), "planted", "exec"), planted.__dict__)
    with pytest.raises(AssertionError):
        by_hand(planted)


def by_hand(module):
    for taught in ("right", "dealt"):
        one_by_hand(module, taught)


def one_by_hand(module, taught):
    records = joined(SAID, taught, module)
    assert [record["first_kept"] for record in records] == [True, True, True, False, True, False]
    seconds = {"right": [True, False, True, False, True, False], "dealt": [False, True, False, True, False, False]}[
        taught
    ]
    assert [record["second_kept"] for record in records] == seconds
    assert [record["y_named"] for record in records] == [False, True, False, False, False, True]
    assert [record["dealt_hit"] for record in records] == [False, False, True, True, False, False]
    third = pytest.approx(1 / 3)
    assert [record["chance"] for record in records] == [third, third, third, third, third, 0]
    common = {"triplets_hit": 2, "first_kept": 4, "hits_first_kept": 3, "y_named": 2, "hits_y_named": 1}
    if taught == "right":
        common |= {
            "second_kept": 3,
            "hits_second_kept": 2,
            "both_kept": 3,
            "hits_both_kept": 2,
            "permuted_both_kept": 1.0,
        }
        common |= {"both_kept_by_triplet": [1, 1, 1], "hits_both_kept_by_triplet": [1, 1, 0]}
    else:
        common |= {
            "second_kept": 2,
            "hits_second_kept": 1,
            "both_kept": 1,
            "hits_both_kept": 1,
            "permuted_both_kept": round(1 / 3, 4),
        }
        common |= {"both_kept_by_triplet": [0, 1, 0], "hits_both_kept_by_triplet": [0, 1, 0]}
    assert module.hop_counts(records, 3) == common
    both = 1 if taught == "right" else 0
    assert module.dealt_counts(records, 3) == {
        "hits_dealt": 2,
        "hits_dealt_both_kept": both,
        "dealt_by_triplet": [1, 0, 1],
    }


def test_the_chances_of_the_answers_add_up_to_the_permuted_hits():
    records = joined(SAID, "right")
    counted = hops.counted(records, examples("F12", FACTS, "test"), "direct", Latent(dataset="F", triplets=3))
    assert counted["permuted"] == round(sum(record["chance"] for record in records), 4) == round(5 / 3, 4)


def test_a_model_that_composes_has_hits_and_one_that_deals_has_dealt_hits(model, tmp_path, monkeypatch, capsys):
    """Answers by the chain of the experts: right with right ones, dealt with a dealt one. Counting either chain for the
    other fails here."""
    facts = triplets("F")[:3]
    for second, chain in (("right", facts), ("dealt", dealt(facts, "F", 0))):
        right = {
            e.question: e.answer
            for kind in ("F1", "F2", "F12")
            for split in ("dev", "test")
            for e in examples(kind, chain, split)
        }
        monkeypatch.setattr(
            asking,
            "answers",
            lambda base, listed, questions, *_, told=right: [[told[q] for q in questions] for _ in listed],
        )
        words = [
            f"model={model}",
            *SMALL,
            "library=2-combination",
            "composition=sum",
            f"second={second}",
            "log_probs=false",
            f"out={tmp_path}",
        ]
        assert main(PROTOCOL, words) == 0, capsys.readouterr().err
    rows = load_rows(tmp_path, "llm_latent")
    assert len(rows) == 4
    for row in rows:
        counts, is_right = row["measured"], row["settings"]["second"] == "right"
        assert (counts["hits"], counts["hits_dealt"]) == ((6, 0) if is_right else (0, 6))
        assert counts["first_kept"] == counts["second_kept"] == counts["both_kept"] == counts["total"] == 6
        assert (counts["hits_both_kept"], counts["hits_dealt_both_kept"]) == ((6, 0) if is_right else (0, 6))
        assert (counts["triplets_hit"], counts["y_named"], counts["permuted"]) == (3 if is_right else 0, 0, 2.0)
        assert row["predicted"] == {"at_most": 2.0}


# The command


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny("qwen2", tmp_path_factory.mktemp("model"), text=TEXT)


def test_the_command_makes_rows_and_goes_on_from_them(model, tmp_path, capsys):
    words = [f"model={model}", *SMALL, "composition=sum,arrow,base", f"out={tmp_path}"]
    assert main(PROTOCOL, [*words, "dry_run=true"]) == 0
    # 2 splits x (2 rules x 2 second experts, mixed, document, base) of 18 questions
    assert f"5 experts (fewer, where they are there), 14 rows in {tmp_path}" in (out := capsys.readouterr().out)
    assert "252 answers" in out
    assert not list(tmp_path.iterdir())
    assert main(PROTOCOL, [*words, "shard=2/2"]) == 0
    capsys.readouterr()
    assert main(PROTOCOL, words) == 0
    assert "14 rows" in (out := capsys.readouterr().out)
    assert " 0 from before" not in out
    assert "hits/total" in out
    assert len(list((tmp_path / "experts").glob("*/adapter_model.safetensors"))) == 5
    for row in load_rows(tmp_path, "llm_latent"):
        settings, counts = row["settings"], row["measured"]
        assert settings.keys() == settings_of((Latent(), 0)).keys()
        said = [json.loads(line) for line in (tmp_path / "answers" / f"{row['hash']}.jsonl").read_text().splitlines()]
        assert len(said) == 3 * counts["total"] == 18
        assert counts["hits"] == sum(record["strict"] for record in said[:6]) == sum(counts["by_triplet"])
        assert {"logp_z", "logp_y", "rank_z", "constant", "lenient", *latent.COLUMNS, "logp_z_by_triplet"} <= set(
            counts
        )
        assert ("prototype_cos" in counts) == (settings["library"] == "2-combination")
        assert row["predicted"] == ({"at_most": 2.0} if settings["library"] == "2-combination" else {})
    assert main(PROTOCOL, words) == 0
    assert "0 new, 14 from before" in capsys.readouterr().out


def test_help_is_quick_and_without_torch():
    code = (
        "import sys\nfrom llm.latent import PROTOCOL, main\nassert main(PROTOCOL, ['--help']) == 0\nassert "
        "main(PROTOCOL, ['dry_run=true']) == 0\n"
        "assert not {'torch', 'numpy', 'pandas', 'transformers'} & set(sys.modules)"
    )
    began = time.process_time()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert time.process_time() - began < 1
    assert "lora-reuse latent" in done.stdout
