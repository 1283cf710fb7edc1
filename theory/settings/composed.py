"""Settings of the experiments on composed experts."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, make_dataclass, replace
from typing import Any

from lora_reuse.runs.dials import Dial, axes, axis, declared, every, refuse_names
from lora_reuse.runs.settings import Choice, Number, SettingError, Text, Whole, setting, short
from lora_reuse.theory.settings.base import INF, LARGEST_BASIS_WIDTH, Model, at_least, one_block, own_attention

RULES = declared("lora_reuse.theory.compositions", "rule")
ROLE_PAIR = r"(x|y|z|r1x|r2y|r2r1x)=(x|y|z|r1x|r2y|r2r1x)"
_FIRST = ("sum", "average", "linear", "uniform", "cat", "arrow", "arrow_after", "ties", "dare", "knots", "lorahub")
_PAPER = ("sum", "average", "uniform", "arrow")
_ASKED = (*_FIRST, "random", "oracle")
COMPOSITIONS = tuple(dict.fromkeys((*_ASKED, *RULES)))
"""Every rule, in the order of figures and tables; those after the oracle are asked when they are named."""
DIALS = every(RULES)
NAMED = ("gauge", "scores", "temperature", "top_k", "fit", "density")
"""The dials that every row names; a row leaves out any other at its default."""


def settled(points: Sequence[Any], named: Mapping[str, tuple]) -> list[Any]:
    """The points, each with the dials that its rule does not read at their defaults, where a row can leave them out.
    Raises SettingError for a named dial that no point reads."""
    for f in (f for f in fields(points[0]) if f.metadata["rules"]):
        rules = f.metadata["rules"]
        if f.name in named and not any(point.composition in rules for point in points):
            allowed = f"no {f.name}= but with composition={','.join(rules)}"
            raise SettingError(f.name, ",".join(map(short, named[f.name])), allowed)
        if f.metadata["omitted"]:
            points = [p if p.composition in rules else replace(p, **{f.name: f.default}) for p in points]
    return list(dict.fromkeys(points))


def wide_enough(model: Model, width: int) -> None:
    """Refuses a width at which the keys of an expert may vanish or be linearly dependent."""
    if model.width < width:
        raise SettingError(
            "width", model.width, f"at least {width}, so that no expert's keys vanish or depend on each other, or inf"
        )


@dataclass(frozen=True)
class ManyEdits(Model):
    """Two experts of n facts each, and the prompts of `library.draw_scene`."""

    facts: int = setting(4, Whole(1, 64), "n, edited facts a relation", grid=(1, 2, 4, 8, 16, 32))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim == 1:
            raise SettingError("dim", 1, "at least 2, since hidden states of one number differ in sign alone, or inf")
        wide_enough(self, 32 + 4 * self.facts)
        if self.dim < self.facts:
            from lora_reuse.theory.activations import ACTIVATIONS  # here, so that --help needs no numpy

            if (most := int(ACTIVATIONS[self.activation].rank(self.dim))) < self.facts:
                why = f"what features of activation={self.activation} hold at dim={self.dim}"
                raise SettingError("facts", self.facts, f"at most {most}, {why}", "or another activation")

    def prompts_and_rank(self) -> tuple[int, int]:
        prompts = 5 * self.facts + 1
        return prompts, min(prompts, 4 * self.facts + 8)


@dataclass(frozen=True)
class Theorem2(Model):
    """experiment=theorem_2: the sum of two experts of one fact each on the two-hop prompt, under coincidences of the
    facts."""

    coincide: str = setting(
        "none",
        Text(
            "none, or equalities of x, y, z, r1x, r2y, r2r1x joined by +, as y=r1x+x=z",
            rf"none|{ROLE_PAIR}(\+{ROLE_PAIR})*",
        ),
        "entities of the edits that are the same; all others differ",
    )
    composition: str = setting("sum", Choice("sum"), "the theorem is about the sum")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 6)
        wide_enough(self, 32)
        from lora_reuse.theory.facts import coincidence_classes  # here, so that --help needs no numpy

        coincidence_classes(self.coincidences())

    def coincidences(self) -> list[tuple[str, str]]:
        """The asked equalities as pairs of roles."""
        pairs = [pair.partition("=") for pair in self.coincide.split("+")]
        return [(one, other) for one, equals, other in pairs if equals]

    def prompts_and_rank(self) -> tuple[int, int]:
        return 6, 6

    def as_theorem_3(self) -> "Theorem3":
        """The same setting with the rule `sum`."""
        return Theorem3(**vars(self))


RuleDials = axes("RuleDials", "Of the rule.", DIALS, ("weights",), DIALS.keys() - NAMED)
"""What a point says of its rule. `weight_first` and `weight_second` say `weights`."""


@dataclass(frozen=True)
class Theorem3(RuleDials, Theorem2):
    """experiment=theorem_3: every composition rule on two experts of one fact each."""

    composition: str = setting("sum", Choice(*COMPOSITIONS), "the rule", grid=_ASKED)
    weight_first: float = setting(1.0, Number(-1e6, 1e6), "of the first expert", rules=DIALS["weights"][1])
    weight_second: float = setting(1.0, Number(-1e6, 1e6), "of the second", rules=DIALS["weights"][1])
    data: str = setting(
        "two_hop", Choice("two_hop", "held_out", "one_hop"), "cat, lorahub: the examples the weights are fitted on"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.promises.get("basis_free", True) and self.adapted == "all":
            allowed = "a rule of inner products alone beside adapted=all, whose features are gradients"
            raise SettingError("composition", self.composition, allowed)
        if not self.promises.get("basis_free", True) and LARGEST_BASIS_WIDTH < self.width < INF:
            allowed = f"up to {LARGEST_BASIS_WIDTH}, or inf, for a rule that looks at single weights"
            raise SettingError("width", f"{self.width} with composition={self.composition}", allowed)

    def random(self) -> bool:
        """Whether the rule itself draws random numbers, from the row's seed."""
        return self.promises.get("draws", False) or self.gauge == "random"

    @property
    def promises(self) -> Mapping[str, Any]:
        """What the rule says of itself when it is registered."""
        return RULES[self.composition].promises if self.composition in RULES else {}

    @property
    def weights(self) -> tuple[float, float] | None:
        """One an expert; none where both are 1, as they are unless given."""
        weights = self.weight_first, self.weight_second
        return None if weights == (1, 1) else weights


@dataclass(frozen=True)
class ManyFacts(ManyEdits, Theorem3):
    """experiment=many_facts: two experts of n facts each; `best` searches all weights of eq. 26 for the most right
    answers."""

    coincide: str = setting("none", Choice("none"), "many facts have all entities distinct")
    composition: str = setting(
        "sum",
        Choice(*COMPOSITIONS, "best"),
        "the rule, or the best weights whatever",
        grid=("sum", "cat", "arrow", "oracle", "best"),
    )


def of_rule(name: str, dials: Mapping[str, Dial], promises: Mapping[str, Any]) -> type[Theorem3]:
    """Theorem 3's settings for one rule, which need not be in a file of the package: its dials are settings too."""
    own = [("composition", str, setting(name, Choice(name), "the rule"))]
    own += [(dial, Any, axis(it, [name])) for dial, it in dials.items()]
    return make_dataclass("OfRule", own, bases=(Theorem3,), frozen=True, namespace={"promises": promises})


SETTINGS = {"seed", *(name for cls in (Model, Theorem2, Theorem3, ManyEdits) for name in inspect.get_annotations(cls))}
"""What no dial may be called: the settings that a row has beside those of its rule."""
for _name, _rule in RULES.items():
    refuse_names(f"{_name} ({_rule.place})", _rule.dials, SETTINGS)


@dataclass(frozen=True)
class Scale(ManyEdits):
    """experiment=scale: one expert, or both, scaled by w: where one-hop and two-hop answers flip."""

    scale: float = setting(1.0, Number(0.0, 100.0), "w", grid=(0.0, 0.25, 0.45, 0.5, 0.55, 0.75, 1.0, 1.5, 2.0, 3.0))
    facts: int = setting(4, Whole(1, 64), "n, edited facts a relation", grid=(1, 4))
    experts: int = setting(2, Whole(1, 2), "1: each expert alone on its own prompts; 2: both together", grid=(1, 2))


@dataclass(frozen=True)
class Specificity(Model):
    """experiment=specificity: what a composition does to facts that were not edited, and whether the order of relations
    is seen."""

    composition: str = setting("sum", Choice(*_PAPER, "arrow_after"), "the rule", grid=_PAPER)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_block(self)
        at_least(self, 8)
        wide_enough(self, 32)

    def prompts_and_rank(self) -> tuple[int, int]:
        return 8, 8


@dataclass(frozen=True)
class Storage(Model):
    """experiment=storage: the linear model of Nichani et al. against ReLU features when relations share their range
    (A.1.2)."""

    activation: str = setting(
        "relu", Choice("relu", "linear"), "the MLP's nonlinearity, or none", grid=("relu", "linear")
    )
    share: str = setting(
        "shared",
        Choice("shared", "disjoint"),
        "relations map into all entities, or each into its own part",
        grid=("shared", "disjoint"),
    )
    width: int | float = setting(
        4096,
        Whole(1, 2**14, infinite=True),
        "hidden units m of the MLP; inf is the arc-cosine kernel",
        grid=(24, 48, 72, 96, 4096),
    )
    entities: int = setting(24, Whole(4, 128), "|X|")
    relations: int = setting(3, Whole(2, 8), "|R|")

    def __post_init__(self) -> None:
        super().__post_init__()
        one_block(self)
        if self.share == "disjoint" and self.entities < self.relations:
            raise SettingError(
                "entities", self.entities, f"at least {self.relations} with share=disjoint, one a relation"
            )

    def prompts_and_rank(self) -> tuple[int, int]:
        return self.entities * self.relations, min(self.entities * self.relations, self.entities + self.relations)


@dataclass(frozen=True)
class LargeLibrary(Model):
    """experiment=large_library: five relations and five of their compositions as ten experts, asked a held-out
    composition (A.3)."""

    composition: str = setting("sum", Choice(*_PAPER, "arrow_after"), "the rule", grid=_PAPER)
    graph: str = setting(
        "disjoint",
        Choice("disjoint", "shared"),
        "each relation has entities of its own, or all share them",
        grid=("disjoint", "shared"),
    )
    facts: int = setting(8, Whole(1, 32), "facts a relation")

    def __post_init__(self) -> None:
        super().__post_init__()
        one_block(self)
        wide_enough(self, 32 + 4 * self.facts)
        if self.dim <= self.facts:
            raise SettingError(
                "dim", self.dim, f"at least {self.facts + 1}, more than the facts an expert stores, or inf"
            )
        if self.graph == "shared" and self.facts == 1:
            raise SettingError(
                "facts", "1 with graph=shared", "2 to 32 there: a pool of one entity has one answer to everything"
            )

    def prompts_and_rank(self) -> tuple[int, int]:
        entities = 10 if self.graph == "disjoint" else 2
        return 11 * self.facts, min(11 * self.facts, entities * self.facts + 8)


@dataclass(frozen=True)
class Bridge(Model):
    """experiment=bridge: step-by-step prompts, attention of share `locality` on the current segment; when does the
    second hop succeed?"""

    composition: str = setting("sum", Choice(*_PAPER, "arrow_after"), "the rule", grid=("sum", "average", "arrow"))
    locality: float = setting(
        0.5, Number(0.0, 1.0), "share of attention on the current segment", grid=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    )
    facts: int = setting(8, Whole(1, 32), "n, edited facts a relation", grid=(1, 8))
    filler: int = setting(0, Whole(0, 64), "tokens of no meaning before each restated question, as longer prompts have")
    setup: int = setting(
        0, Whole(0, 8), "what the experts were trained on besides their facts: a row of the paper's Table 1"
    )
    scores: str = axis(*DIALS["scores"])

    def __post_init__(self) -> None:
        super().__post_init__()
        wide_enough(self, 32 + 16 * self.facts)
        own_attention(self, "the locality is the attention here", "mask")
        if self.setup == 1:
            raise SettingError("setup", 1, "0 or 2 to 8: the paper's Table 1 has no row 1")
        if self.setup in (4, 5) and self.composition in ("uniform", "arrow"):
            got = f"{self.setup} with composition={self.composition}"
            raise SettingError(
                "setup", got, "experts of one rank, because eq. 27 and 28 add their factors", "take composition=sum"
            )

    def local_share(self) -> float:
        return self.locality

    def prompts_and_rank(self) -> tuple[int, int]:
        stored, chains = {0: (0, 0), 3: (3, 1), 6: (2, 1), 8: (8, 2)}.get(self.setup, (4, 1))
        prompts = (6 + stored) * self.facts
        return prompts, min(prompts, (3 + 2 * chains) * self.facts + 9)
