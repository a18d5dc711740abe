"""The networks are found at the top of the package, say what they are given, and cost nothing until they are used."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nnunet_mamba
from nnunet_mamba.architectures.planned import PlannedNetwork
from nnunet_mamba.names import networks


@pytest.mark.parametrize("record", networks.NETWORKS, ids=lambda r: r.name)
def test_every_network_is_at_the_top_and_documents_its_arguments(record: networks.Network) -> None:
    network = getattr(nnunet_mamba, record.name)
    assert network is record.load_architecture()
    assert record.name in nnunet_mamba.__all__
    assert record.name in dir(nnunet_mamba)
    texts = [inspect.getdoc(c) or "" for c in network.__mro__ if issubclass(c, PlannedNetwork)]
    assert any("see PlannedNetwork" in text for text in texts[:-1])
    common = set(inspect.signature(PlannedNetwork.__init__).parameters) - {"self"}
    assert not [keyword for keyword in common if not re.search(rf"\b{keyword}\b[^.]*:", texts[-1])]
    own = set(network.keywords()) - common
    assert not [keyword for keyword in own if not any(f"`{keyword}`" in text for text in texts[:-1])]


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Segmamba'"):
        nnunet_mamba.Segmamba  # noqa: B018


def test_the_package_stays_cheap() -> None:
    code = (
        "import sys; before = set(sys.modules); import nnunet_mamba\n"
        "new = {m.split('.')[0] for m in set(sys.modules) - before}\n"
        "assert new <= {'nnunet_mamba'}, new\n"
        "assert 'nnunet_mamba.names' not in sys.modules\n"
        "from nnunet_mamba import SegMamba; assert 'torch' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_hints_are_shipped() -> None:
    root = Path(nnunet_mamba.__file__).parent
    assert (root / "py.typed").is_file()
    assert (root.parent / "dataset_conversion" / "py.typed").is_file()


def test_prediction_and_metrics_cost_nothing_until_they_are_used() -> None:
    code = (
        "import sys, nnunet_mamba\n"
        "assert {'predict', 'metrics'} <= set(dir(nnunet_mamba))\n"
        "assert not {m for m in sys.modules if m.split('.')[0] in ('torch', 'numpy', 'nnunetv2', 'SimpleITK')}\n"
        "assert nnunet_mamba.metrics.dice([[1, 0]], [[1, 1]]) == 2 / 3\n"
        "assert callable(nnunet_mamba.predict)\n"
        "from nnunet_mamba import metrics, predict"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
