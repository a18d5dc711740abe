"""Two processes train together without `find_unused_parameters`: every parameter takes part, as nnU-Net expects."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architectures.test_contract import NETWORKS

ROOT = Path(__file__).parents[2]
WORKER = """
import os, sys
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tests.architectures.test_contract import NETWORKS, _loss, _plan, build

torch.set_num_threads(1)
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
for record, mixer in NETWORKS:
    torch.manual_seed(0)
    network = DistributedDataParallel(build(record, mixer, _plan(2, 3, 8)))
    for step in range(2):  # a parameter without a gradient in the first step is an error in the second
        torch.manual_seed(10 * step + rank)  # the processes see different images
        network.zero_grad()
        _loss(network(torch.randn(2, 1, 8, 8))).backward()
    total = torch.stack([p.grad.double().abs().sum() for p in network.parameters()]).sum()
    both = [torch.zeros_like(total) for _ in range(2)]
    dist.all_gather(both, total)
    assert total > 0 and both[0] == both[1], (record.name, mixer, both)
    print("trained", record.name, mixer)
dist.destroy_process_group()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over files")
def test_two_processes_average_their_gradients(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(tmp_path / "meet")],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)[-4000:]
    assert outputs[0].count("trained ") == len(NETWORKS)
