"""The clips on which a run is validated: the same at every call, spread over the split."""

import dataclasses
from collections.abc import Sequence

import grain

from cosmos_jax.data import pipeline


def spread_windows(windows: int, count: int, repeat: bool = False) -> grain.MapDataset:
    """`count` windows in fixed order, evenly spread over all.

    Raises:
        ValueError: more are wanted than there are, and none may come again.
    """
    if count > windows and not repeat:
        raise ValueError(f"{count} clips are wanted for validation and the split holds {windows}")
    return grain.MapDataset.source([i * windows // count for i in range(count)])


def validation_iterator(
    clips: pipeline.Clips, count: int, rows: Sequence[int]
) -> pipeline.ClipIterator:
    """The same `count` clips in the same order at every call, spread over the split, of all views.

    Raises:
        ValueError: `count` is not a multiple of the batch, or more than the split holds.
    """
    if count % clips.config.batch_size:
        raise ValueError(
            f"{count} validation clips are not a multiple of data.batch_size="
            f"{clips.config.batch_size}"
        )
    whole = dataclasses.replace(clips, config=dataclasses.replace(clips.config, views=None))
    several = clips.config.starts == "random"  # a window is another clip at another index
    return pipeline.ClipIterator(whole, spread_windows(len(clips), count, several), 0, rows, 0)
