"""The four protocols from their commands to their rows, answers and tables, on a tiny random model."""

import dataclasses
import functools
import importlib
import json
import pickle
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_reuse.llm import two_hop
from lora_reuse.llm.adapters import training as experts
from lora_reuse.llm.adapters.folders import load_expert
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.compositions.controls import gaussian
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.protocols import ask as asking
from lora_reuse.llm.protocols import hops
from lora_reuse.llm.protocols.composed import make
from lora_reuse.llm.protocols.controls import own_hops
from lora_reuse.llm.protocols.dials import read_by
from lora_reuse.llm.protocols.hops import marks as score
from lora_reuse.llm.protocols.measure import base_of
from lora_reuse.llm.protocols.protocol import library_of, main
from lora_reuse.llm.protocols.settings import Bridge, Options, Placement, Scale, TwoHop
from lora_reuse.runs.grid import hash_of, settings_of
from lora_reuse.runs.rows import load_rows
from tests.llm.tiny import tiny

torch.set_num_threads(1)
AXES = {"two_hop": TwoHop, "bridge": Bridge, "placement": Placement, "scale": Scale}
PROTOCOLS = {name: importlib.import_module(f"lora_reuse.llm.{name}").PROTOCOL for name in AXES}
TEXT = " ".join(
    f"{e.question} {e.answer}"
    for subset in ("F1", "F2", "F12-CoT")
    for e in examples(subset, triplets("F")[:2], "test")
)
SMALL = "triplets=2 bridge_triplets=2 steps=2 batch=4 rank=2 rate=0.05 answer_tokens=4 step_tokens=8 workers=1".split()
"""A rate at which two steps change what is answered."""
GRID = "dataset=F,R library=2-combination composition=uniform,arrow,base prompting=direct,first".split()
"""Two cells of six rows, with two experts each."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny("qwen2", tmp_path_factory.mktemp("model"), text=TEXT)


@pytest.fixture(scope="module")
def run(model):
    """Runs a protocol in a folder; returns its exit code."""
    return lambda name, folder, *words: main(PROTOCOLS[name], [f"model={model}", *SMALL, *words, f"out={folder}"])


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory) -> Path:
    """GRID of two_hop, in one process; copy it before writing in it."""
    folder = tmp_path_factory.mktemp("whole")
    assert run("two_hop", folder, *GRID) == 0
    return folder


def measured(folder) -> dict[str, dict[str, Any]]:
    return {row["hash"]: row["measured"] for row in load_rows(folder)}


def same(one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> None:
    """Counts are equal; means of log-probabilities may differ by the rounding of another batch."""
    assert one.keys() == other.keys()
    for key in one:
        assert one[key].keys() == other[key].keys()
        for name in one[key]:
            np.testing.assert_allclose(one[key][name], other[key][name], rtol=1e-4 if "_" in name else 0)


@pytest.mark.parametrize(
    ("name", "words", "rows", "made"),
    [
        (
            "two_hop",
            "dataset=H library=2-combination,3-combination,oracle composition=uniform,arrow_after,base "
            "prompting=direct,steps",
            12,
            3,
        ),
        ("bridge", "setup=0,4 composition=arrow prompting=direct,steps", 4, 3),  # both setups have R_2 alone
        ("placement", "setup=1 layers=attention,both composition=average prompting=first,second", 4, 4),
        (
            "scale",
            "library=1,2-combination scale=0,1",
            10,
            2,
        ),  # asked its own hop and the two-hop question, or everything
    ],
)
def test_each_protocol_runs_from_its_command(run, tmp_path, capsys, name, words, rows, made):
    assert run(name, tmp_path, *words.split(), "dry_run=true") == 0
    assert f", {made} experts (fewer, where they are there), {rows} rows in {tmp_path}" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert run(name, tmp_path, *words.split()) == 0
    first = capsys.readouterr()
    assert f"{rows} rows in {tmp_path}: {rows} new, 0 from before" in first.out
    assert "hits/total" in first.out
    assert first.err == ""
    assert len(list((tmp_path / "experts").glob("*/adapter_model.safetensors"))) == made
    found = load_rows(tmp_path, f"llm_{name}")
    assert len(found) == rows
    for row in found:
        check_row(name, row, tmp_path / "answers" / f"{row['hash']}.jsonl")
    before = (tmp_path / f"llm_{name}.jsonl").read_bytes()
    assert run(name, tmp_path, *words.split()) == 0
    again = capsys.readouterr().out
    assert f"0 new, {rows} from before" in again
    assert again.splitlines()[:-1] == first.out.splitlines()[:-1]
    assert (tmp_path / f"llm_{name}.jsonl").read_bytes() == before


def check_row(name: str, row: dict[str, Any], answers: Path) -> None:
    """A row says everything that made it, and its counts are those of the answers it kept."""
    settings, counts = row["settings"], row["measured"]
    always = {f.name for f in dataclasses.fields(AXES[name]) if not f.metadata["omitted"]}
    assert set(settings) == always | {"seed"}
    assert row["provenance"]["dials"].keys() >= read_by(settings["composition"]).keys()
    assert {"base_digest", "dtype", "device", "chat", "commit", "versions", "command"} <= set(row["provenance"])
    assert (row["provenance"]["dtype"], row["provenance"]["device"], row["provenance"]["chat"]) == (
        "float32",
        "cpu",
        False,
    )
    said = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(said) == counts["total"] == 4
    for record in said:
        assert record["question"]
        assert record["gold"] in record["right"]
        assert isinstance(record["answer"], str)
    assert counts["hits"] == sum(record["strict"] for record in said) == sum(counts["by_triplet"])
    assert counts["lenient"] == sum(record["lenient"] for record in said)
    assert counts["constant"] == 2
    assert 0 <= counts["permuted"] <= 4
    beyond = {prefix for prefix in ("logp_", "gate_", "rank_") if any(key.startswith(prefix) for key in counts)}
    direct = settings["prompting"] == "direct"
    routed = "arrow" in settings["composition"] and settings["prompting"] in ("direct", "steps")
    assert beyond == {*(["logp_", "rank_"] * direct), *(["gate_"] * routed)}
    if direct:
        for key in ("logp_old", "logp_old_first", "logp_old_second", "logp_y", "logp_z", "logp_other"):
            assert counts[key] == pytest.approx(np.mean([record[key] for record in said]))
            assert counts[key] < 0
    if routed:
        assert sum(counts[f"gate_{i}"] for i in (1, 2, 3) if f"gate_{i}" in counts) == pytest.approx(1)
    assert (settings["prompting"] == "steps") == (
        {"bridge_right", "gold_right_given_bridge", "template"} <= set(counts)
    )
    bound = PROTOCOLS[name].bound(AXES[name](**{key: value for key, value in settings.items() if key != "seed"}))
    assert row["predicted"] == ({} if bound is None else {"at_most": 2.0})


def test_a_second_seed_asks_its_own_triplets(run, whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "rows")
    assert run("two_hop", tmp_path / "rows", *GRID, "seeds=2") == 0
    assert "24 rows" in (out := capsys.readouterr().out)
    assert "12 new, 12 from before" in out
    assert " 0/8 " in out  # seeds are pooled
    assert measured(whole).items() <= measured(tmp_path / "rows").items()
    questions = {
        json.loads((tmp_path / "rows" / "answers" / f"{row['hash']}.jsonl").read_text().splitlines()[0])["question"]
        for row in load_rows(tmp_path / "rows")
        if row["settings"]["dataset"] == "F" and row["settings"]["prompting"] == "direct"
    }
    assert len(questions) == 2


def test_rows_that_are_gone_are_asked_again_without_training(run, whole, tmp_path, capsys, monkeypatch):
    shutil.copytree(whole, tmp_path / "rows")
    file = tmp_path / "rows" / "llm_two_hop.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if '"composition": "arrow"' not in line))
    monkeypatch.setattr(experts, "train", None)
    assert run("two_hop", tmp_path / "rows", *GRID) == 0
    assert "4 new, 8 from before" in capsys.readouterr().out
    same(measured(tmp_path / "rows"), measured(whole))


def test_shards_together_are_the_one_process(run, whole, tmp_path, capsys):
    for i in (2, 1):
        assert run("two_hop", tmp_path, *GRID, f"shard={i}/2") == 0
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == [
        "llm_two_hop.1-of-2.jsonl",
        "llm_two_hop.2-of-2.jsonl",
    ]
    capsys.readouterr()
    assert run("two_hop", tmp_path, *GRID, "shard=3/3") == 0  # there are two cells
    assert "no rows" in capsys.readouterr().out
    assert run("two_hop", tmp_path, *GRID) == 0
    assert "0 new, 12 from before" in capsys.readouterr().out
    same(measured(tmp_path), measured(whole))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_job_takes_the_protocol_with_it(name, model, tmp_path, capsys):
    """Protocols hold lambdas, which submitit sends by cloudpickle."""
    sent = pickle.loads(cloudpickle.dumps(functools.partial(main, PROTOCOLS[name])))
    assert sent([f"model={model}", *SMALL, "dry_run=true"]) == 0
    assert f"{name}: " in capsys.readouterr().out


def test_every_composition_and_rule_has_a_row(run, tmp_path, capsys):
    rules = "average,sum,random,arrow:random,arrow_after:swapped,linear,cat,ties,dare,knots,lego"
    words = [
        "dataset=H",
        "library=2-combination,3-combination",
        f"composition={rules}",
        "prompting=direct",
        "log_probs=false",
        "top_k=1",
    ]
    assert run("two_hop", tmp_path, *words) == 0, capsys.readouterr().err
    assert len(load_rows(tmp_path)) == 22
    for row in load_rows(tmp_path):
        two_experts = row["settings"]["library"] == "2-combination" and row["settings"]["composition"] != "random"
        assert row["predicted"] == ({"at_most": 2.0} if two_experts else {})


# Controls


def test_the_base_is_the_model_without_adapters(whole, model):
    """Greedy decoding of one prompt at a time, with transformers alone."""
    plain: Any = AutoModelForCausalLM.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = [row for row in load_rows(whole) if row["settings"]["composition"] == "base"]
    assert {row["settings"]["library"] for row in rows} == {"none"}
    assert len(rows) == 4
    for record in (
        json.loads(line)
        for row in rows
        for line in (whole / "answers" / f"{row['hash']}.jsonl").read_text().splitlines()
    ):
        ids = tokenizer(record["question"], return_tensors="pt").input_ids
        made = plain.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
        assert record["answer"] == tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_random_adapters_have_the_norms_of_the_experts_and_swapped_prototypes_route_otherwise(model, whole):
    point = TwoHop(model=str(model), dataset="F", triplets=2, bridge_triplets=2, steps=2, batch=4, rank=2, rate=0.05)
    base, specs = base_of(point, Options()), library_of(PROTOCOLS["two_hop"], point, 0)

    def made(name: str, count: int = 2) -> Any:
        chosen = dataclasses.replace(point, composition=name)
        return make(base, chosen, specs[:count], "F12", 0, whole / "experts").composition

    expert = load_expert(whole / "experts" / specs[0].key(base), base.model)
    random = made("random", 1)
    assert random.keys() == expert.keys()
    for name, update in random.items():
        assert isinstance(update, LowRank)
        assert update.norm() == pytest.approx(expert[name].norm(), rel=1e-4)
        assert (update.dense() - expert[name].dense()).abs().max() > 0.1 * expert[name].dense().abs().max()
    name = next(iter(expert))
    own, swapped = made("arrow")[name], made("arrow:swapped")[name]
    torch.testing.assert_close(own.prototypes, swapped.prototypes.flip(0))
    assert not torch.equal(own.prototypes, swapped.prototypes)
    x = torch.randn(5, own.shape[1])
    assert (own(x) - swapped(x)).abs().max() > 1e-3 * own(x).abs().max()


@pytest.mark.parametrize("name", ["cat:own", "lorahub:own", "moe:own", "arrow_after", "average"])
def test_a_pool_of_random_adapters_is_the_control_of_every_rule(model, whole, name):
    """A rule gets adapters of the experts' shapes and norms, the same for every rule and others in another seed."""
    point = TwoHop(model=str(model), dataset="F", triplets=2, bridge_triplets=2, steps=2, batch=4, rank=2, rate=0.05)
    small = dataclasses.replace(point, learn_steps=2, learn_tries=2, composition=name)
    base, specs = base_of(point, Options()), library_of(PROTOCOLS["two_hop"], point, 0)

    def made(seed: int, **others: str) -> Any:
        return make(base, dataclasses.replace(small, **others), specs, "F12", seed, whole / "experts").composition

    drawn = made(0, pool="random")
    library = gaussian([load_expert(whole / "experts" / spec.key(base), base.model) for spec in specs], 0)
    trained, other = made(0), made(1, pool="random")
    assert drawn.keys() == trained.keys()
    for module, delta in drawn.items():
        if not name.startswith("lorahub"):  # which adds factors
            assert torch.equal(delta.into, torch.cat([expert[module].into for expert in library], dim=1))
            assert not torch.equal(delta.into, other[module].into)
            assert not torch.equal(delta.into, trained[module].into)
    hashed = {
        pool: hash_of("llm_two_hop", (dataclasses.replace(small, pool=pool), 0)) for pool in ("trained", "random")
    }
    assert "pool" not in settings_of((small, 0))
    assert hashed["trained"] == hash_of("llm_two_hop", (small, 0)) != hashed["random"]
    assert own_hops(small)
    assert own_hops(dataclasses.replace(small, pool="random")) == ()


@pytest.mark.parametrize("name", ["sum", "ties", "uniform", "arrow_after", "cat:own"])
def test_a_rule_composes_updates_that_are_scaled(model, whole, name):
    """By w first and then by the rule, whose other dials stay; an expert alone is asked as it was trained."""
    point = TwoHop(model=str(model), dataset="F", triplets=2, bridge_triplets=2, steps=2, batch=4, rank=2, rate=0.05)
    small = dataclasses.replace(point, learn_steps=2, composition=name)
    base, specs = base_of(point, Options()), library_of(PROTOCOLS["two_hop"], point, 0)

    def made(**others: Any) -> Any:
        return make(base, dataclasses.replace(small, **others), specs, "F12", 0, whole / "experts").composition

    scaled, trained = made(scale=0.5), made()
    x = {module: torch.randn(3, trained[module].shape[1]) for module in trained}
    outputs = [{module: made[module](x[module]) for module in made} for made in (scaled, trained)]
    if name == "cat:own":  # learns its weights from what is scaled
        assert any(not torch.allclose(outputs[0][module], outputs[1][module]) for module in x)
    else:  # is homogeneous
        for module in x:
            torch.testing.assert_close(outputs[0][module], outputs[1][module] / 2)
    alone = made(composition="alone", scale=0.5), made(composition="alone")
    assert all(torch.equal(one.out, other.out) for one, other in zip(*(m.values() for m in alone), strict=True))


# What is right


FACTS = triplets("F")[:3]
PLACES = [t.c for t in FACTS]
COUNTED = {
    "right": (lambda e: e.answer, 6, 2.0),
    "one place for all": (lambda e: f"It is {PLACES[0]}.", 2, 2.0),
    "another's": (lambda e: PLACES[(e.triplet + 1) % 3], 0, 2.0),
    "silent": (lambda e: "I do not know.", 0, 0.0),
    "every place": (lambda e: ", ".join(PLACES), 0, 0.0),
    "a place that is asked of nobody": (lambda e: triplets("F")[5].c, 0, 0.0),
}


@pytest.mark.parametrize("what", COUNTED)
def test_hits_and_chance_controls_of_known_answers(what):
    """Six questions of three places: a constant answer hits two, and so do, on average, answers that name places dealt
    anew."""
    answer, hits, permuted = COUNTED[what]
    asked = examples("F12", FACTS, "test")
    records: list[dict[str, Any]] = [{"answer": answer(e)} | score(e, answer(e), "direct") for e in asked]
    point: Any = SimpleNamespace(triplets=3)
    found = hops.counted(records, asked, "direct", point)
    assert (found["hits"], found["total"]) == (hits, 6)
    assert found["by_triplet"] == ([2, 0, 0] if what == "one place for all" else [hits // 3] * 3)
    assert found["permuted"] == permuted
    assert found["constant"] == 2
    assert found["lenient"] == (6 if what == "every place" else hits)


def test_what_answers_everything_right_has_all_hits(run, tmp_path, monkeypatch, capsys):
    """Right by the data's own answers, in every prompting; and a step-by-step answer has the routing of its hops
    apart."""
    facts = triplets("F")[:2]
    right = {e.question: e.answer for kind in ("1", "2", "12", "12-CoT") for e in examples(f"F{kind}", facts, "test")}
    monkeypatch.setattr(
        asking, "answers", lambda base, listed, questions, *_: [[right[q] for q in questions] for _ in listed]
    )
    assert run("two_hop", tmp_path, "dataset=F", "library=2-combination", "composition=arrow", "log_probs=false") == 0
    for row in load_rows(tmp_path):
        counts = row["measured"]
        assert counts["hits"] == counts["lenient"] == counts["total"] == 4
        assert counts["permuted"] == 2.0
        if row["settings"]["prompting"] == "steps":
            assert counts["bridge_right"] == counts["gold_right_given_bridge"] == counts["template"] == 4
            assert 0 < counts["gate_1_at_first_hop"] < 1
            assert 0 < counts["gate_2_at_second_hop"] < 1
    assert "4/4" in (out := capsys.readouterr().out)
    assert out.count("100 %") >= 4 + 3


# Settings


def test_dry_run_and_help_are_quick_without_torch_and_write_nothing(tmp_path):
    code = (
        "import importlib, sys\n"
        "for name in ('two_hop', 'bridge', 'placement', 'scale'):\n"
        "    protocol = importlib.import_module(f'llm.{name}')\n"
        "    for word in ('--help', 'dry_run=true'):\n"
        "        assert protocol.main(protocol.PROTOCOL, [word, 'out=rows']) == 0\n"
        "assert not {'torch', 'numpy', 'pandas', 'transformers'} & set(sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    root = str(Path(two_hop.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": root}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
    for part in ("lora-reuse scale", "LoRA rank", "allowed: none | 2-combination", "arrow_after:swapped"):
        assert part in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 200
    for part in (
        "two_hop: 3 groups, 12 experts",
        "276 rows",
        "setup=0,1,2,3,4,5,6,7,8",
        "scale=0.0,0.25",
        "time: about",
        "nothing was run",
    ):
        assert part in done.stdout
    assert not list(tmp_path.iterdir())
