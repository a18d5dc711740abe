"""model.json: everything that a runtime without nnU-Net has to know to read an image, predict, and write labels.

Axes are those of the array that the named reader gives (SimpleITK's GetArrayFromImage: z, y, x) before
`transpose_forward`, and those after it everywhere below. Lengths are in mm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from nnunetv2.configuration import ANISO_THRESHOLD

from nnunet_mamba.export.model import TrainedModel
from nnunet_mamba.export.source import POSTPROCESSING
from nnunet_mamba.export.write_onnx import BATCH, INPUT, OPSET, OUTPUT
from nnunet_mamba.names.locate import parse_thresholds
from nnunet_mamba.study.calibration import minimum_size, thresholds
from nnunet_mamba.version import __version__
from nnunet_mamba.whole_files import read_object, short

FORMAT = 1
TILE_STEP_SIZE = 0.5
SIGMA_SCALE, PEAK = 0.125, 10
"""nnU-Net's predictor has them in its code"""
NORMALIZATIONS = {
    "ZScoreNormalization": "(x - mean) / max(std, 1e-8), of the cropped image itself; with use_mask, mean and std of "
    "the voxels inside the mask, and voxels outside stay as they are (0)",
    "CTNormalization": "(clip(x, percentile_00_5, percentile_99_5) - mean) / max(std, 1e-8), with these numbers",
    "NoNormalization": "x",
    "RescaleTo01Normalization": "y / max(max(y), 1e-8) of y = x - min(x), of the cropped image itself",
    "RGBTo01Normalization": "x / 255",
}
STEPS = [
    "read the channels into an array (c, *axes) of float32",
    "transpose the axes by transpose_forward, and the spacing with them; null in spacing below: the image's own",
    "crop to the box of voxels that are not 0 in some channel; the mask of use_mask: these voxels, their holes filled",
    "normalise every channel",
    "resample to round(size * spacing / target spacing), by data in resampling",
    "predict in sliding windows; add the members' logits and divide by their number",
    "resample the logits to the size after cropping, by logits in resampling",
    "turn logits into labels as output says, put them into the box, 0 outside, and transpose by transpose_backward",
]
WINDOWS = (
    "pad with 0 to the patch size, half on each side, the larger half at the end; along every axis "
    "n = ceil((size - patch) / (tile_step_size * patch)) + 1 windows, the k-th at round(k * (size - patch) / (n - 1)); "
    "a patch of one slice goes to every slice, without that axis; "
    "logits = sum of weight * logits of the windows / sum of weight"
)
MIRRORING = (
    "logits of a window: the mean over every subset of mirror_axes, flipped before the network and back after it"
)
GAUSSIAN = (
    "weight: a 1 at patch // 2, filtered with sigma = sigma_scale * patch (scipy.ndimage.gaussian_filter, mode "
    "constant), divided by its maximum, times peak; zeros become the smallest weight that is not zero"
)
RESAMPLING = (
    "spline of this order, edges repeated, voxel centres at (i + 0.5) * scale - 0.5 (skimage.transform.resize, mode "
    "edge; scipy.ndimage.zoom, mode nearest, grid_mode). Where force_separate_z is null and the largest spacing, "
    "before or else after, is more than separate_z_threshold times the smallest, and one axis alone has it: the other "
    "two with order, that axis with order_z. Functions of other names: see nnU-Net's"
)


def describe(model: TrainedModel, members: Sequence[Mapping[str, Any]], versions: Mapping[str, str]) -> dict[str, Any]:
    """The content of model.json. members: fold, file, ... of each; versions: of what wrote the files.

    Raises ValueError for files of the model that do not belong together.
    """
    plans, planned = model.plans, model.planned.configuration
    space = list(model.patch)
    flat = [None] * (3 - len(space))  # what a 2d model does not have: it takes slice by slice
    return {
        "format": FORMAT,
        "versions": {"nnunet_mamba": __version__, "nnunetv2": version("nnunetv2"), **versions},
        "model": {
            "dataset": plans["dataset_name"], "trainer": model.trainer, "plans": plans["plans_name"],
            "configuration": model.configuration, "checkpoint": model.checkpoint, "previous_stage": _previous(model),
        },
        "members": list(members),
        "onnx": {
            "opset": OPSET,
            "input": {"name": INPUT, "type": "float32", "shape": [BATCH, model.inputs, *space]},
            "output": {"name": OUTPUT, "type": "float32", "shape": [BATCH, model.outputs, *space]},
        },
        "steps": STEPS,
        "reader": plans.get("image_reader_writer"),
        "file_ending": model.dataset_json["file_ending"],
        "channels": _channels(model),
        "normalizations": NORMALIZATIONS,
        "preprocessor": planned.get("preprocessor_name"),
        "transpose_forward": plans["transpose_forward"],
        "transpose_backward": plans["transpose_backward"],
        "spacing": [*flat, *planned["spacing"]],
        "resampling": {
            "definition": RESAMPLING,
            "data": _resampling(planned, "data"),
            "logits": _resampling(planned, "probabilities"),
        },
        "windows": {
            "definition": WINDOWS,
            "patch_size": [*(1 for _ in flat), *space],
            "tile_step_size": TILE_STEP_SIZE,
            "gaussian": {"definition": GAUSSIAN, "sigma_scale": SIGMA_SCALE, "peak": PEAK},
            "mirroring": MIRRORING,
            "mirror_axes": list(model.mirroring),
        },
        "output": _output(model),
        "postprocessing": _postprocessing(model),
    }  # fmt: skip


def _previous(model: TrainedModel) -> dict[str, Any] | None:
    name = model.planned.previous_stage_name
    if name is None:
        return None
    return {
        "configuration": name,
        "further_channels": "behind the image's: per foreground label, 1 where the labels of that configuration's "
        "prediction, resampled to the nearest, have it",
        "labels": [int(label) for label in model.labels.all_labels if label != 0],
    }


def _channels(model: TrainedModel) -> list[dict[str, Any]]:
    planned, numbers = model.planned.configuration, model.plans.get("foreground_intensity_properties_per_channel") or {}
    names = model.dataset_json.get("channel_names") or model.dataset_json.get("modality") or {}
    schemes, masks = planned["normalization_schemes"], planned["use_mask_for_norm"]
    if not (isinstance(names, dict) and len(names) == len(schemes) == len(masks)):
        raise ValueError(
            f"{model.folder.dataset_json} names {len(names)} channels, but {model.folder.plans} normalises "
            f"{len(schemes)}; these files do not belong together"
        )
    return [
        {
            "number": k, "name": names.get(str(k)), "file": f"CASE_{k:04d}{model.dataset_json['file_ending']}",
            "normalization": scheme, "use_mask": bool(mask), "intensities": numbers.get(str(k)),
        }
        for k, (scheme, mask) in enumerate(zip(schemes, masks, strict=True))
    ]  # fmt: skip


def _resampling(planned: Mapping[str, Any], what: str) -> dict[str, Any]:
    settings = {k: v for k, v in (planned.get(f"resampling_fn_{what}_kwargs") or {}).items() if k != "is_seg"}
    name = planned.get(f"resampling_fn_{what}")
    return {"function": name, **settings, "separate_z_threshold": ANISO_THRESHOLD}


def _output(model: TrainedModel) -> dict[str, Any]:
    labels, named = model.labels, model.dataset_json["labels"]
    applied = parse_thresholds(model.plans.get("label_manager", ""))
    content: dict[str, Any] = {"labels": named, "ignore_label": labels.ignore_label, "channels": model.outputs}
    if labels.has_regions:
        regions = [[int(v) for v in r] if isinstance(r, (list, tuple)) else [int(r)] for r in labels.foreground_regions]
        order = [int(v) for v in labels.regions_class_order or ()]
        content |= {
            "definition": "sigmoid; from the first channel to the last, voxels above the channel's threshold get its "
            "value of regions_class_order, later over earlier",
            "activation": "sigmoid", "regions": regions, "regions_class_order": order, "values": order,
            "thresholds": list(applied or (0.5,) * len(regions)),
        }  # fmt: skip
    elif applied is not None:
        content |= {
            "definition": "softmax over channels; voxels of which channel 1 is above the threshold get label 1",
            "activation": "softmax", "values": [1], "thresholds": list(applied),
        }  # fmt: skip
    else:
        content |= {"definition": "the label is the channel with the largest logit", "activation": "softmax",
                    "values": list(range(model.outputs)), "thresholds": None}  # fmt: skip
    content["calibrated_thresholds"] = _calibrated(model)
    return content


def _calibrated(model: TrainedModel) -> dict[str, float] | None:
    """Chosen by `nnunet-mamba calibrate`, whether predictions use them or not"""
    if not (model.folder.path / thresholds.STORED).is_file():
        return None
    stored = thresholds.Thresholds.load(model)
    return dict(zip(stored.regions, stored.values, strict=True))


def _postprocessing(model: TrainedModel) -> dict[str, Any]:
    """Chosen on the cross-validation; prediction does neither by itself"""
    chosen = None
    if (model.folder.path / minimum_size.STORED).is_file():
        stored = minimum_size.MinimumSize.load(model)
        masks = zip(stored.names, stored.values, stored.sizes, stored.fill, strict=True)
        chosen = {
            "definition": "mask by mask: components of its labels that touch, also at corners, with less than minimum "
            "get the label fill",
            "unit": stored.unit,
            "masks": [{"name": n, "labels": list(v), "minimum": s, "fill": f} for n, v, s, f in masks],
        }
    found = []
    for path in sorted(model.folder.path.glob(f"*/{POSTPROCESSING}")):
        content = read_object(path)
        functions, arguments = content.get("postprocessing_fns"), content.get("postprocessing_kwargs")
        if not (isinstance(functions, list) and isinstance(arguments, list) and len(functions) == len(arguments)):
            raise ValueError(f"{path}: no postprocessing as nnU-Net writes it: {short(content)}")
        steps = [{"function": f, "arguments": a} for f, a in zip(functions, arguments, strict=True)]
        found.append({"chosen_on": path.parent.name, "steps": steps})
    return {"minimum_component_size": chosen, "nnunet": found}
