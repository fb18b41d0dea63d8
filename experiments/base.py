"""Every setting there is, with the default that a recipe starts from; not an experiment by itself.

A recipe changes what it needs, and the command line changes any of it: `--config.data.fps=5`.
`placeholder(type)` is None until it is set.

Below the settings stand the variants that all recipes have. `--config=experiments/NAME.py:overfit`
chooses one, and `:overfit,tiny` both, in this order.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """Returns the settings; `model` and `optimizer` belong to the recipe and are empty here."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 5000
    # Without --workdir, a run goes to $COSMOS_JAX_OUTPUT_ROOT (or ./runs) / project / group / name.
    # W&B calls it by the same three.
    config.job = ConfigDict(
        {"project": "cosmos_jax", "group": placeholder(str), "name": placeholder(str)}
    )
    config.dtype = "bfloat16"  # of activations, and of the weights inside products
    config.attention = "auto"  # cudnn on GPUs in bfloat16, else xla; or fa3
    # What a block keeps for its backward pass: none (= everything), attention_inputs, attention,
    # offload, full (= nothing); see docs/performance.md.
    config.remat = "attention"
    config.offload_optimizer = False  # moments and EMA wait in host memory between updates
    # Regex that matches the whole path of what is trained; ".*" of a network with adapters means
    # the adapters alone, ".*/lora_.*".
    config.trainable = ".*"
    config.init_from = (
        "random"  # or all that converters.convert reads: a path, hf://OWNER/NAME/FILE
    )
    # The network of init_from, where it is not the run's: a config.model.base. What the run's has
    # and that one lacks, or has in another size, starts fresh.
    config.init_base = placeholder(str)
    # Whence the control branch: "source" (init_from has one) or "copy": init_from has none, control
    # blocks become copies of the first trunk blocks, and the rest of the branch is new.
    config.init_control = "source"
    # Pretrained weights are taken for missing above this loss / baseline; None: not looked at.
    config.canary = 0.8
    # A loss that is not finite: stop the run, or skip the step and count it. With "skip" so is a
    # gradient that is not finite (else its bad entries are 0, as published) or above grad_limit.
    config.unsound = "stop"
    config.grad_limit = placeholder(float)
    config.ema_rate = 0.1  # width of the power-function average of the weights; 0 keeps none

    config.mesh = ConfigDict({"data": 1, "fsdp": 1, "context": 1})  # one may be -1: what is left
    config.accumulate = 1  # parts of a batch that are taken one after the other in a step
    config.model = ConfigDict()
    # LoRA or DoRA beside kernels of attention and MLPs; rank 0: none. Alpha, targets and, where one
    # is wanted, rank 32 are the PyTorch project's settings, which none of its experiments uses.
    config.adapter = ConfigDict(
        {
            "rank": 0,
            "alpha": 32.0,
            "targets": r"(control/)?blocks/(\w+_attn/(q|k|v|out)|mlp/(up|down))",
            "dropout": 0.0,
            "dora": False,
        }
    )
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
            "cache": "auto",  # ROOT/text_embeddings if it is there; or a folder; None: encode
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
            "prefix_style": "joined",
            "validation_fraction": 0.1,
            "skip_bad": False,
            "skip_short": False,
            "episodes": placeholder(int),
            "views": placeholder(tuple),
            "keep_front": True,
            "num_threads": 8,
            "num_workers": 0,
            "prefetch": 8,
            "cache_dir": placeholder(str),
            "latents": "auto",  # ROOT/latents if it is there; or a folder; None: the videos
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

    config.validation = ConfigDict({"every": 200, "clips": 8, "noises": 4, "per_frame": False})
    config.checkpoint = ConfigDict(
        {
            "every": 200,
            "keep_last": 3,
            "keep_every": placeholder(int),
            "best": placeholder(str),  # as "val/loss": the checkpoint with the lowest stays
        }
    )
    # Videos of held-out clips as the published projects sample them while they train: of each clip
    # one for every set of weights, given frames and control weight, 8 with these.
    config.preview = ConfigDict(
        {
            "every": 0,
            "clips": 1,
            "weights": ("regular", "ema"),
            "conditional_frames": (0, 1),
            "control_weights": (0.0, 1.0),  # () for networks without a control branch
            "guidance": 7.0,
            "num_steps": 35,
        }
    )
    config.sample = ConfigDict(
        {
            "num_steps": 35,
            "guidance": 3.0,
            "seed": 0,
            "control_weight": 1.0,
            "num_conditional_frames": 0,
            "karras": False,
            "solver": placeholder(str),
            "negative_prompt": placeholder(str),
            "guidance_interval": (0.0, 1.0),
            "cache_threshold": 0.0,
        }
    )
    config.log = ConfigDict({"every": 10, "wandb": "disabled"})  # or offline, online
    return config


def vary(config: ConfigDict, variant: str, variants: dict) -> ConfigDict:
    """Changes a recipe by the variants named, with commas between them; "default" changes nothing.

    Each adds its name to the job's.

    Args:
        config: the recipe.
        variant: names of variants.
        variants: name -> function that changes a recipe.

    Raises:
        ValueError: a variant that the recipe does not have.
    """
    for name in [] if variant == "default" else variant.split(","):
        if name not in variants:
            known = ", ".join(["default", *variants])
            raise ValueError(f"the experiment has no variant {name!r}; known: {known}")
        variants[name](config)
        config.job.name += f"_{name}"
    return config


def published_parts(config: ConfigDict) -> None:
    """The published video codec, text encoder and negative prompt of all 2.5 models.

    Source: the lists of checkpoints of cosmos-transfer2.5 and cosmos-predict2.5 (checkpoint_db.py).
    """
    config.sample.negative_prompt = "published"
    config.codec.weights = "hf://nvidia/Cosmos-Predict2.5-2B/tokenizer.pth"
    config.text = ConfigDict(
        {
            "kind": "cosmos_jax.models.qwen:QwenText",
            "weights": "hf://nvidia/Cosmos-Reason1-7B@3210bec0495fdc7a8d3dbb8d58da5711eab4b423",
            "cache": "auto",
            "tokenizer": "nvidia/Cosmos-Reason1-7B",
            "tokens": 512,
        }
    )


def overfit(config: ConfigDict) -> None:
    """A self-test on one clip, the start of the first episode: the loss must fall.

    Validation is on the same clip (without a control gap: no other clip's control is there). The
    numbers are ours, and not measured.
    """
    config.steps = 200
    config.mesh = ConfigDict({"data": 1, "fsdp": 1, "context": -1})
    config.process.num_conditional_latents = (1.0,)
    config.process.text_dropout = 0.0
    config.optimizer.warm_up_steps = 10
    config.data.update({"episodes": 1, "starts": "first", "window_stride": 1, "batch_size": 1})
    config.data.update({"views": None, "validation_fraction": None})
    config.validation.update({"every": 20, "clips": 1, "noises": 8})
    config.checkpoint.every = 200
    config.preview.every = 0


def tiny(config: ConfigDict) -> None:
    """A network and frames that train on a CPU in seconds, with the stand-ins for codec and text.

    Cameras, folders, captions, conditioning and what is trained stay the recipe's.
    """
    config.steps = 2
    config.dtype = "float32"
    config.remat = "none"
    config.init_from = "random"
    config.mesh = ConfigDict({"data": 1, "fsdp": 1, "context": -1})
    config.model.update({"width": 32, "blocks": 2, "heads": 2, "mlp_width": 64})
    config.model.update({"modulation_rank": 8, "text_width": 16, "text_features": 16})
    if config.data.control is not None:
        config.model.control_blocks = (0,)
    config.codec = ConfigDict({"kind": "cosmos_jax.models.dct_codec:DCTCodec"})
    config.text = get_config().text
    config.text.update({"tokens": 4, "width": 16})
    # Three latent frames: the recipes give up to two.
    config.data.update({"num_frames": 9, "size": (32, 48), "batch_size": 1, "num_threads": 2})
    if config.data.video_size is not None:
        config.data.video_size = (32, 48)
    config.validation.update({"every": 2, "clips": min(config.validation.clips, 2), "noises": 2})
    config.checkpoint.every = 2
    config.preview.update({"every": 0, "num_steps": 2})
    config.sample.num_steps = 2
    config.log.every = 1
