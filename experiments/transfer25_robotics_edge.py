"""Transfer2.5-2B multiview control on five robot cameras with Canny-edge control, 832x480, 10 fps.

    python run_train.py --config=experiments/transfer25_robotics_edge.py --workdir=runs/robotics \
        --config.data.root=/path/to/clips

Hardware: one GPU of 80 GB, or several with `--config.mesh.context=-1`. Measured:
docs/performance.md.

Starts from the published weights of the network, the VAE and the text encoder (`hf://`; gated files
need their licence accepted and `hf auth login`). Each takes a path instead, or `random`.

Sources: optimiser, schedule, clipping, EMA, dropout and conditioning probabilities are those of the
PyTorch project's `robotics_multiview_edge_posttrain` (cosmos-transfer2.5); 29 frames is what its
code trains, where its guide says 93. Where we differ: frames are resized to cover 480x832 and
cropped (the code pads a 432x749 picture with mirrored bars to 432x768), and samples are shuffled
(the code reads consecutive windows in order).
"""

from ml_collections import ConfigDict

from experiments import base


def get_config() -> ConfigDict:
    """Returns the config; every field can be overridden on the command line."""
    config = base.get_config()
    config.trainable = "control/.*"
    config.init_from = (
        "hf://nvidia/Cosmos-Transfer2.5-2B/auto/multiview/"
        "4ecc66e9-df19-4aed-9802-0d11e057287a_ema_bf16.pt"
    )
    config.codec.weights = "hf://nvidia/Cosmos-Predict2.5-2B/tokenizer.pth"
    config.text = ConfigDict(
        {
            "kind": "cosmos_jax.models.qwen:QwenText",
            "weights": "hf://nvidia/Cosmos-Reason1-7B@3210bec0",
            "tokenizer": "nvidia/Cosmos-Reason1-7B",
            "tokens": 512,
        }
    )
    config.model = ConfigDict({"base": "transfer25_2b_auto_multiview"})
    config.process.num_conditional_latents = (0.5, 0.25, 0.25)
    config.process.text_dropout = 0.2
    config.optimizer = ConfigDict(
        {
            "lr": 8.63e-5,
            "weight_decay": 1e-3,
            "clip": 0.1,
            "warm_up_steps": 1000,
            "cycle_length": 100_000,
            "f_start": 1e-6,
            "f_max": 0.5,
            "f_min": 0.2,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
        }
    )
    config.data.cameras = "cam_high,cam_left_wrist,cam_right_wrist,cam_waist_left,cam_waist_right"
    config.data.control = "control_input_edge"
    config.preview.every = 1000
    return config
