"""The record of an export as a page: one HTML file without script that asks nobody."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from client.export import words
from client.export.run import FLOAT, Export
from shared import page


def render(found: Export, record: Mapping[str, Any]) -> str:
    """The page.

    Args:
        found: What came out.
        record: What stands in the record.
    """
    templates = page.environment("client")
    templates.filters["visible"] = page.visible
    style, style_hash = page.style((files("client") / "templates" / "export.css").read_text("utf-8"))
    sizes = {row["name"]: row["bytes"] for row in record["models"]}
    return templates.get_template("export.html").render(
        found=found,
        record=record,
        w=words,
        task=found.model.task,
        count=page.count,
        rows=words.table(found, sizes),
        smaller=[one for one in found.variants if one.name != FLOAT],
        style=style,
        style_hash=style_hash,
    )
