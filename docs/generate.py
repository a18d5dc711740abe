"""Pages that are made from the code: `python docs/generate.py` writes them, a test compares.

Errors from the list of messages, the command line from its parsers, networks and suffixes from the registry, and the
table of networks in README.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_mamba import markdown, registry, trainer_names
from nnunet_mamba.cli.main import VERBS, parser_of
from nnunet_mamba.doctor.messages import MESSAGES, Message

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = "<!-- made by docs/generate.py -->\n"
BEGIN, END = "<!-- networks: made by docs/generate.py -->\n", "<!-- end of networks -->\n"


def pages() -> dict[Path, str]:
    """File -> content"""
    made = {DOCS / "errors" / f"{m.key}.md": MADE + _error(m) for m in MESSAGES}
    made[DOCS / "errors" / "README.md"] = MADE + _errors()
    made[DOCS / "reference" / "command-line.md"] = MADE + _command_line()
    made[DOCS / "reference" / "networks.md"] = MADE + _networks()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = readme.split(BEGIN)
    made[ROOT / "README.md"] = before + BEGIN + _network_table() + "\n" + END + rest.split(END)[1]
    return made


def _error(message: Message) -> str:
    shown = "\n".join(message.examples)
    return (
        f"# {_plain(message.examples[0])}\n\n```text\n{shown}\n```\n\n**Cause.** {message.cause}\n\n"
        f"**What to do.** {message.remedy}\n\n"
        "`nnunet-mamba doctor` looks at the installation; `nnunet-mamba doctor --explain LOGFILE` finds this and other "
        "messages in a log.\n"
    )


def _errors() -> str:
    rows = [(f"`{_plain(m.examples[0])}`", f"[{m.key}]({m.key}.md)") for m in MESSAGES]
    return (
        "# Error messages\n\nSearch this page, or the whole documentation, for the words of a message; or "
        f"`nnunet-mamba doctor --explain 'MESSAGE'`.\n\n{markdown.table(('message', 'page'), rows)}\n"
    )


def _plain(line: str) -> str:
    """A title: without what differs from case to case"""
    return line if len(line) <= 110 else line[:107].rstrip() + "..."


def _command_line() -> str:
    parts = ["# Command line\n\nTraining and prediction need none of these: nnU-Net's own commands know our names.\n"]
    for verb, summary in VERBS.items():
        parts.append(f"## nnunet-mamba {verb}\n\n{summary[0].upper() + summary[1:]}.\n")
        parts += _arguments(parser_of(verb), f"nnunet-mamba {verb}")
    return "\n".join(parts)


def _arguments(parser: argparse.ArgumentParser, name: str) -> list[str]:
    rows, parts = [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {a.dest: a.help or "" for a in action._choices_actions}
            for choice, below in action.choices.items():
                parts.append(f"### {name} {choice}\n\n{helps.get(choice, '')}\n")
                parts += _arguments(below, f"{name} {choice}")
        elif action.help is not argparse.SUPPRESS and not isinstance(action, argparse._HelpAction):
            rows.append((f"`{_form(action)}`", (action.help or "").replace("%(default)s", str(action.default))))
    table = [markdown.table(("argument", "meaning"), rows) + "\n"] if rows else []
    epilog = [f"```text\n{parser.epilog.strip()}\n```\n"] if parser.epilog else []
    return [*table, *epilog, *parts]


def _form(action: argparse.Action) -> str:
    words = "/".join(action.option_strings) or str(action.metavar or action.dest)
    if action.option_strings and action.nargs != 0:
        value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
        words += f" {' '.join(value) if isinstance(value, tuple) else value}"
    return words + (" ..." if action.nargs in ("+", "*") else "") + (" (required)" if action.required and
                                                                    action.option_strings else "")  # fmt: skip


def _network_table() -> str:
    rows = [
        (n.title, f"`{n.trainer}`", f"`{n.planner}`", f"[{n.short_paper}]({n.url})" if n.url else n.short_paper)
        for n in registry.NETWORKS
    ]
    return markdown.table(("network", "trainer", "planner", "paper"), rows)


def _networks() -> str:
    parts = ["# Networks, trainers, planners\n\nAs `nnunet-mamba list` prints them, without sizes.\n"]
    for n in registry.NETWORKS:
        rows = [
            ("train", f"`nnUNetv2_train DATASET 3d_fullres FOLD -tr {n.trainer}`"),
            ("plan", f"`nnUNetv2_plan_and_preprocess -d DATASET -pl {n.planner}`, then `-p {n.plans}`"),
            ("control", f"`{n.no_mamba_trainer}`, `{n.no_mamba_planner}`, `{n.no_mamba_plans}`"),
            ("class", f"`{n.architecture}`"),
            ("source", f"{n.paper}{f', [{n.url}]({n.url})' if n.url else ''}"),
        ]
        table = markdown.table(("", ""), rows)
        parts.append(f"## {n.title}\n\n{n.summary[0].upper() + n.summary[1:]}.\n\n{table}\n")
        if n.citation:
            parts.append(f"```bibtex\n{n.citation}\n```\n")
    rows = [(f"`{s.form}`", s.meaning) for s in trainer_names.SUFFIXES]
    parts.append(f"## Suffixes of trainers' names\n\n{markdown.table(('suffix', 'what it changes'), rows)}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    for path, content in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
