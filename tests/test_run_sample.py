"""`run_sample.py` as its users run it, and the sampler behind it on one and on many devices."""

import dataclasses
import functools
import json
import shutil

import commands
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from cosmos_jax import generate, sample, sharding
from cosmos_jax.data import video, video_writer
from cosmos_jax.diffusion import unipc
from cosmos_jax.encode import Encoder
from cosmos_jax.models.dct_codec import DCTCodec
from cosmos_jax.models.hashed_text import HashedText
from cosmos_jax.types import Clip

CAMERAS = ("camera_000", "camera_180")
CONTROL = "control_input_hdmap_bbox"


def command(output, *arguments, folder=None):
    """Arguments of run_sample.py for the tiny demo."""
    workdir = commands.trained()
    folder = folder or workdir / "synthetic"
    return [f"--checkpoint={workdir}", f"--input={folder}", f"--output={output}", *arguments]


def frames(path):
    return video.read_frames(video.probe(path), range(5)).astype(int)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """The output of a run with guidance, of two clips."""
    output = tmp_path_factory.mktemp("sampled") / "videos"
    arguments = command(output, "--guidance=1.5", "--max_samples=2", "--seed=7")
    done = commands.run("run_sample.py", *arguments, fresh=True)
    assert "2/2 " in done.out
    return output


@pytest.fixture
def folder(tmp_path):
    """A folder of clips that a test may spoil."""
    return shutil.copytree(commands.trained() / "synthetic", tmp_path / "clips")


# ---- The command.


@pytest.mark.core
def test_every_clip_becomes_a_video_a_view_and_grids(sampled):
    sizes = {}
    for path in sampled.rglob("*.mp4"):
        info = video.probe(path)
        assert (info.frames, float(info.fps)) == (5, 10)
        sizes[str(path.relative_to(sampled))] = info.size
    assert sizes == {
        f"episode_000{i}{name}": size
        for i in range(2)
        for name, size in [
            ("/camera_000.mp4", (32, 48)),
            ("/camera_180.mp4", (32, 48)),
            ("_grid.mp4", (32, 96)),
            ("_control.mp4", (32, 96)),
        ]
    }
    grid = frames(sampled / "episode_0000_grid.mp4")
    for i, camera in enumerate(CAMERAS):
        view = frames(sampled / "episode_0000" / f"{camera}.mp4")
        assert np.abs(grid[:, :, 48 * i : 48 * (i + 1)] - view).mean() < 6  # both are compressed
        true = frames(commands.trained() / "synthetic" / CONTROL / camera / "episode_0000.mp4")
        control = frames(sampled / "episode_0000_control.mp4")[:, :, 48 * i : 48 * (i + 1)]
        assert np.abs(control - true).mean() < 6


def test_how_a_sample_was_made_is_kept_beside_it(sampled):
    told = json.loads((sampled / "episode_0001.json").read_text("utf-8"))
    workdir = commands.trained()
    caption = workdir / "synthetic" / "captions" / "camera_000" / "episode_0001.json"
    expected = {
        "checkpoint": str(workdir / "checkpoints" / "4"),
        "weights": "ema",
        "views": list(CAMERAS),
        "captions": [json.loads(caption.read_text("utf-8"))["caption"], ""],
        "negative_prompt": None,
        "fps": 10.0,
        "num_steps": 2,
        "guidance": 1.5,
        "seed": 8,  # the second clip's
        "control_weight": 1.0,
        "num_conditional_frames": 0,
        "karras": False,
        "jax": jax.__version__,
    }
    assert told == expected


def test_eight_devices_sample_the_same_videos(sampled, tmp_path):
    arguments = command(tmp_path / "videos", "--guidance=1.5", "--max_samples=1", "--seed=7")
    mesh = "--mesh=data=2,fsdp=2,context=2"
    commands.run("run_sample.py", *arguments, mesh, devices=8)
    for camera in CAMERAS:
        one, many = (
            frames(folder / "episode_0000" / f"{camera}.mp4")
            for folder in (sampled, tmp_path / "videos")
        )
        assert np.abs(one - many).max() <= 2


def test_given_frames_weights_prompt_and_one_checkpoint_can_be_chosen(sampled, tmp_path, folder):
    shutil.rmtree(folder / CONTROL / "camera_180")
    arguments = command(tmp_path / "videos", folder=folder)[1:]
    arguments = [
        f"--checkpoint={commands.trained() / 'checkpoints' / '2'}",
        *arguments,
        "--weights=regular",
        "--prompt=A quiet street",
        "--negative_prompt=Noise",
        "--num_conditional_frames=5",
        "--max_samples=1",
        "--num_steps=3",
        "--control_weight=0.5",
        "--guidance=1",
    ]
    commands.run("run_sample.py", *arguments)
    assert "is not empty" in commands.error_of("run_sample.py", *arguments)
    commands.run("run_sample.py", *arguments, "--overwrite")
    told = json.loads((tmp_path / "videos" / "episode_0000.json").read_text("utf-8"))
    assert told["checkpoint"].endswith("checkpoints/2") and told["weights"] == "regular"
    assert told["views"] == ["camera_000"] and told["captions"] == ["A quiet street"]
    assert (told["num_steps"], told["control_weight"], told["guidance"]) == (3, 0.5, 1)
    assert told["negative_prompt"] == "Noise"
    # All frames are given: what comes out is what the codec keeps of them.
    true = frames(folder / "videos" / "camera_000" / "episode_0000.mp4")
    kept = DCTCodec().encode({}, jnp.asarray(true[None, None] / 127.5 - 1))
    kept = np.clip((np.asarray(DCTCodec().decode({}, kept))[0, 0] + 1) * 127.5, 0, 255)
    made = frames(tmp_path / "videos" / "episode_0000" / "camera_000.mp4")
    assert np.abs(made - kept).mean() < 3
    unlike = frames(sampled / "episode_0000" / "camera_000.mp4")
    assert np.abs(unlike - kept).mean() > 30


# ---- Bad input.


def unreadable(folder):
    (folder / CONTROL / "camera_000" / "episode_0001.mp4").write_bytes(b"nothing")


def without_view(folder):
    (folder / CONTROL / "camera_180" / "episode_0002.mp4").unlink()


def without_control(folder):
    shutil.rmtree(folder / CONTROL)


def without_videos(folder):
    shutil.rmtree(folder / "videos")


def too_short(folder):
    path = folder / CONTROL / "camera_000" / "episode_0000.mp4"
    video_writer.write_video(path, np.zeros((2, 32, 48, 3), np.uint8), 10)


def unknown_camera(folder):
    (folder / CONTROL / "camera_180").rename(folder / CONTROL / "camera_090")


def untouched(folder):
    pass


BAD = {
    "unreadable": (unreadable, [], ["1 bad files", "episode_0001.mp4: ", "not a video"]),
    "missing view": (without_view, [], ["1 bad files", "camera_180/episode_0002.mp4: missing"]),
    "no control": (without_control, [], ["no control_input_* folders"]),
    "other control": (untouched, ["--control=control_input_edge"], ["no such control folder"]),
    "too short": (too_short, [], ["3 frames too short: 2, and a clip of 5 frames"]),
    "unknown camera": (unknown_camera, [], ["camera_090: the model knows no such camera"]),
    "no videos": (
        without_videos,
        ["--num_conditional_frames=1"],
        ["6 bad files", "videos/camera_000/episode_0000.mp4: missing"],
    ),
    "given frames": (untouched, ["--num_conditional_frames=3"], ["frames=3", "0, 1, 5"]),
    "too many": (untouched, ["--num_conditional_frames=9"], ["=9 exceeds the 5 frames"]),
    "fps": (untouched, ["--fps=4"], ["10 fps is not a multiple of data.fps=4"]),
    "steps": (untouched, ["--num_steps=0"], ["num_steps=0"]),
    "mesh": (untouched, ["--mesh=data=3"], ["needs 3 devices", "there are 1"]),
    "mesh's form": (untouched, ["--mesh=data:2"], ["--mesh=data:2", "data=2,context=4"]),
    "flag": (untouched, ["--num_step=2"], ["num_step"]),
    "word": (untouched, ["now"], ["unexpected argument 'now'"]),
    "weights": (untouched, ["--weights=best"], ["weights", "ema|regular"]),
}
LISTS = {"unreadable", "missing view", "too short", "no videos", "fps"}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_line_and_leaves_nothing(case, folder, tmp_path):
    spoil, arguments, words = BAD[case]
    spoil(folder)
    output = tmp_path / "videos"
    error = commands.error_of("run_sample.py", *command(output, folder=folder), *arguments)
    assert all(word in error for word in words), error
    assert ("\n" in error) == (case in LISTS), error
    assert not output.exists()


def test_places_that_are_not_what_they_should_be(tmp_path):
    given = dict(checkpoint=commands.trained(), input=commands.trained() / "synthetic")
    given["output"] = tmp_path / "videos"

    def error(**changes):
        flags = given | changes
        return commands.error_of(
            "run_sample.py", *(f"--{k}={v}" for k, v in flags.items() if v is not None)
        )

    for name in given:
        assert error(**{name: None}).startswith(f"--{name} is missing: ")
    assert "holds no complete checkpoint" in error(checkpoint=tmp_path)
    assert "is not a folder of clips" in error(input=tmp_path / "nowhere")
    (tmp_path / "file").write_text("kept")
    assert f"{tmp_path}/file is not a folder" in error(output=tmp_path / "file")
    assert f"{tmp_path} is not empty" in error(output=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    alone = tmp_path / "checkpoints" / "4"
    shutil.copytree(commands.trained() / "checkpoints" / "4", alone)
    assert "has no config.json: it is not a workdir" in error(checkpoint=alone)


# ---- The sampler.

STEPS = 3
MESHES = [dict(context=2), dict(data=2), dict(data=2, fsdp=2, context=2)]


def make_clip(number):
    """One stacked clip of two views, with coarse pictures."""
    rng = np.random.default_rng(number)
    shape = (2, 1, 2, 5, 4, 6, 3)  # video and control, b v f y x c
    pixels, control = rng.integers(0, 256, shape, np.uint8).repeat(8, 4).repeat(8, 5)
    return Clip(
        video=pixels,
        control=control,
        captions=(("some words", ""),),
        view_ids=np.arange(2, dtype=np.int32)[None],
        fps=np.array([10], np.float32),
        index=np.array([0], np.int32),
        name=("clip",),
    )


class Sampler:
    """The tiny network with weights that are nowhere zero, on a mesh, and what it samples."""

    def __init__(self, sizes):
        count = int(np.prod(list(sizes.values())))
        self.mesh = sharding.make_mesh(**sizes, devices=jax.devices()[:count])
        self.trainer = tiny.trainer(".*")
        text = HashedText(tokens=3, width=tiny.TEXT)
        self.encoder = Encoder(
            DCTCodec(), {}, lambda caption: text.encode([caption])[0], self.mesh, "float32"
        )
        params, constants = weights()
        params = jax.device_put(params, sharding.param_shardings(params, self.mesh))
        everywhere = jax.NamedSharding(self.mesh, sharding.P())
        self.variables = {"params": params, "constants": jax.device_put(constants, everywhere)}

    def latents(self, clip, negative=None, seed=5, **settings):
        """Sampled latents, and the generator that made them."""
        config = generate.SampleConfig(**dict(num_steps=STEPS, guidance=0.0) | settings)
        with jax.set_mesh(self.mesh):
            made = generate.Generator(
                self.trainer.net, DCTCodec(), self.trainer.process, config, self.mesh
            )
            batch = self.encoder(clip, range(1), 1)
            uncond = jnp.zeros_like(batch.text) if negative is None else negative(batch.text)
            latents = made.latents(self.variables, batch, uncond, seed)
            return np.asarray(latents), made

    def pixels(self, generator, latents):
        with jax.set_mesh(self.mesh):
            return generator.pixels({}, jnp.asarray(latents)).astype(int)


@functools.cache
def weights():
    """Parameters, each a function of its path alone, and the constants."""
    net = tiny.trainer(".*").net
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), **tiny.INPUTS))["params"]

    def draw(path, leaf):
        name = sharding.path_name(path)
        rng = np.random.default_rng([ord(letter) for letter in name])
        return name.endswith("scale") + 0.2 * rng.standard_normal(leaf.shape, np.float32)

    constants = jax.jit(lambda: net.init(jax.random.key(0), **tiny.INPUTS)["constants"])()
    return jax.tree_util.tree_map_with_path(draw, shapes), constants


@pytest.fixture(scope="module")
def one():
    return Sampler(dict(data=1))


@pytest.fixture(scope="module")
def guided(one):
    return one.latents(make_clip(1), guidance=1.5)[0]


@pytest.mark.core
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_latents_do_not_depend_on_the_mesh(guided, sizes):
    latents, _ = Sampler(sizes).latents(make_clip(1), guidance=1.5)
    assert np.abs(guided).max() > 1
    np.testing.assert_allclose(latents, guided, atol=1e-3, rtol=0)


def test_noise_is_the_seeds_bit_for_bit_on_every_mesh(monkeypatch):
    """One step of a network that says nothing gives the noise: x - sigma v with v = 0."""
    shape = dict(b=1, v=2, t=2, h=4, w=6, c=16)
    want = sample.initial_noise(5, **shape)
    for sizes in (dict(data=1), *MESHES):
        sampler = Sampler(sizes)
        monkeypatch.setattr(
            generate, "bind", lambda *a, **k: lambda x, timesteps: jnp.zeros_like(x)
        )
        latents, _ = sampler.latents(make_clip(1), num_steps=1)
        np.testing.assert_array_equal(latents, want)
        other, _ = sampler.latents(make_clip(1), num_steps=1, seed=6)
        np.testing.assert_array_equal(other, sample.initial_noise(6, **shape))


def test_guidance_of_0_is_the_conditional_branch_alone(one, guided):
    alone, _ = one.latents(make_clip(1))
    # Guidance between two equal branches changes nothing, so it must be the conditional one.
    same, _ = one.latents(make_clip(1), negative=lambda text: text, guidance=1.5)
    np.testing.assert_allclose(same, alone, atol=1e-4)
    assert np.abs(guided - alone).max() > 0.01


def test_control_counts_by_its_weight(one):
    with_control, _ = one.latents(make_clip(1))
    half, _ = one.latents(make_clip(1), control_weight=0.5)
    without, _ = one.latents(make_clip(1), control_weight=0.0)
    other = dataclasses.replace(make_clip(1), control=make_clip(2).control)
    np.testing.assert_array_equal(one.latents(other, control_weight=0.0)[0], without)
    assert np.abs(with_control - without).max() > 0.01
    assert np.abs(half - without).max() > 0.001
    assert np.abs(one.latents(other)[0] - with_control).max() > 0.01


@pytest.mark.parametrize("given", [1, 5])
def test_given_frames_come_out_as_they_went_in(one, given):
    clip = make_clip(1)
    latents, generator = one.latents(clip, num_conditional_frames=given, guidance=1.5)
    with jax.set_mesh(one.mesh):
        true = np.asarray(one.encoder(clip, range(1), 1).latents)
    count = 1 + (given - 1) // 4
    # Nearly: the first noise level is just below 1, and the noise is not scaled by it.
    noise = sample.initial_noise(5, b=1, v=2, t=2, h=4, w=6, c=16)
    want = true + (1 - unipc.shift_sigmas(STEPS, 5.0)[0]) * (noise - true)
    np.testing.assert_allclose(latents[:, :, :count], want[:, :, :count], atol=1e-4)
    made, kept = one.pixels(generator, latents), one.pixels(generator, true)
    assert np.abs(made[:, :, :given] - kept[:, :, :given]).max() <= 1
    if given < 5:
        assert np.abs(made[:, :, given:] - kept[:, :, given:]).max() > 20


def test_frames_that_are_not_given_are_not_read(one):
    clip = make_clip(1)
    black = dataclasses.replace(clip, video=np.zeros_like(clip.video))
    np.testing.assert_array_equal(one.latents(clip)[0], one.latents(black)[0])
    first = clip.video.copy()
    first[:, :, 1:] = 0
    sole = dataclasses.replace(clip, video=first)
    want, have = (one.latents(c, num_conditional_frames=1)[0] for c in (clip, sole))
    np.testing.assert_array_equal(want, have)


def test_pixels_are_rounded_and_clipped(one):
    _, generator = one.latents(make_clip(1), num_steps=1)
    for level in (0, 128, 255):
        grey = jnp.full((1, 1, 5, 16, 16, 3), level / 127.5 - 1)
        pixels = one.pixels(generator, DCTCodec().encode({}, grey))
        assert set(pixels.reshape(-1).tolist()) == {level}
    far = one.pixels(generator, 100 * DCTCodec().encode({}, grey))
    assert far.max() <= 255 and far.min() >= 0
