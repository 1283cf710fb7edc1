"""ΔW where an adapter stores weights and not their change: the magnitudes of DoRA, whole modules (modules_to_save), and
rows of tokens (trainable_token_indices). All need the base's own weight W."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from lora_reuse.llm.adapters.base_weights import base_weight, oriented
from lora_reuse.llm.adapters.lowrank import LowRank, whole
from lora_reuse.runs.settings import SettingError

ROWS = 1024
"""Of a weight, that are computed with at a time: a large one is in memory as it is stored, and as its change."""


def dora(
    update: LowRank, magnitude: Float32[Tensor, " outputs"], module: str, model: nn.Module, folder: Path
) -> LowRank:
    """ΔW = diag(m/‖W + s B A‖) (W + s B A) − W, with the norm of every row: of full rank, as diag(..) − 1 acts on W.

    The sum of such ΔW changes the weights by the sum of what each expert changes at its own magnitude; it is not the
    DoRA of the sum of the B A.

    Source: Liu et al. 2024 (arXiv 2402.09353), eq. 5."""
    change = torch.empty(update.shape)
    some = [part.split(ROWS) for part in (change, base_weight(module, model, folder), update.out, magnitude)]
    for rows, stored, out, m in zip(*some, strict=True):
        W = stored.double()
        changed = W + out.double() @ update.into.double().T
        rows.copy_((m.double() / torch.linalg.norm(changed, dim=1))[:, None] * changed - W)
    return whole(change)


def of_module(saved: Float32[Tensor, "_ _"], module: str, model: nn.Module, folder: Path) -> LowRank:
    """ΔW = W' − W of a module that the adapter stores whole, and that is overwritten."""
    there = model.get_submodule(module)
    change = oriented(saved, there)
    for rows, stored in zip(change.split(ROWS), base_weight(module, model, folder).split(ROWS), strict=True):
        rows.sub_(stored.float())  # of float32, which is what the exact difference rounds to
    return whole(change)


def of_tokens(
    rows: Float[Tensor, "tokens width"], tokens: Sequence[int], module: str, model: nn.Module, folder: Path
) -> LowRank:
    """ΔW = Σ_t (w'_t − w_t) e_tᵀ of an embedding some of whose tokens t are given anew, and its transpose of a head:
    the rank is their number."""
    W = base_weight(module, model, folder)
    head = isinstance(model.get_submodule(module), nn.Linear)
    own = W[list(tokens)].T if head else W[:, list(tokens)]
    change = (rows.double().T - own.double()).float()
    places = torch.zeros(W.shape[0 if head else 1], len(tokens))
    places[list(tokens), range(len(tokens))] = 1.0
    return LowRank(places, change) if head else LowRank(change, places)


def tokens_of(config: Mapping[str, Any], module: str) -> list[int]:
    """The tokens whose rows the adapter gives anew in a module."""
    said = config.get("trainable_token_indices") or {}
    if not isinstance(said, Mapping):
        return list(said)
    return next((list(tokens) for name, tokens in said.items() if f".{module}".endswith(f".{name}")), [])


def check_tokens(
    rows: tuple[int, ...], tokens: Sequence[int], module: str, shape: tuple[int, int], head: bool, folder: Path
) -> None:
    """Raises SettingError unless there is a row of the module's width for each of the tokens, which are different."""
    width, vocabulary = (shape[1], shape[0]) if head else shape
    right = all(type(token) is int and 0 <= token < vocabulary for token in tokens)
    if not right or len(set(tokens)) < len(tokens) or rows != (len(tokens), width):
        got = f"rows {rows} for {len(tokens)} tokens of {module} in {folder}"
        allowed = (
            f"one of {width} for each of its trainable_token_indices, which are different tokens below {vocabulary}"
        )
        raise SettingError("expert", got, allowed)


def tied_to(given: Collection[str], model: nn.Module) -> dict[str, str]:
    """The head that PEFT gives the embedding's tokens to, with the embedding: where the two are one weight, and the
    head has no tokens of its own."""
    if not getattr(getattr(model, "config", None), "tie_word_embeddings", False) or len(given) != 1:
        return {}
    names = {id(module): name for name, module in model.named_modules()}
    ends = [getattr(model, f"get_{end}_embeddings")() for end in ("input", "output")]
    embedding, head = (names.get(id(end), "") for end in ends)
    return {head: embedding} if embedding in given and head else {}
