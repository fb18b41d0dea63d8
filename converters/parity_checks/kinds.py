"""What a file of the reference's numbers holds, told by its arrays, and how it is compared."""

import re
from collections.abc import Callable
from typing import Any

from converters.parity_checks import (
    datasets,
    networks,
    predict1,
    predict1_sampling,
    sampling,
    t5,
    text,
    tokenizer,
    training,
    vae,
    waymo,
)

KINDS: tuple[tuple[tuple[str, ...], Callable[..., Any]], ...] = (
    ((r"^in/x_B_C_T_H_W$", r"^sd/x_embedder\."), networks.check),
    ((r"/out$", r"/rms_diff_vs_fp32$"), networks.check_bfloat16),
    ((r"^in/x$", r"^sd/x_embedder\."), predict1.check_network),
    ((r"^rope/angles_fp32$", r"^sincos/"), predict1.check_positions),
    ((r"^in/sigma$", r"^sd/net\.x_embedder\."), predict1.check_loss),
    ((r"^step0/sigma$", r"^init/net\.x_embedder\."), predict1.check_steps),
    ((r"/sigmas$", r"/traj$"), predict1_sampling.check_solvers),
    ((r"^lr/factor$", r"^adamw/w0$"), predict1_sampling.check_schedules),
    ((r"^conditioner/in/", r"^fold/"), predict1_sampling.check_glue),
    ((r"^sd/encoder\.conv1\.weight$", r"^sd/decoder\.conv1\.weight$"), vae.check),
    ((r"^in/attention_mask$", r"^sd/.*\.relative_attention_bias\.weight$"), t5.check),
    ((r"^in/input_ids$", r"^sd/(.*\.)?embed_tokens\.weight$"), text.check),
    ((r"^sd/encoder\.patcher3d\.wavelets$", r"^in/video$"), tokenizer.check),
    ((r"/timesteps$", r"/x0_pred$", r"/v$"), sampling.check_solver),
    ((r"/net_in_x_first_cond$", r"/out/latents$"), sampling.check_loop),
    ((r"/in/normal_draw_for_time$", r"/net_in/x$"), training.check_flow),
    ((r"^lr\d+/mult$|^ema\d+/coef$",), training.check_schedules),
    ((r"^samples/frame_ids$", r"^item\d+/t5_first8cols$"), waymo.check),
    ((r"^plain/item\d+/view_indices$",), waymo.check_later),
    ((r"/mean_per_frame$", r"/crop_tl$"), datasets.check),
)
"""Patterns of arrays, all of which a file has, and its comparison; the first kind counts."""


def find_check(golden: Any) -> Callable[..., Any]:
    """The comparison of the first kind whose arrays are all in the file.

    Raises:
        ValueError: there is none.
    """
    for patterns, check in KINDS:
        if all(any(re.search(pattern, key) for key in golden.arrays) for pattern in patterns):
            return check
    some = list(golden.arrays)
    more = f" and {len(some) - 5} more" if len(some) > 5 else ""
    raise ValueError(f"{golden.path} holds no arrays that are known here: {some[:5]}{more}")
