"""One error tree. Each error says what is wrong, what to do about it, and with which status the command exits.

The table of exit codes in ``docs/exit-codes.md`` is checked against these classes by a test.
"""

from typing import ClassVar


class FedwardError(Exception):
    """The base of every error that fedward raises on purpose.

    Args:
        message: What is wrong, in one line, naming the file, key or party.
        hint: What the reader can do about it, in one line. May be empty only where nothing can be done.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(FedwardError):
    """The command was called in a way that it does not understand: a name with a typo, a missing file."""

    exit_code = 2


class CharterError(UsageError):
    """The charter cannot be read or contradicts itself."""


class PartialError(FedwardError):
    """The batch is done, but some of its files were quarantined or refused; the report names each of them."""

    exit_code = 3


class DataError(FedwardError):
    """The input holds nothing that can be used: no DICOM, no matching series, no patient left."""

    exit_code = 4


class OutputError(FedwardError):
    """The output cannot be written: disk full, no permission, a folder in use."""

    exit_code = 5


class PolicyError(FedwardError):
    """The hospital's own policy, or the charter that it pinned, forbids the action."""

    exit_code = 6


class BudgetError(FedwardError):
    """The privacy budget does not cover the request."""

    exit_code = 7


class ProtocolError(FedwardError):
    """The other end sent what it must not send, or did not answer in time."""

    exit_code = 8


class RecordError(FedwardError):
    """A log or ledger cannot be read or written, or does not verify; the action it should record does not happen."""

    exit_code = 9
