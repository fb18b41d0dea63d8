"""Attention across views, which the networks of "cross-view" control have (Agibot)."""

import einops
import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from cosmos_jax.models import attention


@flax.struct.dataclass
class Neighbours:
    """Which views every view looks at in cross-view attention.

    Attributes:
        pick: 1 where slot m of view v holds view u, present neighbours first; absent: a row of 0.
        present: which slots hold a view.
    """

    pick: Float[Array, "b v m u"]
    present: Bool[Array, "b v m"]


def find_neighbours(
    view_ids: Int[Array, "b v"], neighbours: tuple[tuple[int, ...], ...]
) -> Neighbours:
    """Finds each view's neighbours among the views of its sample.

    Args:
        view_ids: the id of every view.
        neighbours: for every id, the ids that it looks at; those not in the sample are left out.
    """
    slots = max(map(len, neighbours))
    table = jnp.array([ids + (-1,) * (slots - len(ids)) for ids in neighbours])
    wanted = table[view_ids]
    pick = wanted[:, :, :, None] == view_ids[:, None, None, :]
    order = jnp.argsort(~pick.any(-1), axis=-1, stable=True)
    pick = jnp.take_along_axis(pick, order[..., None], axis=2)
    return Neighbours(pick.astype(jnp.float32), pick.any(-1))


def view_attention(
    q: attention.Tokens,
    k: attention.Tokens,
    v: attention.Tokens,
    neighbours: Neighbours,
    *,
    backend: str,
) -> attention.Tokens:
    """Attention of a frame's tokens to those of the same frame of the neighbour views.

    A view without a neighbour in its sample gets zeros.
    """

    def local(
        q: Array, k: Array, v: Array, pick: Array, present: Array, split: int | None
    ) -> Array:
        if split == attention.TOKENS.split().index("h"):
            k, v = (jax.lax.all_gather(x, "context", axis=split, tiled=True) for x in (k, v))
        # A product with zeros and ones: exact, and its gradient needs no scatter.
        pick = pick.astype(q.dtype)
        k, v = (jnp.einsum("bvmu,buthwnk->bvtmhwnk", pick, x) for x in (k, v))
        count = present.sum(-1, dtype=jnp.int32)[:, :, None]
        tokens = jnp.maximum(count, 1) * (k.shape[4] * k.shape[5])
        lengths = jnp.broadcast_to(tokens, q.shape[:3]).reshape(-1)
        k, v = (einops.rearrange(x, "b v t m h w n k -> (b v t) (m h w) n k") for x in (k, v))
        flat = einops.rearrange(q, "b v t h w n k -> (b v t) (h w) n k")
        y = attention.kernel(flat, k, v, backend, lengths).reshape(q.shape)
        return jnp.where((count > 0)[..., None, None, None, None], y, 0)

    arrays = (q, k, v, neighbours.pick, neighbours.present)
    return attention.on_shards(local, arrays, (attention.TOKENS,) * 3 + ("b v m u", "b v m"))
