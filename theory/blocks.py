"""Two blocks of the paper's transformer on one residual stream: a lower one can write y where the upper one reads it.

Block ℓ sees h^ℓ_i = s^{ℓ−1}_i + Σ_{j<i} a_ij V_ℓ s^{ℓ−1}_j at position i (strict mask) and adds to the stream what its
MLP answers, W_ℓ φ(U_ℓ h^ℓ_i) ∈ R^|X|, entity t along a direction w_t: s^0 = e, s^ℓ_i = h^ℓ_i + Σ_t (W_ℓ φ(U_ℓ h^ℓ_i))_t
w_t. The output is the sum of what both blocks answer at the last position, so one block alone is the paper's model.
V_1, V_2, U_1, U_2 and E are random. Attention is uniform, but for the share `attend` of the upper block on the position
before the last.

What is not random is `alignment` = w_t·e_t: tied input and output embeddings at 1, independent ones at 0. The upper
block was trained on prompts in which y is a token, and there finds V_2 e_y; in the two-hop prompt it finds V_2 w_y.

The base writes `write`·w_{r1(x)} at the end of `x r1` in the lower block and nothing elsewhere, and the upper block
stores the answers of the n facts `y r2`, the n facts `r1(x) r2` and, under `base=stored`, of the n two-hop prompts, by
minimum norm. So it answers every prompt as before the edits; what it answers once the stream has changed is computed.
An expert is Proposition 1 (eq. 23) in its block, on the hidden states of the base: it adds its answer difference to
what that block answers, and what the block above makes of that is computed, too."""

from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np
from jaxtyping import Float64, Int

from lora_reuse.theory import gram as grams
from lora_reuse.theory.compositions import Outputs
from lora_reuse.theory.edits import refuse_dependent
from lora_reuse.theory.facts import Prompt
from lora_reuse.theory.library import Scene, draw_scene
from lora_reuse.theory.readout import one_hot
from lora_reuse.theory.settings import INF, Layers
from lora_reuse.theory.streaming import stream

LOWER, UPPER = 0, 1
PLACED = {
    "both_lower": (LOWER, LOWER),
    "both_upper": (UPPER, UPPER),
    "first_below": (LOWER, UPPER),
    "second_below": (UPPER, LOWER),
}
"""The blocks of the first and of the second expert, by `placement`."""

Metric = Float64[np.ndarray, "axes axes"]
Written = Float64[np.ndarray, "entities prefixes"]
Coefficients = list[Float64[np.ndarray, "facts prefixes"]]


@dataclass(frozen=True)
class Blocks:
    """The two blocks under one setting, with n edited pairs of facts; entities and prompts are those of
    `library.draw_scene`."""

    setting: Layers

    @cached_property
    def scene(self) -> Scene:
        return draw_scene(self.setting.facts)

    @cached_property
    def prompts(self) -> list[Prompt]:
        """`x_i r1`, `y_i r2`, `r1(x_i) r2` and `x_i r1 r2`, n each."""
        world, e = self.scene.world, self.scene.edits
        second = [world.one_hop(int(entity), 1) for entity in (*e.y, *e.r1x)]
        return [*self.scene.prompts[self.scene.first], *second, *self.scene.prompts[self.scene.two_hop]]

    @cached_property
    def prefixes(self) -> list[Prompt]:
        """Every beginning of a prompt, each once: the positions at which the lower block computes something."""
        return list(dict.fromkeys(p[:i] for p in self.prompts for i in range(1, len(p) + 1)))

    def at(self, prompts: list[Prompt]) -> Int[np.ndarray, " prompts"]:
        """Their places among the prefixes."""
        return np.array([self.prefixes.index(p) for p in prompts])

    @cached_property
    def places(self) -> Int[np.ndarray, " prompts"]:
        """The places of the prompts among the prefixes."""
        return self.at(self.prompts)

    @cached_property
    def attended(self) -> list[tuple[Float64[np.ndarray, " context"], Int[np.ndarray, " context"]]]:
        """Of each prompt: the weight and the place of every prefix that its last position attends to."""
        contexts = [self.at([prompt[:i] for i in range(1, len(prompt))]) for prompt in self.prompts]
        attend = self.setting.attend
        return [(np.array([1 - attend, attend]) if len(c) == 2 else np.ones(1), c) for c in contexts]

    def part(self, which: int) -> slice:
        """The n prompts of a kind, in the order of `prompts`."""
        return slice(which * self.setting.facts, (which + 1) * self.setting.facts)

    @cached_property
    def tokens(self) -> dict[int, int]:
        """Every token in use, and every entity that is an answer, numbered."""
        e = self.scene.edits
        answers = {int(t) for role in (e.y, e.z, e.r1x, e.r2y, e.r2r1x) for t in role}
        return {t: i for i, t in enumerate(sorted(answers | {t for p in self.prompts for t in p}))}

    @cached_property
    def inputs(self) -> Float64[np.ndarray, "prefixes vectors"]:
        """h¹ of every prefix in the 3 T vectors e_t, V_1 e_t and f_t, f_t the part of w_t that is not along e_t."""
        T = len(self.tokens)
        states = np.zeros((len(self.prefixes), 3 * T))
        for row, prefix in enumerate(self.prefixes):
            states[row, self.tokens[prefix[-1]]] = 1.0
            for t in prefix[:-1]:
                states[row, T + self.tokens[t]] += 1 / (len(prefix) - 1)
        return states

    @cached_property
    def directions(self) -> Float64[np.ndarray, "entities vectors"]:
        """w_t = γ e_t + √(1 − γ²) f_t of every entity, γ the alignment."""
        T, gamma = len(self.tokens), self.setting.alignment
        w = np.zeros((self.scene.world.entities, 3 * T))
        for t, i in self.tokens.items():
            if t < len(w):
                w[t, i], w[t, 2 * T + i] = gamma, np.sqrt(1 - gamma**2)
        return w

    def metric(self, seed: int) -> Metric:
        """Inner products of the 3 T vectors and of their images under V_2: the identity as d → ∞, drawn at a finite
        d."""
        T, dim = len(self.tokens), self.setting.dim
        if dim == INF:
            return np.eye(6 * T)
        dim = int(dim)
        (E, VE), _ = grams.token_images(stream(seed, grams.GEOMETRY, dim), T, dim, "std")
        normals = lambda label, columns: np.asarray(  # noqa: E731
            jax.random.normal(stream(seed, grams.GEOMETRY, dim, label), (dim, columns)) * dim**-0.5, np.float64
        )
        vectors = np.concatenate([E, VE, normals(1, T).T])
        R = np.linalg.qr(vectors.T).R
        images = (normals(2, len(R)) @ R).T
        both = np.concatenate([vectors, images])
        return both @ both.T

    @cached_property
    def base_lower(self) -> Written:
        """What the base's lower block answers on every prefix."""
        written = np.zeros((self.scene.world.entities, len(self.prefixes)))
        written[self.scene.edits.r1x, self.at(self.prompts[self.part(0)])] = self.setting.write
        return written

    @cached_property
    def base_upper(self) -> Outputs:
        """What the base's upper block stores: nothing more on `x r1`, the old answers on the others."""
        e = self.scene.edits
        answers = one_hot(np.concatenate([e.r2y, e.r2r1x, e.r2r1x]), self.scene.world.entities)
        stored = np.hstack([np.zeros((len(answers), self.setting.facts)), answers])
        return stored if self.setting.base == "stored" else stored[:, : self.part(2).stop]

    def differences(self, expert: int) -> Outputs:
        """What an expert adds on its own prompts, as it is merged: `write`(i_y − i_{r1(x)}) of the first,
        `scale`(i_z − i_{r2(y)}) of the second."""
        n = self.setting.facts
        D = self.scene.differences
        return self.setting.write * D[:, :n] if expert == 0 else self.setting.scale * D[:, n:]

    def experts_in(self, block: int) -> list[int]:
        return [expert for expert, its in enumerate(PLACED[self.setting.placement]) if its == block]

    def lower_coefficients(self, G: Float64[np.ndarray, "prefixes prefixes"]) -> Coefficients:
        """C = G_ee⁻¹ G_e· of every expert in the lower block, on all prefixes."""
        keys = [self.at(self.prompts[self.part(expert)]) for expert in self.experts_in(LOWER)]
        return [solved(G, e, np.arange(len(G))) for e in keys]

    def lower_outputs(self, coefficients: Coefficients) -> Written:
        """What the lower block answers on every prefix: the base's and D C of the experts in it."""
        experts = zip(self.experts_in(LOWER), coefficients, strict=True)
        return self.base_lower + sum((self.differences(i) @ C for i, C in experts), np.zeros_like(self.base_lower))

    def upper_states(self, written: Written) -> Float64[np.ndarray, "states axes"]:
        """h² at the last position of every prompt, in the vectors of `metric`: residual, then attention."""
        s = self.inputs + written.T @ self.directions
        attention = np.array([weights @ s[context] for weights, context in self.attended])
        residual = s[self.places]
        return np.hstack([residual, attention])

    def states(self, written: Written) -> Float64[np.ndarray, "states axes"]:
        """h² of the prompts in the base, on which all was trained, and then with the lower block's experts: 8 n."""
        return np.concatenate([self.upper_states(self.base_lower), self.upper_states(written)])

    def lower_geometry(self, metric: Metric) -> Float64[np.ndarray, "prefixes prefixes"]:
        """S = σ² H Hᵀ of the lower block's hidden states on all prefixes."""
        vectors = self.inputs.shape[1]
        return self.setting.input_variance * (self.inputs @ metric[:vectors, :vectors] @ self.inputs.T)

    def upper_geometry(self, metric: Metric, written: Written) -> Float64[np.ndarray, "states states"]:
        """S = σ² H Hᵀ of `states`."""
        states = self.states(written)
        return self.setting.input_variance * (states @ metric @ states.T)

    def upper_edits(self) -> list[tuple[Int[np.ndarray, " keys"], Outputs]]:
        """The states that the upper block's weights were fitted on and what they answer there: the base's, then the
        experts' in it."""
        stored = self.base_upper
        experts = [(np.arange(len(self.prompts))[self.part(i)], self.differences(i)) for i in self.experts_in(UPPER)]
        return [(np.arange(stored.shape[1]), stored), *experts]

    def outputs(self, G: Float64[np.ndarray, "states states"], written: Written) -> Outputs:
        """The output on every prompt, from the upper block's Gram matrix over `states`."""
        asked = np.arange(len(self.prompts), len(G))
        upper = sum(D @ solved(G, e, asked) for e, D in self.upper_edits())
        return written[:, self.places] + upper


def solved(
    G: Float64[np.ndarray, "n n"], keys: Int[np.ndarray, " keys"], asked: Int[np.ndarray, " asked"]
) -> Float64[np.ndarray, "keys asked"]:
    """G_ee⁻¹ G_ea: the share of every key's answer on every asked prompt (eq. 23). Raises SettingError for linearly
    dependent keys."""
    inner = G[np.ix_(keys, keys)]
    refuse_dependent(inner)
    return np.linalg.solve(inner, G[np.ix_(keys, asked)])
