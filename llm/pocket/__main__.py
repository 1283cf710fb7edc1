"""lora-reuse pocket out=results/pocket seed=1

Pretrains a pocket model and measures what it can do before any adapter. `out` becomes an ordinary Hugging Face folder.
Interrupted, the same command goes on from its last checkpoint, a minute back at most."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_reuse.runs.command import begin, command, settings_are_right, without_help
from lora_reuse.runs.settings import Choice, Flag, Place, SettingError, Whole, grid, help_table, parse, setting


@dataclass(frozen=True)
class Options:
    """Where and how."""

    out: str = setting("results/pocket", Place("a folder"), "the model's folder")
    threads: int = setting(2, Whole(1, 1024), "CPU threads; the bits depend on their number")
    device: str = setting("cpu", Choice("cpu", "cuda", "mps"), "where it is pretrained; the bits depend on it")
    dry_run: bool = setting(False, Flag(), "print what would be done, and do nothing")


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code: 0 done, 2 a mistake in the settings, 130 interrupted."""
    return command("llm.pocket", _main, words, "the same command goes on from the last checkpoint")


def _main(words: list[str]) -> int:
    words, help = without_help(words)
    from lora_reuse.llm.pocket.size import Size

    axes, given = parse(words, Size, Options)
    if help:
        print((__doc__ or "").strip() + "\n\n" + help_table(Size, Options))
        return 0
    sizes, options = list(grid(Size, axes)), Options(**given)
    if len(sizes) > 1:
        raise SettingError("llm.pocket", f"{len(sizes)} models", "one model a command, without comma lists")
    size = sizes[0]
    folder = Path(options.out)
    settings_are_right(options.out)
    if options.dry_run:
        begin()
        print(f"{size.steps} steps of {size.tokens // size.steps} tokens into {folder}: {dataclasses.asdict(size)}")
        minutes = size.tokens / 7000 / 60 * (size.width / 256) ** 2 * size.layers / 4
        print(f"time: about {minutes:.0f} min on two CPU cores; nothing was run")
        return 0
    import torch

    from lora_reuse.llm.decoding.models import device_for
    from lora_reuse.llm.pocket import switches
    from lora_reuse.llm.pocket.card import write_card
    from lora_reuse.llm.pocket.pretrain import checkpoint, pretrain

    torch.set_num_threads(options.threads)
    device = device_for(options.device)
    whole = (folder / "model.safetensors").exists() and not checkpoint(folder).exists()
    same = whole and switches(folder) == size.recorded
    if whole and not same:
        raise SettingError("out", f"{folder}, which holds a model", "a folder without one", "choose another out=")
    begin(options.out)
    if same:
        print(f"{folder} holds the model of these settings already")
        return 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError("out", f"{folder} ({error.strerror})", "a folder that can be written") from None
    made = pretrain(size, folder, device=device)
    print(write_card(folder, size, made))
    checkpoint(folder).unlink()  # not before the card is there, or a kill meanwhile would leave a model without one
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
