"""One experiment a file. Its `run(setting, seeds, advance)` gives one `Result` a seed; its dials are in `theory.settings`.

`predicted` and `stderr` hold the keys of `measured` for which there is a closed form; `stderr` is the predicted standard error of that
one measurement, absent where a prediction has no error bar.
"""

from typing import NamedTuple

Values = dict[str, float]


class Result(NamedTuple):
    """What one seed of one setting gave."""

    measured: Values
    predicted: Values
    stderr: Values
