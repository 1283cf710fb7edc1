"""The theory from Python: a model, its Gram matrix and kernel, an edit, c₁ and c₂ of a rule, also of one's own."""

import functools
import inspect
import math
import operator
import subprocess
import sys
from typing import Annotated, Any

import numpy as np
import pytest
from scipy import stats

import lora_reuse as lr
from lora_reuse.runs.settings import Number, SettingError
from lora_reuse.theory import kernels
from lora_reuse.theory.compositions import RULES, rule
from lora_reuse.theory.experiments import Result, theorem_3
from lora_reuse.theory.facts import tokenised
from lora_reuse.theory.settings import Theorem3

PROMPTS = ["x r1", "y r2", "x r1 r2"]
PROMISES = dict.fromkeys(("span", "gauge_free", "basis_free", "alone", "smooth"), True)


@pytest.fixture
def root_mean(monkeypatch):
    """A rule of one's own with a dial of its own."""
    monkeypatch.setattr("lora_reuse.theory.compositions.RULES", dict(RULES))
    monkeypatch.setattr(theorem_3, "RULES", sys.modules["lora_reuse.theory.compositions"].RULES)

    @rule(**PROMISES)
    def root_mean(library: list, context: object, *, power: Annotated[float, Number(0, 1), "of N"] = 0.5):
        return len(library) ** -power * functools.reduce(operator.add, library)


def test_a_model_refuses_what_a_command_refuses_and_reads_what_it_reads():
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"widht": 64}, r"^widht: got an unknown setting; allowed: width, dim, .*; did you mean 'width'\?$"),
        ({"activation": "rleu"}, r"^activation: got 'rleu'; allowed: relu \| erf .*; did you mean 'relu'\?$"),
        ({"width": 0}, "^width: got 0; allowed: a whole number from 1 to .* or inf$"),
        ({"width": 3.5}, "^width: got 3.5; allowed: a whole number"),
        ({"dim": math.nan}, "^dim: got nan"),
    ]
    for settings, message in mistakes:
        with pytest.raises(SettingError, match=message):
            lr.Model(**settings)
    assert lr.Model(width=1e6) == lr.Model(width=10**6)
    assert lr.Model(width=math.inf).width == math.inf


def test_prompts_in_words_are_those_in_numbers():
    model = lr.Model(width=64, dim=32)
    np.testing.assert_array_equal(lr.gram(PROMPTS, model, 3), lr.gram([(0, 1), (2, 3), (0, 1, 3)], model, [3])[0])
    array, read = np.array([[0, 1], [2, 3]]), inspect.unwrap(tokenised)  # without the check of types
    assert read(array) == read(np.array(["x r1", "y r2"])) == [(0, 1), (2, 3)]
    for wrong in ([], [""], ["x r1", (0, 1)], [(0, 1), ()], "xyz", [(0, -1)], [(0.5, 1)], [1, 2], 5, array[:0]):
        with pytest.raises(SettingError, match=r"^prompts: got .*; allowed: a list of prompts of at least one token"):
            read(wrong)


@pytest.mark.parametrize("dim", [16, math.inf])
@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_the_gram_matrix_has_the_mean_and_the_error_bar_of_its_kernel(dim, activation):
    """At 512 seeds every entry's mean, and its variance, are within what 1 of 10⁴ right tests exceeds."""
    model, seeds = lr.Model(width=256, dim=dim, activation=activation), range(512)
    G = lr.gram(PROMPTS, model, seeds)
    k, stderr = lr.kernel(PROMPTS, model, seeds)
    upper = np.triu_indices(3)
    z = ((G - k) / stderr)[:, *upper]

    def off(z):
        return max(np.abs(z.mean(axis=0)).max() * 512**0.5, np.abs(z.var(axis=0) - 1).max() / np.sqrt(2.2 / 512))

    limit = stats.norm.isf(1e-4 / 2 / 12)
    assert off(z) < limit
    assert off(z * np.sqrt(2)) > limit  # an error bar that is too small
    assert off(z + 0.3) > limit  # a kernel that is not the mean
    assert k.shape == stderr.shape == (512, 3, 3)


def test_seeds_are_different_whole_numbers_of_any_kind():
    model = lr.Model(width=64)
    gram, kernel = inspect.unwrap(lr.gram), inspect.unwrap(lr.kernel)
    for seeds in (3, np.int64(3)):
        np.testing.assert_array_equal(gram(PROMPTS, model, seeds), gram(PROMPTS, model, np.arange(3, 4))[0])
        assert kernel(PROMPTS, model, seeds).k.shape == (3, 3)
    for wrong in ([], "ab", 1.5, [0.5], None, [0, 0], -1, 2**32, [0, 2**64]):  # of jax, 2**32 is the seed 0
        for asked in (gram, kernel):
            with pytest.raises(SettingError, match=r"^seeds: got .*; allowed: one or more different whole numbers"):
                asked(PROMPTS, model, wrong)


def test_one_seed_is_the_first_of_several():
    model = lr.Model(width=128, dim=64)
    for of in (lr.gram, lambda *a: lr.kernel(*a).k, lambda *a: lr.kernel(*a).stderr):
        np.testing.assert_array_equal(of(PROMPTS, model, 5), of(PROMPTS, model, [5, 6])[0])


def test_arc_cosine_kernels_of_three_orders_are_expectations():
    rng = np.random.default_rng(0)
    L = rng.normal(size=(3, 3))
    S, h = L @ L.T, rng.normal(size=(200_000, 3)) @ L.T
    for order in (0, 1, 2):
        phi = (h > 0) * h**order
        second = np.einsum("ui,uj->ij", phi**2, phi**2) / len(h)
        error = np.sqrt((second - kernels.arc_cosine(S, order) ** 2) / len(h))
        assert np.abs((phi.T @ phi / len(h) - kernels.arc_cosine(S, order)) / error).max() < 4.5
        assert np.abs((phi.T @ phi / len(h) - 2 * kernels.arc_cosine(S, order)) / error).max() > 4.5
    with pytest.raises(ValueError, match="order 3; need 0, 1 or 2"):
        kernels.arc_cosine(S, 3)


def test_an_edit_of_one_fact_is_proposition_1_and_reads_vectors():
    phi = lr.coordinates(lr.gram(PROMPTS, lr.Model(width=512), 0))
    change = np.array([1.0, -1.0, 0.0])
    update = lr.edit(phi[:, 0], change)
    np.testing.assert_allclose(update.dense(), np.outer(change, phi[:, 0]) / (phi[:, 0] @ phi[:, 0]), rtol=1e-12)
    two = lr.edit(phi[:, :2], np.eye(3)[:, :2])
    np.testing.assert_allclose(two @ phi[:, :2], np.eye(3)[:, :2], atol=1e-12)


def test_the_coefficients_are_those_of_the_experiment():
    c1, c2 = lr.coefficients(lr.Model(width=512), "arrow", range(3), temperature=0.5)
    rows = theorem_3.run(Theorem3(width=512, composition="arrow", temperature=0.5), range(3))
    for found, name in ((c1, "c_first"), (c2, "c_second")):
        assert found.measured.tolist() == [row.measured[name] for row in rows]
        assert found.predicted.tolist() == [row.predicted[name] for row in rows]
        assert found.stderr.tolist() == [row.stderr[name] for row in rows]
        z = np.sum(found.measured - found.predicted) / np.sqrt(np.sum(found.stderr**2))
        assert found.z == pytest.approx(z)
        assert found.error == pytest.approx(found.stderr.mean() / np.sqrt(3))


def test_a_quantity_without_an_error_bar_says_so():
    c1, _ = lr.coefficients(lr.Model(width=512), "ties", [0])
    assert np.isnan(c1.stderr).all()
    assert np.isnan(c1.z)
    assert str(c1) == f"{c1.mean:.5f} (closed form {c1.closed_form:.5f})"
    c1, _ = lr.coefficients(lr.Model(width=512, dim=64), "ties", [0])
    assert str(c1) == f"{c1.mean:.5f}"
    c1, _ = lr.coefficients(lr.Model(width=math.inf))
    assert c1.stderr.tolist() == [0.0] * 16
    assert c1.mean == pytest.approx(c1.closed_form)
    far = [Result({"c": 1.0}, {"c": 0.0}, {"c": 1.0, "c remainder": 0.25})] * 2
    assert np.isnan(theorem_3.Estimate.of(far, "c").z)
    assert theorem_3.Estimate.of(far[:1], "c").z == 1.0


def test_a_rule_of_ones_own_is_measured_with_its_dials(root_mean):
    of_sum, own = (lr.coefficients(lr.Model(width=256), *how, range(4)) for how in (("sum",), ("root_mean",)))
    np.testing.assert_allclose(own.first.measured, of_sum.first.measured / 2**0.5, rtol=1e-12)
    np.testing.assert_allclose(own.second.stderr, of_sum.second.stderr / 2**0.5, rtol=1e-5)
    whole = lr.coefficients(lr.Model(width=256), "root_mean", range(4), power=0)
    np.testing.assert_allclose(whole.first.measured, of_sum.first.measured, rtol=1e-12)
    with pytest.raises(SettingError, match=r"^power: got 2; allowed: a number from 0 to 1$"):
        lr.coefficients(lr.Model(), "root_mean", power=2)


def test_mistakes_in_what_is_measured_are_one_line():
    mistakes: list[tuple[tuple, dict[str, Any], str]] = [
        (("tise",), {}, r"^rule: got 'tise'; allowed: sum .*; did you mean 'ties'\?$"),
        (("arrow",), {"temprature": 1}, r"^temprature: got 1; .* did you mean 'temperature'\?$"),
        (("sum", 16), {}, r"^seeds: got 16; allowed: one or more different whole .* 2\*\*31-1, as range\(16\)$"),
        (("sum", []), {}, "^seeds: got"),
        (("sum", [7] * 4), {}, r"^seeds: got \[7, 7, 7, 7\]"),  # one draw would count as four
        (("sum", [1, 1 + 2**32]), {}, "^seeds: got"),  # jax takes both for one
        (("sum", [-1]), {}, "^seeds: got"),
        (("sum", [0.5]), {}, "^seeds: got"),
        (("sum",), {"coincide": "x=z+y=r1x"}, "^coincide: got x=z"),
    ]
    for given, settings, message in mistakes:
        with pytest.raises(SettingError, match=message):
            inspect.unwrap(lr.coefficients)(lr.Model(width=64), *given, **settings)
    with pytest.raises(SettingError, match=r"^width: got 16; allowed: at least 32"):
        lr.coefficients(lr.Model(width=16))


@pytest.mark.parametrize("name", ["width", "facts", "data", "seed"])
def test_a_dial_may_not_have_the_name_of_a_setting(name):
    def own(library: list, context: object) -> Any: ...

    kind: Any = Annotated[float, Number(0, 1), "of N"]
    parameter = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=0.5, annotation=kind)
    own.__signature__ = inspect.Signature([parameter])  # pyright: ignore[reportFunctionMemberAccess]
    with pytest.raises(
        SettingError, match=f"^{name}: got the name of a setting for a dial of own; allowed: a dial of ano"
    ):
        rule(**PROMISES)(own)
    assert "own" not in RULES


def test_a_rule_may_not_have_the_name_of_another_modules_rule():
    def sum_(library: list, context: object) -> Any: ...

    with pytest.raises(SettingError, match=r"^sum: got a rule of .* with the name of one of .*\.compositions\.sums;"):
        rule(**PROMISES)(sum_)
    assert RULES["sum"].rule.__module__ == "lora_reuse.theory.compositions.sums"


def test_kernels_and_error_bars_stand_alone():
    code = (
        "import sys; from lora_reuse.theory import distance, error_bars, gaussian, kernels;"
        "assert not {'jax', 'pandas'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
