"""What the paper reports: every table and every number of the running text as data, one row a cell, each value as it is
printed."""

from pathlib import Path

import pandas

from lora_reuse.runs.settings import SettingError, did_you_mean

FOLDER = Path(__file__).parent
TABLES = range(1, 21)
NAMES = (*(f"table_{number:02d}" for number in TABLES), "lora_soups", "running_text")


def read(name: str) -> pandas.DataFrame:
    """The file `name`, all of it text: `row`, `column`, the labels, `value` as printed, `unit` and `note` ("-" for
    none)."""
    if name not in NAMES:
        raise SettingError("name", repr(name), ", ".join(NAMES), did_you_mean(name, NAMES))
    return pandas.read_csv(FOLDER / f"{name}.csv", dtype=str, keep_default_na=False, na_filter=False)


def load(table: int) -> pandas.DataFrame:
    """Table `table` of the paper as text, so that 90.0 stays 90.0; `.astype({"value": float})` makes the values
    numbers."""
    if table not in TABLES:
        raise SettingError("table", table, f"a whole number from {TABLES[0]} to {TABLES[-1]}")
    return read(f"table_{table:02d}")


def tables() -> dict[str, pandas.DataFrame]:
    """Every file by its name: `table_01` to `table_20`, `lora_soups` and `running_text`."""
    return {name: read(name) for name in NAMES}
