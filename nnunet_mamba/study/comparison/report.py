"""The comparison as one page that needs nothing else, and as Markdown with its pictures next to it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from nnunet_mamba import markdown
from nnunet_mamba.study.comparison.tables import Table

PAGE = Path(__file__).parent / "page"


@dataclass(frozen=True)
class Picture:
    """A figure as SVG, its file name and what it shows."""

    name: str
    caption: str
    svg: bytes

    @property
    def data(self) -> str:
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()


@dataclass(frozen=True)
class Section:
    """A heading with tables and pictures below it."""

    title: str
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()

    @property
    def anchor(self) -> str:
        return "section-" + self.title.lower().replace(" ", "-")


@dataclass(frozen=True)
class Report:
    """about: lines below the title. cases: what `viewer.encode` gives, each with a `title`; labels: (value, name)."""

    title: str
    about: tuple[str, ...]
    sections: tuple[Section, ...]
    definitions: tuple[tuple[str, str], ...]
    cases: tuple[Mapping[str, Any], ...] = ()
    labels: tuple[tuple[int, str], ...] = ()
    cases_note: str = ""
    overlays: Mapping[str, str] = field(default_factory=dict)
    """Caption -> file next to the Markdown page."""


def picture(name: str, caption: str, figure: Figure) -> Picture:
    """The figure as SVG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Picture(name, caption, buffer.getvalue())


def write_html(report: Report, target: Path) -> None:
    """One file: styles, pictures, volumes and script are in it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    volumes = json.dumps({"cases": report.cases, "labels": report.labels})
    text = environment.get_template("report.html").render(
        title=report.title, about=report.about, sections=report.sections, definitions=report.definitions,
        cases=report.cases, cases_note=report.cases_note,
        # inside <script>, where no entity is read and only a closing tag could end it
        cases_json=Markup(volumes.replace("<", r"\u003c")),
        style=Markup((PAGE / "report.css").read_text(encoding="utf-8")),
        script=Markup((PAGE / "viewer.js").read_text(encoding="utf-8")),
    )  # fmt: skip
    target.write_text(text, encoding="utf-8")


def write_markdown(report: Report, target: Path) -> None:
    """The same tables and pictures; instead of the viewer one picture of each case."""
    folder = target.parent / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    plain = markdown.plain  # names of models, cases and labels are in every text
    blocks = [f"# {plain(report.title)}", *map(plain, report.about)]
    for section in report.sections:
        blocks.append(f"## {plain(section.title)}")
        for table in section.tables:
            if table.title != section.title:
                blocks.append(f"### {plain(table.title)}")
            rows = [[plain(cell) for cell in row] for row in table.rows]
            blocks += [plain(table.note), markdown.table([plain(cell) for cell in table.head], rows)]
        for shown in section.pictures:
            (folder / f"{shown.name}.svg").write_bytes(shown.svg)
            blocks.append(f"![{plain(shown.caption)}](pictures/{shown.name}.svg)")
    if report.overlays:
        blocks += ["## Cases", *(f"{plain(c)}\n\n![{plain(c)}]({file})" for c, file in report.overlays.items())]
    blocks += ["## Definitions", "\n".join(f"- **{plain(name)}**: {plain(text)}" for name, text in report.definitions)]
    target.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
