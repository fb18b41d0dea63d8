"""Settings with which a run that does not fit would fit, found by planning them."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from cosmos_jax import plan_system
from cosmos_jax.models.attention import REMAT
from cosmos_jax.plan_system import System

Change = dict[str, Any]
"""New values by name, as in {"remat": "full", "mesh.context": 4}."""

SIZES = tuple(n / 8 for n in range(7, 1, -1))  # of rows and columns
MORE_DEVICES = (2, 4, 8)  # times as many
PREPARE = "after python -m cosmos_jax.prepare text"  # a change that is no value of the config


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting that fits.

    Attributes:
        flags: what to add to the command line.
        gib: memory of a device.
    """

    flags: str
    gib: float


def search(
    planned: System, views: int, limit_gib: float, cached: tuple[int, int] | None
) -> list[Setting]:
    """The settings with fewest changes that fit, then a smaller picture, then more devices.

    Args:
        planned: what does not fit.
        views: the most of a sample.
        limit_gib: memory of a device.
        cached: as in `plan_system.system`.
    """
    values, devices = planned.values, planned.mesh.size

    def fits(change: Change, devices: int) -> Setting | None:
        try:
            shape = planned.sizes.text if PREPARE in change else cached
            found = plan_system.system(changed(values, change), devices, shape).gib(views)
        except ValueError:  # a batch or a sample that this mesh does not divide
            return None
        plan = [f"--plan_devices={devices}"] if devices != planned.mesh.size else []
        return Setting(" ".join([*flags(change), *plan]), found) if found <= limit_gib else None

    prepare: list[Change] = [{PREPARE: True}] if planned.text_weights else []
    kinds = [list(_meshes(planned)), list(_remats(planned)), list(_others(planned)), prepare]
    found: list[Setting] = []
    for number in range(1, len(kinds) + 1):
        groups = itertools.combinations([kind for kind in kinds if kind], number)
        tried = [merged for group in groups for merged in _products(group)]
        if found := [one for change in tried if (one := fits(change, devices))]:
            break
    smaller = ({"data.size": size} for size in _sizes(planned))
    more = (n * devices for n in MORE_DEVICES)
    for ways in (
        (fits(change, devices) for change in smaller),
        (fits(_spread(planned, n), n) for n in more),
    ):
        found += [one for one in [next(filter(None, ways), None)] if one]
    return found


def changed(values: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """A config with some values changed."""
    new = dict(values)
    for name, value in change.items():
        if name == PREPARE:
            continue
        section, _, key = name.rpartition(".")
        if section:
            new[section] = {**new[section], key: value}
        else:
            new[key] = value
    return new


def flags(change: Change) -> list[str]:
    """A change as it is given on the command line."""
    shown = {k: f"'{v}'" if isinstance(v, tuple) else v for k, v in change.items()}
    return [f"--config.{k}={v}" if k != PREPARE else k for k, v in shown.items()]


def _products(group: tuple[list[Change], ...]) -> Iterator[Change]:
    """One change of each kind, together."""
    for changes in itertools.product(*group):
        yield {name: value for change in changes for name, value in change.items()}


def _meshes(planned: System) -> Iterator[Change]:
    """Meshes of the same devices that hold each parameter once."""
    n, batch = planned.mesh.size, planned.loop.batch
    for fsdp in range(n, 0, -1):
        shape = {"mesh.data": 1, "mesh.fsdp": fsdp, "mesh.context": n // fsdp}
        same = all(planned.mesh.shape[k.removeprefix("mesh.")] == v for k, v in shape.items())
        if n % fsdp == 0 and batch % fsdp == 0 and not same:
            yield shape


def _spread(planned: System, devices: int) -> Change:
    """A mesh of more devices: the new ones share the samples."""
    shape = planned.mesh.shape
    batch = shape["data"] * shape["fsdp"]
    return {"mesh.data": 1, "mesh.fsdp": batch, "mesh.context": devices // batch}


def _remats(planned: System) -> Iterator[Change]:
    """What keeps less, from most to least."""
    names = list(REMAT)
    for name in names[names.index(planned.values["remat"]) + 1 :]:
        yield {"remat": name}


def _others(planned: System) -> Iterator[Change]:
    """Optimiser state in host memory; a batch in parts."""
    if not planned.trainer.offload:
        yield {"offload_optimizer": True}
    ways = planned.mesh.shape["data"] * planned.mesh.shape["fsdp"]
    if (most := planned.loop.batch // ways) > planned.trainer.accumulate:
        yield {"accumulate": most}


def _sizes(planned: System) -> Iterator[tuple[int, int]]:
    """Smaller pictures of nearly the same shape."""
    (y, x), (_, h, _, _) = planned.values["data"]["size"], planned.sizes.latents
    step = 2 * (y // h)  # pixels of a token
    for part in SIZES:
        yield tuple(max(round(n * part / step), 1) * step for n in (y, x))
