"""Names stand for classes; those classes exist and are what the name says."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_mamba import planning, trainers
from nnunet_mamba.names import networks, planners, suffixes
from nnunet_mamba.names.locate import locate, refuse_misspelt


def _resolve(class_name: str) -> type:
    place = locate(class_name)
    assert place is not None, class_name
    module, attribute = place.split(":")
    return getattr(import_module(module), attribute)


@pytest.mark.parametrize("name", networks.class_names())
def test_every_name_resolves_to_a_class_of_that_name(name: str) -> None:
    made = _resolve(name)
    assert made.__name__ == made.__qualname__ == name
    assert repr(made) == f"<class '{made.__module__}.{name}'>"
    assert getattr(import_module(made.__module__), name) is made
    assert made.__doc__ == made.mamba_network.summary  # type: ignore[attr-defined]


def test_a_package_lists_the_names_it_stands_for_and_has_no_others() -> None:
    assert set(networks.trainers()) <= set(dir(trainers))
    assert set(networks.planners()) <= set(dir(planning))
    for module, name in (
        (trainers, "nnUNetPlannerSegMamba"),
        (planning, "nnUNetTrainerSegMamba"),
        (trainers, "safest"),
    ):
        with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute '{name}'"):
            getattr(module, name)


def test_a_record_is_all_that_the_names_of_a_network_need(monkeypatch: pytest.MonkeyPatch) -> None:
    record = replace(networks.network("SegMamba"), name="Other", title="Other", summary="another one")
    monkeypatch.setattr(networks, "NETWORKS", (*networks.NETWORKS, record))
    twin = {"nnUNetTrainerOtherNoMamba", "nnUNetPlannerOtherNoMamba", "nnUNetTrainerOtherNoMamba_5epochs"}
    for name in ("nnUNetTrainerOther", "nnUNetPlannerOther", "nnUNetTrainerOther_AdamW_5epochs", *twin):
        made = _resolve(name)
        assert made.mamba_network == (record.twin if name in twin else record), name  # type: ignore[attr-defined]
        assert made.__doc__
        delattr(import_module(made.__module__), name)
    assert {"nnUNetTrainerOther", "nnUNetTrainerOtherNoMamba"} <= set(dir(trainers))


def test_a_suffix_explains_itself() -> None:
    text = _resolve("nnUNetTrainer_AdamW_5epochs_2its").__doc__
    assert text is not None
    assert "nnUNetTrainer with\n_AdamW: " in text
    assert "\n_5epochs: length in epochs" in text


PICKLED = (
    "nnUNetTrainerSegMamba", "nnUNetTrainerUMambaBotNoMamba", "nnUNetTrainerSegMamba_AdamW_bf16_lossClDice_5epochs",
    "nnUNetTrainer_5epochs_20its", "nnUNetPlannerSegMamba", "nnUNetPlannerLightMUNetNoMamba",
    "LabelManagerThresholds_420_500",
)  # fmt: skip


def test_pickled_classes_are_found_in_a_new_process(tmp_path: Path) -> None:
    (tmp_path / "classes.pkl").write_bytes(pickle.dumps([_resolve(name) for name in PICKLED]))
    code = "import pickle, sys; print(*(c.__name__ for c in pickle.load(open(sys.argv[1], 'rb'))))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "classes.pkl")], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == list(PICKLED), done.stderr


@pytest.mark.parametrize("record", networks.NETWORKS, ids=lambda r: r.name)
def test_every_architecture_exists_and_is_cited(record: networks.Network) -> None:
    module, _, attribute = record.architecture.rpartition(".")
    assert getattr(import_module(module), attribute).__name__ == attribute
    if record.url:
        assert record.url.startswith("https://")
        assert record.citation.startswith("@")
    else:
        assert "our own definition" in record.summary


@pytest.mark.parametrize("epochs", [1, 5, 250, 1001])
def test_length_suffixes_resolve_and_pickle_by_reference(epochs: int) -> None:
    suffix = "_1epoch" if epochs == 1 else f"_{epochs}epochs"
    made = _resolve(f"nnUNetTrainerSegMamba{suffix}")
    assert made.__name__ == f"nnUNetTrainerSegMamba{suffix}"
    assert issubclass(made, _resolve("nnUNetTrainerSegMamba"))
    assert pickle.loads(pickle.dumps(made)) is made


def test_iteration_suffix_is_read() -> None:
    assert suffixes.parse("nnUNetTrainerSegMambaNoMamba_3epochs_20its") == suffixes.TrainerName(
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
    assert locate(name) is None


def test_names_import_no_torch() -> None:
    modules = "names.architecture_entry, nnunet_mamba.names.classes, nnunet_mamba.trainers, nnunet_mamba.planning"
    code = f"import sys, nnunet_mamba.{modules}; sys.exit('torch' in sys.modules or 'nnunetv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("record", networks.NETWORKS, ids=lambda r: r.name)
def test_mixers_are_suffixes_of_trainers_and_planners(record: networks.Network) -> None:
    mixers = {"_SameSize": ("conv", False), "_Conv3d": (None, True)}
    if record.published_mixer != "mamba2":
        mixers |= {"_Mamba2": ("mamba2", False), "_Mamba2_Conv3d": ("mamba2", True)}
    for suffix, (mixer, conv3d) in mixers.items():
        for name in (record.trainer + suffix, record.planner + suffix, f"{record.planner}{suffix}_torchres"):
            made = _resolve(name)
            assert made.__name__ == name
            assert made.mamba_network == replace(record, mixer=mixer, conv3d=conv3d)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", networks.with_twins(), ids=lambda r: r.name)
def test_planners_are_named_as_nnunets(kind: networks.Network) -> None:
    for preset in kind.presets:
        name = f"{kind.planner_of(preset)}_torchres"
        made = _resolve(name)
        assert made.default_plans_name() == f"{kind.plans_of(preset)}_torchres"  # type: ignore[attr-defined]
        assert planners.of_plans(f"{kind.plans_of(preset)}_torchres") == name
        assert planners.of_plans(kind.plans_of(preset)) == kind.planner_of(preset)
    assert planners.of_plans("nnUNetPlans") is None
    assert planners.of_plans(f"{kind.plans}_other") is None


IMPOSSIBLE = {
    "nnUNetTrainerSegMambaNoMamba_Mamba2": "nnUNetTrainerSegMambaNoMamba has no Mamba layers that _Mamba2 could change",
    "nnUNetTrainerSegMambaNoMamba_SameSize": "it goes with nnUNetTrainerSegMamba",
    "nnUNetTrainerSegMambaNoMamba_Conv3d": "has no Mamba layers that _Conv3d could change",
    "nnUNetTrainerSegMamba_Mamba2_SameSize": "_Mamba2 and _SameSize both say what stands in the place",
    "nnUNetTrainerSegMamba_SameSize_Mamba2": "_Mamba2 and _SameSize both say what stands in the place",
    "nnUNetTrainerSegMamba_SameSize_Conv3d": "no scan that _Conv3d could change; leave _Conv3d out",
    "nnUNetTrainerUMamba2_Mamba2": "U-Mamba2 has what _Mamba2 asks for as published; leave it out",
    "nnUNetTrainer_Mamba2": "_Mamba2 changes the layers of our networks; nnUNetTrainer has none of them",
    "nnUNetTrainerSegMamba_Conv3d_Mamba2": "one training has one name: nnUNetTrainerSegMamba_Mamba2_Conv3d",
    "nnUNetPlannerSegMambaNoMamba_Mamba2": "has no Mamba layers that _Mamba2 could change",
    "nnUNetPlannerSegMamba_SameSize_Conv3d": "no scan that _Conv3d could change",
    "nnUNetPlannerSegMamba_torchres_Mamba2": "one plan has one name: nnUNetPlannerSegMamba_Mamba2_torchres",
    "nnUNetPlannerSegMamba_5epochs": "_5epochs is not a suffix of our planners; expected _Mamba2, _SameSize, _Conv3d",
    "nnUNetPlannerSegMamba_Mamba2_Mamba2": "a suffix stands twice",
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_combinations_are_refused_in_a_sentence(name: str) -> None:
    assert locate(name) is None
    folder = "nnUNetTrainer" if "Trainer" in name else "experiment_planning"
    with pytest.raises(ValueError, match=IMPOSSIBLE[name]):
        refuse_misspelt(folder, name)


def test_unknown_network_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="SegMamba"):
        networks.network("Segmamba")


TRAINER_NAMES = {
    "nnUNetTrainerSegMamba_lr1e-3": suffixes.TrainerName("nnUNetTrainerSegMamba", initial_lr=0.001),
    "nnUNetTrainerSegMamba_lr25e-4_fg66": suffixes.TrainerName(
        "nnUNetTrainerSegMamba", initial_lr=0.0025, foreground=0.66
    ),
    "nnUNetTrainerUMambaBotNoMamba_lossDiceTopK10_5epochs": suffixes.TrainerName(
        "nnUNetTrainerUMambaBotNoMamba", epochs=5, loss="DiceTopK10"
    ),
    "nnUNetTrainer_fg0_1epoch_2its": suffixes.TrainerName("nnUNetTrainer", 1, 2, foreground=0.0),
    "nnUNetTrainerSegMamba_lr1": suffixes.TrainerName("nnUNetTrainerSegMamba", initial_lr=1.0),
}


@pytest.mark.parametrize("name", TRAINER_NAMES)
def test_suffixes_are_read_and_written(name: str) -> None:
    assert suffixes.parse(name) == TRAINER_NAMES[name]
    assert TRAINER_NAMES[name].name == name
    made = _resolve(name)
    assert made.__name__ == name
    assert pickle.loads(pickle.dumps(made)) is made


@given(
    st.sampled_from((None, *suffixes.LOSSES)),
    st.none() | st.floats(1e-8, 1e3),
    st.none() | st.integers(0, 100),
    st.none() | st.integers(1, 9999),
)
def test_every_setting_survives_its_name(
    loss: str | None, lr: float | None, percent: int | None, epochs: int | None
) -> None:
    foreground = None if percent is None else percent / 100
    parts = suffixes.TrainerName("nnUNetTrainerSegMamba", epochs, None, lr, foreground, loss)
    if parts != suffixes.TrainerName("nnUNetTrainerSegMamba"):
        assert suffixes.parse(parts.name) == parts
        assert "__" not in parts.name, "nnU-Net splits folder names there"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (suffixes.TrainerName("x", initial_lr=0.0), "learning rate 0.0; expected a number > 0"),
        (suffixes.TrainerName("x", foreground=66.0), "foreground oversampling 66.0; expected a share between 0 and 1"),
        (suffixes.TrainerName("x", loss="Focal"), "loss 'Focal'; expected one of Dice, CE"),
    ],
)
def test_settings_that_names_cannot_express(parts: suffixes.TrainerName, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _ = parts.name


def test_suffixes_are_added_in_the_order_that_names_have() -> None:
    assert suffixes.extended("nnUNetTrainer", "5epochs") == "nnUNetTrainer_5epochs"
    longer = suffixes.extended("nnUNetTrainerSegMamba_Mamba2", "4epochs_50its_NoMirroring_lr3e-3_AdamW")
    assert longer == "nnUNetTrainerSegMamba_Mamba2_AdamW_lr3e-3_NoMirroring_4epochs_50its"


@pytest.mark.parametrize(
    ("trainer", "more", "message"),
    [
        ("nnUNetTrainer", "AdamV_5epochs", "_AdamV: no suffixes"),
        ("nnUNetTrainer_5epochs", "6epochs", "nnUNetTrainer_5epochs_6epochs: no suffixes"),
        ("nnUNetTrainer", "50its", "nnUNetTrainer_50its: no suffixes"),
        ("nnUNetTrainer", "Mamba2", "has none of them"),
    ],
)
def test_suffixes_that_cannot_be_added(trainer: str, more: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suffixes.extended(trainer, more)
