"""What a check of a release finds, line by line."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from compliance.bundle_form import ManifestForm
from compliance.verify import NotVerifiedError
from shared.errors import FedwardError, RecordError

_Found = TypeVar("_Found")


class Verdict(StrEnum):
    """What became of a check."""

    OK = "ok"
    FAILED = "failed"
    OPEN = "not checked"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    verdict: Verdict
    what: str
    detail: str


@dataclass
class Report:
    """What was checked.

    Attributes:
        findings: Line by line.
        charter: SHA-256 of the charter in the folder; empty where there is none.
        manifest: SHA-256 of the manifest; empty where there is none.
    """

    findings: list[Finding] = field(default_factory=list)
    charter: str = ""
    manifest: str = ""

    @property
    def failed(self) -> tuple[Finding, ...]:
        """What does not hold."""
        return tuple(one for one in self.findings if one.verdict is Verdict.FAILED)

    @property
    def holds(self) -> bool:
        """Whether everything that was checked holds."""
        return not self.failed

    def ok(self, what: str, detail: str) -> None:
        """Note what holds."""
        self._note(Verdict.OK, what, detail)

    def fail(self, what: str, detail: str) -> None:
        """Note what does not."""
        self._note(Verdict.FAILED, what, detail)

    def leave(self, what: str, detail: str) -> None:
        """Note what nobody checked."""
        self._note(Verdict.OPEN, what, detail)

    def _note(self, verdict: Verdict, what: str, detail: str) -> None:
        """Add a line; a file's name or text in it cannot begin another one."""
        self.findings.append(Finding(verdict, _one_line(what), _one_line(detail)))

    def attempt(self, what: str, act: Callable[[], _Found]) -> _Found | None:
        """What ``act`` gives; None where it refuses, and then that is noted with the reason."""
        try:
            return act()
        except (FedwardError, NotVerifiedError) as error:
            self.fail(what, error.message if isinstance(error, FedwardError) else str(error))
            return None


def _one_line(text: str) -> str:
    """``text`` with what cannot be printed, or not on this line, spelt out."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


@dataclass(frozen=True)
class Given:
    """What is checked, and where findings go.

    Attributes:
        manifest: The manifest, in its form.
        files: Every file of the folder, as it was read.
        report: The report.
    """

    manifest: ManifestForm
    files: Mapping[str, bytes]
    report: Report

    def need(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            RecordError: It is missing.
        """
        if name not in self.files:
            raise RecordError(f"{name} is missing")
        return self.files[name]
