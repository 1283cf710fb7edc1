"""The benchmark at its smallest: a line and its numbers a comparison, and a row that says them."""

import json

import pytest

from lora_reuse.llm import benchmark
from lora_reuse.llm.adapters import pace
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.decoding.models import load_base, prompt
from lora_reuse.llm.decoding.pace import flops


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_a_quick_look_prints_ratios_and_writes_a_row(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "training", lambda options: (3.0, 2.0))  # worker processes are measured, not tested
    assert benchmark.main(["quick=true", f"out={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("ratio") == 12
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
