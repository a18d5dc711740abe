"""A model card: what a model was trained on, how well it did, and what it is for, beside the model or in its zip.

What the model's files say is taken from them; the licence of the data, their source and the intended use mostly nobody
has written down, so they are asked for, and stand as "not stated" until somebody does.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import uuid
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from nnunet_mamba import markdown
from nnunet_mamba.export.model import TrainedModel
from nnunet_mamba.export.source import STORED
from nnunet_mamba.nnunet_folders import PLANS_JSON, Model
from nnunet_mamba.prediction.seen import CARD_JSON, orientations_of
from nnunet_mamba.study.evaluation.description import masks_of
from nnunet_mamba.study.evaluation.intervals import CONFIDENCE, mean_interval
from nnunet_mamba.trust import outcome
from nnunet_mamba.trust.measures import TITLES
from nnunet_mamba.version import __version__
from nnunet_mamba.whole_files import read_object, write_json, write_text

CARD_MD = "MODEL_CARD.md"
NOT_STATED = "not stated"
ASKED = {
    "licence": "licence of the training data",
    "source": "where the training data come from",
    "intended_use": "what the model is for, and what not",
}
"""What no file says for certain -> the question"""
NOTED = ("num_epochs", "num_iterations_per_epoch", "batch_size", "precision", "seed", "device", "torch_version")
"""Of a training, in the words of nnU-Net's trainer"""


def describe(
    model: TrainedModel, stated: Mapping[str, str] | None = None, without: Collection[str] = ()
) -> dict[str, Any]:
    """The card: by the model's files, an earlier card beside them, and what is stated now, which goes first.

    without: names of stored files that are not read. Raises ValueError for a damaged one.
    """
    content, planned = model.dataset_json, model.planned.configuration
    path = model.folder.path / CARD_JSON
    stored = [p for n in STORED if n not in without and (p := model.folder.path / n).is_file()]
    earlier = read_object(path) if path.is_file() else {}
    of_training = _training(model)
    known = {
        "licence": content.get("licence") or content.get("license"),
        "source": content.get("reference") or content.get("source"),
    }
    told = {k: (stated or {}).get(k) or _stated(earlier.get(k)) or _stated(known.get(k)) or NOT_STATED for k in ASKED}
    dataset, plans = model.plans["dataset_name"], model.plans["plans_name"]
    name = Model(model.trainer, plans, model.configuration)
    return {
        **told,
        "dataset": dataset,
        "description": _stated(content.get("description")) or NOT_STATED,
        "cases": content.get("numTraining"),
        "channels": content.get("channel_names") or content.get("modality") or {},
        "labels": content["labels"],
        "trainer": model.trainer, "plans": plans, "configuration": model.configuration, "checkpoint": model.checkpoint,
        "folds": list(model.folds),
        "spacing": planned["spacing"], "patch_size": planned["patch_size"],
        "command": f"nnUNetv2_train {dataset} {model.configuration} FOLD {' '.join(name.options[:4])}",
        "training": of_training,
        "scores": _scores(model),
        "label_manager": model.plans.get("label_manager"),
        "stored": {p.name: read_object(p) for p in stored},
        "orientations": list(orientations_of(model.folder)),
        "versions": earlier.get("versions") or {"nnunet_mamba": __version__, "nnunetv2": version("nnunetv2")},
    }  # fmt: skip


def as_markdown(card: Mapping[str, Any]) -> str:
    """For people"""
    rows = [[what, markdown.plain(text)] for what, text in lines(card)]
    parts = [
        f"# {card['dataset']}: {card['trainer']}, {card['configuration']}",
        markdown.table(("what", "value"), rows),
    ]
    scores = card["scores"]
    if scores:
        head = ("fold", "label", "cases", "mean Dice", f"{CONFIDENCE:.0%} interval")
        table = [
            [s["fold"], markdown.plain(s["label"]), str(s["cases"]), f"{s['mean']:.4f}", _interval(s)] for s in scores
        ]
        parts += [
            "## Scores on the cross-validation",
            "nnU-Net's, each case by the fold that was not trained on it; bootstrap interval over cases. Cases without "
            "truth and prediction have none.",
            markdown.table(head, table),
        ]
    parts.append("Not a medical device.")
    return "\n\n".join(parts) + "\n"


def lines(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is said of a model: for its page, and before it predicts"""
    labels = ", ".join(n for n in masks_of(card["labels"]))
    found = [
        ("intended use", card["intended_use"]),
        ("training data", f"{card['dataset']}, {card['cases'] or 'an unknown number of'} cases; {card['description']}"),
        ("source of the data", card["source"]),
        ("licence of the data", card["licence"]),
        ("channels", ", ".join(map(str, card["channels"].values()))),
        ("labels", labels),
        ("model", f"{card['trainer']}, {card['plans']}, {card['configuration']}, folds {' '.join(card['folds'])}"),
        ("voxels in mm (z y x), patch", f"{_by(card['spacing'])}, {_by(card['patch_size'])}"),
        ("command", card["command"]),
        *((key.replace("_", " "), str(value)) for key, value in card["training"].items()),
    ]
    for mask in dict.fromkeys(s["label"] for s in card["scores"]):
        whole = next((s for s in card["scores"] if s["label"] == mask and s["fold"] == "all"), None)
        if whole is not None:
            found.append((f"Dice of {mask}", f"{whole['mean']:.3f} ({_interval(whole)}), {whole['cases']} cases"))
    if str(card["label_manager"] or "").startswith("LabelManagerThresholds"):
        found.append(("thresholds", card["label_manager"].removeprefix("LabelManagerThresholds_").replace("_", ", ")
                      + " thousandths"))  # fmt: skip
    found += [(name, "stored with the model") for name in card["stored"] if name != outcome.STORED]
    trust = card["stored"].get(outcome.STORED)
    if trust is not None:
        found.append(("trust", _trust(trust)))
    if card["orientations"]:
        found.append(("orientation of the training images", ", ".join(card["orientations"])))
    return found


def write(card: Mapping[str, Any], folder: Path) -> None:
    """Both files, into the model's folder"""
    write_json(folder / CARD_JSON, card, indent=2)
    write_text(folder / CARD_MD, as_markdown(card))


def put_into_zip(archive: Path, name: str, card: Mapping[str, Any], stored: Sequence[Path] = ()) -> None:
    """The zip with the card of the model of this name, and `stored` files; all else as it was. Whole, or as it was.

    Raises ValueError where the zip holds no such model, or cannot be read or written.
    """
    partial = archive.with_name(f"{archive.name}.{uuid.uuid4().hex}.partial")
    try:
        with zipfile.ZipFile(archive) as old:
            places = [PurePosixPath(n).parent for n in old.namelist() if PurePosixPath(n).name == PLANS_JSON]
            place = next((p for p in places if p.name == name), None)
            if place is None:
                raise ValueError(f"{archive}: holds no {name}, but {', '.join(p.name for p in places) or 'no model'}")
            own = {str(place / CARD_JSON), str(place / CARD_MD), *(str(place / p.name) for p in stored)}
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as new:
                for entry in old.infolist():
                    if entry.filename not in own:
                        with old.open(entry) as source, new.open(entry, "w", force_zip64=True) as target:
                            shutil.copyfileobj(source, target)
                with contextlib.ExitStack() as made:
                    folder = archive.with_name(f"{partial.name}.card")
                    folder.mkdir()
                    made.callback(shutil.rmtree, folder, ignore_errors=True)
                    write_json(folder / CARD_JSON, card, indent=2)
                    write_text(folder / CARD_MD, as_markdown(card))
                    for path in (folder / CARD_JSON, folder / CARD_MD, *stored):
                        new.write(path, str(place / path.name))
        partial.replace(archive)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{archive}: a damaged zip ({error})") from None
    finally:
        partial.unlink(missing_ok=True)


def _training(model: TrainedModel) -> dict[str, Any]:
    """From what nnU-Net's trainer notes of itself, of the first fold that has it"""
    for fold in model.folds:
        path = model.folder.fold(fold).debug
        if path.is_file():
            noted = read_object(path)
            return {k: noted[k] for k in NOTED if noted.get(k) not in (None, "None")}
    return {}


def _scores(model: TrainedModel) -> list[dict[str, Any]]:
    """Mean Dice of every fold and label, and of all folds together, with intervals"""
    masks = {tuple(values): name for name, values in masks_of(model.dataset_json["labels"]).items()}
    found: dict[str, dict[str, list[float]]] = {}
    for fold in model.folds:
        path = model.folder.fold(fold).summary
        if not path.is_file() or not fold.isdecimal():
            continue
        for case in read_object(path).get("metric_per_case", []):
            for key, metrics in case.get("metrics", {}).items():
                name = masks.get(tuple(int(n) for n in re.findall(r"\d+", key)))
                value = metrics.get("Dice")
                if name is not None and isinstance(value, (int, float)) and np.isfinite(value):
                    for group in (fold, "all"):
                        found.setdefault(group, {}).setdefault(name, []).append(float(value))
    if len(found) == 2:  # one fold: "all" is the same
        found = {"all": found["all"]}
    rows = []
    for fold, of_fold in sorted(found.items(), key=lambda item: (item[0] != "all", item[0])):
        for name, values in of_fold.items():
            interval = mean_interval(values)
            known = bool(np.isfinite(interval[0]))
            rows.append({"fold": fold, "label": name, "cases": len(values), "mean": float(np.mean(values)),
                         "interval": list(interval) if known else None})  # fmt: skip
    return rows


def _trust(stored: Mapping[str, Any]) -> str:
    """What looking at cases beyond the limit found, on cases held out"""
    try:
        measure, catch = TITLES[stored["chosen"]], stored["catch_of_held_out_cases"]
        if not stored["better_than_chance"]:
            return f"{measure} ranked the validation cases no better than chance: no advice"
        return (
            f"by {measure}: of {catch['failures']} failures (Dice below {stored['failure_below_dice']:.3f}) among "
            f"{catch['cases']} validation cases, {catch['caught']} are among the {catch['looked']} to look at"
        )
    except (KeyError, TypeError, ValueError):
        return f"{outcome.STORED} is not as nnunet-mamba trust writes it"


def _interval(score: Mapping[str, Any]) -> str:
    return "no interval" if score["interval"] is None else "{:.3f} to {:.3f}".format(*score["interval"])


def _stated(value: Any) -> str | None:
    """A text that says something. nnU-Net writes "Whoever converted this dataset was lazy" where nobody did"""
    if not isinstance(value, str) or not value.strip() or value == NOT_STATED or "lazy" in value:
        return None
    return value.strip()


def _by(sizes: Sequence[float]) -> str:
    return " x ".join(f"{s:.4g}" for s in sizes)
