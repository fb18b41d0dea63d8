"""The parity command: what passes, what does not, and files that cannot be compared."""

import json
import pathlib
import re

import commands
import numpy as np
import pytest

from converters.parity_checks import datasets, golden, networks, text, training, vae
from converters.parity_checks.golden import Golden, Options, Row

pytestmark = pytest.mark.core

SCRIPT = "converters/parity.py"
GOLDENS = pathlib.Path(__file__).parent / "goldens"


def parity(*arguments):
    """Exit status, output, and what was said on stderr."""
    command = commands.Command(SCRIPT, *arguments)
    return command.wait(), command.out, command.err


def changed(folder, name, changes, new_name=None):
    """A copy of a golden file with other arrays; None leaves one out."""
    with np.load(GOLDENS / f"{name}.npz") as file:
        arrays = dict(file) | changes
    path = folder / f"{new_name or name}.npz"
    np.savez(path, **{key: x for key, x in arrays.items() if x is not None})
    return path


def described(name, key="config_json"):
    with np.load(GOLDENS / f"{name}.npz") as file:
        return json.loads(str(file[key]))


def nudged(name, key, by):
    """One entry of an array is changed."""
    with np.load(GOLDENS / f"{name}.npz") as file:
        array = file[key].copy()
    array.flat[array.size // 2] += by
    return {key: array}


def test_files_are_told_by_their_arrays(tmp_path):
    names = ["unipc", "lr_ema", "rf_train", "cfg_sampling", "text_encoder"]
    names += ["t5_tiny", "tok_wrapper"]
    renamed = [changed(tmp_path, name, {}, f"file_{i}") for i, name in enumerate(names)]
    status, out, err = parity(*renamed)
    assert (status, err) == (0, "")
    assert "FAIL" not in out.replace("0 FAIL", "")
    wanted = ["c1/x0_pred", "ema1/ema", "v2w_fp32/grad_coefs", "v2w/out/latents", "act/hidden_4"]
    wanted += ["out/last_hidden_raw", "out/latent_normalised"]
    for i, what in enumerate(wanted):
        (line,) = re.findall(rf"file_{i}\.npz .* ok +{what}\n", out)
        assert re.search(r"\d\.\d\de[-+]\d\d .* max \d\.\d\de", line)
    assert "not compared: mvctrl_fp32/in/text" in out
    assert re.search(r"\n\d+ rows of 7 files: 0 FAIL, 0 files with errors\n$", out)


def test_data_sets_lie_where_root_says(tmp_path):
    file = changed(tmp_path, "dataset_video", {})
    status, out, _ = parity(file, f"--root={GOLDENS}")
    assert status == 0 and "text/item1/video/mean_per_frame (bit-equal)" in out
    status, _, _ = parity(file, f"--root={GOLDENS / 'video_dataset'}")
    assert status == 0
    status, _, err = parity(file)
    assert status == 2 and f"neither {tmp_path}/videos nor {tmp_path}/video_dataset/videos" in err


def test_one_wrong_number_fails(tmp_path):
    """A weight, an output, a gradient; the last file is as it should be."""
    files = [
        changed(tmp_path, "net_lvg", nudged("net_lvg", key, 0.1), new_name)
        for new_name, key in (
            ("weight", "sd/blocks.1.mlp.layer1.weight"),
            ("out", "out"),
            ("grad", "grad/blocks.1.self_attn.k_norm.weight"),
        )
    ]
    status, out, err = parity(*files, GOLDENS / "net_lvg.npz")
    assert (status, err) == (1, "")
    failed = re.findall(r"(\w+)\.npz .* FAIL +(.*)\n", out)
    assert ("weight", "out") in failed and ("weight", "act/blocks.1") in failed
    assert ("weight", "act/blocks.0") not in failed
    assert [what for name, what in failed if name == "out"] == ["out"]
    assert [w for n, w in failed if n == "grad"] == ["grad/blocks.1.self_attn.k_norm.weight"]
    assert not [what for name, what in failed if name == "net_lvg"]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("unipc", "c3/x0_pred"),
        ("unipc", "c0/timesteps"),
        ("lr_ema", "lr1/mult"),
        ("lr_ema", "ema0/beta"),
        ("rf_train", "mvctrl_bf16/net_in/x"),
        ("rf_train", "v2w_fp32/out/x0"),
        ("cfg_sampling", "v2w/out/latents"),
        ("cfg_sampling", "mvctrl/in/noise"),
        ("text_encoder", "out/mean_pooling"),
        ("text_encoder", "sd/layers.1.mlp.up_proj.weight"),
    ],
)
def test_a_wrong_number_of_any_kind_fails(tmp_path, name, key):
    status, out, _ = parity(changed(tmp_path, name, nudged(name, key, 1)))
    assert status == 1
    assert key.startswith("sd/") or re.search(rf"FAIL +{key}", out)


def test_wrong_pixels_and_words_fail(tmp_path):
    cases = described("dataset_video", "cases_json")
    cases[0]["items"][1]["fields"]["ai_caption"] = "Other words."
    key = "text/item0/video/crop_c"
    changes = {"cases_json": np.array(json.dumps(cases)), **nudged("dataset_video", key, 9)}
    file = Golden.load(changed(tmp_path, "dataset_video", changes))
    rows = datasets.check(file, Options(root=GOLDENS))
    assert [r.what for r in rows if not r.ok] == [key, "text/item1: fields: ai_caption"]


def test_bfloat16_has_its_own_limits(tmp_path):
    good = GOLDENS / "text_encoder.npz"
    status, out, _ = parity(good, "--dtype=bfloat16")
    assert status == 0
    (errors,) = re.findall(r" (\S+)  rms (\S+) +ok +out/full_concat", out)
    assert 1e-3 < float(errors[0]) < float(errors[1])
    bad = changed(tmp_path, "text_encoder", {"out/full_concat": np.ones((2, 40, 128), "f4")})
    assert parity(bad, "--dtype=bfloat16")[0] == 1


def test_the_autoencoder_in_bfloat16():
    file = Golden.load(GOLDENS / "vae.npz")
    few = {k: x for k, x in file.arrays.items() if not k.startswith(("act/", "in/latent", "out/"))}
    part = Golden(file.path, few | {"out/latent": file["out/latent"]})
    (row,) = vae.check(part, Options(dtype="bfloat16"))
    assert row.ok and row.measure == "rms" and row.rms_error > 1e-3


def test_what_cannot_be_compared_is_told_and_the_rest_is_compared(tmp_path):
    text_file, cut = tmp_path / "words.npz", tmp_path / "cut.npz"
    text_file.write_text("no archive")
    cut.write_bytes((GOLDENS / "unipc.npz").read_bytes()[:-100])
    np.savez(tmp_path / "other.npz", a=np.zeros(3), b=np.zeros(2))
    lost = tmp_path / "lost.npz"
    files = [text_file, cut, tmp_path / "other.npz", lost, GOLDENS / "lr_ema.npz"]
    status, out, err = parity(*files)
    assert status == 2
    assert err.startswith(f"parity.py: error: {text_file} is not an .npz archive")
    assert f"{cut} is not an .npz archive, or it is cut off" in err
    assert "other.npz holds no arrays that are known here: ['a', 'b']" in err
    assert f"{lost}: no such file" in err
    assert out.count(" error: ") == 4
    assert "lr_ema.npz" in out and " ok       ema1/ema" in out
    wrong = changed(tmp_path, "lr_ema", nudged("lr_ema", "ema0/ema", 1))
    status, _, err = parity(wrong, lost)
    assert status == 1 and f"{lost}: no such file" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_temporal": 2}, "option patch_temporal of the reference network must be 1"),
        ({"telescope": 3}, r"unknown options of the reference network .*\['telescope'\]"),
        ({"num_blocks": None}, "option num_blocks of the reference network is missing"),
        ({"num_blocks": 5}, r"blocks\.4\.self_attn\.q_proj\.weight: missing"),
    ],
)
def test_options_that_are_not_known(tmp_path, change, message):
    config = described("net_lvg")
    config["cfg"] |= change
    config["cfg"] = {key: value for key, value in config["cfg"].items() if value is not None}
    file = changed(tmp_path, "net_lvg", {"config_json": np.array(json.dumps(config))})
    status, out, err = parity(file)
    assert status == 2 and "net_lvg.npz  error: " in out
    assert re.search(message, err)


@pytest.mark.parametrize(
    ("name", "key", "change", "message"),
    [
        ("lr_ema", "config_json", {"cosine": 1}, "unknown options of the schedules: cosine"),
        ("unipc", "cases_json", {"order": 3}, "unknown options of case c0: order"),
        ("cfg_sampling", "cases_json", {"solver": "x"}, "unknown options of case mvctrl: solver"),
        ("rf_train", "cases_json", {"loss": "x"}, "unknown options of case mvctrl_fp32: loss"),
        ("rf_train", "cases_json", {"V": 4}, r"shape \(1, 1, 6, 4, 6\) is not .* 4 views x T"),
        ("text_encoder", "config_json", {"hidden_act": "relu"}, "hidden_act .* must be 'silu'"),
        ("dataset_auto", "cases_json", {"jitter": 1}, "auto-multiview data set: jitter"),
        ("vae", "config_json", {"attn_scales": [2]}, r"attn_scales of .* must be \[\]"),
        ("vae", "config_json", {"wavelets": 1}, "options of the autoencoder: wavelets"),
        ("net_mv", "config_json", {"data_type": "sound"}, "data_type 'sound' is neither"),
        ("net_mv", "config_json", {"augment": 1}, "description of a network: augment"),
    ],
)
def test_unknown_options_of_every_kind(tmp_path, name, key, change, message):
    config = described(name, key)
    (config[0] if isinstance(config, list) else config).update(change)
    file = changed(tmp_path, name, {key: np.array(json.dumps(config))})
    assert re.search(message, commands.error_of(SCRIPT, file))


def test_arrays_that_are_missing(tmp_path):
    error = commands.error_of(SCRIPT, changed(tmp_path, "unipc", {"c2/v": None}))
    assert error.endswith("the array c2/v is missing")
    cases = described("unipc", "cases_json")
    del cases[0]["steps"]
    changes = {"cases_json": np.array(json.dumps(cases))}
    error = commands.error_of(SCRIPT, changed(tmp_path, "unipc", changes))
    assert error.endswith("its description lacks 'steps'")


def test_flags_that_cannot_be():
    file = GOLDENS / "unipc.npz"
    assert commands.error_of(SCRIPT).startswith("name the files")
    assert "needs an NVIDIA GPU" in commands.error_of(SCRIPT, file, "--attention=cudnn")
    assert "--root=/nowhere is no folder" in commands.error_of(SCRIPT, file, "--root=/nowhere")
    assert "dtype" in commands.error_of(SCRIPT, file, "--dtype=float16")


def test_cudnn_computes_in_bfloat16():
    with pytest.raises(ValueError, match="computes in bfloat16"):
        networks.load(Golden.load(GOLDENS / "net_lvg.npz"), "float32", "cudnn")


def test_bfloat16_numbers_need_the_float32_file_beside_them(tmp_path):
    file = changed(tmp_path, "nets_bf16", {})
    assert f"{tmp_path}/net_lvg.npz: no such file" in commands.error_of(SCRIPT, file)


# The parts.


def given(b=2, v=3, t=2, tokens=512, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "x_B_C_T_H_W": rng.standard_normal((b, 4, v * t, 6, 8)),
        "timesteps_B_T": rng.uniform(0, 1000, (b, 1)),
        "crossattn_emb": rng.standard_normal((b, v * tokens, 5)),
    }
    return {k: np.asarray(x, np.float32) for k, x in (arrays | changes).items() if x is not None}


def test_inputs_may_have_many_forms():
    inputs = networks._inputs(given(), 3, multi_view=True)
    assert inputs["latents"].shape == (2, 3, 2, 6, 8, 4)
    assert inputs["timesteps"].shape == (2, 1, 1)
    assert inputs["view_ids"].tolist() == [[0, 1, 2]] * 2
    assert not inputs["condition_mask"].any()
    assert not {"fps", "padding_mask", "control", "control_scale"} & inputs.keys()
    # View-major frames: view 1's second frame is frame 3.
    x = given()["x_B_C_T_H_W"]
    np.testing.assert_array_equal(inputs["latents"][1, 1, 1], np.moveaxis(x[1, :, 3], 0, -1))

    frames = np.arange(12.0).reshape(2, 6)
    inputs = networks._inputs(
        given(
            timesteps_B_T=frames,
            view_indices_B_T=np.repeat([[4, 0, 2], [1, 1, 0]], 2, axis=1),
            control_context_scale=[0.5, 2.0],
            padding_mask=np.ones((1, 1, 48, 64)),
            fps=[10.0],
            latent_control_input=np.ones((2, 9, 6, 6, 8)),
        ),
        3,
        multi_view=True,
    )
    assert inputs["timesteps"].tolist() == frames.reshape(2, 3, 2).tolist()
    assert inputs["view_ids"].tolist() == [[4, 0, 2], [1, 1, 0]]
    assert inputs["control_scale"].tolist() == [0.5, 2.0]
    assert inputs["padding_mask"].shape == (2, 48, 64)
    assert inputs["fps"].tolist() == [10.0, 10.0]
    assert inputs["control"].shape == (2, 3, 2, 6, 8, 9)

    image = networks._inputs(given(v=1, t=1, tokens=7), 1, multi_view=False)
    assert image["text"].shape == (2, 1, 7, 5) and image["fps"].tolist() == [24.0, 24.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": 500}, "1500 tokens; a multi-view network takes 3 views x 512"),
        ({"view_indices_B_T": np.arange(12).reshape(2, 6)}, "changes within a view"),
        ({"sigma": 1.0}, "unknown options of a network's inputs: sigma"),
        (
            {"condition_video_input_mask_B_C_T_H_W": np.arange(576.0).reshape(2, 1, 6, 6, 8)},
            "changes within a frame",
        ),
        ({"x_B_C_T_H_W": np.zeros((2, 4, 5, 6, 8))}, "not .* 3 views x T"),
    ],
)
def test_inputs_that_are_not_supported(changes, message):
    with pytest.raises(ValueError, match=message):
        networks._inputs(given(**changes), 3, multi_view=True)


def test_every_array_is_compared_or_listed(tmp_path):
    changes = {"act/blocks.0.mystery": np.zeros(2), "extra": np.zeros(2)}
    file = Golden.load(changed(tmp_path, "text_encoder", changes))
    assert all(row.ok for row in text.check(file, Options()))
    assert sorted(file.not_compared()) == ["act/blocks.0.mystery", "extra"]


def test_a_solver_field_that_is_not_known_is_told(tmp_path):
    cases = described("unipc", "cases_json")
    cases[1]["field"] = "swirl"
    _, out, _ = parity(changed(tmp_path, "unipc", {"cases_json": np.array(json.dumps(cases))}))
    assert "c1/x by the scan, whose field 'swirl' is not known" in out
    assert "ok       c1/x0_pred" in out


def test_norms_of_gradients_name_the_worst():
    ours = {"a": np.full((2, 2), 1.0), "b": np.array([3.0, 4.0]), "c": np.zeros(3)}
    good = networks._norms({"a": 2.0, "b": 5.0, "c": 0.0}, ours, 1e-3)
    assert good.ok and good.max_error == 0
    off = networks._norms({"a": 2.0, "b": 5.1}, ours, 1e-3)
    assert not off.ok and off.what.endswith("worst b")
    unknown = networks._norms({"a": 2.0, "d": 5.0}, ours, 1e-3)
    assert not unknown.ok and unknown.what.endswith("worst d")


def test_parameters_without_gradient_have_none():
    file = Golden(pathlib.Path("x"), {"nograd_json": np.array('["a", "z"]')})
    (row,) = networks._gradients(file, {"a": np.zeros(3), "b": np.ones(1)}, "float32")
    assert row.ok and file.not_compared() == ["gradients of 1 parameters (b)"]
    (row,) = networks._gradients(file, {"a": np.full(3, 1e-9)}, "float32")
    assert not row.ok


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_a_number_fails(bad):
    theirs = np.ones((2, 3))
    for ours in (np.full((2, 3), bad), np.ones((3, 2)), theirs + 2):
        for dtype in ("float32", "bfloat16"):
            assert not golden.close("x", ours, theirs, dtype).ok
    assert not Row("x", bad, bad, 1.0).ok
    assert not golden.compare("x", np.full(2, bad), np.full(2, bad), 1.0).ok
    assert golden.close("x", theirs + 1e-4, theirs, "float32").ok


def test_schedules_may_have_several_cycles():
    lr = {
        "warm_up_steps": [2, 1],
        "cycle_lengths": [5, 4],
        "f_start": [0.0, 0.1],
        "f_max": [1.0, 0.5],
        "f_min": [0.2, 0.0],
    }
    steps = [0, 1, 2, 5, 6]
    mult = [0.0, 0.5, 1.0, 0.2, 0.5]
    arrays = {"config_json": np.array(json.dumps({"lr": [lr], "ema": []}))}
    arrays |= {"lr0/steps": np.array(steps), "lr0/mult": np.array(mult)}
    (row,) = training.check_schedules(Golden(pathlib.Path("x"), arrays), Options())
    assert row.ok, row
