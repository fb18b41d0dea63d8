import numpy as np
import pytest

from converters.parity_checks.published_sizes import published_size
from cosmos_jax.data import transforms

SIZES = [(40, 72), (64, 96), (17, 50), (100, 30), (81, 145), (192, 320)]


def picture(f=2, y=48, x=84, seed=0):
    """Smooth slopes, hard edges, saturated areas and noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:y, :x]
    frames = np.stack([rows * 4, columns * 3, (rows + columns) * 2], axis=-1)
    frames = np.stack([np.roll(frames, 7 * k, axis=1) for k in range(f)])
    frames[:, 10:20, 10:40] = 255
    frames[:, 25:35, 10:40] = 0
    frames[:, :, -20:] = rng.integers(0, 256, (f, y, 20, 3))
    return np.clip(frames, 0, 255).astype(np.uint8)


def torch_resize(frames, size, mode):
    import torch

    planes = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    resized = torch.nn.functional.interpolate(planes, size=size, mode=mode, antialias=True)
    return resized.permute(0, 2, 3, 1)


@pytest.mark.torch
@pytest.mark.parametrize("cubic", [False, True])
@pytest.mark.parametrize(("n_in", "n_out"), [(84, 96), (84, 30), (416, 160), (50, 100), (9, 9)])
def test_filters_are_those_of_torch(n_in, n_out, cubic):
    import torch

    impulses = torch.eye(n_in)[None, None]
    mode = "bicubic" if cubic else "bilinear"
    resized = torch.nn.functional.interpolate(
        impulses, size=(n_in, n_out), mode=mode, antialias=True
    )
    ours = transforms.filter_matrix(n_in, n_out, cubic)
    np.testing.assert_allclose(ours, resized[0, 0].numpy().T, atol=5e-7)


@pytest.mark.torch
@pytest.mark.parametrize("size", SIZES)
def test_stretch_is_torch_within_one_level(size):
    frames = picture()
    expected = torch_resize(frames, size, "bilinear").round().numpy()
    difference = transforms.stretch(frames, size).astype(int) - expected
    assert np.abs(difference).max() <= 1
    assert np.abs(difference.mean(axis=(1, 2, 3))).max() < 1e-2


@pytest.mark.torch
@pytest.mark.parametrize("size", SIZES)
def test_truncation_is_torch_to_the_bit(size):
    import torch

    frames = picture()
    floats = torch_resize(frames.astype(np.float32) / np.float32(255), size, "bilinear")
    expected = (floats * 255).to(torch.uint8).numpy()
    np.testing.assert_array_equal(transforms.stretch_truncated(frames, size), expected)


@pytest.mark.torch
@pytest.mark.parametrize(("size", "inner"), [((96, 200), (96, 168)), ((80, 96), (55, 96))])
def test_reflect_pad_is_bicubic_with_mirrored_bars(size, inner):
    frames = picture()
    bicubic = torch_resize(frames, inner, "bicubic").clamp(0, 255).round().numpy()
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    ours = transforms.reflect_pad(frames, size).astype(int)
    assert ours.shape == (2, *size, 3)
    middle = ours[:, top : top + inner[0], left : left + inner[1]]
    assert np.abs(middle - bicubic).max() <= 1
    if left:
        np.testing.assert_array_equal(ours[:, :, left - 1], ours[:, :, left + 1])
        np.testing.assert_array_equal(ours[:, :, -1], ours[:, :, size[1] - 1 - 2 * (left - 1) - 2])
    else:
        np.testing.assert_array_equal(ours[:, top - 1], ours[:, top + 1])


@pytest.mark.core
@pytest.mark.parametrize("rule", sorted(transforms.RESIZE_RULES))
def test_frames_of_the_right_size_are_untouched(rule):
    frames = picture(y=32, x=48)
    np.testing.assert_array_equal(transforms.RESIZE_RULES[rule](frames, (32, 48)), frames)


@pytest.mark.core
@pytest.mark.parametrize("rule", sorted(transforms.RESIZE_RULES))
@pytest.mark.parametrize("size", [(24, 40), (70, 100), (48, 48)])
def test_flat_frames_stay_flat(rule, size):
    level = 51  # 51 / 255 is not exact in binary: truncation may lose one level
    frames = np.full((1, 40, 60, 3), level, np.uint8)
    resized = transforms.RESIZE_RULES[rule](frames, size)
    assert resized.shape == (1, *size, 3)
    assert set(np.unique(resized)) <= ({level, level - 1} if "trunc" in rule else {level})


@pytest.mark.core
@pytest.mark.parametrize("size", [(60, 60), (30, 30), (40, 120), (20, 15)])
def test_cover_keeps_squares_square_and_the_centre_central(size):
    y, x = 90, 120
    rows, columns = np.mgrid[:y, :x]
    disc = ((rows - (y - 1) / 2) ** 2 + (columns - (x - 1) / 2) ** 2) < 15**2
    frames = np.repeat(disc[None, :, :, None], 3, axis=3).astype(np.uint8) * 255
    resized = transforms.cover(frames, size)[0, :, :, 0] > 127
    assert resized.shape == size
    filled = np.argwhere(resized)
    high, wide = np.ptp(filled, axis=0) + 1
    expected = 30 * max(size[0] / y, size[1] / x)
    assert abs(high - wide) <= 1
    assert abs(high - expected) <= 1.5
    np.testing.assert_allclose(filled.mean(axis=0), [(n - 1) / 2 for n in size], atol=0.6)


@pytest.mark.core
def test_cover_crops_only_the_longer_side():
    frames = np.zeros((1, 40, 100, 3), np.uint8)
    frames[:, :, :30] = 255  # the outer 30 columns of each side are cropped away
    frames[:, :, 70:] = 255
    assert transforms.cover(frames, (40, 40)).max() == 0
    assert transforms.stretch(frames, (40, 40)).max() == 255


@pytest.mark.core
def test_reflect_pad_refuses_bars_wider_than_the_picture():
    with pytest.raises(ValueError, match=r"40x10 .*cannot be mirrored"):
        transforms.reflect_pad(np.zeros((1, 40, 10, 3), np.uint8), (40, 64))


@pytest.mark.core
@pytest.mark.parametrize(
    ("resolution", "size", "expected"),
    [
        ("480", (480, 832), (432, 768)),
        ("256", (192, 320), (192, 320)),
        ("480p", (480, 832), (480, 832)),
        ("720", (720, 960), (704, 960)),
        ("512", (600, 600), (512, 512)),
        ("720p", (1280, 720), (1280, 720)),
        ("720", (1000, 750), (960, 704)),
    ],
)
def test_published_sizes(resolution, size, expected):
    assert published_size(resolution, size) == expected


@pytest.mark.core
def test_unknown_resolution():
    with pytest.raises(ValueError, match=r"'481' is not one of .*'480p'"):
        published_size("481", (480, 832))
