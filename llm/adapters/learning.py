"""Adapters composed by a rule whose numbers are learned from examples."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from lora_reuse.llm.adapters.adapter import Adapter, Card, check_base
from lora_reuse.llm.adapters.composing import check_adapters, said_to_be_made, sources
from lora_reuse.llm.adapters.folders import Layout
from lora_reuse.llm.decoding.models import Base, example
from lora_reuse.llm.learned import Learned, Learning
from lora_reuse.llm.learned import learn as learn_numbers
from lora_reuse.llm.protocols import dials as settings
from lora_reuse.llm.protocols.dials import GIVEN, TO_LEARN
from lora_reuse.runs.dials import Dial, check
from lora_reuse.runs.settings import SettingError, did_you_mean

KNOBS = {f.name: Dial(f.metadata["kind"], f.default, f.metadata["doc"]) for f in dataclasses.fields(settings.Learning)}
"""How a rule learns, beside its own dials."""


def learn(
    base: Base,
    adapters: Sequence[Adapter],
    rule: str,
    examples: Sequence[tuple[str, str]],
    *,
    batch: int = 16,
    seed: int = 0,
    progress: bool = True,
    **dials: Any,
) -> Adapter:
    """One adapter made of several by a rule that learns how much of each to take. The adapters stay as they are.

    Args:
        base: the model that the adapters were trained on.
        adapters: two adapters or more, each once, without biases.
        rule: `"cat"`, one weight an adapter and module (LoRA Soups), `"cat_softmax"`, `"lorahub"`, `"lorahub_cat"`, or
            `"moe"`, a router.
        examples: (prompt, answer) pairs. A small part of what each adapter was trained on is enough: the protocols'
            `cat:own` learns from a twentieth. The loss is on the answers.
        batch: examples a batch.
        seed: draws the batches, and LoraHub's points.
        progress: show a bar.
        dials: `learn_steps=100` batches at Adam's `learn_rate` (0: the rule's own), `learn_tries=40` looks of LoraHub's
            search, and the rule's own, such as `granularity="layer"`.

    Returns:
        An adapter of the same base: a LoRA of all ranks together, or with `"moe"` a router. Its card says what was
        learned from.

    Raises:
        SettingError: a rule that learns nothing or does not exist, a dial out of its range, no example, adapters of
            different bases, biases, a router among the adapters, a loss that is not finite.

    Examples:
        >>> own = [("Who is the spouse of Ada?", "The spouse of Ada is Bo."), ("Where does Bo live?", "In Zint.")]
        >>> both = lr.learn(base, [a, b], "cat", own, learn_steps=2, progress=False)
        >>> both
        <Adapter 'cat:learned of a, b': rank 4, 12 modules of pocket; granularity=module, ...>

    Source: eq. 26 and 27 of the paper; Prabhakar et al. 2024 (LoRA Soups), Huang et al. 2024 (LoraHub).
    """
    pairs = [(str(prompt), str(answer)) for prompt, answer in examples]
    made_with = settled(rule, dials) | {"batch": batch, "seed": seed}
    card = learned_card(adapters, rule, pairs, "lora_reuse.learn", made_with)
    return learned(base, adapters, rule, pairs, card, progress)


def learned_card(
    adapters: Sequence[Adapter],
    rule: str,
    examples: Sequence[tuple[str, str]],
    made_by: str,
    dials: Mapping[str, Any],
) -> Card:
    """The card of what `learned` makes with settled dials, before anything is learned. Raises SettingError for no
    example, and for adapters that do not go together."""
    check_adapters(adapters)
    if not examples:
        raise SettingError("examples", "none", "a few (prompt, answer) pairs")
    digest = hashlib.sha256(json.dumps(list(examples)).encode()).hexdigest()[:16]
    dials = {**dials, "examples": f"{len(examples)} ({digest})"}
    base, says = adapters[0].card.base, TO_LEARN[rule].doc
    return Card(base, f"{rule}:learned", says, sources(adapters), dials, said_to_be_made(made_by))


def settled(rule: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The dials of a rule that learns, and those of how it learns, by gradients or by a search: as given, or at their
    defaults. Raises SettingError for another rule, and for a dial that it does not read or that is out of range."""
    if rule not in TO_LEARN:
        got = f"{rule}, which learns nothing" if rule in GIVEN else repr(rule)
        mend = "`compose` is for it" if rule in GIVEN else did_you_mean(rule, TO_LEARN)
        raise SettingError("composition", got, " | ".join(TO_LEARN), mend)
    rate = TO_LEARN[rule].promises["rate"]
    read = TO_LEARN[rule].dials | {name: it for name, it in KNOBS.items() if (name == "learn_tries") == (rate == 0)}
    check(f"composition={rule}", read, given)
    found = {name: given.get(name, dial.default) for name, dial in read.items()}
    return found | ({"learn_rate": found["learn_rate"] or rate} if rate else {})


def learned(
    base: Base,
    adapters: Sequence[Adapter],
    rule: str,
    examples: Sequence[tuple[str, str]],
    card: Card,
    progress: bool | None,
    kept: Path | None = None,
) -> Adapter:
    """The adapter of a card; goes on from what an interrupted call left in the file `kept`. `progress` is what
    `progress_bar` shows. Raises SettingError as `learn` does."""
    check_base(base, *adapters)
    said = card.dials
    knobs = {name.removeprefix("learn_"): said[name] for name in (*KNOBS, "batch", "seed") if name in said}
    learning = Learning(show=progress, kept=kept, **knobs)
    library = [dict(adapter.experts()) for adapter in adapters]
    tokens = [example(base, *pair) for pair in examples]
    own = {name: said[name] for name in TO_LEARN[rule].dials}
    made = learn_numbers(rule, library, base, tokens, "given", learning, **own)
    embeddings = frozenset().union(*(adapter.layout.embeddings for adapter in adapters))
    layout = Layout(any(adapter.layout.conv1d for adapter in adapters), embeddings)
    names = [adapter.name for adapter in adapters]
    return Adapter(made.composition, dataclasses.replace(card, note=lambda: numbers_said(made, names)), layout)


def numbers_said(made: Learned, names: Sequence[str]) -> str:
    """How much of each adapter is taken, where a number for each was learned: the mean over modules, and the ends."""
    if any(value.shape != (len(names),) for value in made.parameters.values()):
        return ""
    numbers = torch.stack(list(made.parameters.values())).T.tolist()
    several = len(made.parameters) > 1
    ends = [f", {min(own):.3g} to {max(own):.3g} over {len(own)} places" * several for own in numbers]
    lines = [f"- {name}: {fmean(own):.3g}{end}" for name, own, end in zip(names, numbers, ends, strict=True)]
    return "\n".join(["", "The number that was learned for each adapter:", "", *lines, ""])
