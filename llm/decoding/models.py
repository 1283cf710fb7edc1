"""A causal language model of any family, as the experiments see it: weights, tokens of a prompt and its answer."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    StrictDataclassError,
)
from lora_reuse.llm.decoding.gguf import described, is_gguf, look_over, pretrained, read_dequantised
from lora_reuse.llm.decoding.names import SMOLLM2, digest, place_of
from lora_reuse.runs.settings import Choice, SettingError, did_you_mean
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.tokenization_utils_tokenizers import TokenizersBackend
from transformers.utils import logging

ENDS_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>")
"""Qwen's, Llama 3's and Gemma's; not every checkpoint's generation config lists its own."""

_MODEL = "a folder with config.json and *.safetensors, a GGUF file, or a name on the Hugging Face hub"
_CONVERT = "pickled weights can run code as they are read: convert them with the safetensors library"


@dataclass(frozen=True, eq=False)
class Base:
    """A frozen model and its tokenizer.

    `name` is what the user wrote; `digest` names the weights: 16 hex digits of a GGUF file or of a folder's config.json
    and safetensors, or the hub's commit. `described` says how a GGUF file stored them."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    digest: str
    chat: bool
    described: str = ""

    @property
    def device(self) -> torch.device:
        """Where token ids go: the device of the input embedding."""
        return _embedding(self.model).device


def load_base(
    model: str,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str = "",
    chat: str = "auto",
    trust_remote_code: bool = False,
) -> Base:
    """A model from a folder, a GGUF file or the hub, in eval mode and frozen; only safetensors and GGUF files are read.

    `device_map` spreads the layers over devices (auto, balanced, balanced_low_0, sequential), in place of `device`.
    Raises SettingError."""
    _choose("dtype", dtype, "auto", "float32", "bfloat16", "float16")
    _choose("chat", chat, "auto", "on", "off")
    place = _place(device, device_map)
    where = _here(model) or model
    commit = None if isinstance(where, Path) else _commit(model)
    source = {"revision": commit, "trust_remote_code": trust_remote_code}
    config = _config(model, where, source)
    tokenizer = _tokenizer(model, where, source)
    talks = _talks(model, tokenizer, chat)
    if dtype == "auto" and place == "cpu":
        dtype = "float32"  # CPUs multiply half-precision matrices slowly, most of them by emulation, and sum them with less care than a GPU
    weights = _weights(model, where, source | {"config": config, "dtype": dtype, "device_map": device_map or place})
    pad: Any = tokenizer.pad_token_id
    if pad is None or pad >= len(_embedding(weights)):
        tokenizer.pad_token = (
            tokenizer.eos_token
        )  # masked wherever it stands; a new token would need a new row of the embedding
    return Base(
        weights, tokenizer, model, commit or digest(Path(where)), talks, described(where) if is_gguf(where) else ""
    )


def load_frame(model: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """A model's modules, by name and shape, without their weights (on torch's meta device): of the model only
    config.json or a GGUF file's header is read.

    Raises SettingError as `load_base` does.
    """
    where = _here(model) or model
    source = {"revision": None if isinstance(where, Path) else _commit(model), "trust_remote_code": trust_remote_code}
    config = _config(model, where, source)
    with _reading(model, where, "config"), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code).eval()


def digest_of(model: str) -> str:
    """The `digest` that `load_base` gives to the model's weights; those on this machine are read for it, but not
    loaded. Raises SettingError."""
    where = _here(model)
    return _commit(model) if where is None else digest(where)


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
    eos: list[Any] = [base.tokenizer.eos_token_id]
    if not base.chat:
        joint = _text(base, f"{source} {target}")
        if joint[: len(asked)] == asked:
            return asked, joint[len(asked) :] + eos
        return asked, _ids(base.tokenizer(f" {target}", add_special_tokens=False)) + eos  # a token across the border
    said = _chat(base.tokenizer, source, target)
    if said[: len(asked)] != asked:  # the open turn is no part of the finished one, as with an open <think>
        return asked, _ids(base.tokenizer(target, add_special_tokens=False)) + eos
    answer, stops = said[len(asked) :], stop_ids(base)
    end = next((i for i, token in enumerate(answer) if token in stops), None)
    return asked, answer + eos if end is None else answer[
        : end + 1
    ]  # templates write on, a newline at least, where decoding has stopped


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


def _place(device: str, device_map: str) -> str:
    """The device, or, under a device map, the kind of the fastest one: `cpu` means that nothing else is there."""
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


def _here(model: str) -> Path | None:
    """The folder or GGUF file `model` names, looked over before anything heavy is read; None if it can only be a name
    on the hub."""
    folder = place_of(model)
    if not folder.is_dir():
        if folder.suffix == ".gguf":
            if not folder.is_file():
                raise SettingError(
                    "model",
                    f"{model}, and no file {folder}",
                    _MODEL,
                    "make smollm fetches it" if folder == SMOLLM2 else "",
                )
            with _reading(model, folder, "header"):
                look_over(model, folder)
            return folder
        if folder.exists():
            raise SettingError("model", f"{model}, which is a file", _MODEL, f"try model={folder.parent}")
        return None
    if not (folder / "config.json").is_file():
        mend = (
            "an adapter is no model: name the one it was trained on"
            if (folder / "adapter_config.json").is_file()
            else ""
        )
        raise SettingError("model", f"{model}, a folder without config.json", _MODEL, mend)
    if not any((folder / f"model.safetensors{end}").is_file() for end in ("", ".index.json")):
        pickled = any(path.suffix in (".bin", ".pt", ".pth", ".ckpt") for path in folder.iterdir())
        raise SettingError("model", f"{model}, a folder without model.safetensors", _MODEL, _CONVERT if pickled else "")
    return folder


def _commit(model: str) -> str:
    """The commit of the hub's main branch, or the one in the cache when offline: every file is then read from it."""
    with _reading(model, model, "config"):
        return Path(hf_hub_download(model, "config.json")).parent.name


def _config(model: str, where: Path | str, source: dict[str, Any]) -> PreTrainedConfig:
    with _reading(model, where, "config"):
        folder, file = pretrained(where)
        raw, _ = PreTrainedConfig.get_config_dict(folder, revision=source["revision"], **file)
        kind, own_code = raw.get("model_type"), raw.get("auto_map") or {}
        if kind not in CONFIG_MAPPING and not own_code:
            raise SettingError("model", f"{model} of model_type {kind}", "an architecture that this transformers knows")
        config = (
            AutoConfig.for_model(**raw) if file else AutoConfig.from_pretrained(where, **source)
        )  # a GGUF file takes seconds to read
    trained = ", ".join(config.architectures or [type(config).__name__])
    encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or "AutoModelForCausalLM" in own_code
    if (
        not causal
        or encoder
        or config.is_encoder_decoder
        or re.search("Classification|QuestionAnswering|MaskedLM", trained)
    ):
        raise SettingError("model", f"{model}, which is {trained}", "a causal language model")
    return config


def _tokenizer(model: str, where: Path | str, source: dict[str, Any]) -> PreTrainedTokenizerBase:
    with _reading(model, where, "tokenizer"):
        # For Qwen2 the Auto class builds Qwen's own tokenizer, even where the folder says that tokenizer.json is all
        # there is to it.
        folder, file = pretrained(where)
        plain = file or (
            isinstance(where, Path) and get_tokenizer_config(where).get("tokenizer_class") == TokenizersBackend.__name__
        )
        tokenizer = (TokenizersBackend if plain else AutoTokenizer).from_pretrained(
            folder, padding_side="left", **source, **file
        )
    if tokenizer.eos_token_id is None:
        raise SettingError(
            "model", f"{model}, whose tokenizer has no end-of-sequence token", "a tokenizer that can end an answer"
        )
    return tokenizer


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
            "chat", f"{chat} for {model}", "off", f"its chat template refuses a user's message ({_reason(error)})"
        ) from error
    return True


def _weights(model: str, where: Path | str, options: dict[str, Any]) -> PreTrainedModel:
    # A wrong shape is listed with the missing ones instead of raised, so that it can be named.
    options |= {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with _reading(model, where, "weights"):
        read: Any = (
            read_dequantised(where, **options)
            if is_gguf(where)
            else AutoModelForCausalLM.from_pretrained(where, **options)
        )
    loaded, info = read
    absent = sorted({*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])})
    if absent:  # transformers has drawn them at random
        listed = ", ".join(absent[:3]) + (f" and {len(absent) - 3} more" if len(absent) > 3 else "")
        raise SettingError(
            "model",
            f"{model}, whose weights lack {listed}, or have another shape",
            "every weight of its config's model",
        )
    return loaded.eval().requires_grad_(False)


def _embedding(model: PreTrainedModel) -> torch.Tensor:
    return next(model.get_input_embeddings().parameters())


def _choose(name: str, value: str, *words: str) -> None:
    if value not in words:
        raise SettingError(name, repr(value), Choice(*words).allowed, did_you_mean(value, words))


@contextmanager
def _reading(model: str, where: Path | str, part: str) -> Iterator[None]:
    """What goes wrong inside, in the words of someone who only typed `model`; transformers' own of several lines are
    not printed."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except SettingError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        got = f"{model}, which does not fit in the memory of its device"
        raise SettingError(
            "model", got, "a model that fits", "dtype=bfloat16, or device_map=auto for several GPUs"
        ) from error
    except (OSError, ValueError, KeyError, ImportError, SafetensorError, StrictDataclassError) as error:
        if "trust_remote_code" in str(error):
            got = f"{model}, which brings its own code"
            raise SettingError("model", got, "that only with trust_remote_code=true", "read the code first") from error
        if part == "weights" and "cannot be loaded with `safetensors`" in str(error):
            got = f"{model} without safetensors, on the hub or, where that cannot be reached, in its cache"
            raise SettingError("model", got, "safetensors", _CONVERT) from error
        said = {
            GatedRepoError: "which must be asked for on the hub first, and then needs `hf auth login`",
            RepositoryNotFoundError: "which is no folder here and no public model on the hub",
            HFValidationError: "which is no folder here and cannot be a name on the hub",
            LocalEntryNotFoundError: "which is no folder here and not in the hub's cache, and the hub cannot be reached",
        }
        why = next(
            (text for kind, text in said.items() if isinstance(error, kind)),
            f"whose {part} cannot be read ({_reason(error)})",
        )
        raise SettingError(
            "model",
            f"{model}, {why}",
            _MODEL,
            "a folder is written model=path/to/folder" if isinstance(where, str) else "",
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['nothing said'])[0]}".removesuffix(".")
