"""The benchmarks at their smallest: a line and its numbers a comparison, and a row that says them."""

import importlib.util
import json
import subprocess
import sys
import timeit

import pytest
import torch
from safetensors.torch import load_file

from lora_reuse.llm import benchmark, compose_speed
from lora_reuse.llm.adapters import pace
from lora_reuse.llm.adapters.folders import load_expert
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.adapters.writing import save_expert
from lora_reuse.llm.compositions import compose
from lora_reuse.llm.decoding import pace as decoding
from lora_reuse.llm.decoding.models import load_base, load_frame, prompt
from lora_reuse.llm.decoding.pace import flops
from tests.llm.tiny import tiny


def test_a_quick_look_prints_ratios_and_writes_a_row(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "training", lambda options: (3.0, 2.0))  # worker processes are measured, not tested
    monkeypatch.setattr(decoding, "_best", lambda run, repeats=1: timeit.timeit(run, number=1))
    assert benchmark.main(["quick=true", f"out={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("ratio") == 13
    (row,) = map(json.loads, (tmp_path / "llm_benchmark.jsonl").read_text().splitlines())
    measured = row["measured"]
    assert measured["experts_ratio"] == 1.5
    for name in ("direct_4", "direct_40", "steps_4", "steps_40", "stack_4", "stack_40"):
        ours, theirs, ratio = (measured[f"answers_{name}_{kind}"] for kind in ("per_s", "peft_per_s", "ratio"))
        assert ratio == pytest.approx(ours / theirs)
    ours, theirs, ratio, share = (
        measured[f"tokens_pocket_float32_{kind}"] for kind in ("ours", "peft", "ratio", "share")
    )
    assert ratio == pytest.approx(ours / theirs)
    assert measured["tokens_pocket_float32_trainer_ratio"] == pytest.approx(
        ours / measured["tokens_pocket_float32_trainer"]
    )
    assert 0 < share < 1
    for experts in (2, 10):
        for tokens in (512, 4):
            ours, theirs, bare = (measured[f"arrow_{experts}_{tokens}_{kind}ms"] for kind in ("", "peft_", "bare_"))
            assert measured[f"arrow_{experts}_{tokens}_ratio"] == theirs / ours
            assert 0 < bare < theirs


def test_the_products_of_a_step_are_counted_once_and_backward_from_the_lowest_adapter_on(monkeypatch):
    """With a second for each multiplication, and 3 + 1 tokens of which one is answered: no rate is measured."""
    base = load_base("pocket")
    monkeypatch.setattr(pace, "_product_seconds", lambda rows, weight: (float(rows * weight.numel()),) * 2)
    names = target_modules(base.model, "mlp")
    attention, mlp, head = 4 * 256 * 256, 3 * 256 * 768, 256 * len(base.tokenizer)
    frozen = (
        4 * (4 * attention + 4 * mlp) * 2 + head * 2 - 4 * (attention + 256 * 768)
    )  # nothing goes back below the first adapted matrix
    adapters = 4 * 3 * (256 + 768) * 4 * 3 * 16
    assert pace._products(base.model, names, 16, [([1, 2, 3], [4])]) == pytest.approx(frozen + adapters)


def test_the_least_work_is_that_of_the_weights_for_each_token():
    """Width 256, feed-forward 768, four layers; nine tokens asked, two answered with the end, or one where that is the
    longest."""
    base = load_base("pocket")
    question, vocabulary = "In which city does Pierre Curie's spouse live?", len(base.tokenizer)
    layers = 4 * (4 * 256 * 256 + 3 * 256 * 768)
    assert len(prompt(base, question)) == 9
    (city,) = base.tokenizer("Paris").input_ids
    assert city
    assert flops(base, [question], ["Paris"], 2) == 2 * layers * (9 + 2) + 2 * 256 * vocabulary * 2
    assert flops(base, [question], ["Paris"], 1) == 2 * layers * (9 + 1) + 2 * 256 * vocabulary


def test_composing_is_timed_against_pefts_merge_of_the_same_files(tmp_path, capsys, monkeypatch):
    """Processes are measured, not tested: here they cost what they are told."""
    asked = []
    costs = {"peft": compose_speed.Cost(4.0, 5.0, 1.0), "mergekit": compose_speed.Cost(6.0, 7.0, 2.0)}

    def cost(module, *words):
        if words[0] != "adapters":
            asked.append(words)
        else:
            compose_speed.main(words)
        return costs.get(words[0], compose_speed.Cost(2.0, 3.0, 0.5))

    monkeypatch.setattr(compose_speed, "_cost", cost)
    find, there = importlib.util.find_spec, {"mergekit": object()}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *of: there[name] if name in there else find(name, *of)
    )
    words = ["layers=2", "rank=2", "composition=ties,knots,ties_svd", f"out={tmp_path}"]
    assert compose_speed.main(words) == 0
    printed = capsys.readouterr().out
    assert "ratios 2.0 and 2.0" in printed
    assert "ratios 3.0 and 4.0" in printed
    rules = [words[0] if words[0] in costs else words[1] for words in asked]
    ours = [f"composition={rule}" for rule in ("ties", "knots", "ties_svd", "ties")]
    assert rules == [ours[0], "peft", ours[1], ours[2], "peft", "mergekit", ours[3]]
    (row,) = map(json.loads, (tmp_path / "llm_compose_speed.jsonl").read_text().splitlines())
    assert row["measured"]["ties_ratio"] == 2.0
    assert row["measured"]["one_layer_peak_gb"] == 0.5
    assert row["measured"]["ties_svd_mergekit_ratio"] == 3.0
    assert "knots_ratio" not in row["measured"]
    asked.clear()
    there["mergekit"] = None
    assert compose_speed.main(["layers=1", "rank=2", "composition=ties_svd"]) == 0
    assert "mergekit is not installed, and is left out" in capsys.readouterr().out
    assert [words[0] for words in asked if words[0] in costs] == ["peft"]
    assert compose_speed.main(["against=mergekit"]) == 2
    assert "against: got mergekit, which is not installed" in capsys.readouterr().err
    asked.clear()
    assert compose_speed.main(["layers=1", "rank=2", "composition=ties_svd", "against=none"]) == 0
    assert len(asked) == 1


@pytest.mark.filterwarnings("ignore")  # those of what mergekit imports are not ours to mend
def test_mergekits_merge_of_the_benchmark_is_ours_before_it_is_cut(tmp_path):
    """Whole, module by module."""
    pytest.importorskip("mergekit")
    frame, draw = tiny("qwen2", tmp_path / "base"), torch.Generator().manual_seed(0)
    factor = lambda size: torch.randn(size, 4, generator=draw)  # noqa: E731
    library = [{"model.layers.0.mlp.up_proj": LowRank(factor(48), factor(32))} for _ in range(2)]
    for name, expert in zip("ab", library, strict=True):
        save_expert(expert, tmp_path / name, str(frame))
    compose_speed.main(["mergekit", str(tmp_path / "a"), str(tmp_path / "b"), "ties", str(tmp_path / "out")])
    (merged,) = load_file(tmp_path / "out" / "model.safetensors").values()
    (ours,) = compose("ties_svd", library, merged_rank=min(merged.shape)).values()
    assert isinstance(ours, LowRank)
    torch.testing.assert_close(merged, ours.dense(), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_pefts_merge_of_the_benchmark_is_the_sum(tmp_path):
    one, other = tmp_path / "a", tmp_path / "b"
    compose_speed.main(["adapters", str(tmp_path), "1", "2"])
    compose_speed.main(["peft", str(one), str(other), "cat", str(tmp_path / "peft")])
    frame = load_frame(str(tmp_path / "base"))
    a, b, both = (load_expert(folder, frame) for folder in (one, other, tmp_path / "peft" / "both"))
    assert len(both) == len(compose_speed.SHAPES)
    for name, update in both.items():
        x = torch.eye(update.shape[1])[:5]
        torch.testing.assert_close(update(x), a[name](x) + b[name](x))


def test_costs_are_those_of_the_process():
    """One that does nothing takes less than one that computes and holds 300 MB. They are started by a small process, as
    the benchmark is."""
    code = """
import json, sys
from lora_reuse.llm.compose_speed import _cost
statements = ("pass", "x = b'1' * 300_000_000; sum(range(10**7))")
print(json.dumps([_cost("timeit", "-n", "1", "-r", "1", statement) for statement in statements]))
_cost("timeit", "1 / 0")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    idle, busy = json.loads(done.stdout)
    assert busy[2] > idle[2] + 0.25
    assert busy[0] > idle[0]
    assert "CalledProcessError" in done.stderr
