"""What steps were measured to take on an H200: the rows of docs/performance.md, once in code.

All rows are in bfloat16 with AdamW and EMA.
"""

import dataclasses
import math

DEVICE = "NVIDIA H200"
DEVICE_GIB = 139.0  # of its memory, what a program can have
SMALL, LARGE = (5, (480, 832), 62_400), (7, (704, 1280), 197_120)  # views, size, tokens
WAYMO = (5, (480, 848), 63_600)  # of 57 frames
PREDICT1 = "predict1_av_multiview_waymo"
ENCODE = ((29, 480, 832), 0.158)  # frames, rows, columns of one view, and seconds of its VAE


@dataclasses.dataclass(frozen=True)
class Row:
    """One measured step.

    Attributes:
        trainable: what was trained.
        clip: number of views, size in pixels, tokens.
        attention: backend.
        gib: peak memory of a device.
        tflops: model TFLOP/s of a device; 0: not timed, timed before the step was as it is, or
            with another `remat`.
        mesh: sizes of the axes data, fsdp, context.
        batch: number of samples.
        remat: what blocks kept.
        offload: moments and EMA were in host memory.
        source: "card": the peak on the card. "compiler": its figure for the card. "before": the
            peak on the card, before memory was cut from 73.3 to 68.9 GiB (first row).
        recipe: which of experiments/.
    """

    trainable: str
    clip: tuple[int, tuple[int, int], int]
    attention: str
    gib: float
    tflops: int = 0
    mesh: tuple[int, int, int] = (1, 1, 1)
    batch: int = 1
    remat: str = "attention"
    offload: bool = False
    source: str = "card"
    recipe: str = "transfer25_robotics_edge"

    @property
    def width(self) -> int:
        """Of the network."""
        return 4096 if self.recipe == PREDICT1 else 2048

    @property
    def cards(self) -> int:
        """Number of devices."""
        return math.prod(self.mesh)


ALL, CONTROL = ".*", "control/.*"
ROWS = (
    Row(ALL, SMALL, "cudnn", 68.9, 466),
    Row(ALL, SMALL, "fa3", 69.0, 509),
    Row(CONTROL, SMALL, "fa3", 31.2, 519),
    Row(CONTROL, SMALL, "cudnn", 30.7, 465),
    Row(ALL, LARGE, "fa3", 122.7, 512),
    Row(ALL, SMALL, "fa3", 22.0, 470, mesh=(1, 1, 4)),
    Row(ALL, SMALL, "cudnn", 20.2, 426, mesh=(1, 1, 4), source="compiler"),
    Row(ALL, LARGE, "fa3", 34.6, 507, mesh=(1, 1, 4)),
    Row(ALL, WAYMO, "fa3", 98.7, 498, mesh=(1, 1, 2), recipe=PREDICT1),
    Row(ALL, SMALL, "cudnn", 39.5, mesh=(1, 1, 2), source="before"),
    Row(CONTROL, SMALL, "cudnn", 17.9, mesh=(1, 1, 2), source="before"),
    Row(ALL, SMALL, "cudnn", 52.8, mesh=(1, 2, 1), batch=2, source="before"),
    Row(ALL, SMALL, "fa3", 90.4, remat="attention_inputs", source="compiler"),
    Row(ALL, SMALL, "fa3", 60.6, remat="offload", source="compiler"),
    Row(ALL, SMALL, "fa3", 60.6, remat="full", source="compiler"),
    Row(ALL, SMALL, "fa3", 43.1, offload=True, source="compiler"),
    Row(ALL, LARGE, "fa3", 94.0, remat="offload", source="compiler"),
)


def closest(control_only: bool, attention: str, tokens: int, cards: int, width: int) -> Row:
    """The timed row most like a step: of its attention, what it trains and its width, if there is
    one, then of the nearest number of tokens and of devices that share a sample.

    Args:
        control_only: no parameter of the trunk is trained.
        attention: backend.
        tokens: of a sample.
        cards: devices that share a sample.
        width: of the network.
    """

    def distance(row: Row) -> tuple[bool, bool, bool, float]:
        far = abs(math.log(row.clip[2] / tokens)) + abs(math.log(row.cards / cards))
        other_part = (row.trainable == CONTROL) != control_only
        return row.attention != attention, other_part, row.width != width, far

    return min((row for row in ROWS if row.tflops), key=distance)
