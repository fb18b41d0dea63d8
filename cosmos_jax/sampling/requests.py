"""What is asked of the sampler: one `Request` a video of several views, whoever wrote it down."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosmos_jax.generate import SampleConfig
from cosmos_jax.sampling import as_reference


@dataclasses.dataclass(frozen=True)
class View:
    """One camera of a request.

    Attributes:
        camera: its name, also of its file; "" for the only view of a single-view model.
        view_id: row of the model's view table.
        caption: as it goes to the text encoder, prefix included; "" for none.
        control: file of the control video, or None.
        video: file of the true video (or a picture), or None.
        given: given pixel frames at the start: 0, 1, 5, ...
    """

    camera: str
    view_id: int
    caption: str
    control: str | None
    video: str | None
    given: int


@dataclasses.dataclass(frozen=True)
class Long:
    """How a video longer than a clip is made, chunk after chunk.

    Attributes:
        chunks: the most chunks; None: until the control ends. 1: one clip.
        overlap: pixel frames of a chunk that the next one begins with: 1, 5, 9, ...
        pixels: hand over the overlap's frames as 8-bit pixels, encoded again, as the reference
            does; else its latents (see `sampling.chunks`).
        cross_fade: blend the overlap's frames of both chunks; else the earlier chunk's are kept.
        whole: leave out a last chunk that the control does not fill, as the reference does.
    """

    chunks: int | None = 1
    overlap: int = 1
    pixels: bool = False
    cross_fade: bool = False
    whole: bool = False


ONE_CLIP = Long()


@dataclasses.dataclass(frozen=True)
class Request:
    """One video of several views.

    Attributes:
        name: of its files.
        views: in the order of the view axis.
        settings: how to sample; its `num_conditional_frames` is each view's `given`.
        negative: captions of the unconditional branch, one a view; None: no text at all.
        long: for videos of several chunks.
        fps: wanted frames per second of the files that are read; None: as `stride`.
        stride: take every stride-th frame; None: as `fps`.
        out_fps: frames per second of what is written; None: as it is read.
        model_fps: frames per second that the network is told; None: as it is read.
        size: (rows, columns), in place of the model's.
        fit: how frames are brought to size (`reading.RESIZE_RULES`), in place of the model's.
        frames: of the video, exactly; None: as many as the chunks make.
        from_end: given frames are the last of the video, not the first (Predict2.5 video2world).
        pad: a file that is too short goes on with its last frame (the robotics reference).
        combined: write a picture of all views.
        form: of the published samplers' own files, which are written too (`as_reference.Form`);
            None: they are not.
    """

    name: str
    views: tuple[View, ...]
    settings: SampleConfig
    negative: tuple[str, ...] | None = None
    long: Long = ONE_CLIP
    fps: float | int | None = None
    stride: int | None = None
    out_fps: float | int | None = None
    model_fps: float | int | None = None
    size: tuple[int, int] | None = None
    fit: str | None = None
    frames: int | None = None
    from_end: bool = False
    pad: bool = False
    combined: bool = True
    form: as_reference.Form | None = None

    @property
    def cameras(self) -> list[str]:
        """Names of the views."""
        return [view.camera for view in self.views]

    @property
    def given(self) -> tuple[int, ...]:
        """Given pixel frames of each view."""
        return tuple(view.given for view in self.views)

    def about(self) -> dict[str, Any]:
        """All of it as JSON, with each file's size and time: a changed file is another request."""
        held = dataclasses.asdict(self)
        for view in held["views"]:
            for kind in ("control", "video"):
                if view[kind] is not None:
                    found = Path(view[kind]).stat()
                    view[kind] = [view[kind], found.st_size, found.st_mtime_ns]
        return json.loads(json.dumps(held))

    def fingerprint(self, *others: Any) -> str:
        """A hash of the request and of what else decides a sample: weights, model, guardrail."""
        text = json.dumps([self.about(), *others], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def from_flags(
    settings: SampleConfig, long: Long, flags: Mapping[str, Any]
) -> tuple[SampleConfig, Long]:
    """Settings and chunks, changed by flags of the names that the guides' fields have."""
    names = {"num_chunks": "chunks", "chunk_overlap": "overlap"}
    changes = {k: v for k, v in flags.items() if k not in names}
    chunks = {names[k]: v for k, v in flags.items() if k in names}
    return dataclasses.replace(settings, **changes), dataclasses.replace(long, **chunks)


def with_seeds(requests: Sequence[Request], count: int) -> list[Request]:
    """Every request with `count` seeds, from its own on; their number is put behind the name.

    Raises:
        ValueError: a seed past 2^32 - 1.
    """
    if count == 1:
        return list(requests)
    return [
        dataclasses.replace(
            request,
            name=f"{request.name}_seed{request.settings.seed + i}",
            settings=dataclasses.replace(request.settings, seed=request.settings.seed + i),
        )
        for request in requests
        for i in range(count)
    ]


def check_names(requests: Sequence[Request]) -> None:
    """Raises a ValueError for names that are no file's, or whose files would be others' too."""
    taken: dict[str, str] = {}
    for request in requests:
        name = request.name
        if name in RESERVED:
            raise ValueError(f"{name!r} is no name of an output: {name}.json is the folder's own")
        if not re.fullmatch(r"[^/\\\0]+", name) or name.startswith("."):
            raise ValueError(f"{name!r} is no name of an output: no slashes, no leading dot")
        form = request.form
        more = [] if form is None else as_reference.stems(name, request.cameras, form)
        for stem in (name, *(f"{name}_{kind}" for kind in KINDS), *more):
            if stem in taken:
                other = taken[stem]
                raise ValueError(
                    f"the outputs of {other!r} and {name!r} overlap ({stem}); rename one"
                    if other != name
                    else f"two samples are named {name!r}; rename one"
                )
            taken[stem] = name


RESERVED = ("run", "metrics")
"""What the folder of all samples keeps in a JSON file of its own."""

KINDS = ("grid", "control", "input", "comparison")
"""What is put behind a name for pictures of all views."""
