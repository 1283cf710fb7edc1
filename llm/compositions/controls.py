"""What every rule is compared with: adapters that know nothing.

(`theory.compositions` has an `oracle` too, which edits the composed facts and does not look at the experts. Its like
here is an adapter trained on the two-hop questions: an expert, not a rule.)"""

import torch

from lora_reuse.llm.adapters.each import Each
from lora_reuse.llm.adapters.lowrank import Expert, LowRank
from lora_reuse.llm.compositions import Composition, Library, Seed, generator, rule, streamed


@rule(static=True, gauge_free=True, alone=False, symmetric=False)
def random(library: Library, *, seed: Seed = 0) -> Composition:
    """The sum of adapters with Gaussian factors, of the ranks and the norms ‖ΔW‖_F that the experts have in each
    module."""
    return streamed("sum", gaussian(library, seed))


def gaussian(library: Library, seed: int) -> list[Expert]:
    """For each expert one with Gaussian factors and the same ‖ΔW‖_F and rank in each module; any rule can be tried on
    them."""
    return [_drawn_like(expert, seed, i) for i, expert in enumerate(library)]


def _drawn_like(expert: Expert, seed: int, i: int) -> Expert:
    return Each(expert, lambda name: _drawn(expert[name], generator(seed, "random", name, i)))


def _drawn(update: LowRank, random: torch.Generator) -> LowRank:
    drawn = LowRank(*(torch.randn(factor.shape, generator=random) for factor in update))
    return LowRank(drawn.out * (update.norm() / drawn.norm()), drawn.into) if update.rank else update
