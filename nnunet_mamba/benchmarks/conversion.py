"""`nnunet-mamba bench convert`: our conversion compared with plain reading and writing of the same files."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import SimpleITK as sitk

from dataset_conversion import asoca, brats
from dataset_conversion.convert import convert
from dataset_conversion.declare import Found, Options
from dataset_conversion.examples import make_asoca, make_brats_tree

CASES = 4
SIZES = {"asoca": (256, 256, 128), "brats2021": (240, 240, 155)}


@dataclass(frozen=True)
class ConversionRow:
    """Seconds for one set of files; ratio: converted / plain."""

    dataset: str
    files: int
    plain_seconds: float
    converted_seconds: float
    ratio: float
    note: str = ""

    def as_json(self) -> dict:
        return asdict(self)


def run(repeats: int, say: Callable[[str], None]) -> Iterator[ConversionRow]:
    """Both on invented cases in the real layouts, in turns, one process; the shorter of each one's times."""
    for name, size in SIZES.items():
        say(name)
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            found = _asoca(root, size) if name == "asoca" else _brats(root, size)
            files = [path for case in found.cases for path in case.files]
            raw, again = root / "raw", root / "plain"
            plain, converted = [], []
            for _ in range(repeats):
                plain.append(_seconds(partial(_plain, files, again), again))
                converted.append(_seconds(partial(convert, found, raw, Options()), raw))
        yield ConversionRow(name, len(files), min(plain), min(converted), min(converted) / min(plain))


def _asoca(root: Path, size: tuple[int, int, int]) -> Found:
    make_asoca(root / "download", (CASES // 2, CASES // 2), (0, 0), size)
    return asoca.discover(root / "download", {})


def _brats(root: Path, size: tuple[int, int, int]) -> Found:
    make_brats_tree(root / "download", 2021, CASES, 0, size)
    return brats.discover(root / "download", {})


def _plain(files: list[Path], target: Path) -> None:
    for k, path in enumerate(files):
        sitk.WriteImage(sitk.ReadImage(str(path)), str(target / f"{k}.nii.gz"), useCompression=True)


def _seconds(work: Callable[[], object], target: Path) -> float:
    target.mkdir(exist_ok=True)
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    shutil.rmtree(target)
    return seconds
