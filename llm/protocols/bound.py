"""What theory allows of a composition of experts that know one hop each, as the share of right answers it says are the
most."""

from typing import Any

from lora_reuse.llm.adapters.places import second_below

WITHOUT_EXPERTS = ("base", "random", "alone")


def once_in_n(point: Any) -> float | None:
    """Theorem 3: asked directly, they give the z that is asked no more weight than another of the n edited z, so they
    are right at most once in n.

    The point says that its experts know one hop each; this says whether the bound speaks of what is made of them. It
    does not of a rule that has seen the answers (`:two_hop`), nor of a composition that has none of the experts, nor of
    questions asked otherwise: then it is None. So it is where `layers=` gives the experts different layers, unless
    expert 2 is below expert 1: two blocks compose with expert 1 below (`theory.experiments.layers`)."""
    trained = getattr(point, "pool", "trained") == "trained"  # edits have no pool
    composed = trained and point.composition not in WITHOUT_EXPERTS and not point.composition.endswith(":two_hop")
    layers = getattr(point, "layers", "mlp")
    bounded = "/" not in layers or second_below(layers)
    return 1 / point.triplets if composed and bounded and point.prompting == "direct" else None
