"""Every notebook runs from an empty folder, and prints what it printed when it was committed.

No cell may raise or write to stderr. What a cell prints is compared to the letter, tables and numbers included. Where
numbers depend on the machine the cell is tagged `varies`, and only the number of lines and the words are compared.
What a trained model answers depends on how the processor rounds; a cell tagged `trained` has to print something of the
same kinds. Pictures are compared by their being there."""

import re
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
SECONDS = 600
"""For one cell, on a machine with other work to do."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_it_prints_what_it_printed(path, tmp_path, monkeypatch, request):
    committed = nbformat.read(path, as_version=4)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the kernel reads this tree
    monkeypatch.setenv("TQDM_DISABLE", "1")  # no bars in what is kept
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:IProgress not found")  # of tqdm, where there is no ipywidgets
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    fresh = nbformat.from_dict(committed)
    nbclient.NotebookClient(
        fresh, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    if request.config.getoption("--update"):
        for cell in fresh.cells:
            cell.metadata.pop("execution", None)  # the times of day
        fresh.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(fresh, path)
    assert "".join(printed(cell, "stderr") for cell in fresh.cells) == ""
    if request.config.getoption("--update"):
        return
    for then, now in zip(committed.cells, fresh.cells, strict=True):
        if then.cell_type == "code":
            assert kinds(now) == kinds(then), then.source
            tags = then.metadata.get("tags", ())
            alike = bool if "trained" in tags else words if "varies" in tags else str
            assert alike(printed(now)) == alike(printed(then)), then.source


def test_it_names_no_machine(path):
    text = path.read_text()
    assert not re.search(r"/(home|root|tmp|work|Users|mnt)/", text)


def printed(cell, stream="stdout") -> str:
    """What a cell wrote to a stream; with stdout, the text of its results, too."""
    found = []
    for output in cell.get("outputs", ()):
        if output.output_type == "stream" and output.name == stream:
            found.append(output.text)
        elif output.output_type != "stream" and stream == "stdout":
            found.append(output.data.get("text/plain", ""))
    return "".join(found)


def kinds(cell) -> set[tuple[str, ...]]:
    """What the outputs of a cell are: the types of a result, or text, which comes in one piece or several."""
    return {tuple(sorted(output.get("data", {"text": ""}))) for output in cell.outputs}


def words(text: str) -> list[list[str]]:
    """The words of every line, without its numbers."""
    return [re.findall(r"[^\W\d_]{2,}", line) for line in text.splitlines()]
