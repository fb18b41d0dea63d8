"""Metrics on arrays, against what can be worked out by hand."""

import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from cosmos_jax.data import scene, synthetic
from cosmos_jax.evaluate import drift, edges, frechet, measure, nearest, pictures, sampson, summary


def noise(shape, seed=0, low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, (*shape, 3)).astype(np.uint8)


def smooth(frames, times=1):
    """Means over 3x3 pixels, of frames as a torus."""
    out = frames.astype(np.float32)
    for axis in (1, 2) * times:
        out = (out + np.roll(out, 1, axis) + np.roll(out, -1, axis)) / 3
    return np.rint(out).astype(np.uint8)


# ---- To the true frames.


@pytest.mark.core
def test_psnr_of_a_known_difference():
    true = noise((3, 16, 24), high=200)
    frames = true.copy()
    frames[1] += 5
    frames[2, :8] += 10  # half the picture
    found = pictures.psnr(frames, true)
    assert found[0] == math.inf
    assert found[1] == pytest.approx(20 * math.log10(255 / 5))
    assert found[2] == pytest.approx(10 * math.log10(255**2 / 50))


def plain_ssim(a, b):
    """The definition, window by window."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(taps, taps) / taps.sum() ** 2
    a, b = a.astype(np.float64), b.astype(np.float64)
    values = []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            both = (window * (p - mp) * (q - mq)).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            values.append(
                (2 * mp * mq + c1) * (2 * both + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
            )
    return np.mean(values)


@pytest.mark.core
def test_ssim_is_that_of_the_definition():
    true = smooth(noise((2, 18, 21)))
    frames = np.clip(true * 0.7 + noise((2, 18, 21), 1, high=60), 0, 255).astype(np.uint8)
    expected = [
        np.mean([plain_ssim(a[..., c], b[..., c]) for c in range(3)]) for a, b in zip(frames, true)
    ]
    np.testing.assert_allclose(pictures.ssim(frames, true), expected, atol=2e-5)
    np.testing.assert_allclose(pictures.ssim(true, true), 1, atol=1e-6)
    assert pictures.ssim(255 - true, true).max() < 0.2
    flat = np.full((1, 12, 12, 3), 3, np.uint8)  # no variance at all
    assert pictures.ssim(flat, flat) == pytest.approx(1, abs=1e-5)


@pytest.mark.core
def test_frames_that_cannot_be_compared_are_errors():
    with pytest.raises(ValueError, match="cannot be compared frame by frame"):
        pictures.psnr(noise((2, 16, 16)), noise((3, 16, 16)))
    with pytest.raises(ValueError, match="11x11 pixels; frames of 10x16 are smaller"):
        pictures.ssim(noise((1, 10, 16)), noise((1, 10, 16)))


@pytest.mark.core
def test_blur_ssim_forgives_detail_but_not_another_scene():
    shapes = noise((1, 6, 8)).repeat(16, 1).repeat(16, 2)
    grain = np.clip(shapes + np.random.default_rng(1).normal(0, 20, shapes.shape), 0, 255)
    grain = grain.astype(np.uint8)
    true = pictures.blurred(shapes, "medium")
    grained = pictures.ssim(pictures.blurred(grain, "medium"), true)
    other = pictures.ssim(pictures.blurred(shapes[:, :, ::-1].copy(), "medium"), true)
    assert grained > 0.95 > 0.7 > other and pictures.ssim(grain, shapes) < 0.7


# ---- By themselves.


@pytest.mark.core
def test_sharpness_is_the_variance_of_the_laplacian():
    flat = np.full((1, 8, 8, 3), 90, np.uint8)
    board = np.indices((8, 8)).sum(0) % 2 * 10  # each pixel differs by 10 from all 4 neighbours
    checked = np.repeat(board[None, ..., None], 3, 3).astype(np.uint8)
    assert pictures.sharpness(flat)[0] == 0
    assert pictures.sharpness(checked)[0] == pytest.approx(40**2, rel=1e-5)
    ramp = np.broadcast_to(np.arange(8, dtype=np.uint8)[:, None] * 9, (1, 8, 8, 3)[:3])
    assert pictures.sharpness(np.repeat(ramp[..., None], 3, 3))[0] == pytest.approx(0, abs=1e-3)
    sharp = noise((1, 32, 32))
    values = [pictures.sharpness(smooth(sharp, n))[0] for n in range(3)]
    assert values[0] > 4 * values[1] > 16 * values[2]


@pytest.mark.core
def test_brightness_has_the_broadcast_weights():
    primaries = np.eye(3, dtype=np.uint8).reshape(1, 1, 3, 3) * 100
    np.testing.assert_allclose(pictures.luma(primaries)[0, 0], [29.9, 58.7, 11.4], rtol=1e-5)


@pytest.mark.core
def test_frames_are_spread_evenly_with_both_ends():
    assert pictures.spread(9, 3) == [0, 4, 8]
    assert pictures.spread(3, 8) == [0, 1, 2]
    assert pictures.spread(10, 1) == [0]


# ---- Edges.


def line(column, shape=(2, 12, 20)):
    found = np.zeros(shape, bool)
    found[:, :, column] = True
    return found


@pytest.mark.core
def test_edges_agree_within_the_tolerance_and_no_further():
    for apart, tolerance, expected in ((0, 0, 1.0), (2, 2, 1.0), (3, 2, 0.0), (1, 0, 0.0)):
        both = edges.agreement(line(5 + apart), line(5), tolerance)
        np.testing.assert_array_equal(both, [expected, expected, expected])


@pytest.mark.core
def test_precision_and_recall_are_shares_of_different_things():
    found = line(5) | line(15)  # twice as many as are wanted, half of them right
    np.testing.assert_allclose(edges.agreement(found, line(5), 1), [0.5, 1.0, 2 / 3])
    np.testing.assert_allclose(edges.agreement(line(5), found, 1), [1.0, 0.5, 2 / 3])
    nothing = np.zeros_like(found)
    np.testing.assert_array_equal(edges.agreement(nothing, found, 1), [np.nan, 0, 0])
    np.testing.assert_array_equal(edges.agreement(found, nothing, 1), [0, np.nan, 0])
    assert np.isnan(edges.agreement(nothing, nothing, 1)).all()


@pytest.mark.core
def test_growing_edges_is_a_square_that_stays_in_the_picture():
    dot = np.zeros((1, 7, 9), bool)
    dot[0, 1, 8] = True
    grown = edges.near(dot, 2)
    expected = np.zeros_like(dot)
    expected[0, 0:4, 6:9] = True
    np.testing.assert_array_equal(grown, expected)


@pytest.mark.core
def test_a_video_of_lines_is_told_from_a_picture():
    picture = smooth(noise((4, 48, 64)), 4)
    lines = np.repeat(edges.found_edges(noise((4, 48, 64)), (600, 900))[..., None], 3, 3)
    assert edges.is_drawn((lines * 255).astype(np.uint8))
    assert not edges.is_drawn(picture) and not edges.is_drawn(picture // 8)
    coloured = (lines * [255, 0, 255]).astype(np.uint8)  # such as drawn maps
    assert not edges.is_drawn(coloured) and not edges.is_drawn(np.zeros_like(picture))


# ---- Geometry.


def relative_fundamental(config, here, there):
    """The fundamental matrix of two poses (camera to world) from what the scene knows."""
    move = np.linalg.inv(there) @ here
    x, y, z = move[:3, 3]
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    inverse = np.linalg.inv(scene.intrinsics(config))
    return inverse.T @ cross @ move[:3, :3] @ inverse


CONFIG = scene.SceneConfig(seed=3, episodes=1, frames=12, fps=4, cameras=6, size=(160, 240),
                           overlap=30.0, supersample=1)  # fmt: skip


@pytest.mark.core
def test_sampson_distances_of_projected_points():
    ahead, later = (scene.camera_to_world(CONFIG, 0, frame)[0] for frame in (0, 4))
    points = ahead[:3, 3] + (np.random.default_rng(0).uniform(-4, 4, (50, 3)) + [9, 0, 1])
    poses = np.stack([ahead, later])
    (first, second), _ = scene.project(CONFIG, poses, points)
    matrix = relative_fundamental(CONFIG, ahead, later)
    assert sampson.distances(matrix, first, second).max() < 1e-8
    # A move to the right has level epipolar lines; both points share an error of rows.
    sideways = np.array([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    moved = first + np.array([7.0, 0.0])
    assert sampson.distances(sideways, first, moved).max() < 1e-12
    wrong = sampson.distances(sideways, first, moved + np.array([0.0, 3.0]))
    np.testing.assert_allclose(wrong, 3 / math.sqrt(2))


@pytest.mark.core
def test_a_fit_finds_the_geometry_among_outliers():
    ahead, later = (scene.camera_to_world(CONFIG, 0, frame)[0] for frame in (0, 4))
    random = np.random.default_rng(0)
    points = ahead[:3, 3] + random.uniform([3, -6, -1], [15, 6, 4], (200, 3))
    (first, second), _ = scene.project(CONFIG, np.stack([ahead, later]), points)
    clean = sampson.fit_points(first, second)
    assert clean.error < 0.01 and clean.inliers == 1 and clean.matches == 200
    second[:60] += random.uniform(20, 60, (60, 2))
    spoiled = sampson.fit_points(first, second)
    assert spoiled.error < 0.01 and 0.7 <= spoiled.inliers < 0.8
    noisy = sampson.fit_points(first, second + random.normal(0, 0.5, second.shape))
    assert 0.05 < noisy.error < 1


@pytest.fixture(scope="module")
def rendered():
    """All cameras of the rendered scene: uint8 [v f y x 3]."""
    return synthetic.render_episode(CONFIG, 0).video


def test_rendered_frames_keep_the_geometry_of_their_camera(rendered):
    ahead = rendered[0]
    for frame in (0, 4):
        here, after = ahead[frame : frame + 1], ahead[frame + 1 : frame + 2]
        found = sampson.fit(here, after, moving=True)
        poses = [scene.camera_to_world(CONFIG, 0, n)[0] for n in (frame, frame + 1)]
        matched = sampson.matches(here[0], after[0])
        true = sampson.distances(relative_fundamental(CONFIG, *poses), *matched)
        assert found.matches == len(true) >= 20 and not found.reason
        assert found.error < np.median(true) + 0.15 < 0.6 and found.inliers > 0.7
    still = sampson.fit(ahead[:1], ahead[:1], moving=True)
    assert math.isnan(still.error) and still.reason == "nothing moves by 0.2 pixels"
    nothing = sampson.fit(np.zeros_like(ahead[:1]), ahead[:1], moving=True)
    assert nothing.matches == 0 and nothing.reason == "fewer than 20 matches"


def test_cameras_that_shake_against_each_other_are_found_out(rendered):
    left, right = rendered[1, :8], rendered[0, :8]
    together = sampson.fit(left, right, moving=False)
    shaken = np.stack([np.roll(f, k, 0) for f, k in zip(right, (0, 4, -5, 6, -3, 0, 5, -6))])
    apart = sampson.fit(left, shaken, moving=False)
    assert together.error < 0.6 and together.inliers > 0.6
    assert apart.error > 2 * together.error and apart.inliers < together.inliers - 0.15
    videos = {"generated": {"camera_060": left, "camera_000": shaken}, "control": {}}
    videos["reference"] = {"camera_060": left, "camera_000": right}
    found = measure.sample_metrics(
        ["camera_000", "camera_060"], read_from(videos), measure.Settings(), CONFIG.fps
    )["cross_view_sampson"]
    (pair,) = found["by"]
    assert pair == "camera_000 | camera_060" and found["value"] > 1.5 * found["real"]


@pytest.mark.core
def test_without_opencv_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"pip install 'cosmos_jax\[evaluate\]'"):
        sampson.fit_points(np.zeros((30, 2)), np.zeros((30, 2)))
    frames = noise((3, 24, 32))
    found = measure.view_metrics(frames, None, None, measure.Settings(), 10)
    assert found["temporal_sampson"].value is None
    assert found["temporal_sampson"].reason == sampson.MISSING
    assert found["sharpness"].value > 0


# ---- Over time.


@pytest.mark.core
def test_drift_is_against_the_first_second():
    frames = np.repeat(smooth(noise((1, 16, 16), high=200)), 12, 0)
    frames[8:] += 20  # as sharp, 20 levels brighter
    found = drift.drift(frames, fps=4)
    assert [(part.begin, part.end) for part in found.parts] == [(0, 4), (4, 8), (8, 12)]
    assert found.colour == pytest.approx(20 * math.sqrt(3)) and abs(found.sharpness) < 1e-4
    frames[8:] = smooth(frames[8:])
    assert drift.drift(frames, fps=4).sharpness < -0.3
    by_chunk = drift.drift(frames, 4, boundaries=[5, 10])
    assert [part.begin for part in by_chunk.parts] == [0, 5, 10]
    assert drift.drift(frames[:3], fps=10).parts[0].end == 3
    flat = drift.drift(np.zeros((8, 12, 12, 3), np.uint8), fps=4)
    assert math.isnan(flat.sharpness) and flat.colour == 0


@pytest.mark.core
def test_seams_are_compared_with_what_is_around_them():
    levels = np.array([0, 2, 4, 6, 8, 10, 12, 14, 16, 18])
    levels[5:] += 10  # a jump of 12 where steps are 2
    frames = np.broadcast_to(levels[:, None, None, None], (10, 8, 8, 3)).astype(np.uint8)
    (seam,) = drift.seams(frames, [5])
    assert (seam.frame, seam.difference, seam.around, seam.ratio) == (5, 12, 2, 6)
    smooth_one, jump = drift.seams(frames, [3, 5])
    assert smooth_one.ratio == 1 and jump.ratio == 6  # one seam is not the surroundings of another
    still = np.zeros((6, 8, 8, 3), np.uint8)
    assert drift.seams(still, [3])[0].ratio == 1
    still[3:] = 9
    assert drift.seams(still, [3])[0].ratio == math.inf


@pytest.mark.core
@pytest.mark.parametrize("boundaries", [[0], [6], [4, 2], [3, 3]])
def test_boundaries_outside_the_video_are_errors(boundaries):
    frames = np.zeros((6, 8, 8, 3), np.uint8)
    for function in (
        lambda: drift.seams(frames, boundaries),
        lambda: drift.drift(frames, 2, boundaries),
    ):
        with pytest.raises(ValueError, match="do not increase within a video of 6 frames"):
            function()


# ---- Training frames and features.


@pytest.mark.core
def test_copies_of_training_frames_are_found():
    train = nearest.thumbnails(smooth(noise((2500, 18, 32)), 2))  # more than a block
    fresh = nearest.thumbnails(smooth(noise((5, 18, 32), 1), 2))
    copied = train[[3, 2499]] + 2
    np.testing.assert_allclose(nearest.distances(copied, train), [2, 2], rtol=1e-4)
    assert nearest.distances(fresh, train).min() > 5
    with pytest.raises(ValueError, match="no training frames"):
        nearest.distances(fresh, train[:0])


@pytest.mark.core
def test_thumbnails_are_of_one_size_for_videos_of_any():
    picture = smooth(noise((1, 36, 64)), 4)
    large = picture.repeat(3, 1).repeat(3, 2)
    a, b = nearest.thumbnails(picture), nearest.thumbnails(large)
    assert a.shape == b.shape == (1, 18 * 32 * 3)
    assert np.abs(a - b).max() < 5


@pytest.mark.core
def test_frechet_distance_of_gaussians():
    random = np.random.default_rng(0)
    first, second = random.normal(size=(2, 20_000, 3))
    mix = np.array([[2.0, 0.3, 0], [0, 1.0, 0.5], [0, 0, 0.5]])
    shift = np.array([1.0, -2.0, 0.5])
    assert frechet.distance(first, first) == pytest.approx(0, abs=1e-9)
    assert frechet.distance(first, first + shift) == pytest.approx(shift @ shift)
    a, b = np.eye(3), mix.T @ mix
    values, vectors = np.linalg.eigh(b)
    root = (vectors * np.sqrt(values)) @ vectors.T  # of A B, as A is 1
    expected = shift @ shift + np.trace(a + b - 2 * root)
    assert frechet.distance(first, second @ mix + shift) == pytest.approx(expected, rel=0.05)
    assert frechet.distance(first, 2 * first) == pytest.approx(
        np.trace(np.cov(first.T)), rel=0.01
    )  # (2 - 1)^2 tr(A), and the means are near 0
    for rows, message in ((first[:1], "at least 2 rows"), (first * np.nan, "not finite")):
        with pytest.raises(ValueError, match=message):
            frechet.distance(rows, first)


@pytest.mark.core
def test_a_network_is_a_function_or_an_exported_one(tmp_path):
    def means(x):
        return jnp.asarray(x, jnp.float32).mean((1, 2))

    frames = noise((20, 8, 8))
    count = export.symbolic_shape("n")[0]
    exported = export.export(jax.jit(means))(jax.ShapeDtypeStruct((count, 8, 8, 3), jnp.uint8))
    path = tmp_path / "means.jaxexport"
    path.write_bytes(exported.serialize())
    network = frechet.load(str(path), 4)
    expected = frames.mean((1, 2))
    found = frechet.features(network, frames, str(path))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    with pytest.raises(ValueError, match="due is one uint8 array of 5 axes"):
        frechet.load(str(path), 5)
    with pytest.raises(ValueError, match="does not take uint8"):
        frechet.features(network, noise((2, 9, 9)), str(path))
    own = frechet.load("cosmos_jax.evaluate.pictures:colour", 4)
    np.testing.assert_allclose(frechet.features(own, frames, "own"), expected)
    with pytest.raises(ValueError, match=r"made \(20, 3, 1\)|made \(16,"):
        frechet.features(pictures.sharpness, frames, "own")
    path.write_bytes(b"no function")
    for source, message in (
        (str(path), "not a function that jax.export serialized"),
        (str(tmp_path / "absent"), "no such file, and not package.module:function"),
        ("cosmos_jax.evaluate.pictures:absent", "--features="),
    ):
        with pytest.raises(ValueError, match=message):
            frechet.load(source, 4)


# ---- One sample, and checkpoints.


def read_from(videos):
    return lambda what, camera: videos[what].get(camera)


@pytest.mark.core
def test_every_metric_of_a_sample_has_a_value_or_a_reason():
    picture = smooth(noise((8, 36, 48)))
    lines = np.repeat(edges.found_edges(picture, (100, 200))[..., None], 3, 3)
    videos = {
        "generated": {"a": picture, "b": picture},
        "reference": {"a": picture},
        "control": {"a": (lines * 255).astype(np.uint8)},
    }
    settings = measure.Settings(control_kind="edge")
    found = measure.sample_metrics(["a", "b"], read_from(videos), settings, 4)
    known = {metric.name for metric in summary.METRICS if not metric.name.startswith("frechet")}
    assert found.keys() == known
    for name, one in found.items():
        for value in [one, *one["by"].values()]:
            assert value["value"] is not None or value["reason"], name
    assert found["psnr"]["value"] is None and "8 of 8 frames equal" in found["psnr"]["reason"]
    assert found["ssim"]["value"] == pytest.approx(1)
    assert found["ssim"]["by"]["b"]["reason"] == "no true video"
    assert found["ssim"]["reason"] == "b: no true video"
    assert found["edge_f1"]["value"] == found["edge_f1"]["real"] == 1
    assert found["sharpness"]["by"]["a"]["real"] == found["sharpness"]["by"]["a"]["value"]
    assert found["seam"]["reason"] == "no seams: the video is one chunk"
    assert len(found["colour_drift"]["by"]["a"]["over_time"]) == 2
    long = measure.sample_metrics(["a", "b"], read_from(videos), settings, 4, boundaries=[4])
    assert long["seam"]["value"] == pytest.approx(1, abs=0.2)


@pytest.mark.core
def test_what_a_control_shows_decides_what_is_compared():
    picture = smooth(noise((4, 40, 48)), 3)
    blurred = pictures.blurred(picture, "low")

    def metrics(kind, control):
        settings = measure.Settings(control_kind=kind, blur="low", edge_thresholds=(20, 50))
        return measure.view_metrics(picture, None, control, settings, 4)

    blur = metrics("blur", blurred)
    assert blur["blur_ssim"].value == pytest.approx(1) and blur["edge_f1"].value is None
    assert blur["edge_f1"].reason == "a blurred control has no edges"
    assert metrics("other", picture)["edge_f1"].value == 1
    assert metrics("auto", picture)["edge_f1"].value == 1
    assert metrics("auto", picture)["blur_ssim"].reason == "no true video, and no blurred control"


@pytest.mark.core
def test_videos_that_differ_are_errors_that_say_by_how_much():
    frames = noise((8, 24, 32))

    def measured(other):
        videos = {"generated": {"a": frames}, "reference": {"a": other}, "control": {}}
        return measure.sample_metrics(["a"], read_from(videos), measure.Settings(), 4)

    with pytest.raises(ValueError, match=r"8 generated frames, 11 reference frames \(3 more\).*=8"):
        measured(noise((11, 24, 32)))
    with pytest.raises(ValueError, match=r"\(2 fewer\).*--frames=6"):
        measured(noise((6, 24, 32)))
    with pytest.raises(ValueError, match=r"24x32, the reference's 24x40; .*--resize"):
        measured(noise((8, 24, 40)))


@pytest.mark.core
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"edge_thresholds": (200, 100)}, "0 <= low <= high"),
        ({"few": 0}, "too small"),
        ({"edge_tolerance": -1}, "too small"),
        ({"control_kind": "lines"}, "is none of"),
        ({"blur": "strong"}, "is none of"),
    ],
)
def test_settings_out_of_range_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        measure.Settings(**changes)


def value_of(value, real=None, reason=""):
    return {"value": value, "real": real, "reason": reason, "by": {}}


def checkpoints(**metrics):
    """Three checkpoints of as many samples as values: {metric: [[values], [values], [values]]}."""
    made = {}
    for i, name in enumerate(("step_000001", "step_000002", "step_000003")):
        count = len(next(iter(metrics.values()))[i])
        samples = {
            f"s{j}": {
                metric: value_of(*np.atleast_1d(lists[i][j])) for metric, lists in metrics.items()
            }
            for j in range(count)
        }
        made[name] = summary.of_samples(samples)
    return made


@pytest.mark.core
def test_the_best_checkpoint_and_those_that_are_as_good():
    made = checkpoints(
        psnr=[[20.0, 30.0, 25.0], [25.0, 35.0, 30.0], [25.1, 34.8, 30.0]],
        sharpness=[[(40.0, 100)] * 3, [(90.0, 100)] * 3, [(150.0, 100)] * 3],
    )
    found = summary.verdicts(made)
    assert found["psnr"] == summary.Verdict("step_000002", ("step_000003",))
    assert found["sharpness"].best == "step_000002"  # nearest to real video, not the sharpest
    places = summary.ranks(made)  # by sharpness, 1.5 times real is nearer than 0.4 times
    assert places == {"step_000001": 3.0, "step_000002": 1.0, "step_000003": 2.0}
    mean = made["step_000001"].means["psnr"]
    assert mean.value == 25 and mean.stderr == pytest.approx(5 / math.sqrt(3))
    assert (mean.samples, mean.total) == (3, 3)


@pytest.mark.core
def test_one_sample_tells_no_checkpoint_from_another():
    found = summary.verdicts(checkpoints(ssim=[[0.1], [0.9], [0.5]]))
    assert found["ssim"] == summary.Verdict("step_000002", ("step_000001", "step_000003"))


@pytest.mark.core
def test_a_metric_that_a_checkpoint_lacks_has_no_best():
    made = checkpoints(psnr=[[20.0], [25.0], [30.0]])
    gap = {"s0": {"psnr": value_of(None, None, "no true video")}}
    made["step_000002"] = summary.of_samples(gap)
    assert summary.verdicts(made) == {} and summary.ranks(made) == {}
    text = summary.table(made)
    assert "absent" in text and "PSNR [dB]: no true video" in text


@pytest.mark.core
def test_signs_of_over_and_underfitting_are_said():
    early = {"s": {"sharpness": value_of(50.0, 100.0), "edge_f1": value_of(0.3, 0.9)}}
    assert [sign.split()[0] for sign in summary.signs(early)] == ["blurred", "keeps"]
    late = {"s": {"train_distance": value_of(3.0, 9.0), "sharpness": value_of(99.0, 100.0)}}
    (sign,) = summary.signs(late)
    assert "overfitted" in sign and "0.33" in sign
    fine = {"s": {"train_distance": value_of(8.0, 9.0), "edge_f1": value_of(0.9, 0.9)}}
    assert summary.signs(fine) == []
    worse = checkpoints(psnr=[[20.0, 21.0], [30.0, 31.0], [25.0, 26.5]])
    (trend,) = summary.trends(worse)
    assert "best at step_000002" in trend and "worse at step_000003: a sign of overfitting" in trend


@pytest.mark.core
def test_blur_does_not_pass_for_good_geometry():
    bad = summary.badness
    assert bad("temporal_sampson", 0.05, 0.2) > bad("temporal_sampson", 0.19, 0.2)
    assert bad("temporal_sampson", 0.05, None) < bad("temporal_sampson", 0.19, None)
    assert bad("sharpness", 5.0, None) is None and bad("unknown", 5.0, 5.0) is None


@pytest.mark.core
def test_nothing_heavy_is_loaded():
    script = (
        "import sys; from cosmos_jax.evaluate import run;"
        " print({'jax', 'flax', 'cv2', 'grain'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
