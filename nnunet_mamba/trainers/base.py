"""The base of our networks' trainers: nnU-Net's training, made safe, with one of our networks.

The recipe (loss, optimiser, augmentation, schedule) is nnU-Net's, so that a comparison with `nnUNetTrainer` compares
networks; only the weight decay leaves out what it would harm (`parameter_groups`).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_mamba.names.architecture_entry import architecture_for
from nnunet_mamba.names.networks import Network
from nnunet_mamba.plan_checks import check_configuration, check_labels
from nnunet_mamba.trainers.parameter_groups import undecayed
from nnunet_mamba.trainers.safe import SafeTrainer


class nnUNetTrainerMamba(SafeTrainer):
    """Subclasses name a network; works with that network's plans and with any plan of nnU-Net's own planners."""

    mamba_network: ClassVar[Network]

    def undecayed_parameters(self) -> set[nn.Parameter]:
        """Parameters of the scan and of norms."""
        return undecayed(self.network)

    @classmethod
    def build_network_architecture(  # type: ignore[override]  (a class method where nnU-Net has a static one)
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The network of this trainer, sized by the plan. Called for prediction too, without a trainer object.

        Raises ValueError for a plan that this network cannot follow.
        """
        architecture = architecture_for(
            cls.mamba_network,
            configuration_manager.configuration["architecture"],
            configuration_manager.patch_size,
        )
        network = get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            num_input_channels,
            num_output_channels,
            allow_init=True,
            deep_supervision=enable_deep_supervision,
        )
        network.check_patch(configuration_manager.patch_size)
        if not enable_deep_supervision:  # several GPUs wait for the gradients of all that can have one
            for head in network.decoder.seg_layers[:-1]:
                head.requires_grad_(False)
        return network

    @classmethod
    def _check(cls, plans: dict, configuration: str, dataset_json: dict) -> None:
        check_labels(dataset_json["labels"], dataset_json.get("regions_class_order"))
        known = {key: value for key, value in plans.items() if key != "continue_training"}
        manager = PlansManager(known)
        if configuration not in manager.available_configurations:
            raise ValueError(
                f"configuration {configuration!r} is not in plans {manager.plans_name}; it has: "
                f"{', '.join(manager.available_configurations)}"
            )
        planned = manager.get_configuration(configuration)
        check_configuration(configuration, planned.configuration)
        with torch.device("meta"):  # shapes only: the real network is built later, with nnU-Net's random state
            cls.build_network_architecture(manager, planned, 1, 2)
