"""`python -m cosmos_jax.bench`: what its lines say, what it refuses, and its tables."""

import ast
import importlib.metadata
import json

import commands
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.profiler import ProfileData
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cosmos_jax import build, flops, sharding
from cosmos_jax.bench import kernels, measure, report, setup
from cosmos_jax.types import TrainState
from experiments import demo

BENCH = "cosmos_jax/bench/__main__.py"
TOKENS = 2 * 2 * 2 * 3  # views, latent frames, patch rows and columns
WAN = """
from experiments import demo


def get_config():
    config = demo.get_config()
    kind = "cosmos_jax.models.wan_vae:WanVAE"
    config.codec = dict(kind=kind, weights="nowhere.pt", dim=2, num_res_blocks=1, encode_chunk=2)
    return config
"""


def lines_of(*arguments, **options):
    return [
        json.loads(text) for text in commands.run(BENCH, *arguments, **options).out.splitlines()
    ]


def line_of(*arguments, **options):
    (line,) = lines_of(*arguments, **options)
    return line


# ---- Lines.


@pytest.mark.core
def test_a_step_of_a_config():
    line = line_of("step", *commands.demo(), "--views=2", "--repeats=3", "--attention=xla")
    assert line["case"] == "step" and line["trainable"] == ".*" and line["batch"] == 4
    assert line["mesh"] == {"data": 1, "fsdp": 1, "context": 1}
    assert (line["remat"], line["attention"], line["dtype"]) == ("none", "xla", "float32")
    assert (line["tokens"], line["views"]) == (TOKENS, 2)
    assert len(line["seconds_all"]) == 3 and len(line["warm_up_seconds"]) == 2
    assert line["seconds"] == sorted(line["seconds_all"])[1] > 0
    assert line["loss"] > 0
    ratio = line["model_tflops"] / line["ceiling_tflops"]
    assert line["share_of_ceiling"] == pytest.approx(ratio, abs=1e-3)
    assert line["peak_memory_gib"] > line["program_gib"]["temp"] > 0
    assert line["program_gib"]["alias"] > 0  # the state is donated
    assert line["compile_seconds"] > 0 and line["compilation_cache"] is True
    assert line["versions"]["jax"] == importlib.metadata.version("jax")
    assert (line["device"], line["devices"]) == ("cpu", 1)


def test_an_evaluation_of_the_network_with_both_branches():
    line = line_of("sample", *commands.demo(), "--views=2", "--repeats=1", "--guidance=3")
    assert (line["case"], line["part"], line["branches"]) == ("sample", "forward", 2)
    values = tiny_values()
    network = build.network(values).config
    work = 2 * flops.forward(network, (2, 2, 4, 6), text_tokens=4)
    assert line["model_tflops"] * line["seconds"] * 1e12 == pytest.approx(work, rel=0.05)


def test_a_whole_sample_in_two_parts():
    arguments = ["--views=2", "--repeats=2", "--end_to_end", "--num_steps=3"]
    line = line_of("sample", *commands.demo(), *arguments)
    assert (line["part"], line["evaluations"], line["branches"]) == ("end to end", 3, 1)
    assert len(line["seconds_all"]) == 2 and line["first_step_seconds"] > 0
    assert line["seconds"] > 0 and line["decode_seconds"] > 0


def test_both_directions_of_the_codec(tmp_path):
    (tmp_path / "wan.py").write_text(WAN)
    _, *changes = commands.demo()
    config = f"--config={tmp_path / 'wan.py'}"
    mesh = "--mesh=data:1,context=2"
    lines = lines_of("vae", config, *changes, mesh, "--views=2", "--repeats=1", devices=2)
    assert [line["part"] for line in lines] == ["encode", "decode"]
    for line in lines:
        assert (line["views"], line["frames"], line["size"]) == (2, 5, [32, 48])
        assert line["mesh"] == {"data": 1, "fsdp": 1, "context": 2} and line["devices"] == 2
        assert line["codec"]["encode_chunk"] == 2 and "weights" not in line["codec"]
        assert line["model_tflops"] > 0 and line["seconds"] > 0


@pytest.mark.core
def test_attention_kernels():
    arguments = ["--tokens=64,96", "--keys=32", "--heads=2", "--head_width=16", "--repeats=1"]
    lines = lines_of("attention", *arguments, "--attention=xla")
    assert [(line["tokens"], line["part"]) for line in lines] == [
        (n, part) for n in (64, 96) for part in ("forward", "forward+backward")
    ]
    for line in lines:
        work = 4 * line["tokens"] * 32 * 2 * 16 * (1 if line["part"] == "forward" else 3)
        told = line["model_tflops"] * line["seconds"] * 1e12
        assert told == pytest.approx(work, rel=0.05)
    table = report.report(lines)
    assert "| 96 | 32 | 2 x 16 | xla |" in table and table.count("\n| ") == 4


def test_the_loader_of_a_config(tmp_path):
    arguments = [*commands.demo(), f"--workdir={tmp_path}", "--repeats=3"]
    line = line_of("loader", *arguments, "--step_seconds=1000")
    assert (line["batch"], line["videos"], line["frames"]) == (4, 4, 5)
    assert line["clips_per_second"] == pytest.approx(12 / sum(line["seconds_all"]), rel=1e-3)
    assert line["frames_per_second"] == pytest.approx(20 * line["clips_per_second"], rel=1e-3)
    pixels = 20 * 32 * 48 * 3 / 1e6
    assert line["megabytes_per_second"] == pytest.approx(
        pixels * line["clips_per_second"], rel=1e-2
    )
    assert line["needed_clips_per_second"] == 0.004 and line["hidden"] is True
    fast = line_of("loader", *arguments, "--step_seconds=1e-6")
    assert fast["hidden"] is False
    assert [row["hidden"] for row in cells(report.report([line, fast]))] == ["yes", "no"]


def test_the_loops_own_time(tmp_path):
    arguments = ["--views=2", "--step_seconds=0.5", f"--workdir={tmp_path}", "--repeats=3"]
    line = line_of("loop", *commands.demo(), *arguments)
    parts = line["microseconds"]
    assert set(parts) == {"dispatch", "result", "check", "log"}
    assert all(value >= 0 for value in parts.values())
    assert line["seconds"] * 1e6 == pytest.approx(sum(parts.values()), abs=1)
    assert line["share_of_step"] == pytest.approx(line["seconds"] / 0.5, abs=1e-5)
    assert len(line["save_seconds"]) == 2
    for held, whole in zip(line["save_seconds"], line["write_seconds"], strict=True):
        assert 0 < held <= whole
    assert not list(tmp_path.iterdir())
    (row, other) = cells(report.report([line, line | {"save_every": 7}]))
    assert row["step"] == "0.5 s"
    assert other["of the steps between saves"].endswith("% of 7")


# ---- What is refused.

STEP = ["step", "--config=experiments/demo.py", "--views=2"]


@pytest.mark.core
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["name one case: step, sample, vae, attention, loader, loop, report"]),
        (["stop"], ["name one case: step"]),
        (["step"], ["--views is missing"]),
        (["step", "--views=2"], ["--config=experiments/NAME.py is missing"]),
        (["step", "--views=0"], ["views"]),
        ([*STEP, "twice"], ["'twice'"]),
        ([*STEP, "--mesh=contxt:2"], ["config.mesh.contxt", "did you mean", "context"]),
        ([*STEP, "--mesh=context"], ["--mesh=context", "data:1,fsdp:1,context:4"]),
        ([*STEP, "--mesh=context:3"], ["needs 3 devices"]),
        ([*STEP, "--remat=some"], ["remat 'some'", "none", "attention", "full"]),
        ([*STEP, "--attention=flash"], ["attention='flash'", "auto", "xla", "cudnn"]),
        ([*STEP, "--profile=traces"], ["--profile=traces", "GPU"]),
        ([*STEP[:2], "--views=8"], ["--views=8", "knows 7 views"]),
        (["vae", "--remat=full"], ["remat"]),
        (["sample", "--views=2", "--num_steps=2"], ["--num_steps", "--end_to_end"]),
        (["attention", "--tokens=64,few"], ["'few'"]),
        (["attention", "--attention=flash"], ["'flash'", "xla", "cudnn"]),
        (["loader", "--config=experiments/demo.py"], ["--workdir is missing"]),
        (["loop", "--views=2"], ["--step_seconds is missing"]),
        (["report"], ["name the files"]),
        (["report", "nowhere.jsonl"], ["nowhere.jsonl"]),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_told_in_one_line(arguments, words):
    error = commands.error_of(BENCH, *arguments)
    assert all(word in error for word in words), error
    assert "\n" not in error


# ---- How it is measured.


def tiny_values():
    config = demo.get_config()
    for key, value in commands.TINY.items():
        *sections, name = key.split(".")
        section = config
        for part in sections:
            section = section[part]
        section[name] = ast.literal_eval(value) if isinstance(value, str) else value
    return build.check_config(config)


def test_runs_of_the_warm_up_do_not_count(monkeypatch):
    ticks = iter([0.0, 9.0, 10.0, 17.0, 20.0, 23.0, 30.0, 31.0, 40.0, 42.0])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(ticks))
    runs = []
    warm, seconds = measure.repeat(lambda: runs.append(0), 3)
    assert (warm, seconds, len(runs)) == ([9, 7], [3, 1, 2], 5)
    line = measure.figures(warm, seconds, 8e12, measure.Ceiling(64, 16e12))
    assert (line["seconds"], line["model_tflops"], line["share_of_ceiling"]) == (2, 4, 0.25)
    assert "model_tflops" not in measure.figures(warm, seconds, None, measure.Ceiling(64, 1.0))


def test_a_peak_that_did_not_rise_is_anothers(monkeypatch):
    monkeypatch.setattr(measure.metrics, "memory", lambda: {"device": 3.0, "host": 2.0})
    assert measure.peak_memory() == {"device": 3, "host": 2}
    assert measure.peak_memory({"device": 3.0, "host": 1.0}) == {"host": 2}


@pytest.mark.parametrize("averages", [True, False])
def test_no_weight_of_a_training_state_is_zero(averages):
    mesh = sharding.make_mesh(fsdp=8)
    place = NamedSharding(mesh, P("fsdp"))
    places = {"gate": place, "scale": NamedSharding(mesh, P())}
    params, frozen, ema = (
        jax.device_put({"gate": jnp.zeros((8, 2)), "scale": jnp.ones(3)}, places) for _ in range(3)
    )
    rest = dict(constants={"range": jnp.zeros(2)}, opt_state={"mu": jnp.zeros(2)})
    step = jnp.zeros((), jnp.int32)
    state = TrainState(step, params, frozen, ema=ema if averages else None, **rest)
    filled = setup.fill(state)
    for tree in (filled.params, filled.frozen):
        assert np.count_nonzero(tree["gate"]) == 16 and tree["gate"].sharding == place
        np.testing.assert_array_equal(tree["scale"], 1)
    assert np.all(filled.params["gate"] != filled.frozen["gate"])
    assert filled.step == 0 and filled.opt_state is rest["opt_state"]
    if averages:
        jax.tree.map(np.testing.assert_array_equal, filled.ema, filled.params)
    else:
        assert filled.ema is None


def test_what_is_sampled_with_has_the_compute_dtype_and_no_zeros():
    values = tiny_values() | {"dtype": "bfloat16"}
    mesh, trainer = sharding.make_mesh(devices=jax.devices()[:1]), build.trainer(values)
    with jax.set_mesh(mesh):
        system = setup.System(values, mesh, trainer, build.sizes(values, mesh, trainer), views=2)
        variables = setup.sampling_variables(system)
        batch = setup.random_batch(system.sizes, 2, 2, trainer.dtype)
    assert variables["constants"]
    assert {leaf.dtype for leaf in jax.tree.leaves(variables["params"])} == {jnp.dtype("bfloat16")}
    for leaf in jax.tree.leaves((variables["params"], batch.latents, batch.control, batch.text)):
        assert np.count_nonzero(leaf) > 0.999 * leaf.size  # normal numbers may round to 0
    wanted = system.sizes.batch(2, 2)
    jax.tree.map(
        lambda leaf, other: np.testing.assert_equal(leaf.shape, other.shape), batch, wanted
    )
    assert batch.text.dtype == wanted.text.dtype


def test_only_zeros_are_replaced():
    params = {"gate": jnp.zeros((3, 4)), "kernel": jnp.array([0.5, 0.0, -2.0], jnp.bfloat16)}
    found = setup.without_zeros(params, seed=0)
    assert np.abs(found["gate"]).min() > 0 and np.abs(found["gate"]).max() < 5 * setup.STD
    assert found["kernel"].dtype == jnp.bfloat16 and found["kernel"][1] != 0
    np.testing.assert_array_equal(found["kernel"][jnp.array([0, 2])], [0.5, -2.0])


# ---- Kernels by name.

NAMES = {
    "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7": "attention forward",
    "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_26": "attention backward",
    "void cudnn::fusion::compute_dot_do_o_specialized<true>(float)": "attention backward",
    "void cutlass::device_kernel<flash::FlashAttnFwdSm90<flash::Mainloop>>": "attention forward",
    "void cutlass::device_kernel<flash::FlashAttnBwdSm90<flash::Main>>": "attention backward",
    "void flash::FlashAttnBwdPostprocessConvertdQ": "attention backward",
    "nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_NTN": "products",
    "void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm>": "products",
    "gemm_fusion_dot_12": "products",
    "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc": "convolutions",
    "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)": "collectives",
    "MemcpyD2D": "copies",
    "loop_convert_multiply_fusion_3": "fusions and others",
    "input_reduce_fusion": "fusions and others",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_is_known_by_its_name(name):
    assert kernels.kernel_class(name) == NAMES[name]


def test_the_table_of_kernels_is_the_mean_of_the_devices():
    events = [("nvjet_a", 3.0), ("MemcpyD2D", 1.0), ("nvjet_a", 1.0), ("loop_fusion", 5.0)]
    events += [(f"loop_fusion_{i}", 0.01) for i in range(40)]
    table = kernels.table(events, devices=2)
    by_class = table["seconds_by_class"]
    assert by_class["products"] == 2 and by_class["copies"] == 0.5
    assert by_class["fusions and others"] == pytest.approx(2.7)
    assert by_class["collectives"] == 0
    assert table["kernel_seconds"] == pytest.approx(5.2)
    assert len(table["top"]) == kernels.TOP
    assert [row["kernel"] for row in table["top"][:3]] == ["loop_fusion", "nvjet_a", "MemcpyD2D"]
    assert table["top"][1]["calls"] == 1 and table["top"][1]["class"] == "products"


def plane(name, *lines):
    events = "".join(
        f'lines {{ name: "{line}" timestamp_ns: 5 '
        f"events {{ metadata_id: 1 offset_ps: {begin * 10**12} duration_ps: {took * 10**12} }} }}"
        for line, begin, took in lines
    )
    kernel = 'event_metadata { key: 1 value { id: 1 name: "ncclDevKernel_AllGather" } }'
    return f'planes {{ name: "{name}" {events} {kernel} }}'


def test_a_trace_is_read_from_the_streams_of_its_gpus():
    def trace(*planes):
        text = " ".join(planes)
        return ProfileData.from_serialized_xspace(ProfileData.text_proto_to_serialized_xspace(text))

    first = plane("/device:GPU:0", ("Stream #1(Compute)", 0, 2), ("Stream #2(Memcpy)", 3, 1))
    second = plane("/device:GPU:1", ("Stream #1(Compute)", 1, 4), ("XLA Ops", 0, 50))
    host = plane("/host:CPU", ("python", 0, 9))
    found = kernels.read(trace(first, second, host))
    assert found["span_seconds"] == 4
    assert found["seconds_by_class"]["collectives"] == found["kernel_seconds"] == 3.5
    with pytest.raises(ValueError, match="no GPU kernels"):
        kernels.read(trace(host))


def test_a_trace_is_written(tmp_path):
    path = kernels.trace(lambda: jnp.ones(3) + 1, tmp_path)
    assert any(plane.name == "/host:CPU" for plane in ProfileData.from_file(str(path)).planes)


# ---- Tables.


def a_step(**changes):
    line = {
        "case": "step",
        "trainable": ".*",
        "batch": 1,
        "mesh": {"data": 1, "fsdp": 1, "context": 1},
        "views": 5,
        "tokens": 62_400,
        "dtype": "bfloat16",
        "attention": "cudnn",
        "remat": "attention",
        "seconds": 8.0,
        "model_tflops": 459.2,
        "share_of_ceiling": 0.661,
        "peak_memory_gib": 73.31,
        "program_gib": {"temp": 30.0},
        "compile_seconds": 31.2,
        "device": "NVIDIA H200",
        "versions": {"jax": "0.11.2"},
    }
    return line | changes


def cells(table):
    """Rows of a Markdown table, by column."""
    rows = [row[2:-2].split(" | ") for row in table.splitlines() if row.startswith("|")]
    titles, _, *rows = rows
    return [dict(zip(titles, row, strict=True)) for row in rows]


@pytest.mark.core
def test_the_table_of_steps_compares_with_the_reference_and_with_one_device():
    four = {"data": 1, "fsdp": 1, "context": 4}
    lines = [
        a_step(),
        a_step(remat="full", seconds=10.0),
        a_step(mesh=four, seconds=2.5),
        a_step(mesh=four, seconds=2.5, trainable="control/.*"),
        a_step(device="NVIDIA A100"),
    ]
    text = report.report(lines)
    assert text.startswith("## Training step\n\nNVIDIA H200, jax 0.11.2; NVIDIA A100, jax 0.11.2")
    rows = cells(text)
    assert [row["mesh"] for row in rows[1:3]] == ["1 device", "context=4"]
    assert rows[0][report.REFERENCE] == "9.15 s, 51 GiB; 10.85 s, 36 GiB as published"
    assert rows[2][report.REFERENCE] == "2.54 s, 23 GiB"
    assert rows[3][report.REFERENCE] == rows[4][report.REFERENCE] == "-"
    # Four devices against the faster of the two recipes on one.
    assert [row["of linear scaling"] for row in rows] == ["-", "-", "80%", "-", "-"]
    assert rows[3]["trained"] == "control branch"
    assert rows[0]["of a product"] == "66%" and rows[0]["peak memory"] == "73.3 GiB"


def test_lines_are_read_from_files_and_bad_ones_named(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text(f"some warning\n{json.dumps(a_step())}\n")
    (line,) = report.read(path)
    assert line == a_step()
    for text, words in {
        '{"case": "stop"}': "is of none of the cases",
        '{"case"': "is not JSON",
        '{"of": "step"}': "is of none of the cases",
    }.items():
        path.write_text(f"\n{text}\n")
        with pytest.raises(ValueError, match=rf"lines\.jsonl:2 {words}"):
            report.read(path)
    with pytest.raises(ValueError, match="a line of case step has no 'tokens'"):
        report.report([{"case": "step", "mesh": {}}])
    with pytest.raises(ValueError, match="no lines"):
        report.report([])


def test_tables_of_several_cases_in_one_file(tmp_path):
    vae = {
        **a_step(case="vae", part="encode", frames=29, size=[480, 832], views=1),
        "codec": {"encode_chunk": 2},
    }
    kernel_table = kernels.table([("nvjet", 1.0)])
    profile = {"case": "profile", "of": a_step(), "span_seconds": 1.0, **kernel_table}
    sample = a_step(case="sample", part="forward", branches=1)
    (tmp_path / "a").write_text("\n".join(map(json.dumps, [vae, profile, sample])))
    text = commands.run(BENCH, "report", tmp_path / "a").out
    sampling, codec, by_kernel = text.split("\n## ")
    assert cells(sampling)[0][report.REFERENCE] == "2.54 s, 15 GiB"
    assert cells(codec)[0][report.REFERENCE] == "0.342 s, 8.4 GiB"
    assert cells(codec)[0]["chunk"] == "2 latent frames"
    (row,) = cells(by_kernel)
    assert row["of"] == "step .* attention, 62,400 tokens" and row["products"] == "1.000 s"
