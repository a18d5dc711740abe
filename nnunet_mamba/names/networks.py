"""The networks there are: one frozen record each, from which all names that nnU-Net knows are derived."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

NO_MAMBA = "NoMamba"


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
    mixer: str = "mamba"
    """ "none" for a twin."""

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
    """Planner names, twins included."""
    return tuple(kind.planner for kind in with_twins())


def class_names() -> tuple[str, ...]:
    """Every trainer and planner, suffixes left out."""
    return trainers() + planners()
