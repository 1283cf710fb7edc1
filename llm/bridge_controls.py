"""lora-reuse bridge_controls model=Qwen/Qwen2.5-3B-Instruct condition=bridge,shuffled prompting=steps

Which part of a bridge lets experts compose step by step? Setup 2 of `llm.bridge` with one thing changed, and what one
part of it does alone. A condition each:

    bridge           setup 2 as it is
    shuffled         every step-by-step answer of the bridge ends in another triplet's place, whatever its steps
                     say: its form without its logic
    asked_triplets   the bridge is of the triplets that are asked, answers and all: the most that a bridge can do
    asked_people     the bridge is of the asked triplets and two other relations, child of and studies in: the
                     person in between stands in its steps, the asked facts do not
    first_given      the first hop's statement stands before the question, so that the second hop is what is left
                     to find
    both_given       both hops' statements stand before it, so that nothing is left but to join them
    expert_1, expert_2   one expert of setup 2 alone

condition=both_given composition=base is what the base could do with both facts, and trains nothing. Where the place
that is right is the only one in the question, copying it is right, too: beside=3 puts the statements of three other
triplets there, and copying is right once in four. Statements are in the held-out templates, in those that step-by-step
answers would use. Without a model, the pocket model answers."""

import dataclasses
import random
import sys
from dataclasses import dataclass

from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.mixtures import BRIDGE, SETUPS
from lora_reuse.llm.data.subsets import SHUFFLED, examples, step_by_step
from lora_reuse.llm.protocols.controls import Control, own_hops
from lora_reuse.llm.protocols.dials import COMPOSITIONS, CONTROLS, LEARNED, RULES
from lora_reuse.llm.protocols.hops import asked, hop_protocol, question
from lora_reuse.llm.protocols.protocol import Question, main
from lora_reuse.llm.protocols.settings import PROMPTINGS, Composed
from lora_reuse.runs.settings import Choice, SettingError, Whole, setting

DATASET = SETUPS["2"].asked
BRIDGES = {
    "shuffled": tuple(SETUPS["2"].bridge + kind for kind in (*BRIDGE[:2], SHUFFLED)),
    "asked_triplets": tuple(DATASET + kind for kind in BRIDGE),
    "asked_people": tuple(DATASET + kind for kind in ("5", "4", "54-CoT")),
}
"""The bridges that are not setup 2's."""
GIVEN = {"first_given": "1", "both_given": "12"}
"""The hops that are stated before the question."""
ALONE = {"expert_1": 1, "expert_2": 2}
CONDITIONS = ("bridge", *BRIDGES, *GIVEN, *ALONE)


@dataclass(frozen=True)
class BridgeControls(Composed):
    """Setup 2 of Table 1 with one thing changed."""

    bridge_triplets: int = setting(
        100, Whole(2, 100), "triplets of the bridge, as many as are asked where they are those; pocket and smollm2: 20"
    )
    condition: str = setting("bridge", Choice(*CONDITIONS), "what is changed", grid=CONDITIONS)
    beside: int = setting(
        0, Whole(0, 99), "first_given, both_given: other triplets whose statements stand before the question, too"
    )
    composition: str = setting(
        "arrow",
        Choice(*COMPOSITIONS, *CONTROLS, *RULES, *LEARNED),
        "how the library is composed",
        grid=(*COMPOSITIONS, "base"),
    )
    prompting: str = setting(
        "steps", Choice(*PROMPTINGS), "what is asked; first and second are the experts' own", grid=PROMPTINGS
    )

    def __post_init__(self) -> None:
        """Raises SettingError for more other triplets than there are."""
        super().__post_init__()
        if self.beside >= self.triplets:
            raise SettingError("beside", f"{self.beside} with triplets={self.triplets}", f"at most {self.triplets - 1}")


def library(point: BridgeControls) -> list[tuple[tuple[str, ...], tuple[str, ...], int]]:
    """The point's experts, those of setup 2 as `llm.bridge` has them, so that they are trained once."""
    bridge = BRIDGES.get(point.condition, SETUPS["2"].subsets(1)[1:])
    roles = (ALONE[point.condition],) if point.condition in ALONE else (1, 2)
    return [((f"{DATASET}{role}",), bridge, role) for role in roles]


def sensible(point: BridgeControls) -> BridgeControls | None:
    """The base has no bridge and no expert; one expert is not composed, and is asked its own hop; what is given is
    given to two-hop questions."""
    given = point.condition in GIVEN
    if given and point.prompting not in ("direct", "steps"):
        return None
    if not given:
        point = dataclasses.replace(point, beside=0)
    if point.condition in ALONE and point.prompting == {"expert_1": "second", "expert_2": "first"}[point.condition]:
        return None
    if point.composition == "base":
        return point if given else dataclasses.replace(point, condition="bridge")
    if point.condition in ("asked_triplets", "asked_people"):
        return dataclasses.replace(point, bridge_triplets=point.triplets)
    return dataclasses.replace(point, composition="alone") if point.condition in ALONE else point


def controls(point: BridgeControls) -> tuple[Control, ...]:
    """The own hops of the experts that are there, under the same composition; those of questions with something given
    are asked without it."""
    found = own_hops(point)
    if point.condition in ALONE:
        found = found[ALONE[point.condition] - 1 :][:1]
    bare = {"condition": "bridge", "beside": 0} if point.condition in GIVEN else {}
    return tuple(control._replace(settings={**control.settings, **bare}) for control in found)


def questions(point: BridgeControls, seed: int) -> list[Question]:
    """The held-out questions, with the statements that are given before them. The triplets of the statements stand in
    an order drawn for each question, the hops of a triplet in theirs."""
    found = asked(DATASET + "12", point, seed, point.prompting)
    if point.condition not in GIVEN:
        return found
    facts = triplets(DATASET, seed)[: point.triplets]
    hops = [
        {(e.triplet, e.template): e.answer for e in examples(DATASET + hop, facts, point.split)}
        for hop in GIVEN[point.condition]
    ]
    head = step_by_step("") if point.prompting == "steps" else ""
    made = []
    for e, way, subset in (q.reference for q in found):
        draw = random.Random(f"beside {seed} {e.triplet} {e.template}")
        told = [e.triplet, *draw.sample([i for i in range(len(facts)) if i != e.triplet], point.beside)]
        draw.shuffle(told)
        statements = " ".join(hop[i, e.template] for i in told for hop in hops)
        given = e._replace(question=f"{head}{statements} {e.question.removeprefix(head)}")
        made.append(question(given, way, subset))
    return made


PROTOCOL = hop_protocol(
    __name__,
    BridgeControls,
    lambda point: DATASET + "12",
    library,
    sensible=sensible,
    controls=controls,
    questions=questions,
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
