"""What a point of a protocol puts on its base: experts, composed by a rule that is given or one that is learned."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lora_reuse.llm.adapters.folders import load_expert
from lora_reuse.llm.adapters.lowrank import Expert, LowRank
from lora_reuse.llm.adapters.specs import Spec
from lora_reuse.llm.adapters.training import Tokens, expert, tokens
from lora_reuse.llm.compositions import Composition, compose, generator
from lora_reuse.llm.compositions.controls import gaussian
from lora_reuse.llm.data.graphs import facts_of
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.decoding.models import Base, example
from lora_reuse.llm.learned import LEARNED, Learning, learn
from lora_reuse.llm.protocols.dials import of_point


class Made(NamedTuple):
    """A composition, the counts of what it cost (of what was learned alone), the seconds it took when its experts were
    there, and the dials it was made with."""

    composition: Composition | None
    cost: dict[str, int]
    seconds: float
    dials: dict[str, Any]


def make(base: Base, point: Any, specs: Sequence[Any], asked: str, seed: int, folder: Path) -> Made:
    """What the point puts on the base: a composition of its experts, an expert alone, or nothing. `asked` is the
    two-hop subset that is asked."""
    if point.composition == "base":
        return Made(None, {}, 0.0, {})
    library = pool_on(base, point, specs, seed, folder)
    if point.composition == "alone":
        return Made(library[0], {}, 0.0, {})
    if point.scale != 1:
        library = [scaled(updates, point.scale) for updates in library]
    dials = of_point(point, seed)
    name, _, suffix = point.composition.partition(":")
    if name in LEARNED and suffix in DATA:
        learning = Learning(point.learn_rate, point.learn_steps, point.batch, point.learn_tries, seed)
        made = learn(
            name, library, base, DATA[suffix](base, specs, asked, point.learn_share), suffix, learning, **dials
        )
        return Made(
            made.composition,
            {"extra_parameters": made.extra_parameters, "examples_used": made.examples_used},
            made.seconds,
            dials | {"learn_rate": point.learn_rate or LEARNED[name].rate},
        )
    began = time.perf_counter()
    composition = compose(name, library, **dials)
    return Made(composition, {}, time.perf_counter() - began, dials)


def pool_on(base: Base, point: Any, specs: Sequence[Spec | str], seed: int, folder: Path) -> list[Expert]:
    """What the point composes: the experts, or with `pool=random` Gaussian adapters of their ranks and norms."""
    library = library_on(base, specs, folder)
    return [dict(drawn) for drawn in gaussian(library, seed)] if point.pool == "random" else library


def scaled(updates: Expert, w: float) -> Expert:
    """w ΔW, of each module."""
    return {name: LowRank(w * update.out, update.into) for name, update in updates.items()}


def library_on(base: Base, specs: Sequence[Spec | str], folder: Path) -> list[Expert]:
    """The experts: those of specs trained now unless they are there, those that are folders or hub names loaded."""
    return [load_expert(e if isinstance(e, str) else expert(base, e, folder), base.model) for e in specs]


def two_hop(base: Base, specs: Sequence[Spec], asked: str, share: float) -> list[Tokens]:
    """The questions of the subset that is asked in the dev templates, with their direct answers: held-out data, as CAT
    needs (A.2.2). The facts are those that are asked, under templates that are not."""
    facts = facts_of(asked, specs[0].triplets, specs[0].seed)
    return [example(base, e.question, e.answer) for e in examples(asked, facts, "dev")]


def own(base: Base, specs: Sequence[Spec], asked: str, share: float) -> list[Tokens]:
    """A share of what each expert was trained on, its bridge included: nothing of the subset that is asked unless it
    was in there. A larger share has the examples of a smaller one."""
    chosen = []
    for spec in specs:
        trained_on = [e for part in tokens(base, spec) for e in part]
        order = torch.randperm(len(trained_on), generator=generator(spec.seed, "own share", spec.role)).tolist()
        chosen += [trained_on[i] for i in order[: math.ceil(share * len(trained_on))]]
    return chosen


DATA = {"two_hop": two_hop, "own": own}
"""The sources of `llm.protocols.dials.SOURCES`."""


def collisions(base: Base, library: Sequence[Expert]) -> dict[str, float]:
    """How large the experts' updates are and how alike, averaged over modules: ‖ΔW‖/‖W‖ of the mean expert, and |cos|
    of the top singular vectors on the input side (Arrow's prototypes) of each two, left out
    where no two share a module."""
    modules = dict(base.model.named_modules())
    ratios = [
        float(e[name].norm() / torch.linalg.norm(modules[name].get_parameter("weight").float()))
        for e in library
        for name in e
    ]
    names = dict.fromkeys(name for e in library for name in e)
    tops = [torch.stack([e[name].top_input_direction() for e in library if name in e]) for name in names]
    upper = [(v @ v.T).abs()[*torch.triu_indices(len(v), len(v), 1)].mean() for v in tops if len(v) > 1]
    return {"update_ratio": sum(ratios) / len(ratios)} | (
        {"prototype_cos": float(torch.stack(upper).mean())} if upper else {}
    )
