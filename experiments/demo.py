"""A tiny multiview control model, trained in minutes on a laptop's CPU.

    python run_train.py --config=experiments/demo.py --workdir=runs/demo

The same config trains on a folder of real clips (any cameras; see the README for the layouts):

    python run_train.py --config=experiments/demo.py --workdir=runs/mine --config.data.root=/path/to/clips

Everything is the real thing at a small size: the Transfer2.5 multiview control network, rectified
flow, a Grain pipeline over mp4 files, Orbax checkpoints. Two parts are stand-ins, and the log names
them: a fixed DCT codec in place of the Wan2.1 VAE, and hashed words in place of the text encoder.
Where the numbers differ from the published recipe (`lr`, `clip`, warm-up, width), they were chosen so
that a few dozen steps show a falling loss and a working control branch.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config; every field can be overridden on the command line."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 100
    config.dtype = "float32"  # of activations, and of the weights inside products
    config.attention = "auto"  # cudnn on NVIDIA GPUs of the Hopper generation or newer, else xla
    config.remat = "none"
    config.trainable = ".*"  # regex over parameter paths

    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "context": 1})

    config.model = ConfigDict(
        {
            "base": "transfer25_2b_auto_multiview",
            "width": 96,
            "blocks": 4,
            "heads": 4,
            "adaln_rank": 32,
            "context_in": 64,
            "context": 64,
        }
    )

    config.codec = ConfigDict({"kind": "dct"})
    config.text = ConfigDict({"kind": "hashed", "tokens": 16, "width": 64})

    config.process = ConfigDict(
        {
            "shift": 5.0,
            "num_conditional_latents": (0.5, 0.25, 0.25),  # probability of 0, 1, 2 given frames
            "text_dropout": 0.2,
        }
    )

    config.optimizer = ConfigDict(
        {"lr": 4e-3, "weight_decay": 1e-3, "warm_up_steps": 10, "f_max": 1.0, "f_min": 0.1}
    )
    config.ema_rate = 0.1

    config.data = ConfigDict(
        {
            "root": "synthetic",
            "cameras": "all",
            "num_frames": 17,
            "fps": 10.0,
            "size": (96, 160),
            "batch_size": 4,
        }
    )

    config.validation = ConfigDict({"every": 25, "clips": 8, "noises": 4})
    config.checkpoint = ConfigDict({"every": 50, "keep": 2})
    config.sample = ConfigDict({"every": 0, "clips": 1, "num_steps": 20, "guidance": 1.0})
    config.log = ConfigDict({"every": 5, "wandb": "disabled", "project": "cosmos_jax"})
    return config
