"""Keys: what goes into a module where an answer is about to be given, the place of φ(Uη) and φ(Uξ) in the theory."""

from collections.abc import Sequence

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from lora_reuse.llm.adapters.folders import linear_shape
from lora_reuse.llm.compositions import Composition
from lora_reuse.llm.decoding.greedy import right_padded, where_they_differ
from lora_reuse.llm.decoding.models import Base, example
from lora_reuse.llm.decoding.resident import Resident

ROWS = 256
"""Prompts read together."""


def up_to_answer(
    base: Base, question: str, beginning: str, candidates: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """The tokens of the question and the beginning of its answer up to where the candidates differ, and what each
    candidate goes on with."""
    whole = [
        asked + answer[:-1]
        for asked, answer in (example(base, question, beginning + candidate) for candidate in candidates)
    ]
    shared = where_they_differ(whole)
    return whole[0][:shared], [ids[shared:] for ids in whole]


def last_inputs(
    base: Base, modules: Sequence[str], prompts: Sequence[list[int]], composition: Composition | None = None
) -> dict[str, Float32[Tensor, "prompts inputs"]]:
    """What goes into each module at the last token of each prompt, with the composition on the base, on the CPU."""
    return {
        name: torch.stack([x[-1] for x in found])
        for name, found in _inputs(base, modules, prompts, composition).items()
    }


def all_inputs(base: Base, module: str, prompts: Sequence[list[int]]) -> Float32[Tensor, "tokens inputs"]:
    """What goes into the module at every token of every prompt, on the CPU."""
    return torch.cat(_inputs(base, [module], prompts, None)[module])


def _inputs(
    base: Base, modules: Sequence[str], prompts: Sequence[list[int]], composition: Composition | None
) -> dict[str, list[Float32[Tensor, "tokens inputs"]]]:
    found: dict[str, list[Tensor]] = {name: [] for name in modules}
    lengths: list[int] = []

    def keep(name: str, module: nn.Module):
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = (
                inputs[0].detach().reshape(len(lengths), -1, _inputs_of(module))
            )  # OPT's MLPs see tokens without an axis of rows
            found[name] += [row[:length].float().cpu() for row, length in zip(x, lengths, strict=True)]

        return module.register_forward_pre_hook(hook)

    with Resident(base.model) as resident, torch.inference_mode():
        resident.use([composition])
        hooks = [keep(name, base.model.get_submodule(name)) for name in modules]
        try:
            for start in range(0, len(prompts), ROWS):
                chosen = prompts[start : start + ROWS]
                lengths[:] = map(len, chosen)
                ids, attended = right_padded(chosen, base)
                base.model(input_ids=ids, attention_mask=attended, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
    return found


def _inputs_of(module: nn.Module) -> int:
    shape = linear_shape(module)
    return -1 if shape is None else shape[1]
