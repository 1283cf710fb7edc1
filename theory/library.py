"""Two experts and the prompts they are asked: what every composition experiment starts from.

Expert 1 stores r̃₁(x_i) = y_i under `x_i r1`, expert 2 stores r̃₂(y_i) = z_i under `y_i r2`, i = 1 … n, each by eq. 23.
The base model is taken to answer every prompt as before the edits, as the paper takes it ("the base model already
performs correctly"); so only the prompts below matter, and the names of entities do not: every seed draws its own E, V
and U for the same facts."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int

from lora_reuse.theory import gram as grams
from lora_reuse.theory.compositions import Context, Examples, Features, Outputs
from lora_reuse.theory.edits import LowRank, min_norm_edit
from lora_reuse.theory.facts import Edits, Prompt, World, draw_world
from lora_reuse.theory.gaussian import quadrature_features
from lora_reuse.theory.readout import one_hot
from lora_reuse.theory.settings import INF, Model
from lora_reuse.theory.streaming import features


@dataclass(frozen=True)
class Scene:
    """n edited pairs of facts, another entity u, and prompts that share no token with them."""

    world: World
    prompts: list[Prompt]
    first: slice
    second: slice
    two_hop: slice
    other: slice
    unrelated: tuple[slice, slice]

    @property
    def edits(self) -> Edits:
        return self.world.edits

    @cached_property
    def differences(self) -> Float64[np.ndarray, "entities differences"]:
        """i_y − i_{r1(x)} of every fact, then i_z − i_{r2(y)}."""
        i = self.one_hot
        return np.hstack([i(self.edits.y) - i(self.edits.r1x), i(self.edits.z) - i(self.edits.r2y)])

    def one_hot(self, entities: Int[np.ndarray, " n"]) -> Float64[np.ndarray, "entities n"]:
        return one_hot(entities, self.world.entities)

    def experts(self, features: Features) -> list[LowRank]:
        """The two adapters, eq. 23."""
        n = len(self.edits.x)
        D = self.differences
        return [min_norm_edit(features[:, self.first], D[:, :n]), min_norm_edit(features[:, self.second], D[:, n:])]

    def context(self, features: Features, data: str, width: int | float, seed: int) -> Context:
        """What rules may know: `data` says which examples fitted rules see.

        `two_hop`: the composed prompts of the edited facts with the composed answers; `held_out`: those of the later
        half of the facts, or for a single fact another entity's composed prompt, whose answer stays; `one_hop`: the
        experts' own prompts and answers."""
        n = len(self.edits.x)
        composed = self.one_hot(self.edits.z) - self.one_hot(self.edits.r2r1x)
        examples = asked = Examples(features[:, self.two_hop], composed)
        if data == "held_out" and n > 1:
            examples = Examples(features[:, self.two_hop][:, n // 2 :], composed[:, n // 2 :])
        elif data == "held_out":
            examples = Examples(features[:, self.other], np.zeros((self.world.entities, 1)))
        elif data == "one_hop":
            examples = Examples(np.hstack([features[:, self.first], features[:, self.second]]), self.differences)
        return Context(width, seed, examples, tuple(features[:, part] for part in self.unrelated), asked)

    def two_hop_outputs(self, change: Outputs) -> Outputs:
        """The outputs on the composed prompts: the old answers and the change."""
        return self.one_hot(self.edits.r2r1x) + change


def draw_scene(facts: int = 1, coincide: Sequence[tuple[str, str]] = ()) -> Scene:
    """The scene of `facts` edited pairs; raises SettingError for coincidences that cannot be (see
    `facts.draw_world`)."""
    world = draw_world(0, entities=8 * facts + 1, relations=4, edits=facts, coincide=coincide)
    e = world.edits
    used = {int(entity) for role in (e.x, e.y, e.z, e.r1x, e.r2y, e.r2r1x) for entity in role}
    u, *spare = [entity for entity in range(world.entities) if entity not in used]
    parts = [
        [world.one_hop(int(x), 0) for x in e.x],
        [world.one_hop(int(y), 1) for y in e.y],
        [world.two_hop(int(x), 0, 1) for x in e.x],
        [world.two_hop(u, 0, 1)],
        [world.one_hop(s, 2) for s in spare[:facts]],
        [world.one_hop(s, 3) for s in spare[facts : 2 * facts]],
    ]
    ends = np.cumsum([0, *(len(part) for part in parts)])
    slices = [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]
    return Scene(
        world, [p for part in parts for p in part], slices[0], slices[1], slices[2], slices[3], (slices[4], slices[5])
    )


def prepared(
    scene_prompts: Sequence[Prompt], setting: Model, seeds: Sequence[int], basis_free: bool, advance=None
) -> list[Features]:
    """Features of unit scale (Φᵀ Φ = G), one matrix a seed.

    Rules that use inner products alone get `gram.coordinates`, exact at any width. The others get the features
    themselves, and at infinite width `quadrature_features`. The settings keep those to LARGEST_BASIS_WIDTH."""
    if basis_free:
        return list(grams.coordinates(grams.gram(scene_prompts, setting, seeds, advance=advance)))
    shapes = grams.geometry(scene_prompts, setting, seeds)
    if setting.width == INF:
        return [quadrature_features(S, setting.activation) for S in shapes]
    width = int(setting.width)
    keys = grams.feature_keys(setting, seeds)
    return [features(S, width, key, setting.activation) / np.sqrt(width) for S, key in zip(shapes, keys, strict=True)]


def wins(
    outputs: Outputs, answers: Int[np.ndarray, " prompts"], tolerance: float = 1e-9
) -> Float64[np.ndarray, " prompts"]:
    """How often the answer is the largest output, ties (within `tolerance`) shared equally: exact ties do occur at
    infinite width."""
    top: Bool[np.ndarray, "outputs prompts"] = outputs >= outputs.max(axis=0) - tolerance
    return top[answers, np.arange(len(answers))] / top.sum(axis=0)
