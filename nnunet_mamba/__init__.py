"""Mamba segmentation networks for stock nnU-Net v2.

Importing this package makes its trainers and planners known to nnU-Net in this process; an installed package does so in
every process by itself (see `nnunet_mamba.discovery`). The networks are here too, `from nnunet_mamba import SegMamba`,
`predict` and `metrics`; torch is imported with the first of them.
"""

from nnunet_mamba.discovery import hook
from nnunet_mamba.version import __version__

TYPE_CHECKING = False  # without typing, which would cost more than the rest
if TYPE_CHECKING:
    from nnunet_mamba import metrics
    from nnunet_mamba.architectures.lightmunet import LightMUNet
    from nnunet_mamba.architectures.mamba_encoder import MambaEncoder
    from nnunet_mamba.architectures.segmamba import SegMamba
    from nnunet_mamba.architectures.segmamba_v2 import SegMambaV2
    from nnunet_mamba.architectures.segresmamba import SegResMamba
    from nnunet_mamba.architectures.umamba import UMambaBot, UMambaEnc
    from nnunet_mamba.architectures.umamba2 import UMamba2
    from nnunet_mamba.prediction.one_image import predict

__all__ = [
    "LightMUNet",
    "MambaEncoder",
    "SegMamba",
    "SegMambaV2",
    "SegResMamba",
    "UMamba2",
    "UMambaBot",
    "UMambaEnc",
    "__version__",
    "metrics",
    "predict",
]

hook.install()


def __getattr__(name):  # pyright: ignore[reportMissingParameterType]
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "metrics":
        from importlib import import_module

        return import_module("nnunet_mamba.metrics")
    if name == "predict":
        from nnunet_mamba.prediction.one_image import predict

        return predict
    from nnunet_mamba.names import networks

    return networks.network(name).load_architecture()


def __dir__():
    return sorted({*globals(), *__all__})
