"""What the pages that people open have in common: their look, their policy, numbers, and text from outside."""

import base64
import hashlib
import unicodedata
from importlib.resources import files

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_LONGEST = 320


def environment(package: str) -> Environment:
    """Templates of ``package`` (its folder ``templates``) and those that all pages share, such as ``_head.html``.

    Every value in them is text until it says otherwise.
    """
    return Environment(
        loader=ChoiceLoader([PackageLoader(package, "templates"), PackageLoader("shared", "templates")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def look() -> str:
    """The style sheet that all pages share."""
    return (files("shared") / "page.css").read_text("utf-8").strip()


def style(own: str) -> tuple[Markup, str]:
    """A page's style sheet, and its SHA-256 in base64 as a Content-Security-Policy names the one style it lets in.

    Args:
        own: What the page has beyond the shared look; our own text, never data.
    """
    whole = f"{look()}\n{own.strip()}"
    digest = base64.b64encode(hashlib.sha256(whole.encode()).digest()).decode()
    return Markup(whole), digest  # noqa: S704  our own files, not data


def visible(text: str, longest: int = _LONGEST) -> str:
    """Text from outside, such as a file's name, with nothing in it that a reader cannot see or that moves other text.

    Control and format characters (those that turn the direction of writing among them), bytes that are no UTF-8,
    blanks other than the plain one, and characters without a meaning are spelt out as ``\\u202e`` or ``\\xfc``; a
    backslash is doubled, so that what is spelt out cannot be feigned. The result is text and still has to be escaped.

    Args:
        text: Any string, lone surrogates included.
        longest: Characters to show; of longer text the middle is left out.
    """
    if len(text) > longest:
        text = f"{text[: longest // 2]} … {text[-longest // 2 :]}"
    return "".join(map(_shown, text))


def _shown(sign: str) -> str:
    code = ord(sign)
    if sign == "\\":
        return "\\\\"
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as os.fsdecode has it
        return f"\\x{code - 0xDC00:02x}"
    kind = unicodedata.category(sign)
    if kind[0] == "C" or (kind[0] == "Z" and sign != " "):
        return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
    return sign


def humanise(name: str) -> str:
    """``"some_name"`` as ``"Some name"``."""
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def count(value: int) -> str:
    """An integer with thin no-break spaces between thousands (ISO 80000-1, section 7.3.1)."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def plural(value: int, one: str, many: str = "") -> str:
    """``3, "site"`` as ``"3 sites"``."""
    return f"{count(value)} {one if value == 1 else many or one + 's'}"
