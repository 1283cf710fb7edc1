"""lora-reuse chains hops=2,3,4 bridge=none,all

How long a chain can experts of one hop each answer together? Two to four experts know a relation each: whose best
friend, whose child, whose spouse, where one lives (llm/data/chains.py). Their composition is asked where the spouse of
the child of the best friend of A lives, directly or step by step; or shorter chains of the last of these relations. An
expert is the same in chains of every length. Beside each chain its single hops are asked under the same composition: a
chain counts as `known` if every hop is right in every wording, and what is said of composing is said of the known.

bridge=all gives every expert chains of so many hops of other people, beside their single facts, step by step.
library=joint is one expert on what all of them learn, and library=oracle one expert on the asked chains themselves:
the controls. Without a model, the pocket model answers.

Theory: asked directly, without a bridge, the right place is answered no more often than another of the n places."""

import dataclasses
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lora_reuse.llm.adapters.specs import Lessons, lessons
from lora_reuse.llm.data.chains import MOST, RELATIONS, Taught
from lora_reuse.llm.data.chains import asked as chains_asked
from lora_reuse.llm.data.subsets import ORDINALS
from lora_reuse.llm.protocols.bound import once_in_n
from lora_reuse.llm.protocols.controls import Control
from lora_reuse.llm.protocols.dials import COMPOSITIONS, RULES
from lora_reuse.llm.protocols.hops import everyone, everywhere, percent
from lora_reuse.llm.protocols.protocol import Marks, Protocol, Question, counted, main
from lora_reuse.llm.protocols.settings import Answered, Composing
from lora_reuse.llm.scoring.chance import by_chance
from lora_reuse.llm.scoring.two_hop import direct, named
from lora_reuse.runs.settings import Choice, SettingError, Whole, setting

STEP = re.compile(rf"(?:{'|'.join(ORDINALS)}), we need to answer the question:")
CONCLUSION = re.compile(r"Therefore, the answer is ([^\n]*)")


@dataclass(frozen=True)
class Chains(Answered, Composing):
    """The chains that are asked, the experts, and how they are composed."""

    POCKET: ClassVar = {"step_tokens": 256}
    """Four steps are as long as that."""

    triplets: int = setting(20, Whole(2, MOST), "chains that are asked, and so facts of each expert")
    hops: int = setting(2, Whole(2, len(RELATIONS)), "hops of a chain, and so experts", grid=(2, 3, 4))
    bridge: str = setting(
        "none",
        Choice("none", "all"),
        "the experts that have chains of other people, step by step",
        grid=("none", "all"),
    )
    bridge_triplets: int = setting(20, Whole(1, 50), "chains of the bridge")
    library: str = setting(
        "experts",
        Choice("none", "experts", "joint", "oracle"),
        "an expert a hop, one on all that they learn, or one on the asked chains",
        grid=("experts", "joint", "oracle"),
    )
    composition: str = setting(
        "arrow_after", Choice("base", "alone", *COMPOSITIONS, *RULES), "how the library is composed", grid=COMPOSITIONS
    )
    prompting: str = setting("direct", Choice("direct", "steps"), "how a chain is asked", grid=("direct", "steps"))

    def __post_init__(self) -> None:
        """Raises SettingError for a place of two experts."""
        if "/" in self.layers:
            raise SettingError("layers", self.layers, "one place for all experts")


def experts(point: Chains, seed: int) -> list[Lessons]:
    """The experts of the point's library. An expert has the same role in chains of every length."""
    single = tuple(str(hop + 1) for hop in range(point.hops))
    bridge = Taught((*single, "steps"), point.hops, point.bridge_triplets, seed, fake=True)
    own = {
        "experts": [((way,), len(RELATIONS) - point.hops + i + 1) for i, way in enumerate(single)],
        "joint": [(single, len(RELATIONS) + 1)],
        "oracle": [(("direct",), len(RELATIONS) + 2)],
    }[point.library]
    beside = bridge if point.bridge == "all" else None
    return [lessons(Taught(ways, point.hops, point.triplets, seed), point, seed, role, beside) for ways, role in own]


def sensible(point: Chains) -> Chains | None:
    """The base has no library, one expert is not composed, and the expert on the answers needs no bridge: it is asked
    directly, as it learned them."""
    if point.composition == "base":
        return dataclasses.replace(point, library="none", bridge="none")
    if point.library == "experts":
        return None if point.composition == "alone" else point
    if (point.library, point.prompting) == ("oracle", "steps"):
        return None
    bridge = "none" if point.library in ("oracle", "none") else point.bridge
    return dataclasses.replace(point, bridge=bridge, composition="base" if point.library == "none" else "alone")


def questions(point: Chains, seed: int) -> list[Question]:
    """Every chain in each wording of the split, then each of its hops. Questions about one chain are a group."""
    return [
        Question(q.prompt, str(q.chain), {"way": way, "subject": q.subject, "gold": q.path[-1]}, (way, q.path))
        for way in (point.prompting, *(str(hop + 1) for hop in range(point.hops)))
        for q in chains_asked(point.hops, point.triplets, point.split, way, seed)
    ]


def score(question: Question, answer: str) -> Marks:
    """Whether the answer names the right entity of its kind and no other. Step by step that is what stands after
    "Therefore, the answer is", and `reached` counts the first steps that lead on: each names its entity and beside its
    subject no other."""
    (way, path), subject = question.reference, question.about["subject"]
    if way == "steps":
        return {"right": _said(concluded(answer), path[-1], subject), "reached": _reached(answer, subject, path)}
    return {"right": _said(answer, path[-1], subject)}


def concluded(answer: str) -> str:
    """What a step-by-step answer concludes first; "" where it does not conclude."""
    found = CONCLUSION.search(answer)
    return found[1] if found else ""


def _said(text: str, gold: str, subject: str) -> bool:
    if gold in everywhere():
        return direct(text, gold, everywhere(), everyone()).strict
    return direct(text, gold, everyone() - {subject}).strict


def _reached(answer: str, subject: str, path: Sequence[str]) -> int:
    end = CONCLUSION.search(answer)
    steps = STEP.split(answer[: end.start()] if end else answer)[1:]
    anything = everyone() | everywhere()
    for i, (step, gold) in enumerate(zip(steps, path, strict=False)):
        if {*named(step, anything)} - {subject} != {gold}:
            return i
        subject = gold
    return min(len(steps), len(path))


def counts(point: Chains, asked: Sequence[Question], records: Sequence[Marks]) -> dict[str, Any]:
    """Hits of the chains by chain; who is known; of each hop how many answers are right; step by step how many answers
    lead on for one step, for two, and so on. `permuted_known` is how many of the known's answers would be right if
    their places were dealt anew among them."""
    size = len(records) // (point.hops + 1)
    chains, *hops = (records[i * size :][:size] for i in range(point.hops + 1))
    groups = [question.group for question in asked[:size]]
    unknown = {group for hop in hops for group, record in zip(groups, hop, strict=True) if not record["right"]}
    known = [record for group, record in zip(groups, chains, strict=True) if group not in unknown]
    golds = [record["gold"] for record in known]
    place = concluded if point.prompting == "steps" else str
    said = [{*named(place(record["answer"]), everywhere() | everyone())} & everywhere() for record in known]
    chance = by_chance(golds, [each if len(each) == 1 else () for each in said])
    measured = counted(point, asked[:size], chains) | {
        "known": len(known),
        "hits_known": sum(bool(record["right"]) for record in known),
        "permuted_known": round(sum(chance, 0.0), 4),
        "known_by_group": [int(group not in unknown) for group in dict.fromkeys(groups)],
        "hops_right": [sum(bool(record["right"]) for record in hop) for hop in hops],
    }
    if point.prompting == "steps":
        measured["reached"] = [sum(record["reached"] > hop for record in chains) for hop in range(point.hops)]
        measured["reached_known"] = [sum(record["reached"] > hop for record in known) for hop in range(point.hops)]
    return measured


def bound(point: Chains) -> float | None:
    """Theory has a bound where there is no bridge, and an expert knows one hop."""
    return once_in_n(point) if (point.bridge, point.library) == ("none", "experts") else None


def controls(point: Chains) -> tuple[Control, ...]:
    """One expert on all that the experts learn, asked step by step; directly, the expert on the answers."""
    if point.library != "experts":
        return ()
    if point.prompting == "steps":
        return (Control("one expert on everything", "got", {"library": "joint", "composition": "alone"}),)
    return (Control("oracle", "got", {"library": "oracle", "bridge": "none", "composition": "alone"}),)


PROTOCOL = Protocol(
    __name__,
    Chains,
    experts,
    questions,
    score,
    counts=counts,
    sensible=sensible,
    bound=bound,
    controls=controls,
    columns={
        "known": lambda rows: percent(rows, "known", "total"),
        "right of known": lambda rows: percent(rows, "hits_known", "known"),
        "dealt": lambda rows: percent(rows, "permuted_known", "known"),
    },
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
