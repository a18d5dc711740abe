"""The base of all our planners: nnU-Net's own planner, asked for one of our networks.

nnU-Net chooses spacing, patch, topology and batch by its own rules; this class only puts our network into the plan
and counts our network's feature maps where nnU-Net weighs them against its memory budget.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunet_mamba.architectures.plan_keywords import architecture_for
from nnunet_mamba.checks import check_labels
from nnunet_mamba.registry import Network

STOCK_PLANS = "nnUNetPlans"
STOCK_PREPROCESSOR = "DefaultPreprocessor"


class nnUNetPlannerMamba(ExperimentPlanner):
    """Subclasses name a network; its record says how wide it is planned."""

    mamba_network: ClassVar[Network]
    mixer: ClassVar[str] = "mamba"

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = 8,
        preprocessor_name: str = STOCK_PREPROCESSOR,
        plans_name: str | None = None,
        overwrite_target_spacing: list[float] | tuple[float, ...] | None = None,
        suppress_transpose: bool = False,
    ):
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
        self._elements_per_voxel: dict[str, float] = {}

    @classmethod
    def default_plans_name(cls) -> str:
        return cls.mamba_network.plans if cls.mixer == "mamba" else cls.mamba_network.no_mamba_plans

    def generate_data_identifier(self, configuration_name: str) -> str:
        """Share nnU-Net's preprocessed data where the preprocessing is the same: no second copy per network."""
        same_preprocessing = (
            self.overwrite_target_spacing is None
            and not self.suppress_transpose
            and self.preprocessor_name == STOCK_PREPROCESSOR
        )
        if same_preprocessing and configuration_name in ("2d", "3d_fullres"):
            return f"{STOCK_PLANS}_{configuration_name}"
        return super().generate_data_identifier(configuration_name)

    def get_plans_for_configuration(self, *args: Any, **kwargs: Any) -> dict:
        """nnU-Net's configuration with our network in it."""
        plan = super().get_plans_for_configuration(*args, **kwargs)
        plan["architecture"] = architecture_for(
            self.mamba_network, plan["architecture"], self.mixer, plan["patch_size"]
        )
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
        """Feature-map elements of our network for this patch.

        Every feature map is a fixed fraction of the patch, so one count per topology serves all its patch sizes.
        """
        planned = {"network_class_name": arch_class_name, "arch_kwargs": arch_kwargs}
        architecture = architecture_for(self.mamba_network, planned, self.mixer)
        key = str(architecture)
        voxels = float(np.prod(patch_size, dtype=np.float64))
        if key not in self._elements_per_voxel:
            network = get_network_from_plans(
                architecture["network_class_name"],
                architecture["arch_kwargs"],
                architecture["_kw_requires_import"],
                input_channels,
                output_channels,
                allow_init=False,
                deep_supervision=True,
            )
            self._elements_per_voxel[key] = network.compute_conv_feature_map_size(patch_size) / voxels
        return self._elements_per_voxel[key] * voxels
