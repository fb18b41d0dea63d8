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
    assert f"2/2 {output}/episode_0001.json" in done.out and "4 of 4 steps" in done.out
    return output


@pytest.fixture
def folder(tmp_path):
    """A folder of clips that a test may spoil."""
    return shutil.copytree(commands.trained() / "synthetic", tmp_path / "clips")


# ---- The command.


@pytest.mark.core
def test_every_clip_becomes_a_video_a_view_and_pictures_of_all(sampled):
    sizes = {}
    for path in sampled.rglob("*.mp4"):
        info = video.probe(path)
        assert (info.frames, float(info.fps)) == (5, 10)
        sizes[str(path.relative_to(sampled))] = info.size
    views = [f"/{kind}{c}.mp4" for kind in ("", "control/", "input/") for c in CAMERAS]
    assert sizes == {
        f"episode_000{i}{name}": size
        for i in range(2)
        for name, size in [
            *((view, (32, 48)) for view in views),
            *((f"_{kind}.mp4", (32, 96)) for kind in ("grid", "control", "input")),
            ("_comparison.mp4", (96, 96)),
        ]
    }
    assert video.probe(sampled / "episode_0000.png").size == (32, 96)
    grid = frames(sampled / "episode_0000_grid.mp4")
    for i, camera in enumerate(CAMERAS):
        view = frames(sampled / "episode_0000" / f"{camera}.mp4")
        assert np.abs(grid[:, :, 48 * i : 48 * (i + 1)] - view).mean() < 6  # both are compressed
        for kind, folder in (("control", CONTROL), ("input", "videos")):
            true = frames(commands.trained() / "synthetic" / folder / camera / "episode_0000.mp4")
            kept = frames(sampled / "episode_0000" / kind / f"{camera}.mp4")
            assert np.abs(kept - true).mean() < 6
    assert (sampled / "gallery.html").is_file()


def test_how_a_sample_was_made_is_kept_beside_it(sampled):
    told = json.loads((sampled / "episode_0001.json").read_text("utf-8"))
    workdir = commands.trained()
    caption = workdir / "synthetic" / "captions" / "camera_000" / "episode_0001.json"
    words = json.loads(caption.read_text("utf-8"))["caption"]
    assert told["prompt"] == dict(zip(CAMERAS, [words, ""]))
    assert (told["name"], told["cameras"]) == ("episode_0001", list(CAMERAS))
    assert (told["fps"], told["frames"], told["size"]) == (10.0, 5, [32, 48])
    assert told["seed"] == told["settings"]["seed"] == 8  # the second clip's
    assert (told["settings"]["num_steps"], told["settings"]["guidance"]) == (2, 1.5)
    assert told["evaluations"] == 2 and told["compat"] == "none"
    assert told["weights"]["source"] == str(workdir / "checkpoints" / "4")
    assert told["weights"]["which"] == "ema" and len(told["weights"]["checksum"]) == 16
    assert told["versions"]["jax"] == jax.__version__
    for place in ("views", "control", "input"):
        assert all((sampled / path).is_file() for path in told["files"][place].values())
    for place in ("grid", "control_grid", "input_grid", "comparison", "image"):
        assert (sampled / told["files"][place]).is_file()


def test_the_same_command_goes_on_and_another_is_refused(sampled):
    arguments = command(sampled, "--guidance=1.5", "--max_samples=2", "--seed=7")
    before = {path: path.stat().st_mtime_ns for path in sampled.rglob("*.mp4")}
    done = commands.run("run_sample.py", *arguments)
    assert done.out.count("is there already") == 2
    assert {path: path.stat().st_mtime_ns for path in sampled.rglob("*.mp4")} == before
    error = commands.error_of("run_sample.py", *arguments, "--num_steps=3")
    assert "holds the samples of another run (other samples)" in error


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
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "note.txt").write_text("kept")
    assert "is not empty" in commands.error_of("run_sample.py", *arguments)
    commands.run("run_sample.py", *arguments, "--overwrite")
    told = json.loads((tmp_path / "videos" / "episode_0000.json").read_text("utf-8"))
    weights, settings = told["weights"], told["settings"]
    assert weights["source"].endswith("checkpoints/2") and weights["which"] == "regular"
    assert told["prompt"] == {"camera_000": "A quiet street"}
    wanted = (settings["num_steps"], settings["control_weight"], settings["guidance"])
    assert wanted == (3, 0.5, 1) and told["negative_prompt"] == "Noise"
    # All frames are given: what comes out is what the codec keeps of them.
    true = frames(folder / "videos" / "camera_000" / "episode_0000.mp4")
    kept = DCTCodec().encode({}, jnp.asarray(true[None, None] / 127.5 - 1))
    kept = np.clip((np.asarray(DCTCodec().decode({}, kept))[0, 0] + 1) * 127.5, 0, 255)
    made = frames(tmp_path / "videos" / "episode_0000" / "camera_000.mp4")
    assert np.abs(made - kept).mean() < 3
    unlike = frames(sampled / "episode_0000" / "camera_000.mp4")
    assert np.abs(unlike - kept).mean() > 30


LONG = ("--num_chunks=all", "--max_samples=1", "--num_conditional_frames=1", "--num_seeds=2")


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Two seeds of a video of two chunks, of which the control fills three frames of the last."""
    output = tmp_path_factory.mktemp("long") / "videos"
    commands.run("run_sample.py", *command(output, *LONG, "--batch=2"))
    return output


def test_a_long_video_ends_where_its_control_does(long):
    for seed in (0, 1):
        told = json.loads((long / f"episode_0000_seed{seed}.json").read_text("utf-8"))
        assert (told["frames"], told["boundaries"], told["seed"]) == (8, [5], seed)
        chunks = told["chunks"]["camera_180"]
        assert [(part["begin"], part["end"]) for part in chunks["parts"]] == [(0, 5), (5, 8)]
        assert [seam["frame"] for seam in chunks["seams"]] == [5]
        for path in told["files"]["views"].values():
            assert video.probe(long / path).frames == 8
    assert not list(long.glob(".*.chunks"))


def test_a_long_video_that_was_interrupted_goes_on_with_its_finished_chunks(long, tmp_path):
    """Killed between two chunks, and begun again without batches: the same videos."""
    output, stop = tmp_path / "videos", tmp_path / "stop.py"
    stop.write_text(
        "import os\n"
        "from cosmos_jax.sampling import kept_chunks\n"
        "write = kept_chunks.KeptChunks.write\n"
        "def kill(self, chunk, latents):\n"
        "    write(self, chunk, latents)\n"
        "    os._exit(9)\n"
        "kept_chunks.KeptChunks.write = kill\n"
        "def allow(prompt=None, frames=None):\n"
        "    pass\n"
    )
    arguments = command(output, *LONG)
    died = commands.Command("run_sample.py", *arguments, "--guardrail=stop:allow", paths=[tmp_path])
    assert died.wait() == 9
    assert len(list(output.glob(".*.chunks/*.npy"))) == 1
    commands.run("run_sample.py", *arguments)
    first = json.loads((output / "episode_0000_seed0.json").read_text("utf-8"))
    assert first["evaluations"] == 2  # of the second chunk alone: 2 steps
    for path in long.rglob("*seed*/camera_*.mp4"):
        info = video.probe(output / path.relative_to(long))
        ours = video.read_frames(info, range(8)).astype(int)
        theirs = video.read_frames(video.probe(path), range(8)).astype(int)
        assert np.abs(ours - theirs).max() <= 2


def test_a_specification_is_sampled_like_a_folder(sampled, tmp_path):
    root = commands.trained() / "synthetic"
    car = {
        f"camera_{angle:03d}": f"ftheta_camera_{name}"
        for angle, name in ((0, "front_wide_120fov"), (180, "cross_right_120fov"))
    }
    run = shutil.copytree(commands.trained(), tmp_path / "run")
    config = json.loads((run / "config.json").read_text("utf-8"))
    config["cameras"] = [[car[name], view] for name, view in config["cameras"]]
    config["caption_cameras"] = [car["camera_000"]]
    (run / "config.json").write_text(json.dumps(config))
    words = json.loads((root / "captions/camera_000/episode_0000.json").read_text("utf-8"))
    control = "control_input_hdmap_bbox/{}/episode_0000.mp4"
    spec = {
        "name": "episode_0000",
        "prompt": words["caption"],
        "negative_prompt": "",
        "seed": 7,
        "guidance": 1.5,
        "num_conditional_frames": 0,
        "num_steps": 2,
        "front_wide": {"control_path": control.format("camera_000")},
        "cross_right": {"control_path": control.format("camera_180")},
    }
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec))
    for kind in ("control_input_hdmap_bbox",):
        (tmp_path / kind).symlink_to(root / kind)
    arguments = [f"--checkpoint={run}", f"--input={path}", f"--output={tmp_path / 'videos'}"]
    assert "fps=10 must be" not in commands.run("run_sample.py", *arguments).out
    for name, camera in zip(("front_wide", "cross_right"), CAMERAS):
        ours = frames(tmp_path / "videos" / "episode_0000" / f"{name}.mp4")
        theirs = frames(sampled / "episode_0000" / f"{camera}.mp4")
        assert ours.shape == theirs.shape
    path.write_text(json.dumps(spec | {"guidence": 3}))
    error = commands.error_of("run_sample.py", *arguments[:2], f"--output={tmp_path / 'other'}")
    assert "unknown field guidence; did you mean guidance?" in error


def test_several_checkpoints_make_the_same_samples_and_are_compared(tmp_path):
    output = tmp_path / "videos"
    arguments = command(output, "--checkpoints=all", "--max_samples=1")
    done = commands.run("run_sample.py", *arguments)
    assert "mean place over the metrics" in done.out
    told = {
        step: json.loads((output / f"step_{step:06d}" / "episode_0000.json").read_text("utf-8"))
        for step in (2, 4)
    }
    assert told[2]["weights"]["checksum"] != told[4]["weights"]["checksum"]
    assert told[2]["request"] == told[4]["request"]
    assert set(json.loads((output / "metrics.json").read_text())["checkpoints"]) == {
        "step_000002",
        "step_000004",
    }
    error = commands.error_of("run_sample.py", *command(tmp_path / "x", "--checkpoints=2,3"))
    assert "has no step '3'; it has [2, 4]" in error


def test_exported_weights_make_the_same_videos(sampled, tmp_path):
    weights = tmp_path / "model.safetensors"
    commands.run("converters/convert.py", f"--source={commands.trained()}", f"--target={weights}")
    arguments = command(tmp_path / "videos", "--guidance=1.5", "--max_samples=1", "--seed=7")[1:]
    experiment = [*commands.demo(), "--config.data.cameras=camera_000,camera_180"]
    commands.run("run_sample.py", f"--checkpoint={weights}", *arguments, *experiment)
    for camera in CAMERAS:
        ours = frames(tmp_path / "videos" / "episode_0000" / f"{camera}.mp4")
        theirs = frames(sampled / "episode_0000" / f"{camera}.mp4")
        assert np.abs(ours - theirs).max() <= 2
    error = commands.error_of(
        "run_sample.py", f"--checkpoint={weights}", *command(tmp_path / "other")[1:]
    )
    assert "say with --config=experiments/NAME.py what the weights are of" in error


def test_a_guardrail_sees_prompts_and_frames(tmp_path):
    (tmp_path / "guard.py").write_text(
        "import numpy as np\n"
        "def blacken(prompt=None, frames=None):\n"
        "    return None if frames is None else np.zeros_like(frames)\n"
        "def refuse(prompt=None, frames=None):\n"
        "    if prompt is not None:\n"
        "        raise ValueError('too bold')\n"
    )
    output, more = tmp_path / "videos", dict(paths=[tmp_path])
    arguments = command(output, "--max_samples=1")
    error = commands.error_of("run_sample.py", *arguments, "--guardrail=guard:refuse", **more)
    assert "sample 'episode_0000': refused: too bold" in error and not output.exists()
    commands.run("run_sample.py", *arguments, "--guardrail=guard:blacken", **more)
    assert frames(output / "episode_0000" / "camera_000.mp4").max() <= 2
    assert frames(output / "episode_0000" / "control" / "camera_000.mp4").max() > 100


def test_the_reference_writes_views_one_after_another(tmp_path, folder):
    for kind in ("captions", "videos"):
        shutil.rmtree(folder / kind)
    output = tmp_path / "videos"
    error = commands.error_of(
        "run_sample.py", *command(output, "--compat=reference", folder=folder)
    )
    assert "no published prefix for camera 'camera_000'" in error


def test_a_plan_reads_no_weights_and_writes_nothing(tmp_path):
    output = tmp_path / "videos"
    arguments = ("--plan", "--num_chunks=all", "--plan_devices=4", "--guidance=2")
    done = commands.run("run_sample.py", *command(output, *arguments))
    assert "8 frames of 32x48 in 2 chunks of 24 tokens, 4 evaluations" in done.out
    assert "on each of 4 devices" in done.out
    assert not output.exists()


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
    "chunks": (untouched, ["--num_chunks=some"], ["--num_chunks=some must be a number, or all"]),
    "overlap": (
        untouched,
        ["--num_chunks=2", "--chunk_overlap=2"],
        ["chunk_overlap=2 must be 1, 5, 9"],
    ),
    "interval": (untouched, ["--guidance_interval=0.9,0.1"], ["guidance_interval=(0.9, 0.1)"]),
    "interval's form": (untouched, ["--guidance_interval=1"], ["must be two numbers"]),
    "guardrail": (untouched, ["--guardrail=nowhere:f"], ["--guardrail='nowhere:f'"]),
    "size": (untouched, ["--size=30,48"], ["(30, 48) must be multiples of 16"]),
    "config": (untouched, ["--config=experiments/demo.py"], ["--config:", "drop it"]),
    "no control": (without_control, [], ["no control_input_* folders"]),
    "other control": (untouched, ["--control=control_input_edge"], ["no such control folder"]),
    "too short": (too_short, [], ["3 frames too short: 2 at the wanted rate, and a clip has 5"]),
    "unknown camera": (unknown_camera, [], ["camera_090: the model knows no such camera"]),
    "no videos": (
        without_videos,
        ["--num_conditional_frames=1"],
        ["2 bad files", "video of view 'camera_000': none is given, 1 frames needed"],
    ),
    "given frames": (untouched, ["--num_conditional_frames=3"], ["frames=3", "0, 1, 5"]),
    "too many": (
        untouched,
        ["--num_conditional_frames=9"],
        ["9 given frames exceed the 5 of a clip"],
    ),
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
