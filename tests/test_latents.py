"""Clips that are encoded once: the folder of latents, the command, runs that read it."""

import dataclasses
import json
import os
import pathlib
import pickle
import shutil
import time

import clips_on_disk
import commands
import jax
import ml_dtypes
import numpy as np
import pytest
import tensorflow_datasets as tfds
from commands import demo, error_of, run

from cosmos_jax import build, build_weights
from cosmos_jax.data import latents, pipeline, video
from cosmos_jax.encode import Text
from cosmos_jax.prepare import encoding
from experiments import demo as recipe

PREPARE = "cosmos_jax/prepare/__main__.py"
CAMERAS = clips_on_disk.CAMERAS
MESH = {"data": 2, "fsdp": 2, "context": 2}
TEXT = Text(lambda caption: np.full((4, 16), len(caption), np.float32), (4, 16), "", print)
VAE = {"kind": "cosmos_jax.models.wan_vae:WanVAE", "weights": "random", "dim": 4}
VAE |= {
    "num_res_blocks": 1,
    "dtype": "bfloat16",
    "dim_mult": (1,),
    "temporal_downsample": (),
}


def values_of(root, **changes):
    """The tiny demo on a folder of clips, as plain values; in keys, `__` stands for the dot."""
    config = recipe.get_config()
    given = commands.TINY | {"data.root": str(root), "data.size": "(16,32)"}
    given |= {f"mesh.{axis}": size for axis, size in MESH.items()}
    given |= {"data.cache_dir": str(root.parent / "headers"), "data.validation_fraction": None}
    given |= {key.replace("__", "."): value for key, value in changes.items()}
    return commands.changed(build.check_config(config), given)


def opened(values):
    """The data set of a config."""
    return build.data(values, build.trainer(values), pathlib.Path())


def same_clip(one, other):
    """Asserts that all fields of two clips are equal."""
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        np.testing.assert_array_equal(a, b, err_msg=field.name)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three episodes of three cameras, with 3, 4 and 5 windows."""
    root = tmp_path_factory.mktemp("latents") / "clips"
    return clips_on_disk.write_clips(root, (7, 8, 9))


@pytest.fixture(scope="module")
def cached(clips):
    """The values of a config whose clips are encoded, in files of two records."""
    values = values_of(clips)
    encoding.encode(values, overwrite=False, shard_bytes=2 * 3 * 2 * 2 * 2 * 4 * 16 * 4)
    return values


def batches(values, count=3):
    """The first batches of training, as the step sees them, and the clips' names."""
    mesh, data = build.mesh(values), opened(values)
    with jax.set_mesh(mesh):
        encoder = build_weights.encoder(values, mesh, TEXT)
        stream = pipeline.train_iterator(data.train, values["seed"], range(4))
        stack = [next(stream) for _ in range(count)]
        stream.close()
        return [encoder(clip, range(4), 4) for clip in stack], [clip.name for clip in stack]


# ---- The same clips.


def same_batches(values):
    """Asserts that batches with and without the cache are equal bit for bit; returns them."""
    (cached, names), (online, others) = (
        batches(values | {"data": values["data"] | {"latents": given}}) for given in ("auto", None)
    )
    assert names == others
    for one, other in zip(cached, online, strict=True):
        assert one.latents.dtype == np.float32
        jax.tree.map(np.testing.assert_array_equal, one, other)
        same = jax.tree.map(
            lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim), one, other
        )
        assert all(jax.tree.leaves(same))
    return cached


@pytest.mark.core
def test_batches_are_those_of_pixels_bit_for_bit(cached, clips):
    names = sorted(path.name for path in (clips / "latents" / "1.0.0").iterdir())
    shards = [f"latents-train.array_record-{i:05d}-of-00006" for i in range(6)]
    assert names == ["dataset_info.json", "features.json", "index.json", *shards]
    same_batches(cached)


@pytest.mark.core
@pytest.mark.parametrize(
    "changes",
    [
        dict(window_stride=2),
        dict(starts="first", episodes=2),
        dict(starts="random"),
        dict(cameras=f"{CAMERAS[2]},{CAMERAS[0]}", caption_camera=CAMERAS[0]),
        dict(validation_fraction=0.1, view_prefixes=True),
    ],
    ids=str,
)
def test_a_cache_serves_runs_that_read_less_of_it(cached, changes):
    values = cached | {"data": cached["data"] | changes}
    one, other = (
        opened(values | {"data": values["data"] | {"latents": x}}) for x in ("auto", None)
    )
    assert one.train.latents and one.train.episodes == other.train.episodes
    same_batches(values)


@pytest.mark.core
def test_views_are_drawn_from_it(cached, clips):
    values = cached | {"data": cached["data"] | {"views": (1, 2)}}
    drawn, _ = batches(values, 6)
    assert {batch.latents.shape[1] for batch in drawn} == {1, 2}
    whole = opened(cached).train
    mesh = build.mesh(values)
    data = opened(values).train
    order = pipeline.shuffled_windows(len(data), values["seed"])
    for n, batch in enumerate(drawn):
        for row in range(4):
            index = 4 * n + row
            views = data.draw_views(values["seed"], 4 * n, index)
            expected = whole.clip(order[index], values["seed"], index)
            np.testing.assert_array_equal(batch.latents[row], expected.video[list(views)])
            np.testing.assert_array_equal(batch.control[row], expected.control[list(views)])
    assert mesh.size == 8


@pytest.mark.core
def test_a_network_without_control_reads_the_video_alone(cached):
    bare = {"control_blocks": (), "control_channels": 0, "hint_widths": ()}
    values = cached | {"model": cached["model"] | bare}
    values["data"] = cached["data"] | {"control": None}
    clip = opened(values).train.clip(3)
    assert clip.control is None
    np.testing.assert_array_equal(clip.video, opened(cached).train.clip(3).video)


@pytest.mark.core
def test_tfds_opens_it_and_reads_what_we_read(cached, clips):
    source = tfds.data_source("latents", data_dir=clips, split="train", try_gcs=False)
    train = opened(cached).train
    assert len(source) == len(train) == 12
    for window in range(12):
        clip, held = train.clip(window), source[window]
        np.testing.assert_array_equal(clip.video, held["latents"])
        np.testing.assert_array_equal(clip.control, held["control"])
        assert clip.name == f"{held['episode'].decode()}:{held['first_frame']}"
        assert list(clip.captions) == [text.decode() for text in held["captions"]]
        assert clip.view_ids.tolist() == held["view_ids"].tolist() and clip.fps == held["fps"]
        assert [name.decode() for name in held["cameras"]] == list(CAMERAS)
        assert len(held["files"]) == 6 and all((clips / f.decode()).exists() for f in held["files"])


@pytest.mark.core
def test_readers_in_other_processes_open_it_anew(cached):
    train = opened(cached).train
    clip = train.clip(5)
    same_clip(pickle.loads(pickle.dumps(train)).clip(5), clip)


def test_bfloat16_is_kept_as_such_and_nothing_is_rounded(clips, tmp_path):
    changes = {f"data__{k}": v for k, v in dict(episodes=1, batch_size=8).items()}
    mesh = dict(mesh__data=8, mesh__fsdp=1, mesh__context=1)
    values = values_of(clips, dtype="bfloat16", validation__clips=8, **changes, **mesh)
    values["codec"] = VAE
    values["data"]["latents"] = str(tmp_path / "latents")
    encoding.encode(values, overwrite=False, shard_bytes=2**30)
    data = opened(values)
    clip = data.train.clip(1)
    assert clip.video.dtype == ml_dtypes.bfloat16
    assert "bfloat16, weights: random, seed 0" in data.train.latents.description
    device_mesh = build.mesh(values)
    with jax.set_mesh(device_mesh):
        encoder = build_weights.encoder(values, device_mesh, TEXT)
        pixels = dataclasses.replace(data.train, latents=None)
        for kind in (data.train, pixels):
            assert (kind.clip(0).video.dtype == np.uint8) == (kind is pixels)
        stacks = [
            pipeline.stack_clips([vars(kind.clip(i)) for i in (0, 1, 2, 0) * 2])
            for kind in (data.train, pixels)
        ]
        one, other = (encoder(stack, range(8), 8) for stack in stacks)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert np.abs(one.latents).max() > 0.1


# ---- Without videos.


@pytest.fixture(scope="module")
def alone(cached, clips, tmp_path_factory):
    """A folder with the latents and nothing else."""
    root = tmp_path_factory.mktemp("alone")
    shutil.copytree(clips / "latents", root / "latents")
    return root


@pytest.mark.core
@pytest.mark.parametrize("below", ["", "latents/1.0.0"])
@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(starts="random", validation_fraction=0.5),
        dict(cameras=f"{CAMERAS[2]},{CAMERAS[0]}", window_stride=2, episodes=2),
    ],
    ids=str,
)
def test_the_cache_alone_is_the_same_data_set(cached, clips, alone, changes, below):
    values = cached | {"data": cached["data"] | changes}
    other = values | {"data": values["data"] | {"root": str(alone / below)}}
    one, two = opened(values), opened(other)
    assert not two.train.latents.videos and one.captions == two.captions
    for a, b in ((one.train, two.train), (one.validation, two.validation)):
        assert len(a) == len(b) and a.cameras == b.cameras
        assert a.caption_cameras == b.caption_cameras
        for window in range(len(a)):
            same_clip(a.clip(window, 1, window), b.clip(window, 1, window))


@pytest.fixture(scope="module")
def foreign(cached, clips, tmp_path_factory):
    """The same records as another program writes them to a folder of TFDS: in another order."""
    folder = tmp_path_factory.mktemp("tfds") / "other" / "2.0.0"
    held = clips / "latents" / "1.0.0"
    shutil.copytree(held, folder)
    (folder / "index.json").unlink()
    shards = sorted(folder.glob("latents-*"))
    for path, other in zip(shards, shards[::-1], strict=True):
        path.rename(folder / other.name.replace("latents", "other"))
    info = json.loads((folder / "dataset_info.json").read_text())
    info |= {"name": "other", "version": "2.0.0"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


@pytest.mark.core
def test_any_source_of_tfds_serves_that_has_the_features(cached, foreign, capsys):
    tfds.core.add_data_dir(str(foreign.parents[1]))
    one = opened(cached)
    for root in (str(foreign), "tfds://other", "tfds://other:2.0.0"):
        values = cached | {"data": cached["data"] | {"root": root}}
        two = opened(values)
        assert "read: 12 of 12 records" in capsys.readouterr().out
        assert two.train.cameras == one.train.cameras and two.captions == one.captions
        assert two.train.caption_cameras == one.train.caption_cameras
        assert "weights: of unknown origin; no videos" in two.train.latents.description
        for window in range(12):
            same_clip(two.train.clip(window), one.train.clip(window))
    half = opened(values | {"data": values["data"] | {"window_stride": 2, "captions": "none"}})
    assert half.captions == [""] and len(half.train) == 7
    assert half.train.clip(6).name == one.train.clip(11).name
    for changes, words in (
        ({"root": "tfds://another"}, r"data\.root=tfds://another: "),
        ({"latents": None}, r"leave data\.latents at 'auto'"),
        ({"size": (32, 32)}, r"latents are float32 \(3, 2, 2, 4, 16\) .* \('views', 2, 4, 4, 16\)"),
        ({"fps": 5.0}, r"ep_0 has .* fps, and data\.fps=5\.0"),
        ({"view_prefixes": True}, r"captions are as they are; unset data\.view_prefixes"),
    ):
        with pytest.raises(ValueError, match=words):
            opened(values | {"data": values["data"] | changes})


@pytest.mark.core
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            dict(captions="each"),
            r"stale: data\.captions is 'front' there and 'each' here \(and there",
        ),
        (
            dict(caption_camera=CAMERAS[1]),
            rf"caption_camera is '{CAMERAS[0]}' there and '{CAMERAS[1]}",
        ),
        (dict(cameras="nose"), r"no \.mp4 files for cameras \['nose'\]"),
        (
            dict(control="control_input_depth"),
            r"is 'control_input_edge' there and 'control_input_de",
        ),
    ],
    ids=str,
)
def test_the_cache_alone_cannot_serve_other_settings(cached, alone, changes, words):
    with pytest.raises(ValueError, match=words):
        opened(cached | {"data": cached["data"] | {"root": str(alone)} | changes})


# ---- Caches that are refused.


@pytest.mark.core
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(data__size="(32,32)"), r"data\.size is \[16, 32\] there and \[32, 32\] here"),
        (dict(data__num_frames=1), r"data\.num_frames is 5 there and 1 here"),
        (dict(data__fps=5.0), r"data\.fps is 10\.0 there and 5\.0 here"),
        (dict(data__resize="stretch"), r"data\.resize is 'cover' there and 'stretch' here"),
        (dict(dtype="bfloat16"), r"dtype is 'float32' there and 'bfloat16' here"),
    ],
    ids=str,
)
def test_other_settings_make_a_cache_stale(cached, clips, changes, words):
    with pytest.raises(ValueError, match=rf"latents/1\.0\.0 is stale: .*{words}.*; run python -m"):
        opened(values_of(clips, **changes))
    changes |= {"data__latents": None, "data__skip_bad": True}
    assert opened(values_of(clips, **changes)).train.latents is None


@pytest.mark.core
def test_another_codec_or_other_weights_make_a_cache_stale(cached, clips):
    values = {**cached, "codec": VAE}
    with pytest.raises(
        ValueError, match=r"codec is 'cosmos.*DCTCodec' there .*\(and \d+ things more"
    ):
        opened(values)
    path = clips / "latents" / "1.0.0" / "index.json"
    index = latents.read_index(path.parent)
    mine = {**index.identity, **json.loads(json.dumps({"codec.weights": "files 0123"}))}
    assert latents.differences(index.identity, mine) == [
        "codec.weights is 'none' there and 'files 0123' here"
    ]


@pytest.mark.core
@pytest.mark.parametrize(
    ("there", "here", "fits"),
    [
        (dict(window_stride=2), dict(window_stride=4), True),
        (dict(window_stride=2), dict(starts="first"), True),
        (dict(window_stride=2), dict(window_stride=3), False),
        (dict(window_stride=2), dict(starts="random"), False),
        (dict(starts="first"), dict(starts="first"), True),
        (dict(starts="first"), dict(window_stride=4), False),
        (dict(starts="random"), dict(window_stride=3), True),
    ],
    ids=str,
)
def test_windows_must_be_in_the_cache(clips, there, here, fits, tmp_path):
    values = values_of(clips, data__latents=str(tmp_path / "out"))
    made = values | {"data": values["data"] | there | {"episodes": 1}}
    encoding.encode(made, overwrite=False, shard_bytes=2**30)
    values = values | {"data": values["data"] | here | {"episodes": 1}}
    if fits:
        same = values | {"data": values["data"] | {"latents": None}}
        one, other = opened(values).train, opened(same).train
        for window in range(len(one)):
            assert one.clip(window, 0, window).name == other.clip(window, 0, window).name
    else:
        with pytest.raises(
            ValueError, match=r"holds .* and data\.starts='\w+' .* change the setti"
        ):
            opened(values)


@pytest.mark.core
def test_videos_that_changed_are_named_and_copies_are_not(cached, clips, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(clips, root, copy_function=shutil.copyfile)  # with new times of change
    values = {**cached, "data": cached["data"] | {"root": str(root)}}
    assert opened(values).train.latents
    path = root / "control_input_edge" / CAMERAS[1] / "ep_1.mp4"
    clips_on_disk.video_writer.write_video(path, clips_on_disk.frames_of(2, 1, 1, 8), 10, crf=0)
    words = rf"stale: control_input_edge/{CAMERAS[1]}/ep_1\.mp4 has changed; run"
    with pytest.raises(ValueError, match=words):
        opened(values)
    with pytest.raises(ValueError, match=rf"{path.name} has changed; run"):
        encoding.encode(values, overwrite=False, shard_bytes=2**30)
    path.parent.joinpath("ep_1.mp4").write_bytes((clips / path.relative_to(root)).read_bytes())
    for kind, ending in (("videos", "mp4"), ("control_input_edge", "mp4"), ("captions", "json")):
        for folder in (root / kind).iterdir():
            shutil.copy(folder / f"ep_1.{ending}", folder / f"ep_3.{ending}")
    with pytest.raises(ValueError, match=r"stale: it lacks the episode ep_3; run"):
        opened(values)
    caption = next((root / "captions").iterdir()) / "ep_0.json"
    caption.write_text('{"caption": "Other words."}')
    first = {**values, "data": values["data"] | {"episodes": 1}}
    assert "Other words." in opened(first).captions  # captions come from the data set


@pytest.mark.core
def test_the_command_again_does_nothing_or_says_what_differs(cached, clips, capsys):
    folder = clips / "latents" / "1.0.0"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    size = latents.read_index(folder).record_bytes * 2
    encoding.encode(cached, overwrite=False, shard_bytes=size)
    assert f"clips    12, 12 in {folder} already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(ValueError, match=r"stale: shard_records is 2 there and 4 here; run"):
        encoding.encode(cached, overwrite=False, shard_bytes=2 * size)
    other = cached | {"data": cached["data"] | {"window_stride": 2}}
    with pytest.raises(ValueError, match=r"stale: window_stride is 1 there and 2 here; run"):
        encoding.encode(other, overwrite=False, shard_bytes=size)


@pytest.mark.core
def test_lost_and_damaged_files(cached, clips, tmp_path, capsys):
    root = shutil.copytree(clips, tmp_path / "clips")
    values = {**cached, "data": cached["data"] | {"root": str(root)}}
    index, folder = latents.read_index(root / "latents/1.0.0"), root / "latents" / "1.0.0"
    shard = index.shard(folder, 2)  # records 4 and 5
    held = shard.read_bytes()
    spoilt = bytearray(held)
    spoilt[2000] ^= 1
    shard.write_bytes(spoilt)
    train = opened(values).train
    same_clip(train.clip(6), opened(cached).train.clip(6))
    with pytest.raises(
        video.FileError, match=rf"{shard}: record 4 is damaged \(Corrupted .*; delet"
    ):
        train.clip(4)
    shard.unlink()
    with pytest.raises(ValueError, match=rf"lacks 1 of 6 shards, as {shard.name}; run python -m"):
        opened(values)
    encoding.encode(values, overwrite=False, shard_bytes=index.record_bytes * 2)
    assert "encoded: 2 of 2 clips" in capsys.readouterr().out
    assert shard.read_bytes() == held
    other = index.shard(folder, 1)
    shutil.copy(other, shard)
    with pytest.raises(video.FileError, match=r"record 5 is damaged \(it is ep_1:0, not ep_1:2\);"):
        opened(values).train.clip(5)
    (folder / "dataset_info.json").unlink()
    with pytest.raises(ValueError, match=r"lacks features\.json or dataset_info\.json; run"):
        opened(values)
    for text in ("{", "[]", '{"identity": {}}'):
        (folder / "index.json").write_text(text)
        with pytest.raises(ValueError, match=r"index\.json is damaged .* with --overwrite, or do"):
            opened(values)
    encoding.encode(values, overwrite=True, shard_bytes=index.record_bytes * 5)
    assert len(list(folder.iterdir())) == 3 + 3
    same_clip(opened(values).train.clip(5), opened(cached).train.clip(5))


@pytest.mark.core
def test_weights_are_named_where_pixels_are_encoded(cached, clips, tmp_path):
    """...and not where latents alone are read: then the cache's are taken to be right."""
    values = {**cached, "codec": {k: v for k, v in VAE.items() if k != "weights"}}
    values["data"] = cached["data"] | {"latents": str(tmp_path / "none")}
    with pytest.raises(ValueError, match=r"config\.codec\.weights is missing"):
        encoding.encode(values, overwrite=False, shard_bytes=2**30)
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match=r"none/1\.0\.0 is not there: it is no cache of latents"):
        opened(values)


# ---- Runs.


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """The clips of the demo in a folder of their own, and their latents."""
    root = tmp_path_factory.mktemp("scene") / "x"
    shutil.copytree(commands.trained() / "synthetic", root)
    told = run(PREPARE, "latents", *demo(), f"--root={root}").out
    assert "clips    12, 0 in" in told and "encoded: 12 of 12 clips" in told
    return root


def scores(workdir):
    """All losses of a run."""
    return {
        (step, name): number
        for step, row in commands.metrics(workdir).items()
        for name, number in row.items()
        if name.startswith("val/") or name in ("loss", "grad_norm")
    }


def test_a_run_with_latents_is_the_run_without_bit_for_bit(scene, tmp_path):
    done = run("run_train.py", *demo(data__root=scene), f"--workdir={tmp_path}/run")
    assert f"latents  cache {scene}/latents/1.0.0: 12 clips, float32, weights: none" in done.out
    assert scores(tmp_path / "run") == scores(commands.trained())
    assert any(name == "val/control_gap" for _, name in scores(tmp_path / "run"))
    one, other = (
        folder / "samples" / "step_000004" / "sample_00_compare_ema.mp4"
        for folder in (tmp_path / "run", commands.trained())
    )
    assert one.read_bytes() == other.read_bytes()


def test_a_run_goes_on_with_the_latents_alone_where_it_stopped_with_pixels(scene, tmp_path):
    """True pixels in previews are then those that the codec gives back."""
    root, workdir = tmp_path / "alone", tmp_path / "run"
    shutil.copytree(scene / "latents", root / "latents")
    shutil.copytree(commands.trained(), workdir)
    for path in (workdir / "checkpoints" / "4", workdir / "samples"):
        shutil.rmtree(path)
    done = run("run_train.py", *demo(data__root=root), f"--workdir={workdir}")
    assert "weights: none; no videos" in done.out and "going on from step 2" in done.out
    assert "another order" not in done.err
    assert scores(workdir) == scores(commands.trained())
    folders = [w / "samples" / "step_000004" for w in (workdir, commands.trained())]
    for path in folders[0].glob("sample_00_[!c]*.mp4"):
        assert path.read_bytes() == (folders[1] / path.name).read_bytes()
    paths = [str(folder / "sample_00_compare_ema.mp4") for folder in folders]
    one, other = (video.read_frames(video.probe(path), range(5)).astype(int) for path in paths)
    true = slice(24, 24 + 32)  # rows of true pixels, below names and words; the last are sampled
    assert one.shape == other.shape
    assert 0 < np.abs(one - other)[:, true].mean() < 30
    assert np.abs(one - other)[:, -32:].mean() < 4  # h.264 beside other pixels


def test_killed_commands_go_on(scene, tmp_path):
    flags = ["latents", *demo(), f"--root={scene}", "--shard_gb=0.00001"]  # a file a record
    run(PREPARE, *flags, f"--output={tmp_path}/whole")
    whole, folder = tmp_path / "whole" / "1.0.0", tmp_path / "killed" / "1.0.0"
    command = commands.Command(PREPARE, *flags, f"--output={tmp_path}/killed")
    while command.running and len(list(folder.glob("latents-*"))) < 3:
        time.sleep(0.001)
    command.kill()
    there = {path: path.stat().st_mtime_ns for path in folder.glob("latents-*")}
    assert len(there) >= 3 and not (folder / "dataset_info.json").exists()
    told = error_of(
        "run_train.py",
        *demo(data__root=scene, data__latents=folder.parent),
        f"--workdir={tmp_path}/x",
    )
    assert "of 12 shards, as latents-train.array_record-" in told and "\n" not in told
    done = run(PREPARE, *flags, f"--output={tmp_path}/killed")
    assert "clips    12, 0 in" not in done.out
    assert all(path.stat().st_mtime_ns == moment for path, moment in there.items())
    assert {p.name for p in folder.iterdir()} == {p.name for p in whole.iterdir()}
    for path in whole.glob("latents-*"):
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_bad_input_is_told_in_one_line(scene, tmp_path):
    def told(script, *arguments, **options):
        error = error_of(script, *arguments, **options)
        assert "\n" not in error
        return error

    command = (PREPARE, "latents", *demo())
    assert "--root is missing: the clips of config.data.root='s" in told(*command)
    output = f"--output={tmp_path}/out"
    full = told(*command, f"--root={scene}", output, largest_file=100_000)
    assert "out/1.0.0 cannot be written: " in full and "File too large" in full
    assert "make room and run the same command again" in full
    assert not [p for p in os.listdir(tmp_path / "out/1.0.0") if p.startswith("latents-")]
    done = run(*command, f"--root={scene}", output)
    assert "encoded: 12 of 12 clips" in done.out
    workdir = f"--workdir={tmp_path}/run"
    stale = told("run_train.py", *demo(data__root=scene, data__size="(48,48)"), workdir)
    assert "is stale: data.size is [32, 48] there and [48, 48] here" in stale
    folder = shutil.copytree(scene / "latents", tmp_path / "spoilt")
    (shard,) = folder.glob("*/latents-*")
    data = bytearray(shard.read_bytes())
    for place in range(3000, len(data), 3000):
        data[place] ^= 255
    shard.write_bytes(data)
    flags = demo(data__root=scene, data__latents=folder, validation__every=0, preview__clips=0)
    assert "is damaged (Corrupted" in told("run_train.py", *flags, workdir)
