"""One experiment a file. Its `run(setting, seeds, advance)` gives one `Result` a seed; its dials are in
`theory.settings`.

`predicted` and `stderr` hold the keys of `measured` for which there is a closed form. `predicted` is the mean of that
one measurement, `stderr` its standard deviation, absent where a prediction has no error bar. Where `predicted` is an
expansion in the width, `stderr` also has `c remainder` beside `c`: the estimated size of what the expansion leaves out.
"""

from typing import NamedTuple

Values = dict[str, float]
REMAINDER = " remainder"


class Result(NamedTuple):
    """What one seed of one setting gave."""

    measured: Values
    predicted: Values
    stderr: Values
