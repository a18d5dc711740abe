"""Whether stock nnU-Net finds each of our names, in this process and in a fresh one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

from nnunet_mamba.discovery.hook import install
from nnunet_mamba.doctor.finding import NOTE, OK, PROBLEM, Finding
from nnunet_mamba.names import networks
from nnunet_mamba.names.locate import locate
from nnunet_mamba.nnunet_folders import VARIABLES

AREA = "discovery"
LIMIT_S = 300
LOOK_UP = """
import sys
from pathlib import Path
import nnunetv2
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class as find
root = Path(nnunetv2.__file__).parent
trainers = ("training/nnUNetTrainer", "nnunetv2.training.nnUNetTrainer")
places = (trainers, ("experiment_planning", "nnunetv2.experiment_planning"))
for name in sys.argv[1:]:
    folder, module = places["Planner" in name]
    try:
        found = find(str(root / folder), name, module)
    except Exception as error:
        print(name, "failed", type(error).__name__, str(error).splitlines()[0] if str(error) else "")
        continue
    print(name, "found" if found is not None and found.__name__ == name else "missing")
"""


def findings() -> Iterator[Finding]:
    """Whether nnU-Net finds our names"""
    if os.environ.get("NNUNET_MAMBA_AUTOLOAD") == "0":
        text = "NNUNET_MAMBA_AUTOLOAD=0: nnU-Net's commands do not find our trainers"
        yield Finding(AREA, "start-up file", PROBLEM, text, "unset NNUNET_MAMBA_AUTOLOAD")
    install()
    yield _judged("this process", _here())
    yield _judged("a fresh process", _fresh())
    outside = os.environ.get("nnUNet_extTrainer")
    if outside:
        yield Finding(AREA, "nnUNet_extTrainer", NOTE, f"{outside}: not needed for our trainers")


def _here() -> dict[str, str]:
    from nnunet_mamba.discovery.resolve import load

    found = {}
    for name in networks.class_names():
        place = locate(name)
        try:
            found[name] = "found" if place is not None and load(place).__name__ == name else "missing"
        except Exception as error:  # a doctor reports whatever went wrong
            found[name] = f"failed {type(error).__name__} {error}"
    return found


def _fresh() -> dict[str, str]:
    """As nnUNetv2_train would: a new interpreter that imports nnunetv2 and nothing of ours"""
    names = list(networks.class_names())
    # quiet where paths are not set: that is another finding
    environment = {**dict.fromkeys(VARIABLES, os.devnull), **os.environ}
    try:
        done = subprocess.run(
            [sys.executable, "-c", LOOK_UP, *names], capture_output=True, text=True, timeout=LIMIT_S, check=False,
            env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return dict.fromkeys(names, f"failed after {LIMIT_S} s")
    lines = (line.split(maxsplit=1) for line in done.stdout.splitlines())
    found = {parts[0]: parts[1] for parts in lines if len(parts) == 2 and parts[0] in names}
    reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
    return {name: found.get(name, f"failed {reason}") for name in names}


def _judged(where: str, found: dict[str, str]) -> Finding:
    lost = {name: what for name, what in found.items() if what != "found"}
    if not lost:
        return Finding(AREA, where, OK, f"nnU-Net finds all {len(found)} trainers and planners")
    name, what = next(iter(lost.items()))
    text = f"{len(lost)} of {len(found)} names are not found, {name} for instance: {what}"
    remedy = f"{sys.executable} -m pip install --force-reinstall --no-deps nnunet-mamba"
    return Finding(AREA, where, PROBLEM, text, remedy)
