"""Output folders of the sampler on disk, tiny, with what their sidecars say."""

import json

import numpy as np

from cosmos_jax.data import video_writer

CAMERAS = ["front_wide", "cross_left", "cross_right", "rear"]
HOSTILE = "</script><img src=x onerror='window.hacked = 1'>&\"\u2028"


def moving(seed, frames=12, size=(32, 48), grain=0):
    """Squares that drift to the right, and noise of so many levels: uint8 [f y x 3]."""
    random = np.random.default_rng(seed)
    wall = random.integers(0, 256, (size[0] // 4, size[1] // 2, 3)).repeat(4, 0).repeat(4, 1)
    made = np.stack([wall[:, 2 * i : 2 * i + size[1]] for i in range(frames)])
    return np.clip(made + random.normal(0, grain, made.shape), 0, 255).astype(np.uint8)


def write_sample(folder, name, grain=0, cameras=CAMERAS, fps=8.0, frames=12, **changes):
    """Writes a sample and its sidecar; the true video is the sampled one without `grain`."""
    files = {"views": {}, "control": {}, "input": {}}
    for i, camera in enumerate(cameras):
        true = moving(i, frames)
        lines = np.where(true > 128, 255, 0).max(-1, keepdims=True).repeat(3, -1).astype(np.uint8)
        videos = {"views": moving(i, frames, grain=grain), "control": lines, "input": true}
        for kind, pixels in videos.items():
            place = f"{name}/{camera}.mp4" if kind == "views" else f"{name}/{kind}/{camera}.mp4"
            video_writer.write_video(folder / place, pixels, fps)
            files[kind][camera] = place
    files["grid"] = f"{name}_grid.mp4"
    said = {
        "name": name,
        "prompt": dict.fromkeys(cameras, "A street."),
        "negative_prompt": "",
        "cameras": list(cameras),
        "fps": fps,
        "frames": frames,
        "size": [32, 48],
        "seed": 3,
        "settings": {"num_steps": 4, "guidance": 3.0, "num_conditional_frames": 0},
        "request": {"views": [{"given": 0}, {"given": 1}]},
        "weights": {"source": "runs/x", "which": "ema"},
        "versions": {"jax": "0.10.2"},
        "files": files,
        "boundaries": [5],
    } | changes
    (folder / f"{name}.json").write_text(json.dumps(said))
    return said
