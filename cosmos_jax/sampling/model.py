"""What a sampler must know of the model that it samples, whatever the request."""

import dataclasses
from collections.abc import Mapping, Sequence

from cosmos_jax.data import layouts
from cosmos_jax.data.layouts import Cameras, DataConfig
from cosmos_jax.generate import SampleConfig

NEGATIVE_PROMPT = (
    "The video captures a series of frames showing ugly scenes, static with no motion, motion "
    "blur, over-saturation, shaky footage, low resolution, grainy texture, pixelated images, "
    "poorly lit areas, underexposed and overexposed scenes, poor color balance, washed out colors, "
    "choppy sequences, jerky movements, low frame rate, artifacting, color banding, unnatural "
    "transitions, outdated special effects, fake elements, unconvincing visuals, poorly edited "
    "content, jump cuts, visual noise, and flickering. Overall, the video is of poor quality."
)
"""The negative prompt of the published samplers (cosmos-transfer2.5, cosmos-predict2.5)."""

PUBLISHED = "published"  # what stands for it in settings


@dataclasses.dataclass(frozen=True)
class Model:
    """A model to sample from.

    Attributes:
        config: its data settings: frames of a clip, size, how frames are fitted, captions.
        cameras: the views that it knows, in their order, with their ids.
        controlled: whether it has a control branch.
        settings: its config.sample.
        reference: reproduce the published samplers (`--compat=reference`).
        guidance_excess: of the published g over ours, where text guides (`sample.FlowSolver`).
    """

    config: DataConfig
    cameras: Cameras
    controlled: bool
    settings: SampleConfig
    reference: bool
    guidance_excess: int = 1

    @property
    def front(self) -> str:
        """The camera whose caption counts where only one's does."""
        return self.config.caption_camera or self.cameras[0][0]

    def speakers(self, cameras: Sequence[str]) -> tuple[str, ...]:
        """The cameras in whose slots text goes, as in training.

        Where only the front's does and it is not among them: the first, as in the reference.
        """
        if self.config.captions == "each":
            return tuple(cameras)
        if self.config.captions == "none":
            return ()
        return (self.front,) if self.front in cameras else tuple(cameras[:1])

    def captions(self, cameras: Sequence[str], text: Mapping[str, str]) -> tuple[str, ...]:
        """Captions of the views: their text, behind the published sentence where it was trained."""
        said = dict.fromkeys(cameras, "") | {c: words for c, words in text.items() if c in cameras}
        return tuple(layouts.view_caption(self.config, c, said[c]) for c in cameras)

    def prompted(self, cameras: Sequence[str], prompt: str) -> tuple[str, ...]:
        """Captions of the views from one prompt."""
        return self.captions(cameras, dict.fromkeys(self.speakers(cameras), prompt))

    @property
    def text_guided(self) -> bool:
        """Whether it is of several views without control."""
        return not self.controlled and len(self.cameras) > 1

    @property
    def counts_latents(self) -> bool:
        """Whether its published sampler counts given frames in latent frames: all of 2.5 that are
        given folders; Predict1's counts pixel frames."""
        return self.guidance_excess != 0

    def negative(self, cameras: Sequence[str], prompt: str | None) -> tuple[str, ...] | None:
        """Captions of the unconditional branch; None where there is no text at all."""
        if prompt is None:
            return None
        spoken = self.speakers(cameras)
        return tuple(prompt if camera in spoken else "" for camera in cameras)
