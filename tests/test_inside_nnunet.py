"""What we rely on inside nnU-Net, a test for each row of docs/explanation/inside-nnunet.md.

When nnU-Net changes, the test that fails says what of ours is concerned. The tests look at nnU-Net alone: they call its
functions with stand-ins where that is possible, and read their text where it is not.
"""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import batchgenerators
import dynamic_network_architectures
import nnunetv2
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from batchgenerators.dataloading import multi_threaded_augmenter
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.utilities.file_and_folder_operations import load_pickle, save_pickle
from dynamic_network_architectures.architectures import unet
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, StackedResidualBlocks
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from nnunetv2 import configuration, paths
from nnunetv2.dataset_conversion import convert_MSD_dataset
from nnunetv2.ensembling import ensemble
from nnunetv2.evaluation import evaluate_predictions, find_best_configuration
from nnunetv2.experiment_planning import plan_and_preprocess_api
from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner as planner_module
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.experiment_planning.experiment_planners.resampling.resample_with_torch import nnUNetPlanner_torchres
from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners
from nnunetv2.inference import export_prediction, sliding_window_prediction
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.model_sharing import model_export
from nnunetv2.postprocessing import remove_connected_components as postprocessing
from nnunetv2.preprocessing.normalization import default_normalization_schemes
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling import default_resampling
from nnunetv2.run import run_training
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetDatasetBlosc2
from nnunetv2.training.logging.nnunet_logger import LocalLogger, MetaLogger
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.loss import nnUNetTrainerTopkLoss
from nnunetv2.training.nnUNetTrainer.variants.training_length import nnUNetTrainer_Xepochs
from nnunetv2.utilities import file_path_utilities, find_class_by_name, find_objects
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling import label_handling
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from nnunetv2.utilities.utils import get_identifiers_from_splitted_dataset_folder
from scipy.ndimage import gaussian_filter, zoom
from torch import nn

from nnunet_mamba.architectures import mamba_encoder
from nnunet_mamba.architectures.topology import topology
from nnunet_mamba.blocks.mixers import Mixer
from nnunet_mamba.discovery import hook, resolve
from nnunet_mamba.doctor.messages import explain
from nnunet_mamba.export import description
from nnunet_mamba.names import locate, networks
from nnunet_mamba.names.architecture_entry import TOPOLOGY_KEYS
from nnunet_mamba.plan_checks import has_regions
from nnunet_mamba.planning import base, configurations
from nnunet_mamba.study.calibration.components import remove_small_components
from nnunet_mamba.study.comparison.training import DICE, LOSSES, PREDICTING
from nnunet_mamba.study.crossval.models import STOCK_PLANNERS
from nnunet_mamba.study.evaluation.description import masks_of
from nnunet_mamba.trainers import pretrained
from nnunet_mamba.trainers.base import nnUNetTrainerMamba
from nnunet_mamba.trainers.checkpoint_files import BEST, LATEST
from nnunet_mamba.trainers.loading import in_order
from nnunet_mamba.trainers.losses import TOPK_TRAINERS
from nnunet_mamba.trainers.safe import SafeTrainer
from nnunet_mamba.trainers.suffixed import NNUNET_SCALING
from tests.reliances import (
    LINES_ARE_OF,
    RELIANCES,
    arguments,
    called,
    calls,
    in_this_order,
    installed,
    line_of,
    nodes,
    parameters,
    reliance,
    rows,
    source_of,
    strings,
    text_of,
)
from tests.stock_plans import DATASET_JSON, stock_plans

CPU = torch.device("cpu")
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}
ORDER = [1, 2]
PACKAGES = {"batchgenerators": batchgenerators, "dynamic_network_architectures": dynamic_network_architectures}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("nnUNet_wandb_enabled", "0")
    return tmp_path


def just_made() -> nnUNetTrainer:
    """nnU-Net's own trainer. Not a fixture: if it cannot be made, the test of the row has to say so."""
    return nnUNetTrainer({**stock_plans(), "continue_training": False}, "3d_fullres", 0, dict(DATASET_JSON), CPU)


# ------------------------------------------------------------------------------------------------ being found


@reliance
def test_class_lookup() -> None:
    function = getattr(find_class_by_name, resolve.FUNCTION)
    assert find_class_by_name.__name__ == hook.TARGET
    assert parameters(inspect.unwrap(function))[:3] == ["folder", "class_name", "current_module"]


@reliance
def test_class_lookup_by_that_name() -> None:
    users = [find_objects, plan_and_preprocess_api, label_handling]
    for module in users:
        assert getattr(module, resolve.FUNCTION) is getattr(find_class_by_name, resolve.FUNCTION), module.__name__
    root = Path(nnunetv2.__file__).parent
    texts = [p.read_text(encoding="utf-8") for p in root.rglob("*.py")]
    assert not [t for t in texts if f"import {resolve.FUNCTION} as" in t]


@reliance
def test_trainer_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Mock(return_value=nnUNetTrainer)
    monkeypatch.setattr(find_objects, resolve.FUNCTION, asked)
    assert find_objects.recursive_find_trainer_class_by_name("nnUNetTrainerX") is nnUNetTrainer
    folder, name = asked.call_args.args[:2]
    assert Path(folder).name == locate.TRAINER_FOLDER
    assert name == "nnUNetTrainerX"
    assert "recursive_find_trainer_class_by_name" in called(run_training.get_trainer_from_args)
    assert "recursive_find_trainer_class_by_name" in called(nnUNetPredictor.initialize_from_trained_model_folder)


@reliance
def test_external_trainers(monkeypatch: pytest.MonkeyPatch) -> None:
    original = inspect.unwrap(getattr(find_class_by_name, resolve.FUNCTION))

    def only_outside(folder: str, *args: Any, **kwargs: Any) -> Any:
        return original(folder, *args, **kwargs) if Path(folder) == resolve.SECOND_WAY else None

    monkeypatch.setattr(find_objects, resolve.FUNCTION, only_outside)
    monkeypatch.setenv("nnUNet_extTrainer", str(resolve.SECOND_WAY))
    found = find_objects.recursive_find_trainer_class_by_name("nnUNetTrainerSegMamba")
    assert found.__module__ == "nnunet_mamba.trainers"


@reliance
def test_planner_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Mock()
    monkeypatch.setattr(plan_and_preprocess_api, resolve.FUNCTION, asked)
    monkeypatch.setattr(plan_and_preprocess_api, "plan_experiment_dataset", lambda *_: (None, "plans"))
    plan_and_preprocess_api.plan_experiments([1], "nnUNetPlannerX")
    folder, name = asked.call_args.args[:2]
    assert (Path(folder).name, name) == (locate.PLANNER_FOLDER, "nnUNetPlannerX")


@reliance
def test_label_manager_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Mock(return_value=LabelManager)
    monkeypatch.setattr(label_handling, resolve.FUNCTION, asked)
    manager = PlansManager({**stock_plans(), "label_manager": "LabelManagerX"})
    assert isinstance(manager.get_label_manager(DATASET_JSON), LabelManager)
    assert asked.call_args.args[1] == "LabelManagerX"


@reliance
def test_stock_lengths(folders: Path) -> None:
    for name, epochs in (("nnUNetTrainer_5epochs", 5), ("nnUNetTrainer_1epoch", 1)):
        made = getattr(nnUNetTrainer_Xepochs, name)
        plans = {**stock_plans(), "continue_training": False}
        assert made(plans, "3d_fullres", 0, dict(DATASET_JSON), CPU).num_epochs == epochs


# --------------------------------------------------------------------------------------------- the constructor


@reliance
def test_constructor_parameters() -> None:
    ours = [p for p in parameters(SafeTrainer.__init__) if p != "self"]
    assert [p for p in parameters(nnUNetTrainer.__init__) if p != "self"] == ours
    (made,) = calls(run_training.get_trainer_from_args, "nnunet_trainer")
    assert not made.args
    assert {k.arg for k in made.keywords} == set(ours)


@reliance
def test_constructor_keeps_its_arguments(folders: Path) -> None:
    trainer = just_made()
    assert list(trainer.my_init_kwargs) == ["plans", "configuration", "fold", "dataset_json", "device"]
    assert "inspect.signature(self.__init__)" in text_of(nnUNetTrainer.__init__)


@reliance
def test_continue_training_is_among_the_plans(folders: Path) -> None:
    trainer = just_made()
    assert "plans['continue_training'] = continue_training" in text_of(run_training.get_trainer_from_args)
    assert "continue_training" not in trainer.plans_manager.plans


@reliance
def test_settings_are_attributes(folders: Path) -> None:
    trainer = just_made()
    settings = {name: getattr(trainer, name) for name in (
        "initial_lr", "weight_decay", "oversample_foreground_percent", "num_iterations_per_epoch",
        "num_val_iterations_per_epoch", "num_epochs", "save_every", "current_epoch")}  # fmt: skip
    assert all(isinstance(value, (int, float)) for value in settings.values()), settings
    assert trainer.enable_deep_supervision is True
    assert not trainer.was_initialized
    assert trainer.network is trainer.optimizer is trainer.loss is None, "read later than our constructor's last act"


@reliance
def test_grad_scaler_decides_the_step(folders: Path) -> None:
    trainer = just_made()
    assert trainer.grad_scaler is None, "on a CPU"
    for function in (nnUNetTrainer.train_step, nnUNetTrainer.save_checkpoint, nnUNetTrainer.load_checkpoint):
        assert "self.grad_scaler is not None" in text_of(function)
    assert "self.grad_scaler" not in text_of(nnUNetTrainer.initialize)


@reliance
def test_folder_of_results(folders: Path) -> None:
    trainer = just_made()
    model = folders / "nnUNet_results" / "Dataset999_Test" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    assert Path(trainer.output_folder_base or "") == model
    assert Path(trainer.output_folder or "") == model / "fold_0"
    made = file_path_utilities.get_output_folder("Dataset999_Test", "nnUNetTrainer", "nnUNetPlans", "3d_fullres", 0)
    assert Path(made) == model / "fold_0"


@reliance
def test_ranks(folders: Path) -> None:
    trainer = just_made()
    assert (trainer.is_ddp, trainer.local_rank) == (False, 0)
    text = text_of(nnUNetTrainer.__init__)
    assert "self.local_rank = 0 if not self.is_ddp else dist.get_rank()" in text, "local_rank: among all processes"
    assert "global_rank" not in inspect.getsource(nnUNetTrainer)


# --------------------------------------------------------------------------------------------- network and loss


@reliance
def test_initialize_builds_in_this_order() -> None:
    steps = ("self._set_batch_size_and_oversample", "self.build_network_architecture", "self.configure_optimizers",
             "self._build_loss")  # fmt: skip
    assert in_this_order(steps, called(nnUNetTrainer.initialize))
    text = source_of(nnUNetTrainer.initialize)
    assert "self.optimizer, self.lr_scheduler = self.configure_optimizers()" in text
    assert "self.loss = self._build_loss()" in text


@reliance
def test_network_of_a_training() -> None:
    made = calls(nnUNetTrainer.initialize, "self.build_network_architecture")[0]
    assert arguments(made) == ["self.plans_manager", "self.configuration_manager", "self.num_input_channels",
                               "self.label_manager.num_segmentation_heads", "self.enable_deep_supervision"]  # fmt: skip
    assert "'plans_manager' in sig.parameters" in text_of(nnUNetTrainer.initialize)
    ours = nnUNetTrainerMamba.build_network_architecture
    assert parameters(nnUNetTrainer.build_network_architecture) == parameters(ours)


@reliance
def test_network_of_a_prediction() -> None:
    load = nnUNetPredictor.initialize_from_trained_model_folder
    made = calls(load, "trainer_class.build_network_architecture")[0]
    assert arguments(made) == ["plans_manager", "configuration_manager", "num_input_channels", "num_output_channels",
                               "enable_deep_supervision=False"]  # fmt: skip
    assert ["parameters[0]"] in [arguments(c) for c in calls(load, "network.load_state_dict")], "all keys must fit"


class Toy(nn.Module):
    """What get_network_from_plans is asked to make."""

    def __init__(self, input_channels: int, num_classes: int, conv_op: Any, deep_supervision: bool):
        super().__init__()
        self.inner = nn.Linear(input_channels, num_classes)
        self.conv_op, self.deep_supervision, self.applied = conv_op, deep_supervision, 0

    def initialize(self, module: nn.Module) -> None:
        self.applied += 1


@reliance
def test_network_from_a_dotted_path() -> None:
    def made(allow_init: bool) -> Any:
        return get_network_from_plans(f"{__name__}.Toy", {"conv_op": "torch.nn.modules.conv.Conv3d"}, ["conv_op"], 2, 3,
                                      allow_init=allow_init, deep_supervision=True)  # fmt: skip

    network = made(True)
    assert (network.inner.weight.shape, network.conv_op, network.deep_supervision) == ((3, 2), nn.Conv3d, True)
    assert network.applied == 2, "to the network and to every module in it"
    assert made(False).applied == 0


@reliance
def test_architecture_in_a_configuration() -> None:
    chosen = PlansManager(stock_plans()).get_configuration("3d_fullres")
    entry = chosen.configuration["architecture"]
    assert chosen.network_arch_class_name == entry["network_class_name"]
    assert chosen.network_arch_init_kwargs is entry["arch_kwargs"]
    assert chosen.network_arch_init_kwargs_req_import == entry["_kw_requires_import"]
    assert chosen.patch_size == chosen.configuration["patch_size"]


def _trainer_of_a_loss(**changed: Any) -> Any:
    manager = PlansManager(stock_plans())
    attributes = {
        "label_manager": manager.get_label_manager(DATASET_JSON), "is_ddp": False, "enable_deep_supervision": True,
        "configuration_manager": manager.get_configuration("3d_fullres"), "_do_i_compile": lambda: False, **changed,
    }  # fmt: skip
    made = SimpleNamespace(**attributes)
    made._get_deep_supervision_scales = lambda: nnUNetTrainer._get_deep_supervision_scales(made)
    return made


@reliance
def test_an_output_per_stride() -> None:
    trainer = _trainer_of_a_loss()
    assert trainer.configuration_manager.pool_op_kernel_sizes == [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
    assert trainer._get_deep_supervision_scales() == [[1, 1, 1], [0.5, 0.5, 0.5]], "all but the last"


@reliance
def test_the_last_output_has_no_weight() -> None:
    loss = nnUNetTrainer._build_loss(_trainer_of_a_loss())
    assert isinstance(loss, DeepSupervisionWrapper)
    assert loss.weight_factors == (1, 0)
    assert not isinstance(nnUNetTrainer._build_loss(_trainer_of_a_loss(enable_deep_supervision=False)),
                          DeepSupervisionWrapper)  # fmt: skip


@reliance
def test_several_gpus_give_every_output_a_weight() -> None:
    loss: Any = nnUNetTrainer._build_loss(_trainer_of_a_loss(is_ddp=True))
    assert min(loss.weight_factors) > 0, "else DDP waits for the gradients of a head that has none"


@reliance
def test_loss_and_its_two_weights() -> None:
    loss: Any = nnUNetTrainer._build_loss(_trainer_of_a_loss())
    assert isinstance(loss.loss, DC_and_CE_loss)
    assert (loss.loss.weight_dice, loss.loss.weight_ce) == (1, 1)
    of_regions = LabelManager(REGIONS, ORDER)
    loss = nnUNetTrainer._build_loss(_trainer_of_a_loss(label_manager=of_regions))
    assert isinstance(loss.loss, DC_and_BCE_loss)
    assert (loss.loss.weight_dice, loss.loss.weight_ce) == (1, 1)


@reliance
def test_loss_of_the_memory_estimate() -> None:
    made = calls(nnUNetTrainer._build_loss, "DC_and_CE_loss")[0]
    assert [k.arg for k in made.keywords] == ["weight_ce", "weight_dice", "ignore_label", "dice_class"]
    options = {ast.literal_eval(k): ast.unparse(v) for k, v in zip(made.args[0].keys, made.args[0].values, strict=True)}
    assert options == {"batch_dice": "self.configuration_manager.batch_dice", "smooth": "1e-05", "do_bg": "False",
                       "ddp": "self.is_ddp"}  # fmt: skip
    assert "dice_class=MemoryEfficientSoftDiceLoss" in arguments(made)


@reliance
def test_topk_losses() -> None:
    for name in TOPK_TRAINERS.values():
        loss = getattr(nnUNetTrainerTopkLoss, name)._build_loss(_trainer_of_a_loss())
        assert isinstance(loss, DeepSupervisionWrapper)


@reliance
def test_deep_supervision_is_switched_in_the_decoder() -> None:
    network = SimpleNamespace(decoder=SimpleNamespace(deep_supervision=None))
    nnUNetTrainer.set_deep_supervision_enabled(SimpleNamespace(is_ddp=False, network=network), False)
    assert network.decoder.deep_supervision is False


@reliance
def test_optimizer_and_schedule() -> None:
    network = nn.Linear(2, 2)
    trainer = SimpleNamespace(network=network, initial_lr=0.5, weight_decay=0.1, num_epochs=10)
    optimizer, schedule = nnUNetTrainer.configure_optimizers(trainer)
    (group,) = optimizer.param_groups
    assert (group["params"], group["weight_decay"]) == (list(network.parameters()), 0.1)
    for _ in range(2):
        schedule.step(5)
        assert group["lr"] == pytest.approx(0.5 * 0.5**0.9), "from the epoch alone: what slows it comes afterwards"
        group["lr"] *= 0.5
    assert isinstance(schedule, PolyLRScheduler)
    assert ["self.current_epoch"] in [
        arguments(c) for c in calls(nnUNetTrainer.on_train_epoch_start, "self.lr_scheduler.step")
    ]


@reliance
def test_wrappers_of_a_network() -> None:
    found = called(nnUNetTrainer.initialize)
    assert in_this_order(["torch.compile", "DDP"], found), "DDP outside of torch.compile"
    assert trainer_module.DDP is nn.parallel.DistributedDataParallel
    assert "mod = mod._orig_mod" in text_of(nnUNetTrainer.save_checkpoint)


@reliance
def test_building_blocks() -> None:
    blocks = ["n_blocks", "conv_op", "input_channels", "output_channels", "kernel_size", "initial_stride", "conv_bias",
              "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs", "nonlin", "nonlin_kwargs",
              "block"]  # fmt: skip
    assert parameters(StackedResidualBlocks)[: len(blocks)] == blocks
    block = ["conv_op", "input_channels", "output_channels", "kernel_size", "stride", *blocks[6:13]]
    assert parameters(BasicBlockD)[: len(block)] == block
    assert parameters(UNetDecoder)[:4] == ["encoder", "num_classes", "n_conv_per_stage", "deep_supervision"]
    text = text_of(UNetDecoder)
    assert "self.deep_supervision = deep_supervision" in text
    assert "self.seg_layers = nn.ModuleList(seg_layers)" in text
    assert "self.seg_layers[-1]" in text, "the last head is that of the full resolution"


@reliance
def test_what_the_decoder_reads_of_its_encoder() -> None:
    read = {n.attr for n in nodes(UNetDecoder, ast.Attribute) if ast.unparse(n.value) in ("encoder", "self.encoder")}
    plan = topology(3, [4, 8, 8], nn.Conv3d, 3, [1, 2, 2])
    ours = mamba_encoder.Encoder(plan, 1, [1, 1, 1], Mixer("none"), "f")
    assert {"output_channels", "strides"} <= read
    assert not [name for name in sorted(read) if not hasattr(ours, name)]


@reliance
def test_residual_encoder_network() -> None:
    assert parameters(unet.ResidualEncoderUNet.__init__)[1:18] == [
        "input_channels", "n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_blocks_per_stage",
        "num_classes", "n_conv_per_stage_decoder", "conv_bias", "norm_op", "norm_op_kwargs", "dropout_op",
        "dropout_op_kwargs", "nonlin", "nonlin_kwargs", "deep_supervision",
    ]  # fmt: skip
    text = text_of(unet.ResidualEncoderUNet.forward)
    assert "skips = self.encoder(x)" in text
    assert "return self.decoder(skips)" in text
    assert isinstance(inspect.getattr_static(unet.ResidualEncoderUNet, "initialize"), staticmethod)
    made = text_of(unet.ResidualEncoderUNet.__init__)
    assert not [n for n in ("key_to_encoder", "key_to_stem", "keys_to_in_proj") if f"self.{n} = " not in made]
    assert networks.network("UMamba2").extends == f"{unet.__name__}.{unet.ResidualEncoderUNet.__name__}"


@reliance
def test_stock_networks() -> None:
    common = {"input_channels", "n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "num_classes",
              "n_conv_per_stage_decoder", "conv_bias", "norm_op", "norm_op_kwargs", "nonlin", "nonlin_kwargs",
              "deep_supervision"}  # fmt: skip
    assert {*common, "n_conv_per_stage"} <= set(parameters(unet.PlainConvUNet.__init__))
    assert {*common, "n_blocks_per_stage"} <= set(parameters(unet.ResidualEncoderUNet.__init__))
    assert stock_plans()["configurations"]["2d"]["architecture"]["network_class_name"] == (
        f"{unet.__name__}.{unet.PlainConvUNet.__name__}"
    )


# ------------------------------------------------------------------------------------------------------- data


@reliance
def test_loaders_are_looked_up_in_the_module() -> None:
    made = [arguments(c)[0] for c in calls(nnUNetTrainer.get_dataloaders, "nnUNetDataLoader")]
    assert made == ["dataset_tr", "dataset_val"], "the training's first"
    assert trainer_module.nnUNetDataLoader is nnUNetDataLoader
    assert [p for p in parameters(nnUNetDataLoader) if p == "numbering"] == [], "a keyword of ours"


@reliance
def test_workers_are_looked_up_in_the_module() -> None:
    assert hasattr(trainer_module, "NonDetMultiThreadedAugmenter")
    made = calls(nnUNetTrainer.get_dataloaders, "NonDetMultiThreadedAugmenter")
    assert len(made) == 2
    for call in made:
        inspect.signature(in_order).bind(*call.args, **{str(k.arg): None for k in call.keywords})
    counts = [dict(a.split("=", 1) for a in arguments(c))["num_processes"] for c in made]
    assert counts == ["allowed_num_processes", "max(1, allowed_num_processes // 2)"]


@reliance
def test_one_batch_of_each_before_the_first_epoch() -> None:
    drawn = [arguments(c)[0] for c in calls(nnUNetTrainer.get_dataloaders, "next")]
    assert drawn == ["mt_gen_train", "mt_gen_val"]


@reliance
def test_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (0, 1):
        monkeypatch.setenv("nnUNet_n_proc_DA", str(count))
        assert get_allowed_n_proc_DA() == count
    assert "allowed_num_processes == 0" in text_of(nnUNetTrainer.get_dataloaders)


@reliance
def test_place_of_a_patch() -> None:
    assert len(calls(nnUNetDataLoader.generate_train_batch, "self.get_bbox")) == 1, "once per sample"
    loader = SimpleNamespace(need_to_pad=np.zeros(3, int), patch_size=(2, 2, 2), has_ignore=False)
    lower, upper = nnUNetDataLoader.get_bbox(loader, np.array([2, 2, 2]), False, None)
    assert (list(lower), list(upper)) == ([0, 0, 0], [2, 2, 2])


@reliance
def test_content_of_a_batch() -> None:
    (returned,) = nodes(nnUNetDataLoader.generate_train_batch, ast.Return)
    assert ast.unparse(returned.value) == "{'data': data_all, 'target': seg_all, 'keys': selected_keys}"


@reliance
def test_a_worker_knows_its_number() -> None:
    assert [arguments(c) for c in calls(multi_threaded_augmenter.producer, "data_loader.set_thread_id")] == [
        ["thread_id"]
    ]
    loader = object.__new__(nnUNetDataLoader)
    loader.set_thread_id(3)
    assert loader.thread_id == 3
    assert "next(data_loader)" in text_of(multi_threaded_augmenter.producer)


@reliance
def test_batches_in_turn() -> None:
    expected = ["data_loader", "transform", "num_processes", "num_cached_per_queue", "seeds", "pin_memory"]
    assert parameters(MultiThreadedAugmenter)[:6] == expected
    assert "wait_time" in parameters(MultiThreadedAugmenter)
    assert "in_queues[queue_ctr % len(in_queues)]" in text_of(multi_threaded_augmenter.results_loop)


@reliance
def test_workers_are_ended() -> None:
    text = text_of(nnUNetTrainer.on_train_end)
    for loader in ("dataloader_train", "dataloader_val"):
        assert f"isinstance(self.{loader}, (NonDetMultiThreadedAugmenter, MultiThreadedAugmenter))" in text
        assert f"self.{loader}._finish()" in text
    assert trainer_module.MultiThreadedAugmenter is MultiThreadedAugmenter


# ------------------------------------------------------------------------------------------------------ steps


def _calls_of_a_step(monkeypatch: pytest.MonkeyPatch, scaler: bool) -> list[Any]:
    trainer = Mock(device=CPU)
    if not scaler:
        trainer.grad_scaler = None
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", trainer.clip)
    nnUNetTrainer.train_step(trainer, {"data": torch.zeros(1), "target": torch.zeros(1), "patches": [[0]]})
    wanted = ("optimizer.zero_grad", "network", "loss", "clip", "optimizer.step", "loss().backward",
              "grad_scaler.scale", "grad_scaler.scale().backward", "grad_scaler.unscale_", "grad_scaler.step",
              "grad_scaler.update")  # fmt: skip
    return [call for call in trainer.mock_calls if call[0] in wanted]


@reliance
def test_order_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _calls_of_a_step(monkeypatch, scaler=False)
    assert [c[0] for c in made] == [
        "optimizer.zero_grad", "network", "loss", "loss().backward", "clip", "optimizer.step"
    ]  # fmt: skip
    clip = next(c for c in made if c[0] == "clip")
    assert clip.args[1:] == (12,), "found in torch.nn.utils when it is called"
    assert not clip.kwargs


@reliance
def test_order_of_a_scaled_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [c[0] for c in _calls_of_a_step(monkeypatch, scaler=True)] == [
        "optimizer.zero_grad", "network", "loss", "grad_scaler.scale", "grad_scaler.scale().backward",
        "grad_scaler.unscale_", "clip", "grad_scaler.step", "grad_scaler.update",
    ]  # fmt: skip


@reliance
def test_steps_without_zero_grad_add_up() -> None:
    network = nn.Linear(1, 1, bias=False)
    optimizer: Any = torch.optim.SGD(network.parameters(), 0.0)
    optimizer.zero_grad = optimizer.step = lambda **_: None
    trainer = SimpleNamespace(device=CPU, network=network, optimizer=optimizer, grad_scaler=None,
                              loss=lambda output, target: output.sum())  # fmt: skip
    for _ in range(3):
        nnUNetTrainer.train_step(trainer, {"data": torch.ones(1, 1), "target": torch.zeros(1)})
    assert network.weight.grad is not None
    assert float(network.weight.grad) == pytest.approx(3), "nothing else clears or applies the gradients"


@reliance
def test_result_of_a_step() -> None:
    trainer = Mock(device=CPU, grad_scaler=None, network=nn.Linear(1, 1), loss=lambda output, target: output.sum())
    result = nnUNetTrainer.train_step(trainer, {"data": torch.ones(1, 1), "target": torch.zeros(1)})
    assert list(result) == ["loss"]
    assert isinstance(result["loss"], np.ndarray)


@reliance
def test_autocast_names_no_type() -> None:
    for function in (nnUNetTrainer.train_step, nnUNetTrainer.validation_step):
        (opened,) = calls(function, "autocast")
        assert arguments(opened) == ["self.device.type", "enabled=True"]
        assert "if self.device.type == 'cuda' else dummy_context()" in text_of(function), "none on a CPU"


def _loop(epochs: int = 1) -> Mock:
    trainer = Mock(current_epoch=0, num_epochs=epochs, num_iterations_per_epoch=2, num_val_iterations_per_epoch=1)
    trainer.dataloader_train, trainer.dataloader_val = iter(range(9)), iter(range(9))
    return trainer


@reliance
def test_order_of_a_training() -> None:
    trainer = _loop()
    trainer.train_step.side_effect = lambda batch: {"loss": batch}
    nnUNetTrainer.run_training(trainer)
    assert [c[0] for c in trainer.mock_calls] == [
        "on_train_start", "on_epoch_start", "on_train_epoch_start", "train_step", "train_step", "on_train_epoch_end",
        "on_validation_epoch_start", "validation_step", "on_validation_epoch_end", "on_epoch_end", "on_train_end",
    ]  # fmt: skip
    trainer.on_train_epoch_end.assert_called_with([{"loss": 0}, {"loss": 1}])


@reliance
def test_a_training_can_be_left() -> None:
    trainer = _loop(epochs=3)
    trainer.on_epoch_end.side_effect = StopAsyncIteration
    with pytest.raises(StopAsyncIteration):
        nnUNetTrainer.run_training(trainer)
    assert trainer.on_epoch_end.call_count == 1
    assert not trainer.on_train_end.called, "we call it ourselves"


@reliance
def test_validation_has_no_gradients() -> None:
    trainer, seen = _loop(), {}
    trainer.train_step.side_effect = lambda _: seen.update(training=torch.is_grad_enabled())
    trainer.validation_step.side_effect = lambda _: seen.update(validation=torch.is_grad_enabled())
    nnUNetTrainer.run_training(trainer)
    assert seen == {"training": True, "validation": False}


# ----------------------------------------------------------------------------------------------------- epochs


@reliance
def test_losses_of_an_epoch() -> None:
    trainer = Mock(is_ddp=False, current_epoch=4)
    losses = [np.asarray(1.0, np.float32), np.asarray(2.0, np.float32)]
    nnUNetTrainer.on_train_epoch_end(trainer, [{"loss": loss} for loss in losses])
    trainer.logger.log.assert_called_once_with("train_losses", 1.5, 4)


def _end_of_epoch(tmp_path: Path, **changed: Any) -> Mock:
    attributes = {"current_epoch": 3, "num_epochs": 9, "save_every": 4, "_best_ema": 0.5, "local_rank": 0,
                  "output_folder": str(tmp_path), **changed}  # fmt: skip
    trainer = Mock(**attributes)
    log = {"dice_per_class_or_region": [0.5], "ema_fg_dice": changed.get("ema", 0.4)}
    trainer.logger.get_value.side_effect = lambda key, step: log.get(key, 0.0)
    nnUNetTrainer.on_epoch_end(trainer)
    return trainer


def _saved(trainer: Mock) -> list[str]:
    return [Path(c.args[0]).name for c in trainer.save_checkpoint.call_args_list]


@reliance
def test_when_checkpoints_are_saved(tmp_path: Path) -> None:
    assert _saved(_end_of_epoch(tmp_path)) == [LATEST]
    assert _saved(_end_of_epoch(tmp_path, current_epoch=2)) == []
    assert _saved(_end_of_epoch(tmp_path, num_epochs=4)) == [], "the last epoch's is the final one"


@reliance
def test_what_is_best(tmp_path: Path) -> None:
    assert _saved(_end_of_epoch(tmp_path, current_epoch=0, ema=0.6)) == [BEST]
    assert _saved(_end_of_epoch(tmp_path, current_epoch=0, ema=0.1, _best_ema=None)) == [BEST]
    assert _saved(_end_of_epoch(tmp_path, current_epoch=0, ema=0.6, _best_ema=float("nan"))) == [], "we mend this"


@reliance
def test_epochs_are_counted_last(tmp_path: Path) -> None:
    trainer = _end_of_epoch(tmp_path)
    assert trainer.current_epoch == 4
    assert text_of(nnUNetTrainer.on_epoch_end).rstrip().endswith("self.current_epoch += 1")


# ---------------------------------------------------------------------------------------------------- logging


@reliance
def test_logger_can_be_replaced() -> None:
    logger = MetaLogger("", False)
    assert isinstance(logger.local_logger, LocalLogger)
    logger.local_logger = Mock()
    logger.log("x", 1, 2)
    logger.get_value("x", step=None)
    logger.plot_progress_png("folder")
    logger.get_checkpoint()
    logger.load_checkpoint({})
    logger.update_config({})
    assert [c[0] for c in logger.local_logger.mock_calls] == [
        "log", "get_value", "plot_progress_png", "get_checkpoint", "load_checkpoint"
    ]  # fmt: skip
    assert logger.local_logger.log.call_args.args == ("x", 1, 2)


@reliance
def test_a_value_per_epoch_and_key() -> None:
    logger = LocalLogger()
    with pytest.raises(AssertionError):
        logger.log("ours", 1.0, 0)
    logger.my_fantastic_logging["ours"] = []
    logger.log("ours", 1.0, 0)
    assert logger.get_checkpoint()["ours"] == logger.get_value("ours", None) == [1.0]
    logger.load_checkpoint({"train_losses": [0.5]})
    assert logger.my_fantastic_logging == {"train_losses": [0.5]}, "keys of ours are lost with an older checkpoint"
    assert "for i in self.my_fantastic_logging.values()" in text_of(LocalLogger.plot_progress_png), "shortest counts"


@reliance
def test_moving_average_of_the_dice() -> None:
    logger = MetaLogger("", False)
    for epoch, dice in enumerate((0.5, 1.0, float("nan"))):
        logger.log("mean_fg_dice", dice, epoch)
    history = logger.get_value("ema_fg_dice", step=None)
    assert history[:2] == pytest.approx([0.5, 0.55])
    assert np.isnan(history[2])
    logger.local_logger = Mock(get_value=lambda key, step: [] if step is None else 0.0)
    logger.log("mean_fg_dice", 0.5, 0)
    assert [c.args[0] for c in logger.local_logger.log.call_args_list] == ["mean_fg_dice", "ema_fg_dice"]


@reliance
def test_names_of_curves() -> None:
    assert {*LOSSES, *DICE, "epoch_start_timestamps", "epoch_end_timestamps"} <= set(LocalLogger().my_fantastic_logging)


@reliance
def test_picture_of_a_training() -> None:
    assert [arguments(c) for c in calls(LocalLogger.plot_progress_png, "fig.savefig")] == [
        ["join(output_folder, 'progress.png')"]
    ]


@reliance
def test_lines_before_each_validation_case(folders: Path) -> None:
    trainer = just_made()
    made = [arguments(c)[0] for c in calls(nnUNetTrainer.perform_actual_validation, "self.print_to_log_file")]
    assert "f'predicting {k}'" in made
    assert "'Validation complete'" in made
    trainer.print_to_log_file("predicting case_7")
    trainer.print_to_log_file("Validation complete")
    log = Path(trainer.log_file)
    assert log.match("fold_0/training_log_*.txt")
    assert [m["case"] for m in PREDICTING.finditer(log.read_text(encoding="utf-8"))] == ["case_7", None]


@reliance
def test_device_in_debug_json(folders: Path) -> None:
    trainer = just_made()
    nnUNetTrainer._save_debug_information(trainer)
    assert json.loads((Path(trainer.output_folder or "") / "debug.json").read_text(encoding="utf-8"))["device"] == "cpu"
    assert "gpu_name" in strings(nnUNetTrainer._save_debug_information)


# ------------------------------------------------------------------------------------------------ checkpoints


def _saving(path: Path, **changed: Any) -> dict[str, Any] | None:
    attributes = {
        "local_rank": 0, "global_rank": 0, "disable_checkpointing": False, "is_ddp": False, "network": nn.Linear(1, 1),
        "grad_scaler": None, "my_init_kwargs": {"ours": 1}, "current_epoch": 4, "_best_ema": 0.5,
        "inference_allowed_mirroring_axes": (0, 1), **changed,
    }  # fmt: skip
    trainer = SimpleNamespace(**attributes, optimizer=Mock(state_dict=dict), logger=Mock(get_checkpoint=dict),
                              print_to_log_file=print)  # fmt: skip
    nnUNetTrainer.save_checkpoint(trainer, str(path))
    return torch.load(path, weights_only=False) if path.is_file() else None


@reliance
def test_every_gpu_is_asked_to_save(tmp_path: Path) -> None:
    assert _saving(tmp_path / "a", local_rank=1, global_rank=1) is None, "nnU-Net's function sorts them out, by rank"
    assert _saving(tmp_path / "b", disable_checkpointing=True) is None
    for function in (nnUNetTrainer.on_train_end, nnUNetTrainer.on_epoch_end):
        assert "_rank" not in text_of(function).rsplit("self.save_checkpoint", 1)[0]


@reliance
def test_a_rank_of_a_node_writes(tmp_path: Path) -> None:
    attributes = {"local_rank": 0, "global_rank": 2}
    assert _saving(tmp_path / "a", **attributes) is not None, "our trainer expects a file from whoever has local_rank 0"


@reliance
def test_content_of_a_checkpoint(tmp_path: Path) -> None:
    saved = _saving(tmp_path / "a")
    assert saved is not None
    assert set(saved) == {
        "network_weights", "optimizer_state", "grad_scaler_state", "logging", "_best_ema", "current_epoch", "init_args",
        "trainer_name", "inference_allowed_mirroring_axes",
    }, "no schedule, no random state: we add ours"  # fmt: skip
    assert saved["init_args"] == {"ours": 1}, "where ours is"
    assert saved["current_epoch"] == 5


def _loading(tmp_path: Path) -> Any:
    _saving(tmp_path / "a", my_init_kwargs={"fold": 0, "ours": 1})
    trainer = Mock(was_initialized=False, device=CPU, is_ddp=False, network=nn.Linear(1, 1), grad_scaler=None)
    nnUNetTrainer.load_checkpoint(trainer, str(tmp_path / "a"))
    return trainer


@reliance
def test_loading_gives_back_what_was_added(tmp_path: Path) -> None:
    trainer = _loading(tmp_path)
    assert trainer.my_init_kwargs == {"fold": 0, "ours": 1}
    assert trainer.current_epoch == 5
    trainer.initialize.assert_called_once_with()


@reliance
def test_a_checkpoint_is_given_by_position() -> None:
    root = Path(nnunetv2.__file__).parent
    texts = [p.read_text(encoding="utf-8") for p in root.rglob("*.py") if "load_checkpoint(" in p.read_text("utf-8")]
    made = [n for text in texts for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)]
    loads = [n for n in made if isinstance(n.func, ast.Attribute) and n.func.attr == "load_checkpoint"]
    assert loads
    assert not [ast.unparse(n) for n in loads if n.keywords or len(n.args) != 1]
    assert len(parameters(nnUNetTrainer.load_checkpoint)) == 2, "whatever the second is called"


@reliance
def test_which_checkpoint_goes_on(tmp_path: Path) -> None:
    trainer = Mock(output_folder=str(tmp_path))
    run_training.maybe_load_checkpoint(trainer, True, False)
    assert not trainer.load_checkpoint.called, "with none it begins, without an error"
    given = []
    for name in (BEST, LATEST, "checkpoint_final.pth"):
        (tmp_path / name).touch()
        trainer = Mock(output_folder=str(tmp_path))
        run_training.maybe_load_checkpoint(trainer, True, False)
        given.append(Path(trainer.load_checkpoint.call_args.args[0]).name)
    assert given == [BEST, LATEST, "checkpoint_final.pth"]


@reliance
def test_end_of_a_training(tmp_path: Path) -> None:
    latest = tmp_path / LATEST
    latest.touch()
    trainer = Mock(output_folder=str(tmp_path), current_epoch=7, local_rank=0, global_rank=0, device=CPU)
    trainer.save_checkpoint.side_effect = lambda _: trainer.seen(trainer.current_epoch)
    nnUNetTrainer.on_train_end(trainer)
    assert _saved(trainer) == ["checkpoint_final.pth"]
    trainer.seen.assert_called_once_with(6)
    assert not latest.exists()


@reliance
def test_model_folder_has_plans_and_labels() -> None:
    made = [arguments(c)[:2] for c in calls(nnUNetTrainer.on_train_start, "save_json")]
    assert ["self.plans_manager.plans", "join(self.output_folder_base, 'plans.json')"] in made
    assert ["self.dataset_json", "join(self.output_folder_base, 'dataset.json')"] in made


@reliance
def test_what_prediction_reads_of_a_checkpoint() -> None:
    load = nnUNetPredictor.initialize_from_trained_model_folder
    read = {ast.unparse(n) for n in nodes(load, ast.Subscript)}
    assert {text for text in read if text.startswith("checkpoint[")} == {
        "checkpoint['trainer_name']", "checkpoint['init_args']", "checkpoint['init_args']['configuration']",
        "checkpoint['inference_allowed_mirroring_axes']", "checkpoint['network_weights']",
    }, "what convert-checkpoint writes"  # fmt: skip
    assert inspect.signature(load).parameters["checkpoint_name"].default == "checkpoint_final.pth"


@reliance
def test_command_turns_benchmark_on() -> None:
    text = text_of(run_training.run_training)
    assert in_this_order(["maybe_load_checkpoint", "nnunet_trainer.run_training"], called(run_training.run_training))
    loaded, benchmark, trained = (text.index(s) for s in ("maybe_load_checkpoint(", "cudnn.benchmark = True",
                                                          "nnunet_trainer.run_training()"))  # fmt: skip
    assert loaded < benchmark < trained, "before on_train_start, where we turn it off"
    assert "cudnn.benchmark" not in source_of(nnUNetTrainer)


@reliance
def test_training_then_validation() -> None:
    steps = ["nnunet_trainer.run_training", "nnunet_trainer.perform_actual_validation"]
    assert in_this_order(steps, called(run_training.run_training))
    assert parameters(nnUNetTrainer.perform_actual_validation) == ["self", "save_probabilities"]


@reliance
def test_pretrained_weights_are_looked_up_in_the_module() -> None:
    assert run_training.__name__ == pretrained.COMMAND
    assert getattr(run_training, pretrained.FUNCTION) is not None
    function = inspect.unwrap(load_pretrained_weights)
    assert parameters(function) == ["network", "fname", "verbose"]
    found = called(run_training.maybe_load_checkpoint)
    assert in_this_order(["nnunet_trainer.initialize", pretrained.FUNCTION], found), "our part comes with initialize"


class Headed(nn.Module):
    """A network with a body and heads, as the loader of pretrained weights sees one."""

    def __init__(self, classes: int):
        super().__init__()
        self.body, self.decoder = nn.Linear(2, 2), nn.Module()
        self.decoder.seg_layers = nn.ModuleList([nn.Linear(2, classes)])


@reliance
def test_pretrained_weights_leave_heads_out(tmp_path: Path) -> None:
    given, own = Headed(5), Headed(3)
    before = own.decoder.seg_layers[0].weight.clone()
    torch.save({"network_weights": given.state_dict()}, tmp_path / "weights")
    load_pretrained_weights(own, str(tmp_path / "weights"))
    assert torch.equal(own.body.weight, given.body.weight)
    assert torch.equal(own.decoder.seg_layers[0].weight, before)
    assert [n for n in own.state_dict() if pretrained.HEADS in n] == [
        "decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"
    ]  # fmt: skip


# ------------------------------------------------------------------------------------- validation, prediction


@reliance
def test_validation_predicts_with_the_trained_network() -> None:
    check = nnUNetTrainer.perform_actual_validation
    assert [arguments(c) for c in calls(check, "self.set_deep_supervision_enabled")] == [["False"], ["True"]]
    (given,) = calls(check, "predictor.manual_initialization")
    assert arguments(given)[0] == "self.network"
    assert arguments(given)[-1] == "self.inference_allowed_mirroring_axes"


@reliance
def test_prediction_in_half_precision() -> None:
    (opened,) = calls(nnUNetPredictor.predict_sliding_window_return_logits, "torch.autocast")
    assert arguments(opened) == ["self.device.type", "enabled=True"], "fp16 on a GPU, whatever it was trained in"


@reliance
def test_mirroring_axes() -> None:
    stand_in = Mock()
    stand_in.configuration_manager.patch_size = [16, 16, 16]
    *others, axes = nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(stand_in)
    assert len(others) == 3
    assert axes == stand_in.inference_allowed_mirroring_axes == (0, 1, 2)
    function = "self.configure_rotation_dummyDA_mirroring_and_inital_patch_size"
    (unpacked,) = (n for n in nodes(nnUNetTrainer.get_dataloaders, ast.Assign)
                   if ast.unparse(n.value) == f"{function}()")  # fmt: skip
    assert ast.unparse(unpacked.targets[0].elts[-1]) == "mirror_axes"


@reliance
@pytest.mark.parametrize("patch", [[16, 20, 24], [8, 8, 48]])
def test_what_is_loaded_for_angles(patch: list[int]) -> None:
    stand_in = Mock()
    stand_in.configuration_manager.patch_size = patch
    made = nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(stand_in)
    angles, in_slices, loaded, _ = made
    expected = get_patch_size(patch, angles, angles, angles, NNUNET_SCALING)
    if in_slices:
        expected[0] = patch[0]
    assert in_slices == (max(patch) > 3 * patch[0])
    assert list(loaded) == list(expected)
    assert all(a > b for a, b in zip(loaded[1:], patch[1:], strict=True))


@reliance
def test_no_axes_means_no_mirroring() -> None:
    predictor = SimpleNamespace(
        allowed_mirroring_axes=None, use_mirroring=True, network=Mock(return_value=torch.ones(1))
    )
    nnUNetPredictor._internal_maybe_mirror_and_predict(predictor, torch.zeros(1, 1, 2, 2, 2))
    assert predictor.network.call_count == 1
    assert "mirror_axes is not None and len(mirror_axes) > 0" in text_of(nnUNetTrainer.get_training_transforms)


@reliance
def test_files_of_a_validation() -> None:
    text = text_of(nnUNetTrainer.perform_actual_validation)
    assert "join(self.output_folder, 'validation')" in text
    assert "join(validation_output_folder, 'summary.json')" in text
    assert "join(validation_output_folder, k)" in text


@reliance
def test_summary_of_a_validation() -> None:
    text = text_of(evaluate_predictions.compute_metrics_on_folder)
    assert "'foreground_mean': foreground_mean" in text
    assert "Dice" in strings(evaluate_predictions.compute_metrics)


@reliance
def test_file_of_probabilities() -> None:
    (saved,) = calls(export_prediction.export_prediction_from_logits, "np.savez_compressed")
    assert arguments(saved) == ["output_file_truncated + '.npz'", "probabilities=probabilities_final"]


@reliance
def test_truth_of_the_cases() -> None:
    assert "gt_segmentations" in strings(plan_and_preprocess_api.preprocess_dataset)
    assert "join(self.preprocessed_dataset_folder_base, 'gt_segmentations')" in text_of(
        nnUNetTrainer.perform_actual_validation
    )


@reliance
def test_a_preprocessed_case(tmp_path: Path) -> None:
    image = np.zeros((1, 2, 2, 2), np.float32)
    size = {"chunks": image.shape, "blocks": image.shape, "chunks_seg": image.shape, "blocks_seg": image.shape}
    nnUNetDatasetBlosc2.save_case(image, image.astype(np.int8), {}, str(tmp_path / "case"), **size)
    assert (tmp_path / "case.pkl").is_file()
    chosen = PlansManager(stock_plans()).get_configuration("3d_fullres")
    assert chosen.data_identifier == "nnUNetPlans_3d", "the folder that they are in"


@reliance
def test_passes_go_through_the_window_as_channels() -> None:
    seen: list[torch.Tensor] = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return x.clone()

    image = torch.arange(24.0).reshape(1, 1, 2, 3, 4)
    predictor = SimpleNamespace(allowed_mirroring_axes=(0, 2), use_mirroring=True, network=network)
    nnUNetPredictor._internal_maybe_mirror_and_predict(predictor, image)
    expected = [image, *(torch.flip(image, axes) for axes in ((2,), (4,), (2, 4)))]
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))
    text = text_of(nnUNetPredictor._internal_predict_sliding_window_return_logits)
    assert text.count("label_manager") == text.count("self.label_manager.num_segmentation_heads") == 1
    assert "predicted_logits[sl] += prediction" in text


@reliance
def test_a_window_per_fold() -> None:
    predictor = SimpleNamespace(list_of_parameters=[{}, {}, {}], network=Mock(), verbose=False)
    predictor.predict_sliding_window_return_logits = Mock(side_effect=[torch.full((1,), v) for v in (1.0, 2.0, 6.0)])
    found = nnUNetPredictor.predict_logits_from_preprocessed_data(predictor, torch.zeros(1))
    assert predictor.predict_sliding_window_return_logits.call_count == 3
    assert found.item() == 3.0


@reliance
def test_a_case_is_loaded_from_its_folder(tmp_path: Path) -> None:
    image, seg = np.ones((1, 3, 4, 5), np.float32), np.zeros((1, 3, 4, 5), np.int8)
    size = {"chunks": image.shape, "blocks": image.shape, "chunks_seg": seg.shape, "blocks_seg": seg.shape}
    nnUNetDatasetBlosc2.save_case(image, seg, {"spacing": [1, 1, 1]}, str(tmp_path / "case"), **size)
    kind = infer_dataset_class(str(tmp_path))
    data, labels, before, properties = kind(str(tmp_path), ["case"]).load_case("case")
    assert (data[:] == 1).all()
    assert labels[:].shape == seg.shape
    assert before is None
    assert properties == {"spacing": [1, 1, 1]}


@reliance
def test_properties_that_bring_a_map_to_the_image() -> None:
    text = text_of(export_prediction.convert_predicted_logits_to_segmentation_with_correct_shape)
    for name in ("spacing", "shape_after_cropping_and_before_resampling", "shape_before_cropping",
                 "bbox_used_for_cropping"):  # fmt: skip
        assert f"properties_dict['{name}']" in text
    assert "[spacing_transposed[0], *configuration_manager.spacing]" in text
    assert "transpose_backward" in text


# ----------------------------------------------------------------------------------------------------- splits


@reliance
def test_split_of_the_first_training(tmp_path: Path) -> None:
    cases = [f"case{i:02d}" for i in range(12)]
    trainer = Mock(fold=0, preprocessed_dataset_folder_base=str(tmp_path))
    trainer.dataset_class.return_value.identifiers = cases[::-1]
    train, test = nnUNetTrainer.do_split(trainer)
    written = json.loads((tmp_path / "splits_final.json").read_text(encoding="utf-8"))
    assert written == generate_crossval_split(cases, n_splits=5), "of the sorted cases: what crossval writes before"
    assert (written[0]["train"], written[0]["val"]) == (list(train), list(test))


@reliance
def test_a_fold_beyond_the_split(tmp_path: Path) -> None:
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    trainer = Mock(fold=3, preprocessed_dataset_folder_base=str(tmp_path))
    trainer.dataset_class.return_value.identifiers = list("abcdefghij")
    train, test = nnUNetTrainer.do_split(trainer)
    assert (len(train), len(test)) == (8, 2), "at random, without an error: we refuse it"


@reliance
def test_split_of_the_raw_dataset(tmp_path: Path) -> None:
    source, target = tmp_path / "a.json", tmp_path / "b.json"
    source.write_text("[]")
    planner_module._maybe_copy_splits_file(str(source), str(target))
    assert target.is_file()
    assert "join(self.raw_dataset_folder, 'splits_final.json')" in text_of(ExperimentPlanner.__init__)


# ------------------------------------------------------------------------------------- plans, labels, datasets


@reliance
def test_plans_are_read_from_a_dictionary() -> None:
    plans = stock_plans()
    plans["configurations"]["small"] = {"inherits_from": "3d_fullres", "batch_size": 7, "previous_stage": "3d_lowres"}
    manager = PlansManager(plans)
    assert manager.available_configurations == ["2d", "3d_fullres", "small"]
    assert manager.plans_name == "nnUNetPlans"
    chosen = manager.get_configuration("small")
    assert isinstance(chosen, ConfigurationManager)
    assert (chosen.configuration["batch_size"], chosen.configuration["patch_size"]) == (7, [16, 16, 16])
    assert chosen.previous_stage_name == "3d_lowres"


@reliance
def test_cascade() -> None:
    text = text_of(ExperimentPlanner.plan_experiment)
    assert "'inherits_from': '3d_fullres', 'previous_stage': '3d_lowres'" in text
    assert "plans['configurations']['3d_cascade_fullres']" in text


@reliance
def test_transposition_of_axes() -> None:
    assert PlansManager(stock_plans()).transpose_forward == [0, 1, 2]
    assert "fullres_spacing[transpose_forward]" in text_of(ExperimentPlanner.plan_experiment)


@reliance
def test_reader_of_label_maps(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.ones((2, 3, 4), np.uint8))
    image.SetSpacing((0.5, 1.0, 2.0))
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    reader = PlansManager(stock_plans()).image_reader_writer_class()
    labels, properties = reader.read_seg(str(tmp_path / "a.nii.gz"))
    assert labels.shape == (1, 2, 3, 4)
    assert list(properties["spacing"]) == [2.0, 1.0, 0.5], "along the array's axes"
    reader.write_seg(labels[0], str(tmp_path / "b.nii.gz"), properties)
    assert sitk.ReadImage(str(tmp_path / "b.nii.gz")).GetSpacing() == (0.5, 1.0, 2.0)


@reliance
def test_labels_and_regions() -> None:
    for labels, order in ((DATASET_JSON["labels"], None), (REGIONS, ORDER), ({"background": 0, "a": [1]}, None)):
        manager = LabelManager(labels, order)
        assert manager.has_regions == has_regions(labels)
        assert manager.regions_class_order == order
    manager = LabelManager({**REGIONS, "ignore": 3}, ORDER)
    assert (manager.num_segmentation_heads, manager.ignore_label, manager.has_ignore_label) == (2, 3, True)
    assert LabelManager(DATASET_JSON["labels"], None).foreground_labels == [1, 2]
    regions = [r if isinstance(r, tuple) else (r,) for r in manager.foreground_regions]
    assert regions == list(masks_of(REGIONS).values()), "in the order of the dataset.json"


@reliance
def test_probabilities_become_labels_in_one_place() -> None:
    made = called(export_prediction.convert_predicted_logits_to_segmentation_with_correct_shape)
    for name in ("convert_logits_to_segmentation", "apply_inference_nonlin", "convert_probabilities_to_segmentation"):
        assert f"label_manager.{name}" in made
    assert "label_manager.convert_probabilities_to_segmentation" in called(ensemble.merge_files)


@reliance
def test_half_is_the_threshold() -> None:
    probabilities = np.array([[0.4, 0.6, 0.6], [0.4, 0.4, 0.6]])
    manager = LabelManager(REGIONS, ORDER)
    assert manager.convert_probabilities_to_segmentation(probabilities).tolist() == [0, 1, 2], "later over earlier"
    logits = torch.logit(torch.from_numpy(probabilities))
    assert np.allclose(manager.apply_inference_nonlin(logits), probabilities)


@reliance
def test_name_of_a_dataset(folders: Path) -> None:
    (folders / "nnUNet_raw" / "Dataset321_Here").mkdir(parents=True)
    assert maybe_convert_to_dataset_name("321") == maybe_convert_to_dataset_name(321) == "Dataset321_Here"
    with pytest.raises(RuntimeError):
        maybe_convert_to_dataset_name(5)
    with pytest.raises(ValueError, match="Dataset"):
        maybe_convert_to_dataset_name("x")


@reliance
def test_folders_are_read_when_needed(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.fspath(paths.nnUNet_preprocessed) == str(folders / "nnUNet_preprocessed")
    monkeypatch.setenv("nnUNet_preprocessed", "elsewhere")
    assert os.fspath(paths.nnUNet_preprocessed) == "elsewhere"


@reliance
def test_names_of_raw_cases(tmp_path: Path) -> None:
    for name in ("b_0000", "b_0001", "a_0000"):
        (tmp_path / f"{name}.nii.gz").touch()
    assert list(get_identifiers_from_splitted_dataset_folder(str(tmp_path), ".nii.gz")) == ["a", "b"]
    wanted = {"numTraining", "labels", "channel_names"}
    read = strings(ExperimentPlanner.plan_experiment) | strings(ExperimentPlanner.get_plans_for_configuration)
    assert wanted <= read


# --------------------------------------------------------------------------------------------------- planning


PLANNER_NUMBERS = (
    "UNet_reference_val_3d", "UNet_reference_val_2d", "UNet_vram_target_GB", "UNet_reference_val_corresp_GB",
    "UNet_reference_val_corresp_bs_2d", "UNet_reference_val_corresp_bs_3d", "UNet_min_batch_size",
    "UNet_max_features_2d", "UNet_max_features_3d", "UNet_base_num_features",
)  # fmt: skip


@reliance
def test_a_planner_is_made_with_these() -> None:
    (made,) = calls(plan_and_preprocess_api.plan_experiment_dataset, "experiment_planner_class")
    own = parameters(base.nnUNetPlannerMamba.__init__)
    assert {str(k.arg) for k in made.keywords if k.arg} <= set(own)
    text = text_of(plan_and_preprocess_api.plan_experiment_dataset)
    assert "kwargs['plans_name']" in text
    assert "kwargs['gpu_memory_target_in_gb']" in text
    assert parameters(ExperimentPlanner.__init__) == own


@reliance
def test_planner_reads_its_numbers_from_itself() -> None:
    made, read = text_of(ExperimentPlanner.__init__), text_of(ExperimentPlanner.get_plans_for_configuration)
    assert not [n for n in PLANNER_NUMBERS if f"self.{n} = " not in made or f"self.{n}" not in read]
    kept = ("dataset_name", "dataset_json", "plans_identifier", "preprocessor_name", "overwrite_target_spacing",
            "suppress_transpose")  # fmt: skip
    assert not [n for n in kept if f"self.{n} = " not in made]


@reliance
def test_estimate_is_asked_of_the_object() -> None:
    made = calls(ExperimentPlanner.get_plans_for_configuration, "self.static_estimate_VRAM_usage")
    assert [len(c.args) for c in made] == [6, 6]
    assert not any(c.keywords for c in made)
    own = parameters(base.nnUNetPlannerMamba.static_estimate_VRAM_usage)
    assert parameters(ExperimentPlanner.static_estimate_VRAM_usage) == own[1:]


@reliance
def test_rule_of_patch_and_batch() -> None:
    text = text_of(ExperimentPlanner.get_plans_for_configuration)
    assert "while estimate / ref_bs * 2 > reference:" in text
    assert "batch_size = round(reference / estimate * ref_bs)" in text
    assert "batch_size = max(min(batch_size, bs_corresponding_to_5_percent), self.UNet_min_batch_size)" in text


@reliance
def test_planner_asks_itself_for_configurations() -> None:
    found = called(ExperimentPlanner.plan_experiment)
    assert found.count("self.get_plans_for_configuration") == 3, "3d_fullres, 3d_lowres and 2d"
    assert found.count("self.save_plans") == 1
    keys = strings(ExperimentPlanner.get_plans_for_configuration)
    assert {"architecture", "patch_size", "batch_size", "network_class_name", "arch_kwargs", *TOPOLOGY_KEYS} <= keys


@reliance
def test_name_of_preprocessed_data() -> None:
    made = [arguments(c)[0] for c in calls(ExperimentPlanner.plan_experiment, "self.generate_data_identifier")]
    assert sorted(made) == ["'2d'", "'3d_fullres'", "'3d_lowres'"]
    stock = SimpleNamespace(plans_identifier=base.STOCK_PLANS)
    assert ExperimentPlanner.generate_data_identifier(stock, "2d") == "nnUNetPlans_2d"
    defaults = inspect.signature(ExperimentPlanner.__init__).parameters
    assert defaults["plans_name"].default == base.STOCK_PLANS
    assert defaults["preprocessor_name"].default == base.STOCK_PREPROCESSOR


@reliance
def test_planning_again_keeps_other_configurations(folders: Path) -> None:
    folder = folders / "nnUNet_preprocessed" / "Dataset999_Test"
    folder.mkdir(parents=True)
    planner = SimpleNamespace(dataset_name=folder.name, plans_identifier="nnUNetPlans")
    ExperimentPlanner.save_plans(planner, {"configurations": {"2d": {"a": 1}, "ours": {}}})
    ExperimentPlanner.save_plans(planner, {"configurations": {"2d": {"a": 2}}})
    written = json.loads((folder / "nnUNetPlans.json").read_text(encoding="utf-8"))["configurations"]
    assert written == {"2d": {"a": 2}, "ours": {}}


@reliance
def test_topology_of_a_patch() -> None:
    poolings, strides, kernels, patch, divisors = get_pool_and_conv_props([1, 1, 1], [16, 16, 17], 4, 999999)
    assert list(poolings) == [2, 2, 2]
    assert strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2))
    assert kernels == ((3, 3, 3),) * 3
    assert (list(patch), list(divisors)) == ([16, 16, 20], [4, 4, 4])


@reliance
def test_numbers_of_the_planner() -> None:
    text = text_of(ExperimentPlanner.__init__)
    assert f"self.UNet_featuremap_min_edge_length = {configurations.MIN_EDGE}" in text
    for dim, most in configurations.MOST_FEATURES.items():
        assert f"self.UNet_max_features_{dim}d = {most}" in text
    asked = calls(ExperimentPlanner.get_plans_for_configuration, "get_pool_and_conv_props")
    assert {arguments(c)[-1] for c in asked} == {str(configurations.NO_LIMIT)}


@reliance
def test_residual_encoder_planners() -> None:
    for preset in networks.RESENC_PRESETS:
        stock = getattr(residual_encoder_unet_planners, preset.planner)
        assert parameters(stock.__init__) == parameters(ExperimentPlanner.__init__)
        assert inspect.signature(stock.__init__).parameters["gpu_memory_target_in_gb"].default == preset.gigabytes
        assert "get_plans_for_configuration" not in vars(stock)
    text = text_of(residual_encoder_unet_planners.ResEncUNetPlanner.get_plans_for_configuration)
    # with a reference for ref_bs samples: the same rule as the other planner's, where ref_bs is 2 as ours sets it
    assert "while estimate > reference:" in text
    assert "batch_size = round(reference / estimate * ref_bs)" in text
    assert "self.static_estimate_VRAM_usage" in text


@reliance
def test_resampling_with_torch() -> None:
    for name in ("determine_resampling", "determine_segmentation_softmax_export_fn"):
        borrowed = getattr(nnUNetPlanner_torchres, name)
        assert name in vars(ExperimentPlanner), name
        functions = [value for value in borrowed(None) if callable(value)]
        assert {function.__name__ for function in functions} == {"resample_torch_fornnunet"}
    stock = SimpleNamespace(plans_identifier="nnUNetPlans_torchres")
    assert nnUNetPlanner_torchres.generate_data_identifier(stock, "2d") == f"{base.TorchResampling.stock_plans}_2d"
    defaults = inspect.signature(nnUNetPlanner_torchres.__init__).parameters
    assert defaults["plans_name"].default == base.TorchResampling.stock_plans


@reliance
def test_stock_planners_and_their_plans() -> None:
    for plans, name in STOCK_PLANNERS.items():
        made = getattr(planner_module if name == "ExperimentPlanner" else residual_encoder_unet_planners, name)
        assert inspect.signature(made.__init__).parameters["plans_name"].default == plans


# --------------------------------------------------------------------------------------------------- commands


@reliance
def test_name_of_a_converted_dataset() -> None:
    text = text_of(convert_MSD_dataset.convert_msd_dataset)
    assert "f'Dataset{target_id:03d}_{dataset_name}'" in text
    assert "assert len(existing_datasets) == 0" in text


@reliance
def test_choice_of_the_best_model() -> None:
    choose = find_best_configuration.find_best_configuration
    written = {"considered_models", "folds", "ensembling_allowed", "all_results", "best_model_or_ensemble",
               "selected_model_or_models", "postprocessing_file", "some_plans_file", "result_on_crossval_post_pp",
               "trainer", "plans_identifier", "configuration", "inference_information.json"}  # fmt: skip
    assert written <= strings(choose)
    assert {"allow_ensembling", "num_processes", "folds"} <= set(parameters(choose))
    assert {"plans", "configuration", "trainer"} <= strings(
        find_best_configuration.dumb_trainer_config_plans_to_trained_models_dict
    )


@reliance
def test_name_of_an_ensemble() -> None:
    name = file_path_utilities.get_ensemble_name("x/A__P__2d", "x/B__P__2d", (0, 1))
    assert name == "ensemble___A__P__2d___B__P__2d___0_1"


OPTIONS = {
    "nnUNetv2_convert_MSD_dataset": ["-i", "-np"],
    "nnUNetv2_extract_fingerprint": ["-d", "--verify_dataset_integrity", "-np"],
    "nnUNetv2_plan_experiment": ["-d", "-pl", "-gpu_memory_target", "-overwrite_target_spacing",
                                 "-overwrite_plans_name"],
    "nnUNetv2_preprocess": ["-d", "-plans_name", "-c", "-np"],
    "nnUNetv2_train": ["-tr", "-p", "-device", "--npz", "--c", "--val", "-pretrained_weights", "-num_gpus"],
    "nnUNetv2_find_best_configuration": ["-c", "-tr", "-p", "-f", "-np", "--disable_ensembling"],
    "nnUNetv2_predict": ["-d", "-i", "-o", "-tr", "-p", "-c", "-f", "-device", "-prev_stage_predictions",
                         "--save_probabilities"],
    "nnUNetv2_predict_from_modelfolder": ["-i", "-o", "-m", "-f"],
    "nnUNetv2_ensemble": ["-i", "-o", "-np"],
    "nnUNetv2_apply_postprocessing": ["-i", "-o", "-pp_pkl_file", "-np", "-plans_json", "-dataset_json"],
}  # fmt: skip
"""Of nnU-Net's commands, what we run them with or tell people to."""


@pytest.mark.parametrize("command", OPTIONS)
@reliance
def test_commands_and_their_options(command: str) -> None:
    (point,) = importlib.metadata.entry_points(group="console_scripts", name=command)
    assert set(OPTIONS[command]) <= strings(point.load())


@reliance
def test_environment_of_a_cpu() -> None:
    assert "nnUNet_compile" in strings(nnUNetTrainer._do_i_compile)
    assert "nnUNet_def_n_proc" in inspect.getsource(configuration)


@reliance
def test_postprocessing_by_a_pickle(tmp_path: Path) -> None:
    arguments = {"values": [(1,)], "sizes": [2], "fill": [0]}
    save_pickle(([remove_small_components], [arguments]), str(tmp_path / "a.pkl"))
    functions, keywords = load_pickle(str(tmp_path / "a.pkl"))
    command = source_of(postprocessing.entry_point_apply_postprocessing)
    assert "pp_fns, pp_fn_kwargs = load_pickle(args.pp_pkl_file)" in command
    done = postprocessing.apply_postprocessing(np.array([1, 0, 1, 1]), functions, keywords)
    assert done.tolist() == [0, 0, 1, 1]
    (tmp_path / "old.pkl").write_bytes(b"cnnunet_mamba.calibration.components\nremove_small_components\n.")
    assert load_pickle(str(tmp_path / "old.pkl")) is remove_small_components


ERRORS = {
    "trainer-not-found": "Could not find requested nnunet trainer",
    "plans-or-fingerprint-missing": "Fingerprint missing for this dataset",
    "regions-class-order": "if region-based training is requested then you need to",
    "labels-not-consecutive": "Labels must be in consecutive order",
    "paths-not-set": " is not defined. ",
}
"""Words of nnU-Net's messages by which `doctor --explain` knows them."""


@reliance
def test_words_of_messages() -> None:
    root = Path(nnunetv2.__file__).parent
    everything = "\n".join(p.read_text(encoding="utf-8") for p in root.rglob("*.py"))
    for key, words in ERRORS.items():
        assert words in everything, key
        shown = f"nnUNet_raw{words}" if key == "paths-not-set" else f"{words} define regions_class_order! [4]"
        assert key in [m.key for m in explain(shown)], key


# --------------------------------------------------------------------------------------------- exported models


@reliance
def test_windows_and_their_weights() -> None:
    predictor = nnUNetPredictor(device=CPU)
    assert predictor.tile_step_size == description.TILE_STEP_SIZE
    assert predictor.use_gaussian
    assert predictor.use_mirroring
    (call,) = calls(nnUNetPredictor._internal_predict_sliding_window_return_logits, "compute_gaussian")
    assert "sigma_scale=1.0 / 8" in arguments(call)
    assert description.SIGMA_SCALE == 1 / 8
    assert f"value_scaling_factor={description.PEAK}" in arguments(call)
    weights = sliding_window_prediction.compute_gaussian(
        (8, 6), description.SIGMA_SCALE, dtype=torch.float64, device=CPU
    )
    point = np.zeros((8, 6))
    point[4, 3] = 1
    expected = gaussian_filter(point, [size / 8 for size in point.shape], mode="constant")
    assert np.allclose(weights, expected / expected.max(), atol=1e-12)
    assert sliding_window_prediction.compute_steps_for_sliding_window((110,), (64,), 0.5) == [[0, 23, 46]]
    (call,) = calls(nnUNetPredictor.predict_sliding_window_return_logits, "pad_nd_image")
    assert arguments(call)[2:] == ["'constant'", "{'value': 0}", "True", "None"]


@reliance
def test_order_of_preprocessing() -> None:
    wanted = ("data.transpose", "crop_to_nonzero", "compute_new_shape", "self._normalize",
              "configuration_manager.resampling_fn_data")  # fmt: skip
    assert in_this_order(wanted, called(DefaultPreprocessor.run_case_npy))
    assert "transpose_forward" in text_of(DefaultPreprocessor.run_case_npy)
    assert "target_spacing = [original_spacing[0]] + target_spacing" in text_of(DefaultPreprocessor.run_case_npy)
    back = text_of(export_prediction.convert_predicted_logits_to_segmentation_with_correct_shape)
    assert (
        back.index("resampling_fn_probabilities") < back.index("insert_crop_into_image") < back.index("transpose_back")
    )


@reliance
def test_normalisation_and_resampling() -> None:
    there = {name for name, thing in vars(default_normalization_schemes).items()
             if inspect.isclass(thing) and thing.__module__ == default_normalization_schemes.__name__}  # fmt: skip
    assert there - {"ImageNormalization"} == set(description.NORMALIZATIONS)
    image = np.random.default_rng(0).normal(5, 2, (4, 5, 6)).astype(np.float32)
    expected = (image - image.mean()) / image.std()
    assert np.allclose(default_normalization_schemes.ZScoreNormalization(False, {}).run(image.copy()), expected)
    numbers = {"mean": 5.0, "std": 2.0, "percentile_00_5": 3.0, "percentile_99_5": 6.0}
    scaled = default_normalization_schemes.CTNormalization(False, numbers).run(image.copy())
    assert np.allclose(scaled, (image.clip(3, 6) - 5) / 2)
    shape = (6, 5, 9)
    resized = default_resampling.resample_data_or_seg(image[None], shape, False, None, 3)[0]
    zoomed = zoom(image.astype(float), np.divide(shape, image.shape), order=3, mode="nearest", grid_mode=True)
    assert np.allclose(resized, zoomed.clip(image.min(), image.max()), atol=1e-5)
    for spacing, expected_axis in (((4, 1, 1), 0), ((2, 1, 1), None), ((1, 4, 4), None)):
        assert default_resampling.determine_do_sep_z_and_axis(None, spacing, (1, 1, 1))[1] == expected_axis
    assert default_resampling.ANISO_THRESHOLD == description.ANISO_THRESHOLD


@reliance
def test_a_network_from_a_checkpoint() -> None:
    given = {"network_weights", "trainer_name", "init_args", "configuration", "inference_allowed_mirroring_axes"}
    assert given <= strings(nnUNetPredictor.initialize_from_trained_model_folder)
    text = text_of(nnUNetPredictor.initialize_from_trained_model_folder)
    assert "determine_num_input_channels(plans_manager, configuration_manager, dataset_json)" in text
    assert "plans_manager.get_label_manager(dataset_json).num_segmentation_heads" in text
    (call, _) = calls(nnUNetPredictor.initialize_from_trained_model_folder, "trainer_class.build_network_architecture")
    assert arguments(call) == ["plans_manager", "configuration_manager", "num_input_channels", "num_output_channels",
                               "enable_deep_supervision=False"]  # fmt: skip


@reliance
def test_zips_of_models() -> None:
    written = [arguments(call) for call in calls(model_export.export_pretrained_model, "zipf.write")]
    assert all("os.path.relpath(" in name and "nnUNet_results" in name for _, name in written)
    assert {"plans.json", "dataset.json", "postprocessing.json"} <= strings(model_export.export_pretrained_model)
    assert {"postprocessing_fns", "postprocessing_kwargs"} <= strings(postprocessing.determine_postprocessing)


@reliance
def test_steps_of_a_prediction() -> None:
    given = ["self", "network", "plans_manager", "configuration_manager", "parameters", "dataset_json", "trainer_name",
             "inference_allowed_mirroring_axes"]  # fmt: skip
    assert list(inspect.signature(nnUNetPredictor.manual_initialization).parameters) == given
    assert list(inspect.signature(nnUNetPredictor.predict_logits_from_preprocessed_data).parameters) == ["self", "data"]
    case = ["self", "image_files", "seg_file", "plans_manager", "configuration_manager", "dataset_json"]
    assert list(inspect.signature(DefaultPreprocessor.run_case).parameters) == case
    convert = inspect.signature(export_prediction.convert_predicted_logits_to_segmentation_with_correct_shape)
    assert list(convert.parameters)[:5] == [
        "predicted_logits", "plans_manager", "configuration_manager", "label_manager", "properties_dict"
    ]  # fmt: skip
    assert "self.predict_logits_from_preprocessed_data" in called(nnUNetPredictor.predict_from_data_iterator)


# --------------------------------------------------------------------------------------------------- the page


def test_every_row_of_the_page_has_its_test_and_every_test_its_row() -> None:
    named = [row.test for row in rows()]
    assert sorted(named) == sorted(set(named)), "one row each"
    assert sorted(named) == sorted(RELIANCES)
    here = sys.modules[__name__]
    assert all(callable(getattr(here, name)) for name in named)


def test_the_files_of_ours_are_there() -> None:
    root = Path(resolve.__file__).parents[1]
    for row in rows():
        ours = [word.strip("`,") for word in row.ours.split() if ".py" in word]
        assert ours, row.test
        assert all((root / name).is_file() for name in ours), row.ours


@pytest.mark.skipif(installed() != LINES_ARE_OF, reason=f"the page has the lines of nnU-Net {LINES_ARE_OF}")
def test_lines_of_the_page_are_right() -> None:
    wrong = []
    for row in rows():
        assert row.places, f"{row.test}: no `name` `file.py:line`"
        for name, file, line in row.places:
            package = PACKAGES.get(file.split("/")[0])
            root = Path((package or nnunetv2).__file__).parent
            found = line_of(root.parent / file if package else root / file, name)
            if found != line:
                wrong.append(f"{row.test}: {name} is at {file}:{found}, the page says {line}")
    assert not wrong


def test_a_failure_names_the_row() -> None:
    def test_class_lookup() -> None:
        raise TypeError("changed")

    marked = len(RELIANCES)
    told = reliance(test_class_lookup)
    del RELIANCES[marked:]
    with pytest.raises(AssertionError, match=r"inside-nnunet\.md, row test_class_lookup\. TypeError: changed"):
        told()
