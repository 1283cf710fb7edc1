"""Edits in closed form written into a model: exact where the closed form says so, found by a search where it cannot."""

import functools
import json
from typing import Any

import numpy as np
import pytest
import torch

from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.decoding.models import example, load_base
from lora_reuse.llm.decoding.resident import Resident
from lora_reuse.llm.edit import KEPT, PROTOCOL, Edit, sensible
from lora_reuse.llm.edits import editing, rome
from lora_reuse.llm.edits.closed_form import added, min_norm_edit
from lora_reuse.llm.edits.keys import all_inputs, last_inputs
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import SettingError
from lora_reuse.theory import edits
from tests.llm.tiny import tiny

torch.set_num_threads(1)
FACTS = triplets("F")[:2]
TEXT = " ".join(
    f"{e.question} {e.answer}"
    for subset in ("F1", "F2", "F12-CoT", "F4", "F5")
    for e in examples(subset, FACTS, "test")
)
SMALL = "dataset=F triplets=2 answer_tokens=4 step_tokens=8 value_steps=2 workers=1".split()
SEARCH = rome.Search(steps=60, rate=200.0, decay=0.0, clamp=1e7)
"""For random weights, whose MLPs add next to nothing to the residual."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny("qwen2", tmp_path_factory.mktemp("model"), text=TEXT)


@pytest.fixture(scope="module")
def base(folder):
    return load_base(str(folder))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def covariance(size):
    X = draw(size, 3 * size, seed=5).double()
    return X @ X.T / (3 * size)


# The closed form


def test_one_key_is_proposition_1():
    k, d = draw(12, 1), draw(5, 1, seed=1)
    torch.testing.assert_close(min_norm_edit(k, d).dense(), d @ k.T / (k * k).sum())


@pytest.mark.parametrize("C", [None, covariance(12)], ids=["identity", "rome"])
def test_several_keys_get_their_residuals_by_the_dense_formula_and_the_theorys(C):
    K, D = draw(12, 4), draw(5, 4, seed=1)
    edit = min_norm_edit(K, D, C)
    torch.testing.assert_close(edit.dense() @ K, D, atol=1e-5, rtol=1e-5)
    inverse = torch.linalg.inv(torch.eye(12).double() if C is None else C)
    k, d = K.double(), D.double()
    dense = d @ torch.linalg.inv(k.T @ inverse @ k) @ k.T @ inverse
    torch.testing.assert_close(edit.dense().double(), dense, atol=1e-5, rtol=1e-5)
    theirs = edits.min_norm_edit(k.numpy(), d.numpy(), None if C is None else C.numpy())
    np.testing.assert_allclose(edit.dense(), theirs.dense(), atol=1e-5)


def test_romes_edit_is_the_least_change_to_other_text():
    """tr(ΔW C ΔWᵀ) is smaller than that of any other interpolating update, that with C = I among them; which has the
    smallest norm."""
    K, D, C = draw(12, 4), draw(5, 4, seed=1), covariance(12)
    plain, ours = min_norm_edit(K, D).dense().double(), min_norm_edit(K, D, C).dense().double()
    change = lambda W: float(torch.trace(W @ C @ W.T))  # noqa: E731
    free = torch.eye(12).double() - K.double() @ torch.linalg.pinv(K.double())
    other = ours + 0.01 * draw(5, 12, seed=9).double() @ free
    assert change(ours) < change(plain)
    assert change(ours) < change(other)
    assert torch.linalg.norm(plain) < torch.linalg.norm(ours)


def test_a_sum_without_the_inverse_gram_matrix_is_no_edit_of_several():
    """The planted mistake of the theory's own checks, `inverse_gram_dropped`."""
    K, D = draw(12, 4) + 1, draw(5, 4, seed=1)
    wrong = LowRank(D, K / (K * K).sum(0))
    assert (wrong.dense() @ K - D).abs().max() > 0.1
    assert (min_norm_edit(K, D).dense() @ K - D).abs().max() < 1e-4


def test_keys_that_depend_on_each_other_are_refused():
    K = draw(12, 3)
    for keys in (torch.cat([K, K[:, :1]], dim=1), draw(3, 4), torch.zeros(12, 1)):
        with pytest.raises(SettingError, match="that depend on each other"):
            min_norm_edit(keys, draw(5, keys.shape[1]))


def test_added_is_the_sum():
    one, two = min_norm_edit(draw(12, 2), draw(5, 2)), min_norm_edit(draw(12, 3, seed=4), draw(5, 3))
    torch.testing.assert_close(added(one, two).dense(), one.dense() + two.dense())


# Values


def prompts_of(base):
    told = ["Ann Lee lives in", "the spouse of Bo Chan is", "city town"]
    prompts = [example(base, text, "")[0] for text in told]
    said = [example(base, "x", t)[1][:-1] for t in ("Paris", "Ann Lee", "Rome")]
    return prompts, said


def told(base, module, prompts, said, delta=None, edit=None):
    """Mean log-probability of each answer's tokens, the δ added at the prompt's last token, or the edit in place; one
    prompt at a time."""
    found = []
    with Resident(base.model) as resident, torch.inference_mode():
        resident.use([edit])
        for i, (prompt, answer) in enumerate(zip(prompts, said, strict=True)):
            place = len(prompt) - 1

            def change(m, x, y, added, place=place):
                y = y.clone()
                y.view(-1, y.shape[-1])[place] += added
                return y

            own = None if delta is None else functools.partial(change, added=delta[:, i])
            hook = base.model.get_submodule(module).register_forward_hook(own) if own else None
            logits = base.model(input_ids=torch.tensor([prompt + answer])).logits[0]
            if hook:
                hook.remove()
            found.append(
                float(torch.log_softmax(logits[place : place + len(answer)], -1)[range(len(answer)), answer].mean())
            )
    return found


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "opt"])
def test_values_make_the_answers_likely_and_closed_form_edits_write_them(tmp_path, family):
    """In the last layer a prompt's last token depends on nothing else: the edit is the value, and the answer's first
    token the largest."""
    base = load_base(str(tiny(family, tmp_path)))
    head: Any = (
        base.model.get_output_embeddings()
    )  # logits of random weights are all alike, OPT's above all, behind one more random matrix
    head.weight = torch.nn.Parameter(head.weight * (2000 if family == "opt" else 20), requires_grad=False)
    modules = rome.mlp_outputs(base)
    assert len(modules) == 2
    assert modules[1].replace(".1.", ".0.") == modules[0]
    prompts, said = prompts_of(base)
    delta = rome.value_changes(base, modules[1], prompts, said, SEARCH)
    with_delta = told(base, modules[1], prompts, said, delta)
    assert np.mean(told(base, modules[1], prompts, said)) < -3
    assert max(value for value, answer in zip(with_delta, said, strict=True) if len(answer) == 1) > -0.1
    keys = last_inputs(base, [modules[1]], prompts)[modules[1]].T
    for C in (None, covariance(keys.shape[0])):
        edit = {modules[1]: min_norm_edit(keys, delta, C)}
        with Resident(base.model) as resident, torch.inference_mode():
            resident.use([edit])
            largest = [int(base.model(input_ids=torch.tensor([prompt])).logits[0, -1].argmax()) for prompt in prompts]
        assert largest == [answer[0] for answer in said]
    single = [(p, s) for p, s in zip(prompts, said, strict=True) if len(s) == 1]
    if single:
        first = [len(s) == 1 for s in said]
        edited = told(
            base, modules[1], *map(list, zip(*single, strict=True)), edit={modules[1]: min_norm_edit(keys, delta)}
        )
        np.testing.assert_allclose(edited, np.array(with_delta)[first], atol=1e-3)


def test_values_are_each_found_alone_and_stay_within_their_bounds(base):
    module = rome.mlp_outputs(base)[0]
    prompts, said = prompts_of(base)
    search = rome.Search(steps=5, rate=0.5, decay=0.1, clamp=50.0)
    together = rome.value_changes(base, module, prompts, said, search)
    alone = torch.cat(
        [rome.value_changes(base, module, [p], [s], search) for p, s in zip(prompts, said, strict=True)], dim=1
    )
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=1e-2)
    torch.testing.assert_close(
        rome.value_changes(base, module, prompts, said, search, rows=2), together, atol=2e-4, rtol=1e-2
    )
    short = rome.value_changes(base, module, prompts, said, rome.Search(5, 0.5, 0.1, 0.25))
    outputs = torch.stack([base.model.get_submodule(module)(x) for x in last_inputs(base, [module], prompts)[module]])
    lengths = torch.linalg.vector_norm(short, dim=0) / torch.linalg.vector_norm(outputs, dim=1)
    assert lengths.max() <= 0.25 + 1e-5
    long = torch.linalg.vector_norm(
        rome.value_changes(base, module, prompts, said, rome.Search(30, 0.5, 0.0, 50.0)), dim=0
    )
    decayed = torch.linalg.vector_norm(
        rome.value_changes(base, module, prompts, said, rome.Search(30, 0.5, 50.0, 50.0)), dim=0
    )
    assert (decayed < long).all()
    assert all(p.grad is None for p in base.model.parameters())


def test_the_covariance_is_that_of_all_tokens_of_text_that_is_not_asked(base):
    module = rome.mlp_outputs(base)[0]
    found = rome.key_covariance(base, module, "H", 0, ridge=0.5, count=1)
    listed = [e for kind in rome.TEXT for e in examples(f"R{kind}", triplets("R", 0), "train", 1)]
    assert len(listed) == 400
    texts = [asked + answer for asked, answer in (example(base, e.question, e.answer) for e in listed[::40])]
    keys = torch.cat([all_inputs(base, module, [text]) for text in texts]).double()
    assert found.shape == (48, 48)
    torch.testing.assert_close(found, found.T)
    bare = found - found.diagonal().mean() / 3 * torch.eye(48)  # c + 0.5 c̄ has the mean 1.5 c̄
    assert torch.linalg.norm(bare - keys.T @ keys / len(keys)) < 0.3 * torch.linalg.norm(bare)  # a tenth of the text
    assert torch.linalg.eigvalsh(bare)[0] > -1e-10


# The command


def test_what_is_asked_of_which_edits():
    every = ("own", "first", "second", "direct", "steps", "neighbours")
    asked = {library: [p for p in every if sensible(Edit(library=library, prompting=p))] for library in ("1", "2")}
    assert asked == {"1": ["own", "first", "neighbours"], "2": ["own", "second", "neighbours"]}
    assert sensible(Edit(library="1", prompting="own", composition="joint")) == Edit(library="1", prompting="own")
    assert sensible(Edit(composition="joint")) == Edit(composition="joint")


def test_the_command_writes_rows_that_are_its_answers_and_goes_on(folder, tmp_path, capsys):
    words = [f"model={folder}", *SMALL, f"out={tmp_path}", "depth=1", "covariance=identity"]
    assert main(PROTOCOL, [*words, "dry_run=true"]) == 0
    assert "edit: 1 groups, 0 experts" in capsys.readouterr().out
    assert main(PROTOCOL, words) == 0
    assert "18 rows" in (out := capsys.readouterr().out)
    assert "18 new" in out
    rows = load_rows(tmp_path, "llm_edit")
    totals = {"own": (2, 4), "neighbours": (12, 24)}
    for row in rows:
        settings, measured = row["settings"], row["measured"]
        said = [json.loads(line) for line in (tmp_path / "answers" / f"{row['hash']}.jsonl").read_text().splitlines()]
        assert measured["hits"] == sum(record["strict"] for record in said) == sum(measured["by_triplet"])
        both = settings["library"] == "2-combination"
        assert measured["total"] == len(said) == totals.get(settings["prompting"], (4, 4))[both]
        assert measured["layer"] == settings["depth"]
        assert measured["residual"] > 0
        assert row["provenance"]["edit_seconds"] > 0
        if settings["prompting"] == "neighbours":
            assert sum(sum(measured[f"kept_{kind}_by_triplet"]) for kind in KEPT) == measured["hits"]
        if settings["prompting"] == "direct":
            assert row["predicted"] == {"at_most": 2.0}
            assert len(measured["logp_z_by_triplet"]) == 2
    assert main(PROTOCOL, words) == 0
    assert "0 new, 18 from before" in capsys.readouterr().out


def test_an_edit_of_nothing_keeps_every_neighbour(folder, tmp_path):
    words = [f"model={folder}", *SMALL, f"out={tmp_path}", "covariance=rome", "value_clamp=0"]
    words += ["depth=0.35", "prompting=neighbours", "library=2-combination", "composition=sum"]
    assert main(PROTOCOL, words) == 0
    (row,) = load_rows(tmp_path, "llm_edit")
    assert row["measured"]["hits"] == row["measured"]["total"] == 24
    assert row["measured"]["update_ratio"] == 0


def test_the_sum_adds_two_edits_and_joint_hits_all_keys(base):
    point = Edit(dataset="F", triplets=2, depth=1.0, value_steps=3)
    layer = editing.layer_of(base, point, 0, [1, 2])
    assert layer.module == "model.layers.1.mlp.down_proj"
    (K1, D1), (K2, D2) = layer.edits[1], layer.edits[2]
    summed, joint = (editing.written(base, layer, (1, 2), name)[0][layer.module] for name in ("sum", "joint"))
    torch.testing.assert_close(joint.dense() @ torch.cat([K1, K2], 1), torch.cat([D1, D2], 1), atol=1e-6, rtol=1e-3)
    alone = [editing.written(base, layer, (hop,), "sum")[0][layer.module].dense() for hop in (1, 2)]
    torch.testing.assert_close(summed.dense(), alone[0] + alone[1])
    assert (summed.dense() @ K1 - D1).abs().max() > 0.05 * D1.abs().max()  # each leaks into the other's keys


def test_edits_that_cannot_be_are_refused_in_one_line(folder, tmp_path, capsys):
    assert (
        main(PROTOCOL, [f"model={folder}", *SMALL, f"out={tmp_path}", "templates=40", "library=1", "prompting=own"])
        == 2
    )
    assert "keys of 48 numbers that depend on each other" in capsys.readouterr().err
    assert main(PROTOCOL, ["depth=2"]) == 2
    assert "depth: got '2'; allowed: a number from 0 to 1" in capsys.readouterr().err
