"""Predict1-7B text to multiview video, post-trained on Waymo's five cameras: 57 frames of 480x848.

    python -m cosmos_jax.prepare waymo --source=TFRECORDS --root=ROOT
    python run_train.py --config=experiments/predict1_av_multiview_waymo.py --config.data.root=ROOT

    ROOT/videos/pinhole_*/NAME.mp4, ROOT/metas/pinhole_*/NAME.txt

Trains all 7.2 billion parameters from the published weights. All devices work on one clip, and
share the state; docs/guides/predict1_waymo.md has the way from records to videos, and the lines for
four machines. Measured cost: 8.16 s a step and 98.7 GiB a card on two H200s (docs/performance.md).

Variants: `:reference` loads the published weights as the published code does, see below; the
default keeps all of them ("mapped"). `:reference_captions` words the views as its later code does.
`:video` trains the published network that goes on from 0, 1 or 9 given frames, which the guide
does not. `:published` is the published model with its six views, for sampling. `:overfit` is a
self-test on one clip; `:tiny` runs on a CPU. They combine: `:reference,overfit,tiny`.

Sources. cosmos-predict1, config/text2world_multiview/experiment.py
(`text2world_multiview_7b_example_waymo`): the rate 2**-14.3, decay 0.1 of all parameters, betas,
eps 1e-10, warm-up 2500, 2000 steps, checkpoints every 200, five views, 57 frames of 480x848. The
base experiment that it inherits: text dropout 0.2, clip 1.0, noise levels exp(N(0, 1)), frame
positions stretched by 2. Its "power" EMA: rate 0.1. Its dataset_multiview.py: every start, frames
stretched and truncated to whole levels, the sentence about a camera and its caption encoded one by
one. Of `:video`, `video2world_multiview_7b_example_waymo` and its conditioner: given frames, and
the noise on them, ln(sigma) ~ N(-3, 2).

Where guide and code disagree, or the code with itself:
- The published network has a table of six views, an embedding of repeated frames, and fixed
  positions before every block; the example's network has five views in three channels, and neither
  of the others. Its loader drops what does not fit, without a word: patch and view embedding begin
  from random numbers. `:reference` does so, and says it. The default keeps the published network,
  and gives Waymo's cameras the ids of those that look the same way (front 0, front left 1, front
  right 2, side left 4, side right 5: the map that the project's single-to-multiview experiments
  have). No view counts as repeated, as in the example's training.
- The warm-up is longer than the run: the rate reaches 0.8 of its peak, and never falls. We follow
  the code.
- The guide says that the model trains on cosmos_nemo_assets; it is datasets/waymo.
- The guide's example trains with eight GPUs on a clip (context_parallel_size 8), later code with
  one clip a GPU. We follow the guide; docs/guides/predict1_waymo.md has both.
- Later code gives only the front camera its caption, without its sentence, and the others their
  sentences; the guide's code and its script for text give every view both. We follow the guide;
  `:reference_captions` is the later.
- The code reads every frame whatever the files' rate, and tells the network that of the last view
  it read. Waymo's is 10, so we read 10: the same for files of 10.
- Noise levels, noisy latents and loss are bfloat16 there; here levels are rounded so, the rest is
  float32. Rope angles are bfloat16 there; here float32 (`--config.model.rope_precision=bfloat16`).

Ours: previews every 200 steps and validation. As in the code no clip is held out, so validation is
on training clips.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from experiments import base

CAMERAS = ("front_left", "front", "front_right", "side_left", "side_right")
PUBLISHED_IDS = (1, 0, 2, 4, 5)
PUBLISHED_CAMERAS = ("front", "left", "right", "back", "back_left", "back_right")


def get_config(variant: str = "default") -> ConfigDict:
    """Returns the config; every field can be overridden on the command line."""
    config = base.get_config()
    config.job.update({"group": "predict1", "name": "av_multiview_waymo"})
    config.steps = 2000
    config.trainable = ".*"
    config.init_from = "hf://nvidia/Cosmos-Predict1-7B-Text2World-Sample-AV-Multiview/model.pt"
    config.mesh.context = -1
    config.model = ConfigDict({"base": "predict1_7b_multiview_av", "repeated_views": ()})
    config.codec = ConfigDict(
        {
            "kind": "cosmos_jax.models.cv8x8x8:CV8x8x8",
            "weights": "hf://nvidia/Cosmos-Tokenize1-CV8x8x8-720p",
            "dtype": "bfloat16",
        }
    )
    config.text = ConfigDict(
        {
            "kind": "cosmos_jax.models.t5:T5Text",
            "weights": "hf://google-t5/t5-11b",
            "cache": "auto",
            "tokenizer": "google-t5/t5-11b",
            "tokens": 512,
            "dtype": "float32",
        }
    )
    config.process = ConfigDict(
        {
            "kind": "cosmos_jax.diffusion.edm_process:EDMProcess",
            "sigma_data": 0.5,
            "mean": 0.0,
            "std": 1.0,
            "text_dropout": 0.2,
            "text_dropout_per_view": False,
            "num_conditional_latents": (1.0,),
            "given_mean": -3.0,
            "given_std": 2.0,
        }
    )
    config.optimizer = ConfigDict(
        {
            "lr": 2**-14.3,
            "weight_decay": 0.1,
            "clip": 1.0,
            "warm_up_steps": 2500,
            "cycle_length": 10_000_000,
            "f_start": 1e-6,
            "f_max": 1.0,
            "f_min": 1.0,
            "b1": 0.9,
            "b2": 0.99,
            "eps": 1e-10,
            "lr_factors": (),
        }
    )
    config.data.update(
        {
            "control": None,
            "num_frames": 57,
            "size": (480, 848),
            "fps": 10.0,
            "resize": "stretch_truncated",
            "captions": "each",
            "view_prefixes": True,
            "prefix_style": "apart",
            "validation_fraction": None,
            "skip_short": True,
        }
    )
    views(config, PUBLISHED_IDS)
    config.validation.clips = 4
    config.checkpoint.every = 200
    config.preview.update({"every": 200, "conditional_frames": (0,), "control_weights": ()})
    config.sample.guidance = 7.0
    return base.vary(config, variant, VARIANTS)


def views(config: ConfigDict, ids: tuple[int, ...]) -> None:
    """The cameras in the order of training, with their rows of the view table."""
    with config.data.ignore_type():
        config.data.cameras = tuple(
            (f"pinhole_{name}", view) for name, view in zip(CAMERAS, ids, strict=True)
        )


def reference(config: ConfigDict) -> None:
    """The example's network, in which patch and view embedding start fresh.

    Such a network errs at first as one that has learnt nothing, so the canary is off.
    """
    config.init_base = config.model.base
    with config.ignore_type():
        config.canary = None
    config.model = ConfigDict({"base": "predict1_7b_multiview_waymo"})
    views(config, tuple(range(len(CAMERAS))))


def video(config: ConfigDict) -> None:
    """The published network that goes on from given frames."""
    config.init_from = "hf://nvidia/Cosmos-Predict1-7B-Video2World-Sample-AV-Multiview/model.pt"
    config.model.base = "predict1_7b_multiview_av_video"
    config.process.num_conditional_latents = (1 / 3, 1 / 3, 1 / 3)
    config.preview.conditional_frames = (0, 1)
    config.sample.num_conditional_frames = 1


def published(config: ConfigDict) -> None:
    """The published model as it is: six views at 24 frames a second, two of them repeated."""
    config.model.repeated_views = (4, 5)
    with config.data.ignore_type():
        config.data.cameras = tuple((name, i) for i, name in enumerate(PUBLISHED_CAMERAS))
    config.data.update({"fps": 24.0, "view_prefixes": False, "prefix_style": "joined"})


def reference_captions(config: ConfigDict) -> None:
    """The front camera's caption alone, and only the sentences of the others."""
    config.data.update({"captions": "front", "prefix_style": "instead"})
    config.data.caption_camera = "pinhole_front"


def tiny(config: ConfigDict) -> None:
    """Runs on a CPU."""
    base.tiny(config)
    config.init_base = placeholder(str)
    config.model.update({"text_features": 0, "uncertainty": 16})


VARIANTS = {
    "reference": reference,
    "reference_captions": reference_captions,
    "video": video,
    "published": published,
    "overfit": base.overfit,
    "tiny": tiny,
}
