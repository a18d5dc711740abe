"""The registry names classes; those classes exist and are what the name says."""

from __future__ import annotations

import pickle
import subprocess
import sys
from importlib import import_module

import pytest

from nnunet_mamba import registry


def _resolve(class_name: str) -> type:
    place = registry.locate(class_name)
    assert place is not None, class_name
    module, attribute = place.split(":")
    return getattr(import_module(module), attribute)


@pytest.mark.parametrize("name", registry.class_names())
def test_every_name_resolves_to_a_class_of_that_name(name: str) -> None:
    assert _resolve(name).__name__ == name


@pytest.mark.parametrize("record", registry.NETWORKS, ids=lambda r: r.name)
def test_every_architecture_exists_and_is_cited(record: registry.Network) -> None:
    module, _, attribute = record.architecture.rpartition(".")
    assert getattr(import_module(module), attribute).__name__ == attribute
    if record.url:
        assert record.url.startswith("https://")
        assert record.citation.startswith("@")
    else:
        assert "our own definition" in record.summary


@pytest.mark.parametrize("epochs", registry.LENGTHS)
def test_length_suffixes_resolve_and_pickle_by_reference(epochs: int) -> None:
    suffix = "_1epoch" if epochs == 1 else f"_{epochs}epochs"
    made = _resolve(f"nnUNetTrainerSegMamba{suffix}")
    assert made.__name__ == f"nnUNetTrainerSegMamba{suffix}"
    assert issubclass(made, _resolve("nnUNetTrainerSegMamba"))
    assert pickle.loads(pickle.dumps(made)) is made


def test_iteration_suffix_is_read() -> None:
    assert registry.parse_length("nnUNetTrainerSegMambaNoMamba_3epochs_20its") == registry.Length(
        "nnUNetTrainerSegMambaNoMamba", 3, 20
    )


@pytest.mark.parametrize(
    "name",
    [
        "nnUNetTrainer", "nnUNetTrainer_5epochs", "nnUNetTrainerAdam", "ExperimentPlanner", "",
        "nnUNetTrainerSegMamba_0epochs", "nnUNetTrainerSegMamba_epochs", "nnUNetTrainerUnknown_5epochs",
        "nnUNetTrainerSegMamba_5epochs_0its", "nnUNetPlannerSegMamba_5epochs",
    ],
)  # fmt: skip
def test_names_of_others_are_left_alone(name: str) -> None:
    assert registry.locate(name) is None


def test_registry_imports_no_torch() -> None:
    code = "import sys, nnunet_mamba.registry; sys.exit('torch' in sys.modules or 'nnunetv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_network_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="SegMamba"):
        registry.network("Segmamba")
