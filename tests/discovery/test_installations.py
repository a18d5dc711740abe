"""However our package and nnU-Net are installed, nnU-Net's own look-ups find our classes and keep finding its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.discovery.conftest import DEPENDENCIES, ROOT, Environment

LOOKUPS = """
import multiprocessing, os, pickle, sys, tempfile

import pytest
for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ[name] = tempfile.mkdtemp()

def trainer_name(pickled):
    return pickle.loads(pickled).__name__

def main():
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as trainer
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    import nnunetv2, nnunet_mamba
    print("nnunet_mamba", nnunet_mamba.__file__)
    print("nnunetv2", nnunetv2.__file__)
    for name in ("nnUNetTrainerSegMamba", "nnUNetTrainerSegMambaNoMamba", "nnUNetTrainerSegMamba_5epochs",
                 "nnUNetTrainerSegMambaNoMamba_3epochs_20its", "nnUNetTrainer_3epochs_20its"):
        assert trainer(name).__name__ == name, name
    # as nnUNetv2_plan_experiment -pl and nnUNetv2_plan_and_preprocess -pl do it
    folder = os.path.join(nnunetv2.__path__[0], "experiment_planning")
    package = "nnunetv2.experiment_planning"
    planner = api.recursive_find_python_class(folder, "nnUNetPlannerSegMamba", current_module=package)
    assert planner.__name__ == "nnUNetPlannerSegMamba"
    plans = {"experiment_planner_used": "nnUNetPlannerSegMambaNoMamba", "configurations": {}}
    assert PlansManager(plans).experiment_planner_class.__name__ == "nnUNetPlannerSegMambaNoMamba"
    # nnU-Net's own are still its own
    assert trainer("nnUNetTrainer").__module__.startswith("nnunetv2.")
    own = api.recursive_find_python_class(folder, "ExperimentPlanner", current_module=package)
    assert own.__module__.startswith("nnunetv2.")
    assert "timm" not in sys.modules, "our names must not make nnU-Net import all its trainers"
    # nnU-Net's workers are spawned: they start afresh and get classes by reference
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        name = "nnUNetTrainerSegMamba_7epochs"
        assert pool.apply(trainer_name, (pickle.dumps(trainer(name)),)) == name
    print("all found")

if __name__ == "__main__":
    main()
"""


def _look_up(environment: Environment) -> str:
    script = environment.root / "lookups.py"  # a file, because spawned workers import it
    script.write_text(LOOKUPS)
    output = environment.run(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')")
    assert "all found" in output
    return output


def test_regular_install_and_uninstall(environment: Environment, wheel: Path) -> None:
    before = environment.files()
    environment.pip("install", "--no-deps", wheel)
    output = _look_up(environment)
    assert f"nnunet_mamba {environment.site_packages}" in output
    environment.pip("uninstall", "-y", "nnunet-mamba")
    assert environment.files() == before


def test_editable_install(environment: Environment, tmp_path: Path) -> None:
    source = tmp_path / "source"
    kept_out = shutil.ignore_patterns(".git", ".venv*", "__pycache__", "tests", "demo_out", ".*_cache")
    shutil.copytree(ROOT, source, ignore=kept_out)
    before = environment.files()
    environment.pip("install", "--no-deps", "--no-build-isolation", "-e", source)
    assert f"nnunet_mamba {source}" in _look_up(environment)
    environment.pip("uninstall", "-y", "nnunet-mamba")
    assert environment.files() == before


def test_editable_nnunet(environment: Environment, wheel: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "nnunet"
    shutil.copytree(DEPENDENCIES / "nnunetv2", checkout / "nnunetv2", ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "nnunetv2"\nversion = "2.8.1"\n'
        '[tool.hatch.build.targets.wheel]\npackages = ["nnunetv2"]\n'
    )
    # before the path of the dependencies, which hold a regular nnU-Net too
    (environment.site_packages / "a_checkout.pth").write_text(f"{checkout}\n")
    environment.pip("install", "--no-deps", "--no-build-isolation", "-e", checkout)
    environment.pip("install", "--no-deps", wheel)
    assert f"nnunetv2 {checkout}" in _look_up(environment)


def test_opt_out_and_the_two_other_ways(environment: Environment, wheel: Path) -> None:
    environment.pip("install", "--no-deps", wheel)
    off = {"NNUNET_MAMBA_AUTOLOAD": "0"}
    find = "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find\n"
    # turned on in a process that has nnU-Net's modules already
    environment.run(
        "import sys\n" + find + "assert 'nnunet_mamba' not in sys.modules\n"
        "import nnunet_mamba\n"
        "assert find('nnUNetTrainerSegMamba').__name__ == 'nnUNetTrainerSegMamba'",
        **off,
    )
    # nnU-Net's own mechanism; its walk through its variants comes first, so it is cut short here
    folder = environment.site_packages / "nnunet_mamba" / "discovery" / "ext_trainer"
    environment.run(
        "import nnunetv2.utilities.find_class_by_name as lookup, pickle, sys\n"
        "assert 'nnunet_mamba' not in sys.modules\n"
        "found = lookup.recursive_find_python_class(PATH, 'nnUNetTrainerSegMamba_5epochs', None, base_folder=PATH, "
        "cleanup_imports_from_base_folder=True)\n".replace("PATH", repr(str(folder)))
        + "assert found.__name__ == 'nnUNetTrainerSegMamba_5epochs'\n"
        "assert pickle.loads(pickle.dumps(found)) is found",
        **off,
    )


def test_start_up_imports_nothing_of_ours(environment: Environment, wheel: Path) -> None:
    environment.pip("install", "--no-deps", wheel)
    code = "import sys; assert not [m for m in sys.modules if 'mamba' in m]; import json, email"
    environment.run(code)
    shutil.rmtree(environment.site_packages / "nnunet_mamba")  # half uninstalled: the line is still there
    assert "Error" not in environment.run("import nnunetv2; print('fine')")


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ("__init__.py", "RuntimeError('out of order')"),
        ("discovery/hook.py", "OSError(5, 'disk')"),
        ("discovery/resolve.py", "ImportError('no name')"),
        ("names/networks.py", "SyntaxError('half a file')"),
    ],
)
def test_whatever_is_wrong_with_us_nnunet_is_imported(
    environment: Environment, wheel: Path, broken: str, error: str
) -> None:
    environment.pip("install", "--no-deps", wheel)
    path = environment.site_packages / "nnunet_mamba" / broken
    path.write_text(f"raise {error}\n")
    said = environment.run("import nnunetv2.utilities.find_class_by_name; print('nnU-Net is there')")
    assert "nnU-Net is there" in said
    (line,) = (line for line in said.splitlines() if "nnunet_mamba" in line)
    assert error.split("(")[0] in line
    assert "pip install --force-reinstall nnunet-mamba" in line
    assert "Traceback" not in said


def test_wheel_is_small_and_whole(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.stat().st_size < 5_000_000
    for needed in (
        "nnunet_mamba_autoload.pth",
        "nnunet_mamba/py.typed",
        "dataset_conversion/py.typed",
        "nnunet_mamba/recipes/hippocampus_demo.json",
        "nnunet_mamba/data/hippocampus/ATTRIBUTION.md",
        "nnunet_mamba/data/hippocampus/Task04_Hippocampus/dataset.json",
        "dataset_conversion/__init__.py",
        "nnunet_mamba/study/comparison/page/report.html",
        "nnunet_mamba/study/comparison/page/report.css",
        "nnunet_mamba/study/comparison/page/viewer.js",
    ):
        assert needed in names
    assert any(re.search(r"licenses/LICENSE$", name) for name in names)
    assert not [name for name in names if name.startswith(("tests/", "docs/"))]


def test_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build"]
    subprocess.run([*build, "-t", "sdist", "-d", tmp_path], cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    (source,) = (p for p in tmp_path.iterdir() if p.is_dir())
    subprocess.run([*build, "-t", "wheel", "-d", tmp_path], cwd=source, check=True, capture_output=True)
    (again,) = tmp_path.glob("*.whl")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_installation_beside_nnunet_changes_no_other_package(wheel: Path) -> None:
    """pip leaves alone what satisfies a requirement, and all of ours are satisfied by what is beside nnU-Net here;
    nothing is held back that nnU-Net, or somebody's torch, could disagree with."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist") or ()]
    needed = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    assert {r.name for r in needed} >= {"nnunetv2", "torch", "numba", "monai", "statsmodels", "jinja2"}
    for requirement in needed:
        assert requirement.specifier.contains(version(requirement.name), prereleases=True), requirement
        assert all(s.operator in (">=", "!=") for s in requirement.specifier), f"{requirement}: holds a version back"
