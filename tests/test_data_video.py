import json
import logging
import os
from fractions import Fraction

import av
import numpy as np
import pytest

from cosmos_jax.data import video, video_writer

FRAMES = 50


def bars(count=FRAMES, y=32, x=64):
    """Frames that say their number in eight black or white bars, and lossily survive it."""
    frames = np.zeros((count, y, x, 3), np.uint8)
    for i in range(count):
        for bit in range(8):
            frames[i, :, bit * 8 : bit * 8 + 8] = 255 * (i >> bit & 1)
    return frames


def numbers(frames):
    return [
        sum(int(f[8:24, b * 8 + 2 : b * 8 + 6].mean() > 127) << b for b in range(8)) for f in frames
    ]


def write_timed(path, times, clock, **options):
    """An mp4 whose frame k has the timestamp times[k] / clock."""
    with av.open(path, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, clock)
        for time, pixels in zip(times, bars(len(times)), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, clock)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "plain.mp4"
    video_writer.write_video(path, bars(), 10)
    return path


@pytest.mark.core
def test_probe_reads_the_header(plain):
    info = video.probe(plain)
    assert (info.size, info.fps, info.frames) == ((32, 64), 10, FRAMES)
    assert isinstance(info.pts, range)


@pytest.mark.parametrize(
    "options",
    [{}, {"g": "6"}, {"g": "9", "bf": "5"}, {"g": "8", "x264-params": "open-gop=1"}, {"bf": "0"}],
    ids=str,
)
def test_every_frame_is_exact_with_any_group_of_pictures(tmp_path, options):
    path = tmp_path / "v.mp4"
    write_timed(path, range(FRAMES), 10, **options)
    info = video.probe(path)
    assert [numbers(video.read_frames(info, [i]))[0] for i in range(FRAMES)] == list(range(FRAMES))
    assert numbers(video.read_frames(info, range(3, 48, 4))) == list(range(3, 48, 4))


@pytest.mark.parametrize(
    ("times", "clock"),
    [
        ([10 * i + (4 if i % 3 else 0) for i in range(FRAMES)], 300),  # variable rate
        ([i + (70 if i > 20 else 0) for i in range(FRAMES)], 30),  # a gap
        ([i + 25 for i in range(FRAMES)], 30),  # starts late
        ([round(i * 1000 / 29.97) for i in range(FRAMES)], 1000),  # rounded milliseconds
    ],
    ids=["variable", "gap", "late", "rounded"],
)
def test_frames_are_found_by_timestamp(tmp_path, times, clock):
    path = tmp_path / "v.mp4"
    write_timed(path, times, clock, g="12")
    info = video.probe(path)
    assert info.frames == FRAMES
    assert [numbers(video.read_frames(info, [i]))[0] for i in range(FRAMES)] == list(range(FRAMES))


def test_transport_streams_are_read_from_the_start(tmp_path):
    """Seeking lands behind the frame there, without a word."""
    path = tmp_path / "v.ts"
    with av.open(path, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for pixels in bars():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    info = video.probe(path)
    assert numbers(video.read_frames(info, [0, 23, 49])) == [0, 23, 49]


@pytest.mark.core
def test_order_and_repeats_are_the_callers(plain):
    assert numbers(video.read_frames(video.probe(plain), [30, 7, 30])) == [30, 7, 30]


@pytest.mark.core
def test_lossless_is_exact_to_the_bit(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (7, 20, 34, 3), dtype=np.uint8)
    video_writer.write_video(tmp_path / "v.mp4", frames, 12.5, crf=0)
    info = video.probe(tmp_path / "v.mp4")
    assert info.fps == Fraction(25, 2)
    np.testing.assert_array_equal(video.read_frames(info, range(7)), frames)


@pytest.mark.core
@pytest.mark.parametrize("count", [1, 2])
def test_very_short_videos(tmp_path, count):
    video_writer.write_video(tmp_path / "v.mp4", bars(count), 10)
    info = video.probe(tmp_path / "v.mp4")
    assert numbers(video.read_frames(info, range(count))) == list(range(count))


@pytest.mark.parametrize("colour", [(200, 60, 30), (20, 200, 90), (128, 128, 128), (250, 250, 5)])
def test_colours_survive_the_browser_format(tmp_path, colour):
    frames = np.full((3, 32, 32, 3), colour, np.uint8)
    video_writer.write_video(tmp_path / "v.mp4", frames, 10, crf=4)
    read = video.read_frames(video.probe(tmp_path / "v.mp4"), [1])
    assert np.abs(read.astype(int) - frames[:1]).max() <= 3
    with av.open(tmp_path / "v.mp4") as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.colorspace) == ("h264", "yuv420p", 1)


@pytest.mark.core
def test_the_index_comes_first_so_that_browsers_can_start(plain):
    content = plain.read_bytes()
    assert content.find(b"moov") < content.find(b"mdat")


@pytest.mark.core
@pytest.mark.parametrize("shape", [(0, 32, 32, 3), (2, 31, 32, 3), (2, 32, 33, 3)])
def test_frames_that_cannot_be_written(tmp_path, shape):
    with pytest.raises(ValueError, match=r"v\.mp4: (no frames|.*even rows and columns)"):
        video_writer.write_video(tmp_path / "v.mp4", np.zeros(shape, np.uint8), 10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.core
def test_a_failed_write_leaves_the_old_file_and_no_other(plain, monkeypatch):
    before = plain.read_bytes()

    def fail(path, *rest):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video_writer, "encode", fail)
    with pytest.raises(OSError, match="No space"):
        video_writer.write_video(plain, bars(), 10)
    assert plain.read_bytes() == before
    assert [p.name for p in plain.parent.iterdir()] == [plain.name]


def damaged(content, how):
    if how == "index last":  # the header is missing altogether
        return content[: content.find(b"moov")] + content[content.find(b"mdat") :]
    cut = {"half": len(content) // 2, "one byte": len(content) - 1, "head": 1500}
    return content[: cut[how]] if how in cut else {"empty": b"", "text": b"no video" * 99}[how]


@pytest.mark.core
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("half", r"truncated: the header promises 50 frames, the file holds \d+$"),
        ("one byte", "truncated: the header promises 50 frames, the file holds 49$"),
        ("head", r"truncated"),
        ("index last", "truncated, damaged or not a video"),
        ("empty", "truncated, damaged or not a video"),
        ("text", "truncated, damaged or not a video"),
    ],
)
def test_damaged_files_are_told_by_their_header(plain, tmp_path, how, reason):
    path = tmp_path / "bad.mp4"
    path.write_bytes(damaged(plain.read_bytes(), how))
    with pytest.raises(video.FileError, match=rf"^{path}: .*{reason}") as error:
        video.probe(path)
    assert error.value.path == str(path)


@pytest.mark.core
def test_missing_files_and_folders(tmp_path):
    with pytest.raises(video.FileError, match=r"v\.mp4: cannot be read: no such file"):
        video.probe(tmp_path / "v.mp4")
    with pytest.raises(video.FileError, match="is a directory"):
        video.probe(tmp_path)


def test_sound_is_no_video(tmp_path):
    with av.open(tmp_path / "v.mp4", "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(video.FileError, match="holds no video stream"):
        video.probe(tmp_path / "v.mp4")


@pytest.mark.core
def test_damaged_pictures_are_told_when_read(plain):
    info = video.probe(plain)
    content = bytearray(plain.read_bytes())
    middle = len(content) * 2 // 3
    content[middle : middle + 800] = bytes(800)
    plain.write_bytes(content)
    with pytest.raises(video.FileError, match=r"plain\.mp4: .*(damaged|cannot be decoded)"):
        video.read_frames(info, range(FRAMES))


@pytest.mark.core
def test_pictures_that_the_decoder_patched_up_are_told(tmp_path):
    """Wrong bits inside a picture are no error of the decoder: it fills in and goes on."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    video_writer.write_video(tmp_path / "v.mp4", noise, 10)
    info = video.probe(tmp_path / "v.mp4")
    content = bytearray((tmp_path / "v.mp4").read_bytes())
    middle = len(content) // 2
    for place in rng.integers(middle, middle + 600, 30):
        content[place] = 255 - content[place]
    (tmp_path / "v.mp4").write_bytes(content)
    with pytest.raises(video.FileError, match=r"v\.mp4: frame \d is damaged$"):
        video.read_frames(info, range(8))


@pytest.mark.core
@pytest.mark.parametrize("frames", [[FRAMES], [-1], []])
def test_frames_out_of_range(plain, frames):
    with pytest.raises(video.FileError, match="asked of a video of 50 frames"):
        video.read_frames(video.probe(plain), frames)


def test_a_file_that_shrank_since_it_was_scanned(plain):
    info = video.probe(plain)
    video_writer.write_video(plain, bars(20), 10)
    with pytest.raises(video.FileError, match=r"frame 40 cannot be decoded .*has changed"):
        video.read_frames(info, [3, 40])


@pytest.mark.core
class TestProbeAll:
    def write(self, tmp_path):
        paths = [str(tmp_path / "data" / f"{i}.mp4") for i in range(4)]
        for i, path in enumerate(paths[:3]):
            video_writer.write_video(path, bars(10 + i), 10)
        write_timed(paths[1], [0, 3, 5, 9], 10)
        os.truncate(paths[2], 900)
        return paths, tmp_path / "cache" / "headers.json"

    def test_reads_good_bad_and_missing_files(self, tmp_path):
        paths, cache = self.write(tmp_path)
        headers = video.probe_all(paths, cache, 2)
        assert headers[paths[0]] == video.probe(paths[0])
        assert headers[paths[1]].pts == video.probe(paths[1]).pts
        assert isinstance(headers[paths[2]], video.FileError)
        assert paths[3] not in headers

    def test_reads_again_only_what_changed_or_was_bad(self, tmp_path, monkeypatch):
        paths, cache = self.write(tmp_path)
        first = video.probe_all(paths, cache, 2)
        seen = []
        probe = video.probe
        monkeypatch.setattr(video, "probe", lambda path: seen.append(path) or probe(path))
        second = video.probe_all(paths, cache, 2)
        assert seen == [paths[2]]
        assert [second[p] for p in paths[:2]] == [first[p] for p in paths[:2]]
        video_writer.write_video(paths[0], bars(33), 10)
        assert video.probe_all(paths[:2], cache, 2)[paths[0]].frames == 33
        assert seen[1:] == [paths[0]]

    def test_a_broken_cache_costs_time_only(self, tmp_path, caplog):
        paths, cache = self.write(tmp_path)
        first = video.probe_all(paths[:2], cache, 2)
        cache.write_text('{"version": 2, "fi')
        with caplog.at_level(logging.WARNING):
            assert video.probe_all(paths[:2], cache, 2) == first
        assert "not readable" in caplog.text
        assert '"version": 2' in cache.read_text()

    def test_a_cache_of_another_version_is_read_anew(self, tmp_path):
        paths, cache = self.write(tmp_path)
        first = video.probe_all(paths[:2], cache, 2)
        content = json.loads(cache.read_text())
        rows = {path: [stamp, ["other"]] for path, (stamp, _) in content["files"].items()}
        cache.write_text(json.dumps({"version": 1, "files": rows}))
        assert video.probe_all(paths[:2], cache, 2) == first

    def test_a_cache_that_cannot_be_written_is_told(self, tmp_path, caplog):
        paths, _ = self.write(tmp_path)
        (tmp_path / "file").write_text("in the way")
        with caplog.at_level(logging.WARNING):
            headers = video.probe_all(paths[:1], tmp_path / "file" / "headers.json", 2)
        assert headers[paths[0]].frames == 10
        assert "not kept" in caplog.text
