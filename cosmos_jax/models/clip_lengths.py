"""How many latent frames a clip has."""


def latent_frames(frames: int, temporal: int) -> int:
    """Latent frames of a clip, of which the first holds one pixel frame.

    Args:
        frames: pixel frames, `config.data.num_frames`.
        temporal: pixel frames of every later latent frame.

    Raises:
        ValueError: no number of latent frames holds exactly so many; the message names what fits.
    """
    if frames < 1 or (frames - 1) % temporal:
        raise ValueError(
            f"config.data.num_frames={frames} must be 1 + {temporal} k: "
            f"{[1 + temporal * k for k in range(1, 8)]} ..."
        )
    return 1 + (frames - 1) // temporal
