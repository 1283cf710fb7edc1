"""A rule of one's own, tried on small random experts before others are trained for it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lora_reuse.llm.adapters.folders import complete
from lora_reuse.llm.adapters.lowrank import Expert, LowRank
from lora_reuse.llm.compositions import RULES, Delta
from lora_reuse.runs.settings import SettingError

SHAPES = {"model.layers.0.mlp.up_proj": (24, 16), "model.layers.1.mlp.down_proj": (16, 24)}
LIBRARIES = (2, 3)
"""As many experts as the libraries of the bench have."""


def refuse_unfit(name: str) -> None:
    """Raises SettingError for a rule that does not give each module of a library a finite update of its shape, gives
    another one the second time, changes its experts, or is no static rule where it says so; and whatever the rule
    raises."""
    for count in LIBRARIES:
        library, untouched = _random(count), _random(count)
        first = _outputs(name, library)
        if not all(map(_alike, library, untouched)):
            raise _unfit(name, "changes the experts that it is given", "as they were", "clone what is changed in place")
        second = _outputs(name, library)
        if not all(torch.equal(first[module], second[module]) for module in SHAPES):
            mend = "lora_reuse.llm.compositions.generator(seed, ...) draws the same numbers every time"
            raise _unfit(name, "gives another update the second time", "the same of the same experts", mend)


def _random(count: int) -> list[Expert]:
    random = torch.Generator().manual_seed(count)
    draw = lambda size: torch.randn(size, 4, generator=random)  # noqa: E731
    return [{name: LowRank(*map(draw, shape)) for name, shape in SHAPES.items()} for _ in range(count)]


def _alike(one: Expert, other: Expert) -> bool:
    return all(torch.equal(a, b) for name in SHAPES for a, b in zip(one[name], other[name], strict=True))


def _outputs(name: str, library: list[Expert]) -> dict[str, Tensor]:
    """What the rule adds in each module to the same inputs."""
    made: Any = RULES[name].rule(complete(library))
    if not isinstance(made, Mapping):
        raise _unfit(name, f"returns {_a(made)}", "an update for each module by its name", "each_module makes them")
    if set(made) != set(SHAPES):
        got = f"gives updates of {', '.join(map(str, made)) or 'no module'} for experts of {', '.join(SHAPES)}"
        raise _unfit(name, got, "one for each module")
    return {module: _output(name, module, made[module]) for module in SHAPES}


def _output(name: str, module: str, update: Any) -> Tensor:
    if not isinstance(update, Delta):
        raise _unfit(name, f"gives {module} {_a(update)}", "a LowRank, or a router (lora_reuse.llm.compositions.Delta)")
    if RULES[name].static and not isinstance(update, LowRank):
        raise _unfit(name, f"says static=True and gives {module} {_a(update)}", "a LowRank, or static=False")
    outputs, inputs = SHAPES[module]
    if tuple(update.shape) != SHAPES[module]:
        got = f"gives {module} an update of shape {tuple(update.shape)}"
        raise _unfit(name, got, f"that of the module, {SHAPES[module]}: out has its outputs and into its inputs")
    random = torch.Generator().manual_seed(0)
    output = update(torch.randn(2, inputs, generator=random)).detach()
    if tuple(output.shape) != (2, outputs):
        got = f"gives {module} an update that makes {tuple(output.shape)} of {(2, inputs)}"
        raise _unfit(name, got, f"{(2, outputs)}")
    if not output.isfinite().all():
        raise _unfit(name, f"gives {module} an update that is not finite", "finite numbers")
    return output


def _a(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _unfit(name: str, does: str, allowed: str, mend: str = "") -> SettingError:
    return SettingError("rule", f"{name}, which with random experts {does}", allowed, mend)
