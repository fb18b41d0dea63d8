"""Sampling with Predict1: the generator beside the solvers, meshes, and prompts by camera."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampling_models import model
from test_predict1_edm import CONFIG, batch, trainer

from cosmos_jax import build_sample, generate, sample, sample_edm, sharding, train
from cosmos_jax.diffusion import edm_solvers
from cosmos_jax.encode import Encoder
from cosmos_jax.generate import SampleConfig
from cosmos_jax.models.cv8x8x8 import CV8x8x8
from cosmos_jax.models.dct_codec import DCTCodec
from cosmos_jax.models.predict1 import Predict1
from cosmos_jax.sampling import inputs, sampler, spec_predict1
from cosmos_jax.sampling.fields import Fields, read_objects
from cosmos_jax.sampling.reading import open_job
from cosmos_jax.sampling.requests import Long, Request, View
from cosmos_jax.types import APART, Batch

STEPS, GUIDANCE = 4, 2.5
MASKED = dataclasses.replace(CONFIG, masked=True)
MESHES = [dict(context=2), dict(data=2), dict(data=2, fsdp=2, context=2)]


@functools.cache
def variables(config):
    """Weights that are nowhere zero."""
    inputs = train.network_inputs(4, 8, control=False, frames=1)
    found = jax.jit(lambda key: Predict1(config).init(key, **inputs))(jax.random.key(0))

    def draw(path, leaf):
        rng = np.random.default_rng([ord(letter) for letter in sharding.path_name(path)])
        return leaf + 0.2 * rng.standard_normal(leaf.shape, np.float32)

    params = jax.tree_util.tree_map_with_path(draw, found["params"])
    return {"params": params, "constants": found["constants"]}


class Run:
    """A generator on a mesh, and what it samples of a fixed batch."""

    def __init__(self, config, sizes, **settings):
        count = int(np.prod(list(sizes.values())))
        self.mesh = sharding.make_mesh(**sizes, devices=jax.devices()[:count])
        self.trainer = trainer(config)
        settings = dict(num_steps=STEPS, guidance=GUIDANCE) | settings
        self.generator = generate.Generator(
            self.trainer.net,
            DCTCodec(),
            build_sample.solver(self.trainer),
            SampleConfig(**settings),
            self.mesh,
        )

    def latents(self, given=None, on_step=lambda done, steps: None):
        held = variables(self.trainer.net.config)
        data = batch(1)
        with jax.set_mesh(self.mesh):
            places = sharding.param_shardings(held["params"], self.mesh)
            params = jax.device_put(held["params"], places)
            everywhere = jax.NamedSharding(self.mesh, sharding.P())
            constants = jax.device_put(held["constants"], everywhere)
            data = jax.device_put(data, everywhere)
            made = self.generator.latents(
                {"params": params, "constants": constants},
                data,
                jnp.zeros_like(data.text),
                5,
                given=given,
                on_step=on_step,
            )
            return np.asarray(made)


@functools.cache
def one(config=CONFIG, **settings):
    return Run(config, dict(data=1), **settings).latents()


def both_branches(data: Batch) -> tuple[Batch, jax.Array]:
    wide = jax.tree.map(lambda x: jnp.concatenate([x, x]), data)
    return wide, jnp.concatenate([data.text, jnp.zeros_like(data.text)])


def in_one_loop(rows, start):
    """What `sample_edm.denoise` makes, which is compared with the reference's numbers."""
    data, noise = batch(1), sample.initial_noise(5, b=1, v=2, t=2, h=4, w=4, c=4)
    wide, text = both_branches(data)
    mask = jnp.zeros((2, 2, 2))
    network = train.bind(Predict1(CONFIG), variables(CONFIG), wide, text, mask, 1.0)
    how = dict(start=start, data=0.5, dtype="float32")
    denoise = functools.partial(sample_edm.denoise, network, **how)
    return jax.jit(lambda noise: denoise(noise, data.latents, mask[:1], rows, GUIDANCE))(noise)


def test_steps_one_by_one_give_what_the_compiled_loop_gives():
    rows = edm_solvers.euler(edm_solvers.sigmas(STEPS, lowest=edm_solvers.EULER_MIN))
    wanted = in_one_loop(rows, edm_solvers.euler_start())
    np.testing.assert_allclose(one(), wanted, atol=1e-4)
    assert np.abs(one() - one(guidance=0.0)).max() > 1e-2


@pytest.mark.core
@pytest.mark.parametrize("sizes", MESHES, ids=str)
@pytest.mark.parametrize("config", [CONFIG, MASKED], ids=["words", "frames"])
def test_latents_do_not_depend_on_the_mesh(config, sizes):
    given = [1, 1] if config.masked else None
    want = Run(config, dict(data=1)).latents(given)
    np.testing.assert_allclose(Run(config, sizes).latents(given), want, atol=1e-3)
    if config.masked:  # the first frame is given, and comes back
        np.testing.assert_allclose(want[:, :, 0], batch(1).latents[:, :, 0], atol=1e-3)


def test_samples_are_rounded_between_steps():
    """Published inference holds them in bfloat16."""
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    solver = build_sample.solver(trainer(config))
    row = SampleConfig(num_steps=3).steps(solver)[1].row
    noise = jax.random.normal(jax.random.key(0), (1, 2, 2, 4, 4, 4))
    state = solver.start(noise)
    for x in (state.x, solver.step(state, 0.3 * noise, row).x):
        np.testing.assert_array_equal(x, x.astype(jnp.bfloat16).astype(jnp.float32))
    assert np.abs(state.x).max() > 80


def test_guidance_acts_within_its_interval_by_the_noises_share():
    solver = build_sample.solver(trainer())
    rows = solver.rows(35, False)
    share = solver.noise_share(rows)
    np.testing.assert_allclose(share, rows.sigma / (rows.sigma + 0.5), rtol=1e-6)
    assert share[0] > 0.99 and share[-1] < 1e-3
    flags = [step.guided for step in SampleConfig(guidance_interval=(0.2, 0.9)).steps(solver)]
    assert flags == [bool(0.2 <= x <= 0.9) for x in share] and 0 < sum(flags) < 35
    assert not any(step.guided for step in SampleConfig(guidance=0.0).steps(solver))
    # Where no step is within, what comes out is that of no guidance.
    np.testing.assert_array_equal(one(guidance_interval=(0.0, 1e-9)), one(guidance=0.0))


def test_a_step_may_reuse_the_last_guess():
    seen = []
    run = Run(CONFIG, dict(data=1), num_steps=20, cache_threshold=0.1, guidance=0.0)
    cached = run.latents(on_step=lambda done, steps: seen.append((done, steps)))
    assert 10 < run.generator.evaluations < 20 and seen[-1] == (20, 20)
    whole = one(num_steps=20, guidance=0.0)
    assert 0 < np.std(cached - whole) < 0.2 * np.std(whole)


@pytest.mark.parametrize("name", edm_solvers.EVALUATIONS)
def test_the_training_sides_solvers_sample_too(name):
    """From 80 times the noise to 0.002, and once more; in full precision between steps."""
    levels = edm_solvers.sigmas(8 // edm_solvers.EVALUATIONS[name] + 1, lowest=0.002)
    wanted = in_one_loop(edm_solvers.res(name, levels), 80.0)
    run = Run(CONFIG, dict(data=1), num_steps=8, solver=name)
    np.testing.assert_allclose(run.latents(), wanted, atol=1e-4)
    assert run.generator.evaluations == 9
    assert np.abs(one(num_steps=8) - wanted).max() > 1e-3
    half = build_sample.solver(trainer(dataclasses.replace(CONFIG, dtype="bfloat16"))).named(name)
    row = jax.tree.map(lambda column: column[0], half.rows(8, False))
    noise = jax.random.normal(jax.random.key(0), (1, 2, 2, 4, 4, 4))
    x = half.step(half.start(noise), 0.3 * noise, row).x
    assert np.any(x != x.astype(jnp.bfloat16).astype(jnp.float32))


@pytest.mark.core
def test_solvers_say_what_they_cannot_do():
    solver = build_sample.solver(trainer())
    with pytest.raises(ValueError, match="karras chooses a schedule of rectified flow"):
        SampleConfig(karras=True).steps(solver)
    with pytest.raises(ValueError, match="solver='3ab' is none of euler, 1euler, 2ab"):
        SampleConfig(solver="3ab").steps(solver)
    with pytest.raises(ValueError, match=r"'2mid' must be one of .* two levels up"):
        SampleConfig(solver="2mid", num_steps=1).steps(solver)
    flow = sample.FlowSolver(train.Process(), CONFIG)
    with pytest.raises(ValueError, match="solver='2ab': models of rectified flow have UniPC"):
        SampleConfig(solver="2ab").steps(flow)
    assert solver.guidance_excess == 0  # the published g is ours
    assert not solver.takes_given and build_sample.solver(trainer(MASKED)).takes_given


SMALL = CV8x8x8(
    channels=4,
    channels_mult=(1, 2, 1),
    num_res_blocks=1,
    patch=2,
    spatial=4,
    temporal=4,
    chunk=3,
    dtype=jnp.float32,
)


def test_one_given_frame_is_the_start_of_a_clip_and_no_picture():
    """For a codec that normalises pictures by other numbers than the first frame of a video."""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    params = SMALL.init(jax.random.key(0))
    params["statistics"]["mean"] += jnp.arange(1.0, 4.0)[:, None]
    with jax.set_mesh(mesh):
        encoder = Encoder(SMALL, params, lambda caption: None, mesh, "float32")
        solver = build_sample.solver(trainer(MASKED))
        made = generate.Generator(Predict1(MASKED), SMALL, solver, SampleConfig(), mesh)
        beginning = sampler.Sampler(made, encoder, {}, print)._beginning
        levels = np.random.default_rng(0).integers(0, 256, (1, 2, 5, 8, 8, 3), np.uint8)
        levels[:, :, 1:] = levels[:, :, :1]
        want = np.asarray(encoder.latents(levels, range(1), 1))
        picture = np.asarray(encoder.latents(levels[:, :, :1], range(1), 1))
        for pixels in (levels, levels / np.float32(127.5) - 1):
            np.testing.assert_allclose(beginning(pixels[:, :, :1]), want[:, :, :1], atol=1e-5)
            np.testing.assert_allclose(beginning(pixels), want, atol=1e-5)
    assert np.abs(picture - want[:, :, :1]).max() > 0.1


@pytest.mark.core
def test_latents_of_a_codec_that_counts_frames_are_not_handed_over():
    folder = model((("front", 0),), controlled=False, captions="none", num_frames=9, size=(16, 32))
    view = View("front", 0, "", None, None, 0)

    def check(codec, long, taking=MASKED):
        job = open_job(
            Request("drive", (view,), SampleConfig(), long=long, fps=10), folder.config, False
        )
        sampler.check(job, codec, build_sample.solver(trainer(taking)))

    check(SMALL, Long(2, 1))
    check(SMALL, Long(2, 5, pixels=True))
    check(DCTCodec(), Long(2, 5))
    with pytest.raises(ValueError, match=r"'drive': the codec's latents .* --handover=pixels"):
        check(SMALL, Long(2, 5))
    with pytest.raises(ValueError, match="takes no given frames, and so makes no long videos"):
        check(SMALL, Long(2, 1), CONFIG)


# ---- Prompts by camera.

WAYMO = ("front_left", "front", "front_right", "side_left", "side_right")
CAMERAS = tuple(zip((f"pinhole_{name}" for name in WAYMO), (1, 0, 2, 4, 5), strict=True))
SIX = tuple((name, i) for i, name in enumerate(spec_predict1.PROMPTS))
CAR = spec_predict1.CAR
SENTENCES = {
    "pinhole_front_left": CAR + "forward and slightly to the left.",
    "pinhole_front": CAR + "forward.",
    "pinhole_front_right": CAR + "forward and slightly to the right.",
    "pinhole_side_left": CAR + "to the left.",
    "pinhole_side_right": CAR + "to the right.",
}


def waymo(cameras=CAMERAS, reference=False, **changes) -> object:
    data = dict(control=None, captions="each", view_prefixes=True, prefix_style="apart")
    return model(cameras, reference, controlled=False, **data | changes)


def read(held, of=None, **flags) -> Request:
    fields = Fields(held, "spec.json", pathlib.Path())
    assert spec_predict1.is_of(fields, of or waymo())
    return spec_predict1.request(fields, of or waymo(), flags, "output")


@pytest.mark.core
def test_prompts_go_to_cameras_in_the_order_of_training():
    held = {"prompt": "A.", "prompt_left": "B.", "prompt_back_right": "C."}
    request = read(held)
    assert [(view.camera, view.view_id) for view in request.views] == list(CAMERAS)
    said = {view.camera: view.caption for view in request.views}
    words = {"pinhole_front": "A.", "pinhole_front_left": "B.", "pinhole_side_right": "C."}
    for camera, sentence in SENTENCES.items():
        text = APART + words[camera] if camera in words else ""
        assert said[camera] == sentence + text
    assert (request.name, request.fps, request.negative) == ("output", 10, None)
    settings = request.settings
    assert (settings.seed, settings.guidance, settings.num_conditional_frames) == (1, 7, 0)
    changed = read(held | {"video_save_name": "drive", "fps": 5, "seed": 2}, guidance=0, seed=9)
    assert (changed.name, changed.fps, changed.settings.seed) == ("drive", 5, 9)
    assert changed.settings.guidance == 0


@pytest.mark.core
def test_a_sentence_about_a_camera_stands_once():
    front, left = SENTENCES["pinhole_front"], CAR + "to the left."
    request = read({"prompt": f"{front} A.", "prompt_left": f"{left} B."})
    said = {view.camera: view.caption for view in request.views}
    assert said["pinhole_front"] == f"{front}{APART}A."
    assert said["pinhole_front_left"] == f"{left} B."  # another sentence: as it is written
    joined = read({"prompt": "A."}, waymo(prefix_style="joined"))
    assert joined.views[1].caption == f"{front} A."


@pytest.mark.core
def test_the_six_published_views_have_their_default_words():
    of = waymo(SIX, view_prefixes=False, prefix_style="joined", fps=24)
    request = read({"prompt": "A."}, of)
    captions = [view.caption for view in request.views]
    assert captions == ["A.", *spec_predict1.DEFAULTS.values()] and request.fps == 24
    assert [view.view_id for view in request.views] == [0, 1, 2, 3, 4, 5]


@pytest.mark.core
def test_the_published_order_has_its_ids_and_its_rate():
    """Front first, whatever was trained; of six views that the network knows, their own ids."""
    held = {"prompt": "A.", "prompt_left": "B.", "negative_prompt": "Noise", "prompt_back": "C."}
    views = ["front", "left", "right", "back_left", "back_right"]
    numbered = tuple((camera, i) for i, (camera, _) in enumerate(CAMERAS))
    for cameras, ids in ((numbered, [0, 1, 2, 3, 4]), (CAMERAS, [0, 1, 2, 4, 5])):
        request = read(held, waymo(cameras, reference=True))
        assert [view.camera for view in request.views] == views
        assert [view.view_id for view in request.views] == ids
        captions = [view.caption for view in request.views]
        assert captions[:3] == ["A.", "B.", spec_predict1.DEFAULTS["right"]]
        assert (request.fps, request.negative) == (24, None)
    ours = read(held | {"prompt_back": None})
    assert set(ours.negative) == {"Noise"}


BAD = [
    ({"prompt_left": "B."}, {}, "prompt is missing"),
    ({"prompt": "A.", "prompt_back": "B."}, {}, "prompt_back: the model has no such camera"),
    ({"prompt": "A.", "promt_left": "B."}, {}, "promt_left; did you mean prompt_left"),
    ({"prompt": 3}, {}, "prompt=3 is not a string"),
    ({"prompt": "A.", "guidance": -1}, {}, "guidance=-1 must be 0"),
    ({"prompt": "A."}, {"num_conditional_frames": 1}, "num_conditional_frames=1"),
    ({"prompt": "A."}, {"num_chunks": 2}, "no such field; drop the flag"),
]


@pytest.mark.core
@pytest.mark.parametrize(("held", "flags", "fault"), BAD)
def test_bad_fields_are_errors(held, flags, fault):
    with pytest.raises(ValueError, match=rf"spec\.json.*{fault}"):
        read(held, **flags)


@pytest.mark.core
def test_prompts_need_a_car_that_is_known():
    with pytest.raises(ValueError, match=r"for Waymo's cameras .* trained on 'cam_high'"):
        read({"prompt": "A."}, waymo((("cam_high", 0),), captions="none", view_prefixes=False))


@pytest.mark.core
def test_samples_without_a_name_have_a_number(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": name}) for name in "ab"))
    found = [
        inputs.each(fields, waymo(), {}, str(i))[0].name
        for i, fields in enumerate(read_objects(path))
    ]
    assert found == ["0", "1"]
    fields = Fields({"prompt": "A.", "name": "x", "front_wide": {}}, "spec.json", pathlib.Path())
    assert not spec_predict1.is_of(fields, waymo())
    controlled = model((("front", 0),))
    fields = Fields({"prompt": "A."}, "spec.json", pathlib.Path())
    assert not spec_predict1.is_of(fields, controlled)
