"""lora-reuse exposure model=results/pocket-exposure-25-0,results/pocket-exposure-25-1

Does composition reach people whom pretraining never chained? Pocket models that `lora-reuse pocket exposure=` made read
every one-hop fact, and two-hop questions about the spouse's home of a share of the people only. Asked, without any
adapter, are those people (people=chained) and the others (people=never), directly and step by step in the corpus's own
words. Beside each two-hop question stand the question who A's spouse is and the question where B lives: a person is
known if both are answered in every wording, and what is said of composing is said of the known. A model says in its
pocket.json whom it chained."""

import functools
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_reuse.llm.decoding.names import place_of
from lora_reuse.llm.pocket import switches
from lora_reuse.llm.protocols.controls import Control
from lora_reuse.llm.protocols.hops import everyone, everywhere
from lora_reuse.llm.protocols.protocol import Marks, Protocol, Question, Row, counted, main, total
from lora_reuse.llm.protocols.settings import Model, Options
from lora_reuse.llm.scoring.chance import by_chance
from lora_reuse.llm.scoring.two_hop import direct, last_sentence, named
from lora_reuse.runs.settings import Choice, SettingError, Whole, setting

if TYPE_CHECKING:
    from lora_reuse.llm.pocket.corpus import World
    from lora_reuse.llm.pocket.size import Corpus

WAYS = ("two", "first", "second")
"""What is asked beside each other: the two-hop question, and both of its hops."""


MODELS = "pocket-exposure"
"""What the models are called together, where they are one model of many pretrainings."""


@dataclass(frozen=True)
class Exposure(Model):
    """A pocket model, asked about its own people."""

    people: str = setting(
        "never",
        Choice("chained", "never"),
        "whom: those of whom pretraining asked the spouse's home, or the others with a spouse and a home",
        grid=("chained", "never"),
    )
    prompting: str = setting(
        "direct",
        Choice("direct", "steps"),
        "the two-hop question as it is, or with an opening that asks for steps",
        grid=("direct", "steps"),
    )
    wordings: int = setting(4, Whole(1, 50), "wordings of each question, drawn by the seed; all occur in pretraining")
    composition: str = setting("base", Choice("base"), "no adapter is there")
    answer_tokens: int = setting(32, Whole(1, 10**5), "longest direct answer")
    step_tokens: int = setting(128, Whole(1, 10**5), "longest step-by-step answer")


@functools.cache
def world_of(model: str) -> "World":
    """The world that a pocket model was pretrained on. Raises SettingError for another model."""
    from lora_reuse.llm.pocket.corpus import World
    from lora_reuse.llm.pocket.size import Size

    if not (made := switches(place_of(model))):
        raise SettingError("model", model, "a pocket model's folder, whose pocket.json says what it read")
    size = Size(**made)
    return World(size, size.seed)


def chains(point: Exposure) -> list[tuple[str, str, str]]:
    """(A, B, C) of the people that the point asks about."""
    from lora_reuse.llm.pocket.corpus import TESTED_PAIR

    world = world_of(point.model)
    return [chain for chain in world.chains(TESTED_PAIR) if (chain[0] in world.exposed) == (point.people == "chained")]


def questions(point: Exposure, seed: int) -> list[Question]:
    """The two-hop questions of every person in as many wordings, then both hops of each. Questions about one person are
    a group."""
    from lora_reuse.llm.pocket.corpus import TESTED_PAIR, ask

    corpus, rng = world_of(point.model).corpus, random.Random(f"exposure {seed}")
    found: dict[str, list[Question]] = {way: [] for way in WAYS}
    for a, b, c in chains(point):
        for _ in range(point.wordings):
            whole = in_its_words(corpus, TESTED_PAIR, a, c, point.prompting, rng)
            first, second = (ask(*fact, rng).prompt for fact in zip(TESTED_PAIR, (a, b), (b, c), strict=True))
            for way, prompt in zip(WAYS, (whole, first, second), strict=True):
                about = {"way": way, "a": a, "b": b, "c": c}
                found[way].append(Question(prompt, a, about, (way, point.prompting)))
    return [question for way in WAYS for question in found[way]]


def in_its_words(corpus: "Corpus", pair: tuple[str, str], a: str, c: str, prompting: str, rng: random.Random) -> str:
    """A two-hop question about A as a corpus asks it: as it is, or with an opening that asks for steps."""
    from lora_reuse.llm.pocket.corpus import ask_two
    from lora_reuse.llm.pocket.styles import step_styles

    whole = ask_two(pair, a, c, rng).prompt
    opening = rng.choice(step_styles(corpus))[0] if prompting == "steps" else "{q}"
    return opening.format(q=whole)


def score(question: Question, answer: str) -> Marks:
    """Whether what the answer says names the right one and no other; of a two-hop question also whether the answer
    names the person in between."""
    (way, prompting), about = question.reference, question.about
    said = concluded(answer, prompting if way == "two" else "direct")
    if way == "first":
        return {"right": direct(said, about["b"], everyone() - {about["a"]}).strict}
    right = direct(said, about["c"], everywhere(), everyone()).strict
    return {"right": right} | (
        {"b_named": about["b"] in named(answer if prompting == "steps" else said, everyone())} if way == "two" else {}
    )


def concluded(answer: str, prompting: str) -> str:
    """What an answer says in the end: its last sentence step by step; asked directly its first line, after which a
    model goes on with other questions, as texts of its corpus do."""
    return last_sentence(answer) if prompting == "steps" else answer.strip().partition("\n")[0]


def counts(point: Exposure, asked: Sequence[Question], records: Sequence[Marks]) -> dict[str, Any]:
    """Hits of the two-hop questions by person, and who is known. `met` are those whose spouse is also the spouse of
    somebody chained; `permuted_known` is how many of the known's answers would be right if the right places were dealt
    anew among them."""
    size = len(records) // len(WAYS)
    two, *hops = (records[i * size :][:size] for i in range(len(WAYS)))
    unknown = {record["a"] for hop in hops for record in hop if not record["right"]}
    exposed = world_of(point.model).exposed
    bridges = {world_of(point.model).facts["spouse_of"][a] for a in exposed - {q.group for q in asked[:size]}}
    about = {record["a"]: record for record in two}
    known = [record for record in two if record["a"] not in unknown]
    said = [_places(point, record) for record in known]
    chance = by_chance([record["c"] for record in known], [each if len(each) == 1 else () for each in said])
    return counted(point, asked[:size], two) | {
        "known": len(known),
        "hits_known": sum(bool(record["right"]) for record in known),
        "permuted_known": round(sum(chance, 0.0), 4),
        "first_right": sum(bool(record["right"]) for record in hops[0]),
        "second_right": sum(bool(record["right"]) for record in hops[1]),
        "known_by_group": [int(a not in unknown) for a in about],
        "met_by_group": [int(record["b"] in bridges) for record in about.values()],
    }


def _places(point: Exposure, record: Marks) -> set[str]:
    return set(named(concluded(record["answer"], point.prompting), everywhere() | everyone())) & everywhere()


def sensible(point: Exposure) -> Exposure | None:
    """A model that chained everybody, or nobody, has one kind of people."""
    return point if not switches(place_of(point.model)) or chains(point) else None


def controls(point: Exposure) -> tuple[Control, ...]:
    """The people whom pretraining chained: where they are not answered, the others' answers say nothing of whom
    composition reaches."""
    return (Control("the chained people", "got", {"people": "chained"}),) if point.people == "never" else ()


def ready(points: Sequence[Exposure], options: Options) -> None:
    """Raises SettingError for a model that does not say what it read."""
    for model in dict.fromkeys(point.model for point in points):
        world_of(model)


def _known(rows: Sequence[Row], name: str) -> str:
    known = total(rows, "known")
    return f"{100 * total(rows, name) / known:.0f} %" if known else ""


PROTOCOL = Protocol(
    __name__,
    Exposure,
    lambda point, seed: (),
    questions,
    score,
    counts=counts,
    sensible=sensible,
    controls=controls,
    columns={
        "known": lambda rows: str(total(rows, "known")),
        "right of known": functools.partial(_known, name="hits_known"),
        "dealt": functools.partial(_known, name="permuted_known"),
    },
    ready=ready,
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
