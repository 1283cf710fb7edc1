"""A batch of texts read as one row without padding: each attends to itself alone, and the head speaks only where an
answer's token is predicted.

On a CPU padding costs as much as text does, and in a large vocabulary the logits of a prompt's tokens, which no loss
looks at, are much of a small model's products."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

PACKED = "packed"
Tokens = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Rows:
    """Where the tokens of a row of texts belong: text i, token j is place i·longest + j of a grid with a row for each
    text."""

    count: int
    longest: int
    places: Int[Tensor, " tokens"]


@dataclass(frozen=True)
class Pack:
    """Texts as one row: its tokens, their positions and places, after which of them a token of an answer is predicted,
    and these tokens."""

    ids: Int[Tensor, " tokens"]
    positions: Int[Tensor, " tokens"]
    places: Int[Tensor, " tokens"]
    before: Int[Tensor, " answered"]
    told: Int[Tensor, " answered"]


@contextmanager
def packing(model: PreTrainedModel, adapted: nn.Module) -> Iterator[None]:
    """Within, `spoken` packs what `adapted`, the model with adapters on it, reads, if it can be packed: if its
    attention can be exchanged, sees all of a text, and knows of positions what it is told; and if nothing is dropped
    out, because the same seed would drop other things."""
    can = _can_pack(model, adapted)
    if can:
        model.set_attn_implementation(PACKED)
    try:
        yield
    finally:
        if can:
            model.set_attn_implementation("sdpa")


def is_packing(model: Any) -> bool:
    """Whether `spoken` packs what this model reads."""
    return model.config._attn_implementation == PACKED


def spoken(
    model: Any, texts: Sequence[Tokens]
) -> tuple[Float[Tensor, "answered vocabulary"], Int[Tensor, " answered"]]:
    """The logits where the tokens of each text's answer are predicted, text after text, and these tokens."""
    device = model.get_input_embeddings().weight.device
    if not is_packing(model):
        told = torch.tensor([token for _, answer in texts for token in answer])
        ids, attended, answered = (part.to(device) for part in padded(texts))
        logits = model(input_ids=ids, attention_mask=attended, use_cache=False).logits
        return logits[:, :-1][answered[:, 1:].to(logits.device)], told.to(logits.device)
    longest = max(len(asked) + len(answer) for asked, answer in texts)
    packed = pack(texts, longest)
    on_device = Pack(**{name: part.to(device) for name, part in vars(packed).items()})
    logits = read(model, on_device, len(texts), longest)
    return logits, packed.told.to(logits.device)


def pack(texts: Sequence[Tokens], longest: int) -> Pack:
    """The texts, none of more than `longest` tokens, as one row."""
    lengths = torch.tensor([len(asked) + len(answer) for asked, answer in texts])
    positions = torch.cat([torch.arange(length) for length in lengths.tolist()])
    numbers = torch.arange(len(texts)).repeat_interleave(lengths)
    ends = lengths.cumsum(0).tolist()
    before = [torch.arange(end - len(answer) - 1, end - 1) for end, (_, answer) in zip(ends, texts, strict=True)]
    return Pack(
        torch.tensor([token for asked, answer in texts for token in asked + answer]),
        positions,
        numbers * longest + positions,
        torch.cat(before),
        torch.tensor([token for _, answer in texts for token in answer]),
    )


def read(model: Any, packed: Pack, count: int, longest: int) -> Float[Tensor, "answered vocabulary"]:
    """The logits where the row's answers are predicted; its tokens' places are in a grid of `count` texts of `longest`
    tokens."""
    return model(
        input_ids=packed.ids[None],
        position_ids=packed.positions[None],
        use_cache=False,
        logits_to_keep=packed.before,
        rows=Rows(count, longest, packed.places),
    ).logits.squeeze(0)


def padded(texts: Sequence[Tokens]) -> tuple[Int[Tensor, "texts longest"], Int[Tensor, "texts longest"], Tensor]:
    """Ids (padded on the right with 0, which nothing attends to), attention mask, and which tokens are of an answer."""
    length = max(len(asked) + len(answer) for asked, answer in texts)
    ids, attended = (torch.zeros(len(texts), length, dtype=torch.long) for _ in range(2))
    answered = torch.zeros(len(texts), length, dtype=torch.bool)
    for row, (asked, answer) in enumerate(texts):
        end = len(asked) + len(answer)
        ids[row, :end] = torch.tensor(asked + answer)
        attended[row, :end] = 1
        answered[row, len(asked) : end] = True
    return ids, attended, answered


def _can_pack(model: PreTrainedModel, adapted: nn.Module) -> bool:
    config, named = model.config.get_text_config(), inspect.signature(model.forward).parameters
    plain = set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    narrow = getattr(config, "sliding_window", None) or getattr(config, "alibi", False) or model._is_stateful
    drops = any("drop" in name and isinstance(value, float) and value for name, value in config.to_dict().items())
    drops = drops or any(isinstance(module, nn.Dropout) and module.p for module in adapted.modules())
    exchanged = model._can_set_attn_implementation() and config._attn_implementation == "sdpa"
    return bool(exchanged and plain and not narrow and not drops and {"position_ids", "logits_to_keep"} <= named.keys())


def _attention(
    module: nn.Module,
    query: Float[Tensor, "1 heads tokens size"],
    key: Float[Tensor, "1 groups tokens size"],
    value: Float[Tensor, "1 groups tokens values"],
    attention_mask: None,
    *,
    rows: Rows,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "1 tokens heads values"], None]:
    """Causal attention within each text, as sdpa's but for the row it comes in and leaves in."""
    places = rows.places.to(query.device)

    def grid(states: Float[Tensor, "1 heads tokens size"]) -> Float[Tensor, "texts heads longest size"]:
        tokens = states[0].transpose(0, 1)
        if tokens.device.type == "cpu":
            tokens = tokens.float()  # torch's attention in bfloat16 takes several times as long there
        empty = tokens.new_zeros(rows.count * rows.longest, *tokens.shape[1:])
        return empty.index_copy(0, places, tokens).unflatten(0, (rows.count, rows.longest)).transpose(1, 2)

    several = key.shape[1] != query.shape[1]
    found = nn.functional.scaled_dot_product_attention(
        grid(query), grid(key), grid(value), is_causal=True, scale=scaling, enable_gqa=several
    )
    return found.transpose(1, 2).flatten(0, 1).index_select(0, places)[None].to(query.dtype), None


AttentionInterface.register(PACKED, _attention)
AttentionMaskInterface.register(PACKED, lambda *_, **__: None)
