"""Predict1's Waymo data: the reference's samples and text, bad input, the dataset's own files."""

import pathlib
import shutil
import struct
import zlib
from fractions import Fraction

import av
import commands
import jax
import numpy as np
import pytest
from test_t5 import TINY, save_tokenizer

from converters import t5_files
from converters.parity_checks import waymo
from converters.parity_checks.golden import Golden, Options
from cosmos_jax import build, build_text, encode, text_cache
from cosmos_jax.data import cameras, layouts, pipeline, video, video_writer
from cosmos_jax.data.video import FileError
from cosmos_jax.prepare import captions, guide_text, waymo_records, waymo_videos
from cosmos_jax.types import APART
from experiments import predict25_auto_multiview as recipe

GOLDENS = pathlib.Path(__file__).parent / "goldens"
PREPARE = "cosmos_jax/prepare/__main__.py"
VIEWS = ("pinhole_front_left", "pinhole_front", "pinhole_front_right")
CLIP = "100_000_120_000"


@pytest.fixture
def root(tmp_path):
    """A copy of the data set, to which things are done."""
    return pathlib.Path(shutil.copytree(GOLDENS / "waymo_tiny", tmp_path / "waymo"))


def config(root, **changes):
    settings = dict(
        num_frames=9,
        size=(48, 80),
        batch_size=1,
        cameras=",".join(VIEWS),
        control=None,
        fps=10.0,
        resize="stretch_truncated",
        captions="each",
        view_prefixes=True,
        prefix_style="apart",
        validation_fraction=None,
        skip_short=True,
        latents=None,
    )
    return layouts.DataConfig(root=str(root), **settings | changes)


# ---- The data set.


@pytest.mark.core
@pytest.mark.parametrize(
    ("name", "check", "count"),
    [("dataset_waymo", waymo.check, 33), ("dataset_waymo_later", waymo.check_later, 42)],
)
def test_golden(name, check, count):
    file = Golden.load(GOLDENS / f"{name}.npz")
    rows = list(check(file, Options()))
    assert len(rows) == count
    assert [row for row in rows if not row.ok] == []
    assert max(row.max_error for row in rows) < 1e-4  # pixels are the same, not within 1


@pytest.mark.core
def test_cameras_have_the_order_and_the_sentences_of_the_guide(root):
    data = pipeline.open_dataset(config(root, cameras="all"))
    assert data.train.cameras == tuple(zip(VIEWS, range(3)))
    side = cameras.ids(["pinhole_side_right", "pinhole_side_left"])
    assert side == (("pinhole_side_left", 3), ("pinhole_side_right", 4))
    clip = data.train.clip(0)
    front = "The video is captured from a camera mounted on a car. The camera is facing forward."
    assert clip.captions[1] == f"{front}{APART}caption {CLIP} pinhole_front"
    assert clip.captions[0].split(APART)[0] == front[:-1] + " and slightly to the left."
    assert clip.fps == 10


@pytest.mark.core
@pytest.mark.parametrize(
    ("style", "spoken", "silent"),
    [
        ("joined", "{} words", "{} "),
        ("apart", f"{{}}{APART}words", "{}"),
        ("instead", "words", "{}"),
    ],
)
def test_prefix_styles(root, style, spoken, silent):
    settings = config(root, prefix_style=style)
    sentence = cameras.prefix("pinhole_front")
    for text, wanted in (("words", spoken), ("", silent)):
        ours = layouts.view_caption(settings, "pinhole_front", text)
        assert ours == wanted.format(sentence)
    assert layouts.view_caption(config(root, view_prefixes=False), "roof", "words") == "words"
    with pytest.raises(ValueError, match="prefix_style='after' is none of"):
        config(root, prefix_style="after")


@pytest.mark.core
def test_short_clips_are_left_out_and_listed(root):
    data = pipeline.open_dataset(config(root, num_frames=12))
    assert [e.name for e in data.train.episodes] == [CLIP]
    assert len(data.skipped) == 3  # views of the other
    for file, reason in data.skipped:
        assert "205_100_225_100" in file and reason == "too few frames: 11, and a clip needs 12"
    with pytest.raises(layouts.BadDataError, match="3 bad files"):
        pipeline.open_dataset(config(root, num_frames=12, skip_short=False))
    with pytest.raises(layouts.BadDataError, match="6 bad files"):  # nothing is left
        pipeline.open_dataset(config(root, num_frames=57))


@pytest.mark.core
def test_a_camera_that_is_missing(root):
    shutil.rmtree(root / "videos" / "pinhole_front")
    with pytest.raises(ValueError, match=r"no .mp4 files for cameras \['pinhole_front'\]"):
        pipeline.open_dataset(config(root, num_frames=12))


@pytest.mark.core
def test_frame_rates_that_differ_between_views(root):
    path = root / "videos" / "pinhole_front" / f"{CLIP}.mp4"
    frames = video.read_frames(video.probe(path), range(14))
    video_writer.write_video(path, frames, 20)
    with pytest.raises(layouts.BadDataError, match=r"10 fps, but .* 20 fps|20 fps, but .* 10"):
        pipeline.open_dataset(config(root))


# ---- The guide's text, in runs.


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def values_of(root, tokenizer, **changes):
    """A tiny recipe on the data set, with Predict1's codec and text encoder."""
    values = build.plain(recipe.get_config("tiny"))
    data = vars(config(root)) | {"num_frames": 9, "size": (32, 48), "latents": None}
    values["data"] |= {k: v for k, v in data.items() if k in values["data"]}
    values["mesh"]["context"] = 1
    values["model"] |= {"text_width": 1024, "text_features": 0}
    values["text"] = {"kind": "cosmos_jax.models.t5:T5Text", "weights": "random", "cache": "auto"}
    values["text"] |= {**TINY, "hidden_width": 1024, "tokenizer": str(tokenizer), "tokens": 160}
    values["codec"] = {"kind": "cosmos_jax.models.cv8x8x8:CV8x8x8", "weights": "random"}
    values["codec"] |= {"channels": 4, "num_res_blocks": 1, "dtype": "float32"}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values[section][name] = value
    return build.check_config(values)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """The tiny network has the mesh of one device."""
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: first)


def test_the_guides_files_become_our_cache(root, tokenizer, capsys):
    values = values_of(root, tokenizer)
    guide_text.read(values, overwrite=False)
    cache = text_cache.open_cache(root / "text_embeddings")
    assert len(cache.entries) == 6
    caption = layouts.view_caption(config(root), VIEWS[1], f"caption {CLIP} {VIEWS[1]}")
    rows = cache.read(caption)
    prefix, clip = (
        t5_files.read(files[0])
        for files in (
            t5_files.prefix_files(root, VIEWS[1]),
            t5_files.clip_files(root, VIEWS[1], CLIP),
        )
    )
    np.testing.assert_array_equal(rows[:9], np.concatenate([prefix, clip]).astype(np.float32))
    assert rows.shape == (160, 1024) and not rows[9:].any()

    mesh = build.mesh(values)  # a run takes it: the encoder's weights are not asked for
    trainer = build.trainer(values)
    sizes = build.sizes(values, mesh, trainer)
    data = build.data(values, trainer, root)
    text = build_text.text(values, mesh, sizes, root, data.captions)
    assert "cache" in text.description
    np.testing.assert_array_equal(text.embed(caption), rows)
    guide_text.read(values, overwrite=False)
    assert "6 captions, from the guide's files" in capsys.readouterr().out


def test_what_the_encoder_makes_is_what_the_guides_files_hold(root, tokenizer):
    """Written by one command and read by the other, they are its embeddings in half precision."""
    shutil.rmtree(root / "t5_xxl")
    shutil.rmtree(root / "cache")
    values = values_of(root, tokenizer)
    guide_text.write(values)
    names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.pickle"))
    assert len(names) == 9 and f"t5_xxl/pinhole_front/{CLIP}.pickle" in names
    assert "cache/prefix_t5_embeddings_pinhole_front_left.pickle" in names
    guide_text.read(values, overwrite=False)
    cache = text_cache.open_cache(root / "text_embeddings")
    read = {entry.caption: cache.read(entry.caption) for entry in cache.entries.values()}
    captions.embed(values, overwrite=True)
    cache = text_cache.open_cache(root / "text_embeddings")
    for caption, rows in read.items():
        ours = cache.read(caption)
        np.testing.assert_allclose(rows, ours, atol=2e-3)
        assert np.array_equal(rows.any(1), ours.any(1))
    before = {name: (root / name).stat().st_mtime_ns for name in names}
    guide_text.write(values)
    assert before == {name: (root / name).stat().st_mtime_ns for name in names}


def test_guides_files_that_do_not_fit(root, tokenizer):
    values = values_of(root, tokenizer)
    with pytest.raises(ValueError, match=r'set config\.data\.view_prefixes=True and .*"apart"'):
        guide_text.read(values_of(root, tokenizer, data__prefix_style="joined"), overwrite=False)
    with pytest.raises(ValueError, match="makes 16 numbers a token, and the guide's files hold"):
        narrow = values_of(root, tokenizer, text__hidden_width=16, model__text_width=16)
        guide_text.read(narrow, overwrite=False)
    meta = root / "metas" / VIEWS[1]
    (meta / "205_100_225_100.txt").write_text((meta / f"{CLIP}.txt").read_text())
    with pytest.raises(ValueError, match=r"has the words of another one.*and another embedding"):
        guide_text.read(values, overwrite=False)
    (root / "t5_xxl" / VIEWS[0] / f"{CLIP}.pickle").unlink()
    (root / "t5_xxl" / VIEWS[0] / f"{CLIP}.pkl").unlink()
    with pytest.raises(ValueError, match=rf"{CLIP}\.pickle is missing"):
        guide_text.read(values, overwrite=False)
    assert not (root / "text_embeddings").exists()


def test_the_text_command_refuses_captions_that_are_not_the_guides(root):
    arguments = ["--config=experiments/predict25_auto_multiview.py:tiny", f"--root={root}"]
    command = commands.Command(
        PREPARE, "text", *arguments, f"--config.data.cameras={VIEWS[0]}", "--guide=read"
    )
    assert command.wait() == 2
    assert 'config.data.prefix_style="apart"' in command.err


def test_a_clip_becomes_latents_and_text(root, tokenizer):
    values = values_of(root, tokenizer)
    mesh, trainer = build.mesh(values), build.trainer(values)
    sizes = build.sizes(values, mesh, trainer)
    assert sizes.latents == (2, 4, 6, 16)
    clip = build.data(values, trainer, root).train.clip(0)
    codec = build.codec(values)
    rows = np.zeros((160, 1024), np.float32)
    encoder = encode.Encoder(
        codec, jax.jit(codec.init)(jax.random.key(0)), lambda _: rows, mesh, "float32"
    )
    batch = encoder(pipeline.stack_clips([vars(clip)]), [0], 1)
    assert batch.latents.shape == (1, 3, *sizes.latents)
    assert batch.text.shape == (1, 3, 160, 1024)
    assert np.isfinite(batch.latents).all()


# ---- The dataset's own files.


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(data):
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def jpeg(picture):
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.height, encoder.width, encoder.pix_fmt = *picture.shape[:2], "yuvj444p"
    encoder.time_base = Fraction(1, 10)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuvj444p")
    return b"".join(bytes(p) for p in [*encoder.encode(frame), *encoder.encode(None)])


def colour(camera, number):
    return np.array([40 * camera, 20 * number, 255 - 40 * camera])


def drive(path, frames=3, without=(), size=(16, 32)):
    """A file of frames of one colour each, with things in it that are of no interest."""
    records = []
    for number in range(frames):
        images = b""
        for camera in range(1, 6):
            if (camera, number) not in without and (camera, None) not in without:
                picture = np.broadcast_to(colour(camera, number), (*size, 3)).astype(np.uint8)
                pose = field(3, b"".join(field(1, float(i)) for i in range(16)))
                image = field(1, camera) + field(2, jpeg(picture)) + pose + field(5, 1.5)
                images += field(4, image)
        context = field(1, field(1, b"a name"))
        lidar = field(5, zlib.compress(bytes(500)))
        records.append(record(context + field(2, 10**15 + number) + lidar + images))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(records))
    return path


def segment(folder, name, **changes):
    return drive(folder / f"segment-{name}_with_camera_labels.tfrecord", **changes)


@pytest.mark.core
def test_records_become_videos(tmp_path):
    segment(tmp_path / "in" / "training", "1_2_3")
    segment(tmp_path / "in", "4_5_6", frames=2)
    said = waymo_videos.run(tmp_path / "in", tmp_path / "out", 2)
    assert said.endswith("10 videos written, 0 kept, 0 cameras of clips left out")
    for camera, name in waymo_records.CAMERAS.items():
        info = video.probe(tmp_path / "out" / "videos" / name / "1_2_3.mp4")
        assert (info.size, float(info.fps), info.frames) == ((16, 32), 10.0, 3)
        for number, picture in enumerate(video.read_frames(info, range(3))):
            error = np.abs(picture.mean((0, 1)) - colour(camera, number))
            assert error.max() < 6, (name, number, error)
    data = pipeline.open_dataset(
        config(tmp_path / "out", cameras="all", num_frames=2, captions="none")
    )
    assert [name for name, _ in data.train.cameras][3:] == [
        "pinhole_side_left",
        "pinhole_side_right",
    ]
    assert len(data.train) == 3


@pytest.mark.core
def test_what_is_there_is_kept_and_the_rest_is_made(tmp_path):
    segment(tmp_path / "in", "1_2_3")
    waymo_videos.run(tmp_path / "in", tmp_path / "out", 1)
    videos = sorted((tmp_path / "out").rglob("*.mp4"))
    before = {path: path.stat().st_mtime_ns for path in videos}
    videos[0].unlink()
    said = waymo_videos.run(tmp_path / "in", tmp_path / "out", 1)
    assert "1 videos written, 4 kept" in said
    assert {p for p in videos if p.stat().st_mtime_ns == before[p]} == set(videos[1:])
    assert not list((tmp_path / "out").rglob("*.partial"))


@pytest.mark.core
def test_cameras_without_pictures_are_left_out_and_told(tmp_path, capsys):
    segment(tmp_path / "in", "1_2_3", without={(5, None), (2, 1)})
    said = waymo_videos.run(tmp_path / "in", tmp_path / "out", 1)
    assert "3 videos written, 0 kept, 2 cameras of clips left out" in said
    out = capsys.readouterr().out
    assert "left out pinhole_front_left of 1_2_3: 1 of 3 frames have no picture" in out
    assert "left out pinhole_side_right of 1_2_3: 3 of 3 frames have no picture" in out
    names = {path.parent.name for path in (tmp_path / "out").rglob("*.mp4")}
    assert names == {"pinhole_front", "pinhole_front_right", "pinhole_side_left"}


def damaged(path, change):
    data = bytearray(path.read_bytes())
    return path.write_bytes(change(data))


@pytest.mark.core
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-20], r"is cut short: \d+ bytes; fetch it again"),
        (lambda data: data + b"1234", "is cut short"),
        (lambda data: b"no record" + data, "is no TFRecord"),
        (lambda data: b"", "is empty"),
        (lambda data: record(b"\x07") * 2, "record 0 is no frame of the Waymo Open Dataset"),
        (lambda data: record(field(4, b"\x08")), "record 0 is no frame.*a number .* has no end"),
        (lambda data: record(field(4, field(1, 1))), "no camera has a picture in all of the 1 fr"),
        (lambda data: data + data[: len(data) // 3] + bytes(20), "is damaged at byte"),
    ],
)
def test_damaged_files(tmp_path, change, message):
    path = segment(tmp_path, "1_2_3")
    damaged(path, change)
    with pytest.raises(FileError, match=message) as caught:
        waymo_records.scan(path)
    assert caught.value.path == str(path)


@pytest.mark.core
def test_others_are_converted_before_a_damaged_file_is_told(tmp_path):
    segment(tmp_path / "in", "1_2_3")
    bad = segment(tmp_path / "in", "4_5_6")
    damaged(bad, lambda data: data.replace(b"\xff\xd9", b"\xff\xd0"))
    with pytest.raises(ValueError, match=r"5 videos written.*; 1 of 2 files failed\n.*frame 0 of"):
        waymo_videos.run(tmp_path / "in", tmp_path / "out", 1)
    assert {path.stem for path in (tmp_path / "out").rglob("*.mp4")} == {"1_2_3"}
    assert not list((tmp_path / "out").rglob("*.partial"))


@pytest.mark.core
def test_pictures_of_odd_size_are_told(tmp_path):
    segment(tmp_path / "in", "1_2_3", size=(16, 33))
    with pytest.raises(ValueError, match=r"pinhole_front has pictures of 16x33; H\.264 needs"):
        waymo_videos.run(tmp_path / "in", tmp_path / "out", 1)
    assert not list((tmp_path / "out").rglob("*.*"))


@pytest.mark.core
def test_sources_that_are_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"none is not there; name one"):
        waymo_videos.find(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no \.tfrecord files"):
        waymo_videos.find(tmp_path)
    segment(tmp_path / "a", "1_2_3")
    segment(tmp_path / "b", "1_2_3")
    with pytest.raises(ValueError, match=r"several files of the clips \['1_2_3'\]"):
        waymo_videos.find(tmp_path)


@pytest.mark.core
def test_the_waymo_command(tmp_path):
    file = segment(tmp_path, "1_2_3", frames=1)
    arguments = ["waymo", f"--source={file}", f"--root={tmp_path / 'out'}", "--workers=1"]
    command = commands.Command(PREPARE, *arguments)
    assert (command.wait(), command.err) == (0, "")
    assert "5 videos written" in command.out
    command = commands.Command(PREPARE, "waymo", f"--source={tmp_path}")
    assert command.wait() == 2 and "--root is missing" in command.err
