"""What is committed in results/figures is what the committed rows draw."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_reuse.figures import registry

ROWS, COMMITTED = Path("results/paper"), Path("results/figures")
PAGES = {"report.md", "report.html", "explore.html"}
"""The pages, which have tests of their own."""
FAINT, FEW = 32, 1e-4
"""Of 255 levels of a colour, and of all pixels: smaller differences are another machine's rounding of a letter's
edge."""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, request):
    """Everything drawn anew, from the folder that the commands in the files name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(request.config.rootpath)
        out = tmp_path_factory.mktemp("drawn")
        for item in registry.items().values():
            registry.draw_or_say(item, ROWS, out)
        yield out


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def test_no_file_is_missing_or_left_over(drawn):
    assert {path.name for path in COMMITTED.iterdir()} - PAGES == {path.name for path in drawn.iterdir()}


@pytest.mark.parametrize("ending", ["csv", "md", "tex"])
def test_text_is_the_same_byte_for_byte(drawn, ending):
    differ = [path.name for path in sorted(drawn.glob(f"*.{ending}")) if path.read_bytes() != _committed(path)]
    assert not differ, "make figures writes them anew"


def test_pictures_are_the_same_but_for_faint_differences(drawn):
    """By pixels and not by bytes: another build of a compressor writes other bytes. A PDF is drawn from the same figure
    in the same call."""
    differ = [path.name for path in sorted(drawn.glob("*.png")) if not alike(path, COMMITTED / path.name)]
    assert not differ, "make figures draws them anew"


def test_a_moved_point_is_another_picture(drawn, tmp_path):
    """Planted: one mark more, of the size of a point."""
    path = drawn / "scale.png"
    image = np.array(Image.open(path).convert("RGB"))
    image[250:261, 250:261] = (213, 94, 0)
    Image.fromarray(image).save(tmp_path / "scale.png")
    assert not alike(path, tmp_path / "scale.png")
    assert alike(path, path)


def test_pictures_are_small(drawn):
    assert max(path.stat().st_size for path in drawn.glob("*.png")) < 120_000


def alike(one: Path, other: Path) -> bool:
    """Whether two pictures have the same size, and few pixels that differ visibly."""
    if not other.is_file():
        return False
    first, second = (np.array(Image.open(path).convert("RGB")).astype(int) for path in (one, other))
    return first.shape == second.shape and (np.abs(first - second).max(axis=-1) > FAINT).mean() < FEW


def _committed(path: Path) -> bytes:
    other = COMMITTED / path.name
    return other.read_bytes() if other.is_file() else b""
