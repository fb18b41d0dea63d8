"""Published weights in, trained weights out: the command, on small networks."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from converters import networks, torch_files, weights
from converters.stored import BFLOAT16, cast, in_memory

GOLDENS = pathlib.Path(__file__).parent / "goldens"
REPOSITORY = pathlib.Path(__file__).parents[1]


def golden(name):
    with np.load(GOLDENS / f"{name}.npz") as file:
        return {key[3:]: in_memory(file[key]) for key in file.files if key.startswith("sd/")}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file with both sets, as training leaves it: regular bf16, EMA float32."""
    folder = tmp_path_factory.mktemp("published")
    held = golden("net_control")
    tensors = {f"net.{key}": cast(tensor, BFLOAT16) for key, tensor in held.items()}
    tensors |= {f"net_ema.{key}": tensor for key, tensor in held.items()}
    torch_files.write_torch(folder / "model.pt", tensors)
    only = {f"net.{key}": cast(tensor, BFLOAT16) for key, tensor in held.items()}
    torch_files.write_torch(folder / "some_ema_bf16.pt", only)
    torch_files.write_torch(folder / "bare.pt", held)
    return folder


def convert(*flags, status=0):
    command = [sys.executable, "-m", "converters.convert", *map(str, flags)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


def mapped(tensors):
    """Without counters, which are written as 0, and positions, which are made again."""
    return {
        key: tensor
        for key, tensor in tensors.items()
        if "accum_" not in key and not key.endswith((".seq", "._extra_state"))
    }


def equal(tensors, wanted):
    assert tensors.keys() == wanted.keys()
    for key, tensor in wanted.items():
        got, held = tensors[key].read(), tensor.read()
        assert got.dtype == held.dtype and got.shape == held.shape, key
        assert got.tobytes() == held.tobytes(), key


def test_round_trip_through_a_weights_folder(published, tmp_path):
    """.pt -> ours -> .pt gives back the bytes of every tensor, names and types included."""
    out = convert(f"--source={published}/model.pt", f"--target={tmp_path}/ours", "--audit")
    assert "transfer25_2b_auto_multiview, other sizes" in out and "mapped" in out
    convert(f"--source={tmp_path}/ours", f"--target={tmp_path}/back.pt")
    wanted = {f"net.{key}": tensor for key, tensor in mapped(golden("net_control")).items()}
    back = torch_files.open_torch(tmp_path / "back.pt")
    equal(mapped(back), wanted)
    counters = [tensor.read() for key, tensor in back.items() if "accum_" in key]
    assert counters and not any(counters)
    positions = back["net.pos_embedder_options.n_cameras_2.seq"].read()
    np.testing.assert_array_equal(positions, np.arange(len(positions)))
    about = json.loads((tmp_path / "ours" / "weights.json").read_text())
    assert about["set"] == "ema" and about["options"]["control_blocks"]


def test_the_three_files_of_the_guides(published, tmp_path):
    convert(f"--source={published}/model.pt", f"--target={tmp_path}/three", "--format=guides")
    names = {path.name for path in (tmp_path / "three").iterdir()}
    assert names == {"model.pt", "model_ema_fp32.pt", "model_ema_bf16.pt"}
    both = torch_files.open_torch(tmp_path / "three" / "model.pt")
    equal(mapped(both), mapped(torch_files.open_torch(published / "model.pt")))
    small = torch_files.open_torch(tmp_path / "three" / "model_ema_bf16.pt")
    equal(mapped(small), mapped(torch_files.open_torch(published / "some_ema_bf16.pt")))
    whole = torch_files.open_torch(tmp_path / "three" / "model_ema_fp32.pt")
    assert {t.dtype for k, t in mapped(whole).items()} == {np.dtype(np.float32)}
    assert whole["net.accum_iteration"].dtype == np.int64
    assert {t.dtype for k, t in small.items() if k.endswith(".seq")} == {BFLOAT16}


@pytest.mark.parametrize("name", ["out.safetensors", "out.dcp", "iter_000000007", "out.pt"])
def test_other_targets_come_back(name, published, tmp_path):
    convert(f"--source={published}/bare.pt", f"--target={tmp_path / name}")
    source = weights.open_source(str(tmp_path / name))
    first = weights.open_source(str(published / "bare.pt"))
    equal(source.sets["regular"], first.sets[""])
    assert weights.checksum(source.sets["regular"]) == weights.checksum(first.sets[""])


def test_the_account_adds_up(published):
    out = convert(f"--source={published}/bare.pt", "--audit")
    held = golden("net_control")
    rows = [line.split() for line in out.splitlines() if " tensors " in line]
    counted = {words[0]: int(words[1]) for words in rows}
    assert counted["mapped"] + counted["ignored"] == len(held)
    assert counted["mapped"] == len(mapped(held))


@pytest.mark.core
def test_a_published_file_fits_only_its_network(published):
    wrong = networks.published("predict25_2b")
    with pytest.raises(ValueError, match=r"(?s)x_embedder.*shape.*view_embeddings.weight: unknown"):
        weights.open_source(str(published / "bare.pt"), wrong)


@pytest.mark.core
@pytest.mark.parametrize("lost", ["view_embeddings.weight", "blocks.1.mlp.layer2.weight"])
def test_a_missing_tensor_is_named(lost, tmp_path):
    held = golden("net_control")
    del held[lost]
    torch_files.write_torch(tmp_path / "a.pt", held)
    with pytest.raises(ValueError, match=lost.replace(".", r"\.")):
        weights.open_source(str(tmp_path / "a.pt"))


@pytest.mark.core
@pytest.mark.parametrize("name", ["net_lvg", "net_mv", "net_control", "net_cross_control", "vae"])
def test_networks_are_recognised_by_their_tensors(name):
    tensors = golden(name)
    found = networks.recognise(tensors)
    arrays = networks.read(found, tensors)
    assert weights.fingerprint(arrays) == weights.fingerprint(arrays)
    again = networks.from_options(found.name, json.loads(json.dumps(found.options)))
    assert again.options == found.options and again.table is not found.table


BAD = {
    "of_another_model": (
        ["--source={tmp}/other.pt", "--target={tmp}/x"],
        "no network that is known",
    ),
    "not_float32": (
        ["--source={pub}/some_ema_bf16.pt", "--target={tmp}/x.pt", "--dtype=fp32"],
        "not as float32",
    ),
    "no_float32_ema": (
        ["--source={pub}/some_ema_bf16.pt", "--target={tmp}/model_ema_fp32.pt"],
        "not as float32",
    ),
    "one_set": (
        ["--source={pub}/some_ema_bf16.pt", "--target={tmp}/x", "--format=guides"],
        "holds only",
    ),
    "no_source": (["--source={tmp}/none.pt", "--target={tmp}/x"], "is not there"),
    "no_model": (["--source={pub}/bare.pt", "--target={tmp}/x", "--model=foo"], "is none of"),
    "there": (["--source={pub}/bare.pt", "--target={pub}/some_ema_bf16.pt"], "exists already"),
    "layout": (
        ["--source={pub}/model.pt", "--target={tmp}/model.pt", "--which=ema"],
        "layout of its own",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_error_and_leaves_nothing(case, published, tmp_path):
    torch_files.write_torch(tmp_path / "other.pt", {"fc.weight": in_memory(np.ones(3))})
    flags, words = BAD[case]
    told = convert(*(flag.format(tmp=tmp_path, pub=published) for flag in flags), status=2)
    assert words in told
    assert [path.name for path in tmp_path.iterdir()] == ["other.pt"]


RUN = "import runpy; runpy.run_module('converters.convert', run_name='__main__', alter_sys=True)"
# Runs the command on a disk with room for so many bytes.
FULL_DISK = f"""
import errno, io, os, pathlib, sys
left, opened = int(sys.argv.pop(1)), pathlib.Path.open

class File(io.BufferedWriter):
    def write(self, data):
        global left
        left -= len(data)
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)

def limited(path, mode="r", *rest, **more):
    return File(io.FileIO(path, "w")) if mode == "wb" else opened(path, mode, *rest, **more)

pathlib.Path.open = limited
{RUN}
"""


def test_a_disk_that_fills_up_under_orbax_leaves_nothing_either(published, tmp_path):
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); {RUN}"
    flags = [f"--source={published}/bare.pt", f"--target={tmp_path}/ours"]
    done = subprocess.run(
        [sys.executable, "-c", limit, *flags], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "File too large" in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["out.pt", "out.safetensors", "out.dcp", "three"])
def test_a_disk_that_fills_up_leaves_nothing(name, published, tmp_path):
    kind = ["--format=guides"] if name == "three" else []
    flags = [f"--source={published}/model.pt", f"--target={tmp_path / name}", *kind]
    command = [sys.executable, "-c", FULL_DISK, "200000", *flags]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"error: {tmp_path} is full; nothing of {name} is left\n" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.torch
def test_what_lies_beside_the_weights_is_named(published, tmp_path):
    """A training checkpoint of PyTorch: the model is read, and a line says what is not."""
    import torch

    model = torch.load(published / "bare.pt", weights_only=True)
    moments = {i: {"exp_avg": torch.ones(2), "step": torch.tensor(1.0)} for i in range(3)}
    loop = []
    loop.append(loop)
    held = {"model": model, "step": 7, "optim": {"state": moments, "groups": loop}, "args": None}
    torch.save(held, tmp_path / "all.pt")
    out = convert(f"--source={tmp_path}/all.pt", "--audit")
    assert out.startswith(f"{tmp_path}/all.pt: model is read; left aside: optim (6 tensors)\n")
    bare = convert(f"--source={published}/bare.pt", "--audit")
    assert out.splitlines()[-1] == bare.splitlines()[-1]
    assert "left aside" not in bare


@pytest.mark.torch
def test_torch_loads_what_is_exported(published, tmp_path):
    import torch

    convert(f"--source={published}/model.pt", f"--target={tmp_path}/model_ema_bf16.pt")
    held = torch.load(tmp_path / "model_ema_bf16.pt", weights_only=True)
    reference = golden("net_control")
    assert set(held) == {f"net.{k}" for k in reference if "_extra_state" not in k}
    for key, tensor in mapped(reference).items():
        got = held[f"net.{key}"]
        assert got.dtype == torch.bfloat16 and tuple(got.shape) == tensor.shape
        np.testing.assert_array_equal(
            got.float().numpy(), tensor.read().astype(BFLOAT16).astype(np.float32)
        )
