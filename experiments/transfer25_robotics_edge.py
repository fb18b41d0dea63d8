"""Transfer2.5-2B multiview control on five robot cameras with Canny-edge control, 832x480, 10 fps.

    python run_train.py --config=experiments/transfer25_robotics_edge.py --workdir=runs/robotics \
        --config.data.root=/path/to/clips

Hardware: one GPU with 141 GB (H200), or several with `--config.mesh.context` or `.fsdp`.

Sources: optimiser, schedule, clipping, EMA, dropout and conditioning probabilities are those of the
PyTorch project's `robotics_multiview_edge_posttrain` (cosmos-transfer2.5, experiment files); 29 frames
is what its code trains, where its guide says 93. Where we differ: frames are resized to cover 480x832
and cropped (the code pads a 432x749 picture with mirrored bars to 432x768), and samples are shuffled
(the code reads consecutive windows in order).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config; every field can be overridden on the command line."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 5000
    config.dtype = "bfloat16"
    config.attention = "auto"
    config.remat = "attention"
    config.trainable = "^control/"

    config.mesh = ConfigDict({"data": 1, "fsdp": 1, "context": -1})
    config.model = ConfigDict({"base": "transfer25_2b_auto_multiview"})
    config.codec = ConfigDict({"kind": "wan", "weights": "random"})
    config.text = ConfigDict({"kind": "hashed", "tokens": 512, "width": 100352})

    config.process = ConfigDict(
        {"shift": 5.0, "num_conditional_latents": (0.5, 0.25, 0.25), "text_dropout": 0.2}
    )
    config.optimizer = ConfigDict(
        {
            "lr": 8.63e-5,
            "weight_decay": 1e-3,
            "b1": 0.9,
            "b2": 0.999,
            "clip": 0.1,
            "warm_up_steps": 1000,
            "f_max": 0.5,
            "f_min": 0.2,
            "cycle_length": 100_000,
        }
    )
    config.ema_rate = 0.1
    config.data = ConfigDict(
        {
            "root": "/path/to/clips",
            "cameras": ConfigDict(
                {
                    "cam_high": 0,
                    "cam_left_wrist": 1,
                    "cam_right_wrist": 2,
                    "cam_waist_left": 3,
                    "cam_waist_right": 4,
                }
            ),
            "control": "control_input_edge",
            "num_frames": 29,
            "fps": 10.0,
            "size": (480, 832),
            "batch_size": 1,
        }
    )
    config.validation = ConfigDict({"every": 200, "clips": 8, "noises": 4})
    config.checkpoint = ConfigDict({"every": 200, "keep": 3})
    config.sample = ConfigDict({"every": 200, "clips": 1, "num_steps": 35, "guidance": 3.0})
    config.log = ConfigDict({"every": 10, "wandb": "disabled", "project": "cosmos_jax"})
    return config
