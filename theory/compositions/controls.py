"""What every rule is compared with: adapters that know nothing, and one that was trained on the answer."""

import functools
import operator

from lora_reuse.runs.settings import SettingError
from lora_reuse.theory.compositions import Context, Library, rule
from lora_reuse.theory.edits import LowRank, min_norm_edit


@rule(span=True, gauge_free=False, basis_free=True, alone=False, smooth=True)
def random(library: Library, context: Context) -> LowRank:
    """The sum of adapters with the answer differences and norms of the experts, under keys of prompts that share no
    token with theirs. An expert that changes nothing adds nothing."""
    if len(context.unrelated_keys) != len(library):
        raise SettingError(
            "unrelated_keys", len(context.unrelated_keys), f"keys for each of the {len(library)} experts"
        )
    away = [LowRank(expert.out, keys) for expert, keys in zip(library, context.unrelated_keys, strict=True)]
    norms = [expert.norm() for expert in library]
    return functools.reduce(
        operator.add, [(norm / other.norm() if norm else 0.0) * other for norm, other in zip(norms, away, strict=True)]
    )


@rule(span=False, gauge_free=True, basis_free=True, alone=False, smooth=True)
def oracle(library: Library, context: Context) -> LowRank:
    """The composed facts edited directly: the minimum-norm edit of the two-hop prompts themselves, the experts
    unused."""
    if context.composed is None:
        raise SettingError("composed", "none", "the two-hop prompts and the changes they should get")
    return min_norm_edit(context.composed.features, context.composed.changes)
