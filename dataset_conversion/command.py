"""The command line: `nnunet-mamba convert NAME ...` and `python -m dataset_conversion NAME ...`."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import FrameType

from dataset_conversion.report import printable

NAMES = {
    "asoca": "ASOCA: coronary arteries in CT angiography",
    "brats": "BraTS 2018 to 2024: glioma in four MR sequences; the year is recognised",
    "imagecas": "ImageCAS: coronary arteries in 1000 CT angiographies",
    "btcv": "BTCV: 13 abdominal organs in CT",
    "aiib23": "AIIB 2023: airways in CT of fibrotic lungs",
    "msd": "Medical Segmentation Decathlon: as nnU-Net's own converter makes it, with checks and splits",
    "probe": "invented volumes that ask how far a network sees; made, not downloaded",
    "generic": "any folder of images and labels, described by a small JSON file",
}
MADE = ("probe",)
"""Of these there is no download: `discover` makes them in an empty folder."""
EXAMPLES = ("asoca", "asoca2020", "brats2018", "brats2019", "brats2020", "brats2021", "brats2023", "brats2024")
MOST_JOBS = 4


def add_arguments(parser: argparse.ArgumentParser, chosen: str | None = None) -> None:
    """All datasets as subcommands; only the chosen one's file is imported."""
    parser.epilog = (
        "example: nnunet-mamba convert --make-example asoca trial; nnunet-mamba convert asoca -i trial -o nnUNet_raw"
    )
    parser.add_argument(
        "--make-example", nargs=2, metavar=("KIND", "DIR"),
        help=f"make a small invented download to try with: {', '.join(EXAMPLES)}",
    )  # fmt: skip
    kinds = parser.add_subparsers(dest="name", metavar="NAME")
    for name, summary in NAMES.items():
        kind = kinds.add_parser(name, help=summary, description=f"{summary}.")
        (_common_of_made if name in MADE else _common)(kind)
        if name == chosen:
            import_module(f"dataset_conversion.{name}").add_arguments(kind)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", type=Path, metavar="DOWNLOAD", help="folder of the download, as unpacked")
    _of_target(parser)
    parser.add_argument("--skip-incomplete", action="store_true", help="leave out cases that cannot be used")
    parser.add_argument("--keep-duplicates", action="store_true", help="keep cases with the same images")
    parser.add_argument("--link", choices=("hard", "sym"), help="link files that need no change instead of copying")
    parser.add_argument(
        "--trust-array", action="store_true", help="equal sizes are the same grid, whatever headers say"
    )
    parser.add_argument("--prefer", choices=("sform", "qform"), help="where a NIfTI's two geometries disagree")
    parser.add_argument("--fix-shear", action="store_true", help="make slightly sheared axes perpendicular")
    parser.add_argument("--nan-to-zero", action="store_true", help="set voxels that are not numbers to 0")


def _common_of_made(parser: argparse.ArgumentParser) -> None:
    _of_target(parser)
    parser.set_defaults(i=None, skip_incomplete=False, keep_duplicates=False, link=None, trust_array=False, prefer=None,
                        fix_shear=False, nan_to_zero=False)  # fmt: skip


def _of_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", type=Path, metavar="FOLDER", help="nnUNet_raw (default: the environment variable)")
    parser.add_argument("-d", type=int, metavar="ID", help="dataset id, 1 to 999 (default: one of its own)")
    parser.add_argument("--dry-run", action="store_true", help="check everything, write nothing")
    parser.add_argument("--jobs", type=int, default=None, help=f"processes (default: CPUs, at most {MOST_JOBS})")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted conversion")


def run(options: argparse.Namespace) -> int:
    """Returns 0, 1 when writing failed, or 128 and more when interrupted. Raises ValueError for what the user can
    mend."""
    if options.make_example:
        return _make_example(*options.make_example)
    if options.name is None:
        raise ValueError(f"which dataset? One of {', '.join(NAMES)}")
    given = vars(options)
    if options.name == "brats" and given.get("back") is not None:
        return _back(options)
    if options.i is None and options.name not in MADE:
        raise ValueError("-i DOWNLOAD is missing: the folder of the download")
    raw = _utf8(_raw(options.o))
    jobs = min(MOST_JOBS, os.cpu_count() or 1) if options.jobs is None else options.jobs
    if jobs < 1:
        raise ValueError(f"--jobs: expected at least 1, not {jobs}")
    if options.d is not None and not 0 < options.d < 1000:
        raise ValueError(f"-d: expected 1 to 999, not {options.d}")
    return _convert(options, raw, jobs)


def _convert(options: argparse.Namespace, raw: Path, jobs: int) -> int:
    from dataset_conversion.convert import convert, dry_run
    from dataset_conversion.declare import Options
    from dataset_conversion.grid import UnreadableError
    from dataset_conversion.ownership import is_begun

    how = Options(
        jobs, options.skip_incomplete, options.trust_array, options.nan_to_zero, options.prefer, options.fix_shear,
        options.keep_duplicates, options.link, vars(options),
    )  # fmt: skip
    module = import_module(f"dataset_conversion.{options.name}")
    target = raw
    try:
        with terminable(), _source(options) as source:
            found = module.discover(source, how.dataset)
            if options.d is not None:
                found = replace(found, dataset=replace(found.dataset, id=options.d))
            target = raw / found.dataset.folder
            report = (dry_run if options.dry_run else convert)(found, raw, how, options.resume)
    except (OSError, UnreadableError) as error:
        hint = "\ngo on with the same command and --resume" if is_begun(target) else "\nnothing was written"
        print(f"convert {options.name}: {printable(str(error))}{hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        hint = "go on with the same command and --resume" if is_begun(target) else "nothing was written"
        print(f"\nconvert {options.name}: interrupted; {hint}", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(interruption, TerminatedError) else signal.SIGINT)
    print(report.summary())
    if options.dry_run:
        print("nothing written (--dry-run)")
        return 1 if report.refused_cases else 0
    number = report.dataset.id
    print(
        f"written: {raw / report.dataset.folder}\n"
        f"next: nnUNetv2_plan_and_preprocess -d {number} --verify_dataset_integrity -pl nnUNetPlannerSegMamba"
    )
    return 0


@contextmanager
def _source(options: argparse.Namespace) -> Iterator[Path]:
    """The download; for what is made an empty folder, which goes away again"""
    if options.name not in MADE:
        yield options.i.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="nnunet_mamba_") as folder:
        yield Path(folder)


class TerminatedError(KeyboardInterrupt):
    """SIGTERM, as batch systems send it: an interruption like Ctrl-C, after which nothing may stay behind"""


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises TerminatedError once; a second one ends the process as ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise TerminatedError

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _back(options: argparse.Namespace) -> int:
    from dataset_conversion.brats import convert_back

    if options.year is None or options.o is None:
        raise ValueError("--back needs --year (of the challenge) and -o FOLDER")
    n = convert_back(options.back, _utf8(options.o), options.year, options.label_order)
    print(f"{n} predictions in the labels of BraTS {options.year}: {options.o}")
    return 0


def _make_example(kind: str, folder: str) -> int:
    from dataset_conversion import examples

    if kind not in EXAMPLES:
        raise ValueError(f"--make-example {kind}: unknown; one of {', '.join(EXAMPLES)}")
    target = _utf8(Path(folder))
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"--make-example {folder}: is there already and not empty")
    if kind.startswith("asoca"):
        examples.make_asoca(target, release="2020" if kind == "asoca2020" else "ukds")
    else:
        examples.make_brats_tree(target, int(kind.removeprefix("brats")))
    name = "asoca" if kind.startswith("asoca") else "brats"
    print(f"made: {target} (invented volumes, for trying out only)\nnext: nnunet-mamba convert {name} -i {target}")
    return 0


def _raw(given: Path | None) -> Path:
    if given is not None:
        return given
    known = os.environ.get("nnUNet_raw")
    if not known:
        raise ValueError("-o FOLDER is missing, and the environment variable nnUNet_raw is not set")
    return Path(known)


def _utf8(path: Path) -> Path:
    """A folder to write into. Raises ValueError for a name at which SimpleITK would end the process."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{printable(str(path))}: its name is not UTF-8; choose another folder") from None
    return path


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `python -m dataset_conversion`"""
    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m dataset_conversion", description=__doc__)
    add_arguments(parser, chosen_name(given))
    options = parser.parse_args(given)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without some sign ends nothing
    try:
        return run(options)
    except ValueError as error:
        print(f"convert: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, `head` for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("\nconvert: interrupted; nothing was written", file=sys.stderr)
        return 130


def chosen_name(arguments: list[str]) -> str | None:
    """The dataset among command line arguments"""
    return next((a for a in arguments if a in NAMES), None)
