"""Recipes and grids that somebody has typed wrong: refused by name, never a traceback, never a night of work."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from nnunet_mamba.cli.main import main
from nnunet_mamba.planning import configurations
from nnunet_mamba.planning.configurations import DatasetPlans
from nnunet_mamba.planning.grid import MOST_VARIANTS, load_grid
from nnunet_mamba.planning.merge_recipe import merge
from nnunet_mamba.planning.recipe_format import check_demo, check_recipe
from nnunet_mamba.planning.recipes import load_recipe
from nnunet_mamba.planning.sweep import derive
from tests.planning.test_configurations import plans

__all__ = ["plans"]  # the fixture

SMALL = {
    "name": "small", "purpose": "p", "source": "s", "differs": ["d"], "network": "SegMamba", "configuration": "3d_x",
    "inherits_from": "3d_fullres", "patch_size": [16, 16, 16], "batch_size": 2,
}  # fmt: skip
TOPOLOGY = {"features_per_stage": [4, 8], "kernel_sizes": [3, 3], "strides": [1, 2]}
GRID = {
    "plans": "nnUNetPlans", "configuration": "3d_fullres", "trainer": "nnUNetTrainer_5epochs",
    "patch_size": [[16, 16, 16]], "batch_size": [2], "foreground_oversampling": [0.33], "initial_lr": [0.01],
    "loss": ["Dice"],
}  # fmt: skip
HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2, 1.5, 1e308, 10**12, float("nan"), float("inf"), "", " ", "x", "a\nb", "../../x",
    "3d_fullres", "a__b", "ü" * 300, [], [[]], {}, {"a": 1}, [None], [True, True, True], [1] * 200, [3, 3], ["16"],
    [16, 16, 16], [0.5], [1e12, 16, 16], [[16, 16, 16]] * 2, ["Dice", 1], "SegMamba", "nnUNetTrainer",
]  # fmt: skip


def _broken(good: dict[str, Any], chance: random.Random) -> Any:
    """A copy with one to three changes: a value, a key, or something inside a value."""
    made = copy.deepcopy(good)
    for _ in range(chance.randint(1, 3)):
        key = chance.choice(list(made) or ["name"])
        value, what = made.get(key), chance.random()
        if what < 0.12:
            made.pop(key, None)
        elif what < 0.2:
            made[key.replace("e", "", 1)] = value
        elif what < 0.55 and isinstance(value, list) and value:
            value[chance.randrange(len(value))] = chance.choice(HOSTILE)
        elif what < 0.6 and isinstance(value, dict) and value:
            value[chance.choice(list(value))] = chance.choice(HOSTILE)
        else:
            made[key] = chance.choice(HOSTILE)
    return made


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizing takes seconds a variant and sees only what has passed the checks."""
    monkeypatch.setattr(configurations.DatasetPlans, "memory", lambda self, made: 10**9)


@pytest.mark.parametrize("seed", range(4))
def test_hostile_recipes(seed: int, tmp_path: Path, plans: DatasetPlans, cheap: None) -> None:
    chance = random.Random(seed)
    refused = merged = 0
    for _ in range(150):
        good = {**SMALL, "topology": TOPOLOGY} if chance.random() < 0.5 else {**SMALL, "base_features": 4}
        path = tmp_path / "r.json"
        path.write_text(json.dumps(_broken(good, chance)))
        try:
            made = merge(load_recipe(path), plans)
        except ValueError:
            refused += 1
        else:
            merged += 1
            assert all(type(v) is int for v in (*made.configuration["patch_size"], made.configuration["batch_size"]))
            assert "/" not in made.name
            assert "__" not in made.name
    assert refused > 100
    assert merged > 2, "harmless changes pass"


@pytest.mark.parametrize("seed", range(4))
def test_hostile_grids(seed: int, tmp_path: Path, plans: DatasetPlans, cheap: None) -> None:
    chance = random.Random(seed)
    refused = derived = 0
    for _ in range(150):
        path = tmp_path / "g.json"
        path.write_text(json.dumps(_broken(GRID, chance)))
        try:
            made = derive(load_grid(path), plans)
        except ValueError:
            refused += 1
        else:
            derived += 1
            assert len(made.variants) <= MOST_VARIANTS
            assert all(type(c["batch_size"]) is int for c in made.configurations.values())
    assert refused > 75
    assert derived > 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_featurs": 16}, "recipe small: unknown base_featurs; allowed: name, .*Did you mean base_features"),
        ({"batch_size": 1.5}, r"recipe small: batch_size 1\.5; expected a whole number from 1 to 1024"),
        ({"batch_size": True}, "batch_size True; expected a whole number"),
        ({"configuration": "../../x"}, r"configuration '../../x'; expected letters, digits"),
        ({"configuration": None}, "configuration None; expected letters"),
        ({"configuration": True}, "configuration True; expected letters"),
        ({"configuration": "a\nb"}, r"configuration 'a\\nb'; expected letters"),
        ({"configuration": "3d__x"}, "configuration '3d__x'; expected letters, digits, single underscores"),
        ({"patch_size": [4096, 16, 16]}, r"patch_size \[4096, 16, 16\]; expected 2 or 3 whole numbers from 1 to 1024"),
        ({"differs": "all"}, "differs all; expected a list of texts"),
        ({"network": ["SegMamba"]}, "expected one of SegMamba, SegMambaV2"),
        ({"topology": {**TOPOLOGY, "strides": [2] * 200}}, "small: topology: strides .*at most 10 whole numbers"),
        ({"topology": {**TOPOLOGY, "stride": [1]}}, "topology: unknown stride; allowed.*Did you mean strides"),
        ({"topology": {**TOPOLOGY, "strides": [1]}}, "topology needs as many kernel_sizes and strides as widths, 2"),
        ({"topology": TOPOLOGY, "base_features": 4}, "base_features: topology has the widths already"),
    ],
)  # fmt: skip
def test_a_recipe_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    check_recipe(SMALL)
    with pytest.raises(ValueError, match=message):
        check_recipe({**SMALL, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": [True]}, "batch_size True; expected whole numbers > 0"),
        ({"batch_size": [10**12]}, "batch_size 1000000000000; expected whole numbers > 0, at most 1024"),
        ({"batch_size": [2, 2]}, "batch_size 2 is there twice"),
        ({"initial_lr": ["0.01"]}, "initial_lr '0.01'; expected a number"),
        ({"initial_lr": [float("inf")]}, "initial_lr inf; expected a number"),
        ({"foreground_oversampling": [True]}, "foreground_oversampling True; expected a share"),
        ({"patch_size": [16, 16, 16]}, "patch_size 16; expected 2 or 3 whole numbers"),
        ({"configuration": "../x"}, "configuration: '../x'; expected a name"),
        ({"plans": 3}, "plans: 3; expected a name"),
        ({"purpose": 3}, "purpose: 3; expected a text"),
        ({"patchsize": [1]}, "unknown patchsize; allowed: .*Did you mean patch_size"),
        (
            {"patch_size": [[8 * n] * 3 for n in range(1, 20)], "batch_size": list(range(1, 9)),
             "loss": ["Dice", "CE", "TopK10"], "initial_lr": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]},
            r"3192 variants \(19 patch_size x 8 batch_size x 1 foreground_oversampling x 7 initial_lr x 3 loss\); at "
            "most 200",
        ),
    ],
)  # fmt: skip
def test_a_grid_is_refused_by_name(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    path.write_text(json.dumps(GRID))
    assert load_grid(path) == GRID
    path.write_text(json.dumps({**GRID, **change}))
    with pytest.raises(ValueError, match=message):
        load_grid(path)


@pytest.mark.parametrize("change", [{"patch_size": [4, 4, 4]}, {"topology": {k: v[:1] for k, v in TOPOLOGY.items()}}])
def test_a_single_stage_is_refused(change: dict[str, Any], plans: DatasetPlans) -> None:
    """nnU-Net's deep supervision needs two"""
    with pytest.raises(ValueError, match=r"too small, .* a single stage; use at least 8 voxels|topology has 1 stage"):
        merge({**SMALL, **change}, plans)


@pytest.mark.parametrize(("number", "passes"), [(MOST_VARIANTS, True), (MOST_VARIANTS + 1, False)])
def test_the_number_of_variants_is_bounded(number: int, passes: bool, tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    path.write_text(json.dumps({**GRID, "batch_size": list(range(1, number + 1))}))
    if passes:
        assert len(load_grid(path)["batch_size"]) == number
    else:
        with pytest.raises(ValueError, match=f"{number} variants .*at most {MOST_VARIANTS}"):
            load_grid(path)


def test_two_shares_of_one_name_are_one_training(plans: DatasetPlans, cheap: None) -> None:
    with pytest.raises(
        ValueError, match=r"foreground_oversampling 0\.333 and 0\.334: both are nnUNetTrainer_lr1e-2_fg33"
    ):
        derive({**GRID, "foreground_oversampling": [0.333, 0.334]}, plans)


@pytest.mark.parametrize("content", ["", "[]", "3", "null", "{", '{"name": NaN', "[" * 100_000, "\x00"])
def test_files_that_are_no_objects(content: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(content)
    for load in (load_recipe, load_grid):
        with pytest.raises(ValueError, match=r"r\.json: "):
            load(path)
    with pytest.raises(ValueError, match="no recipe"):
        load_recipe("x" * 5000)


def test_recipes_of_the_demo() -> None:
    good = load_recipe("hippocampus_demo")
    check_demo(good)
    for change, message in (
        ({"cpu": {**good["cpu"], "training": "0epochs"}}, "cpu: training 0epochs; expected suffixes as in"),
        ({"cpu": {**good["cpu"], "widths": 1}}, "cpu: unknown widths"),
        ({"gpu": None}, "gpu None; expected an object"),
        ({"gpu": {**good["gpu"], "inherits_from": "2d"}}, "gpu: batch_size, base_features, .* missing, which belong"),
    ):
        with pytest.raises(ValueError, match=message):
            check_demo({**good, **change})


def test_recipes_for_plans_are_listed_with_their_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan-from-recipe"]) == 0
    text = capsys.readouterr().out
    assert "segmamba_brats: SegMamba as published" in text
    assert "hippocampus_demo" not in text, "it would be refused"
    assert "base_features (may be left out): " in text
