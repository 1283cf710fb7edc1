"""Adapters composed by a rule that is given, with the dials that the model's preset has for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_reuse.llm import compositions
from lora_reuse.llm.adapters.adapter import Adapter, Card
from lora_reuse.llm.adapters.biased import LINEAR
from lora_reuse.llm.adapters.folders import Layout
from lora_reuse.llm.protocols.dials import GIVEN, check_rule, made_with
from lora_reuse.llm.protocols.settings import preset_dials
from lora_reuse.runs.provenance import provenance
from lora_reuse.runs.settings import SettingError


def compose(adapters: Sequence[Adapter], rule: str, **dials: Any) -> Adapter:
    """One adapter made of several by a rule.

    Args:
        adapters: adapters of one base, each once. In a module that one of them does not change, its ΔW is 0.
        rule: a name of `lora_reuse.llm.compositions.RULES`, such as `"ties"`, or a control such as `"arrow:random"`.
        dials: the rule's own, such as `density=0.3` or `weights=[0.5, 0.5]`. A dial that is not named has the value of
            the base's preset, or else the rule's default; the result's `card` has all values.

    Returns:
        An adapter of the same base: static, so that it can be saved as a LoRA or merged into the weights, or a router
        (`"arrow"`).

    Raises:
        SettingError: a rule or a dial that does not exist (with the nearest one that does), a dial out of its range,
            adapters of different bases, a router among the adapters.

    Examples:
        >>> both = lr.compose([a, b], "ties", density=0.3)
        >>> both
        <Adapter 'ties of a, b': rank 2, 12 modules of pocket; density=0.3, trim=global>
        >>> lr.compose([a, b], "tie")
        Traceback (most recent call last):
        ...
        lora_reuse.runs.settings.SettingError: composition: got 'tie'; allowed: ...; did you mean 'ties'?

    Source: the formula of every rule, with its paper, is in `lora_reuse.llm.compositions`.
    """
    return composed(adapters, rule, dials, "lora_reuse.compose").in_memory()


def composed(adapters: Sequence[Adapter], rule: str, given: Mapping[str, Any], made_by: str) -> Adapter:
    """`compose`, by a command or function whose name goes on the card. Each update is made when it is asked for, so
    that one module of the adapters is in memory at a time; the rule's own refusals then come as late."""
    card = card_of(adapters, rule, given, made_by)
    name, _, _ = rule.partition(":")
    updates = compositions.streamed(name, [adapter.weights() for adapter in adapters], **card.dials)
    biases = [adapter.biases for adapter in adapters]
    constants: Any = compositions.streamed(name, biases, **card.dials) if any(biases) else None
    embeddings = frozenset().union(*(adapter.layout.embeddings for adapter in adapters))
    layout = Layout(any(adapter.layout.conv1d for adapter in adapters), embeddings, any(biases))
    return Adapter(updates, card, layout, compositions.RULES[name].static, constants)


def card_of(adapters: Sequence[Adapter], rule: str, given: Mapping[str, Any], made_by: str) -> Card:
    """The card of what `composed` makes, before it is made. Raises SettingError as `compose`, but for what the rule
    itself refuses."""
    check_rule(rule)
    check_adapters(adapters)
    _check_biases(adapters, rule.partition(":")[0])
    card = adapters[0].card
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    dials = made_with([rule], given, preset_dials(card.base))[rule]
    if dials.get("top_k", 0) > len(adapters):
        raise SettingError("top_k", dials["top_k"], f"at most {len(adapters)}, the adapters")
    return Card(card.base, rule, GIVEN[rule.partition(":")[0]].doc, sources(adapters), dials, said_to_be_made(made_by))


def sources(adapters: Sequence[Adapter]) -> dict[str, str]:
    """What a card says that the adapters are, each with its digest, which is part of the name where two have one."""
    found = [adapter.source for adapter in adapters]
    names = [name for name, _ in found]
    return dict((name, digest) if names.count(name) == 1 else (f"{name} ({digest})", "") for name, digest in found)


def said_to_be_made(by: str) -> str:
    """The command or function, and the versions of the libraries that it used, for a card."""
    libraries = provenance("torch", "peft", "safetensors")["versions"]
    return f"`{by}` with " + ", ".join(f"{library} {version}" for library, version in libraries.items())


def check_adapters(adapters: Sequence[Adapter]) -> None:
    """Raises SettingError for no adapter, for one that is there twice, and for adapters of different bases."""
    if isinstance(adapters, Mapping) or not all(isinstance(adapter, Adapter) for adapter in adapters):
        raise SettingError("library", repr(adapters), "a list of adapters", "load_adapter(base, folder) loads one")
    if not adapters:
        raise SettingError("library", "no adapter", "at least one")
    places = {(Path(place).expanduser().resolve(), digest) for place, digest in (each.source for each in adapters)}
    if len(places) < len(adapters):
        raise SettingError("library", ", ".join(adapter.name for adapter in adapters), "each adapter once")
    for other in adapters[1:]:
        if other.card.base != adapters[0].card.base:
            got = f"{adapters[0].name} of {adapters[0].card.base} and {other.name} of {other.card.base}"
            raise SettingError("library", got, "adapters of one base")


def _check_biases(adapters: Sequence[Adapter], rule: str) -> None:
    """Raises SettingError for adapters with biases and a rule that is not linear in what they add."""
    have = [adapter.name for adapter in adapters if adapter.biases]
    if have and rule not in LINEAR:
        got = f"{rule} of {', '.join(have)}, which {'has' if len(have) == 1 else 'have'} biases (lora_bias)"
        mend = "other rules are not linear in ΔW, and say nothing of a bias"
        raise SettingError("composition", got, " | ".join(LINEAR), mend)
