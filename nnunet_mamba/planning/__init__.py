"""Our planners by name: `from nnunet_mamba.planning import nnUNetPlannerSegMamba`.

One for every network and its twin, made when asked for; `nnUNetv2_plan_experiment -d 4 -pl nnUNetPlannerSegMamba`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnunet_mamba.names import classes, networks

if TYPE_CHECKING:
    from nnunet_mamba.planning.base import nnUNetPlannerMamba


def __getattr__(name: str) -> type[nnUNetPlannerMamba]:
    return classes.attribute(__name__, name, _make)


def __dir__() -> list[str]:
    return sorted({*globals(), *networks.planners()})


def _make(name: str) -> type[nnUNetPlannerMamba]:
    from nnunet_mamba.planning.base import nnUNetPlannerMamba

    record = next(kind for kind in networks.with_twins() if kind.planner == name)
    return type(name, (nnUNetPlannerMamba,), {"mamba_network": record, "__doc__": record.summary})
