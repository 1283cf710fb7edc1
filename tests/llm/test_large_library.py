"""The graphs of A.3 and their protocol: who is in which fact, what no expert may have seen, and the command on a tiny
random model."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lora_reuse.llm.adapters import training as experts
from lora_reuse.llm.data.graphs import COUNTS, chains, facts_of
from lora_reuse.llm.data.names import fake_people, fake_places
from lora_reuse.llm.data.subsets import ATOMIC, GRAPHS, PAIRS, SUBSETS, examples
from lora_reuse.llm.large_library import LIBRARIES, PROTOCOL, LargeLibrary, library, reported
from lora_reuse.llm.protocols import ask as asking
from lora_reuse.llm.protocols.protocol import library_of, main
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import SettingError
from tests.llm.tiny import tiny

LETTERS = {"disjoint": "D", "shared": "S"}
TEXT = " ".join(
    f"{e.question} {e.answer}"
    for kind in ("1", "2", "12-CoT")
    for e in examples(f"D{kind}", facts_of(f"D{kind}", 3, 0), "test")
)
SMALL = "triplets=3 steps=2 batch=4 rank=2 rate=0.05 answer_tokens=4 step_tokens=8 workers=1".split()


def ends(pair: str, chain: Any) -> tuple[str, str, str]:
    """u1, u2 and u3 of a chain, from the fields that its relations name."""
    return getattr(chain, ATOMIC[pair[0]][1]), chain.b, getattr(chain, ATOMIC[pair[1]][2])


def relation(graph: str, digit: str, count: int, seed: int) -> dict[str, str]:
    """What the subset's examples say, by who is asked about."""
    subset = graph + digit
    return {e.subject: e.gold for e in examples(subset, facts_of(subset, count, seed), count=1)}


# The graphs


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("graph", "count"), [("D", 1), ("D", 16), ("S", 3), ("S", 10), ("S", 100)])
def test_relations_go_from_one_set_of_entities_to_the_next_and_chain(graph, count, seed):
    first, second, third = (set[str]() for _ in range(3))
    for pair, drawn in chains(graph, count, seed).items():
        one, two = (relation(graph, digit, count, seed) for digit in pair)
        assert len(drawn) == count
        for u1, u2, u3 in (ends(pair, chain) for chain in drawn):
            assert (one[u1], two[u2]) == (u2, u3)  # what the experts on relations learn leads from u1 to u3
            first.add(u1)
            second.add(u2)
            third.add(u3)
        assert {
            e.subject: (e.bridge, e.gold) for e in examples(graph + pair, facts_of(graph + pair, count, seed), count=1)
        } == {u1: (u2, u3) for u1, u2, u3 in (ends(pair, chain) for chain in drawn)}
    assert not first & second
    assert first | second <= set(fake_people())
    assert third <= set(fake_places()[:100])  # the others are what an untrained model would say
    assert chains(graph, count, seed) == chains.__wrapped__(graph, count, seed) != chains(graph, count, seed + 1)


def test_disjoint_graphs_share_nobody_and_no_place():
    """Every entity is in one chain: u1 and u2 of a fact are in no other fact of Rel1, Rel3 and Rel5, u2 and u3 in no
    other of Rel2 and Rel4."""
    drawn = chains("D", 10, 0)
    everyone = [name for pair in PAIRS for chain in drawn[pair] for name in ends(pair, chain)]
    assert len(set(everyone)) == len(everyone) == 6 * 10 * 3
    assert [len(facts_of(f"D{digit}", 10, 0)) for digit in ATOMIC] == [20, 30, 20, 30, 20]
    for kinds in ("135", "24"):
        for end in ("subject", "gold"):
            told = [
                getattr(e, end) for kind in kinds for e in examples(f"D{kind}", facts_of(f"D{kind}", 10, 0), count=1)
            ]
            assert len(set(told)) == len(told) == 60


@pytest.mark.parametrize("count", [3, 4, 10, 100])
def test_shared_graphs_are_one_to_one_and_agree_nowhere(count):
    relations = {digit: relation("S", digit, count, 0) for digit in ATOMIC}
    for digits in ("135", "24"):
        pools = [(frozenset(relations[d]), frozenset(relations[d].values())) for d in digits]
        assert len(set(pools)) == 1  # one pool for all
        assert len(pools[0][0]) == len(pools[0][1]) == count
        for u in pools[0][0]:
            assert len({relations[d][u] for d in digits}) == len(digits)
    for pair in PAIRS:
        right = {u1: u3 for u1, _, u3 in (ends(pair, chain) for chain in chains("S", count, 0)[pair])}
        assert right == {u: relations[pair[1]][relations[pair[0]][u]] for u in relations["1"]}
        for other in PAIRS:
            if len(set(other) & set(pair)) == 1:
                assert all(relations[other[1]][relations[other[0]][u]] != right[u] for u in right)


def test_more_facts_than_names_are_refused():
    for graph, (low, high) in COUNTS.items():
        for count in (low - 1, high + 1):
            with pytest.raises(SettingError, match=rf"triplets: got {count}; allowed: {low} to {high} facts a pair"):
                facts_of(f"{graph}12", count, 0)


def test_every_subset_of_the_graphs_asks_by_its_templates():
    for subset in (name for name in SUBSETS if name[0] in GRAPHS):
        rows = examples(subset, facts_of(subset, 4, 1), "test")
        assert len(rows) == 2 * len(facts_of(subset, 4, 1))
        for e in rows:
            assert e.subject in e.question
            assert e.gold in e.answer
            assert "" not in (e.subject, e.gold)
            assert bool(e.bridge) == (subset[1:3] in PAIRS)


# What an expert of the library may know


def leaks(specs: Any, graph: str, held_out: str) -> tuple[set[str], set[str]]:
    """Of the held-out pair's facts: the questions that the experts were trained on, and the entities that their experts
    on pairs speak of."""
    subset = LETTERS[graph] + held_out
    facts = facts_of(subset, 4, 3)
    questions = {e.question for split in ("train", "test") for e in examples(subset, facts, split)}
    entities = {name for chain in facts for name in ends(held_out, chain)}
    trained = {spec.own[0]: examples(spec.own[0], facts_of(spec.own[0], 4, 3), "train") for spec in specs}
    asked = {line for rows in trained.values() for e in rows for line in e.question.split("\n")}
    said = {
        word
        for own, rows in trained.items()
        if own[1:3] in PAIRS
        for e in rows
        for word in re.findall(r"\w+", f"{e.question} {e.answer}")
    }
    return questions & asked, entities & said


@pytest.mark.parametrize("steps", ["direct", "steps"])
@pytest.mark.parametrize("graph", LETTERS)
@pytest.mark.parametrize("held_out", PAIRS)
def test_ten_experts_none_of_which_saw_the_pair_that_is_asked(graph, held_out, steps):
    point = LargeLibrary(graph=graph, held_out=held_out, pairs=steps, composition="arrow", triplets=4)
    specs = library_of(PROTOCOL, point, 3)
    own = [spec.own[0][1:3].rstrip("-") for spec in specs]
    assert len(own) == len(set(own)) == 10
    assert own[:2] == list(held_out)  # the gates of experts 1 and 2 are those of the hops
    assert set(own) == {*ATOMIC, *PAIRS} - {held_out}
    assert len({spec.role for spec in specs}) == 10
    assert all(spec.bridge == () for spec in specs)
    questions, entities = leaks(specs, graph, held_out)
    assert not questions
    assert bool(entities) == (graph == "shared")
    oracle = library_of(
        PROTOCOL, LargeLibrary(graph=graph, held_out=held_out, pairs=steps, library="oracle", triplets=4), 3
    )
    assert all(leaks([*specs, *oracle], graph, held_out))  # and a library that did see it is told from one that did not
    one, two = (
        relation(LETTERS[graph], digit, 4, 3) for digit in held_out
    )  # both hops are known, each by one of the first two experts
    subset = LETTERS[graph] + held_out
    assert all(two[one[e.subject]] == e.gold for e in examples(subset, facts_of(subset, 4, 3), "test"))


def test_libraries_share_their_experts_and_the_oracle_alone_knows_the_pair():
    of = lambda name, **more: [own[0] for own, _, _ in library(LargeLibrary(library=name, composition="sum", **more))]  # noqa: E731
    assert of("2-combination", held_out="54") == ["D5", "D4"]
    assert of("5-combination", held_out="54") == ["D5", "D4", "D1", "D2", "D3"]
    assert of("10-combination", held_out="54") == ["D5", "D4", "D1", "D2", "D3", "D12", "D14", "D32", "D34", "D52"]
    assert of("oracle", held_out="54", pairs="steps") == ["D54-CoT"]
    every = {
        expert for pair in PAIRS for name in LIBRARIES for expert in library(LargeLibrary(library=name, held_out=pair))
    }
    assert len(every) == 11  # for all six held-out pairs
    assert len({role for *_, role in every}) == 11


def test_points_that_are_the_same_are_asked_once():
    sensible = PROTOCOL.sensible
    assert sensible(LargeLibrary(composition="base", library="oracle", pairs="steps")) == LargeLibrary(
        composition="base", library="none"
    )
    assert sensible(LargeLibrary(library="oracle", composition="sum")).composition == "alone"
    assert sensible(LargeLibrary(library="oracle", prompting="steps")).pairs == "steps"
    assert sensible(LargeLibrary(library="2-combination", pairs="steps")).pairs == "direct"
    assert sensible(LargeLibrary(library="10-combination", pairs="steps")).pairs == "steps"
    assert sensible(LargeLibrary(library="none")) is None


# The command


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny("qwen2", tmp_path_factory.mktemp("model"), text=TEXT)


def test_the_command_trains_each_expert_once_and_goes_on_where_it_stopped(model, tmp_path, capsys, monkeypatch):
    grid = (
        "graph=shared held_out=12,54 composition=uniform,arrow,base library=10-combination,2-combination,oracle "
        "prompting=direct,steps,first"
    )
    words = [f"model={model}", *SMALL, *grid.split(), f"out={tmp_path}"]
    assert main(PROTOCOL, [*words, "dry_run=true"]) == 0
    # 2 pairs x 3 ways x (2 libraries x 2 compositions + the oracle, of answers or of steps, + the base)
    assert f", 13 experts (fewer, where they are there), 36 rows in {tmp_path}" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert main(PROTOCOL, words) == 0
    first = capsys.readouterr()
    assert f"36 rows in {tmp_path}: 36 new, 0 from before" in first.out
    assert len(list((tmp_path / "experts").glob("*/adapter_model.safetensors"))) == 13
    rows = load_rows(tmp_path, "llm_large_library")
    for row in rows:
        check_row(row, tmp_path / "answers" / f"{row['hash']}.jsonl")
    file = tmp_path / "llm_large_library.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-5]) + lines[-5][:40])  # a kill in the middle of a row
    monkeypatch.setattr(experts, "train", None)  # nothing is trained twice
    assert main(PROTOCOL, words) == 0
    assert "5 new, 31 from before" in capsys.readouterr().out
    assert {row["hash"] for row in load_rows(tmp_path, "llm_large_library")} == {row["hash"] for row in rows}


def check_row(row: dict[str, Any], answers: Path) -> None:
    settings, counts = row["settings"], row["measured"]
    said = [json.loads(line) for line in answers.read_text().splitlines()]
    asked = settings["held_out"]
    assert len(said) == counts["total"] == 6
    drawn = [ends(asked, chain) for chain in chains("S", 3, settings["seed"])[asked]]
    for record in said:
        u1, u2, u3 = drawn[record["triplet"]]
        assert (record["subject"], record["gold"]) == ((u1, u2) if settings["prompting"] == "first" else (u1, u3))
    assert counts["constant"] == 2
    assert settings["library"] in ("none", "oracle") or "prototype_cos" in counts
    theorem = (
        settings["prompting"] == "direct"
        and settings["library"] == "2-combination"
        and settings["composition"] != "base"
    )
    assert row["predicted"] == ({"at_most": 2.0} if theorem else {})
    if settings["composition"] == "arrow" and settings["prompting"] == "direct":
        assert sum(counts[f"gate_{i}"] for i in range(1, 1 + int(settings["library"].split("-")[0]))) == pytest.approx(
            1
        )


def test_right_answers_are_hits_whatever_pair_is_asked(model, tmp_path, monkeypatch, capsys):
    right = {
        e.question: e.answer
        for subset in (f"{graph}{kind}" for graph in GRAPHS for pair in PAIRS for kind in (pair, f"{pair}-CoT", *pair))
        for e in examples(subset, facts_of(subset, 3, 0), "test")
    }
    monkeypatch.setattr(
        asking, "answers", lambda base, listed, questions, *_: [[right[q] for q in questions] for _ in listed]
    )
    words = [
        f"model={model}",
        *SMALL,
        "held_out=34,52",
        "library=2-combination",
        "composition=average",
        "log_probs=false",
        f"out={tmp_path}",
    ]
    assert main(PROTOCOL, words) == 0, capsys.readouterr().err
    rows = load_rows(tmp_path, "llm_large_library")
    assert len(rows) == 2 * 2 * 4
    for row in rows:
        assert row["measured"]["hits"] == row["measured"]["lenient"] == row["measured"]["total"] == 6
        assert row["measured"]["permuted"] == 2.0
        if row["settings"]["prompting"] == "steps":
            assert (
                row["measured"]["bridge_right"]
                == row["measured"]["gold_right_given_bridge"]
                == row["measured"]["template"]
                == 6
            )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("held_out=122", "held_out: got '122'; allowed: 12 | 14 | 32 | 34 | 52 | 54; did you mean '12'?"),
        ("graph=disjont", "did you mean 'disjoint'?"),
        ("triplets=17", "triplets: got 17 with graph=disjoint; allowed: at most 16; the names do not suffice for more"),
        ("triplets=2", "triplets: got '2'; allowed: a whole number from 3 to 100"),
        ("library=none composition=sum", "the grid: got no point with something to ask"),
        ("library=ten", "library: got 'ten'; allowed: none | 10-combination"),
    ],
)
def test_a_mistake_is_one_line_exit_code_2_and_nothing_written(model, tmp_path, capsys, words, line):
    assert main(PROTOCOL, [f"model={model}", *words.split(), f"out={tmp_path / 'rows'}"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("llm.large_library: ")
    assert line in captured.err
    assert not (tmp_path / "rows").exists()


def test_the_table_has_the_paper_s_number_for_its_own_cell_alone():
    cell = {"model": "a/Qwen2.5-7B-Instruct", "layers": "mlp", "prompting": "direct", "composition": "arrow"}
    cell |= {"graph": "shared", "held_out": "12", "library": "10-combination", "pairs": "direct"}
    assert reported(LargeLibrary(**cell)) == "2.2 %"
    assert reported(LargeLibrary(**cell | {"graph": "disjoint", "prompting": "steps"})) == "0.8 %"
    assert reported(LargeLibrary(**cell | {"model": "pocket", "composition": "uniform"})) == "0.3 %"
    for other in (
        {"held_out": "14"},
        {"library": "2-combination"},
        {"pairs": "steps"},
        {"prompting": "first"},
        {"composition": "sum"},
        {"layers": "both"},
    ):
        assert reported(LargeLibrary(**cell | other)) == ""
