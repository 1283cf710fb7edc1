"""Folders with tiny causal language models of random weights, as `load_base` reads them.

Import it as `from tests.llm.tiny import tiny`, which works from any test under `python -m pytest`:

    base = load_base(str(tiny("llama", tmp_path)))
    base = load_base(str(tiny("qwen2", tmp_path / "other", text="Who is the spouse of Ann Lee ? Bo Chan", chat=True)))
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

WORDS = (
    "the spouse of Ann Lee is Bo Chan and lives in Paris Rome city town who Where where does live What what by step so"
    " answer . ? : ,"
)
"""Words that are one token each by default; other text is cut into smaller ones."""

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, as Qwen writes it but for the system's turn."""

_NEOX = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
_LLAMA = _NEOX | {"num_key_value_heads": 2}
_OPT = {
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
FAMILIES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "qwen2": (Qwen2Config, _LLAMA),
    "llama": (LlamaConfig, _LLAMA),
    "mistral": (MistralConfig, _LLAMA),
    "gemma2": (Gemma2Config, _LLAMA | {"head_dim": 8}),
    "phi": (PhiConfig, _LLAMA),
    "phi3": (Phi3Config, _LLAMA),
    "gpt_neox": (GPTNeoXConfig, _NEOX),
    "gpt2": (GPT2Config, {"n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "opt": (OPTConfig, _OPT | {"word_embed_proj_dim": 16}),
    "mixtral": (MixtralConfig, _LLAMA | {"num_local_experts": 2}),
}
"""What `tiny` can build: 2 layers of width 32, 4 heads; the last two are a model with projections around its layers and
one with experts."""


def tiny(
    family: str,
    folder: Path,
    *,
    text: str = WORDS,
    chat: bool = False,
    bos: bool = False,
    eos: bool = True,
    pad: bool = True,
    tie: bool | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Path:
    """Saves a model of `FAMILIES` and a tokenizer over the words of `text` in `folder` (made if need be), and returns
    it.

    chat: the tokenizer has the chat template `TEMPLATE`. bos: it puts <s> before every text. eos, pad: it has </s>,
    <pad>. tie: whether the output layer is the embedding (None: as the family does)."""
    tokenizer = words_tokenizer(text, chat=chat, bos=bos, eos=eos, pad=pad)
    cls, sizes = FAMILIES[family]
    tied = {} if tie is None else {"tie_word_embeddings": tie}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    settings: Any = {"vocab_size": len(tokenizer)} | sizes | tied | ids
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(cls(**settings), dtype=dtype)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def words_tokenizer(
    text: str, *, chat: bool = False, bos: bool = False, eos: bool = True, pad: bool = True
) -> PreTrainedTokenizerBase:
    """A byte-level BPE, so that any string comes back from its tokens, with a token for each word of `text`, at a
    text's start or after a blank.

    Bytes rather than bare words, and cut by Qwen's rule, because transformers reads any tokenizer of a qwen2 model as
    that."""
    special = ["<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
    backend = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=10**6,
        min_frequency=1,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(
        [form for word in f"user assistant {text}".split() for form in (word, f" {word}")], trainer
    )
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {
        "unk_token": "<unk>",
        "bos_token": "<s>" if bos else None,
        "eos_token": "</s>" if eos else None,
        "pad_token": "<pad>" if pad else None,
    }
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, **{name: token for name, token in names.items() if token}
    )
    if chat:
        tokenizer.chat_template = TEMPLATE
    return tokenizer
