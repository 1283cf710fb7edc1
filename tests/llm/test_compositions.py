"""Every rule, by its name, in the checks that fit what it promises, and against its twin in `theory.compositions`; PEFT
is in `test_adapters`."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.compositions import RULES, RoutedDelta, compose
from lora_reuse.llm.compositions.arrow import Routed
from lora_reuse.llm.compositions.lego import k_means
from lora_reuse.llm.compositions.sparse import elect_and_average, keep_largest
from lora_reuse.llm.protocols.trial import refuse_unfit
from lora_reuse.runs.settings import SettingError
from lora_reuse.theory import compositions as theirs
from lora_reuse.theory import edits
from lora_reuse.theory.compositions import arrow, sparse

torch.set_num_threads(1)
SHAPES = {"up": (11, 7), "down": (7, 11)}


def library(experts=3, rank=3, seed=0, shapes=SHAPES):
    random = torch.Generator().manual_seed(seed)
    draw = lambda size: LowRank(  # noqa: E731
        torch.randn(size[0], rank, generator=random), torch.randn(size[1], rank, generator=random)
    )
    return [{name: draw(shape) for name, shape in shapes.items()} for _ in range(experts)]


def tokens(name, seed=1):
    return torch.randn(2, 5, SHAPES[name][1], generator=torch.Generator().manual_seed(seed))


def change(composition):
    """What the composition adds in each module to the same inputs."""
    return torch.cat([composition[name](tokens(name)).flatten() for name in SHAPES])


def turned(expert, seed=0):
    """(A, B) → (A M, B M⁻ᵀ) with a general M: the same ΔW."""
    m = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed))
    return {name: LowRank(update.out @ m, update.into @ torch.linalg.inv(m).T) for name, update in expert.items()}


def zeroed(expert):
    return {name: LowRank(torch.zeros_like(update.out), update.into) for name, update in expert.items()}


TWINS = RULES.keys() & theirs.RULES.keys() - {"random"}
"""The theory's `random` knows which prompts have nothing to do with the facts; every other rule of one name is the
same."""


def test_the_rules_are_those_of_the_theory():
    """The theory's lorahub and its fitted cat are in `llm.learned`, its `oracle` is an expert here; `lego` and the
    merges of LoRI look at what training leaves."""
    assert theirs.RULES.keys() - RULES.keys() == {"lorahub", "oracle"}
    assert {"lego", "lori_concat", "lori_linear"} <= RULES.keys() - theirs.RULES.keys()
    assert {"sum", "average", "linear", "uniform", "cat", "arrow", "arrow_after", "knots", "ties", "dare"} <= TWINS


@pytest.mark.parametrize("name", RULES)
def test_a_rule_gives_every_module_an_update_and_the_same_every_time(name):
    experts, untouched = library(), library()
    composition = compose(name, experts)
    assert list(composition) == list(SHAPES)
    assert all(delta.shape == SHAPES[module] for module, delta in composition.items())
    assert all(isinstance(delta, LowRank) == RULES[name].static for delta in composition.values())
    assert all(isinstance(delta, RoutedDelta) != RULES[name].static for delta in composition.values())
    torch.testing.assert_close(change(composition), change(compose(name, experts)), rtol=0, atol=0)
    assert all(
        torch.equal(a, b)
        for e, u in zip(experts, untouched, strict=True)
        for m in SHAPES
        for a, b in zip(e[m], u[m], strict=True)
    )


@pytest.mark.parametrize("name", RULES)
def test_a_rule_passes_the_trial_of_those_in_files(name):
    refuse_unfit(name)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_change_has_the_dtype_of_the_inputs(name, dtype):
    for module, delta in compose(name, library()).items():
        x = tokens(module).to(dtype)
        out = delta(x)
        assert out.dtype == dtype
        torch.testing.assert_close(
            out.float(), delta(x.float()), rtol=0.1, atol=0.1 * float(delta(x.float()).abs().max())
        )


@pytest.mark.parametrize("name", RULES)
def test_gauge(name):
    """Other factors of one expert change nothing in its ΔW: rules that promise it give the same, the others do not."""
    first, second, third = library()
    before, after = change(compose(name, [first, second, third])), change(compose(name, [first, turned(second), third]))
    assert torch.allclose(before, after, atol=1e-3) == RULES[name].gauge_free


@pytest.mark.parametrize("name", [n for n, r in RULES.items() if r.alone])
def test_one_expert_alone_is_returned_unchanged(name):
    torch.testing.assert_close(change(compose(name, library(1))), change(library(1)[0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_the_order_of_the_experts(name):
    a, b, c = library()
    same = torch.allclose(change(compose(name, [a, b, c])), change(compose(name, [b, c, a])), rtol=1e-4, atol=1e-4)
    assert same or not RULES[name].symmetric
    assert name == "lego" or same == RULES[name].symmetric  # k-means may find the same clusters


@pytest.mark.parametrize("name", RULES)
def test_adapters_that_do_nothing(name):
    """All zero: no change, and no NaN. One zero: finite, and exactly diluted where the rule is a sum."""
    first, second = library(2)
    assert not change(compose(name, [zeroed(first), zeroed(second)])).any()
    diluted = change(compose(name, [first, zeroed(second)]))
    assert diluted.isfinite().all()
    for rule, share in {"sum": 1.0, "cat": 1.0, "average": 0.5}.items():
        if name == rule:
            torch.testing.assert_close(diluted, share * change(first))


@pytest.mark.parametrize("name", RULES)
def test_ranks_may_differ(name):
    """A factor with columns of zeros after its own is the same expert."""
    first, second = *library(1, rank=3), *library(1, rank=2, seed=5)
    wider = {module: update.padded(3) for module, update in second.items()}
    ours = change(compose(name, [first, second]))
    assert ours.isfinite().all()
    if name not in ("random", "lego", "dare"):  # which draw for each entry, or sort each column into a cluster
        dials = {"density": 1.0} if "density" in RULES[name].dials else {}  # zeros count among the weights to trim
        ours = change(compose(name, [first, second], **dials))
        torch.testing.assert_close(ours, change(compose(name, [first, wider], **dials)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", RULES)
def test_modules_may_differ(name):
    """Where one expert alone changes a module, a rule that gives one expert back gives its share of that one."""
    first, second = *library(1), *library(1, shapes={"up": (11, 7)}, seed=5)
    composition = compose(name, [first, second])
    assert list(composition) == ["up", "down"]
    x = tokens("down")
    share = {"average": 1 / 2, "uniform": 1 / 4, "lori_concat": 1 / 2, "lori_linear": 1 / 2, "lego": None}
    if RULES[name].alone and (part := share.get(name, 1.0)) is not None:
        torch.testing.assert_close(composition["down"](x), part * first["down"](x), rtol=1e-4, atol=1e-4)
    assert composition["down"](x).isfinite().all()


@pytest.mark.parametrize("name", sorted(TWINS - {"ties"}))
@pytest.mark.parametrize("knobs", [{}, {"temperature": 0.5, "top_k": 2, "weights": (0.3, 1.5, -0.7)}])
def test_the_theory_computes_the_same(name, knobs: dict[str, Any]):
    """From the same matrices. The theory adds balanced factors (as Proposition 1 leaves them), so the experts are
    balanced; its `scores=kernel` takes features as they are, which is `raw` here. At density 1 no trimmed entry of
    KnOTS or Core Space hangs on rounding, and DARE has no masks, which are of factors here and of ΔW there."""
    if name in ("knots", "dare", "core_space"):
        knobs = {"density": 1.0}
    balanced = [edits.LowRank(*(factor.double().numpy() for factor in e["up"])).balanced() for e in library()]
    experts = [{"up": LowRank(torch.from_numpy(e.out).float(), torch.from_numpy(e.into).float())} for e in balanced]
    x = tokens("up").flatten(0, 1)
    given = {"weights": (1.0, 1.0, 1.0), "fit": "given", **knobs}
    dials = {dial: given[dial] for dial in theirs.RULES[name].dials.keys() & given}
    there = theirs.compose(name, balanced, **dials) @ x.double().numpy().T
    here = compose(name, experts, **{dial: knobs[dial] for dial in RULES[name].dials.keys() & knobs})["up"](x)
    np.testing.assert_allclose(here.T.numpy(), there, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_ties_on_factors_is_the_theorys_on_updates_where_one_factor_is_the_identity(density):
    """ΔW_i = A_i Iᵀ: the identity has one value to keep and to agree on, so A is merged as ΔW is."""
    random = torch.Generator().manual_seed(0)
    experts = [{"up": LowRank(torch.randn(11, 7, generator=random), torch.eye(7))} for _ in range(3)]
    twins = [edits.LowRank(*(factor.double().numpy() for factor in e["up"])) for e in experts]
    there = theirs.compose("ties", twins, density=density)
    here = compose("ties", experts, density=density, trim="module")["up"]
    assert isinstance(here, LowRank)
    np.testing.assert_allclose(here.dense(), np.asarray(there), rtol=1e-5)


@pytest.mark.parametrize("scores", ["raw", "cosine"])
def test_the_theory_routes_the_same(scores):
    experts = library()
    twins = [edits.LowRank(*(factor.double().numpy() for factor in e["up"])) for e in experts]
    there = theirs.compose("arrow_after", twins, scores="kernel" if scores == "raw" else scores, top_k=2)
    here = compose("arrow_after", experts, scores=scores, top_k=2)["up"]
    assert isinstance(here, Routed)
    assert isinstance(there, arrow.Routed)
    x = tokens("up").flatten(0, 1)
    np.testing.assert_allclose(here.weights(x).T.numpy(), there.weights(x.double().numpy().T), atol=1e-5)


def test_given_weights_may_differ_by_module():
    a, b = library(2)
    given = compose("cat", [a, b], weights={"up": (2.0, 0.0), "down": (0.0, 3.0)})
    torch.testing.assert_close(given["up"](tokens("up")), 2 * a["up"](tokens("up")))
    torch.testing.assert_close(given["down"](tokens("down")), 3 * b["down"](tokens("down")))
    with pytest.raises(SettingError, match="weights: got none for down; allowed: weights for every module"):
        compose("cat", [a, b], weights={"up": (1, 1)})


def test_given_weights_may_differ_by_layer():
    names = ("model.layers.0.up", "model.layers.2.up", "model.layers.10.up")
    a, b = ({name: one["up"] for name in names} for one in library(2))
    given = compose("cat", [a, b], weights="0-9=2:0/10-10=0:3")
    x = tokens("up")
    for name, expected in zip(names, (2 * a[names[0]](x), 2 * a[names[1]](x), 3 * b[names[2]](x)), strict=True):
        torch.testing.assert_close(given[name](x), expected)
    with pytest.raises(
        SettingError, match=r"says nothing of model\.layers\.10\.up; allowed: weights for layer 10, too"
    ):
        compose("cat", [a, b], weights="0-9=2:0")
    with pytest.raises(SettingError, match="says nothing of lm_head; allowed: weights for what is in no layer, too"):
        compose("cat", [{"lm_head": a[names[0]], names[0]: a[names[0]]}], weights="0-9=2")
    with pytest.raises(SettingError, match="no adapter has a module in layers 11-29; allowed: layers from 0 to 10"):
        compose("cat", [a, b], weights="0-10=2:0/11-29=0:3")
    with pytest.raises(SettingError, match="no adapter has a module in layers 0-9; allowed: one weight an expert"):
        compose("cat", [{"lm_head": a[names[0]]}], weights="0-9=2")
    rest = compose("cat", [{"lm_head": a[names[0]], names[0]: a[names[0]]}], weights="0-9=2/rest=3")
    torch.testing.assert_close(rest["lm_head"](x), 3 * a[names[0]](x))
    torch.testing.assert_close(rest[names[0]](x), 2 * a[names[0]](x))
    for wrong in ("0-9=1:x", "0-9=1:0/9-9=0:1", "9-0=1:0", "lower=1:0", "0-9=1:0/", "rest=1:0/rest=1:0"):
        with pytest.raises(SettingError, match=r"weights: got .* by layers as 0-14=1:0/15-29=0:1"):
            compose("cat", [a, b], weights=wrong)


def test_the_norm_and_singular_vectors_are_those_of_the_dense_matrix():
    for rank in (1, 3, 20):  # 20: more columns than rows
        update = library(1, rank=rank)[0]["up"]
        svd, dense = update.core_svd(), update.dense().double()
        np.testing.assert_allclose(update.norm(), torch.linalg.norm(dense), rtol=1e-6)
        np.testing.assert_allclose(svd.values, torch.linalg.svdvals(dense)[: len(svd.values)], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            svd.left @ torch.diag(svd.values) @ svd.right.T, update.dense(), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("ratio", [0.8, 0.99, 0.9999])
def test_prototypes_are_exact_even_where_singular_values_nearly_coincide(ratio):
    """PEFT's 15 power iterations miss them there."""
    for seed in range(5):
        random = torch.Generator().manual_seed(seed)
        left, right = (torch.linalg.qr(torch.randn(n, 4, generator=random, dtype=torch.float64)).Q for n in (30, 40))
        mixed = torch.randn(4, 4, generator=random, dtype=torch.float64)
        out = (left * torch.tensor([1.0, ratio, 0.5, 0.1])) @ mixed
        update = LowRank(out.float(), (right @ torch.linalg.inv(mixed).T).float())
        exact = torch.linalg.svd(update.out.double() @ update.into.double().T).Vh[0]
        assert abs(float(update.top_input_direction().double() @ exact)) > 1 - 1e-6
    assert not zeroed(library(1)[0])["up"].top_input_direction().any()


def router(name="arrow", experts=3, **knobs):
    delta = compose(name, library(experts), **knobs)["up"]
    assert isinstance(delta, Routed)
    return delta


def test_equal_gates_give_uniform_and_average():
    level = torch.zeros(3, 7)
    for name, static in (("arrow", "uniform"), ("arrow_after", "average")):
        torch.testing.assert_close(
            replace(router(name), prototypes=level)(tokens("up")), compose(static, library())["up"](tokens("up"))
        )


def test_gates_are_the_softmax_of_the_scores():
    x, delta = tokens("up"), router(temperature=0.7)
    scores = torch.stack([(x @ update["up"].top_input_direction()).abs() for update in library()], dim=-1)
    torch.testing.assert_close(delta.weights(x), torch.softmax(scores / 0.7, dim=-1))
    torch.testing.assert_close(
        router(scores="cosine").weights(x), torch.softmax(scores / x.norm(dim=-1, keepdim=True), dim=-1)
    )
    torch.testing.assert_close(router(scores="cosine").weights(torch.zeros(1, 7)), torch.full((1, 3), 1 / 3))
    torch.testing.assert_close(
        router(top_k=1).weights(x), torch.nn.functional.one_hot(scores.argmax(dim=-1), 3).float()
    )
    torch.testing.assert_close(router(top_k=9).weights(x), router().weights(x))
    exact = delta.weights(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(delta.weights(x), exact, rtol=0, atol=0)
    rounded = x.bfloat16()
    torch.testing.assert_close(
        router().to(x.device, torch.bfloat16).weights(rounded), router().weights(rounded.float()), rtol=0, atol=0
    )


def test_gates_mix_what_eq_28_says():
    x, experts = tokens("up").flatten(0, 1), library()
    w = router().weights(x)
    for before in (True, False):
        expected = torch.zeros(10, 11)
        for t in range(10):
            out, into = (
                torch.stack([w[t, i] * expert["up"][factor] for i, expert in enumerate(experts)]).sum(dim=0)
                for factor in (0, 1)
            )
            after = torch.stack([w[t, i] * expert["up"].dense() for i, expert in enumerate(experts)]).sum(dim=0)
            expected[t] = (out @ into.T if before else after) @ x[t]
        torch.testing.assert_close(router("arrow" if before else "arrow_after")(x), expected, rtol=1e-4, atol=1e-4)


def test_controls_of_the_router():
    own, swapped = router(), router(prototypes="swapped")
    assert torch.equal(swapped.prototypes, own.prototypes[[1, 2, 0]])
    drawn = router(prototypes="random", seed=3).prototypes
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(3))
    assert torch.equal(drawn, router(prototypes="random", seed=3).prototypes)
    assert not torch.allclose(drawn, router(prototypes="random", seed=4).prototypes)


def test_random_experts_have_the_norms_of_the_experts():
    drawn = compose("random", library())["up"]
    assert isinstance(drawn, LowRank)
    for i, expert in enumerate(library()):
        columns = slice(3 * i, 3 * i + 3)
        np.testing.assert_allclose(
            LowRank(drawn.out[:, columns], drawn.into[:, columns]).norm(), expert["up"].norm(), rtol=1e-5
        )
    assert not torch.equal(drawn.out, compose("random", library(), seed=1)["up"].out)  # pyright: ignore[reportAttributeAccessIssue]


def hand(*values):
    """One module of rank one with A = values[:2] and B = values[2:]."""
    return {"m": LowRank(torch.tensor(values[:2]).unsqueeze(1), torch.tensor(values[2:]).unsqueeze(1))}


def test_ties_by_hand():
    a, b = hand(3.0, -1.0, 0.1, 2.0), hand(1.0, 2.0, -0.2, -3.0)
    whole = compose("ties", [a, b], density=0.5)["m"]  # kept: a 3, 2; b 2, −3
    assert isinstance(whole, LowRank)
    assert torch.cat([whole.out, whole.into]).flatten().tolist() == [3.0, 2.0, 0.0, -3.0]
    each = compose("ties", [a, b], density=0.5, trim="module")["m"]  # kept of A: a 3, b 2; of B: a 2, b −3
    assert isinstance(each, LowRank)
    assert torch.cat([each.out, each.into]).flatten().tolist() == [3.0, 2.0, 0.0, -3.0]
    a = hand(3.0, -4.0, 0.1, 0.2)  # the share of all weights lies in A alone
    whole, each = (compose("ties", [a], density=0.5, trim=trim)["m"] for trim in ("global", "module"))
    assert whole.into.flatten().tolist() == [0.0, 0.0]  # pyright: ignore[reportAttributeAccessIssue]
    assert [round(v, 6) for v in each.into.flatten().tolist()] == [0.0, 0.2]  # pyright: ignore[reportAttributeAccessIssue]


def test_ties_over_modules_and_as_the_theory_elects():
    large, small = library(1)[0], {name: LowRank(0.01 * u.out, 0.01 * u.into) for name, u in library(1)[0].items()}
    kept = compose("ties", [{"up": large["up"], "down": small["down"]}], density=0.3)
    assert not change({"up": LowRank(torch.zeros(11, 1), torch.zeros(7, 1)), "down": kept["down"]}).any()
    stack = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0))
    for density in (0.2, 0.5, 1.0):
        here = elect_and_average(torch.stack([keep_largest(matrix, density) for matrix in stack]))
        there = sparse.merge_ties(list(stack.double().numpy()), density)
        np.testing.assert_allclose(here, there, rtol=1e-5)


@pytest.mark.parametrize("density", [0.2, 1.0])
def test_knots_through_the_core_is_knots(density):
    experts = library()
    dense = [expert["up"].dense().double() for expert in experts]
    U, S, Vh = torch.linalg.svd(torch.cat(dense, dim=1), full_matrices=False)
    k = int((S / S[0] > 1e-5).sum())
    blocks = [keep_largest(S[:k, None] * block, density) for block in Vh[:k].split(7, dim=1)]
    merged = compose("knots", experts, density=density)["up"]
    assert isinstance(merged, LowRank)
    torch.testing.assert_close(
        merged.dense(), (U[:, :k] @ elect_and_average(torch.stack(blocks))).float(), rtol=1e-4, atol=1e-4
    )


def test_dare_is_unbiased_and_its_masks_are_its_own():
    drawn = torch.stack([change(compose("dare", library(), density=0.5, seed=seed)) for seed in range(300)])
    z = (drawn.mean(dim=0) - change(compose("sum", library()))) / drawn.std(dim=0) * 300**0.5
    assert z.abs().max() < 5.3  # one z in 1e7
    for then, whole in (("sum", "sum"), ("linear", "linear")):
        torch.testing.assert_close(
            change(compose("dare", library(), density=1, then=then)), change(compose(whole, library()))
        )
    ties = change(compose("dare", library(), density=1, then="ties"))
    torch.testing.assert_close(ties, change(compose("ties", library(), density=1)))
    state = torch.get_rng_state()
    compose("dare", library())
    assert torch.equal(state, torch.get_rng_state())


def test_lego_sorts_ranks():
    labels = k_means(torch.tensor([[0.0, 0], [9, 9], [0, 0.1], [9, 9.1], [-9, 9]]), 3, torch.Generator().manual_seed(0))
    assert len(labels.unique()) == 3
    assert labels[0] == labels[2]
    assert labels[1] == labels[3]
    (expert,) = library(1)
    torch.testing.assert_close(change(compose("lego", [expert, expert, expert])), change(expert), rtol=1e-4, atol=1e-4)
    a, b = library(2)
    all_units = compose("lego", [a, b], merged_rank=6)
    torch.testing.assert_close(change(all_units), change(compose("sum", [a, b])), rtol=1e-4, atol=1e-4)
    merged = compose("lego", [a, b])["up"]
    assert isinstance(merged, LowRank)
    assert merged.rank == 3
    pair = compose("lego", [hand(2.0, 0.0, 2.0, 0.0), hand(0.0, 2.0, 2.0, 0.0)], merged_rank=1)["m"]
    assert isinstance(pair, LowRank)
    torch.testing.assert_close(
        pair.dense(), 8 / 6 * torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    )  # the mean (1, 1, 2, 0) at the members' norm √8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: compose("avrage", library()), "composition: got 'avrage'"),
        (lambda: compose("sum", []), "library: got no expert"),
        (
            lambda: compose("sum", [*library(1), *library(1, shapes={"up": (11, 7), "down": (7, 12)})]),
            "library: got shapes (7, 11) and (7, 12) of",
        ),
        (
            lambda: compose("linear", library(), weights=(1, 2)),
            "weights: got 2; allowed: one for each of the 3 experts",
        ),
        *(
            (lambda rule=rule, dial=dial: compose(rule, library(), **dial), message)
            for rule, dial, message in [
                ("ties", {"density": 0}, "density: got 0; allowed: a number from 1e-06 to 1"),
                ("dare", {"density": 1.5}, "density: got 1.5"),
                ("arrow", {"temperature": -1}, "temperature: got -1"),
                ("arrow", {"top_k": -1}, "top_k: got -1"),
                ("arrow", {"top_k": 1.5}, "top_k: got 1.5; allowed: a whole number"),
                ("arrow", {"scores": "cosin"}, "scores: got 'cosin'; allowed: raw | cosine; did you mean 'cosine'?"),
                ("arrow", {"prototypes": "none"}, "prototypes: got 'none'"),
                ("ties", {"trim": "layer"}, "trim: got 'layer'"),
                ("dare", {"then": "cat"}, "then: got 'cat'"),
                ("cat", {"weights": (1.0, float("nan"), 1.0)}, "weights: got (1.0, nan, 1.0)"),
                ("ties", {"temperature": 2.0}, "temperature: got 2.0; allowed: density, trim; ties does not read it"),
                ("ties", {"densty": 0.3}, "densty: got 0.3; allowed: density, trim; did you mean 'density'?"),
                ("sum", {"density": 0.3}, "density: got 0.3; allowed: no dial with sum; sum does not read it"),
            ]
        ),
    ],
)
def test_mistakes_are_one_line(make, message):
    with pytest.raises(SettingError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)
