"""Every figure and table, drawn from rows on disk and from nothing else.

`python -m figures` writes all of them, `only=theorem_2` one, `list=true` says what there is and which command makes the
rows of each.

A figure is one module, `figures/<name>.py`; its name enrols it. (`__main__`, `registry`, `report`, `rows`, `style` and
names that begin with an underscore are no figures.) It has a docstring, whose first line is the figure's title, and

    NEEDS: dict[str, str]                            experiment -> the command that makes its rows, without out= (which
    the message adds)
    data(rows: Rows) -> pandas.DataFrame             the plotted numbers and no others, measured and predicted; this is
    <name>.csv
    draw(table: DataFrame, figure: Figure) -> None   draws the table alone, on an empty figure of the text's width; it
    may set its height
    caption(table: DataFrame) -> str                 one paragraph of sentences with one claim each: the paper's claim
    and its section, seeds, what
                                                     marks and bars mean

A table is one module, `figures/tables/<name>.py`, with a docstring, `NEEDS`, `table(rows) -> DataFrame` and
`caption(table) -> str`. Both come from a specification: `side_by_side(number, experiment, axes, columns)` and
`captioned(text)` of `figures/tables/_side_by_side.py`. `figures.tables.texts(table, caption)` returns what is written,
by ending: {"md": ..., "tex": ..., "csv": ...}.

`rows` (figures/rows.py) is how a figure reads:

    rows.select("theorem_3", dim=math.inf, composition="sum")    the rows with these settings as a table, a column a
    leaf
                                                                 (`settings.width`, `measured.c_first`, ...), or
                                                                 MissingRows
    rows.all("llm_bridge")                                       all rows of an experiment as such a table; empty if
    there are none
    raise rows.missing("llm_bridge", setup=2)                    the MissingRows that names the command in NEEDS

Both read experiments that NEEDS names, and no others.

The look is figures/style.py. A composition is drawn as `style.rule(name)`, in every figure alike; other quantities as
`style.series(i)`, closed forms as `style.THEORY`, chance as `style.CHANCE`. `style.note` says below the panels what N
is, and `style.height` keeps to the page. Shares of models are drawn by figures/_shares.py (a dot a seed, an interval
over seeds, void cells hatched), and models are called what figures/_names.py says.

Theory lines come from `predicted` in the rows or from closed forms of `theory.kernels`, never from a fit. A number that
stands on one row, or on rows that differ in the seed alone, has the hash of the first of them in the column `row`.

Written are <name>.pdf, .png, .csv and .md (the caption and, added by the registry, the rows and commands it stands on),
each whole or not at all, and the same bytes from the same rows. A figure whose rows are not there raises MissingRows
(`rows.select` does it): `python -m figures` then says which command makes them and goes on; with only= that is exit
code 2. A table has missing cells instead and says in them what would fill them.

`report=true` draws everything and then calls `figures.report.main(rows: Path, out: Path, drawn: list[registry.Drawn])
-> int` (the exit code); Drawn has `name`, `kind` ("figure" or "table"), `title`, `caption`, `files` (paths by ending)
and `missing` (the message, or "")."""
