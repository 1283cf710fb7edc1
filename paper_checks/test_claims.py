"""pytest paper_checks: every claim holds, every planted mistake is rejected, and no claim is without one."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from lora_reuse.paper_checks import load_claims, mutants, setup
from lora_reuse.paper_checks.__main__ import Entry, _markdown, main
from lora_reuse.paper_checks.claims import (
    CLAIMS,
    FALSE_FAILURE,
    Z_LIMIT,
    Evidence,
    false_failure,
    of_seeds,
    rejected,
)
from lora_reuse.theory import edits, gram, library
from lora_reuse.theory.experiments import large_library, specificity

load_claims()


PRINTED = ("arc_cosine_kernel", "k_multiples_of_k_hops", "library_does_not_compose", "weight_lifts_the_answer")
"""Claims whose verdict prints constants that no other line has: each is compared with what is computed."""


@pytest.mark.parametrize("name", CLAIMS)
def test_claim(name):
    found = CLAIMS[name].measure()
    broken = [e for e in found if not e.holds]
    assert false_failure(found) < FALSE_FAILURE
    assert not broken, "\n".join(
        f"{e.what}: measured {e.measured:.6g} {e.error}, predicted {e.predicted:.6g}" for e in broken
    )
    printed = re.findall(r"\d\.\d{3}", CLAIMS[name].says) if name in PRINTED else []
    assert set(printed) <= {f"{e.predicted:.3f}" for e in found if e.tolerance == 5e-4}


@pytest.mark.parametrize(("name", "mutant"), [(name, mutant) for name, c in CLAIMS.items() for mutant in c.mutants])
def test_planted_mistake_is_rejected(name, mutant):
    assert rejected(CLAIMS[name], mutant)


def test_a_planted_mistake_is_in_every_module_that_knows_the_function():
    honest, knows = edits.min_norm_edit, (library, large_library, specificity)
    with mutants.replaced(honest, mutants.edit_scaled(2.0)):
        assert all(module.min_norm_edit is not honest for module in (edits, *knows))
    assert all(module.min_norm_edit is honest for module in (edits, *knows))
    gram_of_prompts = gram.kernel
    with mutants.kernel_without_pi_minus_theta():
        assert gram.kernel is gram_of_prompts, "another function of the same name"


@pytest.mark.parametrize(
    ("comparison", "mistake", "rate"), [(False, True, 0.0), (True, False, 0.0), (True, True, FALSE_FAILURE)]
)
def test_the_ledger_says_what_does_not_hold(comparison, mistake, rate):
    """A comparison that is off, a planted mistake that passes, a check that a right program fails too often."""
    entry = Entry("id", "1", "A claim.", "confirmed", "", "", 0.0, [("x", 1.0, 1.0, "", True)], [("a mistake", True)])
    assert entry.holds
    evidence = [("x", 1.0, 1.0, "", comparison)]
    assert not replace(entry, evidence=evidence, mutants=[("a mistake", mistake)], false_failure=rate).holds


def test_a_norm_is_in_one_cell_of_the_ledger():
    entry = Entry("id", "1", "A claim.", "confirmed", "", "", 0.0, [("||G - k||", 1.0, 1.0, "", True)], [])
    assert r"| \|\|G - k\|\| | 1 |  | 1 |" in _markdown([entry], [])


@pytest.mark.parametrize("seeds", [40, 64])
def test_an_error_that_is_estimated_fails_a_right_program_as_rarely_as_one_that_is_predicted(seeds):
    values = np.random.default_rng(0).normal(size=seeds)
    found = of_seeds("x", list(values), 0.0)
    assert found.stderr is not None
    assert found.stderr == pytest.approx(stats.sem(values))
    assert 2 * stats.t.sf(found.limit, seeds - 1) == pytest.approx(false_failure([found]))
    assert found.limit > 5.9
    for errors, holds in ((found.limit - 0.01, True), (found.limit + 0.01, False)):
        assert replace(found, measured=errors * found.stderr).holds == holds
    assert not Evidence("x", 5.9, 0.0, 1.0).holds


def test_a_mean_of_squares_fails_a_right_program_less_often_than_once_in_a_million(monkeypatch):
    """Two squared logits a seed are Gamma as d grows, with a longer tail than the normal law's."""
    honest, counts = setup.attention.run, []

    def two(setting, seeds):
        counts.append(len(seeds))
        return honest(setting, range(2))

    monkeypatch.setattr(setup.attention, "run", two)
    found = setup.uniform_attention()
    for dim, evidence in zip((256, 4096), found[1::2], strict=True):
        assert evidence.stderr == pytest.approx(math.sqrt(2 * (1 + 2 / dim) ** 3 - 1) / dim / math.sqrt(2))
    passed = [stats.gamma.sf(n + Z_LIMIT * n**0.5, n) + stats.gamma.cdf(n - Z_LIMIT * n**0.5, n) for n in counts]
    assert sum(passed) + false_failure(found[::2]) < FALSE_FAILURE


def test_what_a_prediction_leaves_out_is_allowed_beside_the_error():
    found = Evidence("x", 6.0, 0.0, 1.0, tolerance=0.7)
    assert found.holds
    assert found.error == "± 1 (to 7e-01)"
    assert not replace(found, tolerance=0.6).holds
    assert Evidence("x", 6.0, 0.0, 1.0).error == "± 1"


def test_claims_are_joined_by_plus_and_counted_once(tmp_path, capsys):
    assert main(["only=correct_change,leakage"]) == 2
    assert "only: got 'correct_change,leakage'; allowed: all, or ids of claims joined by +:" in capsys.readouterr().err
    assert main(["only=correct_change+correct_change", f"out={tmp_path}"]) == 0
    assert "1 claims: 1 corrected" in capsys.readouterr().out


@pytest.mark.parametrize("inside", ["", "folder"])
def test_a_folder_that_cannot_be_one_is_refused_before_anything_is_measured(inside, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["only=leakage", f"out={tmp_path / 'file' / inside}"]) == 2
    said = capsys.readouterr()
    assert "out: got " in said.err
    assert not said.out


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_can_fail_and_says_what_it_found(name):
    claim = CLAIMS[name]
    assert claim.mutants, "a claim without a planted mistake that it rejects is no check"
    assert claim.verdict == "confirmed" or claim.says
    assert claim.statement.endswith(".")
    assert claim.measure.__doc__
