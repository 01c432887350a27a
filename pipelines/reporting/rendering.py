"""Fills the pages' templates: what they share lies in parts.html.j2, header.html.j2, style.css.j2 and script.js.j2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def rendered(template: str, context: dict[str, Any]) -> str:
    """A page's HTML. Raises jinja2.UndefinedError for what the template shows and the context lacks."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(context)
