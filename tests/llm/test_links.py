"""The links of a chain of two hops inside a model: what a patch does, what a lens reads, what leads, the command."""

import dataclasses

import pytest
import torch

from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.decoding.models import load_base
from lora_reuse.llm.edits import patching
from lora_reuse.llm.edits.patching import Patch, Prompts, last_token_of, leads, lens, prompts, read, shifted
from lora_reuse.llm.links import PROTOCOL, Links, sensible
from lora_reuse.llm.protocols.protocol import library_of, main
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import SettingError
from tests.llm.tiny import tiny

torch.set_num_threads(1)
FACTS = triplets("F")[:3]
TEXT = " ".join(f"{e.question} {e.answer}" for kind in ("F1", "F2", "F12") for e in examples(kind, FACTS, "test"))
SMALL = "dataset=F triplets=3 steps=2 batch=4 rank=2 rate=0.05 workers=1".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny("qwen2", tmp_path_factory.mktemp("model"), text=TEXT)


@pytest.fixture(scope="module", params=["qwen2", "gpt2", "gemma2"])
def base(request, tmp_path_factory):
    return load_base(str(tiny(request.param, tmp_path_factory.mktemp(request.param), text=TEXT)))


def asked_of(ids):
    return Prompts(ids, [1] * len(ids), [[0]] * len(ids), [0] * len(ids))


@torch.inference_mode()
def test_the_embedding_of_another_token_makes_the_other_prompt(base):
    """Before the first block a state is its token, with what its place adds; before a later one the tokens after it
    have seen the old token, and the patch is another prompt than either."""
    one, other = asked_of([[5, 6, 7, 8], [9, 8, 7]]), asked_of([[5, 10, 7, 8], [9, 11, 7]])
    found, wanted = read(base, one, {}), read(base, other, {"x": other.subject})
    assert not torch.allclose(found.logits, wanted.logits, atol=1e-3)
    for depth, alike in ((0, True), (1, False)):
        patched = read(base, one, {}, Patch(depth, one.subject, wanted.states["x"][depth])).logits
        assert torch.allclose(patched, wanted.logits, atol=1e-5) == alike
        assert not torch.allclose(patched, found.logits, atol=1e-4)


@torch.inference_mode()
def test_its_own_state_changes_nothing(base):
    one = asked_of([[5, 6, 7, 8], [9, 8, 7]])
    found = read(base, one, {"x": one.subject})
    for depth, states in enumerate(found.states["x"][:-1]):
        torch.testing.assert_close(read(base, one, {}, Patch(depth, one.subject, states)).logits, found.logits)


@torch.inference_mode()
def test_after_the_last_block_the_lens_reads_the_outputs(base):
    one = asked_of([[5, 6, 7, 8], [9, 8, 7]])
    found = read(base, one, {"end": one.end})
    torch.testing.assert_close(lens(base, found.states["end"])[-1], found.logits, rtol=1e-4, atol=1e-4)
    assert len(found.states["end"]) == base.model.config.num_hidden_layers + 1


def test_a_lens_that_is_not_the_models_is_refused(folder, monkeypatch):
    base = load_base(str(folder))
    monkeypatch.setattr(patching, "lens", lambda base, states: lens(base, states) + 1)
    with torch.inference_mode(), pytest.raises(SettingError, match="whose outputs are not its head on its last norm"):
        patching.links(base, "F", 3, "test", 0)


def test_a_model_that_the_lens_cannot_read_is_refused(tmp_path):
    base = load_base(str(tiny("opt", tmp_path, text=TEXT)))
    with torch.inference_mode(), pytest.raises(SettingError, match="a norm alone between its blocks and its head"):
        patching.links(base, "F", 3, "test", 0)


def test_the_right_one_leads_where_its_first_token_is_the_largest():
    logits = torch.tensor([[0.0, 3.0, 2.0, 9.0], [0.0, 3.0, 2.0, 9.0], [0.0, 3.0, 2.0, 9.0]])
    asked = Prompts([[1]] * 3, [0] * 3, [[1, 2, 0], [1, 2, 0], [1, 1, 2]], [0, 1, 1])
    assert leads(logits, asked) == [1.0, 0.0, 0.5]


def test_prompts_end_before_the_name_and_know_who_is_asked_about():
    base = load_base("pocket")
    facts = triplets("R")[:4]
    listed = examples("R12", facts, "test")
    both = prompts(base, listed, [t.c for t in facts])
    for e, ids, at, right, candidates in zip(listed, both.ids, both.subject, both.right, both.candidates, strict=True):
        text = base.tokenizer.decode(ids)
        assert e.gold not in text
        assert e.question in text
        assert str(base.tokenizer.decode(ids[: at + 1])).endswith(e.subject)
        assert e.subject not in base.tokenizer.decode(ids[at + 1 :])
        assert e.gold.startswith(str(base.tokenizer.decode([candidates[right]])).strip())
    first = prompts(base, examples("R1", facts, "test"), [t.b for t in facts])
    bridges = prompts(base, listed, [t.c for t in facts], then=first)
    assert bridges.candidates == first.candidates
    assert bridges.ids == both.ids
    assert [listed[i].triplet for i in shifted(8, 4)] == [1, 2, 3, 0, 1, 2, 3, 0]
    with pytest.raises(SettingError, match="a prompt without Nobody"):
        last_token_of(base, both.ids[0], "Nobody")


def test_one_expert_on_both_hops_is_not_composed():
    point = Links(library="mixed", layers="lower")
    assert sensible(point) == dataclasses.replace(point, composition="alone")
    assert sensible(dataclasses.replace(point, layers="lower/upper")) is None
    assert [spec.role for spec in library_of(PROTOCOL, point, 0)] == [4]
    assert [spec.role for spec in library_of(PROTOCOL, Links(), 0)] == [1, 2]


def test_the_command_makes_rows(folder, tmp_path, capsys):
    words = [f"model={folder}", *SMALL, f"out={tmp_path}"]
    assert main(PROTOCOL, words) == 0, capsys.readouterr().err
    assert "2 rows in" in capsys.readouterr().out
    for row in load_rows(tmp_path, "llm_links"):
        measured, depth = row["measured"], 2
        assert all(len(measured[name]) == depth + 1 for name in ("y_at_x", "y_at_end", "z_at_x", "z_at_end"))
        assert all(len(measured[name]) == depth for name in ("patched", "other_patched", "other_follows"))
        assert measured["back_pairs"] == [[1, 0]]
        assert measured["direct"] == pytest.approx(measured["z_at_end"][-1], abs=1e-6)
        assert measured["hits"] <= measured["total"] == 6
