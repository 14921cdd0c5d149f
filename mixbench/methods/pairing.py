"""Partners that a batch may be too odd for."""

from mixbench.config.schema import RunConfig
from mixbench.errors import UserError


def check_even(partner: str, run: RunConfig) -> None:
    """Refuse to flip batches whose middle image would be its own partner.

    Args:
        partner: Value of ``method.partner``.
        run: Reads ``batch_size`` and what divides it.

    Raises:
        UserError: If the batch of a process and a micro-batch is odd.
    """
    rows = run.batch_size // (run.optim.accumulate * run.world)
    if partner == "flip" and rows % 2:
        raise UserError(
            f"flip pairing needs an even batch, got B={rows}",
            "method.partner=flip",
            "use another batch_size, or method.partner=random",
        )
