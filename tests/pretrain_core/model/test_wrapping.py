"""The model takes sharding and tensor parallelism from outside, on two gloo ranks."""

import os
import subprocess
import sys
from pathlib import Path

RANK = """
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel, RowwiseParallel, parallelize_module,
)

from pretrain_core.draws import torch_generator
from pretrain_core.model import Transformer, preset, shifted

TOKENS = torch.randint(512, (40,), generator=torch.Generator().manual_seed(0))
BOUNDS = torch.tensor([0, 12, 24, 40])


def fresh():
    return Transformer(preset("nano"), torch_generator(1, "init"))


def loss_of(model):
    # As the training loop does it: states first, then the head, so that it may cut the logits.
    return -shifted(model.output(model.hidden(TOKENS, BOUNDS)), TOKENS, BOUNDS).mean()


def sharded(mesh):
    model = fresh()
    for block in model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model.output, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "hidden")
    return model


def tensor_parallel(mesh):
    model = fresh()
    columns = ("attention.wqkv", "feed_forward.w1", "feed_forward.w3")
    rows = ("attention.wo", "feed_forward.w2")
    plan = {name: ColwiseParallel() for name in columns}
    plan |= {name: RowwiseParallel() for name in rows}
    for block in model.layers:
        parallelize_module(block, mesh, plan)
    return model


dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
reference = fresh()
expected = loss_of(reference)
expected.backward()
gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
for build in (sharded, tensor_parallel):
    model = build(mesh)
    loss = loss_of(model)
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    loss.backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None, name
        whole = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
        torch.testing.assert_close(whole, gradients[name], atol=1e-6, rtol=1e-4, msg=name)
dist.destroy_process_group()
"""


def test_sharding_and_tensor_parallelism_change_no_gradient(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    outcome = subprocess.run(
        [*command, str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr[-3000:]
