"""Proposition 1 and eq. 23: what a LoRA update looks like."""

import functools

import numpy as np

from lora_reuse.paper_checks import mutants
from lora_reuse.paper_checks.claims import Evidence, claim, from_rows
from lora_reuse.theory import edits
from lora_reuse.theory.edits import LowRank
from lora_reuse.theory.experiments import proposition_1
from lora_reuse.theory.gram import geometry
from lora_reuse.theory.settings import INF, Model, Proposition1
from lora_reuse.theory.streaming import features, stream

KEYS = [(x, 20 + r) for x in range(4) for r in range(2)]
WIDTH = 64


@functools.cache
def _keys() -> np.ndarray:
    return features(geometry(KEYS, Model(width=WIDTH), [0])[0], WIDTH, stream(0))


def _differences(count: int) -> np.ndarray:
    D = np.zeros((20, count))
    D[np.arange(count), np.arange(count)], D[np.arange(count) + count, np.arange(count)] = 1, -1
    return D


def _penalty(edit: LowRank) -> float:
    return float(np.sum(edit.out**2) + np.sum(edit.into**2))


def balance_forgotten():
    """Factors taken as they come, the penalty not minimised over them."""
    return mutants.patch.object(LowRank, "balanced", lambda self: self)


@claim(
    "Proposition 1, eq. 1 and 6",
    "The regularised rank-one update is (i_new - i_old) phi^T / ||phi||^2.",
    "confirmed",
    "and gradient descent finds it when the penalty is annealed away (relative error below 1e-5)",
    norm_not_squared=mutants.norm_not_squared,
)
def proposition_1_form() -> list[Evidence]:
    """Eq. 1 written out against the edit; the edited answer in a model of a small world; the trained adapter's
    distance."""
    v, w = _keys()[:, :1], _differences(1)
    edit = edits.min_norm_edit(v, w)
    found = [
        Evidence(
            "max difference to eq. 1", float(np.abs(edit.dense() - w @ v.T / np.sum(v**2)).max()), 0.0, tolerance=1e-12
        )
    ]
    results = proposition_1.run(Proposition1(width=1024), range(4))
    found += [from_rows("efficacy of the edit", results, "efficacy")]
    trained = max(r.measured["trained_relative_error"] for r in results)
    return [*found, Evidence("relative distance of the trained adapter", trained, 0.0, tolerance=1e-3)]


@claim(
    "Proposition 1",
    "A rank-one update must have this form.",
    "confirmed with constants",
    (
        "dW is unique, its factors are not: (p, q) and (-p, -q), and at rank n any rotation of the factors, have the"
        " same least penalty 2||dW||_*"
    ),
    balance_forgotten=balance_forgotten,
    inverse_gram_dropped=mutants.inverse_gram_dropped,
)
def unique_update_free_factors() -> list[Evidence]:
    """Other interpolating updates pay more, rotated factors the same, and the least penalty is twice the nuclear
    norm."""
    rng = np.random.default_rng(0)
    K, D = _keys(), _differences(8)
    best = edits.min_norm_edit(K, D).balanced()
    rotation = np.linalg.qr(rng.standard_normal((8, 8))).Q
    turned = LowRank(best.out @ rotation, best.into @ rotation)
    nuclear = 2 * float(np.linalg.svd(D @ np.linalg.pinv(K), compute_uv=False).sum())
    outside = rng.standard_normal((WIDTH, 20))
    outside -= K @ np.linalg.lstsq(K, outside, rcond=None)[0]
    other = LowRank(np.eye(20), (best.dense() + 0.01 * outside.T).T).balanced()
    return [
        Evidence("least penalty over 2||D K^+||_*", _penalty(best) / nuclear, 1.0),
        Evidence("penalty of rotated factors over the least", _penalty(turned) / _penalty(best), 1.0),
        Evidence(
            "the rotated factors give the same dW",
            float(np.abs(turned.dense() - best.dense()).max()),
            0.0,
            tolerance=1e-12,
        ),
        Evidence("another interpolating dW pays more (1: yes)", float(_penalty(other) > nuclear * (1 + 1e-6)), 1.0),
    ]


@claim(
    "A.1.1, eq. 23",
    "For several facts the update is D (rho^T rho)^-1 (rho_1 rho_2)^T.",
    "confirmed with constants",
    (
        "with rho_1, rho_2 as columns; it is also the least ||A||^2 + ||B||^2 at any rank of at least n, not an"
        " approximation for large d"
    ),
    inverse_gram_dropped=mutants.inverse_gram_dropped,
    norm_not_squared=mutants.norm_not_squared,
)
def several_facts() -> list[Evidence]:
    """Eq. 23 against the pseudo-inverse, and exactness on every edited prompt."""
    K, D = _keys(), _differences(8)
    edit = edits.min_norm_edit(K, D)
    return [
        Evidence("max error on the edited prompts", float(np.abs(edit @ K - D).max()), 0.0),
        Evidence("max difference to D K^+", float(np.abs(edit.dense() - D @ np.linalg.pinv(K)).max()), 0.0),
    ]


@claim(
    "after Proposition 1",
    "The update specifically addresses the encoding of the prompt.",
    "conditional",
    "specific it is not: ReLU features overlap, and 0.609 of the change appears on every other entity with the same"
    " relation, 1/pi = 0.318 on unrelated prompts",
    without_pi_minus_theta=mutants.kernel_without_pi_minus_theta,
)
def leakage() -> list[Evidence]:
    """Leakage at width 2^12, 32 seeds, against the kernel; the limits against their closed forms."""
    results = proposition_1.run(Proposition1(width=2**12, train=False), range(32))
    found = [
        from_rows(name, results, name) for name in ("leakage_same_relation", "leakage_same_entity", "leakage_unrelated")
    ]
    limit = proposition_1.run(Proposition1(width=INF, train=False), [0])[0].measured
    angle = np.arccos(0.5)
    same = float(((np.pi - angle) * np.cos(angle) + np.sin(angle)) / np.pi)
    return [
        *found,
        Evidence("limit, same relation", limit["leakage_same_relation"], same),
        Evidence("limit, unrelated", limit["leakage_unrelated"], 1 / np.pi),
    ]
