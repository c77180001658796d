"""The entries as they are: each line the same bytes as in the log.

Without a selection the file is the log: ``fedward audit verify`` takes it. With one, the chain has gaps; what each line
is in the log is then shown by its leaf index and leaf hash, in the file beside it.
"""

from collections.abc import Iterable, Iterator

from compliance.export.reading import Record


def lines(records: Iterable[Record]) -> Iterator[bytes]:
    """One line a record, with its line end."""
    for record in records:
        yield record.line + b"\n"
