"""Names of the Wan2.1 autoencoder's tensors (the file `Wan2.1_VAE.pth`, without a prefix)."""

from converters.rules import Rule
from cosmos_jax.models.wan_vae import WanVAE

VOLUME = "o i t h w -> t h w i o"
PLANE = "o i h w -> h w i o"
POINT = "o i 1 1 1 -> i o"
PIXEL = "o i 1 1 -> i o"
SCALE = "c 1 1 1 -> c"


def _affine(reference: str, ours: str, pattern: str) -> list[Rule]:
    return [
        Rule(f"{reference}.weight", f"params/{ours}/kernel", pattern),
        Rule(f"{reference}.bias", f"params/{ours}/bias", "o -> o"),
    ]


def _block(reference: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{reference}.residual.{{0,3}}.gamma", f"params/{ours}/norm{{1,2}}/scale", SCALE),
        *_affine(f"{reference}.residual.{{2,6}}", f"{ours}/conv{{1,2}}", VOLUME),
    ]


def _half(half: str) -> list[Rule]:
    """What the encoder and the decoder have in common."""
    return [
        *_affine(f"{half}.conv1", f"{half}/conv_in", VOLUME),
        *_block(f"{half}.middle.0", f"{half}/middle_0"),
        *_block(f"{half}.middle.2", f"{half}/middle_2"),
        Rule(f"{half}.middle.1.norm.gamma", f"params/{half}/middle_1/norm/scale", "c 1 1 -> c"),
        *_affine(f"{half}.middle.1.{{to_qkv,proj}}", f"{half}/middle_1/{{qkv,out}}", PIXEL),
        Rule(f"{half}.head.0.gamma", f"params/{half}/norm_out/scale", SCALE),
        *_affine(f"{half}.head.2", f"{half}/conv_out", VOLUME),
    ]


def table(codec: WanVAE) -> list[Rule]:
    """The rows for an autoencoder of any size."""
    rows = [
        *_half("encoder"),
        *_half("decoder"),
        *_affine("conv{1,2}", "{quant,post_quant}", POINT),
    ]
    stacks = (("encoder", "downsamples", codec.down), ("decoder", "upsamples", codec.up))
    for half, name, layers in stacks:
        for i, layer in enumerate(layers):
            reference, ours = f"{half}.{name}.{i}", f"{half}/layer_{i}"
            if layer.kind == "block":
                rows += _block(reference, ours)
                if layer.inputs != layer.outputs:
                    rows += _affine(f"{reference}.shortcut", f"{ours}/shortcut", POINT)
            else:
                rows += _affine(f"{reference}.resample.1", f"{ours}/spatial", PLANE)
            if layer.kind == "spacetime":
                rows += _affine(f"{reference}.time_conv", f"{ours}/temporal", VOLUME)
    return rows
