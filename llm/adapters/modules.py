"""The linear modules of a causal language model that adapters can sit on, found by architecture."""

import contextlib
import re
import warnings
from collections.abc import Iterable, Iterator

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lora_reuse.llm.adapters.places import place_of_one
from lora_reuse.runs.settings import SettingError


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """Without the warning that PEFT 0.21 asks transformers for a property that transformers 5.23 renames."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def target_modules(model: PreTrainedModel, layers: str) -> list[str]:
    """The full names of the linear modules in a place of the decoder (`llm.adapters.places`), in the model's order.

    Full names, because suffixes are ambiguous: GPT-2 has attn.c_proj and mlp.c_proj. Raises SettingError for a model
    without them, and for the MLPs of mixtures of experts."""
    place = place_of_one(layers)
    prefix, decoder = decoder_layers(model)
    experts = any(
        re.search("expert|moe|router", name) for name, _ in decoder.named_parameters() if _part(name) == "mlp"
    )
    if experts and place.part != "attention":
        mend = "which MLP a token meets there depends on the prompt"
        raise SettingError("layers", f"{layers} for {type(model).__name__}, a mixture of experts", "attention", mend)
    linear = {name: _part(name) for name, module in decoder.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    for part in ("mlp", "attention"):
        if place.part in (part, "both") and part not in linear.values():
            seen = dict.fromkeys(re.sub(r"\b\d+\b", "*", f"{prefix}.{name}") for name in linear)
            allowed = f"a model whose {part} has linear modules"
            raise SettingError(
                "layers", f"{layers} for {type(model).__name__}", allowed, f"this one has {', '.join(seen) or 'none'}"
            )
    numbers, parts = place.numbers(len(decoder)), ("mlp", "attention") if place.part == "both" else (place.part,)
    return [
        f"{prefix}.{name}" for name, part in linear.items() if part in parts and int(name.partition(".")[0]) in numbers
    ]


def tied(model: PreTrainedModel, adapted: Iterable[str]) -> str:
    """What goes wrong when an adapter of these modules is merged into a model whose head is its embedding, and the way
    out; "" where nothing does."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if not getattr(model.config, "tie_word_embeddings", False):
        return ""
    changed = [name for name in adapted if any(model.get_submodule(name) is end for end in ends)]
    if not changed:
        return ""
    return (
        f"{' and '.join(changed)}: this model's head and embedding are one weight, so that merging the adapter into "
        "it (merge_and_unload) would change both; keep it an adapter, or `lora-reuse compose format=model` writes a "
        "model in which they are two"
    )


def decoder_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The list that holds most of the text decoder: its layers. (A multimodal model has a list for its images too.)"""
    inside = set(model.get_decoder().modules())
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    return max(
        lists,
        key=lambda pair: (pair[1] in inside, sum(p.numel() for p in pair[1].parameters())),
        default=("", nn.ModuleList()),
    )


def _part(name: str) -> str:
    """The part of its layer that a module is in, "attention", "mlp" or "", by the names that the families of models
    use."""
    part = (
        "attention"
        if re.search("attn|attention", name)
        else "mlp"
        if re.search(r"mlp|feed_?forward|ffn|\bfc\d|moe|expert", name)
        else ""
    )
    return "" if "norm" in name else part  # post_attention_layernorm
