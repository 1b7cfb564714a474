"""The page that holds the whole report."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from .figure_tables import ABOUT_FILES, Section, facts, reading

TEMPLATE = 'report.html.jinja'


def as_page(content: dict[str, Any], sections: Sequence[Section], folder: Path) -> str:
    """HTML without scripts that needs no other file and no network.

    Each number is a ``data`` element: its value is that of ``report.json``, where
    the pointer of its attribute ``data-json`` (RFC 6901) leads.

    Args:
        folder: of the pictures.
    """

    def inlined(file: str) -> str:
        data = base64.b64encode((folder / file).read_bytes()).decode()
        return f'data:image/png;base64,{data}'

    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    template = environment.get_template(TEMPLATE)
    return template.render(
        title=content['title'],
        facts=list(facts(content).values()),
        reading=[*reading(content), ABOUT_FILES],
        sections=sections,
        inlined=inlined,
    )
