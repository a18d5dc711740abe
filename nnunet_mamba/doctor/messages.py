"""Messages that people of this field meet, each with its cause and what to do.

The documentation's pages on errors are made from this list, so that a search for the words of a message finds them.
"""

from __future__ import annotations

from nnunet_mamba.doctor.first_errors import FILE_NOT_FOUND, FIRST_ERRORS, NOTHING_TO_CONTINUE
from nnunet_mamba.doctor.message import Message

_OF_TRAININGS = (
    Message(
        "fold-is-being-trained",
        ("ValueError: .../fold_0 is being trained by process 4711 on node7 since 2026-01-31 12:00:00 (nnUNetv2_train 4 3d_fullres 0). "
         "Two trainings would overwrite each other's checkpoints. Wait for it, or end it: kill 4711",
         "train_nnUNetTrainer__nnUNetPlans__3d_fullres_0: another process is at it: pid 4711. To end it and what it runs: kill 4711"),
        r"is being trained by (another )?process|another process is at it",
        "Another process trains or validates this fold, or does this step: a command given twice, a job of a cluster in addition to one begun by "
        "hand, or a notebook that has trained the fold and still runs.",
        "Wait, or end the process that the message names with its `kill` line; then the same command, a training with `--c`. No file has "
        "to be deleted: the lock ends with its process.",
    ),
    Message(
        "checkpoint-could-run-code",
        ("ValueError: model.pth holds an object of my_project.MyNetwork, and reading that could run code, so it is not read.",),
        r"reading that could run code",
        "torch's files can hold any object of Python, and reading one may run any program. Our commands read tensors, plain values and "
        "NumPy's numbers only; this file holds more: a whole network, another project's settings, or something malicious.",
        "If you trust its source, write its weights into a file of their own and give that one: `torch.save({\"network_weights\": "
        "torch.load(FILE, weights_only=False)[\"network_weights\"]}, NEW)`; other projects call them `state_dict` or `model`.",
    ),
    Message(
        "plugin-cannot-be-loaded",
        ("nnunet_mamba cannot be loaded, nnU-Net goes on without it (ImportError: cannot import name 'hook')",
         "nnunet_mamba's trainers and planners are not known (ImportError: cannot import name 'locate')"),
        r"nnunet_mamba cannot be loaded|nnunet_mamba's trainers and planners are not known",
        "A file of nnunet-mamba is missing, damaged or of another version, most often after an upgrade that was broken off. nnU-Net "
        "itself works; it does not find our names.",
        "`pip install --force-reinstall --no-deps nnunet-mamba` in this environment, then `nnunet-mamba doctor`. Until then "
        "`NNUNET_MAMBA_AUTOLOAD=0` keeps the line away.",
    ),
    Message(
        "selective-scan-cuda-missing",
        ("ModuleNotFoundError: No module named 'selective_scan_cuda'",
         "ModuleNotFoundError: No module named 'causal_conv1d_cuda'",
         "NameError: name 'selective_scan_cuda' is not defined"),
        r"(selective_scan_cuda|causal_conv1d_cuda)('|\b)(?!.*undefined symbol)",
        "mamba-ssm or causal-conv1d is installed without its compiled part: the wheel does not fit this torch, CUDA or "
        "Python, or was built on a machine without nvcc. Released repositories import it at their first line.",
        "nnunet-mamba does not need it: train with our trainers (`-tr nnUNetTrainerSegMamba`), which use Triton on a GPU and "
        "numba on a CPU. If you want it as a backend: `pip install --no-build-isolation --force-reinstall mamba-ssm "
        "causal-conv1d` with a CUDA toolkit of the version that `python -c \"import torch; print(torch.version.cuda)\"` "
        "prints, then `nnunet-mamba doctor`.",
    ),
    Message(
        "undefined-symbol",
        ("ImportError: selective_scan_cuda.cpython-311-x86_64-linux-gnu.so: undefined symbol: _ZN3c104cuda9SetDeviceEi",
         "ImportError: causal_conv1d_cuda.cpython-310-x86_64-linux-gnu.so: undefined symbol: _ZNK3c1010TensorImpl4sizeEl"),
        r"undefined symbol: \S+",
        "An extension (mamba-ssm, causal-conv1d, torchvision, ...) was compiled against another torch than the installed one; "
        "after an upgrade of torch every such extension must be built again.",
        "Uninstall it, since nnunet-mamba works without: `pip uninstall mamba-ssm causal-conv1d`. Or build it again for this "
        "torch: `pip install --no-build-isolation --no-cache-dir --force-reinstall mamba-ssm causal-conv1d`.",
    ),
    Message(
        "mamba-ssm-does-not-build",
        ("NameError: name 'bare_metal_version' is not defined",
         "OSError: CUDA_HOME environment variable is not set. Please set it to your CUDA install root.",
         "RuntimeError: Ninja is required to load C++ extensions"),
        r"bare_metal_version|CUDA_HOME environment variable is not set|Ninja is required",
        "`pip install mamba-ssm` compiles CUDA code and finds no CUDA toolkit (nvcc).",
        "nnunet-mamba does not need mamba-ssm: `pip install nnunet-mamba`, nothing is compiled. To have it all the same, "
        "install a CUDA toolkit of torch's version and `pip install ninja`, then try again.",
    ),
    Message(
        "expected-u-is-cuda",
        ("RuntimeError: Expected u.is_cuda() to be true, but got false.",
         "RuntimeError: Expected x.is_cuda() to be true, but got false."),
        r"Expected \w+\.is_cuda\(\) to be true",
        "mamba-ssm's kernel was given a tensor on the CPU; it has no CPU version.",
        "On a CPU let nnunet-mamba choose: unset the variable that forces a backend (`unset nnUNet_mamba_backend`). If the "
        "message comes from another repository's network, train ours instead: `-tr nnUNetTrainerSegMamba -device cpu`.",
    ),
    Message(
        "trainer-not-found",
        ("RuntimeError: Could not find requested nnunet trainer nnUNetTrainerSegMamba in nnunetv2.training.nnUNetTrainer",
         "RuntimeError: Unable to locate trainer class nnUNetTrainerUMambaBot in nnunetv2.training.nnUNetTrainer"),
        r"Could not find requested nnunet trainer|Unable to locate trainer class|Unable to find requested trainer",
        "nnU-Net looked for the name in its own folders only: nnunet-mamba is not installed in this environment, its start-up "
        "file was turned off (`NNUNET_MAMBA_AUTOLOAD=0`, `python -S`), or the name is another project's.",
        "`nnunet-mamba doctor` says which of these; `pip install nnunet-mamba` into the environment whose `nnUNetv2_train` you "
        "call (`which nnUNetv2_train nnunet-mamba` must name one folder); `nnunet-mamba list` shows the names.",
    ),
    Message(
        "torchvision-nms",
        ("RuntimeError: operator torchvision::nms does not exist",),
        r"torchvision::nms",
        "torch and torchvision do not belong together, most often torch's CPU build together with torchvision's CUDA build. "
        "torchvision is imported as soon as nnU-Net walks through its own trainer variants.",
        "Install both from the same place: `pip install --force-reinstall torch torchvision` (CUDA), or both with the CPU "
        "index of torch. Our own trainers are found without torchvision.",
    ),
    Message(
        "shape-is-invalid",
        ("RuntimeError: shape '[1, 48, 32, 32, 32]' is invalid for input of size 1327104",
         "RuntimeError: shape '[2, 64, 64, 64, 64]' is invalid for input of size 25165824"),
        r"shape '\[.*?\]' is invalid for input of size \d+",
        "A released network assumes its patch: SegMamba's number of slices fits 128^3 only, others assume cubes or multiples "
        "of 16 or 32.",
        "Use the plan-sized networks of nnunet-mamba, which take every patch that nnU-Net plans: `nnUNetv2_train ... -tr "
        "nnUNetTrainerSegMamba`. Converted checkpoints of released networks keep their limits; plan a patch of 128x128x128 "
        "for them.",
    ),
    Message(
        "channel-token-mismatch",
        ("RuntimeError: Given normalized_shape=[64], expected input with shape [*, 64], but got input of size[2, 320, 128]",
         "RuntimeError: mat1 and mat2 shapes cannot be multiplied (640x125 and 64x256)"),
        r"Given normalized_shape=\[\d+\], expected input|mat1 and mat2 shapes cannot be multiplied",
        "U-Mamba Enc reads whole channels as tokens in its deep stages, so the size of these layers is that of the patch it "
        "was built for. Another patch, in prediction or in the plans, does not fit.",
        "Predict with the patch it was trained with: do not edit `patch_size` in the model's plans.json. For another patch "
        "train again; `nnUNetTrainerUMambaBot` and the other networks do not depend on it.",
    ),
    Message(
        "loss-is-nan",
        ("train_loss nan", "Step skipped, not finite: loss nan, gradient norm inf",
         "RuntimeError: Function 'MulBackward0' returned nan values in its 0th output.",
         "TrainingBrokenError: loss or gradient were not finite 3 times in a row, after 5 returns to good weights"),
        r"(train|val)_loss nan|Step skipped, not finite|TrainingBrokenError|were not finite|returned nan values|loss is nan",
        "A loss or gradient was not a number: fp16 overflowing in another project's scan, damaged images (NaN, infinite or "
        "huge values), or a learning rate too high.",
        "Our trainers skip such steps and name the cases in the log; look at these images first. Then try `-tr "
        "nnUNetTrainerSegMamba_bf16` or `_fp32`, or `_lr1e-3`. `nnunet-mamba convert` finds NaN in images; nnU-Net's "
        "own check reads NIfTI through SimpleITK, which shows them as 0.",
    ),
    Message(
        "out-of-memory",
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
         "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 512.00 MiB",
         "RuntimeError: [enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory"),
        r"CUDA out of memory|OutOfMemoryError|DefaultCPUAllocator: can't allocate memory",
        "Patch, batch and network do not fit the memory that is free.",
        "Plan for the card: `nnUNetv2_plan_experiment -d DATASET -pl nnUNetPlannerSegMamba -gpu_memory_target 12` (GB), then "
        "train with `-p nnUNetSegMambaPlans`. nnU-Net's own plans are sized for its U-Net, which takes less. `nvidia-smi` shows "
        "who else uses the card. In prediction: `-npp 1 -nps 1`.",
    ),
    Message(
        "background-workers-dead",
        ("RuntimeError: One or more background workers are no longer alive. Exiting.",
         "RuntimeError: Some background workers are no longer alive",
         "RuntimeError: Some background worker is 6 feet under. Yuck."),
        r"background workers? (are|is) (no longer alive|6 feet under)|Some background worker|(Background|export) workers? died",
        "A process that loads, augments or exports data was ended, nearly always by the system for want of memory (RAM). The "
        "real message stands above this one, or in `dmesg`.",
        "Fewer processes: `nnUNet_n_proc_DA=2 nnUNetv2_train ...`; `-np 1` in preprocessing, `-npp 1 -nps 1` in prediction. In a "
        "container give it more shared memory: `--ipc=host` or `--shm-size=8g`.",
    ),
    Message(
        "shared-memory",
        ("ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).",
         "OSError: [Errno 28] No space left on device: '/dev/shm'"),
        r"insufficient shared memory|bus error|/dev/shm",
        "Data workers hand batches over in /dev/shm, which is 64 MB in a container unless it was asked for more.",
        "`docker run --ipc=host ...` or `--shm-size=8g`; without a container `df -h /dev/shm`. `nnUNet_n_proc_DA=0` uses none.",
    ),
    Message(
        "unused-parameters",
        ("RuntimeError: Expected to have finished reduction in the prior iteration before starting a new one. This error "
         "indicates that your module has parameters that were not used in producing loss.",
         "Some parameters are unused"),
        r"Expected to have finished reduction|parameters that were not used in producing loss|parameters are unused",
        "Several GPUs, and a network with parameters that do not take part in the loss: heads of deep supervision that are "
        "turned off, or dead layers of a released network.",
        "Our plan-sized networks have no such parameters: `-tr nnUNetTrainerSegMamba -num_gpus 2`. Released networks (by "
        "`convert-checkpoint`) train on one GPU.",
    ),
    Message(
        "plans-or-fingerprint-missing",
        ("RuntimeError: Fingerprint missing for this dataset. Please run nnUNetv2_extract_fingerprint",
         "FileNotFoundError: [Errno 2] No such file or directory: '.../nnUNet_preprocessed/Dataset004_X/nnUNetPlans.json'",
         "FileNotFoundError: [Errno 2] No such file or directory: '.../Dataset004_X/dataset_fingerprint.json'"),
        r"Fingerprint missing|No such file or directory: .*(Plans\.json|dataset_fingerprint\.json)|Source plans are missing"
        r"|Cannot move plans|Expected plans file \(|has no \S+; it has ",
        "The dataset has not been planned with these plans, or nnUNet_preprocessed points elsewhere.",
        "`nnUNetv2_plan_and_preprocess -d DATASET -pl nnUNetPlannerSegMamba` writes nnUNetSegMambaPlans; without `-pl`, "
        "nnUNetPlans. `nnunet-mamba crossval` does it by itself.",
    ),
    Message(
        "regions-class-order",
        ("AssertionError: if region-based training is requested then you need to define regions_class_order!",
         "AssertionError: regions_class_order must have as many entries as there are regions"),
        r"regions_class_order",
        "dataset.json has labels made of several values (regions) and no, or a too short, `regions_class_order`.",
        "One entry per region, in the order of the labels: the value with which the region is painted, later ones over "
        'earlier ones. BraTS 2023: `"labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [1, 3], "enhancing tumor": '
        '[3]}, "regions_class_order": [2, 1, 3]`. `nnunet-mamba convert brats` writes it.',
    ),
    Message(
        "weights-only",
        ("_pickle.UnpicklingError: Weights only load failed. This file can still be loaded, to do so you have two options",
         "WeightsUnpickler error: Unsupported global: GLOBAL numpy.core.multiarray.scalar was not an allowed global"),
        r"Weights only load failed|WeightsUnpickler error",
        "torch 2.6 and later loads only tensors unless told otherwise, and the checkpoint holds more (optimizer state, "
        "numpy numbers).",
        "Checkpoints of nnU-Net and of ours load with nnU-Net 2.8.1 or later: `pip install -U nnunetv2`. A published file that you "
        "trust: `nnunet-mamba convert-checkpoint FILE -o MODEL ...` reads it.",
    ),
    Message(
        "torch-2-9",
        ("ERROR: nnunetv2 2.8.1 has requirement torch!=2.9.*,>=2.1.2, but you have torch 2.9.0.",
         "nnunetv2 2.8.1 requires torch!=2.9.*, but you have torch 2.9.1 which is incompatible."),
        r"torch!=2\.9|have torch 2\.9",
        "nnU-Net and nnunet-mamba leave out torch 2.9: its 3d convolutions under autocast take several times the memory and "
        "time.",
        "`pip install 'torch!=2.9.*' -U`.",
    ),
    Message(
        "triton-missing",
        ("ModuleNotFoundError: No module named 'triton'",
         "RuntimeError: Cannot find a working triton installation.",
         "RuntimeError: Failed to find C compiler. Please specify via CC environment variable."),
        r"No module named 'triton'|Cannot find a working triton|Failed to find C compiler",
        "Triton comes with torch on Linux only, and compiles with the system's C compiler. Windows and macOS have none.",
        "Nothing must be done: nnunet-mamba then uses its pure torch backend (`blocked`), slower. On Linux: `apt install gcc` or "
        "`conda install gcc`. If torch.compile asks for it: `nnUNet_compile=f`.",
    ),
    Message(
        "no-cuda-device",
        ("RuntimeError: Found no NVIDIA driver on your system.",
         "RuntimeError: No CUDA GPUs are available",
         "AssertionError: Torch not compiled with CUDA enabled",
         "ValueError: torch finds no CUDA GPU; to train on the CPU: nnUNetv2_train ... -device cpu"),
        r"Found no NVIDIA driver|No CUDA GPUs are available|Torch not compiled with CUDA enabled|torch finds no CUDA GPU",
        "The command asks for a GPU (nnU-Net's default), and torch sees none.",
        "`-device cpu` in nnUNetv2_train and nnUNetv2_predict. If there is a GPU: `nvidia-smi` must work, and "
        "`python -c \"import torch; print(torch.version.cuda)\"` must print a version that its driver supports.",
    ),
)  # fmt: skip
_GENERAL = ("background-workers-dead",)
"""What is said after the real message; it stands above"""
MESSAGES = (
    *FIRST_ERRORS,
    *(m for m in _OF_TRAININGS if m.key not in _GENERAL),
    FILE_NOT_FOUND,
    *(m for m in _OF_TRAININGS if m.key in _GENERAL),
    NOTHING_TO_CONTINUE,
)


def explain(text: str) -> list[Message]:
    """Messages that are found in the text, in the order of the list: the more special ones first"""
    return [m for m in MESSAGES if m.matches(text)]
