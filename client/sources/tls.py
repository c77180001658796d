"""TLS for DIMSE: the Non-Downgrading BCP 195 profile (PS3.15 B.12, RFC 9325), on both ends of the line.

TLS 1.2 or newer with the recommended suites; the other end always has to show a certificate of the authority that was
named, and an archive one for the host that was named. What a handshake failed of is kept, to be told in one line.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from shared.errors import PolicyError, UsageError

HANDSHAKE = 5.0
"""Seconds that a handshake with our receiver may take: nobody may keep it busy by saying nothing."""

# RFC 9325 4.2; those of TLS 1.3 are all recommended.
_SUITES = ":".join(
    f"ECDHE-{kind}-{suite}" for kind in ("ECDSA", "RSA") for suite in ("AES128-GCM-SHA256", "AES256-GCM-SHA384")
)

# RFC 5280 path validation as OpenSSL numbers it (X509_V_ERR_*).
_UNTRUSTED, _EXPIRED, _EARLY, _OTHER_HOST = {2, 18, 19, 20, 21}, 10, 9, {62, 64}


@dataclass(frozen=True)
class Fault:
    """Why there is no TLS: what happened, and what to do about it, for people; whether another try may help."""

    reason: str
    check: str
    passing: bool = False


class _Socket(ssl.SSLSocket):
    """Tells its context what failed: the library above knows of a failure only that there is no connection."""

    def do_handshake(self, block: bool = False) -> None:  # the library's signature
        """As in the base class; for a receiver within :data:`HANDSHAKE` seconds."""
        if self.server_side:
            self.settimeout(HANDSHAKE)
        try:
            super().do_handshake(block)
        except OSError as error:
            self._tell(error)
            raise
        self._tell(None)
        if self.server_side:
            self.settimeout(None)

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """As in the base class."""
        try:
            return super().recv(buflen, flags)
        except OSError as error:  # in TLS 1.3 a refusal of our certificate comes after the handshake
            self._tell(error)
            raise

    def _tell(self, error: OSError | None) -> None:
        if isinstance(self.context, Context):
            self.context.error = error


class Context(ssl.SSLContext):
    """Settings of one end, and the last error that was met with them.

    Attributes:
        error: Why the last handshake failed; None where none did.
    """

    error: OSError | None = None

    def __new__(cls, protocol: int, *args: Any, **options: Any) -> Self:
        """Settings of the profile; what differs between both ends is set by :class:`Tls`."""
        made = super().__new__(cls, protocol, *args, **options)
        made.sslsocket_class = _Socket
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        made.set_ciphers(_SUITES)
        made.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        return made

    def fault(self) -> Fault | None:
        """Why there is no TLS; None where the line itself failed, or nothing did."""
        return None if self.error is None else _fault(self.error)


@dataclass(frozen=True)
class Tls:
    """Whom we trust, and who we are.

    Attributes:
        authority: PEM certificates of the authorities that certificates must come from.
        certificate: Our certificate (PEM), with the chain up to the authority; None where we have none.
        private_key: Its key (PEM, 0600, without a pass phrase).

    Raises:
        UsageError: A file is not there or holds something else, or a certificate has no key or a key no certificate.
        PolicyError: Others may read the key.
    """

    authority: Path
    certificate: Path | None = None
    private_key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.private_key is None):
            raise UsageError(
                "a certificate and its key belong together", hint="give both --certificate and --private-key"
            )
        self.client()

    def client(self) -> Context:
        """For associations that we request: the archive's certificate is checked, its host name included."""
        return self._loaded(Context(ssl.PROTOCOL_TLS_CLIENT))

    def server(self) -> Context:
        """For our receiver: who connects must have a certificate of the same authority.

        Raises:
            UsageError: We have no certificate ourselves.
        """
        if self.certificate is None:
            raise UsageError(
                "a receiver that speaks TLS needs a certificate",
                hint="give --certificate and --private-key, or retrieve with --get",
            )
        context = self._loaded(Context(ssl.PROTOCOL_TLS_SERVER))
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _loaded(self, context: Context) -> Context:
        try:
            context.load_verify_locations(cafile=self.authority)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{self.authority} holds no certificates", hint="name the PEM file of the authority with --ca"
            ) from error
        if self.certificate and self.private_key:
            _load(context, self.certificate, self.private_key)
        return context


def _load(context: Context, certificate: Path, key: Path) -> None:
    try:
        if key.stat().st_mode & 0o077:
            raise PolicyError(f"others may read the key {key}", hint=f"run: chmod 600 {key}")
        context.load_cert_chain(certificate, key, password=_no_pass_phrase)
    except (OSError, ValueError) as error:
        why = "they do not belong together" if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH" else ""
        raise UsageError(
            f"cannot use the certificate {certificate} with the key {key}" + (f": {why}" if why else ""),
            hint="name PEM files, the key without a pass phrase and with mode 0600",
        ) from error


def _no_pass_phrase() -> str:
    raise ValueError("a pass phrase would be asked for at the terminal")


def _fault(error: OSError) -> Fault | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _untrusted(error)
    reason = str(getattr(error, "reason", None) or "")
    if "UNKNOWN_CA" in reason:
        return Fault("does not trust our certificate", "give a --certificate of an authority that it trusts")
    if "ALERT_CERTIFICATE_EXPIRED" in reason:
        return Fault("says that our certificate has expired", "renew the one of --certificate")
    if "CERTIFICATE_REQUIRED" in reason or "PEER_DID_NOT_RETURN_A_CERTIFICATE" in reason:
        return Fault("asks for a certificate that was not given", _CERTIFICATE)
    if "ALERT" in reason and ("CERTIFICATE" in reason or "HANDSHAKE_FAILURE" in reason or "ACCESS" in reason):
        return Fault("ends the TLS handshake", _CERTIFICATE)
    if any(word in reason for word in ("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "NO_SHARED_CIPHER", "NO_CIPHERS")):
        return Fault("offers no TLS 1.2 or newer with suites of BCP 195", "have its administrator enable them")
    if isinstance(error, ssl.SSLEOFError | ConnectionResetError | BrokenPipeError | TimeoutError):
        return Fault("broke off the handshake and may not speak TLS on this port", "name its TLS port", passing=True)
    if isinstance(error, ssl.SSLError):
        return Fault("does not speak TLS on this port", "name its TLS port")
    return None


_CERTIFICATE = "give --certificate and --private-key of an authority that it trusts"


def _untrusted(error: ssl.SSLCertVerificationError) -> Fault:
    if error.verify_code == _EXPIRED:
        return Fault("shows a certificate that has expired", "have it renewed; do not go on without")
    if error.verify_code == _EARLY:
        return Fault("shows a certificate that is not valid yet", "check the clocks of both machines")
    if error.verify_code in _OTHER_HOST:
        return Fault("shows a certificate for another host", "name the host as its certificate does")
    if error.verify_code in _UNTRUSTED:
        return Fault("shows a certificate of an authority that is not trusted", "name its authority with --ca")
    return Fault(f"shows a certificate that is not valid: {error.verify_message}", "ask its administrator")
