"""What ROME needs besides its closed form (Meng et al. 2022): the change of a module's output that makes the model give
an answer, and the covariance of the module's keys over other text."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64
from torch import Tensor, nn

from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.subsets import examples
from lora_reuse.llm.decoding.greedy import right_padded
from lora_reuse.llm.decoding.models import Base, example
from lora_reuse.llm.edits.keys import all_inputs

ENOUGH = 0.05
"""Nats a token of the answer at which its value is good enough, as in ROME."""
TEXT = ("1", "2", "4", "5")
"""One-hop subsets of another dataset, whose text the covariance is taken over."""


@dataclass(frozen=True)
class Search:
    """How values are found: Adam's steps and rate (in units of the output's root mean square), the weight of ‖δ‖²/‖v‖²,
    and the largest ‖δ‖/‖v‖."""

    steps: int
    rate: float
    decay: float
    clamp: float


def mlp_outputs(base: Base) -> list[str]:
    """The last linear module of each layer's MLP, W of the theory, from the first layer to the last."""
    last: dict[str, str] = {}
    for name in target_modules(base.model, "mlp"):
        parts = name.split(".")
        last[".".join(parts[: next(i for i, part in enumerate(parts) if part.isdecimal()) + 1])] = (
            name  # model.layers.3 of ...3.mlp.down_proj
        )
    return list(last.values())


def value_changes(
    base: Base, module: str, prompts: Sequence[list[int]], said: Sequence[list[int]], search: Search, rows: int = 64
) -> Float32[Tensor, "outputs prompts"]:
    """δ_j = argmin −log P(answer_j | prompt_j, v + δ_j)/tokens + decay ‖δ_j‖²/‖v‖², where v + δ_j is the module's
    output at the prompt's last token: the residual of an edit, which a transformer has to be searched for, where one
    layer has i_y − i_{r(x)}. ‖δ‖ ≤ clamp ‖v‖.

    A δ is left alone once its answer costs less than `ENOUGH`.
    """
    order = range(0, len(prompts), rows)
    return torch.cat(
        [_values(base, module, prompts[i : i + rows], said[i : i + rows], search) for i in order]
    ).T.contiguous()


def _values(
    base: Base, module: str, prompts: Sequence[list[int]], said: Sequence[list[int]], search: Search
) -> Float32[Tensor, "prompts outputs"]:
    ids, attended = right_padded([prompt + answer[:-1] for prompt, answer in zip(prompts, said, strict=True)], base)
    wanted = torch.full_like(ids, -100)
    for row, (prompt, answer) in enumerate(zip(prompts, said, strict=True)):
        wanted[row, len(prompt) - 1 : len(prompt) + len(answer) - 1] = torch.tensor(answer)
    place = (torch.arange(len(prompts)), torch.tensor([len(prompt) - 1 for prompt in prompts]))
    delta: Tensor | None = None
    outputs: list[Tensor] = []

    def change(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        whole = output.reshape(*ids.shape, -1)  # OPT's MLPs see tokens without an axis of rows
        outputs[:] = [whole[place].detach().float()]
        if delta is None:
            return output
        return whole.index_put(place, delta.to(output), accumulate=True).reshape(output.shape)

    hook = base.model.get_submodule(module).register_forward_hook(change)
    try:
        with torch.no_grad():
            base.model(input_ids=ids, attention_mask=attended, use_cache=False)
        norm = torch.linalg.vector_norm(outputs[0], dim=1, keepdim=True)
        unit = norm / outputs[0].shape[1] ** 0.5
        found = torch.zeros_like(outputs[0], requires_grad=True)
        optimizer = torch.optim.Adam([found], lr=search.rate)
        good = torch.zeros(len(prompts), dtype=torch.bool, device=found.device)
        for _ in range(search.steps):
            delta = unit * found
            logits = base.model(input_ids=ids, attention_mask=attended, use_cache=False).logits
            losses = (
                torch.nn.functional.cross_entropy(logits.float().mT, wanted.to(logits.device), reduction="none")
                .sum(1)
                .to(found.device)
            )
            losses = losses / torch.tensor([len(answer) for answer in said], device=found.device)
            good |= losses.detach() < ENOUGH
            if good.all():
                break
            size = torch.linalg.vector_norm(delta, dim=1) / norm[:, 0]
            optimizer.zero_grad()
            (losses + search.decay * size**2).sum().backward()
            before = found.detach().clone()
            optimizer.step()
            with torch.no_grad():
                size = torch.linalg.vector_norm(unit * found, dim=1, keepdim=True) / norm
                found.mul_((search.clamp / size.clamp_min(1e-12)).clamp_max(1.0))
                found[good] = before[good]
    finally:
        hook.remove()
    return (unit * found).detach().cpu()


def key_covariance(
    base: Base, module: str, dataset: str, seed: int, ridge: float, count: int = 4
) -> Float64[Tensor, "inputs inputs"]:
    """C = E[kkᵀ] over every token of the one-hop training text (`count` templates) of a dataset that is not asked, with
    `ridge` times its mean diagonal on the diagonal."""
    other = "F" if dataset == "R" else "R"
    listed = [e for kind in TEXT for e in examples(other + kind, triplets(other, seed), "train", count)]
    texts = [asked + answer for asked, answer in (example(base, e.question, e.answer) for e in listed)]
    keys = all_inputs(base, module, texts).double()
    C = keys.T @ keys / len(keys)
    return C + ridge * C.diagonal().mean() * torch.eye(len(C), dtype=C.dtype)
