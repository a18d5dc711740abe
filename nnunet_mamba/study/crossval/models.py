"""Which models are cross-validated, by nnU-Net's names. Imports nothing heavy."""

from __future__ import annotations

from itertools import product

from nnunet_mamba.names import planners
from nnunet_mamba.nnunet_folders import Model

STOCK_PLANNERS = {
    "nnUNetPlans": "ExperimentPlanner",
    **{f"nnUNetResEncUNet{size}Plans": f"nnUNetPlannerResEnc{size}" for size in ("M", "L", "XL")},
}


def pair_models(trainers: list[str], plans: list[str], configurations: list[str]) -> tuple[Model, ...]:
    """Every trainer with its plans (one for all, or one for each) in every configuration.

    Raises ValueError for other numbers of plans and for a model that is there twice.
    """
    if len(plans) == 1:
        plans = plans * len(trainers)
    if len(plans) != len(trainers):
        raise ValueError(f"-p has {len(plans)} plans for {len(trainers)} trainers; give one for all or one for each")
    models = tuple(Model(t, p, c) for (t, p), c in product(zip(trainers, plans, strict=True), configurations))
    twice = sorted({m.name for m in models if models.count(m) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)}: given twice")
    return models


def planner_of(plans: str) -> str:
    """Raises ValueError for plans that no known planner writes."""
    planner = STOCK_PLANNERS.get(plans) or planners.of_plans(plans)
    if planner is None:
        raise ValueError(
            f"-p {plans}: no such plans yet, and no planner known that writes them; make them first: "
            f"nnUNetv2_plan_experiment -d DATASET -pl PLANNER -overwrite_plans_name {plans}"
        )
    return planner
