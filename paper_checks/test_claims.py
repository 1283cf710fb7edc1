"""pytest paper_checks: every claim holds, every planted mistake is rejected, and no claim is without one."""

from dataclasses import replace

import pytest

from lora_reuse.paper_checks import load_claims
from lora_reuse.paper_checks.__main__ import Entry
from lora_reuse.paper_checks.claims import CLAIMS, FALSE_FAILURE, false_failure, rejected

load_claims()


@pytest.mark.parametrize("name", CLAIMS)
def test_claim(name):
    found = CLAIMS[name].measure()
    broken = [e for e in found if not e.holds]
    assert false_failure(found) < FALSE_FAILURE
    assert not broken, "\n".join(
        f"{e.what}: measured {e.measured:.6g} {e.error}, predicted {e.predicted:.6g}" for e in broken
    )


@pytest.mark.parametrize(("name", "mutant"), [(name, mutant) for name, c in CLAIMS.items() for mutant in c.mutants])
def test_planted_mistake_is_rejected(name, mutant):
    assert rejected(CLAIMS[name], mutant)


@pytest.mark.parametrize(
    ("comparison", "mistake", "rate"), [(False, True, 0.0), (True, False, 0.0), (True, True, FALSE_FAILURE)]
)
def test_the_ledger_says_what_does_not_hold(comparison, mistake, rate):
    """A comparison that is off, a planted mistake that passes, a check that a right program fails too often."""
    entry = Entry("id", "1", "A claim.", "confirmed", "", "", 0.0, [("x", 1.0, 1.0, "", True)], [("a mistake", True)])
    assert entry.holds
    evidence = [("x", 1.0, 1.0, "", comparison)]
    assert not replace(entry, evidence=evidence, mutants=[("a mistake", mistake)], false_failure=rate).holds


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_can_fail_and_says_what_it_found(name):
    claim = CLAIMS[name]
    assert claim.mutants, "a claim without a planted mistake that it rejects is no check"
    assert claim.verdict == "confirmed" or claim.says
    assert claim.statement.endswith(".")
    assert claim.measure.__doc__
