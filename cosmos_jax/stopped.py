"""What to say of a run that its own numbers end; loaded where one does."""

import math


def message(step: int, loss: float, saved: int | None) -> str:
    """The error's text.

    Args:
        step: the one that was too much.
        loss: its loss; a finite one is that of a step that was skipped for its gradient.
        saved: the step of the newest checkpoint, if there is one.
    """
    if saved is None:
        kept = "No checkpoint was written yet"
    elif saved == step - 1:  # its weights gave this loss, so they may be the ones that are ruined
        kept = f"The checkpoint of step {saved} is kept; delete it if this comes again"
    else:
        kept = f"The checkpoint of step {saved} is kept"
    what = f"the loss of step {step} is {loss}"
    if math.isfinite(loss):
        what = f"too many steps in a row, up to {step}, were skipped"
    return (
        f"{what}; stopped. {kept}. Lower config.optimizer.lr or .clip, and start the same command "
        "again"
    )
