"""What every rule is compared with: adapters that know nothing.

(`theory.compositions` has an `oracle` too, which edits the composed facts and does not look at the experts. Its like
here is an adapter trained on the two-hop questions: an expert, not a rule.)"""

import torch

from lora_reuse.llm.adapters.lowrank import Expert, LowRank
from lora_reuse.llm.compositions import Composition, Library, Seed, compose, generator, rule


@rule(static=True, gauge_free=True, alone=False, symmetric=False)
def random(library: Library, *, seed: Seed = 0) -> Composition:
    """The sum of adapters with Gaussian factors, of the ranks and the norms ‖ΔW‖_F that the experts have in each
    module."""
    return compose("sum", gaussian(library, seed))


def gaussian(library: Library, seed: int) -> list[Expert]:
    """For each expert one with Gaussian factors and the same ‖ΔW‖_F and rank in each module; any rule can be tried on
    them."""
    return [
        {name: _drawn(update, generator(seed, "random", name, i)) for name, update in expert.items()}
        for i, expert in enumerate(library)
    ]


def _drawn(update: LowRank, random: torch.Generator) -> LowRank:
    drawn = LowRank(*(torch.randn(factor.shape, generator=random) for factor in update))
    return LowRank(drawn.out * (update.norm() / drawn.norm()), drawn.into) if update.rank else update
