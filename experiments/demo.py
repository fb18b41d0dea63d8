"""A tiny multiview control model, trained in minutes on a laptop's CPU.

    python run_train.py --config=experiments/demo.py --workdir=runs/demo

The same config trains on a folder of real clips (any cameras; see the README for the layouts):

    python run_train.py --config=experiments/demo.py --workdir=runs/mine \
        --config.data.root=/path/to/clips

Everything is the real thing at a small size: the Transfer2.5 multiview control network, rectified
flow, a Grain pipeline over mp4 files, Orbax checkpoints. Two parts are stand-ins, and the log names
them: a fixed DCT codec in place of the Wan2.1 VAE, and hashed words in place of the text encoder.
Where the numbers differ from the published recipe (learning rate, clip, warm-up, widths), they were
chosen so that a few dozen steps show a falling loss and a control branch that is followed.
"""

from ml_collections import ConfigDict

from experiments import base


def get_config() -> ConfigDict:
    """Returns the config; every field can be overridden on the command line."""
    config = base.get_config()
    config.steps = 100
    config.job.update({"group": "demo", "name": "demo"})
    config.dtype = "float32"
    config.remat = "none"
    config.mesh.data = -1

    config.model = ConfigDict(
        {
            "base": "transfer25_2b_auto_multiview",
            "width": 192,
            "blocks": 4,
            "heads": 2,
            "mlp_width": 384,
            "modulation_rank": 32,
            "text_width": 64,
            "text_features": 64,
            "control_blocks": (0, 2),
            "control_channels": 16,
            "hint_widths": (192,),
        }
    )
    config.codec = ConfigDict({"kind": "cosmos_jax.models.dct_codec:DCTCodec"})
    config.text.tokens = 16
    config.text.width = 64
    config.process.num_conditional_latents = (0.5, 0.25, 0.25)
    config.process.text_dropout = 0.2
    config.optimizer = ConfigDict(
        {
            "lr": 4e-3,
            "weight_decay": 1e-3,
            "clip": 1.0,
            "warm_up_steps": 10,
            "cycle_length": 100,
            "f_start": 1e-6,
            "f_max": 1.0,
            "f_min": 0.1,
            "b1": 0.9,
            "b2": 0.99,
            "eps": 1e-8,
            "lr_factors": (),
        }
    )
    config.data.update(
        {
            "root": "synthetic",
            "num_frames": 9,
            "size": (96, 160),
            "batch_size": 4,
        }
    )
    config.validation.every = 40
    config.checkpoint.every = 40
    config.preview.update({"clips": 2, "weights": ("ema",), "conditional_frames": (0,)})
    config.preview.update({"control_weights": (1.0,), "guidance": 0.0, "num_steps": 20})
    config.sample.num_steps = 20
    config.sample.guidance = 0.0
    config.log.every = 5
    return config
