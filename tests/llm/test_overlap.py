"""How far updates act beyond their prompts: against dense products, the theory's kernel, and updates whose overlaps are
known."""

import math

import numpy as np
import pytest
import torch

from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.compositions import compose
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.decoding.models import example, load_base
from lora_reuse.llm.edits import kernel
from lora_reuse.llm.edits.closed_form import min_norm_edit
from lora_reuse.llm.edits.keys import all_inputs, last_inputs, up_to_answer
from lora_reuse.llm.edits.neighbours import KINDS, neighbours
from lora_reuse.llm.overlap import PROTOCOL
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.llm.protocols.table import table
from lora_reuse.runs.rows import load_rows
from lora_reuse.theory.kernels import kernel as theory_kernel
from tests.llm.tiny import tiny

torch.set_num_threads(1)
FACTS = triplets("F")[:3]
TEXT = " ".join(
    f"{e.question} {e.answer}" for subset in ("F1", "F2", "F12", "F4", "F5") for e in examples(subset, FACTS, "test")
)
SMALL = "dataset=F triplets=3 steps=2 batch=4 rank=2 rate=0.05 workers=1".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny("qwen2", tmp_path_factory.mktemp("model"), text=TEXT)


@pytest.fixture(scope="module")
def base(folder):
    return load_base(str(folder))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_expert(base, modules, seed):
    shapes = {name: base.model.get_submodule(name).weight.shape for name in modules}
    return {
        name: LowRank(0.3 * draw(out, 2, seed=seed + i), draw(into, 2, seed=seed - i))
        for i, (name, (out, into)) in enumerate(shapes.items())
    }


def test_overlaps_are_those_of_dense_products():
    update, x = LowRank(draw(5, 2), draw(8, 2, seed=1)), draw(4, 2, 3, 8, seed=2)
    found = kernel._overlaps(update, x)
    W, h = (update.out @ update.into.T).double().numpy(), x.double().numpy()
    for kind in range(3):
        for t in range(2):
            K = h[0, t].T
            for i in range(3):
                own, beside = h[0, t, i], h[kind + 1, t, i]
                assert found["ratio"][kind, t, i] == pytest.approx(
                    np.linalg.norm(W @ beside) / np.linalg.norm(W @ own), rel=1e-5
                )
                assert found["linear"][kind, t, i] == pytest.approx(abs(own @ beside) / (own @ own), rel=1e-9)
                assert found["eq23"][kind, t, i] == pytest.approx(
                    np.linalg.norm(np.linalg.inv(K.T @ K) @ K.T @ beside), rel=1e-6
                )
                pair = np.stack([own, beside])
                k = theory_kernel(pair @ pair.T)
                assert found["arccos"][kind, t, i] == pytest.approx(k[0, 1] / k[0, 0], rel=1e-9)


def test_an_update_of_proposition_1_is_explained_by_the_kernel_and_one_of_eq_23_by_all_of_its_keys():
    """One fact: ratio = k(η, ξ)/k(η, η). Several, of orthogonal residuals: ‖(KᵀK)⁻¹Kᵀξ‖, and the kernel of one key
    falls short."""
    x = draw(4, 1, 6, 32)
    x[0, 0] += draw(32, seed=3)  # keys with something in common
    one = torch.stack([kernel_of(x, [i]) for i in range(6)])
    np.testing.assert_allclose(*one.T, rtol=1e-4)
    ratio, several = kernel._overlaps(min_norm_edit(x[0, 0].T, torch.linalg.qr(draw(9, 6))[0]), x), "eq23"
    np.testing.assert_allclose(ratio["ratio"], ratio[several], rtol=1e-4)
    logs = {name: np.log(values)[:, None] for name, values in ratio.items()}
    assert kernel.explained(logs[several], logs["ratio"]) == pytest.approx((1.0, 1.0), abs=1e-4)
    assert kernel.explained(logs["linear"], logs["ratio"])[0] < 0.9


def kernel_of(x, facts):
    """Ratio and linear kernel of the edit of one fact, on its own row of prompts."""
    edit = min_norm_edit(x[0, 0, facts].T, draw(9, 1))
    found = kernel._overlaps(edit, x[:, :, facts])
    return torch.tensor([found["ratio"][0, 0, 0], found["linear"][0, 0, 0]])


def test_log_overlaps_take_each_kind_beside_its_own_prompt(base):
    modules = ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj"]
    expert = random_expert(base, modules, 7)
    composition = compose("sum", [expert, random_expert(base, modules, 9)])
    logs = kernel.log_overlaps(base, expert, 2, FACTS, "test", composition)
    assert logs["ratio"].shape == (5, 2, 2, 3)
    places = [t.c for t in FACTS]
    for kind in ("two_hop", "unrelated"):
        for place in ((0, 1), (1, 2)):
            norms = []
            for asked in (kind, "own"):
                e = neighbours(asked, 2, FACTS, "test")[place[0] * 3 + place[1]]
                x = last_inputs(base, modules, [up_to_answer(base, e.question, e.beginning, places)[0]], composition)
                norms.append([float(torch.linalg.norm(expert[name].dense() @ x[name][0])) for name in modules])
            expected = np.log(np.array(norms[0]) / np.array(norms[1]))
            np.testing.assert_allclose(logs["ratio"][KINDS.index(kind) - 1, :, *place], expected, atol=1e-4)


def test_summary_against_another_way():
    logs = {name: draw(5, 4, 2, 3, seed=i).double().numpy() for i, name in enumerate(("ratio", *kernel.KERNELS))}
    found = kernel.summary(logs, list("abcd"))
    measured, stderr = found["measured"], found["stderr"]
    y = logs["ratio"]
    assert measured["log_ratio_two_hop"] == pytest.approx(y[0].mean())
    np.testing.assert_allclose(measured["log_ratio_two_hop_by_triplet"], y[0].mean((0, 1)), atol=1e-6)
    np.testing.assert_allclose(measured["log_linear_unrelated_by_module"], logs["linear"][4].mean((1, 2)), atol=1e-6)
    assert measured["r2_linear"] == pytest.approx(np.corrcoef(logs["linear"].ravel(), y.ravel())[0, 1] ** 2)
    assert measured["slope_eq23"] == pytest.approx(np.polyfit(logs["eq23"].ravel(), y.ravel(), 1)[0])
    left_out = [
        np.corrcoef(logs["arccos"][..., kept].ravel(), y[..., kept].ravel())[0, 1] ** 2
        for kept in ([1, 2], [0, 2], [0, 1])
    ]
    assert stderr["r2_arccos"] == pytest.approx(math.sqrt(2 / 3 * sum((r - np.mean(left_out)) ** 2 for r in left_out)))
    assert kernel.explained(np.zeros_like(y), y) == (0.0, 0.0)


# Keys


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_keys_are_the_modules_inputs_whatever_the_padding(tmp_path, family):
    base = load_base(str(tiny(family, tmp_path)))
    names = [
        name
        for name, module in base.model.named_modules()
        if name.endswith(("up_proj", "down_proj", "mlp.c_proj", "fc2"))
    ]
    prompts = [example(base, "Where does Ann Lee live ?", "Paris")[0], example(base, "the spouse", "Bo")[0], [5]]
    found = last_inputs(base, names, prompts)
    whole = all_inputs(base, names[-1], prompts)
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in names}

    def keep(name):
        def hook(module, inputs):
            seen[name].append(inputs[0].flatten(0, -2))

        return hook

    hooks = [base.model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in names]
    with torch.inference_mode():
        for prompt in prompts:
            base.model(input_ids=torch.tensor([prompt]))
    for hook in hooks:
        hook.remove()
    for name in names:
        torch.testing.assert_close(found[name], torch.stack([x[-1] for x in seen[name]]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(whole, torch.cat(seen[names[-1]]), atol=1e-5, rtol=1e-4)


def test_the_prompt_goes_up_to_where_candidates_differ(base):
    asked, after = up_to_answer(base, "Where does Ann live?", "Ann lives in ", [t.c for t in FACTS])
    decode = base.tokenizer.decode
    assert decode(asked) == "Where does Ann live? Ann lives in"
    assert [decode(ids).strip() for ids in after] == [t.c for t in FACTS]
    e = examples("F1", FACTS, "test")[0]
    n = neighbours("own", 1, FACTS, "test")[0]
    assert e.answer.startswith(n.beginning)
    assert e.answer[len(n.beginning) :].startswith(e.gold)


@pytest.mark.parametrize("hop", [1, 2])
def test_neighbours_ask_what_they_say(hop):
    t = FACTS[1]
    subject = {
        "own": t.a if hop == 1 else t.b,
        "two_hop": t.a,
        "two_hop_other": t.d,
        "same_relation": t.d,
        "unrelated": t.d,
    }
    subject["same_entity"] = subject["own"]
    asked = {kind: neighbours(kind, hop, FACTS, "test") for kind in KINDS}
    for kind, listed in asked.items():
        assert [e.triplet for e in listed] == [0, 1, 2] * 2
        assert listed[1].subject == subject[kind]
        assert subject[kind] in listed[1].question
        assert "\0" not in listed[1].question + listed[1].beginning
        assert len(neighbours(kind, hop, FACTS, "train", 3)) == 9
    own = [e.question for e in examples(f"F{hop}", FACTS, "test")]
    assert [e.question for e in asked["own"]] == own
    assert [e.question for e in asked["two_hop"]] == [e.question for e in examples("F12", FACTS, "test")]
    swapped = [e.question.replace(subject["same_relation"], subject["own"]) for e in asked["same_relation"][1::3]]
    assert swapped == own[1::3]
    unrelated = [e.question.replace(t.d, subject["own"]) for e in asked["unrelated"][1::3]]
    assert unrelated == [e.question for e in asked["same_entity"][1::3]]
    assert not set(unrelated) & set(own)


# The command


def test_the_command_writes_rows_and_goes_on(folder, tmp_path, capsys):
    words = [f"model={folder}", *SMALL, f"out={tmp_path}"]
    assert main(PROTOCOL, [*words, "dry_run=true"]) == 0
    assert "overlap: 4 groups, 2 experts" in capsys.readouterr().out
    assert main(PROTOCOL, [*words, "expert=1"]) == 0
    assert main(PROTOCOL, words) == 0
    assert "4 rows" in (out := capsys.readouterr().out)
    assert "2 new, 2 from before" in out
    rows = load_rows(tmp_path, "llm_overlap")
    assert {(row["settings"]["expert"], row["settings"]["state"]) for row in rows} == {
        (1, "base"),
        (1, "sum"),
        (2, "base"),
        (2, "sum"),
    }
    for row in rows:
        assert len(row["measured"]["modules"]) == 6
        assert 0 <= row["measured"]["r2_linear"] <= 1
        assert len(row["measured"]["log_ratio_two_hop_by_triplet"]) == row["measured"]["total"] / 2 == 3
    by_state = {
        row["settings"]["state"]: row["measured"]["log_ratio_two_hop"] for row in rows if row["settings"]["expert"] == 1
    }
    assert by_state["base"] != by_state["sum"]
    assert "R2 eq23" in table(PROTOCOL, rows)
    assert main(PROTOCOL, ["expert=3"]) == 2
    assert "expert: got '3'; allowed: a whole number from 1 to 2" in capsys.readouterr().err
