"""`nnunet-mamba list`: the networks, their names for nnU-Net, sizes and sources."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import textwrap
from pathlib import Path
from typing import Any

from nnunet_mamba.names import networks, planners, suffixes
from nnunet_mamba.nnunet_folders import FINAL

SHOWN_STAGES, SHOWN_CHANNELS, SHOWN_CLASSES = 5, 1, 3
WIDTH = 100
FALLBACK_MAX = 320  # nnU-Net's own limit in 3d


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL", help="show the card of a trained model: its "
                        "folder, or a zip of it")  # fmt: skip
    parser.add_argument("--cite", action="store_true", help="print BibTeX entries instead")
    parser.add_argument("--trainers", action="store_true", help="what the suffixes of a trainer's name change")
    parser.add_argument("--json", action="store_true", help="networks, suffixes, recipes, datasets; without sizes")
    parser.epilog = "example: nnunet-mamba list"


def run(options: argparse.Namespace) -> int:
    """Returns 0. Raises ValueError for what is no model."""
    if options.model is not None:
        print(_card(options.model))
        return 0
    if options.cite:
        entries = dict.fromkeys(n.citation for n in networks.NETWORKS if n.citation)
        print("\n\n".join(entries))
        return 0
    if options.json:
        print(json.dumps(_everything(), indent=2))
        return 0
    if options.trainers:
        _print_suffixes()
        return 0
    for record in networks.NETWORKS:
        millions, twin = (count_parameters(kind) / 1e6 for kind in (record, record.twin))
        print(f"{record.name}: {record.summary}")
        print(f"  train      nnUNetv2_train DATASET 3d_fullres FOLD -tr {record.trainer}")
        print(f"  plan       nnUNetv2_plan_experiment -d DATASET -pl {record.planner}   (then -p {record.plans})")
        for preset in record.presets[1:]:
            print(
                f"             {record.planner_of(preset)} for {preset.gigabytes:g} GB   (-p {record.plans_of(preset)})"
            )
        print(f"  control    -tr {record.twin.trainer}, or of the same size: {record.trainer}_SameSize")
        print(f"  parameters {millions:.1f} M, without Mamba {twin:.1f} M")
        print(f"  source     {record.paper}{'; ' if record.url else ''}{record.url}\n")
    print(
        f"Parameters: 3d, {SHOWN_STAGES} stages, as our planner sizes them, {SHOWN_CHANNELS} channel, {SHOWN_CLASSES} "
        "classes; a plan with more stages has more.\n"
        "Recipes: nnunet-mamba plan-from-recipe; datasets: nnunet-mamba convert --help; all for programs: --json.\n"
        "BibTeX: --cite; other trainings as suffixes of a trainer's name: --trainers"
    )
    return 0


def _card(path: Path) -> str:
    """By the card that is with the model, and by the model's files"""
    if not path.exists():
        raise ValueError(f"{path}: no such folder or file; give nnU-Net's folder of a model, or a zip of one")
    with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net tells of folders that only training needs
        from nnunet_mamba.export.model import TrainedModel
        from nnunet_mamba.export.source import open_model
        from nnunet_mamba.prediction.card import as_markdown, describe
    with open_model(path, None, FINAL) as folder:
        return as_markdown(describe(TrainedModel.read(folder)))


def _everything() -> dict[str, Any]:
    from dataset_conversion.command import NAMES
    from nnunet_mamba.planning.recipes import recipe_names

    described = [
        {
            "name": n.name, "title": n.title, "summary": n.summary, "paper": n.paper, "url": n.url,
            "class": n.architecture, "trainer": n.trainer, "planner": n.planner, "plans": n.plans,
            "control": {"trainer": n.twin.trainer, "planner": n.twin.planner, "plans": n.twin.plans},
            "sizes": [
                {"gigabytes": p.gigabytes, "planner": n.planner_of(p), "plans": n.plans_of(p),
                 "control": {"planner": n.twin.planner_of(p), "plans": n.twin.plans_of(p)}}
                for p in n.presets
            ],
        }
        for n in networks.NETWORKS
    ]  # fmt: skip
    meanings = [{"form": s.form, "meaning": s.meaning} for s in suffixes.SUFFIXES]
    of_planners = [{"form": form, "meaning": planners.meaning(form)} for form in planners.forms()]
    return {
        "networks": described, "suffixes": meanings, "planner_suffixes": of_planners, "recipes": recipe_names(),
        "datasets": NAMES,
    }  # fmt: skip


def _print_suffixes() -> None:
    print("Trainers: nnUNetTrainer (nnU-Net's own network, for comparison)")
    for name in networks.trainers():
        print(f"          {name}")
    print("\nSuffixes, any of them, in this order; without them everything is as in nnU-Net:\n")
    for suffix in suffixes.SUFFIXES:
        print(textwrap.fill(suffix.form, WIDTH, initial_indent="  ", subsequent_indent="  "))
        print(textwrap.fill(suffix.meaning, WIDTH, initial_indent="      ", subsequent_indent="      "))
    print(f"\nSuffixes of planners: {', '.join(planners.forms())}; {planners.TORCHRES}: {planners.MEANING}")
    print("\nexample: nnUNetv2_train DATASET 3d_fullres 0 -tr nnUNetTrainerSegMamba_AdamW_bf16_lossClDice_250epochs")


def count_parameters(record: networks.Network) -> int:
    """Parameters of the plan-sized network at the shown size, each counted once. Allocates nothing."""
    import torch

    most = record.max_features or FALLBACK_MAX
    features = [min(record.base_features * 2**i, most) for i in range(SHOWN_STAGES)]
    with torch.device("meta"):
        network = record.load_architecture()(
            SHOWN_CHANNELS, SHOWN_CLASSES, n_stages=SHOWN_STAGES, features_per_stage=features,
            conv_op=torch.nn.Conv3d, kernel_sizes=3, strides=[1, *[2] * (SHOWN_STAGES - 1)], mixer=record.mixer,
            deep_supervision=True,
        )  # fmt: skip
    return sum(p.numel() for p in network.parameters())
