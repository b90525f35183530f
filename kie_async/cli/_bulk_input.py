"""The list of a bulk run: ids from lines, CSV or JSONL, read lazily, checked with their place."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import click

from kie_async.bulk import BulkItem
from kie_async.cli._escape import clean
from kie_async.errors import UsageError
from kie_async.grok_imagine import upscale_input

__all__ = ["CountedItems", "ItemList", "parse"]

COLUMNS = ("source_id", "task_id", "id")
"""Columns that are taken for the id if none is named, in this order."""
SUFFIXES = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
LONGEST_LINE = 65_536
"""Characters of a line: a longer one is no list of ids."""


class ItemList:
    """The items of several files; it can be gone through again, except for stdin.

    Args:
        names: Paths; ``-`` is stdin.
        column: Where the id stands in CSV and JSONL.
        form: One of `kie bulk --format`; "auto" goes by the file's suffix.
        resolution: For items without one of their own; for the check only.
    """

    def __init__(
        self, names: Sequence[str], column: str | None, form: str, resolution: str | None
    ) -> None:
        self._names = names
        self._column = column
        self._form = form
        self._resolution = resolution

    @property
    def repeatable(self) -> bool:
        """False if stdin is among them."""
        return "-" not in self._names

    def __iter__(self) -> Iterator[BulkItem]:
        """Go through the items; raises click.UsageError with file and line."""
        for name in self._names:
            with _opened(name) as stream:
                form = self._form
                if form == "auto":
                    form = SUFFIXES.get(Path(name).suffix.lower(), "lines")
                yield from parse(stream, name, form, self._column, self._resolution)


class CountedItems:
    """Items whose number is known: a run that is stopped plans the rest of such a list.

    So ``kie bulk --journal RUN.DB`` goes on with all of it.
    """

    def __init__(self, items: ItemList, count: int) -> None:
        self._items = items
        self._count = count

    def __len__(self) -> int:
        """Return how many they were when they were counted."""
        return self._count

    def __iter__(self) -> Iterator[BulkItem]:
        """Go through the items."""
        return iter(self._items)


@contextmanager
def _opened(name: str) -> Iterator[TextIO]:
    if name == "-":
        yield sys.stdin
        return
    try:
        stream = Path(name).open(encoding="utf-8-sig", newline="")  # noqa: SIM115 - closed below
    except OSError as error:
        raise click.UsageError(f"cannot read {name}: {error.strerror}") from None
    try:
        yield stream
    finally:
        stream.close()


def parse(
    lines: Iterable[str], name: str, form: str, column: str | None, resolution: str | None = None
) -> Iterator[BulkItem]:
    """Read items from lines of text.

    Raises:
        click.UsageError: A line cannot be an item; the message has its place.
    """
    read = 0
    try:
        for place, fields in _records(_bounded(lines), form, column):
            read = place
            yield _item(fields, column, resolution)
    except UsageError as error:
        raise click.UsageError(f"{clean(name)}:{read}: {clean(error.message)}") from None
    except (ValueError, csv.Error, RecursionError) as error:  # in the line after the last one read
        raise click.UsageError(f"{clean(name)}:{read + 1}: {clean(error)}") from None


def _bounded(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if len(line) > LONGEST_LINE:
            raise ValueError("the line is too long for an id")
        yield line


def _records(
    lines: Iterator[str], form: str, column: str | None
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield each record with the number of its line."""
    if form == "csv":
        reader = csv.DictReader(lines, strict=True)
        for row in reader:
            yield reader.line_num, row
        return
    for place, line in enumerate(lines, 1):
        text = line.strip().lstrip("\ufeff")
        if not text or (form == "lines" and text.startswith("#")):
            continue
        if form == "lines":
            yield place, {"source_id": text}
            continue
        try:
            value = json.loads(text)
        except ValueError:
            raise ValueError("the line is no JSON") from None
        yield place, value if isinstance(value, dict) else {column or "source_id": value}


def _item(fields: Mapping[str, Any], column: str | None, resolution: str | None) -> BulkItem:
    wanted = (column,) if column else COLUMNS
    found = next((fields[name] for name in wanted if fields.get(name) is not None), None)
    if found is None:
        known = ", ".join(str(name) for name in fields if name)
        raise UsageError(f"no {' or '.join(wanted)} here, but {known or 'nothing'}: see --column")
    source_id = found.strip() if isinstance(found, str) else found
    own = _text(fields.get("resolution"))
    upscale_input(source_id, own or resolution)
    return BulkItem(source_id=source_id, resolution=own, output_name=_text(fields.get("name")))


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None
