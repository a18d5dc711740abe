"""`nnunet-mamba doctor`: what is installed and works, and what an error message means."""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunet_mamba.doctor.messages import Message

WIDTH = 110
LIKE_A_FILE = re.compile(r"\S+\.(txt|log|out|err)|(~|\.{1,2})?(/\S*)+|\w[\w.-]*(/[\w.-]+)+|[A-Za-z]:\\\S+")
"""A text without blanks that is a path rather than a message"""
AREAS = ("installation", "names", "backends", "machine")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", action="store_true", help="findings as JSON")
    parser.add_argument("--explain", metavar="TEXT_OR_FILE", help="explain an error message, those of a log file, or "
                        "the page of this name; - reads standard input")  # fmt: skip
    parser.epilog = """example: nnunet-mamba doctor
         nnunet-mamba doctor --explain "No module named 'selective_scan_cuda'"
         nnunet-mamba doctor --explain training_log.txt"""


def run(options: argparse.Namespace) -> int:
    """Returns 0; 1 if there is a problem, or a message that is not known. Raises ValueError for a file that is not
    there."""
    if options.explain is not None:
        return _explain(options.explain, options.json)
    from importlib import import_module

    found = [f for area in AREAS for f in import_module(f"nnunet_mamba.doctor.{area}").findings()]
    problems = [f for f in found if f.state == "problem"]
    if options.json:
        print(json.dumps({"findings": [asdict(f) for f in found], "problems": len(problems)}, indent=2))
        return 1 if problems else 0
    area = ""
    for finding in found:
        if finding.area != area:
            area = finding.area
            print(f"\n{area}")
        first = f"  {'' if finding.state == 'ok' else finding.state.upper() + ' '}{finding.name}: {finding.text}"
        print(textwrap.fill(first, WIDTH, subsequent_indent="      "))
        if finding.remedy and finding.state != "ok":
            print(f"      -> {finding.remedy}")
    print(f"\n{len(problems)} problem{'' if len(problems) == 1 else 's'}" + ("" if problems else ": all is well"))
    return 1 if problems else 0


def _explained(given: str) -> list[Message]:
    """Messages in a text or file, or the one of this key. Raises ValueError for a file that is not there."""
    from nnunet_mamba.doctor.messages import MESSAGES, explain

    if given == "-":
        return explain(sys.stdin.read())
    of_key = [m for m in MESSAGES if m.key == given]
    if of_key:
        return of_key
    try:
        path = Path(given)
        if path.is_file():
            return explain(path.read_text(encoding="utf-8", errors="replace"))
        if path.is_dir():
            raise ValueError(f"--explain {given} is a folder; name a log file in it")
    except OSError:  # a long message is not a file name
        pass
    found = explain(given)
    if not found and LIKE_A_FILE.fullmatch(given):
        raise ValueError(f"--explain {given}: no such file")
    return found


def _explain(given: str, as_json: bool) -> int:
    found = _explained(given)
    if as_json:
        print(json.dumps([asdict(m) for m in found], indent=2))
        return 0 if found else 1
    if not found:
        print("No message that we know. nnunet-mamba doctor looks at the installation; the last lines of the log and "
              "the command, in an issue, let us add it.")  # fmt: skip
        return 1
    for message in found:
        print(message.examples[0])
        for title, words in (("cause", message.cause), ("do", message.remedy)):
            print(textwrap.fill(f"  {title}: {words}", WIDTH, subsequent_indent="    ", break_on_hyphens=False,
                                break_long_words=False))  # fmt: skip
        print()
    return 0
