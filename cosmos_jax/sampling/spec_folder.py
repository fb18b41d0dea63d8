"""A folder of clips as requests: the data sets' own layout, in which videos and captions may lack.

    ROOT/control_input_KIND/CAMERA/NAME.mp4     what is to be followed; also ROOT/control
    ROOT/videos/CAMERA/NAME.mp4                 given frames, and what to compare with
    ROOT/captions/CAMERA/NAME.json or .txt      words (also metas/); a view without has none

Source of what `--compat=reference` changes: robotics_inference.py of the robotics post-training
(synphonyco/cosmos-transfer2.5).
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cosmos_jax.data import cameras as published
from cosmos_jax.data import layouts
from cosmos_jax.data.layouts import Layout
from cosmos_jax.data.video import FileError
from cosmos_jax.generate import SampleConfig
from cosmos_jax.sampling.model import NEGATIVE_PROMPT, PUBLISHED, Model
from cosmos_jax.sampling.requests import Request, View

WORDS = ("captions", "metas")
REFERENCE_CAPTION = (
    "A bimanual robot with two arms performs a manipulation task on a table. "
    "The robot's movements are precise and coordinated."
)
"""What the reference says of a camera without a caption."""
REFERENCE_CONTROL = "control"
"""The control folder that the reference takes before others."""
REFERENCE_RATE = 10
"""What the reference tells the network, whatever the rate of the files, unless `--fps` is given."""


@dataclasses.dataclass(frozen=True)
class Folder:
    """What is wanted of a folder.

    Attributes:
        root: the folder.
        model: to sample from.
        settings: of the first sample; sample i takes seed + i.
        control: name of the control folder; None: the model's, or the only one.
        prompt: in place of the files' captions; None: those.
        limit: only the first samples by name; None: all.
        fps: frames per second, in place of the model's.
        size: (rows, columns), in place of the model's.
    """

    root: Path
    model: Model
    settings: SampleConfig
    control: str | None = None
    prompt: str | None = None
    limit: int | None = None
    fps: float | int | None = None
    size: tuple[int, int] | None = None


def requests(folder: Folder) -> list[Request]:
    """The samples of a folder, sorted by name.

    Raises:
        ValueError: no folder, no files, a camera that the model does not know, a prompt that no
            view reads, or captions that cannot be read (all of them listed).
    """
    model = folder.model
    settings = resolved(folder.settings, model)
    if not folder.root.is_dir():
        raise ValueError(f"{folder.root} is not a folder of clips")
    layout = find_layout(folder)
    place = folder.root / (layout.control or "videos")
    cameras = [camera for camera, _ in layout.cameras]
    names = sorted({p.stem for camera in cameras for p in (place / camera).glob("[!.]*.mp4")})
    names = names[: folder.limit]
    texts, problems = [], []
    for name in names:
        try:
            texts.append(captions(folder, layout, name))
        except FileError as error:
            problems.append(f"\n  {error}")
    if problems:
        raise ValueError(f"{folder.root}: {len(problems)} bad captions:" + "".join(problems))
    if settings.seed + len(names) > 2**32:
        raise ValueError(f"seed={settings.seed}: sample i takes seed + i, below 2^32")
    negative = settings.negative_prompt
    spoken = [negative or ""] * len(cameras) if model.reference else None
    return [
        Request(
            name=name,
            views=tuple(
                View(
                    camera,
                    view_id,
                    text,
                    layout.control_video(camera, name) if layout.control else None,
                    _video(layout, camera, cameras[0], name, model.reference),
                    settings.num_conditional_frames,
                )
                for (camera, view_id), text in zip(layout.cameras, words, strict=True)
            ),
            settings=dataclasses.replace(settings, seed=settings.seed + i),
            negative=_negative(model, cameras, negative, spoken) if settings.guidance else None,
            size=folder.size,
            pad=model.reference,
            **ways(folder),
        )
        for i, (name, words) in enumerate(zip(names, texts, strict=True))
    ]


def ways(folder: Folder) -> dict[str, Any]:
    """Fields of a request: rate, resize, and the reference's files."""
    config = folder.model.config
    rate = config.fps if folder.fps is None else folder.fps
    rates = {"fps": rate, "stride": config.stride if rate is None else None}
    if not folder.model.reference:
        return rates
    if not folder.model.controlled:  # of which no published sampler reads folders
        return rates | {"fit": "cover", "form": "time"}
    # Every frame of the files, at whatever rate.
    rates = {"stride": 1, "out_fps": folder.fps or REFERENCE_RATE}
    return rates | {"fit": "cover_truncated", "form": "robotics"}


def resolved(settings: SampleConfig, model: Model) -> SampleConfig:
    """Settings in which the published negative prompt is written out."""
    negative = settings.negative_prompt
    if negative == PUBLISHED or (model.reference and negative is None):
        negative = NEGATIVE_PROMPT
    return dataclasses.replace(settings, negative_prompt=negative)


def _negative(
    model: Model, cameras: Sequence[str], prompt: str | None, spoken: list[str] | None
) -> tuple[str, ...] | None:
    return tuple(spoken) if spoken is not None else model.negative(cameras, prompt)


def _video(layout: Layout, camera: str, first: str, name: str, reference: bool) -> str | None:
    """A view's true video. [TRAP] Where the first camera has none the reference takes all views'
    controls in their place, so that the first given frame is a picture of edges."""
    path = layout.video(camera, name)
    if reference and layout.control:
        there = Path(layout.video(first, name)).is_file()
        return path if there else layout.control_video(camera, name)
    return path if Path(path).is_file() else None


def find_layout(folder: Folder) -> Layout:
    """The folder that says which views and samples there are, and the views.

    Raises:
        ValueError: no control folder or several, no files, or a camera that the model does not
            know.
    """
    root, model, control = folder.root, folder.model, None
    if model.controlled:
        found = sorted(p.name for p in root.glob("control_input_*") if p.is_dir())
        found += ["control"] if (root / "control").is_dir() else []
        wanted = folder.control or model.config.control
        if model.reference and folder.control is None and REFERENCE_CONTROL in found:
            wanted = REFERENCE_CONTROL
        if folder.control is None and (wanted == "auto" or wanted not in found):
            if len(found) != 1:
                raise ValueError(
                    f"{root}: {'several' if found else 'no'} control_input_* folders {found}; "
                    "name one with --control"
                )
            wanted = found[0]
        if wanted not in found:
            raise ValueError(f"{root / str(wanted)}: no such control folder; there are {found}")
        control = wanted
    elif folder.control is not None:
        raise ValueError("--control: the model has no control branch")
    place = root / (control or "videos")
    there = {p.name for p in place.glob("*") if p.is_dir() and any(p.glob("[!.]*.mp4"))}
    if any(place.glob("[!.]*.mp4")):
        there.add("")  # one view, without a folder of its own
    known = [camera for camera, _ in model.cameras]
    if strange := sorted(there - set(known)):
        raise ValueError(f"{place / strange[0]}: the model knows no such camera, only {known}")
    if not there:
        raise ValueError(f"{place}: no CAMERA/NAME.mp4 for any of the model's cameras {known}")
    views = tuple((camera, view) for camera, view in model.cameras if camera in there)
    return Layout(root, views, control)


def captions(folder: Folder, layout: Layout, name: str) -> tuple[str, ...]:
    """Captions of a sample's views, as the encoder gets them.

    Raises:
        ValueError: a prompt that no view reads.
        FileError: a caption that is missing or cannot be read.
    """
    model, cameras = folder.model, [camera for camera, _ in layout.cameras]
    kind = model.config.caption_kind
    there = [c for c in cameras if any((layout.root / k / c).is_dir() for k in WORDS)]
    if model.reference:
        texts = [folder.prompt or reference_caption(layout, c, name) for c in cameras]
        return tuple(
            f"{published.prefix(c)} {text}" for c, text in zip(cameras, texts, strict=True)
        )
    speakers: Sequence[str] = cameras if model.config.captions == "each" else []
    if model.config.captions == "front":
        heard = model.config.caption_camera or (there or cameras)[0]
        speakers = [c for c in cameras if c == heard]
        if folder.prompt is not None and not speakers:
            raise ValueError(
                f"--prompt: the model takes the words of camera {heard}, which is not among the "
                f"views {cameras} of {layout.root}"
            )
    elif folder.prompt is not None and model.config.captions == "none":
        raise ValueError("--prompt: the model was trained without captions (config.data.captions)")
    texts_of = {
        c: folder.prompt
        if folder.prompt is not None
        else layouts.read_caption(layout, c, name, kind)
        for c in speakers
        if folder.prompt is not None or c in there
    }
    return model.captions(cameras, texts_of)


def reference_caption(layout: Layout, camera: str, name: str) -> str:
    """What the reference says of a view: of captions/CAMERA/NAME.txt or .json, or the stock words.

    Raises:
        FileError: a file that cannot be read.
    """
    place = layout.root / "captions" / camera
    text, held = place / f"{name}.txt", place / f"{name}.json"
    try:
        if text.is_file():
            return text.read_text("utf-8").strip()
        if not held.is_file():
            return REFERENCE_CAPTION
        content = json.loads(held.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FileError(
            str(text if text.is_file() else held), f"cannot be read: {error}"
        ) from error
    told = {"caption": REFERENCE_CAPTION, **content} if isinstance(content, dict) else {}
    if not isinstance(told["caption"] if told else None, str):
        raise FileError(str(held), 'holds no caption; expected {"caption": text}')
    return told["caption"]
