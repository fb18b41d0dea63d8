import dataclasses
import itertools
import json
import logging
import os
import re
from pathlib import Path

import numpy as np
import pytest
from clips_on_disk import CAMERAS, SIZE, frames_of, write_clips

from converters.parity_checks import datasets
from converters.parity_checks.golden import Golden, Options
from cosmos_jax.data import held_out, layouts, pipeline, video

GOLDENS = Path(__file__).parent / "goldens"
COUNTS = (10, 11, 12, 13)  # frames of the episodes; the last is for validation


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def clips_root(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"), COUNTS)


def config(root, **changes):
    defaults = {"num_frames": 5, "size": SIZE, "batch_size": 4, "stride": 2, "num_threads": 2}
    return pipeline.DataConfig(**{"root": str(root), "prefetch": 4, **defaults, **changes})


def take(iterator, steps):
    try:
        return list(itertools.islice(iterator, steps))
    finally:
        iterator.close()


def contents(batches):
    """{global sample index: (name, pixels, control)}, sample by sample."""
    return {
        int(i): (batch.name[k], batch.video[k].tobytes(), batch.control[k].tobytes())
        for batch in batches
        for k, i in enumerate(batch.index)
    }


# Numbers of the reference's own data sets.


@pytest.mark.core
@pytest.mark.parametrize("name", ["robotics", "auto", "video"])
def test_clips_are_the_references(name):
    golden = Golden.load(GOLDENS / f"dataset_{name}.npz")
    rows = list(datasets.check(golden, Options()))
    assert all(row.ok for row in rows), [row for row in rows if not row.ok]
    words = {"mean_per_frame", "crop_tl", "fields"}
    assert words <= {word for row in rows for word in re.findall(r"\w+", row.what)}
    assert all(": fields" in text for text in golden.not_compared())


# What a clip is.


@pytest.mark.core
def test_every_clip_holds_the_frames_it_names(clips_root):
    clips = pipeline.open_dataset(config(clips_root)).train
    assert len(clips) == (10 - 8) + (11 - 8) + (12 - 8)
    names = []
    for window in range(len(clips)):
        clip = clips.clip(window, index=7)
        episode, start = int(clip.name[3]), int(clip.name[5:])
        names.append((episode, start))
        for c in range(len(CAMERAS)):
            chosen = slice(start, start + 9, 2)
            expected = frames_of(episode, c, 0, COUNTS[episode])[chosen]
            np.testing.assert_array_equal(clip.video[c], expected)
            expected = frames_of(episode, c, 1, COUNTS[episode])[chosen]
            np.testing.assert_array_equal(clip.control[c], expected)
        assert clip.captions == (f"Words {episode}.", "", "")
        assert (clip.fps, clip.index, clip.view_ids.tolist()) == (5.0, 7, [0, 1, 2])
    assert names == sorted(set(names))


@pytest.mark.core
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (2, 3)]),
        ({"window_stride": 2}, [(0, 0), (1, 0), (1, 2), (2, 0), (2, 2)]),
        ({"window_stride": 3}, [(0, 0), (1, 0), (2, 0), (2, 3)]),
        ({"starts": "first"}, [(0, 0), (1, 0), (2, 0)]),
        ({"fps": 5.0, "stride": None, "window_stride": 99}, [(0, 0), (1, 0), (2, 0)]),
    ],
)
def test_where_clips_start(clips_root, changes, expected):
    clips = pipeline.open_dataset(config(clips_root, **changes)).train
    located = [clips.locate(w, 0, 0) for w in range(len(clips))]
    assert [(int(e.name[3]), start) for e, start in located] == expected


@pytest.mark.core
def test_random_starts_are_drawn_by_seed_and_index(clips_root):
    clips = pipeline.open_dataset(config(clips_root, starts="random")).train
    assert len(clips) == 3
    drawn = [clips.locate(2, 0, i)[1] for i in range(60)]
    assert drawn == [clips.locate(2, 0, i)[1] for i in range(60)]
    assert drawn != [clips.locate(2, 1, i)[1] for i in range(60)]
    assert set(drawn) == {0, 1, 2, 3}


@pytest.mark.core
def test_cameras_and_resizing_are_the_configs(clips_root):
    cameras = ((CAMERAS[2], 5), (CAMERAS[0], 1))
    data = pipeline.open_dataset(config(clips_root, cameras=cameras, size=(8, 20)))
    clip = data.validation.clip(0)
    assert clip.video.shape == clip.control.shape == (2, 5, 8, 20, 3)
    assert clip.view_ids.tolist() == [5, 1]
    assert clip.video[:, 0, 0, 0, 2].tolist() == [120, 0]  # blue says which camera it was
    assert clip.captions == ("", "Words 3.")


@pytest.mark.core
@pytest.mark.parametrize(("n", "cut"), [(2, 1), (3, 2), (9, 8), (10, 8), (19, 17), (25, 22)])
def test_validation_is_the_last_tenth_and_one(n, cut):
    episodes = [layouts.Episode(f"{i:02}", (), (), ()) for i in range(n)]
    train, validation = pipeline.split_episodes(episodes, 0.1)
    assert [e.name for e in train + validation] == [f"{i:02}" for i in range(n)]
    assert len(train) == cut
    assert pipeline.split_episodes(episodes, None) == (tuple(episodes), tuple(episodes))


@pytest.mark.core
def test_one_episode_cannot_be_split():
    with pytest.raises(ValueError, match=r"^1 episodes leave none .*validation_fraction=None"):
        pipeline.split_episodes([layouts.Episode("a", (), (), ())], 0.1)


# The order of samples.


@pytest.mark.core
@pytest.mark.parametrize("n", [1, 2, 9, 272])
def test_every_epoch_is_another_permutation(n):
    order = pipeline.shuffled_windows(n, seed=3)
    epochs = [[order[e * n + i] for i in range(n)] for e in range(4)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    if n >= 9:
        assert len({tuple(epoch) for epoch in epochs}) == 4
        other = pipeline.shuffled_windows(n, seed=4)
        later = [[other[e * n + i] for i in range(n)] for e in range(3)]
        assert not {tuple(e) for e in later} & {tuple(e) for e in epochs}


@pytest.fixture(scope="session")
def stream(clips_root, tmp_path_factory):
    """Samples 0..23 as one host reads them, by index."""
    clips = pipeline.open_dataset(
        config(clips_root, cache_dir=str(tmp_path_factory.mktemp("cache")))
    ).train
    return contents(take(pipeline.train_iterator(clips, 0, range(4)), 6))


def train(root, **changes):
    return pipeline.open_dataset(config(root, **changes)).train


@pytest.mark.core
def test_batches_are_stacked_samples(clips_root):
    (batch,) = take(pipeline.train_iterator(train(clips_root), 0, range(4)), 1)
    assert batch.video.shape == batch.control.shape == (4, 3, 5, *SIZE, 3)
    assert (batch.video.dtype, batch.index.dtype, batch.view_ids.dtype) == ("u1", "i4", "i4")
    assert batch.index.tolist() == [0, 1, 2, 3]
    assert batch.view_ids.shape == (4, 3)
    assert (batch.fps.dtype, batch.fps.tolist()) == (np.float32, [5.0] * 4)
    assert [len(c) for c in batch.captions] == [3] * 4
    assert len(batch.name) == 4


@pytest.mark.core
def test_without_control_there_is_none(clips_root):
    clips = train(clips_root, control=None, batch_size=1)
    (batch,) = take(pipeline.train_iterator(clips, 0, [0]), 1)
    assert batch.control is None
    assert batch.video.shape == (1, 3, 5, *SIZE, 3)


@pytest.mark.core
def test_the_stream_follows_the_shuffle(clips_root, stream):
    clips = train(clips_root)
    order = pipeline.shuffled_windows(len(clips), 0)
    for i, (name, pixels, _) in stream.items():
        clip = clips.clip(order[i])
        assert (clip.name, clip.video.tobytes()) == (name, pixels)
    assert sorted(stream) == list(range(24))


@pytest.mark.core
@pytest.mark.parametrize("changes", [{"num_threads": 1, "prefetch": 1}, {"num_threads": 5}])
def test_threads_do_not_change_the_stream(clips_root, stream, changes):
    batches = take(pipeline.train_iterator(train(clips_root, **changes), 0, range(4)), 6)
    assert contents(batches) == stream


def test_worker_processes_do_not_change_the_stream(clips_root, stream):
    clips = train(clips_root, num_workers=2, num_threads=1, prefetch=1)
    iterator = pipeline.train_iterator(clips, 0, range(4))
    first = [next(iterator) for _ in range(3)]
    state = iterator.state()
    iterator.close()
    resumed = pipeline.train_iterator(clips, 0, range(4), iterator.samples, state)
    assert contents([*first, *take(resumed, 3)]) == stream


@pytest.mark.core
@pytest.mark.parametrize(
    "hosts", [[[0, 1], [2, 3]], [[0, 2], [1, 3]], [[0], [1, 2, 3]], [[3], [3]]]
)
def test_hosts_together_read_what_one_would(clips_root, stream, hosts):
    clips = train(clips_root)
    read = [contents(take(pipeline.train_iterator(clips, 0, rows), 6)) for rows in hosts]
    for rows, part in zip(hosts, read, strict=True):
        assert part == {i: sample for i, sample in stream.items() if i % 4 in rows}


@pytest.mark.core
@pytest.mark.parametrize(("batch_size", "start"), [(4, 8), (2, 8), (3, 9), (1, 5)])
def test_a_run_goes_on_at_any_index_with_any_batch(clips_root, stream, batch_size, start):
    clips = train(clips_root, batch_size=batch_size)
    steps = (24 - start) // batch_size
    iterator = pipeline.train_iterator(clips, 0, range(batch_size), start)
    read = contents(take(iterator, steps))
    assert read == {i: stream[i] for i in range(start, start + steps * batch_size)}


@pytest.mark.core
def test_state_goes_on_where_it_was_taken(clips_root, stream):
    clips = train(clips_root)
    iterator = pipeline.train_iterator(clips, 0, range(4))
    first = take(iterator, 2)
    state = json.loads(json.dumps(iterator.state()))
    assert state["samples"] == iterator.samples == 8
    again = pipeline.train_iterator(clips, 0, range(4), 8, state)
    second = [next(again), next(again)]
    later = again.state()
    again.close()
    third = take(pipeline.train_iterator(clips, 0, range(4), 16, later), 2)
    assert contents([*first, *second, *third]) == stream


@pytest.mark.core
def test_a_state_of_other_rows_leaves_the_index_in_charge(clips_root, stream):
    clips = train(clips_root)
    iterator = pipeline.train_iterator(clips, 0, range(4))
    take(iterator, 2)
    resumed = pipeline.train_iterator(clips, 0, [1, 3], iterator.samples, iterator.state())
    assert contents(take(resumed, 1)) == {i: stream[i] for i in (9, 11)}


@pytest.mark.core
def test_a_state_of_another_position_is_refused(clips_root):
    clips = train(clips_root)
    iterator = pipeline.train_iterator(clips, 0, range(4))
    take(iterator, 2)
    with pytest.raises(ValueError, match="after 8 samples, and the run goes on after 4"):
        pipeline.train_iterator(clips, 0, range(4), 4, iterator.state())


@pytest.mark.core
def test_a_grain_state_of_another_position_is_told(clips_root):
    clips = train(clips_root)
    iterator = pipeline.train_iterator(clips, 0, range(4))
    take(iterator, 2)
    state = iterator.state()
    state["grain"]["next_index"] += 4
    with pytest.raises(ValueError, match=r"it read samples \[12, .*\[8, 9, 10, 11\] are due"):
        take(pipeline.train_iterator(clips, 0, range(4), 8, state), 1)


@pytest.mark.core
def test_changed_data_are_told(clips_root, caplog):
    clips = train(clips_root)
    iterator = pipeline.train_iterator(clips, 0, range(4))
    take(iterator, 1)
    with caplog.at_level(logging.WARNING):
        fewer = dataclasses.replace(clips, episodes=clips.episodes[:2])
        pipeline.train_iterator(fewer, 1, range(4), 4, iterator.state()).close()
    assert "seed was 0 and is 1" in caplog.text
    assert "windows was 9 and is 5" in caplog.text


@pytest.mark.core
@pytest.mark.parametrize("rows", [[], [4], [-1], [1, 1]])
def test_rows_are_rows_of_the_batch(clips_root, rows):
    with pytest.raises(ValueError, match="distinct rows of a batch of 4"):
        pipeline.train_iterator(train(clips_root), 0, rows)


@pytest.mark.core
def test_waiting_is_measured(clips_root):
    iterator = pipeline.train_iterator(train(clips_root), 0, range(4))
    assert list(iterator.metrics().values()) == [0.0, 0.0]
    next(iterator)
    waited = iterator.wait_seconds
    assert waited > 0
    next(iterator)
    assert iterator.wait_seconds > waited
    assert 0 < iterator.metrics()["loader_samples_per_second"] < 8 / iterator.wait_seconds
    iterator.close()


@pytest.mark.core
class TestValidation:
    def test_is_the_same_every_time_and_spread_out(self, clips_root):
        clips = pipeline.open_dataset(config(clips_root, validation_fraction=None)).validation
        read = [contents(held_out.validation_iterator(clips, 8, range(4))) for _ in range(2)]
        assert read[0] == read[1]
        assert sorted(read[0]) == list(range(8))
        names = [read[0][i][0] for i in range(8)]
        assert len(set(names)) == 8
        assert {name[:4] for name in names} == {f"ep_{e}" for e in range(4)}

    def test_rows_are_split_as_in_training(self, clips_root):
        clips = pipeline.open_dataset(config(clips_root, validation_fraction=None)).validation
        whole = contents(held_out.validation_iterator(clips, 8, range(4)))
        parts = [contents(held_out.validation_iterator(clips, 8, r)) for r in ([0, 3], [1, 2])]
        assert parts[0] | parts[1] == whole

    def test_random_starts_make_several_clips_of_a_window(self, clips_root):
        random = config(clips_root, validation_fraction=None, starts="random", num_frames=3)
        clips = pipeline.open_dataset(random).validation
        read = [contents(held_out.validation_iterator(clips, 8, range(4))) for _ in range(2)]
        assert read[0] == read[1]
        names = [read[0][i][0] for i in range(8)]
        assert [name[:4] for name in names] == [f"ep_{i // 2}" for i in range(8)]
        assert len(set(names)) > 4

    def test_counts_that_do_not_fit(self, clips_root):
        clips = pipeline.open_dataset(config(clips_root)).validation
        with pytest.raises(ValueError, match="6 validation clips are not a multiple of"):
            held_out.validation_iterator(clips, 6, range(4))
        with pytest.raises(ValueError, match=r"8 clips are wanted .* holds 5"):
            held_out.validation_iterator(clips, 8, range(4))


# Fewer views than there are.


def views_of(batches):
    """{global sample index: view ids}, sample by sample."""
    return {int(i): b.view_ids[k].tolist() for b in batches for k, i in enumerate(b.index)}


@pytest.mark.core
def test_each_batch_has_a_number_of_views_and_each_sample_its_own(clips_root):
    clips = train(clips_root, views=(1, 3), keep_front=False, num_frames=2)
    batches = take(pipeline.train_iterator(clips, 0, range(4)), 12)
    assert {b.video.shape[1] for b in batches} == {1, 2, 3}
    for batch in batches:
        assert batch.video.shape == batch.control.shape == (*batch.view_ids.shape, 2, *SIZE, 3)
        assert {len(captions) for captions in batch.captions} == {batch.video.shape[1]}
        assert batch.video[:, :, 0, 0, 0, 2].tolist() == (60 * batch.view_ids).tolist()
        assert batch.control[:, :, 0, 0, 0, 2].tolist() == (60 * batch.view_ids + 30).tolist()
        for name, captions, ids in zip(batch.name, batch.captions, batch.view_ids, strict=True):
            words = [f"Words {name[3]}." if view == 0 else "" for view in ids]
            assert list(captions) == words
    drawn = views_of(batches)
    assert all(ids == sorted(set(ids)) for ids in drawn.values())
    ones = [ids for ids in drawn.values() if len(ids) == 1]
    assert {view for ids in ones for view in ids} == {0, 1, 2}
    pairs = [tuple(map(tuple, b.view_ids.tolist())) for b in batches if b.video.shape[1] == 2]
    assert any(len(set(pair)) > 1 for pair in pairs)  # not one choice for the whole batch


@pytest.mark.core
@pytest.mark.parametrize("hosts", [[[0, 1, 2, 3]], [[0, 2], [3]], [[1], [2]]])
def test_views_are_the_same_for_any_hosts_and_restarts(clips_root, hosts):
    clips = train(clips_root, views=(1, 3), num_frames=2)
    whole = take(pipeline.train_iterator(clips, 5, range(4)), 6)
    expected = contents(whole)
    for rows in hosts:
        iterator = pipeline.train_iterator(clips, 5, rows)
        first = [next(iterator) for _ in range(2)]
        state = json.loads(json.dumps(iterator.state()))
        iterator.close()
        for known in (state, None):
            rest = take(pipeline.train_iterator(clips, 5, rows, 8, known), 4)
            part = contents([*first, *rest])
            assert part == {i: sample for i, sample in expected.items() if i % 4 in rows}
    other = take(pipeline.train_iterator(clips, 6, range(4)), 6)
    assert views_of(other) != views_of(whole)


@pytest.mark.core
def test_the_front_view_may_be_kept(clips_root):
    counts = {}
    for keep in (True, False):
        clips = train(clips_root, views=(2, 2), keep_front=keep)
        drawn = [clips.draw_views(0, i, i) for i in range(300)]
        counts[keep] = np.bincount(np.concatenate(drawn), minlength=3)
        assert counts[keep].sum() == 600
    assert counts[True][0] == 300
    assert all(110 < n < 190 for n in counts[True][1:])
    assert all(160 < n < 240 for n in counts[False])


@pytest.mark.core
@pytest.mark.parametrize(
    ("changes", "front"),
    [
        ({"cameras": ((CAMERAS[2], 5), (CAMERAS[0], 1))}, 1),  # the caption camera
        ({"cameras": ((CAMERAS[2], 5), (CAMERAS[0], 1)), "captions": "none"}, 0),
    ],
)
def test_which_view_is_the_front(clips_root, changes, front):
    clips = train(clips_root, views=(1, 1), **changes)
    assert {clips.draw_views(0, i, i) for i in range(20)} == {(front,)}


@pytest.mark.core
def test_the_number_of_views_is_uniform_over_the_range(clips_root):
    clips = train(clips_root, views=(2, 3))
    assert clips.view_counts == (2, 3) and train(clips_root).view_counts == (3,)
    counts = np.bincount([len(clips.draw_views(1, b, b)) for b in range(400)])
    assert counts[:2].sum() == 0 and all(160 < n < 240 for n in counts[2:])
    assert len({len(clips.draw_views(1, 8, i)) for i in range(8, 16)}) == 1


@pytest.mark.core
def test_validation_sees_all_views(clips_root):
    data = pipeline.open_dataset(config(clips_root, views=(1, 2), validation_fraction=None))
    for clips in (data.validation, data.train):
        (batch,) = held_out.validation_iterator(clips, 4, range(4))
        assert batch.view_ids.tolist() == [[0, 1, 2]] * 4
    assert data.train.clip(0).view_ids.tolist() == [0, 1, 2]


@pytest.mark.core
def test_more_views_than_cameras(clips_root):
    with pytest.raises(ValueError, match=r"data\.views=\(2, 4\) draws up to 4 views, and .* has 3"):
        train(clips_root, views=(2, 4))


# Fewer episodes than there are.


@pytest.mark.core
def test_only_the_first_episodes_are_read(clips_root):
    one = config(clips_root, episodes=1, starts="first", validation_fraction=None, batch_size=1)
    data = pipeline.open_dataset(one)
    assert [e.name for e in data.train.episodes] == ["ep_0"]
    assert data.captions == ["", "Words 0."]
    seen = take(pipeline.train_iterator(data.train, 0, [0]), 3)
    held = next(held_out.validation_iterator(data.validation, 1, [0]))
    assert {batch.video.tobytes() for batch in seen} == {held.video.tobytes()}


# Bad input.


@pytest.mark.core
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "data.batch_size=0 must be at least 1"),
        ({"prefetch": 0}, "data.prefetch=0 must be at least 1"),
        ({"num_threads": 0}, "data.num_threads=0 must"),
        ({"num_workers": -1}, "data.num_workers=-1"),
        ({"size": (0, 8)}, r"data.size=\(0, 8\): too small"),
        ({"num_frames": 0}, "data.num_frames=0"),
        ({"resize": "squash"}, "data.resize='squash' is none of .*'cover'.*'stretch'"),
        ({"resize": "robotics"}, "data.video_size belongs to data.resize='robotics'"),
        ({"video_size": (8, 8)}, "data.video_size belongs to data.resize='robotics'"),
        ({"starts": "last"}, "data.starts='last' is none of"),
        ({"starts": "first", "window_stride": 2}, "no meaning with data.starts='first'"),
        ({"captions": "some"}, "data.captions='some' is none of"),
        ({"captions": "each", "caption_camera": "a"}, "data.caption_camera has no meaning"),
        ({"fps": 5.0}, "set one of them"),
        ({"stride": None}, "set one of them"),
        ({"stride": 0}, "set one of them"),
        ({"fps": -1, "stride": None}, "set one of them"),
        ({"validation_fraction": 1.0}, "data.validation_fraction=1.0"),
        ({"episodes": 0}, "data.episodes=0 must be at least 1, or None"),
        ({"views": (0, 2)}, r"data.views=\(0, 2\) must be \(fewest, most\)"),
        ({"views": (3, 2)}, r"data.views=\(3, 2\) must be"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        config("/nowhere", **changes)


@pytest.fixture
def bad_root(tmp_path):
    root = write_clips(tmp_path / "data", (10, 10, 10, 10), cameras=CAMERAS[:2])
    (root / "videos" / CAMERAS[1] / "ep_1.mp4").unlink()
    (root / "control_input_edge" / CAMERAS[0] / "ep_2.mp4").write_bytes(b"x")
    (root / "captions" / CAMERAS[0] / "ep_2.json").write_text('{"caption": ""}')
    return root


@pytest.mark.core
def test_one_error_lists_every_bad_file(bad_root):
    with pytest.raises(layouts.BadDataError) as error:
        pipeline.open_dataset(config(bad_root))
    lines = str(error.value).splitlines()
    assert lines[0].startswith(f"{bad_root}: 3 bad files; mend them, or ")
    assert "--config.data.skip_bad=True" in lines[0]
    assert lines[1:] == [f"  {file}: {why}" for file, why in error.value.problems]
    assert [Path(file).name for file, _ in error.value.problems] == [
        "ep_1.mp4",
        "ep_2.mp4",
        "ep_2.json",
    ]


@pytest.mark.core
def test_bad_episodes_can_be_left_out(bad_root):
    data = pipeline.open_dataset(config(bad_root, skip_bad=True))
    assert [e.name for e in data.train.episodes + data.validation.episodes] == ["ep_0", "ep_3"]
    assert len(data.skipped) == 3


@pytest.mark.core
def test_nothing_but_bad_episodes(bad_root):
    with pytest.raises(layouts.BadDataError, match="too few frames"):
        pipeline.open_dataset(config(bad_root, skip_bad=True, num_frames=6))


@pytest.mark.core
def test_a_root_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=rf"^{tmp_path}/gone: no videos; expected"):
        pipeline.open_dataset(config(tmp_path / "gone"))


@pytest.mark.core
def test_headers_are_kept_outside_the_data(tmp_path, monkeypatch, clips_root):
    train(clips_root)
    (cache,) = (tmp_path / "cache" / "cosmos_jax").iterdir()
    assert len(json.loads(cache.read_text())["files"]) == 2 * len(CAMERAS) * len(COUNTS)

    def probe(path):
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(video, "probe", probe)
    train(clips_root)
    with pytest.raises(AssertionError, match="is read again"):
        train(clips_root, cache_dir=str(tmp_path / "other"))
    with pytest.raises(ValueError, match="lies inside the data set"):
        train(clips_root, cache_dir=str(clips_root / "cache"))


@pytest.mark.parametrize("workers", [0, 1])
def test_files_that_break_later_are_named(tmp_path, workers):
    root = write_clips(tmp_path / "data", (10, 10), cameras=CAMERAS[:1])
    clips = train(root, num_workers=workers, batch_size=1)
    broken = root / "control_input_edge" / CAMERAS[0] / "ep_0.mp4"
    broken.write_bytes(broken.read_bytes()[:-400])
    with pytest.raises(video.FileError, match=rf"^{broken}: "):
        take(pipeline.train_iterator(clips, 0, [0]), 8)


# Real video, where there is some.

REAL = os.environ.get("COSMOS_JAX_CLIPS")


@pytest.mark.skipif(not REAL, reason="COSMOS_JAX_CLIPS names no folder of real clips")
@pytest.mark.parametrize(
    ("folder", "changes", "views", "episodes"),
    [
        ("robotics", {"fps": 10.0, "control": "auto"}, 5, 4),
        ("av", {"fps": 10.0, "control": "auto", "view_prefixes": True}, 7, 3),
        ("single", {"fps": 16.0}, 1, 4),
        ("waymo", {"fps": 10.0, "captions": "none"}, 5, 2),
    ],
)
def test_real_clips(folder, changes, views, episodes):
    settings = {"stride": None, "num_frames": 9, "size": (48, 80), "control": None} | changes
    data = pipeline.open_dataset(config(Path(str(REAL)) / folder, batch_size=1, **settings))
    assert len(data.train.episodes + data.validation.episodes) == episodes
    (batch,) = take(pipeline.train_iterator(data.train, 0, [0]), 1)
    assert batch.video.shape == (1, views, 9, 48, 80, 3)
    assert (batch.control is not None) == (settings["control"] == "auto")
    assert batch.view_ids.tolist() == [list(range(views))]
    assert bool(batch.captions[0][0]) == (folder != "waymo")
    assert batch.fps.tolist() == [settings["fps"]]
    info = data.train.episodes[0].videos[-1]
    straight = video.read_frames(info, range(60))
    for i in (59, 1, 30, 11, 12):  # about the 12-frame groups of pictures
        np.testing.assert_array_equal(video.read_frames(info, [i])[0], straight[i])
