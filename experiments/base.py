"""Every setting there is, with the default that a recipe starts from; not an experiment by itself.

A recipe changes what it needs, and the command line changes any of it: `--config.data.fps=5`.
`placeholder(type)` is None until it is set.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """Returns the settings; `model` and `optimizer` belong to the recipe and are empty here."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 5000
    config.dtype = "bfloat16"  # of activations, and of the weights inside products
    config.attention = "auto"  # cudnn on GPUs in bfloat16, else xla
    config.remat = "attention"  # what a block keeps for its backward pass: none, attention, full
    config.trainable = ".*"  # regex that matches the whole path of what is trained
    config.init_from = (
        "random"  # or all that converters.convert reads: a path, hf://OWNER/NAME/FILE
    )
    # Pretrained weights are taken for missing above this loss / baseline; None: not looked at.
    config.canary = 0.8
    config.ema_rate = 0.1  # width of the power-function average of the weights; 0 keeps none

    config.mesh = ConfigDict({"data": 1, "fsdp": 1, "context": 1})  # one may be -1: what is left
    config.model = ConfigDict()
    # "package.module:class"; the other keys are the fields of that class.
    config.codec = ConfigDict(
        {
            "kind": "cosmos_jax.models.wan_vae:WanVAE",
            "weights": placeholder(str),
            "dtype": "bfloat16",
            "encode_chunk": 2,  # latent frames at a time: memory, never numbers
            "decode_chunk": 1,
        }
    )
    config.text = ConfigDict(
        {
            "kind": "cosmos_jax.models.hashed_text:HashedText",
            "weights": placeholder(str),
            "tokens": 512,
            "width": 100_352,
        }
    )
    config.process = ConfigDict(
        {
            "shift": 5.0,
            "num_conditional_latents": (1.0,),  # probability of 0, 1, 2, ... given latent frames
            "text_dropout": 0.0,
            "text_dropout_per_view": False,
            "conditional_frame_timestep": -1.0,
            "time_levels": placeholder(int),
        }
    )
    config.optimizer = ConfigDict()

    config.data = ConfigDict(
        {
            "root": "/path/to/clips",  # or "synthetic": rendered as config.scene says
            "num_frames": 29,
            "size": (480, 832),
            "batch_size": 1,
            "cameras": "all",
            "control": "auto",
            "fps": 10.0,
            "stride": placeholder(int),
            "resize": "cover",
            "video_size": placeholder(tuple),
            "starts": "every",
            "window_stride": 1,
            "captions": "front",
            "caption_camera": placeholder(str),
            "caption_kind": placeholder(str),
            "view_prefixes": False,
            "validation_fraction": 0.1,
            "skip_bad": False,
            "num_threads": 8,
            "num_workers": 0,
            "prefetch": 8,
            "cache_dir": placeholder(str),
        }
    )
    config.scene = ConfigDict(
        {
            "kind": "cosmos_jax.data.synthetic:RenderedScene",
            "seed": 0,
            "episodes": 20,
            "frames": 29,
            "fps": 10,
            "cameras": 4,
            "size": (96, 160),
            "overlap": 12.0,
            "supersample": 2,
        }
    )

    config.validation = ConfigDict({"every": 200, "clips": 8, "noises": 4})
    config.checkpoint = ConfigDict({"every": 200, "keep_last": 3, "keep_every": placeholder(int)})
    config.preview = ConfigDict({"every": 0, "clips": 1})
    config.sample = ConfigDict(
        {
            "num_steps": 35,
            "guidance": 3.0,
            "seed": 0,
            "control_weight": 1.0,
            "num_conditional_frames": 0,
            "karras": False,
        }
    )
    config.log = ConfigDict({"every": 10, "wandb": "disabled", "project": "cosmos_jax"})
    return config
