"""What a person tells a command by hand, read in one way by all commands."""

from shared.errors import UsageError


def charter_digits(charter: str | None) -> str:
    """The digits of ``--charter``, without spaces and in lower case; empty where it was not given.

    Raises:
        UsageError: It is no SHA-256, nor the first half of one or more.
    """
    digits = "".join((charter or "").split()).lower()
    if charter is not None and (not 32 <= len(digits) <= 64 or set(digits) - set("0123456789abcdef")):
        raise UsageError("--charter must be 32 to 64 hexadecimal digits", hint="copy the SHA-256 whole")
    return digits
