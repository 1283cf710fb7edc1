"""Every activation, by its name: its kernels and moments against samples, and each check against a planted mistake."""

import itertools
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from lora_reuse.runs.settings import SettingError
from lora_reuse.theory import activations, kernels
from lora_reuse.theory.activations import ACTIVATIONS
from lora_reuse.theory.activations.linear import Linear
from lora_reuse.theory.experiments import bridge, many_facts, specificity, theorem_2, theorem_3
from lora_reuse.theory.gram import FEATURES, gram
from lora_reuse.theory.limit import limit_geometry
from lora_reuse.theory.model import coefficients, draw_transformer, hidden
from lora_reuse.theory.settings import (
    INF,
    Bridge,
    KernelLimit,
    ManyFacts,
    Model,
    Proposition1,
    Specificity,
    Theorem2,
    Theorem3,
)
from lora_reuse.theory.settings import base as settings
from lora_reuse.theory.streaming import stream
from lora_reuse.theory.table import z_score

SAMPLES = 2_000_000
Z = 5.5  # a right kernel of ten entries, or 35 moments, fails less than once in 700 000
THEOREM = limit_geometry(*coefficients([(0, 2), (1, 3), (0, 2, 3)], 4))  # x r1, y r2, x r1 r2

every = pytest.mark.parametrize("name", ACTIVATIONS)


@pytest.fixture(scope="module")
def S():
    H = np.random.default_rng(3).standard_normal((4, 6))
    return H @ H.T / 3


@pytest.fixture(scope="module")
def preactivations(S):
    return np.random.default_rng(5).standard_normal((SAMPLES, 4)) @ np.linalg.cholesky(S).T


def scaled_covariances(S, by):
    return S * (by + (1 - by) * np.eye(len(S)))


def z_of(samples, expected):
    return (samples.mean() - expected) / (samples.std() / math.sqrt(len(samples)))


def test_the_settings_offer_every_file_of_the_folder():
    files = {path.stem for path in Path(activations.__file__).parent.glob("[!_]*.py")}
    assert set(settings.ACTIVATIONS) == files == set(ACTIVATIONS)


def test_an_activation_has_the_name_of_its_file_and_the_file_to_itself(monkeypatch):
    named = {"__module__": "lora_reuse.theory.activations.leaky_sine"}
    monkeypatch.setattr(activations, "ACTIVATIONS", {})
    leaky = activations.activation(type("LeakySine", (Linear,), named))
    assert isinstance(activations.ACTIVATIONS["leaky_sine"], leaky)
    with pytest.raises(TypeError, match="leaky_sine: Cosine is a second activation in this file"):
        activations.activation(type("Cosine", (Linear,), named))


@every
def test_features_are_the_same_function_in_numpy_and_in_jax(name):
    x = np.linspace(-4, 4, 101)
    drawn = jax.jit(lambda x: ACTIVATIONS[name](x))(x.astype(np.float32))
    np.testing.assert_allclose(np.asarray(drawn), ACTIVATIONS[name](x), atol=2e-6)


@every
def test_the_derivative_is_that_of_the_function(name):
    x, step = np.linspace(-4, 4, 100), 1e-5
    slopes = (ACTIVATIONS[name](x + step) - ACTIVATIONS[name](x - step)) / (2 * step)
    np.testing.assert_allclose(ACTIVATIONS[name].derivative(x), slopes, atol=1e-8)


@every
def test_the_kernel_is_the_mean_of_products_of_features(name, S, preactivations):
    phi = ACTIVATIONS[name](preactivations)

    def largest(k):
        pairs = itertools.combinations_with_replacement(range(4), 2)
        return max(abs(z_of(phi[:, i] * phi[:, j], k[i, j])) for i, j in pairs)

    assert largest(kernels.kernel(S, name)) < Z
    assert largest(kernels.kernel(scaled_covariances(S, 0.9), name)) > 2 * Z


@every
def test_the_kernel_of_the_derivative_is_that_of_the_slopes(name, S, preactivations):
    step = 1e-4
    slopes = (ACTIVATIONS[name](preactivations + step) - ACTIVATIONS[name](preactivations - step)) / (2 * step)

    def largest(k):
        pairs = [(i, j) for i, j in itertools.combinations(range(4), 2) if name != "linear"]
        return max((abs(z_of(slopes[:, i] * slopes[:, j], k[i, j])) for i, j in pairs), default=0)

    right = kernels.derivative_kernel(S, name)
    assert largest(right) < Z
    assert name == "linear" or largest(kernels.derivative_kernel(scaled_covariances(S, 0.9), name)) > 2 * Z
    off = 1 - np.eye(4)
    change = (kernels.kernel(S + 1e-6 * off, name) - kernels.kernel(S - 1e-6 * off, name)) / 2e-6
    np.testing.assert_allclose(change * off, right * off, atol=1e-8 * max(1, np.abs(right).max()))  # Price's theorem


@every
def test_fourth_moments_are_those_of_the_features(name, S, preactivations):
    phi = ACTIVATIONS[name](preactivations)

    every = list(itertools.combinations_with_replacement(range(4), 4))
    products = np.stack([phi[:, i] * phi[:, j] for i, j in itertools.combinations_with_replacement(range(4), 2)])
    place = {pair: n for n, pair in enumerate(itertools.combinations_with_replacement(range(4), 2))}
    drawn = (products[place[entry[:2]]] * products[place[entry[2:]]] for entry in every)
    means, errors = (
        np.array(found) for found in zip(*((x.mean(), x.std() / len(x) ** 0.5) for x in drawn), strict=True)
    )

    def largest(M):
        return np.abs((means - np.array([M[entry] for entry in every])) / errors).max()

    M = kernels.fourth_moments(S, name)
    assert largest(M) < Z
    assert largest(kernels.fourth_moments(scaled_covariances(S, 0.9), name)) > 2 * Z
    np.testing.assert_allclose(np.einsum("iijj->ij", M), kernels.pair_second_moment(S, name), rtol=1e-10)
    for order in ([1, 0, 2, 3], [3, 1, 0, 2]):
        np.testing.assert_allclose(kernels.fourth_moments(S[np.ix_(order, order)], name), M[np.ix_(*[order] * 4)])


def variance_of(name):
    return 1.0 if ACTIVATIONS[name].homogeneous else 3.0


@every
def test_streamed_features_have_the_kernel_and_its_error_bar(name):
    S = variance_of(name) * THEOREM
    model = Model(width=256, activation=name, input_variance=variance_of(name))
    G = gram([(0, 2), (1, 3), (0, 2, 3)], model, range(400))
    largest = lambda S: np.abs((G.mean(axis=0) - kernels.kernel(S, name)) / kernels.gram_stderr(S, name)).max() * 320  # noqa: E731
    assert largest(S) < 5  # six entries: a right one fails once in 300 000
    assert largest(1.3 * S) > 10  # less is hardly seen by an activation that saturates
    assert np.abs(G.std(axis=0) / kernels.gram_stderr(S, name) * 16 - 1).max() < 0.3


@every
def test_explicit_matrices_have_the_kernel_of_the_hidden_states_they_draw(name):
    prompts = [(0, 2), (1, 3), (0, 2, 3)]
    model = Model(width=2**14, dim=16, activation=name, input_variance=variance_of(name))
    drawn = draw_transformer(stream(0, FEATURES, 2**14, 16), tokens=4, dim=16, width=2**14)
    states = np.asarray(hidden(drawn, prompts), np.float64)
    G = gram(prompts, model, 0, explicit=True)
    largest = lambda S: np.abs((G - kernels.kernel(S, name)) / kernels.gram_stderr(S, name)).max() * 2**7  # noqa: E731
    assert largest(variance_of(name) * states @ states.T) < 5
    assert largest(1.3 * variance_of(name) * states @ states.T) > 5


def shares(name, variance=1.0):
    k = kernels.kernel(variance * THEOREM, name)
    return np.array([kernels.coefficient(k, 0, 2), kernels.coefficient(k, 1, 2)])


def test_limits_of_the_input_variance():
    np.testing.assert_allclose(shares("gelu", 1e8), shares("relu"), atol=1e-4)  # a gate without noise
    np.testing.assert_allclose(shares("gelu", 1e-8), shares("linear"), atol=1e-4)  # a gate of noise alone
    np.testing.assert_allclose(shares("erf", 1e-8), shares("linear"), atol=1e-4)
    signs = 4 * kernels.arc_cosine(THEOREM, 0) - 1
    np.testing.assert_allclose(shares("erf", 1e8), signs[[0, 1], 2], atol=1e-4)
    np.testing.assert_allclose(shares("gelu", 2.0), shares("gelu"), atol=0.1)
    assert np.abs(shares("gelu", 2.0) - shares("gelu")).min() > 0.01  # the dial does something


def test_coefficients_known_by_hand():
    np.testing.assert_allclose(shares("linear"), [1 / 4, 1 / 2])
    np.testing.assert_allclose(shares("quadratic"), [7 / 24, 5 / 12])
    np.testing.assert_allclose(shares("erf")[1], 1 / 2)  # arcsin(4/5) = 2 arcsin(1/√5)
    np.testing.assert_allclose(shares("relu"), [0.4122, 0.5730], atol=1e-4)


@every
def test_the_sum_of_two_experts_never_removes_the_old_answer(name):
    (result,) = theorem_2.run(Theorem2(width=INF, activation=name), [0])
    c1, c2 = shares(name)
    assert result.measured["span_residual"] < 1e-9
    np.testing.assert_allclose([result.measured["c_first"], result.measured["c_second"]], [c1, c2])
    np.testing.assert_allclose(result.measured["margin_old_over_new"], 1 - c2)
    assert result.measured["wins_old"] == 1
    # The coincidence in which z wins with the least multiples: then the old answer has 1 − c₂, and z has c₂.
    (result,) = theorem_2.run(Theorem2(width=INF, activation=name, coincide="r2y=r2r1x"), [0])
    np.testing.assert_allclose(result.measured["margin_old_over_new"], 1 - 2 * c2, atol=1e-12)


@pytest.mark.parametrize("name", ["erf", "linear", "gelu"])
@pytest.mark.parametrize("experiment", [theorem_3, specificity, bridge])
def test_arrow_has_error_bars_only_where_its_scores_cannot_change_sign(name, experiment):
    point = {theorem_3: Theorem3, specificity: Specificity, bridge: Bridge}[experiment]
    setting = point(width=4096, activation=name, composition="arrow", **({"facts": 1} if experiment is bridge else {}))
    rows = [result._asdict() for result in experiment.run(setting, range(8))]
    named = [n for n, error in rows[0]["stderr"].items() if error > 0 and n in rows[0]["measured"]]
    assert np.abs(np.array([z_score(rows, n) for n in named], float)).max(initial=0.0) < 4.5
    sure = {theorem_3: 6, specificity: 11, bridge: 2}[experiment]
    assert len(named) == sure if name == "gelu" else len(named) < sure


@every
def test_one_fact_in_n_is_the_ceiling(name):
    (result,) = many_facts.run(ManyFacts(width=INF, facts=4, activation=name, composition="best"), [0])
    assert result.measured["ceiling"] == 0.25
    assert result.measured["coefficient_second_spread"] < 1e-9


@pytest.mark.parametrize(
    ("cls", "named", "message"),
    [
        (KernelLimit, {"input_variance": 4.0}, "^input_variance: got 4 with activation=relu; allowed: 1; it cancels"),
        (KernelLimit, {"activation": "erf", "init_scale": "variance"}, "^init_scale: got variance with activation=erf"),
        (KernelLimit, {"activation": "glue"}, "^activation: got 'glue'; allowed: .*did you mean 'gelu'"),
        (Proposition1, {"activation": "quadratic"}, "^activation: got quadratic; allowed: relu"),
    ],
)
def test_refusals_are_one_line(cls, named, message):
    with pytest.raises(SettingError, match=message) as refused:
        cls(**named)
    assert "\n" not in str(refused.value)


def test_a_row_names_the_input_variance_only_where_it_is_not_one():
    from lora_reuse.runs.grid import settings_of

    assert "input_variance" not in settings_of((KernelLimit(activation="erf"), 0))
    assert settings_of((KernelLimit(activation="erf", input_variance=2.0), 0))["input_variance"] == 2.0
