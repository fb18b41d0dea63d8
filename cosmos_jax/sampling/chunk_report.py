"""How the chunks of a long video differ from its first: for its JSON file."""

import dataclasses
import itertools
from typing import Any

from jaxtyping import UInt8
from numpy import ndarray

from cosmos_jax.evaluate import drift, edges
from cosmos_jax.prepare import canny
from cosmos_jax.sampling.reading import Job

Views = UInt8[ndarray, "v f y x 3"]

CANNY = canny.STRENGTHS["medium"]  # of the generated frames
TOLERANCE = 2  # pixels


def report(job: Job, sampled: Views, control: Views | None, temporal: int) -> dict[str, Any]:
    """Of each camera: colour and sharpness by chunk, seams, and how its edges keep to the control.

    Seams are compared with the nearest borders of the codec's latent frames, each of which holds
    `temporal` frames. Edges are compared for control videos of lines alone.
    """
    out = {}
    for i, camera in enumerate(job.request.cameras):
        about: dict[str, Any] = dataclasses.asdict(
            drift.drift(sampled[i], job.fps, job.plan.boundaries)
        )
        about["seams"] = [
            dataclasses.asdict(seam)
            for seam in drift.seams(sampled[i], job.plan.boundaries, step=temporal)
        ]
        if control is not None and edges.is_drawn(control[i]):
            about["edge_f1"] = [
                float(
                    edges.agreement(
                        edges.found_edges(sampled[i, begin:end], CANNY),
                        edges.drawn_edges(control[i, begin:end]),
                        TOLERANCE,
                    )[2]
                )
                for begin, end in itertools.pairwise([0, *job.plan.boundaries, job.plan.frames])
            ]
        out[camera] = about
    return out
