"""A causal language model of any family, as the experiments see it: weights, tokens of a prompt and its answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from lora_reuse.llm.decoding.compiled import refuse_compiling
from lora_reuse.llm.decoding.gguf import described, is_gguf, read_once
from lora_reuse.llm.decoding.names import digest
from lora_reuse.llm.decoding.pages import keep_freed
from lora_reuse.llm.decoding.reading import (
    commit_of,
    here,
    read_config,
    read_tokenizer,
    read_weights,
    reading,
    reason,
)
from lora_reuse.llm.decoding.widened import widen
from lora_reuse.runs.settings import Choice, SettingError, did_you_mean

ENDS_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>")
"""Qwen's, Llama 3's and Gemma's; not every checkpoint's generation config lists its own."""


@dataclass(frozen=True, eq=False)
class Base:
    """A frozen model and its tokenizer.

    `name` is what the user wrote; `digest` names the weights: 16 hex digits of a GGUF file or of a folder's config.json
    and safetensors, or the hub's commit. `described` says how a GGUF file stored them. A base that is `compiled` trains
    adapters with compiled layers."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    digest: str
    chat: bool
    described: str = ""
    compiled: bool = False

    @property
    def device(self) -> torch.device:
        """Where token ids go: the device of the input embedding."""
        return _embedding(self.model).device

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.model.parameters())
        how = f"{str(self.model.dtype).removeprefix('torch.')} on {self.device}"
        template = "" if self.chat else ", no chat template"
        return f"<Base {self.name!r}: {type(self.model).__name__}, {size / 1e6:,.1f} M parameters, {how}{template}>"


def load_base(
    model: str,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str = "",
    chat: str = "auto",
    trust_remote_code: bool = False,
    compile: bool = False,
) -> Base:
    """A causal language model and its tokenizer, in eval mode and frozen; only safetensors and GGUF files are read.

    Args:
        model: a name on the Hugging Face hub, a folder, a GGUF file; `"pocket"`, the committed model of 3.7 M
            parameters; or `"smollm2"`, SmolLM2-135M-Instruct, which `lora-reuse smollm2` fetches.
        dtype: auto, float32, bfloat16 or float16; auto is float32 on a CPU and else the checkpoint's own.
        device: auto, cpu, cuda, cuda:0 or mps.
        device_map: spreads the layers over devices (auto, balanced, balanced_low_0, sequential), in place of `device`.
        chat: whether prompts go through the tokenizer's chat template: auto (if it has one), on or off. Adapters are
            asked as they were trained.
        trust_remote_code: run code that comes with the model.
        compile: train adapters with layers that torch.compile compiled, on a CPU with a C++ compiler.

    Returns:
        The base. Its `model` and `tokenizer` are those of transformers.

    Raises:
        SettingError: there is no such model, its weights are not safetensors or GGUF, or a value is not allowed.

    Examples:
        >>> lr.load_base("pocket")
        <Base 'pocket': Qwen2ForCausalLM, 3.7 M parameters, float32 on cpu, no chat template>
    """
    _choose("dtype", dtype, "auto", "float32", "bfloat16", "float16")
    _choose("chat", chat, "auto", "on", "off")
    place = device_for(device, device_map)
    where = here(model) or model
    commit = None if isinstance(where, Path) else commit_of(model)
    source = {"revision": commit, "trust_remote_code": trust_remote_code}
    if dtype == "auto" and place == "cpu":
        # CPUs multiply half-precision matrices slowly, mostly by emulation, and sum them with less care than a GPU.
        dtype = "float32"
    if place == "cpu":
        keep_freed()
    with read_once():
        config = read_config(model, where, source)
        tokenizer = read_tokenizer(model, where, source)
        talks = _talks(model, tokenizer, chat)
        options = {"config": config, "dtype": dtype, "device_map": device_map or place}
        weights = read_weights(model, where, source | options)
    head: Any = weights.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(_in_one_piece)
    widen(weights)
    if compile:
        refuse_compiling(weights, place)
    pad: Any = tokenizer.pad_token_id
    if pad is None or pad >= len(_embedding(weights)):
        # Masked wherever it stands; a new token would need a new row of the embedding.
        tokenizer.pad_token = tokenizer.eos_token
    stored = described(where) if is_gguf(where) else ""
    return Base(weights, tokenizer, model, commit or digest(Path(where)), talks, stored, compile)


def _in_one_piece(head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """torch on a CPU copies the head's weights once a row for states in bfloat16 that are a slice, as those of the last
    token of each prompt are (pytorch#151934 has the slow product): 128 prompts to SmolLM2 took 14 s and 7 GB there, and
    in one piece 0.05 s, with the same bits."""
    return (inputs[0].contiguous(), *inputs[1:]) if inputs else inputs


def load_frame(model: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """A model's modules, by name and shape, without their weights (on torch's meta device): of the model only
    config.json or a GGUF file's header is read, and a folder needs no more.

    Raises SettingError as `load_base` does.
    """
    where = here(model, weights=False) or model
    source = {"revision": None if isinstance(where, Path) else commit_of(model), "trust_remote_code": trust_remote_code}
    config = read_config(model, where, source)
    with reading(model, where, "config"), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code).eval()


def digest_of(model: str) -> str:
    """The `digest` that `load_base` gives to the model's weights; those on this machine are read for it, but not
    loaded. Raises SettingError."""
    where = here(model)
    return commit_of(model) if where is None else digest(where)


def prompt(base: Base, source: str) -> list[int]:
    """The tokens the model goes on from.

    With chat, `source` is the user's message, and the assistant's turn is open. Without, `source` is encoded with the
    tokenizer's BOS, which Llama and Gemma need (mttl left it out), and without an EOS at the end."""
    return _chat(base.tokenizer, source) if base.chat else _text(base, source)


def example(base: Base, source: str, target: str) -> tuple[list[int], list[int]]:
    """`prompt(base, source)` and the tokens to learn after it, which end in EOS or the template's end of turn.

    Without chat the answer is that of mttl, " " + target + EOS.
    """
    asked = prompt(base, source)
    return asked, after(base, asked, source, target)


def after(base: Base, asked: list[int], source: str, target: str) -> list[int]:
    """The second part of `example`, after the tokens of the prompt, which many answers may have in common."""
    eos: list[Any] = [base.tokenizer.eos_token_id]
    if not base.chat:
        joint = _text(base, f"{source} {target}")
        if joint[: len(asked)] == asked:
            return joint[len(asked) :] + eos
        return _ids(base.tokenizer(f" {target}", add_special_tokens=False)) + eos  # a token across the border
    said = _chat(base.tokenizer, source, target)
    if said[: len(asked)] != asked:  # the open turn is no part of the finished one, as with an open <think>
        return _ids(base.tokenizer(target, add_special_tokens=False)) + eos
    answer, stops = said[len(asked) :], stop_ids(base)
    end = next((i for i, token in enumerate(answer) if token in stops), None)
    # Templates write on, a newline at least, where decoding has stopped.
    return answer + eos if end is None else answer[: end + 1]


def stop_ids(base: Base) -> list[int]:
    """The tokens that end an answer: the tokenizer's and the generation config's EOS, and known ends of turn, in
    ascending order."""
    tokenizer: Any = base.tokenizer
    listed = getattr(base.model.generation_config, "eos_token_id", None)
    found = {tokenizer.eos_token_id, *(listed if isinstance(listed, list) else [listed])}
    for token in ENDS_OF_TURN:
        number = tokenizer.convert_tokens_to_ids(token)
        if number is not None and tokenizer.convert_ids_to_tokens(number) == token:  # and not <unk>
            found.add(number)
    return sorted(found - {None})


def _chat(tokenizer: PreTrainedTokenizerBase, *said: str) -> list[int]:
    """A conversation of one message, with the answer's turn open, or of a message and its answer."""
    messages = [{"role": role, "content": content} for role, content in zip(("user", "assistant"), said, strict=False)]
    # Templates that know the last two keep their prompts short, and the same every day; others ignore them.
    options = {
        "add_generation_prompt": len(said) == 1,
        "return_dict": False,
        "enable_thinking": False,
        "date_string": "26 Jul 2024",
    }
    return _ids(tokenizer.apply_chat_template(messages, tokenize=True, **options))


def _text(base: Base, text: str) -> list[int]:
    ids = _ids(base.tokenizer(text))
    if ids[-1:] != [base.tokenizer.eos_token_id]:
        return ids
    bare = _ids(base.tokenizer(text, add_special_tokens=False))
    return ids if ids[len(ids) - len(bare) :] == bare else ids[:-1]  # the end is the tokenizer's, not the text's


def _ids(encoded: Any) -> list[int]:
    return list(encoded["input_ids"] if isinstance(encoded, Mapping) else encoded)


def device_for(device: str, device_map: str = "") -> str:
    """The device, or, under a device map, the kind of the fastest one: `cpu` means that nothing else is there. Raises
    SettingError for one that this torch does not see."""
    cuda, mps = torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.backends.mps.is_available()
    if device_map:
        _choose("device_map", device_map, "auto", "balanced", "balanced_low_0", "sequential")
        if device != "auto":
            raise SettingError("device", device, f"auto with device_map={device_map}", "the map places every layer")
    if device == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    there = ["auto", "cpu", *["cuda"] * bool(cuda), *(f"cuda:{i}" for i in range(cuda)), *["mps"] * mps]
    if device not in there:
        raise SettingError("device", device, " | ".join(there), "this torch sees no others")
    return device


def _talks(model: str, tokenizer: PreTrainedTokenizerBase, chat: str) -> bool:
    """Whether the chat template is used; tried here, before the weights are read."""
    if chat == "off" or (chat == "auto" and not tokenizer.chat_template):
        return False
    if not tokenizer.chat_template:
        raise SettingError("chat", f"on for {model}", "auto | off", "its tokenizer has no chat template")
    try:
        _chat(tokenizer, "x")
    except Exception as error:  # a template is a program, and may raise anything
        raise SettingError(
            "chat", f"{chat} for {model}", "off", f"its chat template refuses a user's message ({reason(error)})"
        ) from error
    return True


def _embedding(model: PreTrainedModel) -> torch.Tensor:
    return next(model.get_input_embeddings().parameters())


def _choose(name: str, value: str, *words: str) -> None:
    if value not in words:
        raise SettingError(name, repr(value), Choice(*words).allowed, did_you_mean(value, words))
