"""Attention among tokens, to text and across views, against plain sums; the same on every mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosmos_jax import sharding
from cosmos_jax.models import attention, view_attention
from cosmos_jax.models import cudnn as kernels

pytestmark = pytest.mark.core


def plain(q, k, v):
    """softmax(q k') v of one head: q [l k], k and v [m k]."""
    scores = q @ k.T / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def close(a, b):
    np.testing.assert_allclose(a, b, atol=2e-6, rtol=0)


def queries(b=2, v=2, t=2, h=2, w=3, n=2, k=4):
    return [draw(b, v, t, h, w, n, k, seed=i) for i in range(3)]


@pytest.mark.parametrize("joint", [True, False])
def test_self_attention_is_a_softmax_over_all_tokens_or_those_of_a_view(joint):
    q, k, v = queries()
    ours = attention.self_attention(*map(jnp.asarray, (q, k, v)), joint=joint, backend="xla")
    for b, view, n in np.ndindex(2, 2, 2):
        mine = (b, view, slice(None), slice(None), slice(None), n)
        seen = (b, slice(None), *mine[2:]) if joint else mine
        wanted = plain(q[mine].reshape(-1, 4), k[seen].reshape(-1, 4), v[seen].reshape(-1, 4))
        close(ours[mine].reshape(-1, 4), wanted)


def test_attention_to_two_parts_of_the_keys_joins_to_attention_to_all():
    q, k, v = (draw(5, 4, seed=i) for i in range(3))
    k[2] *= 9  # one key that takes nearly all of some rows
    scores = q @ k.T / 2

    def part(keys):
        y = plain(q, k[keys], v[keys])
        lse = np.log(np.exp(scores[:, keys]).sum(-1))
        return jnp.asarray(y)[None, :, None], jnp.asarray(lse)[None, None]

    joined, lse = kernels.join(*part(slice(3)), *part(slice(3, None)))
    close(joined[0, :, 0], plain(q, k, v))
    close(lse[0, 0], np.log(np.exp(scores).sum(-1)))


def forward_kernel(q, k, v, *, scale, return_residual):
    """What cuDNN's forward kernel gives with its log-sum-exp."""
    assert return_residual
    scores = jnp.einsum("blnk,bmnk->bnlm", q, k) * scale
    lse = jax.nn.logsumexp(scores, -1)
    return jnp.einsum("bnlm,bmnk->blnk", jnp.exp(scores - lse[..., None]), v), lse


def backward_kernel(scale, *how_and_kept):
    """What cuDNN's backward kernel gives: weights come from the log-sum-exp that it gets."""
    *_, (q, k, v, *_, lse, y), dy = how_and_kept
    weights = jnp.exp(jnp.einsum("blnk,bmnk->bnlm", q, k) * scale - lse[..., None])
    pulled = jnp.einsum("blnk,bmnk->bnlm", dy, v) - jnp.swapaxes((dy * y).sum(-1), 1, 2)[..., None]
    dq = jnp.einsum("bnlm,bmnk->blnk", weights * pulled * scale, k)
    dk = jnp.einsum("bnlm,blnk->bmnk", weights * pulled * scale, q)
    return dq, dk, jnp.einsum("bnlm,blnk->bmnk", weights, dy), None


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("keys, parts", [(7, [4, 3]), (8, [8])])
def test_many_keys_get_their_gradients(monkeypatch, keys, parts, by_head):
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    q, dy = (jnp.asarray(draw(2, 5, 3, 4, seed=i)) for i in range(2))
    k, v = (jnp.asarray(draw(2, keys, 3, 4, seed=i)) for i in range(2, 4))
    plain_xla = functools.partial(jax.nn.dot_product_attention, implementation="xla")
    wanted, pull = jax.vjp(plain_xla, q, k, v)
    forward, backward = [], []

    def counted(*args, **options):
        forward.append(args[1].shape[1])
        return forward_kernel(*args, **options)

    def counted_back(*args):
        backward.append(args[-1].shape[2])
        return backward_kernel(*args)

    monkeypatch.setattr(cudnn, "dot_product_attention", counted)
    monkeypatch.setattr(cudnn, "_dot_product_attention_bwd_rule", counted_back)
    monkeypatch.setattr(kernels, "TILE", 4)
    ours, pull_ours = jax.vjp(lambda *qkv: kernels._many_keys(*qkv, by_head), q, k, v)
    close(ours, wanted)
    for grad, right in zip(pull_ours(dy), pull(dy), strict=True):
        close(grad, right)
    assert forward == parts
    assert backward == ([1, 1, 1] if by_head else [3])


@pytest.mark.parametrize("remat, runs", [("attention", 2), ("full", 4)])
@pytest.mark.parametrize("backend, backward", [("cudnn", 1), ("cudnn_by_head", 2)])
def test_what_is_kept_of_the_two_parts_spares_their_kernels(
    monkeypatch, remat, runs, backend, backward
):
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(kernels, "MANY_KEYS", 256)
    q = jnp.zeros((1, 300, 2, 64), jnp.bfloat16)
    attend = functools.partial(attention.kernel, backend=backend)
    block = jax.checkpoint(attend, policy=attention.REMAT[remat])
    jaxpr = str(jax.make_jaxpr(jax.grad(lambda q: block(q, q, q).sum()))(q))
    assert jaxpr.count("= dot_product_attention_fwd_wrapper[") == runs
    assert jaxpr.count("= dot_product_attention_bwd_wrapper[") == backward


def test_text_attention_sees_the_text_of_its_own_view():
    q, k, v = queries()[0], draw(2, 2, 5, 2, 4, seed=1), draw(2, 2, 5, 2, 4, seed=2)
    ours = attention.text_attention(*map(jnp.asarray, (q, k, v)), backend="xla")
    for b, view, n in np.ndindex(2, 2, 2):
        wanted = plain(q[b, view, :, :, :, n].reshape(-1, 4), k[b, view, :, n], v[b, view, :, n])
        close(ours[b, view, :, :, :, n].reshape(-1, 4), wanted)


NEIGHBOURS = ((2, 1), (0,), (3, 0), ())
# The second sample has other views, in another order; its view 2 misses neighbour 3.
VIEW_IDS = ((0, 1, 3), (2, 3, 0))
SEEN = (((1,), (0,), ()), ((2, 1), (), (0,)))


def across_views(q, k, v):
    found = view_attention.find_neighbours(jnp.array(VIEW_IDS), NEIGHBOURS)
    return view_attention.view_attention(q, k, v, found, backend="xla")


def test_view_attention_sees_the_same_frame_of_the_neighbours():
    q, k, v = queries(v=3)
    ours = across_views(*map(jnp.asarray, (q, k, v)))
    for b, view, t, n in np.ndindex(2, 3, 2, 2):
        mine = ours[b, view, t, :, :, n].reshape(-1, 4)
        if not SEEN[b][view]:
            assert not mine.any()
            continue
        seen = [np.concatenate([x[b, u, t, :, :, n] for u in SEEN[b][view]]) for x in (k, v)]
        wanted = plain(q[b, view, t, :, :, n].reshape(-1, 4), *(x.reshape(-1, 4) for x in seen))
        close(mine, wanted)


def test_views_without_neighbours_have_finite_gradients():
    q, k, v = map(jnp.asarray, queries(v=3))
    grads = jax.grad(lambda *qkv: across_views(*qkv).sum(), argnums=(0, 1, 2))(q, k, v)
    assert all(np.isfinite(grad).all() for grad in grads)
    assert not grads[0][0, 2].any()


SELF = functools.partial(attention.self_attention, backend="xla")
MESHES = {
    "batch": (dict(data=2, fsdp=4), dict(b=8), "joint"),
    "batch that does not divide": (dict(data=8), dict(b=2), "joint"),
    "frames, heads exchanged": (dict(data=2, fsdp=2, context=2), dict(b=4, n=4), "joint"),
    "frames, keys gathered": (dict(data=4, context=2), dict(b=4, n=3), "joint"),
    "rows, heads exchanged": (dict(fsdp=2, context=4), dict(h=4, n=4), "joint"),
    "rows, keys gathered": (dict(fsdp=2, context=4), dict(h=4, n=2), "joint"),
    "every view, frames": (dict(data=4, context=2), dict(b=4), "every"),
    "every view, rows": (dict(data=2, context=4), dict(h=4, n=4), "every"),
    "across, frames": (dict(data=2, fsdp=2, context=2), dict(v=3), "across"),
    "across, rows": (dict(data=2, context=4), dict(v=3, t=3, h=4), "across"),
    "text": (dict(data=2, fsdp=2, context=2), dict(b=4), "text"),
}


@pytest.mark.parametrize("name", MESHES)
def test_a_mesh_changes_neither_result_nor_gradient(name):
    axes, sizes, kind = MESHES[name]
    q, k, v = map(jnp.asarray, queries(**sizes))
    functions = {
        "joint": functools.partial(SELF, joint=True),
        "every": functools.partial(SELF, joint=False),
        "across": across_views,
        "text": functools.partial(attention.text_attention, backend="xla"),
    }
    if kind == "text":
        k, v = k[:, :, 0, 0], v[:, :, 0, 0]

    def run(q, k, v):
        y, pull = jax.vjp(functions[kind], q, k, v)
        return y, *pull(jnp.cos(y))

    wanted = jax.jit(run)(q, k, v)
    with jax.set_mesh(sharding.make_mesh(**axes)):
        program = jax.jit(run).lower(q, k, v).compile()
        got = program(q, k, v)
    for a, b in zip(got, wanted):
        close(a, b)
    text = program.as_text()
    exchanges = "exchanged" in name or kind == "every"
    assert (" all-to-all(" in text) == exchanges
    assert (" all-gather(" in text) == ("gathered" in name or name == "across, rows")
