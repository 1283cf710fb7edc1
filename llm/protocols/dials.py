"""The rules of `llm.compositions` and `llm.learned`, the kinds of `llm.adapters.kinds`, and their dials, as their
modules declare them. They are read from the source, so that `--help` needs no torch."""

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from lora_reuse.llm.adapters.places import by_layers
from lora_reuse.runs.dials import Dial, axes, check, declared, every, refuse_names
from lora_reuse.runs.settings import Number, SettingError, Whole, did_you_mean, setting, short

GIVEN = declared("lora_reuse.llm.compositions", "rule")
TO_LEARN = declared("lora_reuse.llm.learned", "learned")
ADAPTERS = declared("lora_reuse.llm.adapters.kinds", "adapter")
SOURCES = ("two_hop", "own")
"""What a composition learns from: the two-hop questions in the dev templates, or a share of the experts' own training
examples (`learn_share`, a twentieth unless it is given)."""
LEARNED = tuple(f"{name}:{source}" for name in TO_LEARN for source in SOURCES)
COMPOSITIONS = ("uniform", "average", "sum", "arrow", "arrow_after")
"""What most commands ask when no composition is named."""
CONTROLS = (
    "base",
    "random",
    *(f"{name}:{word}" for name, it in GIVEN.items() if "prototypes" in it.dials for word in ("swapped", "random")),
)
WORDS = (*GIVEN, *(word for word in CONTROLS if ":" in word))
"""Every composition that learns nothing."""
RULES = tuple(name for name in GIVEN if name not in (*COMPOSITIONS, *CONTROLS))
"""Those of them that are asked when they are named."""


def read_by(composition: str) -> dict[str, Dial]:
    """The dials of a composition: those of its rule, without `prototypes` where the word says them (`arrow:swapped`).
    The base and an expert alone have none."""
    name, _, word = composition.partition(":")
    rules = TO_LEARN if word in SOURCES else GIVEN
    found = rules[name].dials if name in rules else {}
    return {dial: it for dial, it in found.items() if dial not in said_by(composition)}


def said_by(composition: str) -> dict[str, str]:
    """The dial that the word of a composition says itself."""
    _, _, word = composition.partition(":")
    return {"prototypes": word} if word and word not in SOURCES else {}


EVERY = every(GIVEN, TO_LEARN)
TRAINED = every(ADAPTERS)
Dials = axes("Dials", "Of the rule; a dial that it does not have is refused.", EVERY)
TrainingDials = axes("TrainingDials", "Of the kind of adapter.", TRAINED, omitted=TRAINED)
PointDials = axes("PointDials", "Of the rule.", EVERY, ("seed", "scores", "prototypes"), omitted=EVERY)
"""What a point says of its rule. Its seed is that of the row, `normalise` says `scores`, and `arrow:swapped` says
`prototypes`. A row leaves out a dial at its default, and has all values with its provenance."""
NAMED = ("temperature", "top_k")
"""The dials that every row names: they stand among the settings (`llm.protocols.settings.Composing`)."""


def refuse_settings(points: type, options: type) -> None:
    """Raises SettingError for a dial of a rule or of a kind of adapter with the name of a setting of these points or
    options: a point has one value for both, and the experts of every rule would be trained with the dial's."""
    for dials, known in ((PointDials, GIVEN), (PointDials, TO_LEARN), (TrainingDials, ADAPTERS)):
        others = [cls for cls in (*points.__mro__, *options.__mro__) if cls is not dials]
        taken = {name for cls in others for name in inspect.get_annotations(cls)} - {*NAMED}
        for name, it in known.items():
            if issubclass(points, dials) and it.place:  # the dials of a file of one's own are not in its points
                refuse_names(f"{name} ({it.place})", it.dials, taken)


@dataclass(frozen=True)
class Learning:
    """How a composition learns."""

    learn_rate: float = setting(0.0, Number(0, 1), "learned compositions: Adam's rate; 0: the rule's own")
    learn_steps: int = setting(100, Whole(1, 10**7), "learned compositions: batches of batch= examples")
    learn_tries: int = setting(40, Whole(1, 10**6), "lorahub: how often its search may look")


@dataclass(frozen=True)
class LearningOwn(Learning):
    """How a composition learns, and how much of the experts' own data."""

    learn_share: float = setting(
        0.05,
        Number(1e-6, 1),
        "learned from :own data: the share of each expert's training examples, a twentieth as in LoRA Soups",
        omitted=True,
    )


IN_ROWS = frozenset({"normalise", "scale"}).union(
    f.name for cls in (PointDials, LearningOwn) for f in dataclasses.fields(cls)
)
"""The settings of a row that say how its rule composes and nothing else."""


def reads(composition: str) -> Set[str]:
    """Those of `IN_ROWS` that a composition reads. One that is not here, as of a file of one's own, may read any; the
    base and an expert alone, which is asked as it was trained, read none."""
    name, _, word = composition.partition(":")
    if name in ("base", "alone"):
        return frozenset()
    if name not in {*GIVEN, *TO_LEARN}:
        return IN_ROWS
    found = {"scale", *("normalise" if dial == "scores" else dial for dial in read_by(composition))}
    return IN_ROWS & found | ({f.name for f in dataclasses.fields(LearningOwn)} if word in SOURCES else set())


def check_rule(name: str) -> None:
    """Raises SettingError for a rule that is none, or that learns from data, of which none is here."""
    words = dict.fromkeys((*WORDS, *GIVEN))  # one's own rules are not in the files that WORDS is read from
    if name in words:
        return
    allowed = " | ".join(words)
    if name.partition(":")[0] in TO_LEARN:
        mend = "`lora-reuse learn` learns it from examples, and the protocols from their own (NAME:SOURCE)"
        raise SettingError("composition", f"{name}, which learns from data", allowed, mend)
    raise SettingError("composition", repr(name), allowed, did_you_mean(name, [*words, *TO_LEARN]))


def made_with(compositions: Iterable[str], given: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """The dials of each composition by name: as given, else as the model's preset has them, else the rule's default.
    Raises SettingError for a given dial that no composition reads."""
    read = {how: read_by(how) for how in compositions}
    check(f"composition={','.join(read)}", {k: v for dials in read.values() for k, v in dials.items()}, given)
    return {
        how: said_by(how) | {name: given.get(name, preset.get(name, dial.default)) for name, dial in dials.items()}
        for how, dials in read.items()
    }


def of_point(point: Any, seed: int) -> dict[str, Any]:
    """The dials of a point's composition, as its rule takes them. Those of a rule of one's own file (NAME@DIGEST) have
    their own defaults: what the point has under their names are settings, and dials of other rules."""
    read = read_by(point.composition)
    if "@" in point.composition:
        return {name: seed if name == "seed" else dial.default for name, dial in read.items()}
    said = {"seed": seed, "scores": "cosine" if point.normalise else "raw", "prototypes": "own"}
    return {name: said[name] if name in said else getattr(point, name) for name in read} | said_by(point.composition)


def refuse_sizes(point: Any, experts: int) -> None:
    """Raises SettingError for a dial of the point's rule that does not fit a library of so many experts, as
    `lora_reuse.compose` does."""
    read = read_by(getattr(point, "composition", ""))
    if "top_k" in read and point.top_k > experts:
        raise SettingError("top_k", point.top_k, f"at most {experts}, the experts")
    if "general" in read and point.general >= experts:
        raise SettingError("general", point.general, f"fewer than the {experts} experts", "name the general ones last")
    given = point.weights if "weights" in read else None
    ranges, rest = by_layers(given) if isinstance(given, str) else ([], given)
    for weights in (*(each for _, each in ranges), rest):
        if weights and len(weights) != experts:
            got = f"{len(weights)} ({':'.join(map(short, weights))})"
            raise SettingError("weights", got, f"one for each of the {experts} experts, joined by : in a grid")


def settled(points: Iterable[Any], named: Mapping[str, tuple]) -> list[Any]:
    """The settled points, each once. Raises SettingError for a named dial that no point reads."""
    points = list(points)
    every = dict(item for point in points for item in _dials(point).items())
    read = {dial for point in points for dial in _read(point)}
    for name, values in named.items():
        dial = "scores" if name == "normalise" else name
        if dial in every and dial not in read:
            what = "adapter" if dial in TRAINED else "composition"
            allowed = f"no {name}= but with {what}={','.join(every[dial][1])}"
            raise SettingError(name, ",".join(map(short, values)), allowed)
    return list(dict.fromkeys(map(settle, points)))


def settle(point: Any) -> Any:
    """The point with what its composition and its kind of adapter do not read at its default, where a row can leave it
    out."""
    unread = (_dials(point).keys() - _read(point)) | (IN_ROWS - reads(getattr(point, "composition", "")))
    omitted = (f for f in dataclasses.fields(point) if f.metadata.get("omitted"))
    return dataclasses.replace(point, **{f.name: f.default for f in omitted if f.name in unread})


def _dials(point: Any) -> Mapping[str, tuple[Dial, list[str]]]:
    """All dials that such a point may have."""
    return (EVERY if isinstance(point, PointDials) else {}) | TRAINED


def _read(point: Any) -> Set[str]:
    """The dials of a point's rule and of the kind of adapter that it trains."""
    kind = ADAPTERS.get(getattr(point, "adapter", ""))
    return read_by(getattr(point, "composition", "")).keys() | (kind.dials.keys() if kind else set())
