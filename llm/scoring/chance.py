"""What answers would hit by chance: the control of answers that are right for no reason, such as one place for all."""

from collections import Counter
from collections.abc import Collection, Sequence


def by_chance(golds: Sequence[str], right_for: Sequence[Collection[str]]) -> list[float]:
    """Of each answer, the probability of a hit if the right ones, `golds`, were dealt anew among the questions; their
    sum is what these answers would hit by chance. `right_for` are the golds that each answer would be right for."""
    times = Counter(golds)
    return [sum(times[gold] for gold in each) / len(golds) for each in right_for]
