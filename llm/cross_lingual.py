"""lora-reuse cross_lingual model=Qwen/Qwen2.5-7B-Instruct data=FOLDER sentences=FILE allow_code_execution=true

Composes an expert on programming and one on translation, and asks for programs in Spanish (A.5). The first learns
tasks in English, the second to translate English to Spanish (Table 16); asked=english shows whether the first has
learned its own task (Table 17). FOLDER holds MBPP in both languages, FILE parallel sentences (llm/data/mbpp.py and
llm/data/parallel.py say in which forms); without them, small tasks and sentences of our own. Answers count where every
assertion of the task passes, at the first and greedy attempt (pass@1)."""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lora_reuse.llm.adapters.specs import lessons
from lora_reuse.llm.data import mbpp, parallel, tasks
from lora_reuse.llm.data.mbpp import LANGUAGES, Columns, Task
from lora_reuse.llm.protocols.libraries import in_one_way
from lora_reuse.llm.protocols.problems import ExamOptions, ExamSettings
from lora_reuse.llm.protocols.protocol import Protocol, Question, main, share_of, together
from lora_reuse.llm.protocols.settings import PATH
from lora_reuse.runs.settings import Choice, SettingError, Text, Whole, setting

OWN = "own"
TRAINED = "trained"
LIBRARIES: dict[str, tuple[tuple[str, ...], ...]] = {
    "2-combination": (("coding",), ("translation",)),
    "coding": (("coding",),),
    "translation": (("translation",),),
    "mixed": (("coding", "translation"),),
    "oracle": (("spanish",),),
}
"""What each expert of a library learns. The paper has the first three; one expert on both, and one on Spanish tasks,
are what they can be compared with."""
_ROLES = {
    skills: role
    for role, skills in enumerate(dict.fromkeys(skills for library in LIBRARIES.values() for skills in library), 1)
}

PROMPT = "{text}\nWrite it in Python. These assertions have to pass:\n{tests}"
ANSWER = "```python\n{code}\n```"
TRANSLATE = "Translate this sentence to Spanish:\n{english}"


@dataclass(frozen=True)
class CrossLingual(ExamSettings):
    """A.5: Tables 16 and 17."""

    POCKET: ClassVar = {"epochs": 4, "batch": 8, "pairs": 100, "answer_tokens": 60}
    """For the pocket model, which has a letter a token and reads no accents."""

    data: str = setting(OWN, Text("own, or a folder with tasks in both languages"), "small tasks of our own, or MBPP")
    asked: str = setting("spanish", Choice(*LANGUAGES), "the language of the tasks that are asked", grid=("spanish",))
    library: str = setting(
        "2-combination",
        Choice("none", *LIBRARIES),
        "the experts composed, by what they learn",
        grid=("coding", "translation", "2-combination"),
    )
    sentences: str = setting(
        OWN, Text("own, or a file of English and Spanish sentences"), "what the translation expert learns"
    )
    pairs: int = setting(10_000, Whole(1, 10**7), "sentences that it learns, the first of the file; model=pocket: 100")
    coding_adapter: str = setting(
        TRAINED, PATH, "trained, or the folder or hub name of a PEFT adapter, which is taken as the coding expert"
    )
    translation_adapter: str = setting(
        TRAINED, PATH, "trained, or the folder or hub name of a PEFT adapter, which is taken as the translation expert"
    )
    split: str = setting("test", Choice("dev", "test"), "the tasks that are asked: make choices on dev")
    text_column: str = setting(
        "", Text("a name, which may hold {language}"), "MBPP files: the task's text; usually text, prompt, text_es, ..."
    )
    code_column: str = setting("", Text("a name"), "MBPP files: the solution; usually code")
    tests_column: str = setting("", Text("a name"), "MBPP files: the assertions; usually test_list")
    language_column: str = setting(
        "", Text("a name"), "MBPP files: the language; usually language, lang or locale, else the file's name says it"
    )
    split_column: str = setting(
        "", Text("a name"), "MBPP files: the split; usually split, else the file's name or task_id says it"
    )

    @property
    def columns(self) -> Columns:
        return Columns(self.text_column, self.code_column, self.tests_column, self.language_column, self.split_column)


@dataclass(frozen=True)
class Learned:
    """The data of an expert: tasks in English (coding), translations, tasks in Spanish, or several of them."""

    skills: tuple[str, ...]
    data: str
    columns: Columns
    sentences: str
    count: int
    seed: int

    @property
    def name(self) -> str:
        return "+".join(self.skills)

    def pairs(self) -> list[tuple[str, str]]:
        """Prompts and answers. Raises SettingError for data that are not there."""
        found = []
        for skill in self.skills:
            if skill == "translation":
                told = (
                    tasks.sentences(self.count, self.seed)
                    if self.sentences == OWN
                    else parallel.sentences(Path(self.sentences).expanduser(), self.count)
                )
                found += [(TRANSLATE.format(english=english), spanish) for english, spanish in told]
            else:
                chosen = posed(self.data, "english" if skill == "coding" else "spanish", "train", self.columns)
                found += [(prompt(task), ANSWER.format(code=task.code)) for task in chosen]
        return found


def posed(data: str, language: str, split: str, columns: Columns) -> list[Task]:
    """The tasks of a language and a split, of our own or from a folder."""
    return (
        tasks.tasks(language, split) if data == OWN else mbpp.tasks(Path(data).expanduser(), language, split, columns)
    )


def prompt(task: Task) -> str:
    """The task's text, and its assertions, which name the function."""
    return PROMPT.format(text=task.text, tests="\n".join(task.tests))


def sources(point: CrossLingual, seed: int) -> list[Learned | str]:
    """The experts of the point's library: what they learn, or the adapter that a person has brought."""
    brought = {"coding": point.coding_adapter, "translation": point.translation_adapter}
    chosen = [(skills, brought.get("+".join(skills), TRAINED)) for skills in LIBRARIES.get(point.library, ())]
    learned = (point.data, point.columns, point.sentences, point.pairs, seed)
    return [Learned(skills, *learned) if adapter == TRAINED else adapter for skills, adapter in chosen]


def experts(point: CrossLingual, seed: int) -> list[Any]:
    """The experts of the point, as Specs or names of adapters."""
    return [
        source if isinstance(source, str) else lessons(source, point, seed, _ROLES[source.skills])
        for source in sources(point, seed)
    ]


def sensible(point: CrossLingual) -> CrossLingual | None:
    """The base learns nothing, wherever its adapters would sit; one expert is not composed."""
    return in_one_way(point, len(LIBRARIES.get(point.library, ())) == 1, layers="none")


def questions(point: CrossLingual, seed: int) -> list[Question]:
    """The tasks that the point asks, each a group of its own."""
    found = posed(point.data, point.asked, point.split, point.columns)
    return [Question(prompt(task), task.id, {"id": task.id}, task) for task in found]


def mark(
    point: CrossLingual, asked: Sequence[Question], said: Sequence[str], options: ExamOptions
) -> list[dict[str, Any]]:
    """Whether the answer's program passes all assertions of its task, and how it ended."""
    from lora_reuse.llm.sandbox import run_all
    from lora_reuse.llm.scoring.solutions import definitions

    written = [definitions(answer) for answer in said]
    checked = {i: checks(q.reference, code) for i, (q, code) in enumerate(zip(asked, written, strict=True)) if code}
    results = dict(zip(checked, run_all([program for program, _ in checked.values()]), strict=True))
    marks: list[dict[str, Any]] = [{"right": False, "program": "", "no_code": True} for _ in asked]
    for i, result in results.items():
        right = result.outcome == "done" and result.output.rstrip().endswith(checked[i][1])
        marks[i] = {"right": right, "program": result.outcome, "no_code": False}
    return marks


def checks(task: Task, code: str) -> tuple[str, str]:
    """The code under the assertions of its task, and what is printed when all have passed: a program that ends before
    that has not. No program prints it by chance, because it is a digest of the program."""
    token = hashlib.sha256("\n".join([code, *task.tests]).encode(errors="replace")).hexdigest()[:16]
    return "\n".join([task.setup, code, *task.tests, f"print({token!r})"]), token


def ready(points: Sequence[CrossLingual], options: ExamOptions) -> None:
    """Raises SettingError for code that may not be run, and for data that are not there."""
    from lora_reuse.llm.sandbox import require

    if not options.dry_run:
        if not options.allow_code_execution:
            raise SettingError(
                "allow_code_execution", "false", "true", "whether a program is right is seen by running it, confined"
            )
        require()
    for data, language, split, columns in dict.fromkeys((p.data, p.asked, p.split, p.columns) for p in points):
        posed(data, language, split, columns)
    for point in points:
        for source in sources(point, options.first_seed) if point.composition != "base" else ():
            if not isinstance(source, str):
                source.pairs()


def reported(point: CrossLingual) -> str:
    """The paper's number for the same cell and model, on the same data; or nothing."""
    from lora_reuse.paper_checks.reported import load

    names = {
        "none": "Base Only",
        "coding": "Coding (L_1)",
        "translation": "Translation (L_2)",
        "2-combination": "Merged",
    }
    column = names.get(point.library, "")
    if column == "Merged":
        column = {"uniform": "Merged (Uniform)", "arrow": "Merged (Arrow)"}.get(point.composition, "")
    if point.data == OWN or not column:
        return ""
    name = point.model.rstrip("/").split("/")[-1].lower()
    cells = load(16 if point.asked == "spanish" else 17).to_dict("records")
    return next(
        (f"{cell['value']} %" for cell in cells if cell["base_model"].lower() == name and cell["column"] == column), ""
    )


COLUMNS = ("no_code", *(f"program_{how}" for how in ("done", "error", "denied", "time", "memory", "crash")))
"""How the programs ended."""

PROTOCOL = Protocol(
    __name__,
    CrossLingual,
    experts,
    questions,
    observers=(together(mark),),
    sensible=sensible,
    reported=reported,
    columns={name: share_of(name) for name in COLUMNS},
    options=ExamOptions,
    ready=ready,
)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
