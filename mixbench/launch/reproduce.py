"""From a published figure to the runs that repeat it: which recipe, what it costs, what differs."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

from mixbench.config.compose import compose, to_plain
from mixbench.config.names import NETS
from mixbench.config.schema import DataConfig, DataInfo, RunConfig, keys_not_in_identity
from mixbench.data.images import PUBLISHED_SIZES
from mixbench.errors import UserError
from mixbench.leaderboard.literature import Figure, figures
from mixbench.leaderboard.reproduction import needs_peek, published
from mixbench.records.identity import differences
from mixbench.training.build import estimate_seconds
from mixbench.training.job import resolve, training_device

PEEKED_SCORES = ("top1", "map")  # scores that each epoch can be tested for
TIMED_IMAGES = 32  # images that a step is timed with on a CPU; eight times as many on a GPU


def matching_figures(method: str, data: str, net: str) -> list[Figure]:
    """Published figures that an official recipe repeats, one of the recipe as it stands first.

    Args:
        method: Name of the method.
        data: Name of the data set.
        net: Name of the network.

    Returns:
        The figures; never empty.

    Raises:
        UserError: If there is none, with what there is.
    """
    found = figures(method, data, net)
    linked = [each for each in found if each.recipe is not None and each.score in PEEKED_SCORES]
    if linked:
        return sorted(linked, key=lambda each: bool(each.overrides))
    where = f"{method} on {data} with {net}"
    if found:
        raise UserError(
            "a figure is published, but its official recipe is not part of mixbench: "
            f"{published(found[0])}",
            where,
            "mixbench run trains it with another recipe; the figures are not comparable then",
        )
    others = sorted({f"{each.data} {each.net}" for each in figures(method) if each.recipe})
    todo = f"official recipes are for: {', '.join(others) or 'no setting'}"
    nets = dict.fromkeys(each.net for each in figures(method, data))
    if not nets:
        raise UserError("mixbench knows no published figure of it", where, todo)
    shown = ", ".join(
        name if name in NETS.names() else f"{name} (not part of mixbench)" for name in nets
    )
    what = f"published on {data} for other networks only: {shown}"
    raise UserError(what, where, todo)


def official_words(figure: Figure) -> list[str]:
    """Overrides of the official recipe of a figure.

    Args:
        figure: A figure with a recipe.

    Returns:
        Words for the command line, the test score of every epoch included where it is needed.
    """
    words = [f"method={figure.method}", f"data={figure.data}", f"net={figure.net}"]
    words += [f"recipe={figure.recipe}", *figure.overrides]
    return [*words, "peek=true"] if needs_peek(figure) else words


def recipe_changes(figure: Figure, config: RunConfig) -> dict[str, list[Any]]:
    """Keys in which a run differs from the official recipe.

    Args:
        figure: A figure with a recipe.
        config: What is to be run.

    Returns:
        Official and own value by dotted key; what the figure needs to be given does not count.

    Raises:
        UserError: If something that the recipe needs is not given.
    """
    plain, official = to_plain(config), to_plain(compose(official_words(figure)))
    found = differences(official, plain, keys_not_in_identity())
    for key in figure.needs:
        if key not in found:
            raise UserError(
                f"the published value needs {key}: {figure.setting}",
                f"{figure.method} on {figure.data}",
                f"add {key}=...",
            )
        del found[key]
    return found


def expected_seconds(config: RunConfig) -> float | None:
    """Time of a run on this machine, before its data is there.

    A few steps of the network are timed, with a part of the batch so that none is too large.

    Args:
        config: A composed configuration.

    Returns:
        Seconds of training; None for data whose size is not known in advance.
    """
    info = expected_info(config.data)
    if info is None:
        return None
    import torch

    torch.set_num_threads(config.trainer.threads)
    limit = TIMED_IMAGES if training_device(config).type == "cpu" else 8 * TIMED_IMAGES
    with contextlib.suppress(ValueError):  # at what devices and accumulation divide
        while config.batch_size > limit:
            config = dataclasses.replace(config, batch_size=config.batch_size // 2)
    return estimate_seconds(resolve(config), info)


def expected_info(data: DataConfig) -> DataInfo | None:
    """Facts of a data set as published.

    Args:
        data: What is asked for.

    Returns:
        Sizes after the subsets that are asked for, or None where they are not known in advance.
    """
    if data.kind not in PUBLISHED_SIZES:
        return None
    classes, side, count = PUBLISHED_SIZES[data.kind]
    count = max(1, round(count * data.train_fraction))
    side = data.size or side
    return DataInfo(classes, side, side, train_size=min(count, data.limit or count))


def choose_figure(found: Sequence[Figure], number: int) -> Figure:
    """One of several figures.

    Args:
        found: The figures.
        number: Its place, from 1.

    Returns:
        The figure.

    Raises:
        UserError: If there are fewer.
    """
    if not 1 <= number <= len(found):
        raise UserError(
            f"the number must be one of {len(found)} figures", "--figure", f"give 1 to {len(found)}"
        )
    return found[number - 1]
