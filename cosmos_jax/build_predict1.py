"""The networks of Cosmos-Predict1; `build` turns to them where a config names one."""

import dataclasses

from cosmos_jax.models.predict1 import Predict1, Predict1Config

SINGLE_VIEW = Predict1Config(
    width=4096,
    blocks=28,
    heads=32,
    mlp_width=16_384,
    modulation_rank=256,
    text_width=1024,
    learned=(128, 120, 120),
    uncertainty=128,
)
MULTI_VIEW = dataclasses.replace(
    SINGLE_VIEW,
    learned=(),
    sincos=(1.0, 1.0, 1.0),
    view_rows=6,
    view_channels=6,
    repeats=True,
    repeated_views=(4, 5),
)

VARIANTS = {
    "predict1_7b": SINGLE_VIEW,
    "predict1_7b_multiview_av": MULTI_VIEW,
    "predict1_7b_multiview_av_video": dataclasses.replace(MULTI_VIEW, masked=True),
    "predict1_7b_multiview_waymo": dataclasses.replace(
        MULTI_VIEW, sincos=(), view_rows=5, view_channels=3, repeats=False, repeated_views=()
    ),
}
"""The published networks (cosmos-predict1, `FADITV2Config` and the multiview experiments), and what
the published post-training on Waymo makes of the second."""

NETWORKS = (Predict1, VARIANTS)
