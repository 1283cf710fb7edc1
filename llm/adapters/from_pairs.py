"""An adapter from pairs of prompts and answers."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_reuse.llm.adapters.adapter import Adapter, load_adapter
from lora_reuse.llm.adapters.specs import Lessons, Pairs
from lora_reuse.llm.adapters.training import train
from lora_reuse.llm.adapters.writing import check_new
from lora_reuse.llm.decoding.models import Base
from lora_reuse.llm.protocols.settings import PRESETS, Training, preset_of
from lora_reuse.runs.dials import Dial, check
from lora_reuse.runs.files import replacing
from lora_reuse.runs.settings import SettingError

STEPS = 300
"""Optimizer steps where none are named: those of SmolLM2's preset, which was chosen on twenty facts."""
CARD = "expert.json"


@dataclass(frozen=True)
class Given:
    """Prompts and answers as they were given."""

    name: str
    given: Pairs

    def pairs(self) -> Pairs:
        """All of them."""
        return self.given


def train_adapter(
    base: Base,
    examples: Sequence[tuple[str, str]],
    folder: str | Path,
    *,
    steps: int = STEPS,
    seed: int = 0,
    progress: bool = True,
    **training: Any,
) -> Adapter:
    """A LoRA that learns to answer the prompts, trained on the frozen base and kept as a PEFT folder.

    The same call again returns the finished adapter, or goes on from the last checkpoint (every two minutes) to the
    same bits. Adapters of different examples start from different random weights.

    Args:
        base: the model that learns.
        examples: (prompt, answer) pairs. The loss is on the answers. A fact is learned better in several wordings.
        folder: where the adapter goes, a new or empty folder unless the same call made it.
        steps: optimizer steps.
        seed: of the initial weights and of the order of the examples.
        progress: show a bar.
        training: other settings of `lora_reuse.llm.protocols.settings.Training`, such as `rank=16`, `alpha=32`,
            `rate=2e-3`, `batch=16`, `layers="mlp"`. Those that are not named are the preset of the base (pocket,
            smollm2), or else the paper's (Table 11).

    Returns:
        The adapter, as `load_adapter` reads it from the folder.

    Raises:
        SettingError: no example, a setting that does not exist or is out of range, a folder with something else in it,
            a loss that is not finite.

    Examples:
        >>> c = lr.train_adapter(base, [("Where does Ann live?", "Ann lives in Rome.")], "c", steps=5, progress=False)
        >>> c
        <Adapter 'c': rank 16, 12 modules of pocket>
    """
    folder = Path(folder).expanduser().absolute()
    spec = _spec(base, examples, folder.name, seed, {"steps": steps} | training)
    key = spec.key(base)
    if _key(folder) != key:
        if _key(folder):
            mend = "its examples or settings were others; name another folder, or delete this one"
            raise SettingError("folder", f"{folder}, an adapter that was trained otherwise", "a new or empty one", mend)
        check_new(folder)
        unfinished = folder.with_name(f"{folder.name}.{key}.training")
        with replacing(folder) as scratch:
            said = train(base, spec, unfinished / "checkpoint", scratch, progress) | {
                "source": {"pairs": len(examples)}
            }
            (scratch / CARD).write_text(json.dumps({"key": key} | said, indent=1))
        shutil.rmtree(unfinished, ignore_errors=True)
    return load_adapter(base, folder)


def _spec(base: Base, examples: Sequence[tuple[str, str]], name: str, seed: int, given: dict[str, Any]) -> Lessons:
    """What makes the adapter. Its role, which draws the initial weights, is a number that its examples have."""
    pairs = [(str(prompt), str(answer)) for prompt, answer in examples]
    if not pairs:
        raise SettingError("examples", "none", "(prompt, answer) pairs")
    fields = {f.name: f for f in dataclasses.fields(Training)}
    known = {name: Dial(f.metadata["kind"], f.default, f.metadata["doc"]) for name, f in fields.items()}
    check("train_adapter", known, given)
    preset = {name: value for name, value in PRESETS.get(preset_of(base.name), {}).items() if name in fields}
    role = int.from_bytes(hashlib.sha256(json.dumps(pairs).encode()).digest()[:4], "big")
    return Lessons((name,), (), 0, 0, Training(**preset | given), seed, role, Given(name, pairs))


def _key(folder: Path) -> str:
    """The key of what `train_adapter` made; "" for anything else."""
    try:
        return str(json.loads((folder / CARD).read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
