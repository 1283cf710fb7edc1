"""Answers to one's own questions, marked as the two-hop protocols mark theirs, and counted."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lora_reuse.llm.scoring import two_hop
from lora_reuse.llm.scoring.intervals import Limits, wilson
from lora_reuse.runs.settings import SettingError


@dataclass(frozen=True, repr=False)
class Marks:
    """The marks of each answer, in the order of the questions. `len`, iteration and numbers are of `each`."""

    each: tuple[two_hop.Score, ...] | tuple[two_hop.Steps, ...]

    @property
    def hits(self) -> int:
        """Answers that name the right one and no other candidate."""
        return sum(mark.strict for mark in self.each)

    @property
    def lenient(self) -> int:
        """Answers that name the right one, perhaps among others."""
        return sum(mark.lenient for mark in self.each)

    @property
    def total(self) -> int:
        """All answers."""
        return len(self.each)

    @property
    def interval(self) -> Limits:
        """Wilson's 95 % interval of the share of hits, over questions like these, for these very adapters. How much
        adapters vary when they are trained anew, it does not say: that takes several seeds."""
        return wilson(self.hits, self.total)

    def __repr__(self) -> str:
        low, high = self.interval
        return f"<{self.hits} of {self.total} right (95 %: {low:.0%} to {high:.0%}), {self.lenient} named it>"


def score(
    said: Sequence[str],
    golds: Sequence[str],
    *,
    candidates: Collection[str] = (),
    mentioned: Collection[str] = (),
    hops: Sequence[tuple[str, str]] | None = None,
) -> Marks:
    """How many answers are right, as a person who reads them would say.

    Case, accents and punctuation do not matter. A name counts where it stands as whole words and its clause does not
    deny it.

    Args:
        said: the answers, in the order of the questions.
        golds: what is right, one name a question.
        candidates: everything that could have been answered. An answer that names another one of them beside the right
            one is lenient, but no hit. Without candidates they are the golds.
        mentioned: names that may stand in an answer and are no candidate, but hold one (the person Denzel Washington).
        hops: for step-by-step answers ("First, ... Second, ... Therefore, the answer is ..."): who each question is
            about, and the one in between. Then the conclusion counts, and each hop has its own mark.

    Returns:
        The marks: `hits`, `lenient`, `total`, `interval`, and those of `each` answer.

    Raises:
        SettingError: as many answers as golds are needed, and as many hops; a name without a word, or two that do not
            differ but for case, accents and punctuation.

    Examples:
        >>> lr.score(["He lives in Zint.", "In Frosk, not in Zint.", "Zint or Frosk."], ["Zint", "Zint", "Frosk"])
        <1 of 3 right (95 %: 6% to 79%), 2 named it>

    Source: section 4.1 of the paper; the rules are in `lora_reuse.llm.scoring.two_hop`.
    """
    for name, given in (("golds", golds), ("hops", said if hops is None else hops)):
        if isinstance(said, str) or len(given) != len(said):
            got = "one string" if isinstance(said, str) else f"{len(said)} answers and {len(given)} {name}"
            raise SettingError("said", got, f"a list of answers, and {name} for each")
    places = {*candidates, *golds}
    people = {*mentioned, *(name for pair in hops or () for name in pair)}
    try:
        if hops is None:
            return Marks(
                tuple(two_hop.direct(text, gold, places, mentioned) for text, gold in zip(said, golds, strict=True))
            )
        return Marks(
            tuple(
                two_hop.step_by_step(text, subject=subject, bridge=bridge, gold=gold, people=people, places=places)
                for text, gold, (subject, bridge) in zip(said, golds, hops, strict=True)
            )
        )
    except ValueError as error:  # of `two_hop`, which stands alone
        raise SettingError("golds", str(error), "names with a word each, of which no two are the same") from None
