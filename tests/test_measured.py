"""Tables of what was measured on one machine, whatever it is: they survive their CSV, and documents show them."""

from __future__ import annotations

from dataclasses import replace
from typing import get_type_hints

import pytest
from tiny import ROOT

from memnets.analysis.markdown import MEASURED, updated
from memnets.analysis.measured import MeasuredTable, add_measured, columns, origins, read_measured
from memnets.analysis.records import tables
from memnets.analysis.rows import RecordError
from memnets.analysis.searches import SEARCHES, SearchRecord

KINDS = {name: kind for name, (kind, _) in MEASURED.items()} | {SEARCHES: SearchRecord}
ORIGIN = {"threads": 1, "device": "cpu (a)", "torch": "2", "command": "c", "commit": "d", "date": "2026-01-01"}


def line_of(kind, **changes):
    """A line whose numbers differ from column to column."""
    hints = get_type_hints(kind)
    numbered = {name: (hints[name], 2 + place) for place, name in enumerate(columns(kind))}
    values = {
        name: name if hint is str else place if hint is int else place + 0.25
        for name, (hint, place) in numbered.items()
    }
    return kind(**values | ORIGIN | changes)


@pytest.fixture(params=KINDS)
def table(request, tmp_path):
    (tmp_path / "results").mkdir()
    return tmp_path / "results" / request.param


@pytest.fixture
def one(table):
    return line_of(KINDS[table.name])


def test_every_table_of_results_is_as_it_would_be_written(tmp_path):
    for name, kind in KINDS.items():
        path = ROOT / "results" / name
        add_measured(tmp_path / name, kind, read_measured(path, kind))
        assert (tmp_path / name).read_text() == path.read_text()
        assert path.stem not in tables(path.parent), "no table of experiments"


def test_a_line_takes_the_place_of_its_own(table, one):
    kept = MeasuredTable(str(table), type(one))
    first = columns(type(one))[0]
    other = replace(one, **{first: "b" if isinstance(getattr(one, first), str) else 99})
    kept.add([one, other])
    kept.add([replace(one, commit="e", date="2026-01-02")])
    assert read_measured(table, type(one)) == [replace(one, commit="e", date="2026-01-02"), other]


def test_what_was_not_measured_stays_so(table, one):
    optional = [name for name, kind in get_type_hints(type(one)).items() if kind == float | None]
    without = replace(one, **dict.fromkeys(optional))
    add_measured(table, type(one), [without])
    assert read_measured(table, type(one)) == [without]


def test_without_a_path_nothing_is_kept(one, tmp_path):
    MeasuredTable("", type(one)).add([one])
    assert not list(tmp_path.glob("**/*.csv"))


def test_what_was_tampered_with_is_refused(table, one):
    number = next(name for name, kind in get_type_hints(type(one)).items() if kind is float)
    add_measured(table, type(one), [one])
    table.write_text(table.read_text().replace(f",{getattr(one, number)},", ",much,", 1))
    with pytest.raises(RecordError, match=rf"{table.name}:2: .*measure it again"):
        MeasuredTable(str(table), type(one))


def test_columns_of_another_table_are_refused(table, one):
    table.write_text("a,b\n1,2\n")
    with pytest.raises(RecordError, match=r":1: expected the columns"):
        MeasuredTable(str(table), type(one))


def test_a_document_shows_it_and_where_it_comes_from(table, one):
    if table.name not in MEASURED:
        pytest.skip("drawn, not written")
    add_measured(table, type(one), [one])
    document = table.parent.parent / "README.md"
    document.write_text(f"<!-- table: {table.stem} -->\n<!-- end table -->\n")
    text = updated(document, table.parent)
    assert MEASURED[table.name][1]([one]) in text
    assert "`c` at d, 2026-01-01" in text


def test_a_command_is_named_once():
    one = line_of(SearchRecord)
    assert origins([one, replace(one, keys=1), replace(one, threads=2)]) == [
        "- `c` at d, 2026-01-01, cpu (a), 1 thread(s), torch 2",
        "- `c` at d, 2026-01-01, cpu (a), 2 thread(s), torch 2",
    ]
