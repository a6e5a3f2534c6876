"""The fused projection inside torch's DistributedDataParallel: two processes give the gradient of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, multiprocessing, nn

from mt.config import LossConfig
from mt.losses.build import build_loss
from mt.losses.projection import projected_loss

VOCABULARY, ROWS = 50, 40


class Tied(nn.Module):
    """Embedding, one layer, and the embedding again as output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, 16, dtype=torch.float64)
        self.layer = nn.Linear(16, 16, dtype=torch.float64)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = build_loss(LossConfig(), pad_id=0, begin_id=2, vocabulary_size=VOCABULARY)
        hidden = self.layer(self.embedding(inputs))
        return projected_loss(hidden, self.embedding.weight, None, targets, loss=loss, pad_id=0).loss


def rows() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs, targets = torch.randint(4, VOCABULARY, (2, ROWS), generator=generator)
    targets[::7] = 0  # padding
    return inputs, targets


def worker(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(Tied())
    inputs, targets = (tensor[rank * ROWS // 2 : (rank + 1) * ROWS // 2] for tensor in rows())
    model(inputs, targets).backward()
    if rank == 0:
        gradients = {str(number): parameter.grad for number, parameter in enumerate(model.parameters())}
        save_file(gradients, f"{folder}/gradients.safetensors")
    distributed.destroy_process_group()


def test_two_processes_give_the_gradient_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=worker, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    alone = Tied()
    alone(*rows()).backward()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    together = load_file(tmp_path / "gradients.safetensors")
    for number, parameter in enumerate(alone.parameters()):
        mean = together[str(number)]
        torch.testing.assert_close(2 * mean, parameter.grad, atol=1e-12, rtol=1e-12)  # DDP averages over processes
