"""Pages that are made from the code: `python docs/generate.py` writes them, a test compares.

Errors from the list of messages, the command line from its parsers, networks and suffixes from their names, plan keys
from the networks' signatures, recipes from their fields, figures from their files, the layers of the package from the
test that enforces them, and the table of networks in README.md.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
from pathlib import Path

from dataset_conversion import command
from docs import measured
from nnunet_mamba import markdown
from nnunet_mamba.cli.main import VERBS, parser_of
from nnunet_mamba.doctor.messages import MESSAGES, Message
from nnunet_mamba.names import networks, planners, suffixes
from nnunet_mamba.planning.recipe_format import RECIPE, TOPOLOGY, Field
from nnunet_mamba.planning.recipes import recipe_folder

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = "<!-- made by docs/generate.py -->\n"

_EVERY = "as in nnU-Net's U-Nets; stage 0 is the full resolution"
PLAN_KEYS = {
    "n_stages": _EVERY, "features_per_stage": _EVERY, "conv_op": _EVERY, "kernel_sizes": _EVERY, "strides": _EVERY,
    "mixer": 'what mixes tokens: `"mamba"`, `"mamba2"`, `"conv"` (a control of the same size) or `"none"` (the twin); '
    "`null`: as published",
    "conv3d": "before the scan, a convolution of the volume instead of one along the sequence of tokens",
    "depths": "per stage after the first, or one number for all: Mamba layers (SegMamba, Mamba encoder), blocks of "
    "convolutions and Mamba (SegMamba-V2)",
    "d_state": "of the Mamba layer: size of the state; `null`: 16 of Mamba, 64 of Mamba-2 (U-Mamba2: 32)",
    "d_conv": "of the Mamba layer: taps of the convolution",
    "expand": "of the Mamba layer: expansion of the width",
    "n_slices": "slices of the inter-slice scan per stage; `null`: the first axis of the map",
    "gsc": 'branches of the gated spatial convolution: `"sum"` as released, or `"product"`',
    "fue": "the uncertainty of the paper on the skips; released code has none",
    "skip": '`"sum"` as published, or `"concat"`',
    "n_conv_per_stage": "residual blocks per encoder stage; the deeper half has one, as released",
    "n_conv_per_stage_decoder": "the same per decoder stage (U-Mamba2: convolutions)",
    "n_blocks_per_stage": "residual blocks per encoder stage; `null`: 1, 3, 4, 6, 6, ... as in nnU-Net's presets",
    "headdim": "channels of a head of the Mamba-2 layer; `null`: 80, or what fits the width",
    **dict.fromkeys(("conv_bias", "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs", "nonlin",
                     "nonlin_kwargs"), "as in nnU-Net's U-Nets; `null`: as its planners write it"),
    "patch_size": "the patch the weights are for; `null` leaves patch-sized layers out (no difference for U-Mamba Bot)",
    "blocks_down": "residual Mamba blocks per encoder stage; `null`: 1, 2, ..., 2, 4 as released",
    "blocks_up": "residual blocks per decoder stage",
    "scan": '`"forward"`, `"bidirectional"` or `"tri-orientated"`',
}  # fmt: skip
"""What every keyword of a network means; a keyword without an entry here is an error"""
GIVEN_BY_NNUNET = ("self", "input_channels", "num_classes", "deep_supervision")


def _marks(what: str) -> tuple[str, str]:
    return f"<!-- {what}: made by docs/generate.py -->\n", f"<!-- end of {what} -->\n"


def pages() -> dict[Path, str]:
    """File -> content"""
    made = {DOCS / "errors" / f"{m.key}.md": MADE + _error(m) for m in MESSAGES}
    made[DOCS / "errors" / "README.md"] = MADE + _errors()
    made[DOCS / "reference" / "command-line.md"] = MADE + _command_line()
    made[DOCS / "reference" / "networks.md"] = MADE + _networks()
    made[DOCS / "reference" / "recipes.md"] = MADE + _recipes()
    for path, what, table in (
        (ROOT / "README.md", "networks", _network_table()),
        (DOCS / "reference" / "plan-keys.md", "keys", _plan_keys()),
        (DOCS / "contributing.md", "layers", _layers()),
        (DOCS / "reference" / "benchmarks.md", "figures of GPUs", measured.tables()),
        (DOCS / "reference" / "benchmarks.md", "counts", measured.counts()),
        (DOCS / "reference" / "benchmarks.md", "figures of a CPU", measured.networks_on_a_cpu()),
    ):
        begin, end = _marks(what)
        before, rest = made.get(path, path.read_text(encoding="utf-8")).split(begin)
        made[path] = before + begin + table + "\n" + end + rest.split(end)[1]
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
        parts += _converters() if verb == "convert" else _arguments(parser_of(verb), f"nnunet-mamba {verb}")
    return "\n".join(parts)


def converters() -> dict[str, argparse.ArgumentParser]:
    """The parser of every dataset with its own options, which the command adds for the chosen one only"""
    found = {}
    for name in command.NAMES:
        parser = argparse.ArgumentParser(prog="nnunet-mamba convert")
        command.add_arguments(parser, name)
        (kinds,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        found[name] = kinds.choices[name]
    return found


def _converters() -> list[str]:
    """What all datasets have once, then each with its own"""
    parsers = converters()
    rows = {name: _rows(parser) for name, parser in parsers.items()}
    common = [row for row in rows["msd"] if all(row in rows[other] for other in rows.keys() - command.MADE)]
    whole = argparse.ArgumentParser(prog="nnunet-mamba convert")
    command.add_arguments(whole)
    parts = [markdown.table(("argument", "meaning"), _rows(whole)) + "\n", _epilog(whole),
             "### nnunet-mamba convert NAME\n\nWhatever the dataset:\n",
             markdown.table(("argument", "meaning"), common) + "\n"]  # fmt: skip
    for name, parser in parsers.items():
        own = [row for row in rows[name] if row not in common]
        parts.append(f"### nnunet-mamba convert {name}\n\n{command.NAMES[name]}.\n")
        parts += [markdown.table(("argument", "meaning"), own) + "\n"] if own else []
        if "\n" in (parser.description or ""):
            parts.append(f"```text\n{parser.description}\n```\n")
        parts += [_epilog(parser)] if parser.epilog else []
    return parts


def _arguments(parser: argparse.ArgumentParser, name: str) -> list[str]:
    parts = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {a.dest: a.help or "" for a in action._choices_actions}
            for choice, below in action.choices.items():
                parts.append(f"### {name} {choice}\n\n{helps.get(choice, '')}\n")
                parts += _arguments(below, f"{name} {choice}")
    rows = _rows(parser)
    table = [markdown.table(("argument", "meaning"), rows) + "\n"] if rows else []
    return [*table, *([_epilog(parser)] if parser.epilog else []), *parts]


def _rows(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    left_out = (argparse._HelpAction, argparse._SubParsersAction)
    return [(f"`{_form(action)}`", (action.help or "").replace("%(default)s", str(action.default)))
            for action in parser._actions
            if action.help is not argparse.SUPPRESS and not isinstance(action, left_out)]  # fmt: skip


def _epilog(parser: argparse.ArgumentParser) -> str:
    return f"```text\n{(parser.epilog or '').strip()}\n```\n"


def _form(action: argparse.Action) -> str:
    words = "/".join(action.option_strings) or str(action.metavar or action.dest)
    if action.option_strings and action.nargs != 0:
        choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
        value = action.metavar or choices  # no vertical bar: in code in a table it is shown with its backslash
        words += f" {' '.join(value) if isinstance(value, tuple) else value}"
    return words + (" ..." if action.nargs in ("+", "*") else "") + (" (required)" if action.required and
                                                                    action.option_strings else "")  # fmt: skip


def _network_table() -> str:
    rows = [
        (n.title, f"`{n.trainer}`", f"`{n.planner}`", f"[{n.short_paper}]({n.url})" if n.url else n.short_paper)
        for n in networks.NETWORKS
    ]
    return markdown.table(("network", "trainer", "planner", "paper"), rows)


def _plan_keys() -> str:
    keywords = {n.title: _keywords(n) for n in networks.NETWORKS}
    keys = dict.fromkeys(key for of_one in keywords.values() for key in of_one)
    rows = []
    for key in keys:
        having = {title: of_one[key] for title, of_one in keywords.items() if key in of_one}
        default = " or ".join(dict.fromkeys(having.values()))
        of = "all" if len(having) == len(keywords) else ", ".join(having)
        rows.append((f"`{key}`", of, default, PLAN_KEYS[key]))
    return markdown.table(("in `arch_kwargs`", "of", "left out", "meaning"), rows)


def _keywords(record: networks.Network) -> dict[str, str]:
    """Keyword -> its default as JSON"""
    parameters = record.load_architecture().keywords().values()
    return {
        p.name: "needed" if p.default is inspect.Parameter.empty else f"`{json.dumps(p.default)}`"
        for p in parameters if p.name not in GIVEN_BY_NNUNET
    }  # fmt: skip


def _recipes() -> str:
    example = (recipe_folder() / "segmamba_brats.json").read_text(encoding="utf-8").strip()
    return (
        "# Recipes\n\nWhat a paper or report used, for `nnunet-mamba plan-from-recipe -d DATASET FILE.json`. A key "
        "that is not in this list, or a value of another kind, is refused.\n\n"
        f"{_fields(RECIPE)}\n\nIn `topology`:\n\n{_fields(TOPOLOGY)}\n\n"
        f"For example:\n\n```json\n{example}\n```\n"
    )


def _fields(fields: tuple[Field, ...]) -> str:
    rows = [(f"`{f.key}`", f.meaning, f.expected, "yes" if f.needed else "no") for f in fields]
    return markdown.table(("key", "meaning", "expected", "needed"), rows)


def _layers() -> str:
    """From the test's own table, highest first"""
    source = (ROOT / "tests" / "test_layering.py").read_text(encoding="utf-8")
    (found,) = (n.value for n in ast.parse(source).body
                if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "RANK")  # fmt: skip
    ranks: dict[str, int] = ast.literal_eval(found)
    rows = [(", ".join(f"`{name.replace('.', '/')}`" for name in sorted(ranks) if ranks[name] == rank),)
            for rank in sorted(set(ranks.values()), reverse=True)]  # fmt: skip
    return markdown.table(("may import what stands below",), rows)


def _networks() -> str:
    parts = ["# Networks, trainers, planners\n\nAs `nnunet-mamba list` prints them, without sizes.\n"]
    for n in networks.NETWORKS:
        rows = [
            ("train", f"`nnUNetv2_train DATASET 3d_fullres FOLD -tr {n.trainer}`"),
            ("plan", f"`nnUNetv2_plan_and_preprocess -d DATASET -pl {n.planner}`, then `-p {n.plans}`"),
            *(
                ("for larger cards", f"`{n.planner_of(p)}` ({p.gigabytes:g} GB), then `-p {n.plans_of(p)}`")
                for p in n.presets[1:]
            ),
            ("control", f"`{n.twin.trainer}`, `{n.twin.planner}`, `{n.twin.plans}`"),
            ("class", f"`{n.architecture}`"),
            ("source", f"{n.paper}{f', [{n.url}]({n.url})' if n.url else ''}"),
        ]
        table = markdown.table(("", ""), rows)
        parts.append(f"## {n.title}\n\n{n.summary[0].upper() + n.summary[1:]}.\n\n{table}\n")
        if n.citation:
            parts.append(f"```bibtex\n{n.citation}\n```\n")
    rows = [(f"`{s.form}`", s.meaning) for s in suffixes.SUFFIXES]
    parts.append(f"## Suffixes of trainers' names\n\n{markdown.table(('suffix', 'what it changes'), rows)}\n")
    rows = [(f"`{form}`", planners.meaning(form)) for form in planners.forms()]
    parts.append(f"## Suffixes of planners' names\n\n{markdown.table(('suffix', 'what it changes'), rows)}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    for path, content in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
