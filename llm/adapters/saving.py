"""Compositions on disk: a static one is a PEFT folder, which PEFT loads by itself; a routed one is a folder of our own,
which we load.

composition = load_composition(folder, model)
Resident(model).use([composition])
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lora_reuse.llm.adapters.folders import CONFIG, check_new, linear_shape, load_expert, save_expert
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.compositions import KINDS, Composition, Delta
from lora_reuse.runs.files import whole_folder
from lora_reuse.runs.settings import SettingError

FORMAT = 1
ROUTED, FACTORS = "composition.json", "composition.safetensors"
OURS = "a composition as save_composition writes it"


def named(place: str) -> str:
    """A model's or adapter's name: of a folder or file of this machine its last part, which says the same elsewhere."""
    path = Path(place).expanduser()
    return path.name if path.exists() else place


@dataclass(frozen=True)
class Card:
    """What the folder says of itself: its base, the rule (`says`: its formula), what it was made of and with, how (a
    command, libraries)."""

    base: str
    rule: str
    says: str = ""
    experts: Mapping[str, str] = field(default_factory=dict)
    """Adapters, and what tells them from others of the same name (the digest of their weights)."""
    dials: Mapping[str, Any] = field(default_factory=dict)
    made: str = ""

    def text(self, loading: str, peft: bool) -> str:
        """A model card in Markdown, with the lines that load the folder."""
        head = [
            "---",
            f"base_model: {json.dumps(named(self.base))}",
            *(["library_name: peft"] if peft else []),
            "tags: [lora, merge]",
            "---",
        ]
        body = [f"# {self.rule} of {len(self.experts) or 'some'} adapters", "", " ".join(self.says.split()), ""]
        body += [
            f"- {named(name)} ({digest})" if digest else f"- {named(name)}" for name, digest in self.experts.items()
        ]
        body += [
            "",
            "Dials: " + (", ".join(f"{name}={value}" for name, value in self.dials.items()) or "none") + ".",
        ]
        body += [f"Made by {self.made}."] if self.made else []
        return "\n".join([*head, *body, "", "```python", loading, "```", ""])

    def plain(self) -> dict[str, Any]:
        """What a routed composition's file says of itself."""
        experts = [[named(name), digest] for name, digest in self.experts.items()]
        said = {"base": named(self.base), "rule": self.rule, "experts": experts}
        return said | {"dials": dict(self.dials), "made": self.made}


def save_composition(composition: Composition, model: nn.Module, folder: str | Path, card: Card) -> None:
    """Writes the composition of `model`; the folder appears whole or not at all.

    Where every update is a LowRank the folder is a PEFT adapter with the same ΔW, α = r in every module, and ranks as
    the rule made them. Else it holds the fields of every update, so that a router comes back as it was, whatever made
    it. Raises SettingError for a folder with something in it, for weights that are not finite, for modules that the
    model does not have and for updates that no file can hold."""
    folder = Path(folder)
    check_new(folder)
    _check(composition, model, str(folder))
    if all(isinstance(delta, LowRank) for delta in composition.values()):
        lines = "model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)"
        conv = isinstance(model.get_submodule(next(iter(composition))), Conv1D)
        save_expert(composition, folder, card.base, fan_in_fan_out=conv, card=card.text(lines, peft=True))
        return
    tensors: dict[str, Tensor] = {}
    modules = {name: _taken_apart(name, delta, tensors) for name, delta in composition.items()}
    said = {"format": FORMAT, **card.plain(), "modules": modules}
    with whole_folder(folder) as partial:
        safetensors.torch.save_file(tensors, partial / FACTORS)
        (partial / ROUTED).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        lines = (
            "composition = load_composition(folder, model)  # from "
            "lora_reuse.llm.adapters.saving\nResident(model).use([composition])  # from "
            "lora_reuse.llm.decoding.resident"
        )
        (partial / "README.md").write_text(card.text(lines, peft=False), encoding="utf-8")


def load_composition(folder: str | Path, model: nn.Module) -> Composition:
    """What `save_composition` wrote, or any plain PEFT folder, for a model of the same modules. Raises SettingError
    when it does not fit."""
    folder = Path(folder)
    if (folder / CONFIG).is_file():
        return load_expert(folder, model)
    try:
        said = json.loads((folder / ROUTED).read_text(encoding="utf-8"))
        modules, version = dict(said["modules"]), said["format"]
    except (OSError, ValueError, KeyError, TypeError):
        raise SettingError("composition", f"no readable {ROUTED} in {folder}", OURS) from None
    if version != FORMAT:
        raise SettingError(
            "composition",
            f"format {version} in {folder}",
            f"format {FORMAT}",
            "another version of this software wrote it",
        )
    try:
        tensors = safetensors.torch.load_file(folder / FACTORS)
    except (SafetensorError, OSError) as error:
        raise SettingError(
            "composition", f"a broken {FACTORS} in {folder} ({error})", "a complete safetensors file"
        ) from None
    composition = {name: _put_together(name, fields, tensors, folder) for name, fields in modules.items()}
    _check(composition, model, str(folder))
    return composition


def _check(composition: Composition, model: nn.Module, folder: str) -> None:
    modules = dict(model.named_modules())
    for name, delta in composition.items():
        shape = linear_shape(modules[name]) if name in modules else None
        if shape != delta.shape:
            there = "no such linear module in the model" if shape is None else f"{shape} in the model"
            raise SettingError(
                "composition",
                f"{folder} with ΔW of shape {delta.shape} for {name}, {there}",
                "the modules of its base model",
            )


def _taken_apart(name: str, delta: Delta, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The kind and the plain fields of an update; its tensors go to `tensors`."""
    if isinstance(delta, LowRank):
        fields: dict[str, Any] = delta._asdict()
    elif dataclasses.is_dataclass(delta) and KINDS.get(type(delta).__name__) is type(delta):
        fields = {f.name: getattr(delta, f.name) for f in dataclasses.fields(delta)}
    else:
        raise SettingError(
            "composition", f"a {type(delta).__name__} in {name}", "updates of a kind in llm.compositions.KINDS"
        )
    plain: dict[str, Any] = {"kind": type(delta).__name__}
    for key, value in fields.items():
        if isinstance(value, Tensor):
            if not torch.isfinite(value).all():
                raise SettingError("composition", f"NaN or infinity in {key} of {name}", "finite weights")
            tensors[f"{name}.{key}"] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        elif json.loads(json.dumps(value, default=str)) == (list(value) if isinstance(value, tuple) else value):
            plain[key] = value
        else:
            raise SettingError(
                "composition",
                f"{key}, a {type(value).__name__}, in {name}",
                "tensors, numbers, words and tuples of them",
            )
    return plain


def _put_together(name: str, plain: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> Delta:
    """The update again. Only kinds of `KINDS` are made; files of an earlier version name a kind by its path as a
    class."""
    kind = str(plain.get("kind") or str(plain.get("class")).rpartition(".")[2])
    fields = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in plain.items()
        if key not in ("kind", "class")
    }
    fields |= {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.rpartition(".")[0] == name}
    try:
        return KINDS[kind](**fields)
    except (KeyError, TypeError):
        raise SettingError("composition", f"{kind} with {', '.join(fields)} for {name} in {folder}", OURS) from None
