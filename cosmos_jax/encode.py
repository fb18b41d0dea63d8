"""Clips in host memory to the batch that a step sees: latents and text embeddings on the mesh."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, UInt8

from cosmos_jax import sharding
from cosmos_jax.types import Batch, Clip, Params, round_to


def pixels_to_latents(
    codec: Any, params: Params, pixels: UInt8[Array, "b v f y x 3"], dtype: Any
) -> Float[Array, "b v t h w c"]:
    """0..255 to [-1, 1] in `dtype`, then through the codec, each view alone; float32 latents."""
    scaled = round_to(pixels.astype(jnp.float32) / 127.5, dtype) - 1
    latents = codec.encode(params, scaled.astype(dtype)).astype(jnp.float32)
    return sharding.constrain(latents, "b v t h w c")


@dataclasses.dataclass(frozen=True)
class Text:
    """Where text embeddings come from.

    Attributes:
        embed: one caption to its embedding `[s e]`.
        shape: s, e.
        description: for logs.
        check: given the network's parameters, in the compute dtype, raises a ValueError where
            embeddings are projected already, and by another `text_project`.
    """

    embed: Callable[[str], np.ndarray]
    shape: tuple[int, int]
    description: str
    check: Callable[[Params], None]


def placed(batch: Batch, mesh: sharding.AnyMesh) -> Batch:
    """A batch of shapes with the shardings that `Encoder` gives its arrays."""
    rows = sharding.batch_sharding(batch.index.shape[0], mesh)

    def place(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        where = rows
        if leaf.ndim == 6 and mesh.size > 1:  # latents
            spec = sharding.activation_spec(leaf.shape, "b v t h w c", mesh)
            where = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree.map(place, batch)


CAPTIONS = 32  # embeddings kept; one of 512 x 100,352 takes 103 MB in bfloat16


class Encoder:
    """Encodes clips with one compiled function; holds the codec's weights.

    Args:
        codec: the codec.
        params: its weights.
        embed: one caption to its embedding `[s e]`.
        mesh: where batches go.
        dtype: the compute dtype.
    """

    def __init__(
        self,
        codec: Any,
        params: Params,
        embed: Callable[[str], np.ndarray],
        mesh: Mesh,
        dtype: Any,
    ):
        self.codec, self.params, self.mesh, self.dtype = codec, params, mesh, dtype
        # Views without a caption of their own share the empty one; episodes repeat theirs.
        self._embed = functools.lru_cache(maxsize=CAPTIONS)(
            lambda caption: embed(caption).astype(dtype)
        )
        self._encode = jax.jit(lambda p, pixels: pixels_to_latents(codec, p, pixels, dtype))
        self._place = jax.jit(lambda z: sharding.constrain(z.astype(jnp.float32), "b v t h w c"))

    def __call__(self, clip: Clip, rows: Sequence[int], batch: int) -> Batch:
        """Places this process's rows of a stacked `Clip` and encodes them.

        Args:
            clip: those rows of the global batch.
            rows: which rows they are: `sharding.batch_rows`, or all.
            batch: size of the global batch.
        """
        latents = self.latents(clip.video, rows, batch)
        control = None if clip.control is None else self.latents(clip.control, rows, batch)

        def put(array: Any, dtype: Any) -> jax.Array:
            return sharding.put_rows(rows, np.asarray(array, dtype), batch, self.mesh)

        return Batch(
            latents=latents,
            control=control,
            text=put(self.embed(clip.captions), self.dtype),
            view_ids=put(clip.view_ids, np.int32),
            index=put(clip.index, np.int32),
            fps=put(clip.fps, np.float32),
        )

    def latents(self, clips: np.ndarray, rows: Sequence[int], batch: int) -> jax.Array:
        """Pixels (uint8) or latents of this process's rows to global latents `[b v t h w c]`."""
        placed = sharding.put_rows(rows, clips, batch, self.mesh)
        return self._encode(self.params, placed) if clips.dtype == np.uint8 else self._place(placed)

    def embed(self, captions: Any) -> Float[np.ndarray, "b v s e"]:
        """Embeds the captions of a stack of clips in the compute dtype; keeps the latest."""
        return np.stack([np.stack([self._embed(caption) for caption in v]) for v in captions])
