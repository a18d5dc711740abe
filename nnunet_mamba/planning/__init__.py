"""Our planners by name: `from nnunet_mamba.planning import nnUNetPlannerSegMamba`.

One for every network and its twin, in every size, with any suffixes; made when asked for.
`nnUNetv2_plan_experiment -d 4 -pl nnUNetPlannerSegMamba`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnunet_mamba.names import classes, networks, planners

if TYPE_CHECKING:
    from nnunet_mamba.planning.base import nnUNetPlannerMamba


def __getattr__(name: str) -> type[nnUNetPlannerMamba]:
    return classes.attribute(__name__, name, _make)


def __dir__() -> list[str]:
    return sorted({*globals(), *networks.planners()})


def _make(name: str) -> type[nnUNetPlannerMamba]:
    from nnunet_mamba.planning.base import planner_class

    planned = planners.parse(name)
    assert planned is not None  # `locate` has asked already
    return planner_class(planned)
