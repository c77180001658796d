"""Who we are to a DICOMweb server: from a file that its owner alone can read, never from a command line."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from requests import PreparedRequest
from requests.auth import AuthBase, HTTPBasicAuth

from shared.errors import PolicyError, UsageError

_HINT = "one line: 'bearer TOKEN' or 'basic USER:PASSWORD'"


@dataclass(frozen=True)
class Credentials:
    """A bearer token (RFC 6750), or a user with a password (RFC 7617).

    Attributes:
        scheme: ``bearer`` or ``basic``.
        secret: The token, or ``user:password``; never shown.
    """

    scheme: str
    secret: str = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> "Credentials":
        """Read a credentials file: one line, ``bearer TOKEN`` or ``basic USER:PASSWORD``.

        Raises:
            UsageError: It cannot be read, or is something else.
            PolicyError: Others may read it.
        """
        try:
            with path.open("rb") as stream:
                mode = os.fstat(stream.fileno()).st_mode
                line = stream.read(16384).decode("utf-8").strip()
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read the credentials {path}", hint=_HINT) from error
        if mode & 0o077:
            raise PolicyError(f"others may read the credentials {path}", hint=f"run: chmod 600 {path}")
        scheme, _, secret = line.partition(" ")
        scheme, secret = scheme.lower(), secret.strip()
        sound = scheme == "bearer" or (scheme == "basic" and ":" in secret)
        if not (sound and secret and secret.isprintable()):
            raise UsageError(f"{path} holds no credentials", hint=_HINT)
        return cls(scheme, secret)

    def auth(self) -> AuthBase:
        """For a session of ``requests``, which takes it off again when it is sent on to another host."""
        if self.scheme == "bearer":
            return _Bearer(self.secret)
        user, _, password = self.secret.partition(":")
        return HTTPBasicAuth(user.encode(), password.encode())


class _Bearer(AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request
