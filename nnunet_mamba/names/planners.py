"""Planner names taken apart: `nnUNetPlannerUMamba2L_Conv3d_torchres` and the plans that it writes.

A network's name, one of its sizes, the suffixes of trainers that change the network, and nnU-Net's own suffix for
resampling with torch, which is faster than its default and gives other voxels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from nnunet_mamba.names import networks, suffixes
from nnunet_mamba.names.networks import Network, Preset

TORCHRES = "torchres"
MEANING = "resampling with torch, as nnU-Net's planners of this suffix: faster, with preprocessed data of its own"
PREFIX, PLANS = "nnUNetPlanner", "Plans"


@dataclass(frozen=True)
class PlannerName:
    """What a planner plans: a network with its mixer, a size, and the resampling; and how it is written."""

    network: Network
    preset: Preset
    torchres: bool = False
    suffix: str = ""

    @property
    def name(self) -> str:
        return self.network.planner_of(self.preset) + self.suffix

    @property
    def plans(self) -> str:
        """As nnU-Net's own: nnUNetPlannerResEncL_torchres writes nnUNetResEncUNetLPlans_torchres"""
        return self.network.plans_of(self.preset) + self.suffix


def parse(class_name: str) -> PlannerName | None:
    """None for a name that is not one of our planners', or whose suffixes do not go together"""
    found, parts = _taken_apart(class_name)
    return found if found is not None and parts is None else None


def refusal(class_name: str) -> str | None:
    """What is wrong with the suffixes of one of our planners' names; None if nothing is"""
    found, wrong = _taken_apart(class_name)
    return wrong if found is not None else None


def of_plans(plans: str) -> str | None:
    """The planner that writes the plans of this name; None where none of ours does"""
    kind, found, suffix = plans.partition(PLANS)
    name = f"{PREFIX}{kind.removeprefix('nnUNet')}{suffix}"
    parsed = parse(name) if found else None
    return name if parsed is not None and parsed.plans == plans else None


def forms() -> list[str]:
    """The suffixes as people see them"""
    return [*_mixing(), f"_{TORCHRES}"]


def meaning(form: str) -> str:
    """What one of `forms` changes"""
    return _mixing().get(form, MEANING)


def _mixing() -> dict[str, str]:
    return {s.form: s.meaning for s in suffixes.SUFFIXES if s.network}


def _taken_apart(class_name: str) -> tuple[PlannerName | None, str | None]:
    base, *tokens = class_name.split("_")
    kind = next((found for found in _bases() if found.name == base), None)
    if kind is None or not tokens:
        return kind, None
    torchres = TORCHRES in tokens
    mixing = [token for token in tokens if token != TORCHRES]
    unknown = [token for token in mixing if not _changes_the_network(token)]
    if unknown:
        return kind, f"_{unknown[0]} is not a suffix of our planners; expected {', '.join(forms())}"
    network, written = kind.network, []
    if mixing:
        parts = suffixes.parse("_".join((network.trainer, *mixing)))
        if parts is None:
            return kind, "a suffix stands twice"
        conflict = parts.conflict()
        if conflict is not None:
            return kind, conflict
        network, written = replace(network, **parts.mixing), [text for text, _ in parts.meanings()]
    made = replace(
        kind, network=network, torchres=torchres,
        suffix="".join(f"_{text}" for text in (*written, *([TORCHRES] if torchres else []))),
    )  # fmt: skip
    if made.name != class_name:
        return kind, f"the suffixes have an order, so that one plan has one name: {made.name}"
    return made, None


def _bases() -> Iterator[PlannerName]:
    for kind in networks.with_twins():
        for preset in kind.presets:
            yield PlannerName(kind, preset)


def _changes_the_network(token: str) -> bool:
    parts = suffixes.parse(f"nnUNetTrainer_{token}")
    return parts is not None and bool(parts.mixing)
