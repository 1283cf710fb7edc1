"""A composition as a GGUF adapter for llama.cpp."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from gguf import MODEL_ARCH_NAMES, GGUFType, GGUFWriter, Keys
from transformers import PreTrainedConfig

from lora_reuse.llm.adapters.adapter import Adapter
from lora_reuse.llm.adapters.gguf_lora import EMBEDDING, HEAD, HUB, architecture, names, ordered
from lora_reuse.runs.files import whole_folder
from lora_reuse.runs.settings import SettingError

FILE = "adapter.gguf"


def save_gguf(adapter: Adapter, folder: Path, config: PreTrainedConfig | None) -> None:
    """Writes an adapter of the model of `config` to a new folder, as adapter.gguf in float32 and a README.md; the
    folder appears whole or not at all.

    α is the rank of the first module, and B of a module of rank r is multiplied by r/α. Raises SettingError for a
    router, and for what llama.cpp cannot load: other architectures than `ARCHITECTURES`, modules without a name there,
    and an embedding or a head that are one weight."""
    known = names(config, adapter)
    if unnamed := [module for module in adapter if module not in known]:
        raise SettingError("format", f"gguf for {unnamed[0]}", "modules that llama.cpp has a name for")
    ends = [module for module, name in known.items() if name in (EMBEDDING, HEAD)]
    if ends and getattr(config, "tie_word_embeddings", False):
        got = f"gguf for {' and '.join(ends)}, where head and embedding are one weight"
        raise SettingError("format", got, "adapters of other modules", "format=model parts the two")
    with whole_folder(folder) as partial:
        writer = GGUFWriter(partial / FILE, MODEL_ARCH_NAMES[architecture(config)], use_temp_file=True)
        try:
            _write(writer, adapter, known, config)
        finally:
            writer.close()
            if writer.temp_file:
                writer.temp_file.close()
        note = f"\nllama.cpp loads it with `--lora {FILE}` beside the base.\n"
        card = dataclasses.replace(adapter.card, note=lambda: adapter.card.note() + note)
        lines = "base = lora_reuse.load_base(base)\nadapter = lora_reuse.load_adapter(base, folder)"
        (partial / "README.md").write_text(card.text(lines, "gguf"), encoding="utf-8")


def _write(writer: GGUFWriter, adapter: Adapter, known: Mapping[str, str], config: PreTrainedConfig | None) -> None:
    updates, base = adapter.experts(), adapter.card.base
    alpha = max(next(iter(updates.values())).rank, 1)
    writer.add_type(GGUFType.ADAPTER)
    writer.add_name(adapter.card.title)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, Path(base).name)
    if base.count("/") == 1 and not Path(base).expanduser().exists():
        writer.add_base_model_repo_url(0, HUB + base)
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, float(alpha))
    for module, update in updates.items():
        rank = max(update.rank, 1)  # a ggml tensor has a column at least
        out, into = update.padded(rank)
        a, b = (into if known[module] == EMBEDDING else into.T), ordered(out, known[module], config, back=False)
        for factor, value in (("lora_a", a), ("lora_b", b * (rank / alpha))):
            if not value.isfinite().all():
                raise SettingError("expert", f"NaN or infinity in {module}", "finite weights")
            writer.add_tensor(f"{known[module]}.weight.{factor}", value.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
