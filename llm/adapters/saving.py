"""Compositions on disk: a static one is a PEFT folder, which PEFT loads by itself; a routed one is a folder of our own,
which we load."""

import dataclasses
import filecmp
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lora_reuse.llm.adapters.adapter import Adapter, Card, load_adapter, named
from lora_reuse.llm.adapters.bases import same_base
from lora_reuse.llm.adapters.config import CONFIG
from lora_reuse.llm.adapters.folders import Layout, layout, load_expert, weight_shape
from lora_reuse.llm.adapters.gguf_lora import gguf_of
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.writing import check_new, save_expert, tensor_file
from lora_reuse.llm.compositions import KINDS, Composition, Delta
from lora_reuse.llm.decoding.models import Base
from lora_reuse.runs.files import whole_folder
from lora_reuse.runs.settings import SettingError

FORMAT = 1
ROUTED, FACTORS = "composition.json", "composition.safetensors"
OURS = "a composition as `lora-reuse compose` and lora_reuse.save write it"


def save(adapter: Adapter, folder: str | Path) -> None:
    """Writes an adapter or a composition to a new folder, which appears whole or not at all.

    A static one becomes a PEFT folder with the same ΔW, which `peft.PeftModel.from_pretrained` and vLLM load by
    themselves. One with a router becomes a folder that `load` alone reads. Both have a README.md that says what it was
    made of, with which dials, and how to load it.

    Args:
        adapter: what `compose`, `load_adapter`, `train_adapter` or `load` returned.
        folder: a new or an empty folder, or one that holds the very same already.

    Raises:
        SettingError: there is something in the folder, or weights are not finite.

    Examples:
        >>> lr.save(lr.compose([a, b], "ties", density=0.3), "merged")
        >>> lr.load(base, "merged")
        <Adapter 'merged': rank 2, 12 modules of pocket>
    """
    folder = Path(folder).expanduser()
    if not _holds(folder, adapter):
        _save(adapter, adapter.static, adapter.layout, folder, adapter.card)


def _holds(folder: Path, adapter: Adapter) -> bool:
    """Whether `save` of this very adapter made the folder: a cell of a notebook is run more than once."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    with tempfile.TemporaryDirectory() as scratch:
        new = Path(scratch) / "new"
        _save(adapter, adapter.static, adapter.layout, new, adapter.card)
        names = [path.name for path in new.iterdir()]
        return filecmp.cmpfiles(new, folder, names, shallow=False)[0] == names


def save_composition(composition: Composition, model: nn.Module, folder: str | Path, card: Card) -> None:
    """`save` for updates without a card, of a model. Raises SettingError, also for modules that the model does not have
    and for updates that no file can hold."""
    folder = Path(folder).expanduser()
    check_new(folder)
    _check(composition, model, str(folder))
    static = all(isinstance(delta, LowRank) for delta in composition.values())
    _save(composition, static, layout(model, composition), folder, card)


def _save(composition: Composition, static: bool, layout: Layout, folder: Path, card: Card) -> None:
    """Where every update is a LowRank, a PEFT adapter with the same ΔW, α = r in every module, and ranks as the rule
    made them. Else the fields of every update, so that a router comes back as it was, whatever made it. One module is
    asked for after the other, once each."""
    check_new(folder)
    if static:
        lines = "model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)"
        save_expert(composition, folder, card.base, layout, lambda: card.text(lines, "peft"))
        return
    with whole_folder(folder) as partial:
        with tensor_file(partial / FACTORS) as put:
            modules = {name: _taken_apart(name, delta, put) for name, delta in composition.items()}
        said = {"format": FORMAT, **card.plain(), "modules": modules}
        (partial / ROUTED).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        lines = "base = lora_reuse.load_base(base)\ncomposition = lora_reuse.load(base, folder)"
        (partial / "README.md").write_text(card.text(lines), encoding="utf-8")


def made_before(folder: Path, card: Card, *libraries: str) -> bool:
    """Whether the folder was written under this card, for one of these libraries to load: the same rule and dials on
    the same adapters of the same base, whatever the versions."""
    readme = folder / "README.md"
    if not any(path.suffix in (".safetensors", ".gguf") for path in folder.glob("*")):
        return False  # the weights were taken away
    said = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    unmade = dataclasses.replace(card, made="")
    return any(said.startswith(unmade.text("", it).partition("\n\n```")[0] + "\n") for it in libraries)


def load(base: Base, folder: str | Path, another_model: bool = False) -> Adapter:
    """What `save` wrote: a static composition, which any PEFT folder can be, or a router.

    Args:
        base: the model that it was made for.
        folder: the folder that `save` made, or a GGUF adapter that `lora-reuse compose format=gguf` did.
        another_model: take it although it names another base than this one.

    Returns:
        The adapter, named after the folder. What it was made of is in the folder's README.md.

    Raises:
        SettingError: the folder is neither, is broken, or is of another base.

    Examples:
        >>> lr.save(lr.compose([a, b], "arrow"), "routed")
        >>> lr.load(base, "routed")
        <Adapter 'routed': routed, 12 modules of pocket>
    """
    folder = Path(folder).expanduser()
    if (folder / CONFIG).is_file() or gguf_of(folder):
        return load_adapter(base, folder, another_model)
    updates = load_composition(folder, base.model, "" if another_model else base.name)
    card = Card(base.name, "", experts={str(folder): ""})
    return Adapter(updates, card, layout(base.model, updates))


def load_composition(folder: str | Path, model: nn.Module, base: str = "") -> Composition:
    """What `save_composition` wrote, or any plain PEFT folder, for a model of the same modules. Raises SettingError
    when it does not fit, or has a router and names another base than `base`, if that is given."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise SettingError("composition", f"{folder}, which is no folder", "a folder that save wrote, or a PEFT folder")
    if (folder / CONFIG).is_file():
        return load_expert(folder, model)
    said = said_of(folder)
    if base and said["base"] and not same_base(said["base"], base):
        got = f"{named(base)}, and {folder} names {said['base']}"
        raise SettingError("model", got, "the model that it was made for", "another_model=True takes it all the same")
    modules, version = said["modules"], said["format"]
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


def said_of(folder: Path) -> dict[str, Any]:
    """What the file of a routed composition says: its format, its modules, and the card, of which earlier versions said
    nothing. Raises SettingError for one that does not say these."""
    card = {"base": "", "rule": "", "experts": [], "dials": {}}
    try:
        said = {**card, **json.loads((folder / ROUTED).read_text(encoding="utf-8"))}
        whole = isinstance(said["format"], int) and all(isinstance(it, dict) for it in said["modules"].values())
        whole &= all(isinstance(said[name], type(empty)) for name, empty in card.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole, said = False, {}
    if not whole:
        raise SettingError("composition", f"no readable {ROUTED} in {folder}", OURS)
    return said


def _check(composition: Composition, model: nn.Module, folder: str) -> None:
    modules = dict(model.named_modules())
    for name, delta in composition.items():
        shape = weight_shape(modules[name]) if name in modules else None
        if shape != delta.shape:
            there = "no such linear module or embedding in the model" if shape is None else f"{shape} in the model"
            raise SettingError(
                "composition",
                f"{folder} with ΔW of shape {delta.shape} for {name}, {there}",
                "the modules of its base model",
            )


def _taken_apart(name: str, delta: Delta, put: Callable[[str, Tensor], None]) -> dict[str, Any]:
    """The kind and the plain fields of an update; its tensors are written."""
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
            put(f"{name}.{key}", value)
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
