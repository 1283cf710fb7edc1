"""The forecast of adapters under several compositions, from prompts without answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lora_reuse.llm.adapters.adapter import Adapter, check_base
from lora_reuse.llm.adapters.composing import compose, sources
from lora_reuse.llm.adapters.folders import complete, linear_shape
from lora_reuse.llm.adapters.lowrank import Expert
from lora_reuse.llm.compositions import Composition
from lora_reuse.llm.decoding.models import Base
from lora_reuse.llm.forecast import HOPED, MOST, letters
from lora_reuse.llm.forecast.decision import Decision
from lora_reuse.llm.forecast.left_out import left_out
from lora_reuse.llm.forecast.measure import Measured, Prompts, measure
from lora_reuse.llm.forecast.report import decision, numbers, text
from lora_reuse.llm.forecast.verdict import Forecast, as_whom
from lora_reuse.llm.forecast.verdict import forecast as verdict
from lora_reuse.llm.protocols.dials import COMPOSITIONS, GIVEN, WORDS
from lora_reuse.llm.scoring.intervals import wilson
from lora_reuse.runs.settings import SettingError, did_you_mean


@dataclass(frozen=True, repr=False)
class Forecasts:
    """A forecast for each composition, and the measurements that they are made of. Printed, it is the report of
    `lora-reuse forecast`."""

    names: Sequence[str]
    measured: Measured
    each: Mapping[str, Forecast]
    prompts: Prompts

    @property
    def verdicts(self) -> dict[str, str]:
        """For each composition `composed`, or whose answers it gives: an adapter's by its letter, the `base`'s
        or a `mixture`."""
        return {how: forecast.verdict for how, forecast in self.each.items()}

    @property
    def decision(self) -> Decision:
        """What to do: merge, route, train a bridge or none of these, with its probability and what it costs."""
        return decision(self.measured, self.each)

    def dataframe(self) -> pd.DataFrame:
        """A row for each composition: the verdict, the share of the hoped-for prompts that it holds for with its 95 %
        interval, the scores, and what is left of each adapter on its own prompts."""
        rows, called = {}, letters(len(self.names))
        for how, forecast in self.each.items():
            asked, share = len(self.prompts[HOPED]), forecast.whose[forecast.verdict]
            low, high = wilson(round(share * asked), asked)
            rows[how] = {"verdict": as_whom(len(called))[forecast.verdict], "share": share, "low": low, "high": high}
            rows[how] |= {"score": forecast.score, "hidden": forecast.hidden}
            rows[how] |= {f"keeps {name}": kept for name, kept in zip(called, forecast.kept, strict=True)}
            rows[how] |= {f"scale {name}": scale for name, scale in zip(called, forecast.own_scale, strict=True)}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("composition")

    def numbers(self) -> dict[str, Any]:
        """Everything that was measured, token by token, as JSON values."""
        return numbers(self.measured, self.each, self.prompts)

    def __repr__(self) -> str:
        return text(self.measured, self.each, self.names)


def forecast(
    base: Base,
    adapters: Sequence[Adapter],
    prompts: Prompts,
    compositions: Sequence[str | Adapter] = COMPOSITIONS,
    max_new_tokens: int = 96,
) -> Forecasts:
    """What should one do with two adapters or more? No answer needs to be known.

    For each composition it is read from the probabilities of its own answers, token by token, whether they take a
    token from each adapter that the others do not say, or a token that none says alone; of three adapters or more,
    whether an answer changes when the same rule leaves out one of them. The decision is made of this and of how sure
    the answers are, with two coefficients that were fitted once, on another model.

    Args:
        base: the model of all adapters.
        adapters: two or more, called a, b, c, ... in their order, each with one ΔW.
        prompts: a list for each adapter, by its letter, and one more. `"a"` are prompts that the first adapter was made
            for, `"b"` those of the second, and `"hoped"` those that one hopes all together can answer. Six of each is
            what the validation has.
        compositions: rules by name, with their default dials, or what `compose` returned.
        max_new_tokens: where an answer is cut.

    Returns:
        The forecasts: printed, the report; `decision`, `verdicts`, `dataframe()` and `numbers()`.

    Raises:
        SettingError: fewer than two adapters, adapters of another base or of embeddings, a set without prompts, a rule
            that does not exist, a composition that is there twice, or of three adapters or more one that was learned.

    Examples:
        >>> prompts = {"a": ["Where does Ann live?"], "b": ["Who is Bo?"], "hoped": ["Where does the boss of Bo live?"]}
        >>> said = lr.forecast(base, [a, b], prompts, ["uniform", lr.compose([a, b], "ties")], max_new_tokens=5)
        >>> list(said.verdicts)
        ['uniform', 'ties of a, b']
        >>> print(said)
        a = a, b = b
        ...
        >>> said.decision.action
        'train a bridge'

    Source: Theorem 2 of the paper; how good forecasts are is measured in `lora_reuse.llm.forecast.validate`.
    """
    if not 2 <= len(adapters) <= MOST:
        raise SettingError("adapters", len(adapters), f"two adapters, a and b, or more, {MOST} at most")
    check_base(base, *adapters, *compositions)
    _check_prompts(prompts, letters(len(adapters)))
    how = {one if isinstance(one, str) else one.name: one for one in compositions}
    if len(how) < len(compositions):  # the same rule at two values of a dial
        how = {one if isinstance(one, str) else one.source[0]: one for one in compositions}
    if len(how) < len(compositions):
        raise SettingError("compositions", ", ".join(how), "each composition once")
    made = {
        name: None if one == "base" else compose(adapters, one) if isinstance(one, str) else one
        for name, one in how.items()
    }
    library = [adapter.experts() for adapter in adapters]
    rules = (
        {name: None if one is None else _rule(one, adapters) for name, one in made.items()} if len(library) > 2 else {}
    )
    return forecasts(base, library, [adapter.name for adapter in adapters], made, prompts, max_new_tokens, rules)


def _rule(composed: Adapter, adapters: Sequence[Adapter]) -> tuple[str, Mapping[str, Any]]:
    """The rule and the dials of a composition of these adapters. Raises SettingError for what is none, or was
    learned."""
    card = composed.card
    if card.rule not in (*WORDS, *GIVEN) or card.experts != sources(adapters):
        allowed = f"a rule, or what compose made of {', '.join(adapter.name for adapter in adapters)}"
        mend = "of three adapters or more the same rule composes all but one, too"
        raise SettingError("compositions", composed.name, allowed, mend)
    return card.rule.partition(":")[0], card.dials


def forecasts(
    base: Base,
    library: Sequence[Expert],
    names: Sequence[str],
    made: Mapping[str, Composition | None],
    prompts: Prompts,
    longest: int,
    rules: Mapping[str, tuple[str, Mapping[str, Any]] | None],
) -> Forecasts:
    """`forecast` for compositions by name. Of three adapters or more `rules` has the rule and the dials of each, None
    for the base, to leave out one adapter. Raises SettingError for adapters of different bases, and for those of
    embeddings, whose inputs are tokens and no directions."""
    library = [dict(expert) for expert in complete(library)]
    if other := next((name for name in library[0] if linear_shape(base.model.get_submodule(name)) is None), ""):
        raise SettingError(
            "library", f"adapters of {other}", "adapters of linear modules: a forecast reads their inputs"
        )
    without = {how: left_out(library, *rule) if rule else [None] * len(library) for how, rule in rules.items()}
    measured = measure(base, library, made, prompts, longest, without)
    return Forecasts(names, measured, {how: verdict(found) for how, found in measured.composed.items()}, prompts)


def _check_prompts(prompts: Prompts, called: Sequence[str]) -> None:
    """Raises SettingError for sets that are not the adapters' and hoped, or have no list of prompts."""
    sets = (*called, HOPED)
    for name in prompts:
        if name not in sets:
            raise SettingError("prompts", repr(name), " | ".join(sets), did_you_mean(name, sets))
    for name in sets:
        if not prompts.get(name) or isinstance(prompts[name], str):
            raise SettingError("prompts", f"no list of prompts {name!r}", f"prompts for {', '.join(called)}, and hoped")
