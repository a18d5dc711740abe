"""The registry names classes; those classes exist and are what the name says."""

from __future__ import annotations

import pickle
import subprocess
import sys
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_mamba import registry, trainer_names


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
    assert trainer_names.parse("nnUNetTrainerSegMambaNoMamba_3epochs_20its") == trainer_names.Variant(
        "nnUNetTrainerSegMambaNoMamba", 3, 20
    )


@pytest.mark.parametrize(
    "name",
    [
        "nnUNetTrainer", "nnUNetTrainer_5epochs", "nnUNetTrainerAdam", "ExperimentPlanner", "",
        "nnUNetTrainerSegMamba_0epochs", "nnUNetTrainerSegMamba_epochs", "nnUNetTrainerUnknown_5epochs",
        "nnUNetTrainerSegMamba_5epochs_0its", "nnUNetPlannerSegMamba_5epochs",
        "nnUNetTrainerSegMamba_lr0", "nnUNetTrainerSegMamba_fg101", "nnUNetTrainerSegMamba_lossFocal",
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


VARIANTS = {
    "nnUNetTrainerSegMamba_lr1e-3": trainer_names.Variant("nnUNetTrainerSegMamba", initial_lr=0.001),
    "nnUNetTrainerSegMamba_lr25e-4_fg66": trainer_names.Variant(
        "nnUNetTrainerSegMamba", initial_lr=0.0025, foreground=0.66
    ),
    "nnUNetTrainerUMambaBotNoMamba_lossDiceTopK10_5epochs": trainer_names.Variant(
        "nnUNetTrainerUMambaBotNoMamba", epochs=5, loss="DiceTopK10"
    ),
    "nnUNetTrainer_fg0_1epoch_2its": trainer_names.Variant("nnUNetTrainer", 1, 2, foreground=0.0),
    "nnUNetTrainerSegMamba_lr1": trainer_names.Variant("nnUNetTrainerSegMamba", initial_lr=1.0),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_suffixes_are_read_and_written(name: str) -> None:
    assert trainer_names.parse(name) == VARIANTS[name]
    assert VARIANTS[name].name == name
    made = _resolve(name)
    assert made.__name__ == name
    assert pickle.loads(pickle.dumps(made)) is made


@given(
    st.sampled_from((None, *trainer_names.LOSSES)),
    st.none() | st.floats(1e-8, 1e3),
    st.none() | st.integers(0, 100),
    st.none() | st.integers(1, 9999),
)
def test_every_setting_survives_its_name(
    loss: str | None, lr: float | None, percent: int | None, epochs: int | None
) -> None:
    foreground = None if percent is None else percent / 100
    variant = trainer_names.Variant("nnUNetTrainerSegMamba", epochs, None, lr, foreground, loss)
    if variant != trainer_names.Variant("nnUNetTrainerSegMamba"):
        assert trainer_names.parse(variant.name) == variant
        assert "__" not in variant.name, "nnU-Net splits folder names there"


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (trainer_names.Variant("x", initial_lr=0.0), "learning rate 0.0; expected a number > 0"),
        (trainer_names.Variant("x", foreground=66.0), "foreground oversampling 66.0; expected a share between 0 and 1"),
        (trainer_names.Variant("x", loss="Focal"), "loss 'Focal'; expected one of Dice, CE"),
    ],
)
def test_settings_that_names_cannot_express(variant: trainer_names.Variant, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _ = variant.name
