"""A map of the uncertainty as an image of the case's own size, in percent: 0 sure, 100 all labels alike.

Whole numbers in the format of the dataset's label maps, so that every reader of nnU-Net's can write it.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
from acvl_utils.cropping_and_padding.bounding_boxes import insert_crop_into_image
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor


def write_map(uncertainty: np.ndarray, properties: dict[str, Any], predictor: nnUNetPredictor, path: Path) -> None:
    """uncertainty: (*space) from 0 to 1, of the preprocessed image. Outside of nnU-Net's crop it is 0.

    The file whole, or none. Raises ValueError if it cannot be written.
    """
    plans: Any = predictor.plans_manager
    image = on_image_grid(uncertainty, properties, plans, predictor.configuration_manager)
    partial = path.with_name(f"{uuid.uuid4().hex}.partial.{path.name}")  # the ending says in which format
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        plans.image_reader_writer_class().write_seg(np.rint(image * 100).astype(np.uint8), str(partial), properties)
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be written: {str(error).strip().splitlines()[-1]}") from None
    finally:
        partial.unlink(missing_ok=True)


def on_image_grid(uncertainty: np.ndarray, properties: dict[str, Any], plans: Any, configuration: Any) -> np.ndarray:
    """As nnU-Net brings probabilities to the image: resampled, uncropped, axes in the image's order"""
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    shape = properties["shape_after_cropping_and_before_resampling"]
    # a 2d configuration has no spacing along the axis of its slices
    current = (
        configuration.spacing if len(configuration.spacing) == len(shape) else [spacing[0], *configuration.spacing]
    )
    given = uncertainty[None].astype(np.float32)
    inside = np.asarray(configuration.resampling_fn_probabilities(given, shape, current, spacing))[0]
    whole: Any = np.zeros(properties["shape_before_cropping"], np.float32)
    whole = insert_crop_into_image(whole, np.clip(inside, 0, 1), properties["bbox_used_for_cropping"])
    return whole.transpose(plans.transpose_backward)
