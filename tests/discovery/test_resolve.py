"""What the wrapped look-up answers, in process, with a stand-in for nnU-Net's function."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

from nnunet_mamba.discovery import benchmark, resolve


def _module(**attributes) -> types.ModuleType:
    module = types.ModuleType("stand_in")
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def _lookup():
    """A wrapped look-up that answers everything else with what it was called with."""

    def recursive_find_python_class(folder, class_name, current_module, base_folder=None, verbose=False):
        return (folder, class_name, current_module, base_folder, verbose)

    module = _module(recursive_find_python_class=recursive_find_python_class)
    resolve.wrap_lookup(module)
    return module.recursive_find_python_class


@pytest.fixture
def trainers(tmp_path: Path) -> str:
    folder = tmp_path / "nnUNetTrainer"
    (folder / "variants").mkdir(parents=True)
    return str(folder)


def test_our_names_resolve_and_others_pass_unchanged(trainers: str) -> None:
    find = _lookup()
    assert find(trainers, "nnUNetTrainerSegMamba", "x").__name__ == "nnUNetTrainerSegMamba"
    assert find("f", "DefaultPreprocessor", "m", "b", verbose=True) == ("f", "DefaultPreprocessor", "m", "b", True)
    assert find(trainers, "nnUNetTrainerAdam", "m") == (trainers, "nnUNetTrainerAdam", "m", None, False)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("nnUNetTrainerSegmamba", "nnUNetTrainerSegMamba"),
        ("nnUNetTrainerSegmamba_5epochs", "nnUNetTrainerSegMamba_5epochs"),
        ("nnUNetTrainerSegMamab_2epochs_3its", "nnUNetTrainerSegMamba_2epochs_3its"),
        ("nnunettrainersegmambanomamba", "nnUNetTrainerSegMambaNoMamba"),
        ("nnUNetTrainerSegmamba_Mamba2_Conv3d", "nnUNetTrainerSegMamba_Mamba2_Conv3d"),
        ("nnUNetTrainerUmamba2", "nnUNetTrainerUMamba2"),
        ("SegMamba", "nnUNetTrainerSegMamba"),
        ("nnUNetTrainerSegMambaPlus", "nnUNetTrainerSegMamba"),  # similarity 0.8
    ],
)
def test_misspelt_trainers(trainers: str, given: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"'{given}' is not known .* Did you mean {meant}\?"):
        _lookup()(trainers, given, "m")


@pytest.mark.parametrize(
    "name", ["nnUNetTrainerVMamba", "nnUNetTrainerMambaUNet", "nnUNetTrainerSwinUMamba", "nnUNetTrainerEncoder"]
)
def test_a_name_that_resembles_ours_a_little_is_somebody_elses(trainers: str, name: str) -> None:
    """Similarities of 0.67 to 0.74"""
    assert _lookup()(trainers, name, "m") == (trainers, name, "m", None, False)


def test_suffixes_matter_where_trainers_are_looked_up() -> None:
    given = ("/somewhere/preprocessing", "nnUNetTrainerSegMamba_x", "m")
    assert _lookup()(*given)[:2] == given[:2]


def test_a_suffix_that_is_written_otherwise_is_told_apart_from_their_order(trainers: str) -> None:
    with pytest.raises(ValueError, match="this one is written nnUNetTrainerSegMamba_1epoch_5its"):
        _lookup()(trainers, "nnUNetTrainerSegMamba_1epochs_5its", "m")
    with pytest.raises(ValueError, match=r"the suffixes have an order.*: nnUNetTrainerSegMamba_bf16_5epochs"):
        _lookup()(trainers, "nnUNetTrainerSegMamba_5epochs_bf16", "m")
    with pytest.raises(ValueError, match="_asReleased is the released training of SegMamba"):
        _lookup()(trainers, "nnUNetTrainerLightMUNet_asReleased_1epochs", "m")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("nnUNetPlannerSegmamba", "nnUNetPlannerSegMamba"),
        ("nnUNetPlannerSegmamba_Mamba2_torchres", "nnUNetPlannerSegMamba_Mamba2_torchres"),
        ("nnUNetPlannerUMamba2M", "nnUNetPlannerUMamba2"),
        ("nnUNetPlannerUmamba2XL_torchres", "nnUNetPlannerUMamba2XL_torchres"),
    ],
)
def test_misspelt_planner(given: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"Did you mean {meant}\?"):
        _lookup()("/somewhere/experiment_planning", given, "m")


def test_unknown_suffixes_of_planners_are_named() -> None:
    with pytest.raises(ValueError, match=r"_torchress is not a suffix of our planners; expected _Mamba2, .*_torchres"):
        _lookup()("/somewhere/experiment_planning", "nnUNetPlannerSegMamba_torchress", "m")


def test_a_similar_name_that_somebody_defines_passes(
    trainers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path(trainers) / "variants" / "mine.py").write_text("class nnUNetTrainerSegMambaX(object):\n    pass\n")
    assert _lookup()(trainers, "nnUNetTrainerSegMambaX", "m")[1] == "nnUNetTrainerSegMambaX"
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "t.py").write_text("nnUNetTrainerSegMambaY = object\n")
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "theirs"))
    assert _lookup()(trainers, "nnUNetTrainerSegMambaY", "m")[1] == "nnUNetTrainerSegMambaY"


def test_wrapping_twice_changes_nothing() -> None:
    module = _module(recursive_find_python_class=_lookup())
    before = module.recursive_find_python_class
    resolve.wrap_lookup(module)
    assert module.recursive_find_python_class is before


@pytest.mark.parametrize("attributes", [{}, {"recursive_find_python_class": lambda name: None}])
def test_a_changed_nnunet_is_reported_with_the_second_way(attributes: dict) -> None:
    with pytest.warns(UserWarning, match="nnUNet_extTrainer="):
        resolve.wrap_lookup(_module(**attributes))


def test_second_way_is_a_folder_with_one_file() -> None:
    assert [p.name for p in resolve.SECOND_WAY.glob("*.py")] == ["nnunet_mamba_trainers.py"]


def test_benchmark_measures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(benchmark, "RUNS", 2)
    benchmark.main()
    assert "the hook costs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "nnUNetTrainerSegMamba_lossFocal",
            "_lossFocal is not a suffix of our trainers; expected _Mamba2, _SameSize, _Conv3d, _AdamW",
        ),
        ("nnUNetTrainerSegMamba_5epochs_lr1e-3", "so that one training has one name: nnUNetTrainerSegMamba_lr1e-3_5ep"),
        ("nnUNetTrainer_5epochs_AdamW", "one name: nnUNetTrainer_AdamW_5epochs"),
        ("nnUNetTrainerSegMamba_20its", "_its without a number of epochs"),
        ("nnUNetTrainerSegMamba_fg10_fg20", "a suffix stands twice"),
        ("nnUNetTrainerUMambaBot_asReleased", "is the released training of SegMamba"),
        ("nnUNetTrainerSegMamba_stop9_5epochs", "never stops a training of 5"),
    ],
)
def test_wrong_suffixes_are_refused_by_name(trainers: str, given: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"{given}: .*{message}.*nnunet-mamba list --trainers"):
        _lookup()(trainers, given, "m")


def test_suffixes_of_others_are_theirs(trainers: str) -> None:
    find = _lookup()
    for name in ("nnUNetTrainer_onlyMirror01", "nnUNetTrainer_5epochs"):
        assert find(trainers, name, "m") == (trainers, name, "m", None, False)
    text = "class nnUNetTrainerSegMamba_lossFocal: ..."
    (Path(trainers) / "variants" / "mine.py").write_text(text + "\nclass nnUNetTrainer_250epochs_NoMirroring: ...\n")
    for name in ("nnUNetTrainerSegMamba_lossFocal", "nnUNetTrainer_250epochs_NoMirroring"):
        assert find(trainers, name, "m")[1] == name


def test_label_managers_with_thresholds_are_found() -> None:
    made = _lookup()("label_handling", "LabelManagerThresholds_300_500", "m")
    assert made.thresholds == (0.3, 0.5)
