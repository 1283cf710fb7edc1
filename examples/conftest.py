"""The notebooks as tests."""

from pathlib import Path


def pytest_addoption(parser):
    parser.addoption("--update", action="store_true", help="put what the notebooks print now in their places")


def pytest_generate_tests(metafunc):
    notebooks = sorted(Path(__file__).parent.glob("*.ipynb"))
    metafunc.parametrize("path", notebooks, ids=[path.stem for path in notebooks])
