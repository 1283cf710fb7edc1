"""What is in results/figures is what is committed; once `make figures` has drawn it anew, what the committed rows draw.
`make fresh` draws it, and then runs these tests."""

import io
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_reuse.figures import registry

FIGURES = Path("results/figures")
PAGES = {"report.md", "report.html", "explore.html"}
FAINT, FEW = 32, 1e-4
"""Of 255 levels of a colour, and of all pixels: smaller differences are another machine's rounding of a letter's
edge."""


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def committed(path: Path) -> bytes:
    """The bytes of a file at the last commit; none for one that was not there."""
    return subprocess.run(["git", "show", f"HEAD:./{path}"], capture_output=True).stdout


def test_no_file_is_missing_or_left_over():
    endings = {"figure": ("csv", "md", "pdf", "png"), "table": ("csv", "md", "tex")}
    drawn = {f"{name}.{ending}" for name, item in registry.items().items() for ending in endings[item.kind]}
    assert {path.name for path in FIGURES.iterdir()} == drawn | PAGES


@pytest.mark.parametrize("ending", ["csv", "md", "tex"])
def test_text_is_the_same_byte_for_byte(ending):
    differ = [path.name for path in sorted(FIGURES.glob(f"*.{ending}")) if path.read_bytes() != committed(path)]
    assert not differ, "make figures writes them anew"


def test_pictures_are_the_same_but_for_faint_differences():
    """By pixels and not by bytes: another build of a compressor writes other bytes. A PDF is drawn from the same figure
    in the same call."""
    differ = [path.name for path in sorted(FIGURES.glob("*.png")) if not alike(path.read_bytes(), committed(path))]
    assert not differ, "make figures draws them anew"


def test_a_moved_point_is_another_picture():
    """Planted: one mark more, of the size of a point."""
    drawn, planted = (FIGURES / "scale.png").read_bytes(), io.BytesIO()
    image = np.array(Image.open(io.BytesIO(drawn)).convert("RGB"))
    image[250:261, 250:261] = (213, 94, 0)
    Image.fromarray(image).save(planted, "png")
    assert not alike(drawn, planted.getvalue())
    assert alike(drawn, drawn)


def test_pictures_are_small():
    assert max(path.stat().st_size for path in FIGURES.glob("*.png")) < 120_000


def alike(one: bytes, other: bytes) -> bool:
    """Whether two pictures have the same size, and few pixels that differ visibly."""
    if one == other or not other:
        return one == other
    first, second = (np.array(Image.open(io.BytesIO(png)).convert("RGB")).astype(int) for png in (one, other))
    return first.shape == second.shape and (np.abs(first - second).max(axis=-1) > FAINT).mean() < FEW
