"""Model FLOPs of the network: products and attention, counted once, recomputation never.

A multiply-add is 2 FLOPs. Norms, gates, rotations and softmax are left out, as is usual for "model
FLOPs". A forward product of m x k by k x n costs 2 m k n; in a training step its gradient costs as
much for the input and, where the weight is trained, as much again for the weight. The backward of
attention costs twice its forward.
"""

import dataclasses
import itertools

from cosmos_jax.models.dit import DiTConfig


@dataclasses.dataclass(frozen=True)
class Count:
    """FLOPs of one forward pass of one sample, by what they become in a training step.

    Attributes:
        products: of weights with activations.
        attention: of queries with keys and of scores with values.
    """

    products: int | float
    attention: int | float

    def __add__(self, other: "Count") -> "Count":
        return Count(self.products + other.products, self.attention + other.attention)

    def times(self, n: int) -> "Count":
        """n of these."""
        return Count(self.products * n, self.attention * n)

    @property
    def forward(self) -> int | float:
        """FLOPs of the forward pass."""
        return self.products + self.attention

    def step(self, trained: bool) -> int | float:
        """FLOPs of a training step: forward, gradient of inputs and, if `trained`, of weights."""
        return self.products * (3 if trained else 2) + 3 * self.attention


def tokens(config: DiTConfig, shape: tuple[int, int, int, int]) -> int:
    """Tokens of one sample with latents of shape v, t, h, w."""
    v, t, h, w = shape
    return v * t * (h // config.patch) * (w // config.patch)


def scores(queries: int, keys: int | float, width: int) -> int | float:
    """One attention's forward pass, all heads: queries with keys, and weights with values."""
    return 4 * queries * keys * width


def block(config: DiTConfig, shape: tuple[int, int, int, int], text_tokens: int) -> Count:
    """One transformer block on one sample with latents v, t, h, w and text of each view."""
    v, t, *_ = shape
    length, d = tokens(config, shape), config.width
    seen = length if config.joint_views else length // v
    products = 2.0 * length * d * (4 * d + 2 * d + 2 * config.mlp_width)
    products += 2 * v * text_tokens * config.text_width * 2 * d
    attention = scores(length, seen + text_tokens, d)
    if config.neighbours:
        others = sum(map(len, config.neighbours)) / len(config.neighbours)
        products += 2 * length * d * 4 * d
        attention += scores(length, length / (v * t), d) * others
    return Count(products, attention)


def dit(
    config: DiTConfig, shape: tuple[int, int, int, int], text_tokens: int
) -> tuple[Count, Count]:
    """Trunk and control branch, one forward pass of one sample.

    Args:
        config: the variant.
        shape: v, t, h, w of the latents.
        text_tokens: of each view.
    """
    length, d, patch = tokens(config, shape), config.width, config.patch**2
    inputs = config.channels + config.masked + config.pads + config.view_channels
    ends = 2 * length * d * patch * (inputs + config.channels)
    if config.text_features:
        ends += 2 * shape[0] * text_tokens * config.text_features * config.text_width
    one = block(config, shape, text_tokens)
    trunk = one.times(config.blocks) + Count(ends, 0)
    if not config.control_blocks:
        return trunk, Count(0, 0)
    control_inputs = config.control_channels + 1 + config.pads + config.view_channels
    widths = (d, *config.hint_widths, d)
    stem = 2 * length * d * patch * control_inputs
    stem += 2 * length * sum(a * b for a, b in itertools.pairwise(widths))
    after = 2 * length * d * d
    control = (one + Count(after, 0)).times(len(config.control_blocks)) + Count(stem, 0)
    return trunk, control


def forward(config: DiTConfig, shape: tuple[int, int, int, int], text_tokens: int) -> int | float:
    """Model FLOPs of one evaluation of the network for one sample, as in sampling."""
    trunk, control = dit(config, shape, text_tokens)
    return trunk.forward + control.forward


def training_step(
    config: DiTConfig,
    shape: tuple[int, int, int, int],
    text_tokens: int,
    trunk_trained: bool,
    control_trained: bool,
) -> int | float:
    """Model FLOPs of one training step on one sample."""
    trunk, control = dit(config, shape, text_tokens)
    return trunk.step(trunk_trained) + control.step(control_trained)
