"""lora-reuse gates routed=folder model=MODEL prompts=prompts.jsonl out=gates

Writes where a routed composition sends every token. It is a reference for routing in other software, such as a serving
engine. routed= is a folder that `lora-reuse compose composition=arrow` (or arrow_after, genknowsub) wrote, and prompts=
a file with one JSON object a line, {"prompt": ...}. Each prompt goes through the model alone, without padding or a
cache, in one forward pass with the composition on every module.

gates.safetensors has for prompt I, from 0, the tensors I/tokens [tokens], I/MODULE [tokens, experts] for every module,
whose rows sum to 1, and I/logits [vocabulary] after the last token. gates.json says the rule, its dials and formula,
the experts in the order of the columns, the modules, the model and the libraries. Factors and prototypes are in
routed=."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_reuse.llm.protocols.dials import GIVEN
from lora_reuse.llm.protocols.settings import Device, Model
from lora_reuse.runs.command import begin, refuse_full, settings_are_right, with_options
from lora_reuse.runs.files import whole_folder
from lora_reuse.runs.settings import Place, SettingError, Text, setting


@dataclass(frozen=True)
class Options(Device, Model):
    """What is asked, and how:"""

    routed: str = setting("", Place("a folder"), "a composition with a router, as `lora-reuse compose` writes it")
    prompts: str = setting("", Text("a JSONL file"), "the prompts")
    out: str = setting("", Place("a folder"), "a new or empty folder")


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code: 0 done, 2 a mistake in the settings or a file."""
    return with_options("llm.gates", _main, Options, words, bare=False)


def _main(options: Options) -> int:
    for name in ("routed", "prompts", "out"):
        if not getattr(options, name):
            raise SettingError(name, "nothing", f"{name}=...", "--help says more")
    settings_are_right(options.out)
    out, asked, routed = (Path(name).expanduser() for name in (options.out, options.prompts, options.routed))
    prompts = read_prompts(asked)
    refuse_full(out)
    if not (routed / "composition.json").is_file():
        raise SettingError("routed", f"{routed} without composition.json", "what compose wrote by a rule with a router")
    begin(options.out)
    said, tensors = gates(routed, prompts, options)
    from safetensors.torch import save_file

    try:
        with whole_folder(out) as partial:
            save_file(tensors, partial / "gates.safetensors")
            (partial / "gates.json").write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise SettingError("out", f"{out} ({error.strerror or error})", "a folder that can be written") from None
    print(f"gates of {len(prompts)} prompts in {len(said['modules'])} modules: {out}")
    return 0


def read_prompts(path: Path) -> list[str]:
    """The prompts of a JSONL file. Raises SettingError with the line of the first that is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError("prompts", f"{path} ({type(error).__name__})", "a JSONL file") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line)["prompt"])
        except (ValueError, KeyError, TypeError):
            found.append(None)
        if not isinstance(found[-1], str) or not found[-1].strip():
            raise SettingError(f"{path}:{number}", repr(line[:40]), '{"prompt": "..."}')
    if not found:
        raise SettingError("prompts", f"{path} without a prompt", 'lines {"prompt": "..."}')
    return found


def gates(routed: Path, prompts: Sequence[str], options: Options) -> tuple[dict[str, Any], dict[str, Any]]:
    """What gates.json and gates.safetensors hold. Raises SettingError for a folder that is no routed composition of the
    model."""
    import torch
    from transformers.utils import logging

    from lora_reuse.llm.adapters.saving import load, said_of
    from lora_reuse.llm.decoding.models import load_base, prompt
    from lora_reuse.llm.decoding.resident import Resident
    from lora_reuse.runs.provenance import provenance

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    base = load_base(
        options.model, options.dtype, options.device, options.device_map, options.chat, options.trust_remote_code
    )
    composition, tensors = load(base, routed), {}
    with Resident(base.model, record=True) as resident, torch.inference_mode():
        for i, text in enumerate(prompts):
            tokens = prompt(base, text)
            resident.use([composition])
            logits = base.model(input_ids=torch.tensor([tokens], device=base.device), use_cache=False).logits
            tensors |= {f"{i}/{name}": found[0] for name, (found,) in resident.gates[0].items()}
            tensors |= {f"{i}/tokens": torch.tensor(tokens), f"{i}/logits": logits[0, -1].float().cpu()}
    made = said_of(routed)
    said = {name: made[name] for name in ("rule", "dials", "experts")}
    rule = GIVEN.get(made["rule"].partition(":")[0])  # none of a rule in a file of one's own
    said |= {"formula": " ".join(rule.doc.split())} if rule else {}
    said |= {
        "modules": sorted(composition),
        "model": {"name": made["base"], "digest": base.digest, "dtype": str(base.model.dtype).removeprefix("torch.")},
        "versions": provenance("torch", "transformers", "safetensors")["versions"],
        "prompts": list(prompts),
    }
    return said, {name: tensor.contiguous() for name, tensor in tensors.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
