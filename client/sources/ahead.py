"""One piece of work in a thread of its own, while the main thread does another."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Starts ``work`` at once; what it comes to, an error included, is had from :meth:`result`.

    The thread dies with the process: an interrupt must not wait for an archive that does not answer.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._outcome: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome.append(self._work())
        except BaseException as error:  # noqa: BLE001  # raised again where the result is asked for
            self._error = error

    def result(self) -> T:
        """Wait for the work to end; what it raised is raised here."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._outcome[0]

    def leave(self, seconds: float) -> None:
        """Wait a moment for the work to end, and no longer."""
        self._thread.join(seconds)
