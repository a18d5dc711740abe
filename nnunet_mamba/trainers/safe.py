"""nnU-Net's trainer made hard to break: precision, faults, checkpoints, seeds, records. Recipe and loop are nnU-Net's.

Nothing of nnU-Net's training step is copied. It is called, with torch's autocast type set, with a hook that takes the
gradients away from a step that must not be taken, and with what it would throw away written down.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_module
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import distributed as dist
from torch import nn

from nnunet_mamba.trainers import checkpoint_files, fold_lock, precision, record, seeding, sentinel
from nnunet_mamba.trainers.clipping import clip_large
from nnunet_mamba.trainers.loading import Numbering, TracedDataLoader, in_order, where_from
from nnunet_mamba.trainers.nnssl import Planned
from nnunet_mamba.trainers.parameter_groups import spare_from_decay
from nnunet_mamba.trainers.pretrained import accept_other_weights
from nnunet_mamba.trainers.replaced import replaced
from nnunet_mamba.trainers.schedules import SlowedSchedule
from nnunet_mamba.trainers.sentinel import GoodState, Sentinel

OUR_STATE = "nnunet_mamba"
"""Key in nnU-Net's `init_args`, the one place of its checkpoints where something can be added."""


SINGLE_OUTPUT = 2
"""Stages of a network that has one"""


class EarlyStop(Exception):  # noqa: N818  not an error: the way out of nnU-Net's loop
    """No better epoch for as long as was asked to wait."""


class SafeTrainer(nnUNetTrainer):
    """Base of all trainers whose name we answer, also of the stock one with our suffixes.

    Class attributes are what suffixes of a trainer's name set; the defaults are nnU-Net's behaviour.
    """

    # None in nnU-Net's class until `initialize`; never where they are used here
    network: Any
    optimizer: Any
    loss: Any
    dataloader_train: Any
    output_folder: Any

    wanted_precision: ClassVar[str | None] = None
    accumulated_batches: ClassVar[int] = 1
    patience: ClassVar[int | None] = None

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  nnU-Net reads this signature
    ):
        # what cannot work is refused before nnU-Net creates the output folder
        self._check(plans, configuration, dataset_json)
        self.precision = precision.choose(device, self.wanted_precision)
        self.seed = seeding.wanted_seed()
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.grad_scaler = torch.GradScaler(self.device.type) if precision.needs_scaler(self.precision) else None
        self.logger.local_logger = record.TrainingRecord()
        self.sentinel = Sentinel()
        self._good: GoodState | None = None
        self._resumed: dict[str, Any] | None = None
        self._step = _Step()
        self._norms: list[float] = []
        self._samples = 0
        self._set_values()

    @classmethod
    def _check(cls, plans: dict, configuration: str, dataset_json: dict) -> None:
        """Raises ValueError for what this trainer cannot train. Called before anything is written."""

    def _set_values(self) -> None:
        """Where a trainer's settings differ from nnU-Net's. The constructor's last act."""
        stages = self.configuration_manager.network_arch_init_kwargs.get("strides", ())
        if len(stages) == SINGLE_OUTPUT:
            # nnU-Net gives the coarsest output the weight zero: with a single output its loss would be 0 / 0
            self.enable_deep_supervision = False

    # ---------------------------------------------------------------- building

    def initialize(self) -> None:
        if self.seed is not None:
            seeding.seed_everything(seeding.of_fold(self.seed, self.fold))
        super().initialize()
        self.lr_scheduler = SlowedSchedule(self.lr_scheduler, self.optimizer)
        configuration = self.configuration_manager
        planned = Planned(configuration.spacing, configuration.normalization_schemes)
        accept_other_weights(_plain(self.network), planned, self.print_to_log_file)
        self.loss.register_forward_hook(self._see_loss)
        self.optimizer.register_step_pre_hook(self._allow_step)
        self.logger.update_config({"hparas_nnunet_mamba": {"precision": self.precision, "seed": self.seed}})
        self.print_to_log_file(f"Training in {self.precision}" + self._seed_notice())

    def _seed_notice(self) -> str:
        return "" if self.seed is None else f", everything random seeded with {self.seed}"

    def configure_optimizers(self) -> Any:
        """The recipe's, with what must not decay in groups of its own."""
        optimizer, schedule = self.recipe_optimizer()
        spare_from_decay(optimizer, self.undecayed_parameters())
        return optimizer, schedule

    def recipe_optimizer(self) -> tuple[Any, Any]:
        """Optimizer and schedule over the epochs; nnU-Net's."""
        return super().configure_optimizers()

    def undecayed_parameters(self) -> set[nn.Parameter]:
        """Parameters without weight decay: none in nnU-Net's own training."""
        return set()

    def get_dataloaders(self) -> Any:
        """nnU-Net's, of a loader that tells which voxels it took; with a seed the batches are numbered."""
        with ExitStack() as stack:
            loader: Any = TracedDataLoader
            if self.seed is not None:
                numbering = self._numbering(seeding.of_fold(self.seed, self.fold))
                loader = functools.partial(TracedDataLoader, numbering=numbering)
                stack.enter_context(replaced(nnunet_module, NonDetMultiThreadedAugmenter=in_order))
            stack.enter_context(replaced(nnunet_module, nnUNetDataLoader=loader))
            return super().get_dataloaders()

    def _numbering(self, seed: int) -> Numbering:
        # nnU-Net draws one batch of each before the first epoch
        trained = self.current_epoch * self.num_iterations_per_epoch * self.accumulated_batches
        validated = self.current_epoch * self.num_val_iterations_per_epoch
        workers = get_allowed_n_proc_DA()
        return Numbering(seed, self.local_rank, (trained, validated), (max(1, workers), max(1, workers // 2)))

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.seed is not None:
            # again, since nnU-Net's command turns cuDNN's benchmark on after building
            seeding.seed_everything(seeding.of_fold(self.seed, self.fold))
            if self._resumed is not None and self._resumed["random"] is not None:
                seeding.set_random_state(self._resumed["random"])
        self._good = GoodState(self.network, self.optimizer, self.grad_scaler)

    # ---------------------------------------------------------------- steps

    def train_step(self, batch: dict) -> dict:
        """nnU-Net's, over as many batches as a step takes."""
        batches = [batch, *(next(self.dataloader_train) for _ in range(self.accumulated_batches - 1))]
        self._step = _Step(where=[where_from(b) for b in batches])
        with precision.training_in(self.precision, self.device):
            if len(batches) == 1:
                with replaced(torch.nn.utils, clip_grad_norm_=self._clip):
                    result = super().train_step(batch)
            else:
                result = self._accumulated_step(batches)
        self._samples += sum(len(b["data"]) for b in batches)
        self._after_step()
        return result

    def _accumulated_step(self, batches: list[dict]) -> dict:
        """nnU-Net's step for each batch; all but the last leave their gradients, only the first clears them."""
        optimizer, scaler = self.optimizer, self.grad_scaler
        optimizer.zero_grad(set_to_none=True)
        losses = []
        with replaced(optimizer, zero_grad=_nothing):
            for i, batch in enumerate(batches):
                with ExitStack() as held:
                    if i < len(batches) - 1:
                        held.enter_context(replaced(optimizer, step=_nothing))
                        held.enter_context(replaced(torch.nn.utils, clip_grad_norm_=_nothing))
                        if scaler is not None:
                            held.enter_context(replaced(scaler, unscale_=_nothing, step=_nothing, update=_nothing))
                    else:
                        held.enter_context(
                            replaced(torch.nn.utils, clip_grad_norm_=functools.partial(self._clip, share=len(batches)))
                        )
                    losses.append(super().train_step(batch)["loss"])
        return {"loss": np.asarray(np.mean(losses))}

    def _clip(self, parameters: Any, max_norm: float, share: int = 1, **options: Any) -> Any:
        """torch's clipping, whose result nnU-Net throws away; of gradients summed over batches the mean is clipped."""
        parameters = list(parameters)
        if share > 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(share)
        norm = clip_large(parameters, max_norm, **options)
        self._step.norm = float(norm)
        return norm

    def _see_loss(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            self._step.losses.append(output.detach())

    def _allow_step(self, optimizer: Any, *_: Any) -> None:
        """Before the optimizer's step: without gradients it changes nothing, neither weights nor averages."""
        self._step.taken = self._on_all_gpus(math.isfinite(self._step.norm) and self._step.losses_are_finite())
        if not self._step.taken:
            # not by zero_grad, which does nothing while batches are accumulated
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def _on_all_gpus(self, true_here: bool) -> bool:
        """Gradients are the same on all of them, losses are not; what is done about a step must be."""
        if not self.is_ddp:
            return true_here
        vote = torch.tensor(float(true_here), device=self.device)
        dist.all_reduce(vote, dist.ReduceOp.MIN)
        return bool(vote)

    def _after_step(self) -> None:
        step = self._step
        if step.taken:
            self.sentinel.good()
            self._norms.append(step.norm)
            return
        losses_finite = self._on_all_gpus(step.losses_are_finite())
        scaler = self.grad_scaler
        if scaler is not None and losses_finite and scaler.get_scale() >= sentinel.SMALLEST_SCALE:
            self.sentinel.search()
            return
        what = f"loss {float(step.losses[-1]):g}, gradient norm {step.norm:g}"
        where = "; ".join(step.where)
        heal = self.sentinel.fault(f"{where} ({what})")
        if self.sentinel.skipped <= sentinel.SHOWN_PER_EPOCH:
            self.print_to_log_file(f"Step skipped, not finite: {what}. Trained on {where}")
        if heal:
            self._heal(f"{sentinel.IN_A_ROW} steps in a row were not finite, the last on {where}")

    def _heal(self, reason: str) -> None:
        self.sentinel.heal()
        assert self._good is not None
        self._good.restore()
        self.lr_scheduler.slow_down(sentinel.SLOWER, self.current_epoch)
        self.print_to_log_file(
            f"{reason}. Back to the last good weights, with half the learning rate from here on: return "
            f"{self.sentinel.heals} of {sentinel.HEALS}"
        )

    def validation_step(self, batch: dict) -> dict:
        with precision.training_in(self.precision, self.device):
            return super().validation_step(batch)

    # ---------------------------------------------------------------- epochs

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.sentinel.new_epoch()
        self._norms, self._samples, self._started = [], 0, time.perf_counter()
        assert self._good is not None
        if not self._on_all_gpus(self._good.take()):
            self._heal("weights were not finite at the start of an epoch")

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        seconds = time.perf_counter() - self._started
        super().on_train_epoch_end(_with_finite_losses(train_outputs))
        assert self._good is not None
        if not self._on_all_gpus(self._good.is_finite()):
            self._heal("weights were not finite at the end of an epoch")
        values = {
            record.GRADIENT_NORM: float(np.mean(self._norms)) if self._norms else record.MISSING,
            record.SKIPPED: self.sentinel.skipped,
            record.PRECISION: self.precision,
            record.SECONDS: seconds,
            record.SAMPLES_PER_SECOND: self._samples / seconds,
            record.PEAK_GB: record.peak_gigabytes(self.device),
        }
        for key, value in values.items():
            self.logger.log(key, value, self.current_epoch)
        skipped = f", skipped {self.sentinel.skipped} steps" if self.sentinel.skipped else ""
        self.print_to_log_file(
            f"gradient norm {values[record.GRADIENT_NORM]:.3g}, {values[record.SAMPLES_PER_SECOND]:.3g} samples/s, "
            f"peak memory {values[record.PEAK_GB]:.2f} GB, {self.precision}{skipped}"
        )

    def on_epoch_end(self) -> None:
        if self._best_ema is not None and math.isnan(self._best_ema):
            self._best_ema = None  # no later epoch would be better than not-a-number
        super().on_epoch_end()
        if self._on_all_gpus(self._waited_enough()) and self.current_epoch < self.num_epochs:
            raise EarlyStop

    def _waited_enough(self) -> bool:
        history = np.asarray(self.logger.get_value("ema_fg_dice", step=None), float)
        if self.patience is None or not np.isfinite(history).any():
            return False
        return len(history) - 1 - int(np.nanargmax(history)) >= self.patience

    def run_training(self) -> None:
        """nnU-Net's loop, left early where the trainer's name says so."""
        if self.current_epoch and self._waited_enough():
            self.num_epochs = self.current_epoch  # stopped before; nothing is left to train
            self._load_best_weights()
        with self._fold_held():
            try:
                super().run_training()
            except EarlyStop:
                weights = "last weights: none were saved" if self.disable_checkpointing else "best weights"
                self.print_to_log_file(
                    f"No better pseudo Dice for {self.patience} epochs: stopping after {self.current_epoch}, with the "
                    f"{weights}"
                )
                self._load_best_weights()
                self.on_train_end()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's final validation, in a fold that nobody else trains or validates."""
        with self._fold_held():
            super().perform_actual_validation(save_probabilities)
        self._release_fold()

    @contextmanager
    def _fold_held(self) -> Iterator[None]:
        """After an error others may have the fold; after a training it is kept for the validation that follows."""
        if self.local_rank == 0:
            fold_lock.claim(Path(self.output_folder))
        try:
            yield
        except BaseException:
            self._release_fold()
            raise

    def _release_fold(self) -> None:
        if self.local_rank == 0:
            fold_lock.release(Path(self.output_folder))

    def _load_best_weights(self) -> None:
        best = Path(self.output_folder) / checkpoint_files.BEST
        if self.is_ddp:
            dist.barrier()
        if best.is_file() and not self.disable_checkpointing:  # then it would be another training's
            # written by this training, with whatever its plans hold
            weights = torch.load(best, map_location=self.device, weights_only=False)["network_weights"]
            _plain(self.network).load_state_dict(weights)

    def on_train_end(self) -> None:
        super().on_train_end()
        if self.local_rank == 0:
            checkpoint_files.remove_previous(Path(self.output_folder))

    # ---------------------------------------------------------------- checkpoints

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint with our state in it, whole or not there; of the latest the one before is kept."""
        if self.local_rank != 0 or self.disable_checkpointing:  # nnU-Net calls this on every GPU
            super().save_checkpoint(filename)
            return
        with self._our_state_added():
            checkpoint_files.write_whole(super().save_checkpoint, Path(filename))

    @contextmanager
    def _our_state_added(self) -> Iterator[None]:
        self.my_init_kwargs[OUR_STATE] = {
            "heals": self.sentinel.heals,
            "slowed": self.lr_scheduler.factor,
            "random": None if self.seed is None else seeding.random_state(),
        }
        try:
            yield
        finally:
            del self.my_init_kwargs[OUR_STATE]

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """nnU-Net's; where the latest cannot be read, the one before. Raises ValueError if none can."""
        path, notice = checkpoint_files.readable(Path(filename_or_checkpoint))
        if notice is not None:
            self.print_to_log_file(notice)
        super().load_checkpoint(str(path))
        self._resumed = self.my_init_kwargs.pop(OUR_STATE, None)
        if self._resumed is not None:
            self.sentinel.heals = self._resumed["heals"]
            self.lr_scheduler.factor = self._resumed["slowed"]


class _Step:
    """What was seen of one step."""

    def __init__(self, where: list[str] | None = None):
        self.where = where or []
        self.losses: list[torch.Tensor] = []
        self.norm = math.inf
        self.taken = False

    def losses_are_finite(self) -> bool:
        return all(bool(torch.isfinite(loss).all()) for loss in self.losses)


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _with_finite_losses(outputs: list[dict]) -> list[dict]:
    """Losses of skipped steps replaced by the mean of the others, so that one does not hide an epoch's."""
    finite = [o["loss"] for o in outputs if np.isfinite(o["loss"])]
    if not finite:
        return outputs
    mean = np.mean(finite, dtype=np.float64).astype(np.float32)
    return [o if np.isfinite(o["loss"]) else {**o, "loss": mean} for o in outputs]


def _plain(network: Any) -> nn.Module:
    """Without the wrappers of several GPUs and torch.compile"""
    network = (
        getattr(network, "module", network) if isinstance(network, nn.parallel.DistributedDataParallel) else network
    )
    return getattr(network, "_orig_mod", network)
