"""Model FLOPs: the products that the network's program really holds, and the spec's numbers."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
import tiny
from jax.interpreters import partial_eval

from cosmos_jax import build, flops, flops_codecs, flops_cv8x8x8, flops_vae
from cosmos_jax.models.cv8x8x8 import CV8x8x8
from cosmos_jax.models.dct_codec import DCTCodec
from cosmos_jax.models.dit import DiT
from cosmos_jax.models.wan_vae import WanVAE

pytestmark = pytest.mark.core

TINY = tiny.config()
VARIANTS = {
    "control": TINY,
    "single view": dataclasses.replace(
        TINY,
        view_rows=0,
        view_channels=0,
        control_blocks=(),
        control_channels=0,
        hint_widths=(),
        text_features=0,
    ),
    "cross-view": dataclasses.replace(
        TINY,
        joint_views=False,
        view_channels=0,
        view_modulation=True,
        neighbours=((1, 2), (0, 2), (0, 1)),
        hint_widths=(),
        pads=False,
    ),
    "several hints": dataclasses.replace(
        TINY, blocks=3, control_blocks=(0, 2), hint_widths=(48, 16), mlp_width=40
    ),
}


def products(jaxpr):
    """FLOPs of all products and convolutions of a program, those of a scan's body once a turn."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            *inner, _ = equation.invars[1].aval.shape  # rows, columns, inputs, outputs
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(inner)
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2 * math.prod(out) * math.prod(left[axis] for axis in contracted)
        inner = [x for value in equation.params.values() for x in jax.tree.leaves(value)]
        bodies = [getattr(x, "jaxpr", x) for x in inner]
        turns = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += turns * sum(products(body) for body in bodies if hasattr(body, "eqns"))
    return total


def program(config, shape, text_tokens, of=lambda loss: loss):
    """One forward pass on one sample, or a function `of` it, as a program that is never run."""
    v = shape[0]

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    latents = array(1, *shape, config.channels)
    inputs = dict(
        latents=latents,
        timesteps=array(1, 1, 1),
        text=array(1, v, text_tokens, config.text_features or config.text_width),
        view_ids=array(1, v, dtype=jnp.int32),
        condition_mask=array(1, v, shape[1]),
        control=latents if config.control_blocks else None,
    )
    net = DiT(config)
    variables = jax.eval_shape(lambda inputs: net.init(jax.random.key(0), **inputs), inputs)

    def loss(params, constants, inputs):
        return net.apply({"params": params, "constants": constants}, **inputs).sum()

    arguments = variables["params"], variables["constants"], inputs
    jaxpr = jax.make_jaxpr(of(loss))(*arguments).jaxpr
    # Without what nobody reads, as compiled: some backward passes give gradients by the bundle.
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def left_out(config, shape):
    """Products that are no model FLOPs: time, modulation, and the choice of views."""
    d, rank, views = config.width, config.modulation_rank, shape[0]
    blocks = config.blocks + len(config.control_blocks)
    total = d * d + d * 3 * d + blocks * 3 * (d * rank + rank * 3 * d) + d * rank + rank * 2 * d
    if config.view_modulation:
        total += views * d * 9 * d
    if config.neighbours:
        total += blocks * 2 * 2 * views * flops.tokens(config, shape) * d
    return 2 * total


@pytest.mark.parametrize("name", VARIANTS)
def test_a_forward_pass_is_the_products_of_the_program(name):
    config, shape = VARIANTS[name], (3, 2, 4, 6)
    trunk, control = flops.dit(config, shape, text_tokens=5)
    held = products(program(config, shape, 5))
    assert held == trunk.forward + control.forward + left_out(config, shape)


def test_the_tiny_network_by_hand():
    # 2 views x 3 frames x 2 x 2 patches, width 32, MLP 64; 5 text tokens of 16 from 8 features.
    config = dataclasses.replace(TINY, control_blocks=(), control_channels=0, hint_widths=())
    tokens = 2 * 3 * 2 * 2
    assert flops.tokens(config, (2, 3, 4, 4)) == tokens
    block = flops.block(config, (2, 3, 4, 4), text_tokens=5)
    self_attention = 4 * 32 * 32 * tokens
    text_attention = 2 * 32 * 32 * tokens + 2 * 16 * 32 * (2 * 5)
    mlp = 2 * 32 * 64 * tokens
    assert block.products == 2 * (self_attention + text_attention + mlp)
    assert block.attention == 4 * tokens * 32 * (tokens + 5)
    ends = tokens * 4 * (16 + 1 + 1 + 7) * 32 + tokens * 32 * 4 * 16 + 2 * 5 * 8 * 16
    trunk, control = flops.dit(config, (2, 3, 4, 4), text_tokens=5)
    assert trunk.products == 2 * block.products + 2 * ends
    assert (control.products, control.attention) == (0, 0)


TRANSFER = build.VARIANTS["transfer25_2b_auto_multiview"]
FIVE_VIEWS = (5, 8, 60, 104)


def test_five_views_at_480_x_832_are_the_published_size():
    assert flops.tokens(TRANSFER, FIVE_VIEWS) == 62_400
    assert flops.tokens(TRANSFER, (7, 8, 88, 160)) == 197_120
    trunk, control = flops.dit(TRANSFER, FIVE_VIEWS, text_tokens=512)
    attention = 32 * 4 * 62_400 * (62_400 + 512) * 2048
    assert trunk.attention + control.attention == attention
    # Measured elsewhere: 8.43 s a step at 450 TFLOP/s, every parameter trained.
    every = flops.training_step(TRANSFER, FIVE_VIEWS, 512, True, True)
    assert every == 3 * (trunk.forward + control.forward)
    assert every == pytest.approx(8.43 * 450e12, rel=0.01)


def test_frozen_weights_cost_no_gradient_of_their_own():
    trunk, control = flops.dit(TRANSFER, FIVE_VIEWS, text_tokens=512)
    step = flops.training_step(TRANSFER, FIVE_VIEWS, 512, False, True)
    assert step == 3 * (trunk.attention + control.forward) + 2 * trunk.products


@pytest.mark.parametrize("trained", [("blocks", "control"), ("control",)], ids=str)
def test_a_training_step_is_about_the_products_of_its_program(trained):
    """Gradients of inputs that nobody wants are left out there, and modulation is left out here."""

    def of(loss):
        def gradients(params, *inputs):
            chosen = {k: v for k, v in params.items() if k in trained or len(trained) > 1}
            return jax.grad(lambda chosen: loss({**params, **chosen}, *inputs))(chosen)

        return gradients

    config = dataclasses.replace(TRANSFER, remat="none")
    held = products(program(config, FIVE_VIEWS, 512, of))
    told = flops.training_step(config, FIVE_VIEWS, 512, len(trained) > 1, True)
    assert told == pytest.approx(held, rel=0.01)


def test_an_evaluation_of_the_network_is_all_of_its_forward_pass():
    trunk, control = flops.dit(TRANSFER, FIVE_VIEWS, text_tokens=512)
    told = flops.forward(TRANSFER, FIVE_VIEWS, 512)
    assert told == trunk.products + trunk.attention + control.products + control.attention
    # A step in which everything is trained costs three of them.
    assert flops.training_step(TRANSFER, FIVE_VIEWS, 512, True, True) == 3 * told


VAES = {
    "two stages": WanVAE(
        dim=4, dim_mult=(1, 2), num_res_blocks=1, temporal_downsample=(True,), encode_chunk=1
    ),
    "as published, thin": WanVAE(dim=2, decode_chunk=2),
    "space alone, few channels": WanVAE(
        dim=4,
        latent_channels=2,
        dim_mult=(1, 3, 3),
        temporal_downsample=(False, False),
        mean=(0.0, 0.0),
        std=(1.0, 1.0),
    ),
}


@pytest.mark.parametrize("name", VAES)
@pytest.mark.parametrize("latent_frames", [1, 4])
def test_the_autoencoder_is_the_products_of_its_programs(name, latent_frames):
    vae = VAES[name]
    frames = 1 + (latent_frames - 1) * vae.temporal
    size = 2 * vae.spatial, 3 * vae.spatial
    params = jax.eval_shape(vae.init, jax.random.key(0))
    video = jax.ShapeDtypeStruct((1, 1, frames, *size, 3), jnp.float32)
    latents = jax.eval_shape(vae.encode, params, video)
    assert latents.shape[2:5] == (latent_frames, 2, 3)
    encode, decode = (
        flops_vae.encode(vae, (frames, *size)),
        flops_vae.decode(vae, (*latents.shape[2:5],)),
    )
    assert encode.forward == products(jax.make_jaxpr(vae.encode)(params, video).jaxpr)
    assert decode.forward == products(jax.make_jaxpr(vae.decode)(params, latents).jaxpr)


def test_the_smallest_autoencoder_by_hand():
    # One residual block a stage; 4 and 8 channels; 5 frames of 4 x 6 pixels, 3 of 2 x 3 latents.
    vae, full, low = VAES["two stages"], 5 * 4 * 6, 3 * 2 * 3
    assert (vae.spatial, vae.temporal, vae.latent_channels) == (2, 2, 16)
    attention = 3 * 4 * (2 * 3) ** 2 * 8
    middle = low * (2 * 2 * 27 * 8 * 8 + 8 * 24 + 8 * 8)
    encode = full * (27 * 3 * 4 + 2 * 27 * 4 * 4)
    encode += 5 * 2 * 3 * 9 * 4 * 4 + 2 * 2 * 3 * 3 * 4 * 4  # rows and columns, then frames
    encode += low * (27 * 4 * 8 + 27 * 8 * 8 + 4 * 8) + middle + low * (27 * 8 * 32 + 32 * 32)
    assert flops_vae.encode(vae, (5, 4, 6)) == flops.Count(2 * encode, attention)
    decode = low * (16 * 16 + 27 * 16 * 8) + middle + low * 2 * 2 * 27 * 8 * 8
    decode += 2 * 2 * 3 * 3 * 8 * 16 + full * 9 * 8 * 4
    decode += full * (2 * 2 * 27 * 4 * 4 + 27 * 4 * 3)
    assert flops_vae.decode(vae, (3, 2, 3)) == flops.Count(2 * decode, attention)


THIN = CV8x8x8(channels=4, num_res_blocks=1)
TOKENIZERS = {
    "as published, thin": THIN,
    "more blocks": dataclasses.replace(THIN, num_res_blocks=2, latent_channels=3, z_channels=5),
    "smaller patches": dataclasses.replace(
        THIN, channels_mult=(1, 2, 1), patch=2, spatial=4, temporal=4, chunk=3
    ),
    "rows alone": dataclasses.replace(
        THIN, channels_mult=(1, 2, 2), patch=2, spatial=8, temporal=2, chunk=4
    ),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("latent_frames", ["one", "a chunk", "three chunks"])
def test_the_tokenizer_is_the_products_of_its_programs(name, latent_frames):
    codec = TOKENIZERS[name]
    frames = {"one": 1, "a chunk": codec.chunk_frames}.get(latent_frames, 3 * codec.chunk_frames)
    size = 2 * codec.spatial, 3 * codec.spatial
    params = jax.eval_shape(codec.init, jax.random.key(0))
    video = jax.ShapeDtypeStruct((1, 1, frames, *size, 3), jnp.float32)
    latents = jax.eval_shape(codec.encode, params, video)
    held = products(jax.make_jaxpr(codec.encode)(params, video).jaxpr)
    assert flops_cv8x8x8.encode(codec, (frames, *size)).forward == held
    held = products(jax.make_jaxpr(codec.decode)(params, latents).jaxpr)
    assert flops_cv8x8x8.decode(codec, latents.shape[2:5]).forward == held


def test_every_codec_is_counted_as_its_kind_is():
    shape, latents = (57, 480, 848), (8, 60, 106)
    published = flops_codecs.encode(CV8x8x8(), shape)
    assert published.forward == pytest.approx(7.1e12, rel=0.05)
    assert flops_codecs.encode(WanVAE(), shape) == flops_vae.encode(WanVAE(), shape)
    assert flops_codecs.decode(CV8x8x8(), latents) == flops_cv8x8x8.decode(CV8x8x8(), latents)
    assert flops_codecs.decode(DCTCodec(), latents).forward == 0  # a stand-in
