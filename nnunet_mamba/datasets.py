"""nnU-Net's names of datasets."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnunet_mamba.checks import NNUNET_FOLDERS, nnunet_folder


def dataset_name(name_or_number: str | int) -> str:
    """`4` -> `Dataset004_Hippocampus`. Raises ValueError if there is no such dataset or more than one."""
    try:
        name = str(maybe_convert_to_dataset_name(name_or_number))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"-d {name_or_number}: {str(error).splitlines()[0]}") from None
    folders = [Path(os.environ[variable]) for variable in NNUNET_FOLDERS if os.environ.get(variable)]
    if not any((folder / name).is_dir() for folder in folders):
        known = sorted({p.name for folder in folders for p in folder.glob("Dataset*")})
        raise ValueError(f"-d {name_or_number}: no such dataset; there are {', '.join(known) or 'none'}")
    return name


def read_dataset_json(dataset: str) -> dict[str, Any]:
    """Of the raw dataset, or its copy beside the preprocessed data. Raises ValueError if it is missing."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        path = nnunet_folder(variable) / dataset / "dataset.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    raise ValueError(f"{nnunet_folder('nnUNet_raw') / dataset / 'dataset.json'}: no such file")
