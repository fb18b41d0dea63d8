"""Tiny data sets on disk, of flat lossless frames that say where they come from."""

import json

import numpy as np

from cosmos_jax.data import video_writer

CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")
SIZE = (16, 24)


def frames_of(episode, camera, control, count, size=SIZE):
    """RGB is (5 x frame number, 25 x episode, 60 x camera + 30 if control)."""
    frames = np.zeros((count, *size, 3), np.uint8)
    frames[..., 0] = 5 * np.arange(count)[:, None, None]
    frames[..., 1] = 25 * episode
    frames[..., 2] = (60 * camera + 30 * control) % 256
    return frames


def write_clips(root, counts=(10, 11, 12), cameras=CAMERAS, control="control_input_edge", fps=10):
    """Writes episodes ep_0, ep_1, ... of `counts` frames, with captions for the first camera."""
    for e, count in enumerate(counts):
        for c, camera in enumerate(cameras):
            frames = frames_of(e, c, 0, count)
            video_writer.write_video(root / "videos" / camera / f"ep_{e}.mp4", frames, fps, crf=0)
            if control:
                frames = frames_of(e, c, 1, count)
                video_writer.write_video(
                    root / control / camera / f"ep_{e}.mp4", frames, fps, crf=0
                )
        folder = root / "captions" / cameras[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"ep_{e}.json").write_text(json.dumps({"caption": f"Words {e}."}))
    return root
