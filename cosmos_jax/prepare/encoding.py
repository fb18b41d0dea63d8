"""Encodes the clips of a data set into a cache, as `python -m cosmos_jax.prepare latents` does."""

import contextlib
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh

from cosmos_jax import build, build_latents, build_weights, sharding
from cosmos_jax.data import latents, pipeline
from cosmos_jax.data.latents import Index
from cosmos_jax.data.layouts import DataConfig
from cosmos_jax.encode import Encoder, Text
from cosmos_jax.prepare.captions import check_room
from cosmos_jax.progress import Progress
from cosmos_jax.types import Clip

ARRAYS = ("latents", "control")
Record = dict[str, Any]
"""Latents of a clip's video and, where there is one, control; and what else a `Clip` has."""


def encode(values: Mapping[str, Any], overwrite: bool, shard_bytes: int) -> None:
    """Fills the cache of the data set of a config.

    Args:
        values: the config.
        overwrite: encodes anew what is there.
        shard_bytes: size of a file, about.

    Raises:
        ValueError: bad data or weights; a cache of other settings or videos; a full disk.
    """
    folder = cache_folder(values)
    mesh, trainer = build.mesh(values), build.trainer(values)
    with jax.set_mesh(mesh):
        build.sizes(values, mesh, trainer)  # checks frames and pixels
        rows = sharding.batch_rows(mesh, values["data"]["batch_size"])
        clips, stride = every_window(values, trainer)
        index = build_latents.new_index(values, clips, stride, shard_bytes)
        if index.identity["codec.weights"] is None:
            build_weights.part_source(values, "codec", needed=True)
        fresh = overwrite or not (folder / latents.INDEX).is_file()
        if not fresh:
            index = checked(latents.read_index(folder), index, clips, folder)
        todo = list(range(len(index.shards))) if fresh else index.missing(folder)
        count = sum(len(index.shard_range(shard)) for shard in todo)
        print(f"clips    {index.records}, {index.records - count} in {folder} already", flush=True)
        if todo:  # weights are read before an older cache is deleted
            check_room(folder, count, index.record_bytes, "clips", "--output")
            encoder = codec_alone(values, mesh)
            if fresh:
                clear(folder)
            with contextlib.closing(encoded(clips, index, todo, encoder, rows)) as records:
                write(index, folder, todo, records)
        write_tfds(index, folder)
    nbytes = sum(size or 0 for size in index.shards)
    print(f"{folder}: {index.records} clips, {nbytes:,} bytes", flush=True)


def cache_folder(values: Mapping[str, Any]) -> Path:
    """Where the latents go.

    Raises:
        ValueError: nowhere; or there are several processes.
    """
    data = values["data"]
    if data["root"] == build.SYNTHETIC:
        raise ValueError(
            "--root is missing: the clips of config.data.root='synthetic' lie in "
            "WORKDIR/synthetic of a run"
        )
    if jax.process_count() > 1:
        raise ValueError(f"{jax.process_count()} processes: start the command in one of them alone")
    config = build.make(DataConfig, data, "config.data")
    if config.latents is None:
        raise ValueError("config.data.latents=None: no run would read a cache; leave it at auto")
    folder = Path(config.root) / "latents" if config.latents == "auto" else Path(config.latents)
    return latents.place(folder)


def every_window(values: Mapping[str, Any], trainer: Any) -> tuple[pipeline.Clips, int | None]:
    """All windows of all views and episodes that runs of a config may read, and their stride."""
    stride = build_latents.window_stride(build.make(DataConfig, values["data"], "config.data"))
    starts = {"starts": "first"} if stride is None else {"starts": "every", "window_stride": stride}
    whole = {"latents": None, "views": None, "validation_fraction": None, **starts}
    data = build.data({**values, "data": {**values["data"], **whole}}, trainer, Path())
    for file, reason in data.skipped:
        print(f"left out {file}: {reason}", flush=True)
    return data.train, stride


def checked(there: Index, here: Index, clips: pipeline.Clips, folder: Path) -> Index:
    """The index of a cache that is gone on with.

    Raises:
        ValueError: it is of other settings or videos.
    """
    told = latents.differences(there.identity, here.identity)
    keys = ("words", "cameras", "control", "window_stride", "shard_records")
    told += latents.differences(*({key: getattr(x, key) for key in keys} for x in (there, here)))
    names, wanted = ({e.name: e.captions for e in x.episodes} for x in (there, here))
    told += [f"it has the episode {name}" for name in names if name not in wanted]
    told += [
        f"captions of {name} have changed"
        for name in names
        if name in wanted and names[name] != wanted[name]
    ]
    root = Path(clips.config.root)
    told += latents.changed_files(there, root, clips.episodes, clips.config.num_threads)
    if told:
        raise latents.stale(folder, told)
    return there


def codec_alone(values: Mapping[str, Any], mesh: Mesh) -> Encoder:
    """The encoder of a run, for clips whose text nobody asks for."""

    def silent(caption: str) -> np.ndarray:
        raise AssertionError(f"{caption!r} is not to be embedded")

    text = Text(silent, (0, 0), "no text", check=lambda params: None)
    return build_weights.encoder(values, mesh, text)


def encoded(
    clips: pipeline.Clips,
    index: Index,
    todo: Sequence[int],
    encoder: Encoder,
    rows: Sequence[int],
) -> Generator[Record, None, None]:
    """Every record of the shards `todo`, in order.

    Batches are those of training, on its mesh: so are the compiled program and its rounding.
    """
    batch = clips.config.batch_size
    windows = [record for shard in todo for record in index.shard_range(shard)]
    order = windows + windows[-1:] * (-len(windows) % batch)
    stream = pipeline.ClipIterator(clips, grain.MapDataset.source(order), 0, rows)
    progress, left = Progress("encoded", len(windows), "clips"), len(windows)

    def run(clip: Clip) -> dict[str, Any]:
        fields = {"latents": encoder.latents(clip.video, rows, batch)}
        if clip.control is not None:
            fields["control"] = encoder.latents(clip.control, rows, batch)
        return {key: getattr(clip, key) for key in ("name", "captions", "view_ids", "fps")} | fields

    try:
        waiting = run(next(stream))
        while left > 0:
            # The devices work on the next batch while this one is fetched and written.
            following = run(next(stream)) if left > batch else {}
            fields = {k: np.asarray(v) if k in ARRAYS else v for k, v in waiting.items()}
            progress.add(min(batch, left))
            for row in range(min(batch, left)):
                yield {key: value[row] for key, value in fields.items()}
            left, waiting = left - batch, following
    finally:
        stream.close()


def clear(folder: Path) -> None:
    """Deletes an older cache, its index first; files of other names stay."""
    for pattern in (latents.INDEX, *latents.TFDS_FILES, f"{latents.NAME}-*.array_record-*"):
        for path in folder.glob(pattern):
            path.unlink()


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Says in one line what keeps files from being written; ArrayRecord's errors are its own."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{folder} cannot be written: {str(error).split(';')[0]}. Files that are whole stay; "
            "make room and run the same command again"
        ) from error


def write(index: Index, folder: Path, todo: Sequence[int], records: Iterator[Record]) -> None:
    """Writes shards, each whole or not at all.

    Raises:
        ValueError: the disk is full.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    to_bytes = serializer(index)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for draft in folder.glob(".*.draft"):  # of a process that was killed
            draft.unlink()
        latents.write_index(index, folder)
    for shard in todo:
        path = index.shard(folder, shard)
        draft = path.with_name(f".{path.name}.draft")
        with writing(folder):
            writer = ArrayRecordWriter(str(draft), "group_size:1,uncompressed")
        for _ in index.shard_range(shard):
            record = to_bytes(next(records))
            with writing(folder):
                writer.write(record)
        with writing(folder):
            writer.close()
            index.shards[shard] = draft.stat().st_size
            latents.write_index(index, folder)
            draft.replace(path)


def features(index: Index) -> Any:
    """The fields of a record, for TFDS."""
    import tensorflow_datasets as tfds

    words = tfds.features.Sequence(tfds.features.Text())
    array = tfds.features.Tensor(shape=index.shape, dtype=index.dtype, encoding="bytes")
    return tfds.features.FeaturesDict(
        {
            "latents": array,
            **({"control": array} if index.control else {}),
            "captions": words,
            "cameras": words,
            "view_ids": tfds.features.Tensor(shape=(index.shape[0],), dtype=np.int32),
            "fps": np.float32,
            "episode": tfds.features.Text(),
            "first_frame": np.int64,
            "files": words,
        }
    )


def serializer(index: Index) -> Callable[[Record], bytes]:
    """A function of a record to its bytes."""
    fields, files = features(index), {e.name: [f.path for f in e.files] for e in index.episodes}
    cameras = [name for name, _ in index.cameras]

    def stored(array: np.ndarray) -> np.ndarray:
        short = array.astype(index.dtype)
        assert np.array_equal(short, array), "the latents are rounded"
        return short

    def to_bytes(record: Record) -> bytes:
        episode, _, start = record["name"].rpartition(":")
        about = {"episode": episode, "first_frame": int(start), "files": files[episode]}
        about |= {key: record[key] for key in ("captions", "view_ids", "fps")}
        arrays = {key: stored(record[key]) for key in ARRAYS if key in record}
        return fields.serialize_example({**arrays, **about, "cameras": cameras})

    return to_bytes


def write_tfds(index: Index, folder: Path) -> None:
    """Writes what TFDS reads first, and marks the cache as complete with it."""
    import tensorflow_datasets as tfds

    draft = folder / ".tfds.draft"
    if all((folder / name).is_file() for name in latents.TFDS_FILES):
        return
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    about = tfds.core.dataset_info.DatasetIdentity(
        name=latents.NAME,
        version=tfds.core.Version(latents.VERSION),
        data_dir=str(folder),
        module_name=__name__,
    )
    info = tfds.core.DatasetInfo(builder=about, features=features(index))
    info.set_file_format("array_record")
    split = tfds.core.SplitInfo(
        name=latents.SPLIT,
        shard_lengths=[len(index.shard_range(i)) for i in range(len(index.shards))],
        num_bytes=sum(size or 0 for size in index.shards),
        filename_template=tfds.core.ShardedFileTemplate(
            data_dir=folder,
            dataset_name=latents.NAME,
            split=latents.SPLIT,
            filetype_suffix="array_record",
        ),
    )
    info.set_splits(tfds.core.splits.SplitDict([split]))
    info.write_to_directory(draft)
    for name in latents.TFDS_FILES:
        (draft / name).replace(folder / name)
    shutil.rmtree(draft)
