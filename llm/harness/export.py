"""The two-hop questions as a folder of tasks for lm-evaluation-harness, complete without this project."""

import inspect
import json
from collections.abc import Sequence
from pathlib import Path

from lora_reuse.llm.data.facts import triplets
from lora_reuse.llm.data.names import cities, fake_people, fake_places, people
from lora_reuse.llm.data.subsets import examples, parts
from lora_reuse.llm.harness import two_hop
from lora_reuse.llm.scoring import two_hop as scoring
from lora_reuse.runs.files import whole_folder
from lora_reuse.runs.settings import SettingError

KINDS = ("1", "2", "12", "12-CoT")
VERSION = 1.0
"""In every task's metadata; a change of questions or scores raises it."""


def task_name(subset: str) -> str:
    """R12-CoT is lora_reuse_r12_cot."""
    return f"lora_reuse_{subset.lower().replace('-', '_')}"


def write(folder: Path, subsets: Sequence[str], count: int, seed: int) -> list[str]:
    """Writes the tasks of the subsets over `count` triplets of `seed`, the held-out test templates; returns their
    names. The folder appears whole or not at all. Raises SettingError for a folder with something in it, or one that
    cannot be written."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingError("write", folder, "a new or empty folder")
    try:
        with whole_folder(folder) as partial:
            (partial / "names.json").write_text(json.dumps(_names(), indent=1) + "\n", encoding="utf-8")
            (partial / "two_hop.py").write_text(_standing_alone(), encoding="utf-8")
            for subset in subsets:
                dataset, kind = parts(subset)
                asked = examples(subset, triplets(dataset, seed)[:count], "test")
                docs = [e._asdict() | {"steps": kind.endswith("-CoT")} for e in asked]
                lines = [json.dumps(doc) + "\n" for doc in docs]
                (partial / f"{task_name(subset)}.jsonl").write_text("".join(lines), encoding="utf-8")
                (partial / f"{task_name(subset)}.yaml").write_text(_task(subset), encoding="utf-8")
    except OSError as error:
        raise SettingError("write", f"{folder} ({error.strerror})", "a folder that can be written") from None
    return [task_name(subset) for subset in subsets]


def _task(subset: str) -> str:
    """The YAML of a task."""
    steps = subset.endswith("-CoT")
    metrics = ["strict", "lenient", *(["bridge_right", "gold_right_given_bridge", "template"] if steps else [])]
    means = {"gold_right_given_bridge": "!function two_hop.share_given"}
    listed = "".join(
        f"  - metric: {m}\n    aggregation: {means.get(m, 'mean')}\n    higher_is_better: true\n" for m in metrics
    )
    return (
        f"task: {task_name(subset)}\n"
        "tag: lora_reuse\n"
        "custom_dataset: !function two_hop.dataset\n"
        f"dataset_kwargs:\n  file: {task_name(subset)}.jsonl\n"
        "test_split: test\n"
        "output_type: generate_until\n"
        'doc_to_text: "{{question}}"\n'
        'doc_to_target: "{{answer}}"\n'
        'target_delimiter: " "\n'
        "process_results: !function two_hop.process_results\n"
        "generation_kwargs:\n"
        '  until: ["<|endoftext|>"]\n'
        "  do_sample: false\n"
        f"  max_gen_toks: {192 if steps else 48}\n"
        f"metric_list:\n{listed}"
        f"metadata:\n  version: {VERSION}\n"
    )


def _standing_alone() -> str:
    """The functions with the scoring in them."""
    own = inspect.getsource(two_hop)
    line = "from lora_reuse.llm.scoring.two_hop import direct, step_by_step\n"
    return own.replace(line, inspect.getsource(scoring)).replace(
        inspect.getdoc(scoring) or "", "How an answer is scored.", 1
    )


def _names() -> dict[str, list[str]]:
    return {
        "people": sorted({*fake_people(), *(person.name for person in people())}),
        "places": sorted({*fake_places(), *cities()}),
    }
