"""Kills a tiny run at random moments, starts it again, and compares it with the undisturbed one.

    PYTHONPATH=. python tests/kills.py --kills=20 --seed=0

A moment is drawn evenly over the time that the undisturbed run takes, from its start to its end. A
run that ends before its moment is compared, and another one is begun, until all kills are done and
the last run has ended. Every loss of every step and every array of the last checkpoint must be bit
for bit those of the undisturbed run.
"""

import argparse
import pathlib
import random
import shutil
import time

import conftest

from cosmos_jax import checkpoints


def start(workdir, steps):
    """Starts the run, or goes on with it: a checkpoint a step, and a validation every second."""
    import commands  # has its cache of programs where temporary files are: not before that is set

    changes = dict(steps=steps, checkpoint__every=1, validation__every=2, preview__clips=0)
    return commands.Command("run_train.py", *commands.demo(**changes), f"--workdir={workdir}")


def end(command):
    """Waits for a good end."""
    assert command.wait() == 0, command.out + command.err


def outcome(workdir, steps):
    """Losses by step, and the bits of every array of the last checkpoint."""
    import commands

    held = commands.arrays(workdir, steps)
    return commands.losses(workdir), {name: array.tobytes() for name, array in held.items()}


def killed(command, moment):
    """Whether a command that has just been started could be killed after `moment` seconds."""
    begun = time.monotonic()
    while command.running and time.monotonic() - begun < moment:
        time.sleep(0.002)
    alive = command.running
    if alive:
        command.kill()
    return alive


def kill_and_compare(folder, kills, seed, steps):
    """Yields a line for everything that happens; raises an AssertionError where runs differ.

    Args:
        folder: for the runs; empty.
        kills: how many.
        seed: of their moments.
        steps: of a run.
    """
    draw, scene = random.Random(seed), folder / "undisturbed" / "synthetic"
    end(start(folder / "undisturbed", steps))  # renders the clips, fills the cache of programs
    true = outcome(folder / "undisturbed", steps)

    def fresh(number):
        return shutil.copytree(scene, folder / f"run_{number}" / "synthetic").parent

    begun = time.monotonic()
    end(start(fresh(0), steps))
    longest = time.monotonic() - begun
    assert outcome(folder / "run_0", steps) == true
    yield f"undisturbed: {longest:.1f} s, loss {true[0][steps]!r} of step {steps}"

    run, done = 1, 0
    workdir = fresh(run)
    while True:
        moment, command = draw.uniform(0, longest), start(workdir, steps)
        if done < kills and killed(command, moment):
            done += 1
            saved = max(checkpoints.complete_steps(workdir / "checkpoints"), default=0)
            yield f"kill {done}: run {run}, {moment:.2f} s after its start; step {saved} is saved"
            continue
        end(command)
        found = outcome(workdir, steps)
        assert found[0] == true[0], f"losses of run {run}: {found[0]} in place of {true[0]}"
        assert found[1] == true[1], f"run {run}: the arrays of the last checkpoint are others"
        yield f"run {run} ended: loss {found[0][steps]!r} of step {steps}, all as undisturbed"
        if done == kills:
            return
        run += 1
        workdir = fresh(run)


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    with conftest.temporary() as folder:
        for line in kill_and_compare(pathlib.Path(folder), **vars(given)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
