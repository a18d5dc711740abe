"""Two processes train one network as `nnUNetv2_train -num_gpus 2` does, on the CPU by gloo: steps, whole trainings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module

from tests.trainers.tiny import write_preprocessed

ROOT = Path(__file__).parents[2]
WORKER = """
import functools, math, sys
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module

from tests.trainers.tiny import make

torch.set_num_threads(1)
rank, meeting, names = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
dist.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=2)
# nnU-Net trains on several GPUs only; these two lines put its processes onto the CPU
dist.is_initialized, real = (lambda: False), dist.is_initialized
# in float64: float32 in another order changes the gradients of some tiny networks by percents
module.DDP = lambda network, device_ids: DistributedDataParallel(network.double())


def batch(n):
    torch.manual_seed(n)
    target = torch.randint(0, 3, (1, 1, 16, 16, 16)).float()
    image = torch.randn(1, 1, 16, 16, 16, dtype=torch.float64)
    return {"data": image, "target": [target, target[..., ::2, ::2, ::2]], "keys": [f"c{n}"]}


def joined(a, b):
    return {"data": torch.cat([a["data"], b["data"]]), "keys": a["keys"] + b["keys"],
            "target": [torch.cat(t) for t in zip(a["target"], b["target"])]}


def started(name, together):
    torch.manual_seed(0)
    trainer = make(name)
    if together:
        trainer.is_ddp, trainer.local_rank = True, rank
    trainer.initialize()
    trainer.network.double()
    trainer._good = type("Good", (), {"take": lambda s: True, "is_finite": lambda s: True})()
    trainer.network.train()
    trainer.lr_scheduler.step(0)
    return trainer


def step(trainer, data):
    targets = data["target"] if trainer.enable_deep_supervision else data["target"][0]
    return trainer.train_step({**data, "target": targets})


def same_everywhere(network):
    flat = torch.cat([p.detach().flatten() for p in network.parameters()])
    both = [torch.zeros_like(flat) for _ in range(2)]
    dist.all_gather(both, flat)
    return torch.equal(*both)


for name in names:
    together, alone = started(name, True), started(name, False)
    assert together.batch_size == 1 and alone.batch_size == 2
    mine = step(together, batch(rank))["loss"]
    wanted = step(alone, joined(batch(0), batch(1)))["loss"]
    losses = [None, None]
    dist.all_gather_object(losses, float(mine))
    # nnU-Net weighs the coarsest output 1e-6 instead of 0 on several GPUs, and sums its Dice in float32
    norms = together._step.norm, alone._step.norm
    far = max((a - b).abs().max() for a, b in zip(together.network.parameters(), alone.network.parameters()))
    assert same_everywhere(together.network), name
    if "TopK" not in name:  # which takes the hardest voxels of each GPU's own batch
        assert math.isclose(sum(losses) / 2, float(wanted), rel_tol=1e-5), (name, losses, wanted)
        assert math.isclose(*norms, rel_tol=1e-3), (name, norms)
        assert far < 1e-4, (name, far)

    before = [p.detach().clone() for p in together.network.parameters()]
    broken = batch(99)
    if rank == 1:
        broken["data"][:] = math.nan  # one GPU meets a broken case: none takes the step
    step(together, broken)
    assert not together._step.taken and together.sentinel.in_a_row == 1
    assert all(torch.equal(a, b) for a, b in zip(before, together.network.parameters()))
    # a loss that is broken on one GPU only, with gradients that are numbers on both
    seen = lambda *_: together._step.losses.append(torch.tensor(math.inf)) if rank == 1 else None
    handle = together.loss.register_forward_hook(seen)
    step(together, batch(rank))
    handle.remove()
    assert math.isfinite(together._step.norm) and not together._step.taken
    assert all(torch.equal(a, b) for a, b in zip(before, together.network.parameters()))
    step(together, batch(rank))
    assert together._step.taken and same_everywhere(together.network)
    print("trained", name)
dist.is_initialized = real
dist.destroy_process_group()
"""
NAMES = [
    *(f"nnUNetTrainer{network}_1epoch" for network in
      ("SegMamba", "SegMambaV2", "SegResMamba", "UMambaEnc", "UMambaBot", "LightMUNet", "MambaEncoder")),
    "nnUNetTrainerSegMambaNoMamba_1epoch", "nnUNetTrainerSegMamba_asReleased_1epoch",
    "nnUNetTrainerSegMamba_lossDiceTopK10", "nnUNetTrainerSegMamba_lossClDice",
]  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over files")
def test_two_processes_are_one_with_the_joined_batch(folders: Path) -> None:
    write_preprocessed(folders)
    outputs = _together(WORKER, folders, *NAMES, timeout=300)
    assert outputs[0].count("trained ") == len(NAMES)


TRAINING = """
import json, math, random, sys, time
from pathlib import Path
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module
from nnunet_mamba.trainers import checkpoint_files
from tests.trainers.tiny import make, without_pictures

torch.set_num_threads(1)
rank, meeting, name, late, megabytes = int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]), int(sys.argv[5])
dist.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=2)
dist.is_initialized, real = (lambda: False), dist.is_initialized
module.DDP = lambda network, device_ids: DistributedDataParallel(network)
trainer = without_pictures(make(name))
trainer.is_ddp, trainer.local_rank = True, rank
trainer.initialize()
trainer.save_every = 1
trainer.my_init_kwargs["as large as a real one"] = torch.zeros(megabytes * 250_000)
folder, moments, seen = Path(trainer.output_folder), random.Random(rank), {"saves": 0, "bad": []}

save, write, dice, step = trainer.save_checkpoint, torch.save, trainer.logger.log, trainer.train_step


def slow_write(content, target, *arguments, **options):
    write(content, target, *arguments, **options)
    time.sleep(late)  # as a large file on a network's disk


def watched(filename):
    time.sleep(moments.random() * late)  # processes never come at the same moment
    save(filename)
    seen["saves"] += rank == 0
    if rank == 0:
        problem = checkpoint_files.damage_of(Path(filename))
        if problem is not None:
            seen["bad"].append([filename, problem])


def log(key, value, epoch):
    # better until the last but one third, then worse
    curve = epoch / 1000 if epoch < 2 * trainer.num_epochs // 3 else 0.0
    dice(key, curve if key == "mean_fg_dice" else value, epoch)


def broken_once(batch):
    if trainer.current_epoch == 1 and trainer.sentinel.heals == 0 and rank == 1:
        batch["data"][:] = math.nan  # one GPU meets broken data until both go back
    return step(batch)


torch.save = slow_write
trainer.save_checkpoint, trainer.logger.log, trainer.train_step = watched, log, broken_once
trainer.run_training()
trainer._release_fold()
flat = torch.cat([p.detach().flatten() for p in trainer.network.parameters()])
both = [torch.zeros_like(flat) for _ in range(2)]
dist.all_gather(both, flat)
seen |= {"same": torch.equal(*both), "heals": trainer.sentinel.heals, "epochs": trainer.current_epoch,
         "files": sorted(p.name for p in folder.iterdir() if ".pth" in p.name or "lock" in p.name),
         "damage": checkpoint_files.damage_of(folder / "checkpoint_final.pth")}
if rank == 0:
    final = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    own = trainer.network.module.state_dict()
    seen["final"] = all(torch.equal(v, own[k]) for k, v in final["network_weights"].items())
print("seen", json.dumps(seen), flush=True)
dist.is_initialized = real
dist.destroy_process_group()
"""


def _together(script: str, root: Path, *arguments: str, timeout: float) -> list[str]:
    """What two processes print that run this together; both must succeed, and none waits for one that failed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "nnUNet_n_proc_DA": "0"}
    logs = [root / f"rank{rank}.txt" for rank in range(2)]
    processes = []
    for rank, log in enumerate(logs):
        with log.open("w") as file:
            command = [sys.executable, "-c", script, str(rank), str(root / "meet"), *arguments]
            processes.append(subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT))
    end = time.monotonic() + timeout
    while any(p.poll() is None for p in processes) and not any(p.poll() for p in processes) and time.monotonic() < end:
        time.sleep(0.1)
    codes = [process.poll() for process in processes]
    for process in processes:
        process.kill()
        process.wait()
    outputs = [log.read_text(encoding="utf-8") for log in logs]
    assert codes == [0, 0], "\n".join(output[-3000:] for output in outputs)
    return outputs


def _check_training(root: Path, name: str, late: float, megabytes: int, timeout: float) -> dict[str, Any]:
    """A whole training with a return to good weights and an early stop: every file whole, both processes alike."""
    write_preprocessed(root)
    outputs = _together(TRAINING, root, name, str(late), str(megabytes), timeout=timeout)
    first, second = (json.loads(output.split("seen ")[1].splitlines()[0]) for output in outputs)
    assert first["bad"] == []
    assert first["damage"] is None
    assert first["final"]
    for seen in (first, second):
        assert seen["same"]
        assert seen["heals"] == 1
        assert seen["epochs"] == first["epochs"]
    assert first["files"] == ["checkpoint_best.pth", "checkpoint_final.pth"]
    return first


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over files")
def test_two_processes_save_one_checkpoint(folders: Path) -> None:
    seen = _check_training(folders, "nnUNetTrainerSegMamba_stop3_10epochs_3its", 0.05, 1, 240)
    assert seen["epochs"] == 9  # the best was the sixth
    assert seen["saves"] > 9


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="gloo over files")
def test_two_processes_save_hundreds_of_large_checkpoints(folders: Path) -> None:
    seen = _check_training(folders, "nnUNetTrainerSegMamba_stop40_150epochs_3its", 0.05, 32, 900)
    assert seen["epochs"] == 140
    assert seen["saves"] > 200


def test_the_stand_in_for_gpus_is_where_nnunet_looks() -> None:
    assert module.DDP is torch.nn.parallel.DistributedDataParallel
