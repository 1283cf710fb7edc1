"""Beyond the paper: two blocks, in which experts compose where the first sits below the second."""

import inspect
from unittest.mock import patch

import numpy as np

from lora_reuse.paper_checks.claims import Evidence, claim, from_rows
from lora_reuse.paper_checks.setup import C_FIRST, C_SECOND
from lora_reuse.theory import blocks
from lora_reuse.theory.blocks import LOWER, UPPER, Blocks
from lora_reuse.theory.experiments import layers
from lora_reuse.theory.settings import INF, Layers
from lora_reuse.theory.settings.layers import PLACEMENTS

_HONEST = Blocks.upper_states
_HONEST_DIRECTIONS = inspect.getattr_static(Blocks, "directions")


def _limit(**dials) -> dict[str, float]:
    return layers.run(Layers(width=INF, **dials), [0])[0].measured


def _placement_swapped():
    """The experts of `first_below` and of `second_below` exchanged."""
    return patch.dict(blocks.PLACED, {"first_below": (UPPER, LOWER), "second_below": (LOWER, UPPER)})


def _residual_dropped():
    """The upper block without its residual: it does not see the last relation."""

    def wrong(self, written):
        states = _HONEST(self, written).copy()
        states[:, : states.shape[1] // 2] = 0.0
        return states

    return patch.object(Blocks, "upper_states", wrong)


def _write_dropped():
    """What the lower block answers is not written into the stream."""
    return patch.object(Blocks, "upper_states", lambda self, written: _HONEST(self, np.zeros_like(written)))


def _square_root_of_weight():
    """√w for w as the weight of the second expert."""

    def wrong(self, expert):
        n, D = self.setting.facts, self.scene.differences
        return self.setting.write * D[:, :n] if expert == 0 else self.setting.scale**0.5 * D[:, n:]

    return patch.object(Blocks, "differences", wrong)


def _alignment_squared():
    """γ² for γ in the written direction."""

    def wrong(self):
        T, w = len(self.tokens), _HONEST_DIRECTIONS.func(self).copy()
        w[:, :T] *= self.setting.alignment
        return w

    return patch.object(Blocks, "directions", property(wrong))


@claim(
    "beyond the paper",
    "On two blocks the ceiling of one in n is broken by the first expert below the second, and by no other placement.",
    "conditional",
    "the share of composed prompts on which z_j is the largest new answer is 1 at d = m = infinity with the first"
    " expert below, and 1/n with both in one block or the second below, whatever its weight. It takes a written"
    " direction that overlaps the embedding, and a weight of the second expert that lifts z_j over the old answer",
    placement_swapped=_placement_swapped,
    write_dropped=_write_dropped,
)
def order_of_layers_decides() -> list[Evidence]:
    """Shares at d = m = ∞ for n = 2 and 8 in all placements, whether any weight up to 1000 suffices, and shares at
    width 2^12 over 32 seeds."""
    found = []
    for n in (2, 8):
        for placement in PLACEMENTS:
            composes = placement == "first_below"
            share = _limit(facts=n, placement=placement)["accuracy_among_new"]
            found.append(Evidence(f"{placement}, n={n}, m=inf", share, 1.0 if composes else 1 / n))
    for placement in PLACEMENTS:
        enough = layers.threshold(Layers(facts=2, placement=placement)) < INF
        found.append(
            Evidence(f"{placement}: some weight suffices (1: yes)", float(enough), float(placement == "first_below"))
        )
    results = layers.run(Layers(width=2**12, facts=2, placement="both_upper"), range(32))
    found.append(from_rows("both_upper, n=2, m=2^12", results, "accuracy_among_new", 1 / 2))
    return found


@claim(
    "beyond the paper",
    "The overlap that composes is the attention on r1 times the length of the write times its alignment.",
    "confirmed with constants",
    "the state of x_j r1 r2 overlaps the key of y_j r2 by a g gamma more than other keys. At zero the new answers tie,"
    " at any other value z_j is the largest of them at d = m = infinity",
    write_dropped=_write_dropped,
    placement_swapped=_placement_swapped,
    alignment_squared=_alignment_squared,
)
def overlap_is_a_g_gamma() -> list[Evidence]:
    """η_j·ξ_j − η_i·ξ_j for three settings of the dials, and the shares at γ = 0 and γ = 0.01."""
    found = []
    for attend, write, alignment in ((0.5, 1.0, 1.0), (0.9, 0.5, 0.3), (0.2, 3.0, 0.7)):
        its = Blocks(Layers(width=INF, facts=3, attend=attend, write=write, alignment=alignment))
        _, _, coefficients = layers.at_kernel(its, its.metric(0))
        S = its.upper_geometry(its.metric(0), its.lower_outputs(coefficients))
        keys = S[its.part(1), len(S) - 3 :]
        name = f"a={attend}, g={write}, gamma={alignment}"
        found.append(Evidence(name, float(keys[0, 0] - keys[1, 0]), attend * write * alignment))
    for alignment, share in ((0.0, 1 / 4), (0.01, 1.0)):
        measured = _limit(facts=4, alignment=alignment)["accuracy_among_new"]
        found.append(Evidence(f"right among the new, gamma={alignment}", measured, share))
    return found


@claim(
    "beyond the paper",
    "Beyond a weight of the second expert the composed answer is the largest of all.",
    "conditional",
    "the weight is 1.713 for 4 facts under uniform attention, where the base has stored the old answers. It falls with"
    " the attention on r1, and none suffices without alignment. One block's coefficients return where both experts are"
    " in the lower block",
    square_root_of_weight=_square_root_of_weight,
    residual_dropped=_residual_dropped,
)
def weight_lifts_the_answer() -> list[Evidence]:
    """Accuracy just below and above the weight, the outputs there, and one block's coefficients."""
    at_one = _limit(facts=4)
    edge = at_one["output_old"] / at_one["output_new"]
    found = [Evidence("the weight, 4 facts", layers.threshold(Layers(facts=4)), edge, tolerance=1e-6)]
    found.append(Evidence("old answer over new answer at weight 1", edge, 1.713, tolerance=5e-4))
    for side, right in ((-1e-4, 0.0), (1e-4, 1.0)):
        found.append(Evidence(f"accuracy at {edge + side:.4f}", _limit(facts=4, scale=edge + side)["accuracy"], right))
    one = _limit(facts=1, placement="both_lower")
    found.append(Evidence("c_first, both lower", one["output_bridge"], C_FIRST))
    found.append(Evidence("c_second, both lower", one["output_new"], C_SECOND))
    results = layers.run(Layers(width=2**12, facts=4, scale=edge), range(32))
    found.append(from_rows("output at z_j, at that weight, m=2^12", results, "output_new"))
    return found
