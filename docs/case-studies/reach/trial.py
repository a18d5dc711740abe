"""One training on far-marker volumes in plain PyTorch, in minutes on a CPU: does a network learn this at all?

    python docs/case-studies/reach/trial.py UMambaBot 32 --stages 2 --iterations 300

80 cases, mirrored at random, no other augmentation; AdamW with a warm-up and half a cosine, Dice and cross-entropy with
deep supervision, as nnU-Net's. Every 50 iterations it prints the mean Dice of 20 other cases, and of how many the right
tube was found (a Dice above 0.8).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import Tensor, nn

from dataset_conversion.far_marker import FarMarker
from dataset_conversion.phantom import random_of
from nnunet_mamba.architectures.mamba_encoder import SCANS
from nnunet_mamba.names import networks

STOCK = "nnU-Net"
CASES, UNSEEN = 80, 20
FEATURES, RIGHT, EVERY = 8, 0.8, 50
SINGLE = {"n_conv_per_stage": 1, "n_conv_per_stage_decoder": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=(STOCK, *(n.name for n in networks.with_twins())))
    parser.add_argument("distance", type=int)
    parser.add_argument("--axis", type=int, default=2)
    parser.add_argument("--coarsen", type=int, default=2, help="voxels of so many mm")
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--single", action="store_true", help="U-Mamba: one residual block per stage instead of two")
    parser.add_argument("--scan", choices=tuple(SCANS), help="Mamba encoder: its orders")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--warm-up", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    more = {**(SINGLE if options.single else {}), **({"scan": options.scan} if options.scan else {})}
    network = build(options.network, options.stages, more)
    train(network, cases(options, 0, CASES), cases(options, 1, UNSEEN), options)


def build(name: str, stages: int, more: dict[str, Any]) -> nn.Module:
    """With widths of 8, 16, ... and strides of 2"""
    widths = [FEATURES * 2**i for i in range(stages)]
    plan: dict[str, Any] = {
        "n_stages": stages, "features_per_stage": widths, "conv_op": nn.Conv3d, "kernel_sizes": 3,
        "strides": [1, *(2,) * (stages - 1)], "deep_supervision": True,
    }  # fmt: skip
    if name == STOCK:
        network: nn.Module = PlainConvUNet(
            1, num_classes=2, n_conv_per_stage=2, n_conv_per_stage_decoder=2, conv_bias=True,
            norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU, **plan,
        )  # fmt: skip
        return network.apply(PlainConvUNet.initialize)
    kind = next(n for n in networks.with_twins() if n.name == name)
    network = kind.load_architecture()(1, 2, mixer=kind.mixer, **plan, **more)
    initialize: Callable[[nn.Module], None] = type(network).initialize  # type: ignore[attr-defined]
    return network.apply(initialize)


def cases(options: argparse.Namespace, part: int, count: int) -> tuple[Tensor, Tensor]:
    """Images (n 1 z y x) of mean 0 and deviation 1, and labels (n z y x)"""
    task = FarMarker(options.distance, options.axis, width=16)
    drawn = [task.draw(random_of(0, part, number), number) for number in range(count)]
    images, labels = (torch.from_numpy(np.stack(arrays).astype(np.float32)) for arrays in zip(*drawn, strict=True))
    images, labels = (F.avg_pool3d(array[:, None], options.coarsen) for array in (images, labels))
    spread, mean = torch.std_mean(images, (2, 3, 4), keepdim=True)
    return (images - mean) / spread, (labels[:, 0] >= 0.5).long()


def train(
    network: nn.Module, training: tuple[Tensor, Tensor], unseen: tuple[Tensor, Tensor], options: argparse.Namespace
) -> None:
    """Prints how it goes"""
    random, total, warm_up = np.random.default_rng(1 + options.seed), options.iterations, options.warm_up
    optimizer = torch.optim.AdamW(network.parameters(), options.lr, weight_decay=0.01)
    for i in range(total + 1):
        if i % EVERY == 0 or i == total:
            dice = scores(network, *unseen)
            print(f"{i:5d}  Dice {dice.mean():.3f}  right {int((dice > RIGHT).sum())} of {len(dice)}", flush=True)
        chosen = random.integers(0, CASES, options.batch)
        image, label = (tensor[chosen] for tensor in training)
        mirrored = [axis for axis in (1, 2, 3) if random.random() < 0.5]
        image, label = image.flip([axis + 1 for axis in mirrored]), label.flip(mirrored)
        share = max(0.0, (i - warm_up) / max(1, total - warm_up))
        for group in optimizer.param_groups:
            group["lr"] = options.lr * min(1.0, (i + 1) / warm_up) * (1 + math.cos(math.pi * share)) / 2
        optimizer.zero_grad()
        loss(network(image), label).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()


def loss(outputs: list[Tensor], label: Tensor) -> Tensor:
    """nnU-Net's weights: halved from one resolution to the next, the lowest without"""
    weights = [2.0**-i for i in range(len(outputs))]
    if len(weights) > 1:
        weights[-1] = 0
    found = torch.zeros(())
    for logits, weight in zip(outputs, weights, strict=True):
        if weight:
            truth = F.interpolate(label[:, None].float(), logits.shape[2:], mode="nearest")[:, 0]
            predicted, axes = logits.softmax(1)[:, 1], (1, 2, 3)
            overlap = 2 * (predicted * truth).sum(axes) + 1e-5
            dice = overlap / (predicted.sum(axes) + truth.sum(axes) + 1e-5)
            found = found + weight / sum(weights) * (F.cross_entropy(logits, truth.long()) - dice.mean())
    return found


@torch.no_grad()
def scores(network: nn.Module, images: Tensor, labels: Tensor) -> np.ndarray:
    """Dice of every case"""
    predicted = torch.cat([network(batch)[0].argmax(1) for batch in images.split(5)])
    axes = (1, 2, 3)
    return (2 * (predicted * labels).sum(axes) / (predicted.sum(axes) + labels.sum(axes))).numpy()


if __name__ == "__main__":
    main()
