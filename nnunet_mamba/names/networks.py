"""The networks there are: one frozen record each, from which all names that nnU-Net knows are derived."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from nnunet_mamba.names.head_width import WIDEST_AT_BOTTLENECK

NO_MAMBA = "NoMamba"


@dataclass(frozen=True)
class Preset:
    """One size of nnU-Net's planning: what its name adds to ours, the budget, nnU-Net's own planner of that size."""

    name: str = ""
    gigabytes: float = 8
    planner: str = "ExperimentPlanner"


RESENC_PRESETS = (
    Preset("", 8, "nnUNetPlannerResEncM"),
    Preset("L", 24, "nnUNetPlannerResEncL"),
    Preset("XL", 40, "nnUNetPlannerResEncXL"),
)


@dataclass(frozen=True)
class Network:
    """One published network, or its twin without Mamba: what it is called, where it is described, and what nnU-Net
    knows it by.
    """

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
    presets: tuple[Preset, ...] = (Preset(),)
    """The sizes that there are planners for, the one for a budget of 8 GB first"""
    extends: str | None = None
    """nnU-Net's class that this network adds to: plans for it are taken as they are."""
    published_mixer: str = "mamba"
    widest_head: int | None = None
    """Of a Mamba-2 layer whose head width the plan names"""
    mixer: str | None = None
    """What mixes tokens instead of the published layers, "none" for a twin; None: what the plan says or as published"""
    conv3d: bool = False
    """Whether the mixer convolves the volume, whatever the plan says"""

    def load_architecture(self) -> Any:
        """The network's class; torch comes with it."""
        module, _, name = self.architecture.rpartition(".")
        return getattr(import_module(module), name)

    @property
    def trainer(self) -> str:
        return f"nnUNetTrainer{self.name}"

    @property
    def planner(self) -> str:
        return self.planner_of(self.presets[0])

    def planner_of(self, preset: Preset) -> str:
        return f"nnUNetPlanner{self.name}{preset.name}"

    @property
    def plans(self) -> str:
        return self.plans_of(self.presets[0])

    def plans_of(self, preset: Preset) -> str:
        return f"nnUNet{self.name}{preset.name}Plans"

    @property
    def twin(self) -> Network:
        """The same network without its Mamba layers: the control that shows what they are worth."""
        summary = f"{self.title} without its Mamba layers: the control that shows what they are worth"
        return replace(self, name=self.name + NO_MAMBA, mixer="none", summary=summary)


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
        name="UMamba2",
        title="U-Mamba2",
        summary="nnU-Net's residual encoder U-Net with one Mamba-2 layer at the bottleneck",
        paper="Tan et al., U-Mamba2: Scaling State Space Models for Dental Anatomy Segmentation in CBCT, MICCAI 2025 "
        "workshop ODIN",
        short_paper="Tan et al. 2025",
        url="https://arxiv.org/abs/2509.12069",
        architecture="nnunet_mamba.architectures.umamba2.UMamba2ResidualEncoderUNet",
        presets=RESENC_PRESETS,
        extends="dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        published_mixer="mamba2",
        widest_head=WIDEST_AT_BOTTLENECK,
        citation="""@article{tan2025umamba2,
  title   = {{U-Mamba2}: Scaling State Space Models for Dental Anatomy Segmentation in {CBCT}},
  author  = {Tan, Zhi Qin and Zhu, Xiatian and Addison, Owen and Li, Yunpeng},
  journal = {arXiv preprint arXiv:2509.12069},
  year    = {2025}
}""",
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


def with_twins() -> tuple[Network, ...]:
    """Every network, each followed by its twin."""
    return tuple(kind for n in NETWORKS for kind in (n, n.twin))


def trainers() -> tuple[str, ...]:
    """Trainer names without suffixes, twins included."""
    return tuple(kind.trainer for kind in with_twins())


def planners() -> tuple[str, ...]:
    """Planner names without suffixes, of every size, twins included."""
    return tuple(kind.planner_of(preset) for kind in with_twins() for preset in kind.presets)


def class_names() -> tuple[str, ...]:
    """Every trainer and planner, suffixes left out."""
    return trainers() + planners()
