"""What networks exist, and where their classes live. Imports nothing heavy: discovery, CLI and docs read it.

Every class that stock nnU-Net looks up by name (trainer, planner, label manager) is listed here; `locate` turns such a
name into the place of its class, including the suffixes of `nnunet_mamba.trainer_names`, which are derived instead of
written out one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from nnunet_mamba import trainer_names

TRAINER_MODULE = "nnunet_mamba.trainers.networks"
VARIANT_MODULE = "nnunet_mamba.trainers.variants"
PLANNER_MODULE = "nnunet_mamba.planning.planners"
THRESHOLDS_MODULE = "nnunet_mamba.calibration.label_manager"
THRESHOLDS = "LabelManagerThresholds"

NO_MAMBA = "NoMamba"
STOCK_TRAINER = "nnUNetTrainer"
LENGTHS = (1, 5, 10, 20, 50, 100, 250, 500, 750, 2000, 4000, 8000)
"""Training lengths in epochs that nnU-Net offers as name suffixes; any other number works too."""


@dataclass(frozen=True)
class Network:
    """One published network: what it is called, where it is described, and what nnU-Net knows it by."""

    name: str
    title: str
    summary: str
    paper: str
    short_paper: str
    url: str
    architecture: str
    citation: str
    base_features: int = 32
    max_features: int | None = None
    """Widths that our planner asks nnU-Net for: of the first stage, and at most (None: nnU-Net's 512 in 2d, 320 in 3d).
    As published, 32 doubling where nothing else is."""
    patch_sized: bool = False
    """Whether the weights depend on the patch size, which the plan then hands to the network."""

    def load_architecture(self) -> Any:
        """The network's class; torch comes with it."""
        module, _, name = self.architecture.rpartition(".")
        return getattr(import_module(module), name)

    @property
    def trainer(self) -> str:
        return f"nnUNetTrainer{self.name}"

    @property
    def planner(self) -> str:
        return f"nnUNetPlanner{self.name}"

    @property
    def plans(self) -> str:
        return f"nnUNet{self.name}Plans"

    @property
    def no_mamba_trainer(self) -> str:
        return self.trainer + NO_MAMBA

    @property
    def no_mamba_planner(self) -> str:
        return self.planner + NO_MAMBA

    @property
    def no_mamba_plans(self) -> str:
        return f"nnUNet{self.name}{NO_MAMBA}Plans"


_UMAMBA_PAPER = (
    "Ma, Li and Wang, U-Mamba: Enhancing Long-range Dependency for Biomedical Image Segmentation, arXiv 2024"
)
_UMAMBA_CITATION = """@article{ma2024umamba,
  title   = {{U-Mamba}: Enhancing Long-range Dependency for Biomedical Image Segmentation},
  author  = {Ma, Jun and Li, Feifei and Wang, Bo},
  journal = {arXiv preprint arXiv:2401.04722},
  year    = {2024}
}"""

NETWORKS = (
    Network(
        name="SegMamba",
        title="SegMamba",
        summary="tri-orientated Mamba encoder with gated spatial convolutions, convolutional decoder",
        paper="Xing et al., SegMamba: Long-range Sequential Modeling Mamba for 3D Medical Image Segmentation, "
        "MICCAI 2024",
        short_paper="Xing et al., MICCAI 2024",
        url="https://arxiv.org/abs/2401.13560",
        architecture="nnunet_mamba.architectures.segmamba.SegMamba",
        base_features=48,
        max_features=768,
        citation="""@inproceedings{xing2024segmamba,
  title     = {{SegMamba}: Long-range Sequential Modeling {Mamba} for {3D} Medical Image Segmentation},
  author    = {Xing, Zhaohu and Ye, Tian and Yang, Yijun and Liu, Guang and Zhu, Lei},
  booktitle = {Medical Image Computing and Computer Assisted Intervention -- MICCAI 2024},
  year      = {2024}
}""",
    ),
    Network(
        name="SegMambaV2",
        title="SegMamba-V2",
        summary="large-kernel convolutions with channel attention, Mamba along every axis in the deeper stages",
        paper="Xing et al., SegMamba-V2: Long-range Sequential Modeling Mamba for General 3D Medical Image "
        "Segmentation, IEEE TMI 2025",
        short_paper="Xing et al., IEEE TMI 2025",
        url="https://github.com/ge-xing/SegMamba-V2",
        architecture="nnunet_mamba.architectures.segmamba_v2.SegMambaV2",
        base_features=48,
        max_features=768,
        citation="""@article{xing2025segmambav2,
  title   = {{SegMamba-V2}: Long-range Sequential Modeling {Mamba} for General {3D} Medical Image Segmentation},
  author  = {Xing, Zhaohu and others},
  journal = {IEEE Transactions on Medical Imaging},
  year    = {2025}
}""",
    ),
    Network(
        name="SegResMamba",
        title="SegResMamba",
        summary="tri-orientated Mamba inside convolutional blocks of half resolution, light decoder adding the skips",
        paper="Das et al., SegResMamba: An Efficient Architecture for 3D Medical Image Segmentation, MIDL 2025",
        short_paper="Das et al., MIDL 2025",
        url="https://arxiv.org/abs/2503.07766",
        architecture="nnunet_mamba.architectures.segresmamba.SegResMamba",
        base_features=48,
        max_features=384,
        citation="""@inproceedings{das2025segresmamba,
  title     = {{SegResMamba}: An Efficient Architecture for {3D} Medical Image Segmentation},
  author    = {Das, Badhan Kumar and others},
  booktitle = {Medical Imaging with Deep Learning},
  year      = {2025}
}""",
    ),
    Network(
        name="UMambaEnc",
        title="U-Mamba Enc",
        summary="residual U-Net with a Mamba layer after every encoder stage",
        paper=f"{_UMAMBA_PAPER}; variant Enc",
        short_paper="Ma et al. 2024",
        url="https://arxiv.org/abs/2401.04722",
        architecture="nnunet_mamba.architectures.umamba.UMambaEnc",
        citation=_UMAMBA_CITATION,
        patch_sized=True,
    ),
    Network(
        name="UMambaBot",
        title="U-Mamba Bot",
        summary="residual U-Net with one Mamba layer at the bottleneck",
        paper=f"{_UMAMBA_PAPER}; variant Bot",
        short_paper="Ma et al. 2024",
        url="https://arxiv.org/abs/2401.04722",
        architecture="nnunet_mamba.architectures.umamba.UMambaBot",
        citation=_UMAMBA_CITATION,
    ),
    Network(
        name="LightMUNet",
        title="LightM-UNet",
        summary="Mamba layers instead of convolutions at all resolutions, light decoder; few parameters",
        paper="Liao et al., LightM-UNet: Mamba Assists in Lightweight UNet for Medical Image Segmentation, arXiv 2024",
        short_paper="Liao et al. 2024",
        url="https://arxiv.org/abs/2403.05246",
        architecture="nnunet_mamba.architectures.lightmunet.LightMUNet",
        base_features=32,
        max_features=256,
        citation="""@article{liao2024lightmunet,
  title   = {{LightM-UNet}: {Mamba} Assists in Lightweight {UNet} for Medical Image Segmentation},
  author  = {Liao, Weibin and Zhu, Yinghao and Wang, Xinyuan and Pan, Chengwei and Wang, Yasha and Ma, Liantao},
  journal = {arXiv preprint arXiv:2403.05246},
  year    = {2024}
}""",
    ),
    Network(
        name="MambaEncoder",
        title="Mamba encoder",
        summary="nnU-Net's residual encoder U-Net whose deeper encoder stages turn to Mamba; our own definition",
        paper="no paper: after two reports that describe such a network without code or details",
        short_paper="our own definition",
        url="",
        architecture="nnunet_mamba.architectures.mamba_encoder.MambaEncoder",
        citation="",
    ),
)


def network(name: str) -> Network:
    """The record of one network. Raises ValueError naming the known ones."""
    for record in NETWORKS:
        if record.name == name:
            return record
    raise ValueError(f"unknown network {name!r}; known: {', '.join(n.name for n in NETWORKS)}")


def trainers() -> tuple[str, ...]:
    """Trainer names without suffixes, twins included."""
    return tuple(name for n in NETWORKS for name in (n.trainer, n.no_mamba_trainer))


def planners() -> tuple[str, ...]:
    """Planner names, twins included."""
    return tuple(name for n in NETWORKS for name in (n.planner, n.no_mamba_planner))


def class_names() -> tuple[str, ...]:
    """Every name that `locate` knows, suffixes left out."""
    return trainers() + planners()


def thresholds_name(thresholds: Sequence[float]) -> str:
    """(0.42, 0.5) -> the label manager `LabelManagerThresholds_420_500`. Raises ValueError outside of 0 to 1."""
    if not thresholds or any(not 0 < t < 1 for t in thresholds):
        raise ValueError(f"thresholds {tuple(thresholds)}; expected numbers between 0 and 1")
    return THRESHOLDS + "".join(f"_{round(1000 * t)}" for t in thresholds)


def parse_thresholds(class_name: str) -> tuple[float, ...] | None:
    """The other way; None for other names"""
    name, *numbers = class_name.split("_")
    if name != THRESHOLDS or not numbers or not all(n.isdecimal() and 0 < int(n) < 1000 for n in numbers):
        return None
    return tuple(int(n) / 1000 for n in numbers)


def locate(class_name: str) -> str | None:
    """Where the class of this name lives, as "module:attribute"; None for a name that is not ours.

    The stock trainer is ours only with a suffix that nnU-Net lacks (`nnUNetTrainer_5epochs_20its`) and that a fair
    comparison needs.
    """
    if class_name in trainers():
        return f"{TRAINER_MODULE}:{class_name}"
    if class_name in planners():
        return f"{PLANNER_MODULE}:{class_name}"
    if parse_thresholds(class_name) is not None:
        return f"{THRESHOLDS_MODULE}:{class_name}"
    variant = trainer_names.parse(class_name)
    if variant is not None and variant.name == class_name and variant.conflict() is None:
        stock = variant.base == STOCK_TRAINER and variant.is_ours
        if stock or variant.base in trainers():
            return f"{VARIANT_MODULE}:{class_name}"
    return None
