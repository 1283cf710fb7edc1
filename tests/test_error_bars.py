"""Every closed-form error bar and expansion against a numerical derivative or an exact moment.

Each check returns how far off it is, in units of what it allows; a term that is halved or dropped in the source must
make it fail."""

import inspect
import itertools
import textwrap

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

from lora_reuse.theory import distance, error_bars, kernels, limit, table, training
from lora_reuse.theory.compositions import compose, dials_of
from lora_reuse.theory.compositions.arrow import Routed
from lora_reuse.theory.experiments import attention, kernel_limit, many_facts, proposition_1, theorem_3
from lora_reuse.theory.gram import coordinates, geometry
from lora_reuse.theory.library import draw_scene
from lora_reuse.theory.model import coefficients
from lora_reuse.theory.settings import Attention, KernelLimit, ManyFacts, Proposition1, Theorem3

S = geometry(kernel_limit.PROMPTS, KernelLimit(), [0])[0]
K, M = kernels.kernel(S), kernels.fourth_moments(S)
COVARIANCE = M - np.multiply.outer(K, K)


def slope(F, at, direction, step=1e-5):
    return (F(at + step * direction) - F(at - step * direction)) / (2 * step)


def unit(n, i, j):
    """The change of a symmetric matrix in its entry (i, j)."""
    e = np.zeros((n, n))
    e[i, j] = e[j, i] = 1
    return e


def gradient(F, at):
    """∂F/∂G_ij of a function of a symmetric matrix, so that dF = Σ_ij (∂F/∂G_ij) dG_ij."""
    n = len(at)
    return np.array([[slope(F, at, unit(n, i, j)) / (1 if i == j else 2) for j in range(n)] for i in range(n)])


# --- kernels


def coefficient_stderr():
    off = []
    for e, q in kernel_limit.COEFFICIENTS.values():
        g = gradient(lambda G, e=e, q=q: G[e, q] / G[e, e], K)
        off.append(kernels.coefficient_stderr(M, K, e, q) / np.sqrt(np.einsum("ij,kl,ijkl", g, g, COVARIANCE)) - 1)
    return np.abs(off).max() / 1e-6


def kernel_change():
    generic = np.cov(np.random.default_rng(0).standard_normal((4, 9)))
    changes = [unit(4, i, j) for i, j in itertools.combinations_with_replacement(range(4), 2)]
    return (
        max(np.abs(slope(kernels.kernel, generic, c) - kernels.kernel_change(generic, c)).max() for c in changes) / 1e-8
    )


def over_the_draw_of_tokens(F, attended, residual):
    """The root of Σ (∂F/∂entry)² var(entry), d = 1, over the independent entries of A, B and C: E Eᵀ = I + A, (V
    e_s)·(V e_t) = I + A + B, (V e_s)·e_t = C."""
    tokens = attended.shape[1]

    def at(A=0.0, B=0.0, C=0.0):
        mixed = attended @ (C * np.ones((tokens, tokens))) @ residual.T
        return F(
            attended @ (np.eye(tokens) + A + B) @ attended.T
            + residual @ (np.eye(tokens) + A) @ residual.T
            + mixed
            + mixed.T
        )

    total = 0.0
    for s, t in itertools.product(range(tokens), repeat=2):
        single = np.zeros((tokens, tokens))
        single[s, t] = 1
        total += slope(lambda C: at(C=C), np.zeros((tokens, tokens)), single) ** 2
        if s <= t:
            for name in "AB":
                total += slope(
                    lambda X, name=name: at(**{name: X}), np.zeros((tokens, tokens)), unit(tokens, s, t)
                ) ** 2 * (2 if s == t else 1)
    return np.sqrt(np.sum(total))


@pytest.fixture(scope="module")
def token_products():
    """√d times the fluctuations of e_0·e_1, e_0·e_0, (V e_0)·(V e_1), (V e_0)·(V e_0) and (V e_0)·e_1 at d = 256."""
    rng, d, draws = np.random.default_rng(0), 256, 20000
    E = rng.standard_normal((draws, 2, d), dtype=np.float32) / np.float32(d**0.5)
    VE = (
        np.linalg.cholesky(E @ E.transpose(0, 2, 1))
        @ rng.standard_normal((draws, 2, d), dtype=np.float32)
        / np.float32(d**0.5)
    )
    pairs = [(E, 0, E, 1), (E, 0, E, 0), (VE, 0, VE, 1), (VE, 0, VE, 0), (VE, 0, E, 1)]
    return np.stack([np.einsum("ud,ud->u", a[:, i], b[:, j]) for a, i, b, j in pairs]) * d**0.5


def test_the_fluctuations_of_the_tokens_have_the_variances_that_error_bars_in_dim_use(token_products):
    expected = np.diag([1.0, 2, 2, 4, 1])
    expected[0, 2] = expected[2, 0] = 1
    expected[1, 3] = expected[3, 1] = 2
    assert np.abs(np.cov(token_products) - expected).max() < 0.15  # 5 errors of a sample variance of 4, and O(1/d)
    assert np.abs(np.cov(token_products) - np.diag(np.diag(expected))).max() > 0.8  # A taken for independent of itself


def geometry_stderr():
    attended, residual = coefficients(kernel_limit.PROMPTS, 5)
    off = []
    for e, q in kernel_limit.COEFFICIENTS.values():
        numerical = over_the_draw_of_tokens(
            lambda s, e=e, q=q: kernels.coefficient(kernels.kernel(s), e, q), attended, residual
        )
        off.append(limit.geometry_stderr(attended, residual, e, q) / numerical - 1)
    return np.abs(off).max() / 1e-6


def relative_rms_law():
    """One entry, whose law is that of |N(0, 0.3)|, and a covariance of two equal eigenvalues, whose law is √(0.3
    χ²₂)."""
    one, two = np.array([[2.0]]), np.diag([2.0, 1.0])
    half = (unit(2, 0, 1) - np.diag([1, -1])) / 2, (unit(2, 0, 1) + np.diag([1, -1])) / 2
    cases = [(one, 0.3 * np.ones((1, 1, 1, 1)), np.sqrt(2 / np.pi), 1 - 2 / np.pi)]
    cases.append(
        (two, 0.3 * np.sum([np.multiply.outer(h, h) for h in half], axis=0), np.sqrt(np.pi / 2), 2 - np.pi / 2)
    )
    off = []
    for k, covariance, mean, variance in cases:
        found = distance.relative_rms_law(covariance + np.multiply.outer(k, k), k)
        off.append(np.array(found) / np.sqrt(0.3) * np.linalg.norm(k) / [mean, np.sqrt(variance)] - 1)
    return np.abs(off).max() / 1e-6


def relative_rms_bias():
    """One entry: −√(2/π) σ (κ₄/σ⁴ − κ₃²/σ⁶)/24. For φ² = χ²₁ that is what Stirling's series gives E|χ²_m − m|: a factor
    1 − 1/(6m)."""
    phi = np.sqrt(stats.chi2.ppf((np.arange(2000) + 0.5) / 2000, 1))[:, None]
    k = phi.T @ phi / len(phi)
    psi = phi[:, 0] ** 2 - k.item()
    m2, m3, m4 = (np.mean(psi**p) for p in (2, 3, 4))
    expected = -np.sqrt(2 / np.pi) * m2**0.5 * (m4 / m2**2 - 3 - m3**2 / m2**3) / 24 / k.item()
    return abs(distance.relative_rms_bias(phi, k) / expected - 1) / 1e-4


@pytest.fixture(scope="module")
def drawn():
    """60000 Gram matrices of the four prompts at width 64."""
    rng, L = np.random.default_rng(3), np.linalg.cholesky(S).astype(np.float32)
    blocks = []
    for _ in range(15):
        phi = np.maximum(rng.standard_normal((4000, 64, 4), dtype=np.float32) @ L.T, 0)
        blocks.append(np.einsum("umi,umj->uij", phi, phi, optimize=True) / 64)
    return np.concatenate(blocks).astype(np.float64)


def test_the_distance_to_the_kernel_has_its_law_at_a_small_width(drawn):
    relative = np.linalg.norm(drawn - K, axis=(1, 2)) / np.linalg.norm(K)
    mean, errors = kernel_limit._distance(S.tobytes(), "relu", 64.0)
    error = errors["kernel_relative_rms"]
    of_mean, of_spread = 5 / np.sqrt(len(drawn)), 5 / np.sqrt(2 * len(drawn)) * 1.2  # 1.2 for the tails
    assert abs(relative.mean() - mean) < of_mean * error
    assert abs(relative.std() / error - 1) < of_spread
    assert (
        abs(relative.std() / distance.relative_rms_law(M, K)[1] * 8 - 1) > of_spread
    )  # as if G − k were Gaussian at this width


# --- the delta method


def exact_ratio(m, e, q):
    """Mean and standard deviation of c = Σ φ_η φ_ξ/Σ φ_η² over m features, without expansion: 1/B = ∫₀^∞ exp(−tB) dt,
    and the density of u·η tilted by exp(−t φ_η²) is Gaussian again."""
    a = S[e, e]

    def tilted(t):
        shrink = 1 / (1 + 2 * t * a)
        T = S[np.ix_([e, q], [e, q])] - 2 * t * shrink * np.outer(S[[e, q], e], S[[e, q], e])
        root = np.sqrt(shrink)
        return root * kernels.kernel(T)[0, 1], root * kernels.pair_second_moment(T)[0, 1], 0.5 * (1 + root)

    def first(u):
        one, _, norm = tilted(np.exp(u))
        return np.exp(u) * m * one * norm ** (m - 1)

    def second(u):
        one, two, norm = tilted(np.exp(u))
        return np.exp(2 * u) * (m * two * norm ** (m - 1) + m * (m - 1) * one**2 * norm ** (m - 2))

    mean, square = (integrate.quad(f, -25, 10, limit=400, epsabs=1e-13, epsrel=1e-12)[0] for f in (first, second))
    return mean, np.sqrt(square - mean**2)


def expansion():
    """At width 256 the mean is off by the remainder, to 40 %, and the standard error by 0.2 %: what is beyond O(m⁻²) is
    a tenth of these."""
    off = []
    found = error_bars.expansion(kernel_limit.shares, S, 256.0)
    for name, (e, q) in kernel_limit.COEFFICIENTS.items():
        mean, error = exact_ratio(256, e, q)
        off += [((mean - found.mean[name]) / found.remainder[name] - 1) / 0.4, (found.stderr[name] / error - 1) / 0.002]
        off.append(
            (
                found.mean[name]
                - K[e, q] / K[e, e]
                - (K[e, q] / K[e, e] * M[e, e, e, e] - M[e, e, e, q]) / K[e, e] ** 2 / 256
            )
            / 1e-7
        )
    return np.abs(off).max()


def expansion_in_several_entries():
    """A product of four entries, whose mean and variance at width m follow from E[δ_a δ_b] and E[δ_a δ_b δ_c] as far as
    O(m⁻²)."""
    phi = error_bars._features(S.tobytes(), 4, "relu")
    pairs = [(0, 0), (1, 2), (0, 3), (2, 2)]
    x = np.stack([phi[:, i] * phi[:, j] - K[i, j] for i, j in pairs])
    a = np.array([K[pair] for pair in pairs])
    C, T = (
        np.array([[COVARIANCE[p + q] for q in pairs] for p in pairs]),
        np.einsum("au,bu,cu->abc", x, x, x) / x.shape[1],
    )
    rest = lambda *out: np.prod([a[i] for i in range(4) if i not in out])  # noqa: E731
    twos, threes = list(itertools.combinations(range(4), 2)), list(itertools.combinations(range(4), 3))
    second = sum(rest(i, j) * C[i, j] for i, j in twos)
    third = sum(rest(*t) * T[t] for t in threes) + C[0, 1] * C[2, 3] + C[0, 2] * C[1, 3] + C[0, 3] * C[1, 2]
    found = error_bars.expansion(lambda G: {"product": float(np.prod([G[pair] for pair in pairs]))}, S, 1000.0)
    slopes = np.array([rest(i) for i in range(4)])
    F2 = np.array([[rest(i, j) if i != j else 0.0 for j in range(4)] for i in range(4)])
    F3 = np.zeros((4, 4, 4))
    for t in itertools.permutations(range(4), 3):
        F3[t] = rest(*t)
    variance = slopes @ C @ slopes / 1000
    variance += (
        np.einsum("abc,a,bc", T, slopes, F2)
        + np.trace(F2 @ C @ F2 @ C) / 2
        + np.einsum("a,bcd,ab,cd", slopes, F3, C, C)
    ) / 1000**2
    off = [
        (found.mean["product"] - np.prod(a) - second / 1000) / 1e-8,
        (found.remainder["product"] / abs(third) * 1000**2 - 1) / 1e-3,
    ]
    return np.abs([*off, (found.stderr["product"] / np.sqrt(variance) - 1) / 1e-4]).max()


def higher():
    """F = x²y² + 3xyz + 2x³y + z³ + y⁴ in x, y, z along three axes, at (1, 2, 3)."""
    axes = np.array([unit(2, 0, 0), unit(2, 0, 1), unit(2, 1, 1)])
    x, y, z = 1.0, 2.0, 3.0
    F = lambda G: np.array(  # noqa: E731
        [(a := G[0, 0]) ** 2 * (b := G[0, 1]) ** 2 + 3 * a * b * (c := G[1, 1]) + 2 * a**3 * b + c**3 + b**4]
    )
    second, third, fourth = error_bars._higher(F, np.array([[x, y], [y, z]]), axes, 0.02)
    exact = [
        2 * y**2 + 12 * x * y,
        4 * x * y + 3 * z + 6 * x**2,
        3 * x,
        6 * z,
        3.0,
        12 * y,
        4 * y + 12 * x,
        4 * x,
        6.0,
        24 * y,
        2 * 4 + 24.0,
    ]
    found = [
        second[0, 0],
        second[0, 1],
        second[1, 2],
        second[2, 2],
        third[0, 1, 2],
        third[0, 0, 0],
        third[0, 0, 1],
        third[1, 0, 1],
    ]
    found += [third[2, 2, 2], third[1, 1, 1], fourth]
    symmetric = [
        second - second.transpose(1, 0, 2),
        third - third.transpose(1, 0, 2, 3),
        third - third.transpose(0, 2, 1, 3),
    ]
    return max(np.abs(np.ravel(found) - exact).max() / 0.01, *(np.abs(part).max() / 1e-9 for part in symmetric))


def routed_moments():
    """ℓ = (G_11 − k_11)/T itself: mean 0, variance var(φ²)/(m T²), third moment κ₃(φ²)/(m² T³). ℓ = log(G_11)/T, whose
    curvature adds −var(φ²)/(2m T) to the mean and −3 var(φ²)²/(m² T³) to the third moment. And what does not contain
    the softmax at all."""
    T, m = 0.01, 4000.0
    variance, third = 6 - 1, 60 - 18 + 3 - 1  # E φ^2n = (2n − 1)!! 2ⁿ/2
    off = []
    for odds, shift, skewed in (
        (lambda G: (G[0, 0] - K[0, 0]) / T, 0.0, third),
        (lambda G: np.log(G[0, 0]) / T, -variance / 2 / m / T, third - 3 * variance**2),
    ):
        values = lambda G, odds=odds, shift=shift: {  # noqa: E731
            "first": odds(G),
            "third": (odds(G) - shift) ** 3,
            "square": G[0, 2] ** 2,
        }
        found = error_bars.routed_expansion(values, odds, S, m)
        sd = (variance / m) ** 0.5 / T
        off += [(found.mean["first"] - shift) / sd / 2e-3, (found.stderr["first"] / sd - 1) / 1e-3]
        off.append((found.mean["third"] / skewed * m**2 * T**3 - 1) / 0.05)
        of_entry = COVARIANCE[0, 2, 0, 2]
        off.append(((found.mean["square"] - K[0, 2] ** 2) / of_entry * m - 1) / 0.05)
        off.append((found.stderr["square"] / (2 * K[0, 2] * of_entry**0.5) * m**0.5 - 1) / 0.01)
    return np.abs(off).max()


def arrow_of(G, temperature, top_k):
    """c_first of `arrow_after` on x r1 r2 in closed form: w₁ G(η₁, ξ)/G(η₁, η₁)."""
    scores = G[..., [0, 1], 2] / np.sqrt(np.stack([G[..., 0, 0], G[..., 1, 1]], -1))
    odds = (scores[..., 0] - scores[..., 1]) / temperature
    return (odds > 0 if top_k else special.expit(odds)) * G[..., 0, 2] / G[..., 0, 0], odds


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (1.0, 1), (0.1, 0), (0.02, 0)])
def test_a_softmax_of_noisy_scores_has_its_mean_and_error_at_a_small_width(drawn, temperature, top_k):
    values = lambda G: {"c": float(arrow_of(G, temperature, top_k)[0])}  # noqa: E731
    found = error_bars.routed_expansion(
        values, lambda G: float(arrow_of(G, temperature, top_k)[1]), S, 64.0, jumps=top_k == 1
    )
    sample, _ = arrow_of(drawn, temperature, top_k)
    allowed = 5 * found.stderr["c"] / np.sqrt(len(sample)) + found.remainder["c"]
    assert found.remainder["c"] < 0.02 * found.stderr["c"]  # of 2500 seeds and more in range
    assert abs(sample.mean() - found.mean["c"]) < allowed
    assert abs(sample.std() / found.stderr["c"] - 1) < 0.05
    first_order = float(arrow_of(K, temperature, top_k)[0])
    assert abs(sample.mean() - first_order) > allowed


def test_where_a_softmax_saturates_no_row_can_be_compared():
    odds = lambda G: float(arrow_of(G, 0.02, 0)[1])  # noqa: E731
    found = error_bars.routed_expansion(lambda G: {"c": float(arrow_of(G, 0.02, 0)[0])}, odds, S, 512.0)
    assert found.remainder == found.stderr


def test_where_the_width_is_too_small_for_the_series_no_row_can_be_compared():
    small, enough = (error_bars.expansion(kernel_limit.shares, S, width) for width in (32.0, 64.0))
    assert small.remainder == small.stderr  # `table.seeds_in_range` is 0 there
    assert all(enough.remainder[name] < 0.01 * enough.stderr[name] for name in enough.mean)


# --- experiments


@pytest.mark.parametrize("scores", ["kernel", "cosine", "raw"])
def test_the_log_odds_are_those_of_the_rule(scores):
    setting, scene = Theorem3(width=100, composition="arrow", scores=scores, temperature=0.3), draw_scene(1)
    G = kernels.kernel(geometry(scene.prompts, Theorem3(dim=32), [1])[0])
    phi = coordinates(G)
    library = scene.experts(phi)
    update = compose("arrow", library, scene.context(phi, "two_hop", setting.width, 0), **dials_of(setting))
    assert isinstance(update, Routed)
    for asked in (scene.two_hop.start, scene.other.start):
        weights = update.weights(phi[:, [asked]])[:, 0]
        np.testing.assert_allclose(
            theorem_3.log_odds(setting, scene, G, asked), np.log(weights[0] / weights[1]), rtol=1e-9
        )


def coefficient_expansion():
    """Against the delta method on the Gram matrix of two keys and two composed prompts; at n = 1 G_ee/k_ee varies by E
    φ⁴/k² − 1 = 5."""
    scene = draw_scene(2)
    whole = geometry(scene.prompts, KernelLimit(), [0])[0]
    used = [*range(*scene.second.indices(99)), *range(*scene.two_hop.indices(99))]
    part = whole[np.ix_(used, used)].copy()
    found = error_bars.expansion(lambda G: {"c": float(np.linalg.solve(G[:2, :2], G[:2, 2:]).mean())}, part, 1e6)
    k = kernels.kernel(part)
    bias, error, _ = many_facts.coefficient_expansion(scene, whole, "relu")
    numerical = (found.mean["c"] - np.linalg.solve(k[:2, :2], k[:2, 2:]).mean()) * 1e6
    one = draw_scene(1)
    share = many_facts.coefficient_expansion(one, geometry(one.prompts, KernelLimit(), [0])[0], "relu")[2]
    return np.abs(
        [(bias / numerical - 1) / 0.05, (error / found.stderr["c"] / 1e3 - 1) / 0.005, (share / 15 - 1) / 0.01]
    ).max()


def spread_of_dim():
    scene = draw_scene(3)
    prompts = scene.prompts[scene.second] + scene.prompts[scene.two_hop]
    used = sorted({token for prompt in prompts for token in prompt})
    attended, residual = coefficients([tuple(used.index(t) for t in prompt) for prompt in prompts], len(used))

    def composed(s):
        k = kernels.kernel(s)
        C = np.linalg.solve(k[:3, :3], k[:3, 3:])
        return (C - C.mean()) / 3

    return (
        abs(many_facts.spread_of_dim(scene, ManyFacts()) / over_the_draw_of_tokens(composed, attended, residual) - 1)
        / 1e-5
    )


def attention_errors():
    """A chain of three Gaussian matrices of variance 1/d multiplies E ‖v‖⁴ by E (χ²_d/d)² each; and the logistic
    weight's moments on a grid."""
    (result,) = attention.run(Attention(dim=8), [0])
    chain = (stats.chi2(8).moment(2) / 64) ** 3
    t = np.linspace(-12, 12, 20001)
    weight, density = special.expit(np.abs(t) * np.sqrt(2 / 8)), stats.norm.pdf(t) * (t[1] - t[0])
    mean = weight @ density
    exact = {"logit_mean_square": np.sqrt(2 * chain - 1) / 8, "largest_weight": np.sqrt(weight**2 @ density - mean**2)}
    off = [result.stderr[name] / value - 1 for name, value in exact.items()] + [
        result.predicted["largest_weight"] / mean - 1
    ]
    return np.abs(off).max() / 1e-4


def neighbour_key():
    """The norm of the edit along another key has relative variance E (ψ_xx/2k_xx + ψ_uu/2k_uu − ψ_xu/k_xu)²/m."""
    (result,) = proposition_1.run(Proposition1(width=2**14, train=False), [0])
    one_hop = limit.limit_geometry(*coefficients([(0, 2), (1, 2)], 3))
    k, four = kernels.kernel(one_hop), kernels.fourth_moments(one_hop)
    g = np.array([[0.5 / k[0, 0], -0.5 / k[0, 1]], [-0.5 / k[0, 1], 0.5 / k[1, 1]]])
    exact = np.sqrt(k[0, 0] * k[1, 1]) / k[0, 1] * np.sqrt(np.einsum("ij,kl,ijkl", g, g, four)) / 2**7
    return abs(result.stderr["norm_neighbour_key"] / exact - 1) / 0.01


def alignment():
    """Both optimisers' end points from the equations they solve, by a root finder."""
    rng = np.random.default_rng(0)
    v = np.maximum(rng.standard_normal(300), 0)
    q0 = rng.uniform(-1, 1, 300) / 300**0.5
    sign, norm = np.sign(q0 @ v), np.linalg.norm(v)
    a = optimize.brentq(lambda a: a * (abs(q0 @ v) + a * v.sum()) - 1, 0, 10)
    s = abs(q0 @ v) / norm
    alpha = optimize.brentq(lambda x: np.sqrt(x**2 + 2 * x * s) * (s + x) * norm - 2**0.5, 0, 10)
    off = []
    for name, q in (("adamw", q0 + a * sign * (v > 0)), ("sgd", q0 + alpha * sign * v / norm)):
        found = training.predicted_alignment(
            jnp.asarray(v, jnp.float32), jnp.asarray(q0, jnp.float32)[:, None], optimiser=name
        )
        off.append(float(found) - abs(q @ v) / np.linalg.norm(q) / norm)
    return np.abs(off).max() / 1e-5


# --- the table


def rows_of(means, errors, widths=(16, 64, 256)):
    return [
        [{"settings": {"width": w}, "measured": {"d": m}, "stderr": {"d": e}} for _ in range(2)]
        for w, m, e in zip(widths, means, errors, strict=True)
    ]


def slope_interval():
    """On a straight line the slope moves with each mean by its derivative, so its error is the root of Σ (∂slope/∂mean
    · error)²."""
    means, errors = np.array([0.4, 0.2, 0.1]), np.array([0.01, 0.03, 0.002])
    found = table.log_log_slope(rows_of(means, errors), "d")
    slopes = [slope(lambda m: table.log_log_slope(rows_of(m, errors), "d")[0], means, e) for e in np.eye(3)]
    expected = 1.959964 * np.linalg.norm(np.array(slopes) * errors / np.sqrt(2))
    return max(abs(found[0] + 0.5) / 1e-9, abs(found[1] / expected - 1) / 1e-4)


def z_of_rows():
    rows = [
        {"measured": {"c": m}, "predicted": {"c": p}, "stderr": {"c": e}}
        for m, p, e in ((1.0, 0.5, 0.3), (2.0, 1.0, 0.4), (3.0, 2.5, 1.2))
    ]
    return abs((table.z_score(rows, "c") or 0) - 2.0 / 1.3) / 1e-12


CHECKS = {
    coefficient_stderr: [
        (kernels, "coefficient_stderr", "- 2 * c * M", "- c * M"),
        (kernels, "coefficient_stderr", "+ c**2 * M[e, e, e, e]", "+ 2 * c**2 * M[e, e, e, e]"),
    ],
    kernel_change: [
        (kernels, "kernel_change", "+ by_norm + by_norm.T", "+ by_norm"),
        (kernels, "kernel_change", "(4 * np.pi", "(8 * np.pi"),
        (kernels, "kernel_change", "np.diagonal(change) / 2", "np.diagonal(change) / 4"),
    ],
    geometry_stderr: [
        (limit, "geometry_stderr", "- 2 * k / a**2", "- k / a**2"),
        (limit, "geometry_stderr", "q / (2 * np.pi * a**2)", "q / (4 * np.pi * a**2)"),
        (limit, "geometry_stderr", "q / (2 * np.pi * a * b)", "q / (4 * np.pi * a * b)"),
        (limit, "geometry_stderr", "+ 2 * np.sum(images**2)", "+ np.sum(images**2)"),
        (limit, "geometry_stderr", " + np.sum(mixed**2)", ""),
    ],
    relative_rms_law: [
        (distance, "relative_rms_law", "np.log1p(2 * s", "np.log1p(s"),
        (distance, "relative_rms_law", ' - np.einsum("ij,kl->ijkl", k, k)', ""),
        (distance, "relative_rms_law", "1 - mean**2", "1 - mean**2 / 2"),
    ],
    relative_rms_bias: [
        (distance, "relative_rms_bias", " - s**3 * kappa_3 / 9", ""),
        (distance, "relative_rms_bias", "s**2 * kappa_4 / 6", "s**2 * kappa_4 / 12"),
        (distance, "relative_rms_bias", "- 2 * gamma**2 @ variances**2", "- gamma**2 @ variances**2"),
        (distance, "relative_rms_bias", "9 * np.sum", "3 * np.sum"),
    ],
    expansion: [
        (error_bars, "expansion", "mean[which] += varies * bends", "mean[which] += 0 * bends"),
        (error_bars, "expansion", "bends.sum(axis=0) / (2 * width)", "bends.sum(axis=0) / (4 * width)"),
        (error_bars, "expansion", "first + added / width", "first"),
        (error_bars, "expansion", "cubic) / 6", "cubic) / 12"),
        (error_bars, "expansion", "fourth / 8", "fourth / 16"),
        (error_bars, "expansion", "+ np.sum(second**2, axis=(0, 1)) / 2", ""),
        (error_bars, "expansion", ' + np.einsum("aq,abbq->q", slopes, cubic)', ""),
    ],
    higher: [
        (error_bars, "_higher", "fourth += 2 * (sum", "fourth += (sum"),
        (error_bars, "_higher", "third[order] = mixed", "third[order] = mixed / 2"),
        (error_bars, "_higher", "third[a, a, b] = third[a, b, a] = third[b, a, a] = aab", "pass"),
        (error_bars, "_higher", "second[a, b] = second[b, a] = sum", "second[a, b] = sum"),
        (error_bars, "_higher", "/ (2 * h**3)\n        fourth", "/ h**3\n        fourth"),
    ],
    expansion_in_several_entries: [
        (error_bars, "_axes", "np.moveaxis(regressed @ whiten", "np.moveaxis(regressed @ whiten / 2"),
        (
            error_bars,
            "_axes",
            "y = (phi[:, rows] * phi[:, columns] - k[rows, columns])",
            "y = (phi[:, rows] * phi[:, columns])",
        ),
    ],
    routed_moments: [
        (error_bars, "routed_expansion", "skewness * He[3] / 6", "skewness * He[3] / 12"),
        (error_bars, "routed_expansion", "weights @ (squares + spread)", "weights @ squares"),
        (error_bars, "routed_expansion", "@ (values + bent)", "@ values"),
        (error_bars, "routed_expansion", "bends_across.sum(axis=0) / 2", "bends_across.sum(axis=0) / 4"),
        (error_bars, "routed_expansion", "float(odds(k)[0] + bends.sum() / 2)", "float(odds(k)[0])"),
        (error_bars, "routed_expansion", "third[0, 0, 0]) + 3 * _diff", "third[0, 0, 0]) + _diff"),
    ],
    coefficient_expansion: [
        (many_facts, "coefficient_expansion", "-np.mean(h * psi)", "-np.mean(h * psi) / 2"),
        (many_facts, "coefficient_expansion", "np.mean(psi**2)", "np.mean(psi**2) / 2"),
        (many_facts, "coefficient_expansion", "np.mean(h**2) / n - 1", "np.mean(h**2) / n"),
    ],
    spread_of_dim: [
        (many_facts, "spread_of_dim", "square(images + tokens) + square(images)", "square(images + tokens)"),
        (many_facts, "spread_of_dim", "np.sqrt(2) * m", "m"),
        (many_facts, "spread_of_dim", "square(mixed + mixed.T)", "square((mixed + mixed.T) / 2)"),
    ],
    attention_errors: [
        (attention, "run", "(1 + 2 / dim) ** 3", "(1 + 2 / dim) ** 2"),
        (attention, "run", "mean_square - mean**2", "mean_square - mean**2 / 2"),
    ],
    neighbour_key: [(error_bars, "expansion", "np.sum(slopes**2, axis=0),", "np.sum(slopes**2, axis=0) / 2,")],
    alignment: [
        (training, "predicted_alignment", "4 * total", "2 * total"),
        (training, "_flow_length", "2 * middle * s", "middle * s"),
    ],
    slope_interval: [
        (table, "weighted_slope", "(errors / means) ** -2", "(errors / means) ** -1"),
        (table, "weighted_slope", "isf(0.025)", "isf(0.05)"),
    ],
    z_of_rows: [(table, "z_score", "** 2 for r in known", "for r in known")],
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_an_error_bar_is_its_numerical_derivative_or_exact_moment(check):
    assert check() < 1


@pytest.mark.parametrize(
    ("check", "planted"),
    [(c, p) for c, all_planted in CHECKS.items() for p in all_planted],
    ids=lambda v: v.__name__ if callable(v) else v[2],
)
def test_a_halved_or_dropped_term_is_rejected(monkeypatch, check, planted):
    module, name, old, new = planted
    source = textwrap.dedent(inspect.getsource(getattr(module, name)))
    assert source.count(old) == 1
    monkeypatch.setattr(module, name, getattr(module, name))  # to be put back
    exec(source.replace(old, new), vars(module))
    for user in (proposition_1, kernel_limit, theorem_3):
        if hasattr(user, name) and getattr(module, name).__module__ != user.__name__:
            monkeypatch.setattr(user, name, getattr(module, name))
    assert not check() < 1
