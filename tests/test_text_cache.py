"""Text embeddings that are made once: the folder, its identity, the command, runs that use it."""

import dataclasses
import errno
import json
import pathlib
import shutil

import clips_on_disk
import commands
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tiny
from commands import demo, error_of, run
from test_qwen import TINY, save_tokenizer

from converters import networks, rules, torch_files
from converters import qwen as names
from cosmos_jax import build, build_text, build_weights, text_cache
from cosmos_jax.data import video
from cosmos_jax.diffusion import flow
from cosmos_jax.models import qwen
from cosmos_jax.prepare import captions
from cosmos_jax.text_cache import Writer, new_cache, open_cache
from experiments import demo as recipe

PREPARE = "cosmos_jax/prepare/__main__.py"
QWEN = {"kind": "cosmos_jax.models.qwen:QwenText", "weights": "random", "cache": "auto"}
QWEN |= TINY | {"tokens": 100}
WIDTH = TINY["blocks"] * TINY["hidden_width"]
MESH = {"data": 2, "fsdp": 2, "context": 2}


# ---- The folder.


@pytest.fixture
def cache(tmp_path):
    """A cache of two captions, one in each type."""
    made = new_cache(tmp_path / "cache", {"width": 3})
    rows = np.linspace(0, 1, 6).reshape(2, 3)
    with Writer(made) as writer:
        writer.add("a car", rows.astype(np.float32))
        writer.add("ein Wägelchen", rows.astype(ml_dtypes.bfloat16))
    return made


@pytest.mark.core
def test_what_is_written_is_read_bit_for_bit(cache):
    opened = open_cache(cache.folder)
    assert opened == cache
    rows = np.linspace(0, 1, 6).reshape(2, 3)
    for caption, dtype in (("a car", np.float32), ("ein Wägelchen", ml_dtypes.bfloat16)):
        embedding = opened.read(caption)
        assert embedding.dtype == dtype
        np.testing.assert_array_equal(embedding, rows.astype(dtype))
    assert opened.missing(["a car", "another"]) == ["another"]
    assert len(list(cache.folder.iterdir())) == 3


@pytest.mark.core
def test_damaged_files_are_named(cache):
    lost, changed = cache.path("a car"), cache.path("ein Wägelchen")
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    assert cache.fault("ein Wägelchen") is None  # its size tells nothing
    with pytest.raises(OSError, match=rf"{changed} is damaged: its checksum .* delete it and run"):
        cache.read("ein Wägelchen")
    lost.write_bytes(lost.read_bytes()[:-1])
    assert f"{lost} has 151 bytes of 152" == cache.fault("a car")
    lost.unlink()
    assert cache.fault("a car") == f"{lost} is missing"
    assert cache.unusable(["new", "a car", "ein Wägelchen"]) == ["new", "a car"]


@pytest.mark.core
@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"identity": {}}', '{"identity": 1, "captions": {}}']
    + [f'{{"identity": {{}}, "captions": {x}}}' for x in ("[]", '{"a": 1}', '{"a": {"bytes": 1}}')],
)
def test_a_damaged_index_is_told(cache, text):
    (cache.folder / "index.json").write_text(text)
    with pytest.raises(ValueError, match=r"index\.json is damaged .* with --overwrite, or do with"):
        open_cache(cache.folder)


@pytest.mark.core
def test_folders_that_are_no_cache(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is not there: it is no cache"):
        open_cache(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"has no index\.json: it is no cache"):
        open_cache(tmp_path)


@pytest.mark.core
def test_a_new_cache_deletes_embeddings_and_nothing_else(cache):
    (cache.folder / "notes.npy").write_text("mine")
    (cache.folder / ".x.npy.draft").write_text("of a process that was killed")
    with Writer(new_cache(cache.folder, {"width": 4})):
        left = {path.name for path in cache.folder.iterdir()}
        assert left == {"notes.npy", "index.json"}
    assert open_cache(cache.folder).identity == {"width": 4}


@pytest.mark.core
@pytest.mark.parametrize("victim", ["npy", "index"])
def test_a_disk_that_fills_up_leaves_nothing_half_written(cache, victim, monkeypatch):
    before = {path: path.read_bytes() for path in cache.folder.iterdir()}
    write = pathlib.Path.write_bytes

    def full(path, data):
        if victim in path.name:
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, data)

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    told = pytest.raises(ValueError, match=r"cache is full; .* run the same command again$")
    with told, Writer(cache) as writer:
        writer.add("new", np.zeros((2, 3), np.float32))
    after = {path: path.read_bytes() for path in cache.folder.iterdir()}
    assert before.items() <= after.items()
    assert len(after) == 3
    monkeypatch.undo()
    assert open_cache(cache.folder).unusable(["a car", "new"]) == ["new"]


# ---- The command, on a mesh, with a language model and random weights.


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"), qwen.SPECIAL)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return clips_on_disk.write_clips(
        tmp_path_factory.mktemp("clips") / "clips", counts=(5, 5, 5, 5)
    )


def values_of(root, tokenizer, **changes):
    """The tiny demo with the tiny language model, as plain values."""
    config = recipe.get_config()
    config.text = QWEN | {"tokenizer": str(tokenizer)}
    given = {path: value for path, value in commands.TINY.items() if path[:5] != "text."}
    given |= {"model.text_features": WIDTH, "data.root": str(root)}
    given |= {"data.size": "(16,32)", "data.cache_dir": str(root.parent / "headers")}
    given |= {f"mesh.{axis}": size for axis, size in MESH.items()}
    given |= {key.replace("__", "."): value for key, value in changes.items()}
    return commands.changed(build.check_config(config), given)


def opened(values, captions=("",)):
    """`build_weights.text` of a config, with its mesh, and the sizes."""
    mesh = build.mesh(values)
    with jax.set_mesh(mesh):
        sizes = build.sizes(values, mesh, build.trainer(values))
        root = values["data"]["root"]
        return build_weights.text(values, mesh, sizes, root, list(captions)), mesh, sizes


@pytest.fixture(scope="module")
def embedded(clips, tokenizer):
    """The values of a config whose cache is filled, in the folder of clips."""
    values = values_of(clips, tokenizer)
    captions.embed(values, overwrite=False)
    return values


@pytest.mark.core
def test_every_caption_is_embedded_as_in_training_bit_for_bit(embedded, clips, capsys):
    words = ["", *(f"Words {i}." for i in range(4))]
    text, _, _ = opened(embedded, words)
    encoder, mesh, _ = opened(embedded | {"text": embedded["text"] | {"cache": None}}, words)
    assert text.shape == encoder.shape == (100, WIDTH)
    assert text.description.startswith(f"cache {clips}/text_embeddings (5 captions) of Qwen2.5-VL")
    assert text.description.endswith(", weights: random, seed 0")
    assert encoder.description.startswith("Qwen2.5-VL text tower (100 x 96")
    with jax.set_mesh(mesh):
        for caption in words:
            one, other = text.embed(caption), encoder.embed(caption)
            assert one.dtype == other.dtype == jnp.bfloat16
            np.testing.assert_array_equal(one, other)
    text.check({})  # there is no projection to look at
    index = json.loads((clips / "text_embeddings" / "index.json").read_text())
    assert sorted(entry["caption"] for entry in index["captions"].values()) == words


@pytest.mark.core
def test_the_command_again_embeds_what_is_missing_alone(embedded, clips, capsys, monkeypatch):
    folder = clips / "text_embeddings"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    captions.embed(embedded, overwrite=False)
    assert "5 different ones, 5 in" in capsys.readouterr().out
    lost = text_cache.name_of("Words 2.") + ".npy"
    (folder / lost).unlink()
    with pytest.raises(ValueError, match=rf"{lost} is missing, and 0 files more are damaged; run"):
        opened(embedded, ["Words 1.", "Words 2."])
    captions.embed(embedded, overwrite=False)
    out = capsys.readouterr().out
    assert "4 in" in out and "to write 1 captions, 19,200 bytes each" in out
    assert "embedded: 1 of 1 captions" in out
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    assert {name for name in after if before[name] != after[name]} == {lost}


@pytest.mark.core
def test_an_interrupted_command_goes_on(embedded, tmp_path, monkeypatch):
    values = embedded | {"text": embedded["text"] | {"cache": str(tmp_path / "cache")}}
    add, added = Writer.add, []

    def stop(writer, caption, embedding):
        if len(added) == 3:
            raise KeyboardInterrupt
        add(writer, caption, embedding)
        added.append(caption)

    monkeypatch.setattr(Writer, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        captions.embed(values, overwrite=False)
    cache = open_cache(tmp_path / "cache")
    assert len(cache.entries) == 3 and not cache.missing(added)
    monkeypatch.undo()
    captions.embed(values, overwrite=False)
    assert len(open_cache(tmp_path / "cache").entries) == 5


STALE = {
    "tokens": (dict(text__tokens=99), r"tokens is 100 there and 99 here"),
    "sizes": (dict(text__mlp_width=32), r"mlp_width is 64 there and 32 here"),
    "precision": (dict(text__dtype="float32"), r"dtype is 'bfloat16' there and 'float32' here"),
    "seed": (dict(seed=1), r"weights is 'random, seed 0' there and 'random, seed 1' here"),
    "hub": (
        dict(text__weights="hf://a/b@c"),
        r"weights is 'random, seed 0' there and 'hf://a/b@c'",
    ),
}


@pytest.mark.core
@pytest.mark.parametrize("case", STALE)
def test_a_stale_cache_is_refused(case, embedded, clips, tokenizer):
    changes, words = STALE[case]
    values = values_of(clips, tokenizer, **changes)
    with pytest.raises(ValueError, match=rf"text_embeddings is stale: {words}.*; run python -m"):
        opened(values)


@pytest.mark.core
def test_another_tokenizer_is_refused_and_a_copy_is_not(embedded, clips, tokenizer, tmp_path):
    copy = shutil.copytree(tokenizer, tmp_path / "copy")
    assert "(1 captions)" in opened(values_of(clips, copy))[0].description
    with (copy / "tokenizer.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ValueError, match=r"stale: tokenizer is 'files \w+' there and 'files "):
        opened(values_of(clips, copy))


@pytest.mark.core
def test_a_cache_serves_where_no_encoder_is_named(embedded, clips, tokenizer, capsys):
    """...and where it lacks a caption the encoder is needed for all, and a line says so."""
    values = values_of(clips, tokenizer, text__weights=None)
    assert "(1 captions)" in opened(values)[0].description
    with pytest.raises(ValueError, match=r"config\.text\.weights is missing"):
        opened(values, ["", "a new prompt"])
    told = capsys.readouterr().out
    assert "lacks 1 of 2 captions, as 'a new prompt': the encoder is used for all" in told
    assert opened(embedded, ["", "a new prompt"])[0].description.startswith("Qwen2.5-VL")


@pytest.mark.core
def test_several_processes_need_a_whole_cache(embedded, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert "(2 captions)" in opened(embedded, ["", "Words 0."])[0].description
    with pytest.raises(ValueError, match=r"2 processes cannot .*\.prepare text in one process"):
        opened(embedded, ["another"])


@pytest.mark.core
def test_weights_in_files_are_told_by_their_content(clips, tokenizer, tmp_path):
    """A copy elsewhere serves as well, other numbers do not."""
    sizes = TINY | {"hidden_width": 256, "heads": 2, "kv_heads": 1, "blocks": 1, "mlp_width": 8}
    tower = qwen.QwenText(tokenizer=str(tokenizer), **sizes)
    for name, seed in (("one.pt", 0), ("copy.pt", 0), ("other.pt", 1)):
        params = {"params": jax.jit(tower.init)(jax.random.key(seed))}
        tensors = rules.to_reference(names.table(tower), params)
        stored = {key: torch_files.in_memory(tensor) for key, tensor in tensors.items()}
        torch_files.write_torch(tmp_path / name, stored)
    changes = {f"text__{key}": value for key, value in sizes.items()}
    identities = [
        build_text.identity(values_of(clips, tokenizer, text__weights=source, **changes), None)
        for source in (str(tmp_path / name) for name in ("one.pt", "copy.pt", "other.pt"))
    ]
    assert identities[0] == identities[1]
    assert identities[0]["weights"].startswith("files ")
    assert identities[0]["weights"] != identities[2]["weights"]
    with pytest.raises(ValueError, match=r"none\.pt is not there"):
        build_text.identity(values_of(clips, tokenizer, text__weights="none.pt", **changes), None)


# ---- Projected text.


@pytest.mark.core
def test_projected_text_trains_alike_and_dropped_text_too():
    """Text is dropped before the projection, so what stands for it is not zeros after it."""
    trainer = tiny.trainer("control/.*")
    net, process = trainer.net, trainer.process
    state = jax.jit(lambda key: trainer.init(key, tiny.INPUTS))(jax.random.key(0))
    rng = np.random.default_rng(0)  # gates start at zero, and then text is not heard
    params, frozen = (
        jax.tree.map(lambda p: p + 0.2 * rng.standard_normal(p.shape, np.float32), tree)
        for tree in (state.params, state.frozen)
    )
    state, batch = state.replace(frozen=frozen), tiny.batch(range(4))
    encode = build_text.projected(net.config, frozen["text_project"], lambda rows: rows)
    text = jnp.stack([encode(rows) for rows in batch.text])
    assert text.shape[-1] == net.config.text_width != tiny.TEXT
    draws = flow.training_noise(jax.random.key(1), batch.index, batch.latents.shape[1:])
    loss = jax.jit(lambda batch, draws: trainer.loss(params, state, batch, draws)[0])
    assert (draws.text[:, 0] < process.text_dropout).any()
    assert (draws.text[:, 0] > process.text_dropout).any()
    np.testing.assert_allclose(loss(batch.replace(text=text), draws), loss(batch, draws), rtol=1e-5)
    kept = draws._replace(text=jnp.ones_like(draws.text))
    dropped = loss(batch, draws._replace(text=jnp.zeros_like(draws.text)))
    zeros = loss(batch.replace(text=jnp.zeros_like(text)), kept)
    assert np.abs(loss(batch, kept) / dropped - 1).max() > 1e-3
    assert np.abs(zeros / dropped - 1).max() > 1e-3


@pytest.mark.core
def test_the_projection_comes_from_the_weights_that_training_starts_from(
    clips, tokenizer, tmp_path
):
    path, random = tmp_path / "weights.pt", np.random.default_rng(0)
    values = values_of(clips, tokenizer, trainable="control/.*", init_from=str(path))
    mesh, trainer = build.mesh(values), build.trainer(values)
    with jax.set_mesh(mesh):
        sizes = build.sizes(values, mesh, trainer)
        network = networks.dit("this network", trainer.net.config)
        tree = jax.tree.map(lambda x: random.standard_normal(x.shape, np.float32), network.like)
        tensors = rules.to_reference(network.table, tree)
        stored = {key: torch_files.in_memory(tensor) for key, tensor in tensors.items()}
        torch_files.write_torch(path, stored)
        assert build_text.projects(sizes)
        found = build_text.projection(values, mesh, trainer, sizes)
    jax.tree.map(np.testing.assert_array_equal, found, tree["params"]["text_project"])


@pytest.mark.core
def test_projected_text_is_for_its_projection_alone(clips, tokenizer, tmp_path):
    folder = tmp_path / "cache"
    changes = dict(text__cache=str(folder), trainable="control/.*")
    values = values_of(clips, tokenizer, **changes)
    params = {"text_project": {"kernel": jnp.ones((WIDTH, 16)), "bias": jnp.ones(16)}}
    checksum = build_text.checksum(params["text_project"])
    with Writer(new_cache(folder, build_text.identity(values, checksum))) as writer:
        writer.add("", np.zeros((100, 16), np.float32))
    text, _, _ = opened(values)
    assert text.shape == (100, 16) and "(1 captions, projected)" in text.description
    text.check(params)
    other = {"text_project": params["text_project"] | {"bias": jnp.ones(16).at[3].set(0)}}
    with pytest.raises(ValueError, match=rf"cache is stale: text_project is '{checksum}' there an"):
        text.check(other)
    with pytest.raises(ValueError, match=r"text_project is '\w+' there and 'none that is kept as"):
        opened(values_of(clips, tokenizer, **changes | {"trainable": ".*"}))


@pytest.mark.core
def test_flops_of_projected_text_leave_the_projection_out(clips, tokenizer):
    values = values_of(clips, tokenizer, trainable="control/.*", text__cache=None)
    _, _, sizes = opened(values)
    short = dataclasses.replace(sizes, text=(100, sizes.network.text_width))
    product = 2 * 2 * 100 * WIDTH * sizes.network.text_width  # of two views
    assert sizes.flops(2) - short.flops(2) == 2 * product  # forward, and back to its input
    assert short.batch(1, 2).text.shape == (1, 2, 100, sizes.network.text_width)


# ---- Runs.


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """The clips of the demo, in a folder of their own."""
    return shutil.copytree(commands.trained() / "synthetic", tmp_path_factory.mktemp("scene") / "x")


def test_a_run_with_a_cache_is_the_run_without_bit_for_bit(scene, tmp_path):
    flags = demo(data__root=scene, text__cache=tmp_path / "cache", steps=2, validation__every=0)
    told = run(PREPARE, "text", *flags).out
    assert "hashed words (4 x 16; a stand-in, not a language model)" in told
    done = run("run_train.py", *flags, f"--workdir={tmp_path}/run")
    assert f"text     cache {tmp_path}/cache (4 captions) of hashed words" in done.out
    assert commands.losses(tmp_path / "run").items() <= commands.losses(commands.trained()).items()


WIDE = dict(text__width=24, model__text_features=24, trainable="control/.*", steps=2)
WIDE |= dict(validation__every=0, process__text_dropout=0.4)


@pytest.fixture(scope="module")
def projected(scene, tmp_path_factory):
    """The workdir of a run with projected text, from the cache in its folder of clips."""
    workdir = tmp_path_factory.mktemp("projected") / "run"
    told = run(PREPARE, "text", *demo(**WIDE), f"--root={scene}").out
    assert "projected to 16 because the projection is not trained" in told
    done = run("run_train.py", *demo(data__root=scene, **WIDE), f"--workdir={workdir}")
    assert f"text     cache {scene}/text_embeddings (4 captions, projected)" in done.out
    return workdir


def test_a_run_with_projected_text_is_the_run_without_to_rounding(projected, scene, tmp_path):
    flags = demo(data__root=scene, **WIDE | dict(text__cache=None))
    run("run_train.py", *flags, f"--workdir={tmp_path}/run")
    losses, whole = (commands.losses(folder) for folder in (projected, tmp_path / "run"))
    np.testing.assert_allclose(list(losses.values()), list(whole.values()), rtol=1e-5)


def test_samples_take_projected_text(projected, scene, tmp_path):
    flags = [f"--checkpoint={projected}", f"--input={scene}", "--max_samples=1", "--guidance=3"]
    told = run("run_sample.py", *flags, f"--output={tmp_path}/cached").out
    assert f"text     cache {scene}/text_embeddings (2 captions, projected)" in told
    told = run("run_sample.py", *flags, f"--output={tmp_path}/encoded", "--text_cache=none").out
    assert "text     hashed words (4 x 24; a stand-in" in told
    files = [tmp_path / kind / "episode_0000_grid.mp4" for kind in ("cached", "encoded")]
    frames = [video.read_frames(video.probe(file), range(5)).astype(int) for file in files]
    assert np.abs(frames[0] - frames[1]).mean() < 0.1


def test_another_projection_is_refused_and_leaves_nothing(projected, scene, tmp_path):
    flags = demo(data__root=scene, seed=1, **WIDE)
    told = error_of("run_train.py", *flags, f"--workdir={tmp_path}/run")
    assert "text_embeddings is stale: text_project is '" in told and "\n" not in told
    assert not (tmp_path / "run").exists()


def test_bad_input_is_told_in_one_line(scene, tmp_path):
    def told(script, *arguments):
        error = error_of(script, *arguments)
        assert "\n" not in error
        return error

    assert "'overwite'" in told(PREPARE, "text", *demo(), "--overwite")
    assert "--root is missing: the clips of config.data.root='s" in told(PREPARE, "text", *demo())
    bare = shutil.copytree(scene, tmp_path / "bare", ignore=shutil.ignore_patterns("captions"))
    assert f"{bare}: no captions" in told(PREPARE, "text", *demo(), f"--root={bare}")
    workdir = f"--workdir={tmp_path}/run"
    flags = demo(data__root=scene, text__cache=tmp_path / "nowhere")
    assert "nowhere is not there: it is no cache" in told("run_train.py", *flags, workdir)
    bare = tmp_path / "bare" / "text_embeddings"
    new_cache(bare, {})
    (bare / "index.json").write_text("{")
    flags = demo(data__root=bare.parent, data__captions="none")
    assert "index.json is damaged" in told("run_train.py", *flags, workdir)
    assert not (tmp_path / "run").exists()


def test_a_damaged_embedding_stops_a_run(projected, scene, tmp_path):
    clips = shutil.copytree(scene, tmp_path / "clips")
    path = open_cache(clips / "text_embeddings").path("")
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"x")
    flags = demo(data__root=clips, **WIDE)
    told = error_of("run_train.py", *flags, f"--workdir={tmp_path}/run")
    assert f"{path} is damaged: its checksum" in told and "\n" not in told
    flags = [f"--checkpoint={projected}", f"--input={clips}", f"--output={tmp_path}/out"]
    told = error_of("run_sample.py", *flags, f"--text_cache={path.parent}")
    assert f"{path} is damaged: its checksum" in told and "\n" not in told
