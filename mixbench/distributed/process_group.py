"""The processes that train together: who this one is among them, and how they agree."""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from mixbench.errors import UserError


class ProcessGroup:
    """One process alone, or one rank of several.

    Args:
        rank: This process among ``world``.
        world: Number of processes.
        local_rank: Its number on this machine.
    """

    def __init__(self, rank: int = 0, world: int = 1, local_rank: int = 0) -> None:
        self.rank, self.world, self.local_rank = rank, world, local_rank
        self._pending: tuple[Any, torch.Tensor] | None = None

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files and prints."""
        return self.rank == 0

    def broadcast(self, value: Any) -> Any:
        """The leading process's value.

        Args:
            value: What this process would say; plain objects only.

        Returns:
            What the leading process says.
        """
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def all_reduce_max(self, vote: int) -> int:
        """The largest vote of all processes.

        Args:
            vote: This process's vote.

        Returns:
            The same number everywhere.
        """
        if self.world == 1:
            return vote
        votes = torch.tensor([vote])
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        return int(votes)

    def all_reduce_sum(self, counts: dict[str, int]) -> dict[str, int]:
        """Sums over all processes.

        Args:
            counts: This process's numbers, with the same names everywhere.

        Returns:
            The same sums everywhere.
        """
        if self.world == 1:
            return counts
        sums = torch.tensor(list(counts.values()))
        dist.all_reduce(sums)
        return dict(zip(counts, sums.tolist(), strict=True))

    def all_gather(self, value: Any) -> list[Any]:
        """What every process would say.

        Args:
            value: What this process says; plain objects, and tensors on the CPU.

        Returns:
            The same list everywhere, in the order of the ranks.
        """
        if self.world == 1:
            return [value]
        boxes = [[value] for _ in range(self.world)]
        for rank, box in enumerate(boxes):
            dist.broadcast_object_list(box, src=rank, device=torch.device("cpu"))
        return [box[0] for box in boxes]

    def all_reduce_max_later(self, vote: int) -> int:
        """The largest vote of the call before this one; nothing waits for the present votes.

        Alone, there is nobody to wait for and the present vote counts.

        Args:
            vote: This process's vote.

        Returns:
            The same number everywhere, 0 on the first call.
        """
        if self.world == 1:
            return vote
        earlier = 0
        if self._pending is not None:
            work, votes = self._pending
            work.wait()
            earlier = int(votes)
        votes = torch.tensor([vote])
        self._pending = dist.all_reduce(votes, dist.ReduceOp.MAX, async_op=True), votes
        return earlier


def rank_of_environment() -> tuple[int, int, int] | None:
    """Rank of this process by the environment variables of torchrun or srun.

    Returns:
        Rank, world and local rank, or None where nobody started several processes.
    """
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        return int(env["RANK"]), int(env["WORLD_SIZE"]), int(env["LOCAL_RANK"])
    # A step of srun, not the batch script, which also sees the number of tasks.
    if int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return int(env["SLURM_PROCID"]), int(env["SLURM_NTASKS"]), int(env["SLURM_LOCALID"])
    return None


def init_process_group(world: int, timeout: float, on_gpu: bool) -> ProcessGroup:
    """Meet the other processes of a run.

    Args:
        world: How many the configuration asks for.
        timeout: Seconds after which a silent process counts as dead.
        on_gpu: Whether tensors are exchanged between GPUs.

    Returns:
        This process's place.

    Raises:
        UserError: If another number of processes was started.
    """
    found = rank_of_environment()
    rank, started, local_rank = found or (0, 1, 0)
    if started != world:
        raise UserError(
            f"{started} processes were started, but the run asks for {world}",
            "devices x num_nodes",
            "set devices to the processes per machine and num_nodes to the machines",
        )
    if world == 1:
        return ProcessGroup()
    if on_gpu:
        torch.cuda.set_device(local_rank)
    if not dist.is_initialized():
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            _address_of_slurm(rank, world)
        # gloo carries what the host decides: agreeing on it never waits for a GPU.
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    return ProcessGroup(rank, world, local_rank)


def destroy_process_group() -> None:
    """End the exchange with the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _address_of_slurm(rank: int, world: int) -> None:
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    try:
        slurm = SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:  # tasks that are not counted a machine
        what = f"SLURM started {world} tasks without saying how many a machine"
        raise UserError(what, "srun", "give --ntasks-per-node instead of --ntasks") from error
    os.environ.setdefault("MASTER_ADDR", slurm.main_address)
    os.environ.setdefault("MASTER_PORT", str(slurm.main_port))
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
