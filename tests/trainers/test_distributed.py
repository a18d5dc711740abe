"""Two processes train one network with our trainer's step, as `nnUNetv2_train -num_gpus 2` does, on the CPU by gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
from nnunet_mamba import registry
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
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(folders / "meet"), *NAMES],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)[-4000:]
    assert outputs[0].count("trained ") == len(NAMES)


def test_the_stand_in_for_gpus_is_where_nnunet_looks() -> None:
    assert module.DDP is torch.nn.parallel.DistributedDataParallel
