"""Step caching: where the network's answer barely changes, the last one is used again.

Between two evaluations the velocity's change is about in proportion to the change of the sample.
The ratio is taken from the last two evaluations; while the change that it predicts since the last
one stays below a threshold, steps are taken with the last velocity, without the network.
The criterion is that of EasyCache (Zhou et al. 2025, arXiv:2507.02860), which reuses the difference
of output and input; the velocity of a straight path does not change along it, so here the velocity
itself is reused.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

WARM_UP = 0.2  # of the steps, at the start, which decide what is seen: always evaluated


@jax.jit
def _distances(
    x: Array, x_last: Array, v_last: Array, x_before: Array, v_before: Array
) -> Float[Array, "4"]:
    """Mean absolute changes of the sample since the last evaluation, and between the last two."""

    def mean(a: Array) -> Array:
        return jnp.mean(jnp.abs(a))

    return jnp.stack(
        [mean(x - x_last), mean(v_last), mean(x_last - x_before), mean(v_last - v_before)]
    )


class StepCache:
    """Says for each step whether the last velocity will do.

    Args:
        threshold: predicted relative change of the velocity up to which it is reused; 0: never.
        steps: evaluations that would be made without a cache.
    """

    def __init__(self, threshold: float, steps: int):
        self._threshold, self._last = threshold, steps - 1
        self._first = max(2, round(WARM_UP * steps))
        self._evaluated: list[tuple[Array, Array]] = []
        self._guided: bool | None = None

    def reuse(
        self, step: int, x: Float[Array, "*shape"], guided: bool
    ) -> Float[Array, "*shape"] | None:
        """The velocity to take a step with, or None: evaluate the network.

        What was answered with guidance does not stand for an answer without, nor the reverse.
        """
        if not self._threshold or step < self._first or step == self._last:
            return None
        if guided != self._guided or len(self._evaluated) < 2:
            return None
        (x_before, v_before), (x_last, v_last) = self._evaluated
        numbers = jax.device_get(_distances(x, x_last, v_last, x_before, v_before))
        moved, size, moved_then, changed_then = (float(n) for n in numbers)
        if moved_then == 0 or size == 0:
            return None
        predicted = changed_then / moved_then * moved / size
        return v_last if predicted < self._threshold else None

    def evaluated(self, x: Float[Array, "*shape"], v: Float[Array, "*shape"], guided: bool) -> None:
        """Notes the network's answer at a sample."""
        if self._threshold:
            kept = self._evaluated[-1:] if guided == self._guided else []
            self._evaluated, self._guided = [*kept, (x, v)], guided
