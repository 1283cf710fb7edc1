"""Measurements of adapters, alone and composed, on a handful of prompts. No answer needs to be known."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lora_reuse.llm.adapters.lowrank import Expert
from lora_reuse.llm.compositions import Composition
from lora_reuse.llm.decoding.greedy import answers
from lora_reuse.llm.decoding.models import Base, example, stop_ids
from lora_reuse.llm.forecast import HOPED, letters
from lora_reuse.llm.forecast.subspace import Keys, Overlap, Reading, Scales, keys, overlap, read, routing, scales

Prompts = Mapping[str, Sequence[str]]
"""By the letter of an adapter those that it was made for, and those that one hopes all together can answer."""


class Own(NamedTuple):
    """An adapter on the prompts it was made for.

    `said` has prompts and answers as tokens. `token` is the number of the answer's token that is most the adapter's
    own: the one whose P under the adapter, `alone`, exceeds P under the base by most, `gain`. `keys` are the
    coordinates of the adapter's change at these tokens. `confidence` is the adapter's mean log P of its answers."""

    said: list[tuple[list[int], list[int]]]
    token: list[int]
    alone: list[float]
    gain: list[float]
    keys: Keys
    confidence: float


class Answer(NamedTuple):
    """A composed answer to a hoped-for prompt, token by token.

    `base`, `alone` and `composed` are P of each token under the base, under each adapter and under the composition.
    `overlaps` is how much of each adapter's change the token sets off, and `scales` the scale that each adapter has
    there. `routing` has a router's weights, averaged over modules. `without` is P of each token under the composition
    of the other adapters; of two that is the other alone."""

    prompt: str
    text: str
    tokens: list[str]
    base: Float[Tensor, " tokens"]
    alone: Float[Tensor, "tokens adapters"]
    composed: Float[Tensor, " tokens"]
    overlaps: tuple[Overlap, ...]
    scales: Scales
    routing: Float[Tensor, "tokens adapters"] | None
    without: Float[Tensor, "tokens adapters"]


class Composed(NamedTuple):
    """A composition on the prompts.

    `answers` are those to the hoped-for prompts. On each adapter's own prompts, `kept` is P of the adapter's own token
    divided by P under the adapter alone, and `own_scale` is the scale of the adapter there."""

    answers: list[Answer]
    kept: list[Float[Tensor, " prompts"]]
    own_scale: list[Float[Tensor, " prompts"]]


@dataclass(frozen=True)
class Measured:
    """All measurements. `leaks[i][j]` is how much of adapter i the own prompts of adapter j set off, at their keys.
    `restated[i][j]` is, for each hoped-for prompt, the most of adapter j that a token of the answer of adapter i alone
    sets off."""

    modules: list[str]
    own: list[Own]
    leaks: list[list[Overlap]]
    restated: list[list[Float[Tensor, " prompts"]]]
    composed: dict[str, Composed]


def measure(
    base: Base,
    library: Sequence[Expert],
    compositions: Mapping[str, Composition | None],
    prompts: Prompts,
    longest: int,
    without: Mapping[str, Sequence[Composition | None]] | None = None,
) -> Measured:
    """The measurements that a forecast is made of. `prompts` has at least one in each set; answers are cut after
    `longest` tokens. Of three experts or more, `without` has each composition with each expert left out
    (`left_out`)."""
    modules = list(library[0])
    owns, own_readings = [], []
    for letter, expert in zip(letters(len(library)), library, strict=True):
        (said,) = answers(base, [expert], prompts[letter], longest)
        texts = [as_tokens(base, prompt, text) for prompt, text in zip(prompts[letter], said, strict=True)]
        alone, plain = read(base, expert, texts, modules), read(base, None, texts, [])
        gains = [r.log_probs.exp() - p.log_probs.exp() for r, p in zip(alone, plain, strict=True)]
        token = [int(gain.argmax()) for gain in gains]
        certain = [float(r.log_probs[t].exp()) for r, t in zip(alone, token, strict=True)]
        sure = mean_log(r.log_probs.exp() for r in alone)
        owns.append(Own(texts, token, certain, [float(gain.max()) for gain in gains], keys(expert, alone, token), sure))
        own_readings.append(alone)
    names = list(compositions)
    said = answers(base, [*library, *(compositions[name] for name in names)], prompts[HOPED], longest)
    answered = dict(zip(names, said[len(library) :], strict=True))
    leaks = [
        [overlap(expert, own.keys, _at(readings, o.token)) for readings, o in zip(own_readings, owns, strict=True)]
        for expert, own in zip(library, owns, strict=True)
    ]
    restated = [
        [
            torch.stack([overlap(expert, own.keys, r.inputs).best.max() for r in readings])
            for expert, own in zip(library, owns, strict=True)
        ]
        for readings in (
            read(
                base,
                alone,
                [as_tokens(base, prompt, text) for prompt, text in zip(prompts[HOPED], texts, strict=True)],
                modules,
            )
            for alone, texts in zip(library, said, strict=False)
        )
    ]
    told = {
        name: [as_tokens(base, prompt, text) for prompt, text in zip(prompts[HOPED], texts, strict=True)]
        for name, texts in answered.items()
    }
    each = {
        (tuple(asked), tuple(answer)): (asked, answer) for texts in told.values() for asked, answer in texts
    }  # many compositions say the same
    by_model = [[r.log_probs.exp() for r in read(base, model, list(each.values()), [])] for model in (None, *library)]
    alone = {text: [probabilities[i] for probabilities in by_model] for i, text in enumerate(each)}
    composed = {
        name: _composed(
            base,
            library,
            compositions[name],
            (without or {}).get(name, ()),
            owns,
            list(zip(prompts[HOPED], answered[name], told[name], strict=True)),
            alone,
            modules,
        )
        for name in names
    }
    return Measured(modules, owns, leaks, restated, composed)


def _composed(
    base: Base,
    library: Sequence[Expert],
    composition: Composition | None,
    without: Sequence[Composition | None],
    owns: Sequence[Own],
    said: Sequence[tuple[str, str, tuple[list[int], list[int]]]],
    alone: Mapping[tuple[tuple[int, ...], tuple[int, ...]], list[Tensor]],
    modules: Sequence[str],
) -> Composed:
    """`said`: each prompt, the answer to it, and both as tokens, whose P under the base and under each adapter is in
    `alone`."""
    kept, own_scale = [], []
    for i, own in enumerate(owns):
        readings = read(base, composition, own.said, modules)
        now = torch.stack([r.log_probs[t].exp() for r, t in zip(readings, own.token, strict=True)])
        kept.append(now / torch.tensor(own.alone).clamp_min(1e-9))
        own_scale.append(scales(composition, library, _at(readings, own.token)).each[:, i])
    readings = read(base, composition, [tokens for _, _, tokens in said], modules)
    left = [[r.log_probs.exp() for r in read(base, some, [tokens for *_, tokens in said], [])] for some in without]
    found = []
    for i, ((prompt, text, (asked, told)), reading) in enumerate(zip(said, readings, strict=True)):
        plain, *experts = alone[tuple(asked), tuple(told)]
        gates = routing(composition, reading.inputs)
        found.append(
            Answer(
                prompt,
                text,
                base.tokenizer.batch_decode([[token] for token in told]),
                plain,
                torch.stack(experts, dim=-1),
                reading.log_probs.exp(),
                tuple(overlap(expert, own.keys, reading.inputs) for expert, own in zip(library, owns, strict=True)),
                scales(composition, library, reading.inputs),
                None if gates is None else gates.mean(1),
                torch.stack([each[i] for each in left] if len(library) > 2 else experts[::-1], dim=-1),
            )
        )
    return Composed(found, kept, own_scale)


def mean_log(answers: Iterable[Float[Tensor, " tokens"]]) -> float:
    """The mean over answers of the mean log P of their tokens, P at least 1e-9."""
    return float(torch.stack([p.clamp_min(1e-9).log().mean() for p in answers]).mean())


def _at(readings: Sequence[Reading], tokens: Sequence[int]) -> dict[str, Tensor]:
    """The inputs of each module at one token of each reading."""
    return {
        name: torch.stack([r.inputs[name][t] for r, t in zip(readings, tokens, strict=True)])
        for name in readings[0].inputs
    }


def as_tokens(base: Base, prompt: str, text: str) -> tuple[list[int], list[int]]:
    """The prompt and the answer as tokens. The token that ends an answer is left out, since every model says it; an
    empty answer is nothing but its end."""
    asked, told = example(base, prompt, text)
    return asked, told[:-1] if text else stop_ids(base)[:1]
