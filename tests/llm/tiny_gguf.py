"""A folder of `tiny` as one GGUF file, written with llama.cpp's own package."""

import json
from pathlib import Path

import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType, get_tensor_name_map, quantize
from safetensors.torch import load_file

ARCHITECTURES = {"llama": MODEL_ARCH.LLAMA, "qwen2": MODEL_ARCH.QWEN2}


def tiny_gguf(
    folder: Path,
    path: Path,
    *,
    quantised: bool = False,
    architecture: str = "",
    eos: bool = True,
    parts: int = 0,
    lacks: str = "",
) -> Path:
    """Writes `folder`, a tiny llama or qwen2, to `path`, and returns it.

    quantised: matrices of 32 columns are stored as Q4_1, in blocks of 32; else all is float32. architecture: what the
    file says it is, instead of what it is. eos: whether it names the tokenizer's. parts: of how many parts it says it
    is one. lacks: a tensor that is left out."""
    config = json.loads((folder / "config.json").read_text())
    family = config["model_type"]
    writer = GGUFWriter(path, architecture or family)
    writer.add_name("Tiny")
    writer.add_file_type(LlamaFileType.MOSTLY_Q4_1 if quantised else LlamaFileType.ALL_F32)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if parts:
        writer.add_uint16("split.count", parts)
    _add_tokenizer(writer, folder, config, eos)
    names = get_tensor_name_map(ARCHITECTURES[family], config["num_hidden_layers"])
    for name, weight in load_file(folder / "model.safetensors").items():
        if name == lacks:
            continue
        if family == "llama" and (".q_proj." in name or ".k_proj." in name):
            weight = _interleaved(
                weight, config["num_attention_heads" if ".q_proj." in name else "num_key_value_heads"]
            )
        stem, _, suffix = name.rpartition(".")
        here, array = f"{names.get_name(stem)}.{suffix}", weight.float().numpy()
        if quantised and weight.ndim == 2 and weight.shape[1] == 32:
            writer.add_tensor(here, quantize(array, GGMLQuantizationType.Q4_1), raw_dtype=GGMLQuantizationType.Q4_1)
        else:
            writer.add_tensor(here, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: GGUFWriter, folder: Path, config: dict, eos: bool) -> None:
    said = json.loads((folder / "tokenizer.json").read_text())
    tokens = sorted(said["model"]["vocab"], key=said["model"]["vocab"].get)
    special = {token["content"] for token in said["added_tokens"] if token["special"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in said["model"]["merges"]])
    writer.add_add_bos_token(config["bos_token_id"] is not None)
    if config["bos_token_id"] is not None:
        writer.add_bos_token_id(config["bos_token_id"])
    if eos:
        writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    if (folder / "chat_template.jinja").is_file():
        writer.add_chat_template((folder / "chat_template.jinja").read_text())


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp's order of a head's rows, in which the two numbers that are rotated together are neighbours."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
