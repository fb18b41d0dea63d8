"""What is trained, by which optimiser, and the average of the weights that sampling uses."""

import dataclasses
import difflib
import importlib
import re
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from cosmos_jax.types import Params, round_to

ADAPTERS = ".*/lora_.*"  # what is trained of a network with adapters


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule.

    Attributes:
        lr: the learning rate that the schedule multiplies; the peak is lr * f_max.
        weight_decay: decoupled, of ALL trainable tensors, also of norms and biases.
        clip: global norm to which gradients are clipped.
        warm_up_steps: steps from f_start to f_max.
        cycle_length: steps, warm-up included, to f_min. A run may be shorter but not longer.
        f_max: multiplier at the end of the warm-up.
        f_min: multiplier at the end of the cycle.
        f_start: multiplier of step 0.
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the root of the second moment.
        lr_factors: pairs of a regex, for the whole path of a parameter, and what its learning rate
            is multiplied by; the first that fits counts. The weight decay scales with it.
    """

    lr: float
    weight_decay: float
    clip: float
    warm_up_steps: int
    cycle_length: int
    f_max: float
    f_min: float
    f_start: float = 1e-6
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    lr_factors: tuple[tuple[str, float], ...] = ()


def lambda_linear(
    warm_up_steps: Sequence[int],
    cycle_lengths: Sequence[int],
    f_start: Sequence[float],
    f_max: Sequence[float],
    f_min: Sequence[float],
) -> optax.Schedule:
    """The LambdaLinear multiplier of the learning rate: per cycle, linear up, then linear down.

    Step n of a cycle gives f_start + (f_max - f_start) n / warm up to `warm`, and from there
    f_min + (f_max - f_min) (cycle - n) / (cycle - warm). Step numbers start at 0. Steps beyond the
    last cycle have no multiplier (the reference stops there): see `learning_rate`.

    Raises:
        ValueError: lists of different lengths, or a warm-up as long as its cycle.
    """
    lists = (warm_up_steps, cycle_lengths, f_start, f_max, f_min)
    if not cycle_lengths or any(len(values) != len(cycle_lengths) for values in lists):
        raise ValueError(f"the schedule's lists need one entry a cycle each, not {lists}")
    cycles = []
    for warm, length, low, high, end in zip(*lists):
        if not 0 <= warm < length:
            raise ValueError(
                f"warm_up_steps={warm} must lie in 0..{length - 1}: it is part of the cycle "
                f"(cycle_length={length})"
            )
        up, down = _line(low, high, warm), _line(high, end, length - warm)
        cycles.append(optax.join_schedules([up, down], [warm]))
    # A cycle's end belongs to that cycle: the next one begins at its own step 1.
    later = [lambda n, cycle=cycle: cycle(n + 1) for cycle in cycles[1:]]
    ends = np.cumsum(cycle_lengths)[:-1]
    return optax.join_schedules([cycles[0], *later], [int(end) + 1 for end in ends])


def _line(start: float, end: float, steps: int) -> optax.Schedule:
    """`optax.linear_schedule` starts from `end - (end - start)`: too coarse for a start of 1e-6."""
    return lambda n: start + (end - start) * n / float(max(steps, 1))  # may exceed int32


def learning_rate(config: OptimConfig, steps: int) -> optax.Schedule:
    """The learning rate of each of a run's `steps` steps.

    Raises:
        ValueError: the run is longer than the schedule.
    """
    if steps > config.cycle_length:
        raise ValueError(
            f"{steps} training steps exceed the schedule's cycle_length={config.cycle_length}; "
            "lengthen the cycle or train fewer steps"
        )
    multiplier = lambda_linear(
        (config.warm_up_steps,),
        (config.cycle_length,),
        (config.f_start,),
        (config.f_max,),
        (config.f_min,),
    )
    return lambda step: config.lr * multiplier(step)


def zero_nonfinite(grads: Params) -> Params:
    """Gradients with NaN and infinities set to 0, entry by entry, so that the rest still counts."""
    # The barrier: XLA would make one array of these zeros and of those that gradients start from,
    # and hold it through the backward pass.
    zero = jax.lax.optimization_barrier(jnp.zeros(()))
    return jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, zero.astype(g.dtype)), grads)


def optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Zeroes what is not finite, clips the global norm of the rest, then AdamW, then `lr_factors`.

    Raises:
        ValueError: see `learning_rate`, `lambda_linear` and `lr_factors.scaling`; a clip that is
            not positive.
    """
    if config.clip <= 0:
        raise ValueError(
            f"clip={config.clip} must be positive: it bounds the gradient's global norm"
        )
    scaled = []
    if config.lr_factors:
        factors = importlib.import_module("cosmos_jax.lr_factors")
        scaled.append(factors.scaling(config.lr_factors))
    return optax.chain(
        optax.stateless(lambda grads, params: zero_nonfinite(grads)),
        optax.clip_by_global_norm(config.clip),
        optax.adamw(
            learning_rate(config, steps),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
        ),
        *scaled,
    )


def ema_exponent(rate: float) -> float:
    """The exponent gamma of the power-function average of relative width `rate` (published: 0.1).

    The largest real root of g^3 + 7 g^2 + (16 - rate^-2) g + (12 - rate^-2), of Karras et al. 2023,
    "Analyzing and Improving the Training Dynamics of Diffusion Models".

    Raises:
        ValueError: no root is positive.
    """
    if not 0 < rate < 12**-0.5:
        raise ValueError(
            f"EMA rate {rate}: the relative width of the average must lie in (0, 0.288)"
        )
    roots = np.roots([1, 7, 16 - rate**-2, 12 - rate**-2])
    return float(roots[np.isreal(roots)].real.max())


def ema_weight(step: Int[Array, ""], rate: float) -> Float[Array, ""]:
    """The weight 1 - beta of the newest parameters, beta = (1 - 1 / (step + 1)) ** (gamma + 1).

    `step` counts finished steps before this one: at 0 the weight is 1 and the average is the
    parameters. Computed by expm1, because late in a run 1 - beta has no digits left in float32.
    """
    return -jnp.expm1((ema_exponent(rate) + 1) * jnp.log1p(-1 / (step + 1)))


def ema_update(
    ema: Params, params: Params, step: Int[Array, ""], rate: float, dtype: DTypeLike
) -> Params:
    """Averages the parameters after a step into `ema` (float32).

    Args:
        ema: the average so far.
        params: float32 masters after the step. What is averaged is their rounding to `dtype`, the
            weights that the network computes with, as in the reference.
        step: the number of steps finished before this one.
        rate: see `ema_exponent`.
        dtype: the compute dtype.
    """
    rounded = jax.tree.map(lambda p: round_to(p, dtype), params)
    return optax.incremental_update(rounded, ema, ema_weight(step, rate))


def split_trainable(params: Params, pattern: str) -> tuple[Params, Params]:
    """Splits parameters into (trainable, frozen): two nested dicts that `merge` joins again.

    Gradients, optimiser state and EMA are made of the first alone.

    Args:
        params: nested dict.
        pattern: a regex that matches the whole '/'-joined path of what is trained: "control/.*".

    Raises:
        ValueError: the pattern is not a regex, or it matches nothing; names the nearest paths.
    """
    fits = compiled(pattern, "trainable pattern")
    flat = traverse_util.flatten_dict(params, sep="/")
    trainable = {path: leaf for path, leaf in flat.items() if fits.fullmatch(path)}
    if not trainable:
        raise ValueError(
            f"trainable pattern {pattern!r} matches no parameter; near it: {near(pattern, flat)}"
        )
    frozen = {path: leaf for path, leaf in flat.items() if path not in trainable}
    return _nest(trainable), _nest(frozen)


def merge(trainable: Params, frozen: Params) -> Params:
    """Joins what `split_trainable` split.

    Raises:
        ValueError: a parameter that is in both.
    """
    one = traverse_util.flatten_dict(trainable, sep="/")
    two = traverse_util.flatten_dict(frozen, sep="/")
    if both := sorted(one.keys() & two.keys()):
        raise ValueError(f"parameters both trainable and frozen: {both}")
    return _nest({**one, **two})


def compiled(pattern: str, what: str) -> re.Pattern:
    """A regex; raises a ValueError that names `what` it was to be."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{what} {pattern!r} is not a regex: {error}") from None


def _nest(flat: Params) -> Params:
    return traverse_util.unflatten_dict(flat, sep="/")


def near(pattern: str, paths: Iterable[str]) -> list[str]:
    """Parameter paths, and the groups above them, that look most like the pattern."""
    parts = [path.split("/") for path in paths]
    known = sorted({"/".join(p[: i + 1]) for p in parts for i in range(len(p))})
    wanted = re.sub(r"[^\w/]", "", pattern).strip("/")
    return difflib.get_close_matches(wanted, known, n=3, cutoff=0.4) or sorted(
        {p[0] for p in parts}
    )
