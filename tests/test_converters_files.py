"""Weight files: read as PyTorch writes them, written as PyTorch reads them, nothing executed."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from converters import dcp, hub, safetensors_files, stored, torch_files, unpickle
from converters.stored import in_memory

ARRAYS = {
    "net.a": np.arange(24, dtype=np.float32).reshape(4, 6),
    "net.b": np.linspace(0, 1, 15).reshape(3, 5).astype(ml_dtypes.bfloat16),
    "net.i": np.array(7),
    "net.e": np.zeros((0, 3), np.float16),
    "net.q": np.array([True, False]),
}
TENSORS = {key: in_memory(array) for key, array in ARRAYS.items()}
WRITERS = {
    "pt": (lambda path: torch_files.write_torch(path, TENSORS), torch_files.open_torch),
    "dcp": (lambda path: dcp.write_dcp(path, TENSORS), dcp.open_dcp),
    "safetensors": (
        lambda path: safetensors_files.write_safetensors(path, TENSORS, {"format": "pt"}),
        safetensors_files.open_safetensors,
    ),
}


def same(tensors, arrays):
    assert list(tensors) == list(arrays)
    for key, array in arrays.items():
        got = tensors[key].read()
        assert tensors[key].dtype == got.dtype == array.dtype, key
        assert tensors[key].shape == got.shape == array.shape, key
        np.testing.assert_array_equal(got, array)


@pytest.mark.core
@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_written_is_read(kind, tmp_path):
    write, read = WRITERS[kind]
    path = tmp_path / f"weights.{kind}"
    write(path)
    same(read(path), ARRAYS)
    same(hub.open_tensors(str(path)), ARRAYS)


@pytest.mark.core
def test_archives_are_sound_and_aligned(tmp_path):
    path = tmp_path / "weights.pt"
    torch_files.write_torch(path, TENSORS)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    for key in ("net.a", "net.b"):
        address = torch_files.open_torch(path)[key].read().__array_interface__["data"][0]
        assert address % torch_files.ALIGN == 0


@pytest.mark.torch
@pytest.mark.parametrize("legacy", [False, True])
def test_files_of_torch(legacy, tmp_path):
    import torch

    base = torch.arange(24.0).reshape(4, 6)
    held = OrderedDict(
        whole=base,
        turned=base.T,
        strided=base[1:3, ::2],
        bf16=torch.randn(3, 5).bfloat16(),
        scalar=torch.tensor(7),
        empty=torch.zeros(0, 3),
        flags=torch.tensor([True, False]),
        parameter=torch.nn.Parameter(torch.ones(2, 2)),
    )
    wanted = {
        key: tensor.detach().float().numpy()
        if tensor.dtype == torch.bfloat16
        else tensor.detach().numpy()
        for key, tensor in held.items()
    }
    held["norm._extra_state"] = io.BytesIO(b"abc")
    new = not legacy
    torch.save(held, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    tensors = torch_files.open_torch(tmp_path / "a.pt")
    assert bytes(tensors.pop("norm._extra_state").read()) == b"abc"
    assert tensors["bf16"].dtype == stored.BFLOAT16
    for key, array in wanted.items():
        np.testing.assert_array_equal(tensors[key].read().astype(array.dtype), array)
        assert tensors[key].shape == array.shape
    module = torch.nn.Linear(3, 2).state_dict()
    torch.save({"model": module}, tmp_path / "m.pt", _use_new_zipfile_serialization=new)
    same(torch_files.open_torch(tmp_path / "m.pt"), {key: x.numpy() for key, x in module.items()})


@pytest.mark.torch
def test_torch_reads_our_files(tmp_path):
    import torch

    torch_files.write_torch(tmp_path / "weights.pt", TENSORS)
    for options in ({}, {"mmap": True}):
        held = torch.load(tmp_path / "weights.pt", weights_only=True, **options)
        assert list(held) == list(ARRAYS)
        assert held["net.b"].dtype == torch.bfloat16 and held["net.i"].dtype == torch.int64
        for key, array in ARRAYS.items():
            np.testing.assert_array_equal(held[key].float().numpy(), array.astype(np.float32))


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")  # torch warns of its own deprecations
def test_distributed_checkpoints_of_torch(tmp_path):
    import torch
    import torch.distributed.checkpoint as torch_dcp
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    held = {"net.a": torch.randn(4, 6), "net.b": torch.randn(3).bfloat16()}
    extra = {"net.x._extra_state": io.BytesIO(b"q")}
    folder = tmp_path / "iter_000000010" / "model"
    torch_dcp.save({**held, **extra}, checkpoint_id=str(folder), no_dist=True)
    tensors = dcp.open_dcp(folder.parent)
    del tensors["net.x._extra_state"]
    np.testing.assert_array_equal(tensors["net.a"].read(), held["net.a"].numpy())

    dcp.write_dcp(tmp_path / "ours", tensors)
    back = {key: torch.zeros_like(x) for key, x in held.items()}
    torch_dcp.load(back, checkpoint_id=str(tmp_path / "ours"), no_dist=True)
    assert all(torch.equal(back[key], held[key]) for key in held)
    dcp_to_torch_save(str(tmp_path / "ours"), str(tmp_path / "back.pt"))
    assert torch.equal(torch.load(tmp_path / "back.pt")["net.b"], held["net.b"])


@pytest.mark.core
def test_parts_of_a_tensor_are_put_together(tmp_path):
    """Two ranks hold two rows each, as FSDP leaves them."""
    dcp.write_dcp(tmp_path / "d", {"a": in_memory(ARRAYS["net.a"])})
    (tmp_path / "d" / dcp.METADATA).unlink()
    record = unpickle.Record
    about, places = record(), {}
    about.size, about.properties, about.chunks = (4, 6), record(), []
    about.properties.state = (np.dtype(np.float32),)
    for rank in range(2):
        name, part = f"__{rank}_0.distcp", in_memory(ARRAYS["net.a"][2 * rank : 2 * rank + 2])
        with (tmp_path / "d" / name).open("wb") as file:
            torch_files.write_archive(file, torch_files.describe(part, "0"), {"": part})
        chunk, info = record(), record()
        chunk.offsets, chunk.sizes = (2 * rank, 0), (2, 6)
        info.relative_path, info.offset = name, 0
        info.length = (tmp_path / "d" / name).stat().st_size
        about.chunks.append(chunk)
        places["a", chunk.offsets] = info
    whole = dcp._tensor(tmp_path / "d", "a", about, places)
    np.testing.assert_array_equal(whole.read(), ARRAYS["net.a"])
    about.chunks[1].offsets = (1, 0)
    places["a", (1, 0)] = places["a", (2, 0)]
    with pytest.raises(ValueError):  # they overlap, and the last row is nowhere
        dcp._tensor(tmp_path / "d", "a", about, places)
    about.chunks[1].offsets = (2, 0)
    del places["a", (2, 0)]
    with pytest.raises(ValueError, match=r"part of a at \(2, 0\) is not stored"):
        dcp._tensor(tmp_path / "d", "a", about, places)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")  # torch.jit warns of its own deprecation
def test_torchscript_archives_are_read_without_running_them(tmp_path):
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(2, 3)
            self.register_buffer("shift", torch.arange(3.0))

        def forward(self, x):
            return self.inner(x) + self.shift

    net = Net()
    torch.jit.save(torch.jit.script(net), str(tmp_path / "net.jit"))
    tensors = torch_files.open_torch(tmp_path / "net.jit")
    assert tensors.keys() == {"inner.weight", "inner.bias", "shift"}
    for key, tensor in net.state_dict().items():
        np.testing.assert_array_equal(tensors[key].read(), tensor.numpy())


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


HOSTILE = {
    "reduce": lambda path: pickle.dumps(Evil(path), protocol=2),
    "stack_global": lambda path: pickle.dumps(Evil(path), protocol=4),
    "inst": lambda path: b"(S'touch %s'\nios\nsystem\n." % str(path).encode(),
    "eval": lambda path: b"cbuiltins\neval\n(S'1'\ntR.",
    "class": lambda path: b"csubprocess\nPopen\n.",
    "persistent": lambda path: b"(S'module'\nS'x'\ntQ.",
}


@pytest.mark.core
@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("place", ["pt", "dcp", "bare"])
def test_code_in_a_file_is_refused(kind, place, tmp_path):
    proof = tmp_path / "ran"
    data = HOSTILE[kind](proof)
    if place == "pt":
        path = tmp_path / "evil.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", data)
    elif place == "dcp":
        path = tmp_path / "evil"
        path.mkdir()
        (path / dcp.METADATA).write_bytes(data)
    else:
        path = tmp_path / "evil.pkl"
        path.write_bytes(data if data[:1] == b"\x80" else b"\x80\x02" + data)
    with pytest.raises(ValueError, match="refused"):
        hub.open_tensors(str(path))
    assert not proof.exists()


ARRAY_PICKLES = {
    "object_bytes": b"cnumpy\nndarray\n((I1\ntcnumpy\ndtype\n(VO\ntRVAAAAAAAA\ntR.",
    "parts": b"cnumpy\ndtype\n(Vi8\ntR(I3\nV|\nN(VxtN I8\nI1\nI0\ntb.",
    "records": b"cnumpy\ndtype\n(VV8\ntR.",
    "scalar": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(VO8\ntRVAAAAAAAA\ntR.",
}


@pytest.mark.core
@pytest.mark.parametrize("kind", ARRAY_PICKLES)
def test_bytes_never_become_objects(kind, tmp_path):
    """numpy's own constructors would take the bytes for addresses."""
    (tmp_path / "evil.pt").write_bytes(b"\x80\x02" + ARRAY_PICKLES[kind])
    with pytest.raises(ValueError):
        hub.open_tensors(str(tmp_path / "evil.pt"))
    with pytest.raises(ValueError):
        unpickle.Unpickler(io.BytesIO(ARRAY_PICKLES[kind]), "x").load()


@pytest.mark.core
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_in_pickles_are_read(protocol):
    held = {"a": [np.arange(6.0).reshape(2, 3), np.zeros((0, 4), np.float32)], "n": np.float32(2)}
    data = io.BytesIO(pickle.dumps(held, protocol=protocol))
    back = unpickle.Unpickler(data, "x").load()
    assert back["n"] == 2 and back["a"][1].shape == (0, 4)
    np.testing.assert_array_equal(back["a"][0], held["a"][0])


@pytest.mark.core
def test_what_is_written_has_the_shape_that_was_promised():
    wrong = stored.Stored((5,), np.dtype(np.float32), lambda: np.zeros(1, np.float32))
    with pytest.raises(ValueError):
        list(stored.pieces(wrong))


@pytest.mark.core
def test_an_old_target_stays_until_the_new_one_is_there(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"old")
    with pytest.raises(OSError), stored.replaced(tmp_path / "w.pt", 1, overwrite=True):
        pass  # no draft was written
    assert (tmp_path / "w.pt").read_bytes() == b"old"


@pytest.mark.core
@pytest.mark.parametrize("keep", [0, 3, 200, -1])
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_cut_files_are_errors(kind, keep, tmp_path):
    path = tmp_path / f"weights.{kind}"
    WRITERS[kind][0](path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"cut short|cut, or|damaged"):
        hub.open_tensors(str(path))


@pytest.mark.core
def test_missing_parts_are_listed(tmp_path):
    dcp.write_dcp(tmp_path / "d", TENSORS)
    (tmp_path / "d" / dcp.DATA).unlink()
    with pytest.raises(ValueError, match=r"missing: \['__0_0.distcp'\]"):
        hub.open_tensors(str(tmp_path / "d"))
    (tmp_path / "d" / dcp.METADATA).rename(tmp_path / "d" / "x.distcp")
    with pytest.raises(ValueError, match=r"has no \.metadata"):
        hub.open_tensors(str(tmp_path / "d"))
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps(index))
    one = {"a": in_memory(ARRAYS["net.a"])}
    safetensors_files.write_safetensors(tmp_path / "1.safetensors", one, {})
    with pytest.raises(ValueError, match=r"missing: \['2.safetensors'\]"):
        hub.open_tensors(str(tmp_path))
    safetensors_files.write_safetensors(tmp_path / "2.safetensors", one, {})
    with pytest.raises(ValueError, match=r"do not hold: \['b'\]"):
        hub.open_tensors(str(tmp_path))


@pytest.mark.core
def test_the_safetensors_library_reads_ours(tmp_path):
    from safetensors.numpy import load_file

    WRITERS["safetensors"][0](tmp_path / "x.safetensors")
    held = load_file(tmp_path / "x.safetensors")
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(held[key], array)


@pytest.mark.core
def test_a_wrong_header_is_an_error(tmp_path):
    header = json.dumps({"a": {"dtype": "F8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    data = struct.pack("<Q", len(header)) + header + b"\0"
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="type F8"):
        hub.open_tensors(str(tmp_path / "a.safetensors"))


@pytest.mark.core
def test_nothing_half_written_stays(tmp_path):
    with pytest.raises(KeyboardInterrupt), stored.replaced(tmp_path / "w.pt", 10) as draft:
        draft.write_bytes(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="make room"), stored.replaced(tmp_path / "w", 2**62):
        pass
    (tmp_path / "w.pt").write_bytes(b"old")
    with pytest.raises(ValueError, match="exists"), stored.replaced(tmp_path / "w.pt", 1):
        pass
    with stored.replaced(tmp_path / "w.pt", 1, overwrite=True) as draft:
        draft.write_bytes(b"new")
    assert (tmp_path / "w.pt").read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.core
def test_files_of_the_hub(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub import errors

    WRITERS["pt"][0](tmp_path / "w.pt")
    asked = []

    def download(repository, name, revision=None):
        asked.append((repository, name, revision))
        return str(tmp_path / "w.pt")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    same(hub.open_tensors("hf://some/model@abc/a/w.pt"), ARRAYS)
    assert asked == [("some/model", "a/w.pt", "abc")]
    with pytest.raises(ValueError, match="form hf://"):
        hub.resolve("hf://some")

    def failing(error):
        def fail(*unused, **options):
            raise error

        return fail

    for kind, words in (
        (errors.GatedRepoError, "licence must be accepted"),
        (errors.RepositoryNotFoundError, "does not exist"),
        (errors.RevisionNotFoundError, "no revision"),
        (errors.LocalEntryNotFoundError, "cannot be reached"),
        (errors.EntryNotFoundError, "no file"),
    ):
        error = kind.__new__(kind)
        Exception.__init__(error, "x")
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", failing(error))
        with pytest.raises(ValueError, match=words):
            hub.resolve("hf://some/model/w.pt")
