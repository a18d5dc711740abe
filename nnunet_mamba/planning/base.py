"""The base of all our planners: nnU-Net's own planner, asked for one of our networks.

nnU-Net chooses spacing, patch, topology and batch by its own rules; this class only puts our network into the plan
and answers nnU-Net's question how much memory a patch takes with bytes: those of a training step of our network, by
`nnunet_mamba.planning.memory`, against the budget of `-gpu_memory_target`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.resampling.resample_with_torch import nnUNetPlanner_torchres
from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners as residual

from nnunet_mamba.names.architecture_entry import architecture_for
from nnunet_mamba.names.networks import Network
from nnunet_mamba.names.planners import TORCHRES, PlannerName
from nnunet_mamba.plan_checks import check_labels
from nnunet_mamba.planning.estimate import architecture_memory, budget_bytes, card_gigabytes
from nnunet_mamba.planning.memory.training_step import StepMemory

STOCK_PLANS = "nnUNetPlans"
STOCK_PREPROCESSOR = "DefaultPreprocessor"
FEWEST_STAGES = 3
"""With two there is one output, whose weight nnU-Net's deep supervision sets to zero: its loss is then not a number."""
SMALLEST_EDGE = 4
"""Of a patch: nnU-Net's Gaussian blur pads by three voxels of the patch itself, and fails on a shorter axis"""
SURELY = 2.0
"""Where a similar topology's patch-dependent memory exceeds the budget by this factor, the patch is not traced."""


class BudgetTooSmallError(ValueError):
    """Not even the smallest patch fits. `needed`: bytes with which it would."""

    def __init__(self, needed: float):
        super().__init__(needed)
        self.needed = needed


class nnUNetPlannerMamba(ExperimentPlanner):
    """Subclasses say what is planned; the network's record says how wide."""

    planned: ClassVar[PlannerName]
    mamba_network: ClassVar[Network]
    stock_plans: ClassVar[str] = STOCK_PLANS
    """Whose preprocessed data is the same"""

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float | None = None,
        preprocessor_name: str = STOCK_PREPROCESSOR,
        plans_name: str | None = None,
        overwrite_target_spacing: list[float] | tuple[float, ...] | None = None,
        suppress_transpose: bool = False,
    ):
        if gpu_memory_target_in_gb is None:
            gpu_memory_target_in_gb = self.planned.preset.gigabytes
        if not gpu_memory_target_in_gb > 0:
            raise ValueError(f"-gpu_memory_target {gpu_memory_target_in_gb}; expected gigabytes > 0, for example 8")
        if overwrite_target_spacing is not None and (
            len(overwrite_target_spacing) != 3 or any(not s > 0 for s in overwrite_target_spacing)
        ):
            raise ValueError(
                f"-overwrite_target_spacing {overwrite_target_spacing}; expected three millimetre values > 0, "
                "for example 1.0 1.0 1.0"
            )
        super().__init__(
            dataset_name_or_id,
            gpu_memory_target_in_gb,
            preprocessor_name,
            self.default_plans_name() if plans_name is None else plans_name,
            overwrite_target_spacing,  # type: ignore[arg-type]  (nnU-Net's default is None too)
            suppress_transpose,
        )
        check_labels(self.dataset_json["labels"], self.dataset_json.get("regions_class_order"))
        self.UNet_base_num_features = self.mamba_network.base_features
        if self.mamba_network.max_features is not None:
            self.UNet_max_features_2d = self.UNet_max_features_3d = self.mamba_network.max_features
        self._memory: dict[str, StepMemory] = {}
        self._set_budget(budget_bytes(gpu_memory_target_in_gb))

    def _set_budget(self, size: float) -> None:
        """Bytes of tensors. nnU-Net compares estimates with a reference of its own U-Net: here both are such bytes."""
        self.budget = size
        self.UNet_reference_val_2d = self.UNet_reference_val_3d = size  # type: ignore[assignment]  (it says int)
        self.UNet_reference_val_corresp_GB = self.UNet_vram_target_GB
        self.UNet_reference_val_corresp_bs_2d = self.UNet_reference_val_corresp_bs_3d = self.UNet_min_batch_size
        self._smallest, self._first_edge = math.inf, math.inf

    @classmethod
    def default_plans_name(cls) -> str:
        return cls.planned.plans

    def generate_data_identifier(self, configuration_name: str) -> str:
        """Share nnU-Net's preprocessed data where the preprocessing is the same: no second copy per network."""
        same_preprocessing = (
            self.overwrite_target_spacing is None
            and not self.suppress_transpose
            and self.preprocessor_name == STOCK_PREPROCESSOR
        )
        if same_preprocessing and configuration_name in ("2d", "3d_fullres"):
            return f"{self.stock_plans}_{configuration_name}"
        return super().generate_data_identifier(configuration_name)

    def plan_experiment(self) -> dict:
        """nnU-Net's plans. Raises ValueError naming the smallest workable budget if nothing fits into this one."""
        try:
            plans = super().plan_experiment()
        except BudgetTooSmallError as small:
            needed = self._smallest_budget(small.needed)
            raise ValueError(
                f"-gpu_memory_target {self.UNet_vram_target_GB:g}: too small for {self.plans_identifier} on "
                f"{self.dataset_name}. The smallest that works is -gpu_memory_target "
                f"{math.ceil(card_gigabytes(needed) * 100) / 100:g}"
            ) from None
        for name, configuration in plans["configurations"].items():
            if "architecture" in configuration and name in ("2d", "3d_fullres", "3d_lowres"):
                print(f"{name}: {self.describe(configuration)}")
        return plans

    def describe(self, configuration: dict[str, Any]) -> str:
        """One line: patch, batch and estimated memory of the card"""
        patch, batch = configuration["patch_size"], configuration["batch_size"]
        estimate = self._memory_of(configuration["architecture"], patch).peak(batch, patch)
        return (
            f"patch {'x'.join(str(int(p)) for p in patch)}, batch {batch}: about {card_gigabytes(estimate):.2f} GB of "
            f"{self.UNet_vram_target_GB:g} GB"
        )

    def _smallest_budget(self, needed: float) -> float:
        """Plan again with what was missing, until nothing is. Saves nothing."""
        self.save_plans = lambda plans: None  # type: ignore[method-assign]
        while True:
            self._set_budget(needed)
            try:
                super().plan_experiment()
                return needed
            except BudgetTooSmallError as small:
                needed = small.needed

    def get_plans_for_configuration(self, *args: Any, **kwargs: Any) -> dict:
        """nnU-Net's configuration with our network in it."""
        self._smallest, self._first_edge = math.inf, math.inf
        plan = super().get_plans_for_configuration(*args, **kwargs)
        plan["architecture"] = architecture_for(self.mamba_network, plan["architecture"], plan["patch_size"])
        return plan

    def static_estimate_VRAM_usage(  # type: ignore[override]  # noqa: N802  nnU-Net's name; it calls it on the object
        self,
        patch_size: tuple[int, ...],
        input_channels: int,
        output_channels: int,
        arch_class_name: str,
        arch_kwargs: dict,
        arch_kwargs_req_import: tuple[str, ...],
    ) -> float:
        """Bytes of a training step, such that nnU-Net's rules give the largest patch and batch within the budget.

        nnU-Net shrinks the patch while two samples of it are over its reference, then divides the reference by the
        estimate for the batch. Memory has a part that does not grow with the batch, so for a patch that fits the
        estimate is the budget's share of as many samples as do fit.
        """
        if self._first_edge == math.inf:  # nnU-Net begins with the largest patch, and only shrinks it
            self._first_edge = min(patch_size)
        too_small = arch_kwargs["n_stages"] < FEWEST_STAGES or min(patch_size) < min(SMALLEST_EDGE, self._first_edge)
        if too_small and self._smallest < math.inf:
            raise BudgetTooSmallError(self._smallest)
        growing = self._growing_at_least(patch_size)
        if growing > SURELY * self.budget:
            return growing
        planned = {"network_class_name": arch_class_name, "arch_kwargs": arch_kwargs}
        architecture = architecture_for(self.mamba_network, planned, patch_size)
        memory = self._memory_of(architecture, patch_size)
        batch = memory.largest_batch(patch_size, self.budget)
        if batch >= self.UNet_min_batch_size:
            return self.UNet_min_batch_size * self.budget / batch
        peak = memory.peak(self.UNet_min_batch_size, patch_size)
        self._smallest = min(self._smallest, peak)
        return peak

    def _growing_at_least(self, patch_size: Sequence[int]) -> float:
        """What grows with the patch, by the least of the topologies traced so far: a trace takes a second or two, and
        nnU-Net tries many patches that are far too large."""
        similar = [m for m in self._memory.values() if m.dim == len(patch_size)]
        return min((m.growing(self.UNet_min_batch_size, patch_size) for m in similar), default=0.0)

    def _memory_of(self, architecture: dict[str, Any], patch_size: Sequence[int]) -> StepMemory:
        """Traced once per topology. Where weights depend on the patch, again for every patch that seems to fit."""
        key = str({**architecture["arch_kwargs"], "patch_size": None})
        if key in self._memory and self.mamba_network.patch_sized:
            if self._memory[key].peak(self.UNet_min_batch_size, patch_size) > self.budget:
                return self._memory[key]
            key += str(list(patch_size))
        if key not in self._memory:
            self._memory[key] = self._trace(architecture, patch_size)
        return self._memory[key]

    def _trace(self, architecture: dict[str, Any], patch_size: Sequence[int]) -> StepMemory:
        channels = self.dataset_json.get("channel_names", self.dataset_json.get("modality"))
        return architecture_memory(architecture, len(channels), len(self.dataset_json["labels"]), patch_size)


class TorchResampling(nnUNetPlannerMamba):
    """Resampling as nnU-Net's `_torchres` planners choose it: with torch, all axes at once."""

    stock_plans = f"{STOCK_PLANS}_{TORCHRES}"
    determine_resampling = nnUNetPlanner_torchres.determine_resampling  # type: ignore[assignment]
    determine_segmentation_softmax_export_fn = (  # type: ignore[assignment]
        nnUNetPlanner_torchres.determine_segmentation_softmax_export_fn
    )


def planner_class(planned: PlannerName) -> type[nnUNetPlannerMamba]:
    """The planner of this name, on nnU-Net's own for the size"""
    stock = getattr(residual, planned.preset.planner)
    ours = TorchResampling if planned.torchres else nnUNetPlannerMamba
    bases = (ours,) if stock is ExperimentPlanner else (ours, stock)
    return type(planned.name, bases, {
        "planned": planned,
        "mamba_network": planned.network,
        "__doc__": planned.network.summary + (f", {planned.suffix[1:]}" if planned.suffix else ""),
    })  # fmt: skip
