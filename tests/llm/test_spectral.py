"""Rules on singular vectors against their formulas in dense float64, written here again and without QR cores."""

import numpy as np
import pytest
import torch

from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.compositions import compose
from lora_reuse.runs.settings import SettingError

torch.set_num_threads(1)
RANKS = {"two": (3, 3), "three": (3, 3, 3), "different": (4, 1, 2), "one": (3,)}
OUTPUTS, INPUTS = 17, 13


def experts(ranks, seed=0):
    random = torch.Generator().manual_seed(seed)
    draw = lambda size: torch.randn(size, generator=random)  # noqa: E731
    return [{"m": LowRank(draw((OUTPUTS, rank)), draw((INPUTS, rank)))} for rank in ranks]


def dense(library):
    return [(e["m"].out.double() @ e["m"].into.double().T).numpy() for e in library]


def merged(name, library, **dials):
    delta = compose(name, library, **dials)["m"]
    assert isinstance(delta, LowRank)
    return delta.dense().double().numpy()


def svd(matrix):
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    kept = values > 1e-6 * values[0]
    return left[:, kept], values[kept], right[kept]


def polar(matrix):
    left, _, right = svd(matrix)
    return left @ right


def tsv(updates, ranks):
    parts = [svd(update) for update in updates]
    left, right = polar(np.hstack([u for u, _, _ in parts])), polar(np.hstack([v.T for _, _, v in parts]))
    return left @ np.diag(np.concatenate([values for _, values, _ in parts])) @ right.T


def iso_c(updates, ranks):
    left, values, right = svd(sum(updates))
    return values.mean() * left @ right


def wudi(updates, ranks):
    """The normal equations ΔW Σ_i S_i = Σ_i ΔW_i S_i, S_i = ΔW_iᵀΔW_i / ‖ΔW_i‖²."""
    shares = [update.T @ update / np.sum(update**2) for update in updates]
    return sum(u @ s for u, s in zip(updates, shares, strict=True)) @ np.linalg.pinv(sum(shares), rcond=1e-12)


def slerp(updates, ranks):
    return sum(updates) / np.linalg.norm(sum(update / np.linalg.norm(update) for update in updates))


def cut(updates, ranks):
    left, values, right = svd(sum(updates))
    return left[:, : max(ranks)] * values[: max(ranks)] @ right[: max(ranks)]


@pytest.mark.parametrize("ranks", RANKS.values(), ids=RANKS)
@pytest.mark.parametrize(
    ("name", "formula"), [("tsv", tsv), ("iso_c", iso_c), ("wudi", wudi), ("slerp", slerp), ("svd", cut)]
)
def test_a_rule_is_its_formula(name, formula, ranks):
    library = experts(ranks)
    assert [len(svd(update)[1]) for update in dense(library)] == list(ranks)
    expected = formula(dense(library), ranks)
    np.testing.assert_allclose(merged(name, library), expected, atol=2e-5 * np.abs(expected).max())
    if len(ranks) > 1:  # and no rule is another
        assert np.abs(expected - sum(dense(library))).max() > 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize("density", [0.25, 1.0])
@pytest.mark.parametrize("ranks", RANKS.values(), ids=RANKS)
def test_core_space_is_ties_between_the_common_bases(ranks, density):
    library, updates = experts(ranks), dense(experts(ranks))
    out, into = (np.hstack([e["m"][factor].double().numpy() for e in library]) for factor in (0, 1))
    left, right = svd(out)[0], svd(into)[0]
    cores = np.stack([left.T @ update @ right for update in updates])
    for core, update in zip(cores, updates, strict=True):
        np.testing.assert_allclose(left @ core @ right.T, update, atol=1e-5)  # nothing is lost there
    cuts = np.array([np.sort(np.abs(core).ravel())[-max(round(density * core.size), 1)] for core in cores])
    kept = np.where(np.abs(cores) >= cuts[:, None, None] - 1e-9, cores, 0.0)
    agree = (np.sign(kept) == np.sign(kept.sum(axis=0))) & (kept != 0)
    ties = np.where(agree, kept, 0.0).sum(axis=0) / np.maximum(agree.sum(axis=0), 1)
    np.testing.assert_allclose(merged("core_space", library, density=density), left @ ties @ right.T, atol=1e-4)


def test_the_gain_multiplies():
    library = experts((3, 2))
    for name in ("tsv", "iso_c", "core_space"):
        np.testing.assert_allclose(merged(name, library, gain=1.5), 1.5 * merged(name, library), rtol=1e-5, atol=1e-6)


def test_spectral_rules_are_the_same_in_core_space():
    """Iso-C and TSV of the cores, carried back, are those of the updates: Core Space is for rules of single entries."""
    ranks = (3, 2)
    library, updates = experts(ranks), dense(experts(ranks))
    out, into = (np.hstack([e["m"][factor].double().numpy() for e in library]) for factor in (0, 1))
    left, right = svd(out)[0], svd(into)[0]
    for formula in (tsv, iso_c):
        inside = formula([left.T @ update @ right for update in updates], ranks)
        np.testing.assert_allclose(left @ inside @ right.T, formula(updates, ranks), atol=1e-9)


@pytest.mark.parametrize("name", ["tsv", "wudi", "slerp", "svd"])
def test_equal_experts(name):
    """N copies are one of them, and for `svd`, a sum, N of them; singular vectors of the value 0 do nothing."""
    (expert,) = experts((3,))
    copies = merged(name, [expert, expert, expert])
    np.testing.assert_allclose(copies, (3 if name == "svd" else 1) * dense([expert])[0], atol=1e-4)


def test_experts_that_share_no_direction():
    """TSV and WUDI sum them, and SLERP is √N times the average."""
    a = {"m": LowRank(torch.eye(OUTPUTS)[:, :2] * torch.tensor([3.0, 2.0]), torch.eye(INPUTS)[:, :2])}
    b = {"m": LowRank(torch.eye(OUTPUTS)[:, 2:4], torch.eye(INPUTS)[:, 2:4] * torch.tensor([1.0, 0.5]))}
    total = sum(dense([a, b]))
    for name, share in (("tsv", 1.0), ("wudi", 1.0), ("slerp", 2**-0.5)):
        np.testing.assert_allclose(merged(name, [a, b]), share * total, atol=1e-6)


def interference(whole, updates):
    """WUDI's loss."""
    return sum(np.sum(((whole - update) @ update.T) ** 2) / np.sum(update**2) for update in updates)


@pytest.mark.parametrize("ranks", [(3, 3), (6, 6, 5)], ids=["independent", "dependent"])
def test_wudi_is_where_its_loss_is_least(ranks):
    """Its gradient is 0, the published start and every near point have more; with independent inputs ΔW does to each
    expert's what the expert does. Gradient steps from the sum lead there."""
    library, updates = experts(ranks), dense(experts(ranks))
    found = merged("wudi", library)
    gradient = sum(2 * (found - update) @ update.T @ update / np.sum(update**2) for update in updates)
    assert np.abs(gradient).max() < 1e-3 * np.abs(updates[0]).max()
    least = interference(found, updates)
    assert least < 1e-6 if sum(ranks) <= INPUTS else least > 1e-2
    assert interference(sum(updates), updates) > least + 1
    random = np.random.default_rng(0)
    assert all(interference(found + random.normal(size=found.shape), updates) > least for _ in range(20))
    step = sum(updates)
    for _ in range(20_000):
        step = step - sum((step - update) @ update.T @ update / np.sum(update**2) for update in updates)
    np.testing.assert_allclose(step, found, atol=1e-2)


def test_slerp_is_the_middle_of_the_arc():
    library, updates = experts((2, 2)), dense(experts((2, 2)))
    norms = [np.linalg.norm(update) for update in updates]
    angle = np.arccos(np.sum(updates[0] * updates[1]) / norms[0] / norms[1])
    middle = np.sin(angle / 2) / np.sin(angle) * (updates[0] + updates[1])
    np.testing.assert_allclose(merged("slerp", library), middle, atol=1e-5)
    opposite = {"m": LowRank(-library[0]["m"].out, library[0]["m"].into)}
    with pytest.raises(SettingError, match="library: got opposite updates in m; allowed: experts that have a mean"):
        compose("slerp", [library[0], opposite])
