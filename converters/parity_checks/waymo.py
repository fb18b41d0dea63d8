"""Parity of the reader of clips with Predict1's Waymo data set, in its two states."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converters import t5_files
from converters.parity_checks.golden import Golden, Options, Row, check_options, compare
from cosmos_jax.data import layouts, pipeline, video
from cosmos_jax.models.t5 import one_after_another
from cosmos_jax.types import APART

OPTIONS = (
    *("num_frames", "root", "sequence_interval", "source", "start_frame_interval", "video_size"),
    *("view_keys", "np_random_seed", "seed"),
)
TOKENS = 512
FRONT = "pinhole_front"
# The later reader puts the front camera's caption in its slot, and sentences about the others.
LATER = {"captions": "front", "caption_camera": FRONT, "prefix_style": "instead"}
TAGS = {"plain": LATER, "mvemb": {}, "sample": LATER}
FIRST_ID = {"plain": 0, "mvemb": 0, "sample": 10}
"""The later reader's cases: settings of captions, and the view id of the first camera."""


def check(golden: Golden, options: Options) -> Iterator[Row]:
    """The samples and some items of the first state."""
    clips = _clips(golden, options, {})
    located = [clips.locate(window, 0, 0) for window in range(len(clips))]
    frames = np.arange(clips.config.num_frames) * (clips.config.stride or 1)
    yield compare("n_samples", len(clips), golden["n_samples"], 0.0)
    ids = [start + frames for _, start in located]
    yield compare("samples/frame_ids", ids, golden["samples/frame_ids"], 0.0)
    names = np.array([f"{episode.name}.mp4" for episode, _ in located])
    yield compare("samples/video", names != golden["samples/video"], np.zeros(len(names)), 0.0)
    for item in sorted({name.split("/")[0] for name in golden.names("item")}):
        part = golden.under(f"item{item}/")
        yield from _item(part, clips, int(item), range(len(clips.cameras)))
    if "decoded/raw_rgb_crop" in golden:
        episode, start = located[0]
        raw = video.read_frames(episode.videos[0], range(start, start + len(frames)))
        yield compare("decoded/shape", raw.shape, golden["decoded/shape"], 0.0)
        crop = raw[:, 10:26, 10:34]
        yield compare("decoded/raw_rgb_crop", crop, golden["decoded/raw_rgb_crop"], 1.0)
        yield compare("decoded/fps", float(episode.videos[0].fps), golden["decoded/fps"], 1e-6)


def check_later(golden: Golden, options: Options) -> Iterator[Row]:
    """Some items of the later state, of which one case draws views."""
    for tag, settings in TAGS.items():
        clips = _clips(golden, options, settings, FIRST_ID[tag])
        ids = [view for _, view in clips.cameras]
        for item in sorted({name.split("/")[0] for name in golden.names(f"{tag}/item")}):
            part = golden.under(f"{tag}/item{item}/")
            # Which views are drawn is the reference's chance; we read the same.
            drawn = part["view_indices"].reshape(-1, clips.config.num_frames)[:, 0].astype(int)
            yield from _item(part, clips, int(item), [ids.index(i) for i in drawn])


def _clips(
    golden: Golden, options: Options, settings: Mapping[str, Any], first: int = 0
) -> pipeline.Clips:
    given = golden.json("config_json")
    check_options(given, OPTIONS, "the Waymo data set")
    config = layouts.DataConfig(
        root=str(_folder(golden, options)),
        num_frames=given["num_frames"],
        size=tuple(given["video_size"]),
        batch_size=1,
        cameras=tuple((name, first + i) for i, name in enumerate(given["view_keys"])),
        control=None,
        stride=given["sequence_interval"],
        window_stride=given.get("start_frame_interval", 1),
        resize="stretch_truncated",
        validation_fraction=None,
        skip_short=True,
        num_threads=2,
        latents=None,
        **{"captions": "each", "view_prefixes": True, "prefix_style": "apart", **settings},
    )
    return pipeline.open_dataset(config).train


def _folder(golden: Golden, options: Options) -> Path:
    name, root = golden.json("config_json")["root"], options.root or golden.path.parent
    found = [folder for folder in (root, root / name) if (folder / "videos").is_dir()]
    if not found:
        raise ValueError(
            f"neither {root}/videos nor {root / name}/videos is there; --root names the folder"
        )
    return found[0]


def _item(
    golden: Golden, clips: pipeline.Clips, window: int, views: Sequence[int]
) -> Iterator[Row]:
    """The rows of an item. Pixels are [3, (v f), y, x] there, and text [(v s), e]."""
    clip, (episode, _) = clips.clip(window, views=views), clips.locate(window, 0, 0)
    pixels = np.moveaxis(clip.video, -1, 0).reshape(3, -1, *clip.video.shape[2:4])
    y, x = ((size - part) // 2 for size, part in zip(pixels.shape[2:], (12, 16)))
    text = np.concatenate(
        [
            one_after_another(
                t5_files.rows_of(
                    Path(clips.config.root), clips.cameras[i][0], episode.name, caption.split(APART)
                ),
                TOKENS,
            )
            for i, caption in zip(views, clip.captions)
        ]
    )
    parts = {
        "video_shape": (pixels.shape, 0.0),
        "video_crop": (pixels[:, :, y : y + 12, x : x + 16], 1.0),
        "video_downsampled4": (pixels[:, ::3, ::4, ::4], 1.0),
        "video_mean_c_t": (pixels.mean((2, 3), dtype=np.float64), 1e-2),
        # There the rate of the files, here that of the frames which are read.
        "fps": (clip.fps * (clips.config.stride or 1), 1e-4),
        "num_frames": (clips.config.num_frames, 0.0),
        "view_indices": (np.repeat(clip.view_ids, clips.config.num_frames), 0.0),
        "t5_shape": (text.shape, 0.0),
        "t5_first8cols": (text[:, :8], 1e-6),
        "t5_rowabs": (np.abs(text).sum(1), 1e-2),
    }
    if "view_indices" in golden:  # the first state's mask is 1 throughout, and unused like this one
        parts["t5_text_mask"] = (text.any(1), 0.0)
    for name, (ours, limit) in parts.items():
        if name in golden:
            yield compare(f"{golden.prefix}{name}", ours, golden[name], limit)
