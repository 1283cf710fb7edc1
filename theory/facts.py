"""Entities, relations and edited facts (section 3.1), and the prompts that ask for them.

Entity i is token i; relation j is token |X| + j. A relation is a partial function on entities; its range is all of X,
shared with every other relation, as the paper insists."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index

import numpy as np
from jaxtyping import Int

from lora_reuse.runs.settings import SettingError

Prompt = tuple[int, ...]
Prompts = Sequence[Prompt] | Sequence[str]
"""Token sequences, or the same in words."""
UNDEFINED = -1

# The six entities of an edit, in the order they are drawn: x, the new answers y and z, and the old answers.
ROLES = ("x", "y", "z", "r1x", "r2y", "r2r1x")


def tokenised(prompts: Prompts) -> list[Prompt]:
    """The prompts as token sequences: words are numbered in order of appearance.

    Raises SettingError when there is no prompt, an empty one, or one of another kind.

    Examples:
        >>> tokenised(["x r1", "y r2", "x r1 r2"])
        [(0, 1), (2, 3), (0, 1, 3)]
    """
    number: dict[str, int] = {}

    def tokens(prompt: Prompt | str) -> Prompt:
        words = isinstance(prompt, str)
        return tuple(number.setdefault(w, len(number)) for w in prompt.split()) if words else tuple(map(index, prompt))

    try:
        numbered = [] if isinstance(prompts, str) else [tokens(prompt) for prompt in prompts]
    except TypeError:
        numbered = []
    mixed = number and not all(isinstance(prompt, str) for prompt in prompts)
    if not numbered or not all(numbered) or mixed or min(map(min, numbered)) < 0:
        allowed = "a list of prompts of at least one token, all in words or all in whole numbers from 0"
        raise SettingError("prompts", repr(prompts), allowed)
    return numbered


@dataclass(frozen=True)
class Edits:
    """n edited pairs of facts: r̃₁(x) = y and r̃₂(y) = z, in place of r₁(x) and r₂(y); the composed answer changes from
    r₂(r₁(x)) to z."""

    x: Int[np.ndarray, " edits"]
    y: Int[np.ndarray, " edits"]
    z: Int[np.ndarray, " edits"]
    r1x: Int[np.ndarray, " edits"]
    r2y: Int[np.ndarray, " edits"]
    r2r1x: Int[np.ndarray, " edits"]


@dataclass(frozen=True)
class World:
    """|X| entities, |R| relations as a table (`answers[r, x]` = r(x), UNDEFINED where r is not defined), and the edits
    of r₁ and r₂."""

    answers: Int[np.ndarray, "relations entities"]
    edits: Edits

    @property
    def entities(self) -> int:
        return self.answers.shape[1]

    @property
    def relations(self) -> int:
        return self.answers.shape[0]

    def one_hop(self, x: int, r: int) -> Prompt:
        """The prompt `x r`."""
        return (x, self.entities + r)

    def two_hop(self, x: int, r1: int, r2: int) -> Prompt:
        """The prompt `x r1 r2`, which asks for r₂(r₁(x))."""
        return (x, self.entities + r1, self.entities + r2)

    def known(self) -> tuple[list[Prompt], Int[np.ndarray, " prompts"]]:
        """Every one-hop and two-hop prompt that has an answer, and the answers before any edit."""
        prompts: list[Prompt] = []
        answers: list[int] = []
        for r1 in range(self.relations):
            for x in range(self.entities):
                if (y := int(self.answers[r1, x])) != UNDEFINED:
                    prompts.append(self.one_hop(x, r1))
                    answers.append(y)
                    for r2 in range(self.relations):
                        if (z := int(self.answers[r2, y])) != UNDEFINED:
                            prompts.append(self.two_hop(x, r1, r2))
                            answers.append(z)
        return prompts, np.array(answers, dtype=int)


def draw_world(
    seed: int | Sequence[int],
    *,
    entities: int,
    relations: int = 2,
    defined: float = 1.0,
    edits: int = 1,
    coincide: Sequence[tuple[str, str]] = (),
    forbid: Sequence[tuple[str, str]] | None = None,
) -> World:
    """Draws a world: every relation maps each entity, with probability `defined`, to an entity drawn uniformly from all
    of X.

    `coincide` lists equalities among ROLES that every edit must have, as ("r2y", "r2r1x"); ("y", "r1x") brings ("r2y",
    "r2r1x") with it, since r₂ is a function. `forbid` lists those that none may have; None forbids every one not asked
    for, in an edit and between edits: the x, y and z of all edits are distinct and no old answer equals another entity
    of any edit. `forbid=()` leaves all else to chance. Raises SettingError when the entities do not suffice or the
    wishes contradict each other."""
    if relations < 2:
        raise SettingError("relations", relations, "at least 2: r1 and r2 are edited")
    if not 0 <= defined <= 1:
        raise SettingError("defined", defined, "a probability, 0 to 1")
    if edits > entities:
        raise SettingError("edits", edits, f"at most {entities}, the number of entities", "raise entities=")
    classes = coincidence_classes(coincide)
    _refuse_contradictions(classes, forbid)
    groups = len(set(classes.values()))
    if forbid is None and edits * groups > entities:
        raise SettingError(
            "edits",
            edits,
            f"at most {entities // groups} with {entities} entities ({groups} distinct ones an edit)",
            "raise entities=",
        )
    generator = np.random.default_rng(seed)
    for _ in range(1000):
        answers = generator.integers(entities, size=(relations, entities))
        answers[generator.random(answers.shape) >= defined] = UNDEFINED
        roles = _draw_roles(generator, classes, answers, edits, distinct=forbid is None)
        _plant(answers, roles)
        drawn = Edits(**roles)
        if _holds(answers, drawn, coincide, forbid or ()):
            return World(answers, drawn)
    raise SettingError(
        "edits", edits, "edits that the wished coincidences leave room for", "raise entities= or forbid less"
    )


def coincidence_classes(coincide: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The representative of each role once the asked equalities hold. Raises SettingError for roles that are none, and
    for x = y = z."""
    classes = {role: role for role in ROLES}

    def join(a: str, b: str) -> None:
        keep, gone = sorted((classes[a], classes[b]), key=ROLES.index)
        classes.update({role: keep for role, c in classes.items() if c == gone})

    for pair in coincide:
        for role in pair:
            if role not in ROLES:
                raise SettingError("coincide", role, ", ".join(ROLES))
        join(*pair)
    if classes["y"] == classes["r1x"]:
        join("r2y", "r2r1x")
    if classes["x"] == classes["y"] and classes["x"] == classes["z"]:
        raise SettingError("coincide", "x = y = z", "edits in which x, y and z are at least two entities")
    return classes


def _refuse_contradictions(classes: dict[str, str], forbid: Sequence[tuple[str, str]] | None) -> None:
    for a, b in forbid or ():
        for role in (a, b):
            if role not in ROLES:
                raise SettingError("forbid", role, ", ".join(ROLES))
        if classes[a] == classes[b]:
            raise SettingError("forbid", f"{a}={b}, which coincide= asks for", "what is not asked for")


def _draw_roles(
    generator: np.random.Generator,
    classes: dict[str, str],
    answers: Int[np.ndarray, "relations entities"],
    edits: int,
    distinct: bool,
) -> dict[str, Int[np.ndarray, " edits"]]:
    entities = answers.shape[1]
    names = sorted(set(classes.values()), key=ROLES.index)
    if distinct:
        deck = generator.permutation(entities)[: edits * len(names)].reshape(len(names), edits)
        drawn = dict(zip(names, deck, strict=True))
    else:
        # x and y are the keys of the edited facts, so each edit has its own; all else falls as it may.
        drawn = {name: generator.permutation(entities)[:edits] for name in names}
        drawn |= {name: generator.integers(entities, size=edits) for name in names if name not in ("x", "y")}
    return {role: drawn[classes[role]] for role in ROLES}


def _plant(answers: Int[np.ndarray, "relations entities"], roles: dict[str, Int[np.ndarray, " edits"]]) -> None:
    answers[0, roles["x"]] = roles["r1x"]
    answers[1, roles["y"]] = roles["r2y"]
    answers[1, roles["r1x"]] = roles["r2r1x"]


def _holds(
    answers: Int[np.ndarray, "relations entities"],
    edits: Edits,
    coincide: Sequence[tuple[str, str]],
    forbid: Sequence[tuple[str, str]],
) -> bool:
    """Whether the table says what the edits say of it, and every wish is met."""
    consistent = (
        np.array_equal(answers[0, edits.x], edits.r1x)
        and np.array_equal(answers[1, edits.y], edits.r2y)
        and np.array_equal(answers[1, edits.r1x], edits.r2r1x)
    )
    asked = all(np.array_equal(getattr(edits, a), getattr(edits, b)) for a, b in coincide)
    return consistent and asked and not any((getattr(edits, a) == getattr(edits, b)).any() for a, b in forbid)
