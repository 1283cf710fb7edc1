"""What each expert is trained on: the four experts of section 4.1.1, the setups of Table 1, the two bridges of Figure
2."""

from typing import NamedTuple

BRIDGE = ("1", "2", "12-CoT")
"""B_F and B_R: both hops and their composition step by step, on one dataset."""


class Setup(NamedTuple):
    """What both experts see besides their own hop, as subsets of the bridge's dataset, and which dataset is asked."""

    asked: str
    bridge: str
    first: tuple[str, ...]
    second: tuple[str, ...]

    def subsets(self, expert: int) -> tuple[str, ...]:
        """The training subsets of expert 1 or 2: its own hop first."""
        return (f"{self.asked}{expert}", *(self.bridge + kind for kind in (self.first, self.second)[expert - 1]))


SETUPS = {
    "0": Setup("R", "F", (), ()),
    "1": Setup("F", "R", BRIDGE, BRIDGE),
    "2": Setup("R", "F", BRIDGE, BRIDGE),
    "3": Setup("R", "F", ("1", "2", "12"), ("1", "2", "12")),
    "4": Setup("R", "F", BRIDGE, ()),
    "5": Setup("R", "F", (), BRIDGE),
    "6": Setup("R", "F", ("12-CoT",), ("12-CoT",)),
    "7": Setup("R", "F", ("1", "12-CoT"), ("2", "12-CoT")),
    "8": Setup("R", "F", ("1", "4", "14-CoT"), ("5", "2", "52-CoT")),
}
"""Table 1, and setup 1 of Figure 2 (fake names asked, real bridge)."""

EXPERTS = {"1": ("1",), "2": ("2",), "oracle": ("12",), "mixed": ("1", "2"), "oracle_steps": ("12-CoT",)}
"""LoRA 1 to 4 of section 4.1.1, on one dataset, and an oracle that was trained on answers step by step. An expert's
place here is its role, from which its seed is drawn: another one goes to the end."""
PAPER = {
    "2-combination": ("1", "2"),
    "3-combination": ("1", "2", "oracle"),
    "oracle": ("oracle",),
    "mixed": ("mixed",),
}
"""The libraries of Table 7."""
LIBRARIES = PAPER | {"3-combination_steps": ("1", "2", "oracle_steps"), "oracle_steps": ("oracle_steps",)}
"""These, and beyond the paper the oracle of steps in the oracle's place: a small model that was trained on the answers
alone does not give them step by step."""


Experts = list[tuple[tuple[str, ...], tuple[str, ...], int]]
"""(own subsets, bridge subsets, role) of each expert, as protocols name them."""


def pair(setup: Setup) -> Experts:
    """The two experts of a setup, which are composed."""
    return [(subsets[:1], subsets[1:], role) for role in (1, 2) for subsets in (setup.subsets(role),)]


def data_mix(setup: Setup) -> Experts:
    """One expert on the union of the pair's data, as LoRA Soups compares with. Without a bridge it is the expert
    `mixed`."""
    (first, bridge, _), (second, other, _) = pair(setup)
    return [(first + second, tuple(dict.fromkeys(bridge + other)), _role("mixed"))]


def oracle(setup: Setup, name: str = "oracle") -> Experts:
    """One expert on the two-hop questions that are asked, whatever the setup: the expert `name` of its dataset."""
    return [(tuple(setup.asked + subset for subset in EXPERTS[name]), (), _role(name))]


def _role(name: str) -> int:
    """As `two_hop` has it, so that an expert is trained once."""
    return list(EXPERTS).index(name) + 1
