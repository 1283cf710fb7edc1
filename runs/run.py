"""lora-reuse run recipe.yaml [print=command]

Runs the commands of a YAML recipe one after another. A step is a command with its settings, which are those of the
command line; runs/recipe.py shows one. Every step is looked at before the first is run: its settings, and the files
that they name, but those that an earlier step makes. Paths are those of the folder that the command is called in. A
step is a process of its own, and what it writes says its own command. Started again, a recipe goes on as its commands
do: what is there is not made again. With print=command nothing is run, and the command lines are printed."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_reuse.runs.command import command, without_help
from lora_reuse.runs.recipe import Step, read
from lora_reuse.runs.settings import Choice, SettingError, help_table, parse_options, setting


@dataclass(frozen=True)
class Options:
    """Beside the file:"""

    print: str = setting("", Choice("command"), "print the command line of each step, and run nothing")


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code: that of the step that failed, 0 when none did, 2 for a mistake in the
    recipe, 130 interrupted."""
    return command("run", _main, words, "the same command goes on from there")


def _main(words: list[str]) -> int:
    words, help = without_help(words)
    files = [word for word in words if not word.startswith("print=")]
    options = parse_options([word for word in words if word not in files], Options)
    if help or not words:
        print((__doc__ or "").strip() + "\n\n" + help_table(Options))
        return 0
    if len(files) != 1:
        raise SettingError("recipe", " ".join(files) or "nothing", "one file", "lora-reuse run recipe.yaml")
    steps = read(Path(files[0]))
    _look(steps, files=not options.print)
    for i, step in enumerate(steps, start=1):
        line = shlex.join(["lora-reuse", step.command, *step.words])
        if options.print:
            print(line)
            continue
        print(f"{i}/{len(steps)}  {line}", flush=True)
        if code := _run(step):
            after = "; the steps after it were not run" if i < len(steps) else ""
            print(f"run: {step.place}: {step.command} ended with exit code {code}{after}", file=sys.stderr)
            return code
    return 0


def _look(steps: Sequence[Step], files: bool) -> None:
    """Raises SettingError for the first mistake in a step. Of a step that names what an earlier one makes, the settings
    alone are looked at: the files are not there yet."""
    made: list[Path] = []
    for step in steps:
        settings = (word.partition("=") for word in step.words)
        named = [Path(part).resolve() for key, _, text in settings if key != "out" for part in text.split(",")]
        waits = any(path.is_relative_to(place) for path in named for place in made)
        if out := step.look(files and not waits):
            made.append(Path(out).resolve())


def _run(step: Step) -> int:
    with subprocess.Popen([sys.executable, "-m", "lora_reuse", step.command, *step.words]) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the step got it too, and ends in its own way
            process.wait()
            raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
