"""The picture sizes that cosmos-transfer2.5 names "resolution"."""

from cosmos_jax.data.transforms import Size

VIDEO_RES_SIZE_INFO = {
    # (rows, columns) for pictures of 16:9, 4:3 and 1:1; upright ones are turned.
    "256": ((192, 320), (256, 320), (256, 256)),
    "480": ((432, 768), (480, 640), (480, 480)),
    "480p": ((480, 832), (480, 640), (640, 640)),
    "512": ((384, 640), (512, 640), (512, 512)),
    "720": ((704, 1280), (704, 960), (960, 960)),
    "720p": ((720, 1280), (720, 960), (960, 960)),
}
"""The sizes that cosmos-transfer2.5 names "resolution" (VIDEO_RES_SIZE_INFO there)."""


def published_size(resolution: str, size: Size) -> Size:
    """The (rows, columns) that a published resolution name means for pictures of about `size`.

    [TRAP] The published robotics config asks for 480x832 and resolution "480", and so trains
    432x768: `published_size("480", (480, 832))`.

    Raises:
        ValueError: an unknown resolution.
    """
    if resolution not in VIDEO_RES_SIZE_INFO:
        raise ValueError(f"resolution {resolution!r} is not one of {sorted(VIDEO_RES_SIZE_INFO)}")
    y, x = size
    ratios = (16 / 9, 4 / 3, 1.0, 3 / 4, 9 / 16)
    nearest = min(range(5), key=lambda i: abs(x / y - ratios[i]))
    rows, columns = VIDEO_RES_SIZE_INFO[resolution][min(nearest, 4 - nearest)]
    return (rows, columns) if nearest <= 2 else (columns, rows)
