"""lora-reuse harness model=Qwen/Qwen2.5-3B-Instruct library=folder/a,folder/b composition=arrow
tasks=lora_reuse_r12_cot,arc_easy

Lets lm-evaluation-harness evaluate any composition on any of its tasks. `pip install 'lora-reuse[harness]'` installs
it. The composition is that of the adapters in library= by a rule, or one that `lora-reuse compose` saved,
composition=FOLDER; without either, the model alone answers. A dial that is not named has the value of the model's
preset, or else the rule's default. The two-hop questions are tasks of their own, lora_reuse_r1, lora_reuse_r2,
lora_reuse_r12, lora_reuse_r12_cot and the same for f and h.

write=FOLDER writes those as a folder for any lm-eval: lm_eval run --include_path FOLDER --tasks lora_reuse_r12_cot
--model ...
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from lora_reuse.llm.protocols.dials import EVERY, WORDS, Dials, made_with
from lora_reuse.llm.protocols.settings import Device, Model, preset_dials
from lora_reuse.runs import files
from lora_reuse.runs.command import begin, command, settings_are_right, without_help
from lora_reuse.runs.settings import Flag, Place, SettingError, Text, Whole, did_you_mean, help_table, parse, setting


@dataclass(frozen=True)
class Lists:
    """Lists, with commas between:"""

    library: str = setting("", Text("a PEFT folder or a hub name"), "the adapters, trained on model=")
    tasks: str = setting("lora_reuse_r12_cot", Text("a task of lm-eval", r"[\w-]+"), "the tasks")


@dataclass(frozen=True)
class Options(Device, Model):
    """What is evaluated, and how:"""

    RENAMED: ClassVar = {"base": "model", "method": "composition"}

    composition: str = setting(
        "",
        Text(f"{' | '.join(WORDS)}, or a folder"),
        "how the library is composed; or, without library=, what llm.compose saved or one adapter",
    )
    triplets: int = setting(100, Whole(1, 100), "triplets of the two-hop tasks")
    seed: int = setting(0, Whole(0), "who goes with whom in them, and what a rule draws")
    include: str = setting("", Place("a folder"), "more tasks, as lm-eval's --include_path")
    limit: int = setting(0, Whole(0), "questions of each task; 0: all")
    another_model: bool = setting(False, Flag(), "evaluate although an adapter names another model than model=")
    batch: int = setting(32, Whole(1, 10**5), "prompts decoded together")
    out: str = setting("", Place("a folder"), "where lm_eval.json goes: results and every answer")
    write: str = setting("", Place("a folder"), "write the two-hop tasks there, and evaluate nothing")


@dataclass(frozen=True)
class _All(Options, Dials):
    """Both, for the parser."""


def main(words: Sequence[str]) -> int:
    """Runs the command; returns its exit code: 0 done, 2 a mistake in the settings or a folder, 130 interrupted."""
    return command("llm.harness", _main, words)


def _main(words: list[str]) -> int:
    words, help = without_help(words)
    lists, given = parse(words, Lists, _All)
    dials = {name: given.pop(name) for name in EVERY if name in given and name != "seed"}
    options = Options(**given)
    if help or not words:
        print((__doc__ or "").strip() + "\n\n" + help_table(Lists, Options, Dials))
        return 0
    if options.write:
        from lora_reuse.llm.harness.export import KINDS, write

        begin(options.write)
        names = write(
            Path(options.write), [dataset + kind for dataset in "FHR" for kind in KINDS], options.triplets, options.seed
        )
        print(
            f"{len(names)} tasks in {options.write}: lm_eval run --include_path {options.write} --tasks {names[-1]} "
            "--model hf --model_args ..."
        )
        return 0
    library = lists.get("library", ())
    _check(library, options.composition, dials)
    if library:
        preset = preset_dials(options.model) | {"seed": options.seed}
        dials = made_with([options.composition], dials, preset)[options.composition]
    settings_are_right(options.out)
    _check_what_is_there(library, options.composition)
    begin(options.out)
    print(_evaluated(library, lists.get("tasks", (Lists.tasks,)), options, dials))
    return 0


def _check(library: Sequence[str], how: str, dials: dict[str, Any]) -> None:
    """Raises SettingError for a library without a rule, and for a rule or its dials without a library."""
    if library and how not in WORDS:
        allowed = f"{' | '.join(WORDS)}, with library="
        raise SettingError("composition", how or "nothing", allowed, did_you_mean(how, WORDS))
    if how in WORDS and not library:
        raise SettingError("library", "nothing", f"the adapters, with composition={how}")
    if dials and not library:
        name, value = next(iter(dials.items()))
        raise SettingError(name, value, "dials of a rule with library= and composition=", "what is saved has its own")


def _check_what_is_there(library: Sequence[str], how: str) -> None:
    """Raises SettingError without lm-eval, and for an adapter or a composition that is no folder of one."""
    if how and not library and not Path(how).expanduser().is_dir():
        allowed = "a folder, or a rule with library="
        raise SettingError("composition", f"{how}, which is no folder", allowed, did_you_mean(how, WORDS))
    if find_spec("lm_eval") is None:
        raise SettingError("lm-eval", "nothing installed", "lm-eval from 0.4.13", "pip install 'lora-reuse[harness]'")
    from lora_reuse.llm.adapters.folders import origin

    for adapter in library:
        origin(adapter)


def _evaluated(library: Sequence[str], tasks: Sequence[str], options: Options, dials: dict[str, Any]) -> str:
    """The table of lm-eval; everything goes to out=. Raises SettingError for a task that does not exist."""
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
    from lm_eval.utils import make_table  # pyright: ignore[reportMissingImports]

    from lora_reuse.llm.decoding.models import load_base
    from lora_reuse.llm.harness.export import KINDS, write

    how = options.composition
    with tempfile.TemporaryDirectory() as scratch:
        own = Path(scratch) / "two_hop"
        write(own, [dataset + kind for dataset in "FHR" for kind in KINDS], options.triplets, options.seed)
        folders: Any = [
            str(own),
            *([options.include] if options.include else []),
        ]  # lm-eval's own type lacks lists, which it takes
        theirs = not all(task.startswith("lora_reuse_") for task in tasks)  # to read all of lm-eval's tasks takes long
        manager = TaskManager(include_path=folders, include_defaults=theirs)
        if unknown := [task for task in tasks if task not in manager.all_tasks]:
            raise SettingError(
                "tasks", unknown[0], "a task of lm-eval, or lora_reuse_...", did_you_mean(unknown[0], manager.all_tasks)
            )
        base = load_base(
            options.model, options.dtype, options.device, options.device_map, options.chat, options.trust_remote_code
        )
        composition = _composition(base, library, how, dials, options.another_model)
        results = evaluate(base, composition, tasks, manager, options.limit, options.batch)
    if options.out:
        made = {"model": options.model, "base_digest": base.digest, "library": list(library), "composition": how}
        _keep(Path(options.out), results, made | {"dials": dials})
    return make_table(results)


def _composition(base: Any, library: Sequence[str], how: str, dials: dict[str, Any], another_model: bool) -> Any:
    from lora_reuse.llm.adapters.adapter import load_adapter
    from lora_reuse.llm.adapters.saving import load
    from lora_reuse.llm.compositions import compose

    if library:
        experts = [dict(load_adapter(base, adapter, another_model).experts()) for adapter in library]
        return compose(how.partition(":")[0], experts, **dials)
    return load(base, how, another_model) if how else None


def evaluate(
    base: Any, composition: Any, tasks: Sequence[str], manager: Any, limit: int = 0, batch: int = 32
) -> dict[str, Any]:
    """What lm-eval finds on `tasks` (of its TaskManager) with the composition on the base (None: the base alone);
    `limit` questions each, 0: all.

    The composition sits on the base's modules for as long as lm-eval asks, so whatever lm-eval does with a model of
    transformers it does with a composed one: greedy answers, log-likelihoods, chat templates."""
    from lm_eval.evaluator import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.models import huggingface  # pyright: ignore[reportMissingImports]

    from lora_reuse.llm.decoding.models import prompt
    from lora_reuse.llm.decoding.resident import Resident

    bos = base.tokenizer.bos_token_id
    begins = bos is not None and not base.chat and prompt(base, "x")[:1] == [bos]
    with Resident(base.model) as resident:
        resident.use([composition])
        hf: Any = huggingface.HFLM
        model = hf(
            pretrained=base.model, tokenizer=base.tokenizer, backend="causal", batch_size=batch, add_bos_token=begins
        )
        run: Any = simple_evaluate
        return run(
            model=model,
            tasks=list(tasks),
            task_manager=manager,
            limit=limit or None,
            apply_chat_template=base.chat,
            bootstrap_iters=1000,
        )


def _keep(folder: Path, results: dict[str, Any], made: dict[str, Any]) -> None:
    from lora_reuse.runs.provenance import provenance

    kept = {"made": made, "provenance": provenance("torch", "transformers", "lm-eval")}
    kept |= {key: results[key] for key in ("results", "n-samples", "versions", "samples") if key in results}
    try:
        files.write(folder / "lm_eval.json", json.dumps(kept, indent=1, default=str) + "\n")
    except OSError as error:
        raise SettingError("out", f"{folder} ({error.strerror})", "a folder that can be written") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
