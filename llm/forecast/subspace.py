"""What adapters do to the tokens of a text: the probability of each token, how much of each adapter it sets off, and at
what scale.

An adapter changes a module's output by ΔW h. In the coordinates u = R Bᵀh, with ΔW = A Bᵀ and A = Q R, ‖u‖ = ‖ΔW h‖ and
inner products are those of the changes. One layer of theory says: of what an edit does to its own prompt η, another
prompt ξ gets the multiple k(η, ξ)/k(η, η) (Theorem 2). Measured on a model, the multiple is u·u_j/‖u_j‖², with u_j the
coordinates at a token that the adapter was made to say: a key."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lora_reuse.llm.adapters.lowrank import Expert, LowRank
from lora_reuse.llm.compositions import Composition, RoutedDelta
from lora_reuse.llm.decoding.greedy import last_logits, right_padded
from lora_reuse.llm.decoding.models import Base, stop_ids
from lora_reuse.llm.decoding.resident import Resident

Inputs = dict[str, Float[Tensor, "tokens inputs"]]
Keys = dict[str, Float[Tensor, "keys rank"]]


Text = tuple[list[int], list[int]]
"""A prompt and an answer, as tokens."""


class Reading(NamedTuple):
    """An answer as a model reads it: log P of each of its tokens, and what every module of interest saw when that token
    was predicted."""

    log_probs: Float[Tensor, " tokens"]
    inputs: Inputs


class Overlap(NamedTuple):
    """How much of an adapter's change each token sets off.

    `key` is the number of the key that the token resembles most, the one of the largest mean cosine. `multiple` is how
    much of the change at that key the token sets off in each module, 1 for the key itself, and `best` is its mean over
    modules. `size` is ‖ΔW h‖ divided by its root mean square at the keys."""

    best: Float[Tensor, " tokens"]
    key: Int[Tensor, " tokens"]
    multiple: Float[Tensor, "tokens modules"]
    size: Float[Tensor, "tokens modules"]


class Scales(NamedTuple):
    """The multiples of each expert's own change that come nearest to what a composition does to a token, and the share
    of it that they leave out (cross terms)."""

    each: Float[Tensor, "tokens experts"]
    left: Float[Tensor, " tokens"]


def read(
    base: Base, composition: Composition | None, texts: Sequence[Text], modules: Sequence[str], rows: int = 16
) -> list[Reading]:
    """The model under the composition (None: the base) reads each text, `rows` of them at once: what it is asked and,
    after that, what is told, both of at least one token. A token that ends an answer stands for all that do, since a
    model has several and says any of them."""
    found: list[Reading] = []
    with Resident(base.model) as resident, torch.inference_mode():
        resident.use([composition])
        for start in range(0, len(texts), rows):
            found += _read_together(base, texts[start : start + rows], modules)
    return found


def _read_together(base: Base, texts: Sequence[Text], modules: Sequence[str]) -> list[Reading]:
    ids, attended = right_padded([asked + told for asked, told in texts], base)
    spans = [slice(len(asked) - 1, len(asked) + len(told) - 1) for asked, told in texts]
    seen: dict[str, list[Tensor]] = {}

    def keep(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].view(*ids.shape, -1)  # OPT's MLPs get tokens without an axis of rows
            seen[name] = [row[span].float().cpu() for row, span in zip(x, spans, strict=True)]

        return hook

    hooks = [base.model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in modules]
    try:
        told = ids.shape[1] - min(span.start for span in spans)
        logits = base.model(input_ids=ids, attention_mask=attended, use_cache=False, **last_logits(base, told)).logits
    finally:
        for hook in hooks:
            hook.remove()
    before = ids.shape[1] - logits.shape[1]
    stops, found = stop_ids(base), []
    for i, ((_, told), span) in enumerate(zip(texts, spans, strict=True)):
        at = logits[i, span.start - before : span.stop - before].float()
        every = torch.log_softmax(at, -1)
        spoken = every.gather(-1, torch.tensor(told, device=logits.device)[:, None])[:, 0]
        ends = torch.tensor([token in stops for token in told], device=logits.device)
        spoken = torch.where(ends, every[:, stops].logsumexp(-1), spoken)
        found.append(Reading(spoken.cpu(), {name: rows[i] for name, rows in seen.items()}))
    return found


def coordinates(expert: Expert) -> Expert:
    """For each module, the map h ↦ u with ‖u‖ = ‖ΔW h‖: R Bᵀ, as small as the rank."""
    return {name: LowRank(torch.linalg.qr(update.out).R, update.into) for name, update in expert.items()}


def keys(expert: Expert, readings: Sequence[Reading], tokens: Sequence[int]) -> Keys:
    """The coordinates of one token of each reading (that which the adapter was made to say there)."""
    into = coordinates(expert)
    return {
        name: torch.stack([into[name](reading.inputs[name][t]) for reading, t in zip(readings, tokens, strict=True)])
        for name in expert
    }


def overlap(expert: Expert, known: Keys, inputs: Inputs) -> Overlap:
    """How much of the expert's change at its keys each token sets off. A module in which the keys change nothing counts
    for nothing."""
    into = coordinates(expert)
    cosines, multiples, sizes = [], [], []
    for name, k in known.items():
        u = into[name](inputs[name])
        lengths, inner = k.square().sum(-1), u @ k.T
        length = torch.linalg.vector_norm(u, dim=-1)
        cosines.append(_ratio(inner, length.unsqueeze(-1) * lengths.sqrt()))
        multiples.append(_ratio(inner, lengths.expand_as(inner)))
        sizes.append(_ratio(length, lengths.mean().sqrt().expand_as(length)))
    key = torch.stack(cosines).mean(0).argmax(-1)
    multiple = torch.stack(multiples, dim=-1)[torch.arange(len(key)), key]
    return Overlap(multiple.mean(-1), key, multiple, torch.stack(sizes, dim=-1))


def _ratio(above: Float[Tensor, "*any"], below: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """above/below, and 0 where below is 0."""
    return torch.where(below > 0, above / below.clamp_min(torch.finfo(below.dtype).tiny), 0.0)


def scales(composition: Composition | None, library: Sequence[Expert], inputs: Inputs) -> Scales:
    """min over s of Σ_modules ‖Δ(h) − Σ_i s_i ΔW_i h‖²/c at each token, c the sum of the ‖ΔW_i h‖² of all tokens there,
    so that every module counts alike. Experts that do the same to a token share their scale."""
    count = len(next(iter(inputs.values())))
    gram, mixed, whole = (
        torch.zeros(count, len(library), len(library)),
        torch.zeros(count, len(library)),
        torch.zeros(count),
    )
    for name, x in inputs.items():
        own = torch.stack([expert[name](x) for expert in library], dim=1)
        done = torch.zeros_like(own[:, 0]) if composition is None else composition[name](x)
        weight = 1 / own.square().sum().clamp_min(torch.finfo(own.dtype).tiny)
        gram += weight * own @ own.mT
        mixed += weight * (own @ done.unsqueeze(-1)).squeeze(-1)
        whole += weight * done.square().sum(-1)
    each = torch.linalg.pinv(gram.double(), rtol=1e-6, hermitian=True) @ mixed.double().unsqueeze(-1)
    each = each.squeeze(-1).float()
    explained = (each * mixed).sum(-1)
    return Scales(
        each, torch.where(whole > 0, 1 - explained / whole.clamp_min(torch.finfo(whole.dtype).tiny), 0.0).clamp(0, 1)
    )


def routing(composition: Composition | None, inputs: Inputs) -> Float[Tensor, "tokens modules experts"] | None:
    """A router's weights of the experts at each token, or None for a composition without one."""
    if not composition or not isinstance(next(iter(composition.values())), RoutedDelta):
        return None
    return torch.stack(
        [delta.weights(inputs[name]) for name, delta in composition.items() if isinstance(delta, RoutedDelta)], dim=1
    )


def layers(modules: Sequence[str]) -> dict[str, list[int]]:
    """The modules, by number, of each layer: those whose names hold the same first number; one without a number is a
    layer of its own."""
    found: dict[str, list[int]] = {}
    for i, name in enumerate(modules):
        number = re.search(r"\.(\d+)\.", name)
        found.setdefault(number[1] if number else name, []).append(i)
    return found
