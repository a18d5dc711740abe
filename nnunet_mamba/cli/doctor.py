"""`nnunet-mamba doctor`: what is installed and works, and what an error message means."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path

WIDTH = 110
AREAS = ("installation", "names", "backends", "machine")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", action="store_true", help="findings as JSON")
    parser.add_argument("--explain", metavar="TEXT_OR_FILE", help="explain an error message, or those of a log file; - "
                        "reads standard input")  # fmt: skip
    parser.epilog = """example: nnunet-mamba doctor
         nnunet-mamba doctor --explain "No module named 'selective_scan_cuda'"
         nnunet-mamba doctor --explain training_log.txt"""


def run(options: argparse.Namespace) -> int:
    """Returns 0; 1 if there is a problem, or a message that is not known."""
    if options.explain is not None:
        return _explain(_text(options.explain), options.json)
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


def _text(given: str) -> str:
    if given == "-":
        return sys.stdin.read()
    try:
        path = Path(given)
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else given
    except OSError:  # a long message is no file name
        return given


def _explain(text: str, as_json: bool) -> int:
    from nnunet_mamba.doctor.messages import explain

    found = explain(text)
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
