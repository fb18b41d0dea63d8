"""One run of the sampler: all is checked, then weights are read, then samples are written."""

import dataclasses
import hashlib
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from cosmos_jax import build, build_sample, build_weights, cli, startup, versions
from cosmos_jax import checkpoints as stored
from cosmos_jax.encode import Encoder, Text
from cosmos_jax.generate import Generator
from cosmos_jax.progress import Progress
from cosmos_jax.sampling import (
    as_reference,
    checkpoints,
    guardrail,
    inputs,
    outputs,
    requests,
    sampler,
)
from cosmos_jax.sampling.kept_chunks import KeptChunks
from cosmos_jax.sampling.model import Model
from cosmos_jax.sampling.reading import Job, open_jobs
from cosmos_jax.train import Trainer
from cosmos_jax.types import APART


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What `run_sample.py` was asked for, a field a flag.

    Attributes:
        checkpoint: a run, a checkpoint, or weights.
        checkpoints: several of them: "all", steps, or weights.
        config: the experiment of weights that are no run's.
        inputs: a folder, or specifications.
        output: where samples go.
        overwrite: write over another run's files.
        reference: do as the published samplers do.
        mesh: as in "data=2,context=4"; None: what suits the devices.
        attention: the kernel.
        weights: "ema" or "regular"; None: the average, if kept.
        batch: samples that go together.
        seeds: samples of every request.
        limit: only the first requests; None: all.
        control: the control folder.
        frames: of every video, exactly; None: as many as the chunks make.
        size: (rows, columns) of a folder's samples.
        text_cache: folder of text embeddings.
        guardrail: "module:function".
        metrics: measure the samples; None: where there are several checkpoints.
        fields: of a specification: fps, prompt.
        settings: of `SampleConfig`, that are changed.
        long: of `requests.Long`, that are changed.
    """

    checkpoint: str
    checkpoints: str | None
    config: Any
    inputs: Sequence[Path]
    output: Path
    overwrite: bool
    reference: bool
    mesh: str | None
    attention: str
    weights: str | None
    batch: int
    seeds: int
    limit: int | None
    control: str | None
    frames: int | None
    size: tuple[int, int] | None
    text_cache: str | None
    guardrail: str | None
    metrics: bool | None
    fields: Mapping[str, Any]
    settings: Mapping[str, Any]
    long: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run that has been checked.

    Attributes:
        source: the model.
        jobs: what is to be sampled.
        trainer: holds the network.
        mesh: set for the process.
        sizes: of the network.
        generator: the denoising loop.
        guardrail: of prompts and frames, or None.
        record: for OUT/run.json.
        text: where text embeddings come from, in words.
    """

    source: checkpoints.Source
    jobs: list[Job]
    trainer: Trainer
    mesh: Mesh
    sizes: build.Sizes
    generator: Generator
    guardrail: guardrail.Guardrail | None
    record: dict[str, Any]
    text: str = ""


@dataclasses.dataclass(frozen=True)
class Target:
    """A checkpoint to sample with.

    Attributes:
        checkpoint: the weights.
        folder: for their samples.
        about: what tells the weights without reading them, for sidecars: "which", "quick".
    """

    checkpoint: checkpoints.Checkpoint
    folder: Path
    about: dict[str, str]


def open_source(wanted: Wanted) -> checkpoints.Source:
    """The model and its weights, as the flags name them."""
    path = Path(wanted.checkpoint)
    if checkpoints.is_run(path):
        if wanted.config is not None:
            raise ValueError(f"--config: {path} has its own; drop it")
        return checkpoints.open_run(path, wanted.checkpoints)
    if wanted.config is None:
        if path.is_dir() and not (path / "weights.json").is_file():
            stored.locate(path)  # says what it lacks
        raise ValueError(
            f"{wanted.checkpoint} is no workdir of run_train.py: say with "
            "--config=experiments/NAME.py what the weights are of"
        )
    more = [] if wanted.checkpoints is None else wanted.checkpoints.split(",")
    return checkpoints.open_files([wanted.checkpoint, *more], wanted.config)


def prepare(wanted: Wanted) -> Prepared:
    """Checks all that can be checked before weights are read."""
    source = open_source(wanted)
    values = source.values
    values["attention"] = wanted.attention  # of this machine, not of the one that trained
    trainer = build.trainer(values)
    controlled = bool(trainer.net.config.control_blocks)
    if "control_weight" in wanted.settings and not controlled:
        raise ValueError("--control_weight: the model has no control branch")
    solver = build_sample.solver(trainer)
    model = Model(
        build.make(build.DataConfig, {**values["data"], "root": "."}, "config.data"),
        source.cameras,
        controlled,
        build_sample.sample_config(values),
        wanted.reference,
        solver.guidance_excess,
    )
    asked = inputs.read(wanted, model)
    asked = requests.with_seeds(asked, wanted.seeds)
    requests.check_names(asked)
    jobs = open_jobs(asked, model.config, controlled)
    codec = build.codec(values)
    for job in jobs:
        sampler.check(job, codec, solver)
    guard = guardrail.load(wanted.guardrail)
    guardrail.check_prompts(guard, asked)
    guided = any(job.request.settings.guidance for job in jobs)
    sizes_asked = sorted({job.config.size for job in jobs})
    mesh = build_sample.sampling_mesh(values, trainer, wanted.mesh, guided, sizes_asked)
    jax.set_mesh(mesh)
    sizes = build.sizes(values, mesh, trainer)
    record = {
        "weights": [[c.where, c.weights(wanted.weights)] for c in source.found],
        "samples": {request.name: request.about() for request in asked},
        "compat": "reference" if wanted.reference else "none",
        "guardrail": wanted.guardrail,
        "model": model_digest(values),
    }
    outputs.check(wanted.output, record, wanted.overwrite)
    generator = build_sample.generator(values, mesh, trainer)
    return Prepared(source, jobs, trainer, mesh, sizes, generator, guard, record)


def model_digest(values: Mapping[str, Any]) -> str:
    """A hash of what a config says of the network, its codec and its text, and of their clips."""
    said = {name: values[name] for name in ("model", "process", "codec", "text", "dtype")}
    said |= {name: values["data"][name] for name in ("num_frames", "size", "resize", "video_size")}
    text = json.dumps(said, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(prepared: Prepared, job: Job, weights: str) -> str:
    """Of a job with the weights of a checksum: what a finished sample, or chunk, is known by."""
    record = prepared.record
    return job.request.fingerprint(weights, record["compat"], record["guardrail"], record["model"])


def print_plan(wanted: Wanted, devices: int) -> None:
    """Prints what a run would take on so many GPUs, and reads no weights."""
    jax.config.update("jax_platforms", "cpu")  # a GPU may be another's, and is not needed
    jax.config.update("jax_num_cpu_devices", devices)
    prepared = prepare(dataclasses.replace(wanted, attention="xla"))
    plan = build.load("cosmos_jax.sampling.plan:lines", "--plan")
    for line in plan(prepared, wanted.attention):
        print(line, flush=True)


def sample(wanted: Wanted) -> None:
    """Samples all jobs with all checkpoints."""
    with cli.user_errors():
        startup.keep_programs()
        prepared = prepare(wanted)
        places = targets(wanted, prepared)
        left = [target for target in places if not is_finished(prepared, target)]
        text = open_text(wanted, prepared) if left else None
        if jax.process_index() == 0:
            names = [job.request.name for job in prepared.jobs]
            sidecars = {outputs.sidecar(place.folder, name) for place in places for name in names}
            outputs.begin(wanted.output, prepared.record, wanted.overwrite, sidecars)
    refused = [] if text is None else with_checkpoints(wanted, prepared, text, left)
    if jax.process_index() == 0:
        finish(wanted, len(places) > 1)
    if refused:
        cli.fail(f"--guardrail={wanted.guardrail}: not written: {', '.join(refused)}")


def targets(wanted: Wanted, prepared: Prepared) -> list[Target]:
    """The checkpoints of a run, with their folders."""
    found, which = prepared.source.found, wanted.weights
    return [
        Target(
            checkpoint,
            wanted.output if len(found) == 1 else wanted.output / checkpoint.label,
            {
                "which": checkpoint.weights(which),
                "quick": checkpoint.quick(prepared.trainer, which),
            },
        )
        for checkpoint in found
    ]


def is_finished(prepared: Prepared, target: Target) -> bool:
    """Whether all samples of a checkpoint are there, as far as their sidecars tell without weights.

    A sidecar knows the checksum of the weights that it was made with, and what tells them quickly.
    """
    for job in prepared.jobs:
        name = job.request.name
        held = outputs.read_sidecar(outputs.sidecar(target.folder, name))
        if held is None or not held["weights"].items() >= target.about.items():
            return False
        made_with = fingerprint(prepared, job, held["weights"]["checksum"])
        if not outputs.finished(target.folder, name, made_with):
            return False
    for job in prepared.jobs:
        print(f"{outputs.sidecar(target.folder, job.request.name)} is there already", flush=True)
    return True


def open_text(wanted: Wanted, prepared: Prepared) -> Text:
    """Where the embeddings of all that is said come from."""
    source = prepared.source
    said = [*itertools.chain(*(captions(job) for job in prepared.jobs))]
    return build_sample.text(
        source.values, prepared.mesh, prepared.sizes, source.folder, said, wanted.text_cache
    )


def with_checkpoints(
    wanted: Wanted, prepared: Prepared, text: Text, left: Sequence[Target]
) -> list[str]:
    """Samples what is not finished; returns the samples whose frames the guardrail refuses."""
    prepared = dataclasses.replace(prepared, text=text.description)
    print(f"text     {text.description}", flush=True)
    for job in prepared.jobs:
        print(f"sample   {describe(job)}", flush=True)
    encoder: Encoder | None = None
    refused: list[str] = []
    for target in left:
        checkpoint = target.checkpoint
        with cli.user_errors():
            variables = checkpoint.load(prepared.trainer, prepared.sizes, wanted.weights)
            text.check(variables["params"])
            encoder = encoder or build_weights.encoder(prepared.source.values, prepared.mesh, text)
        checksum = stored.digest(variables)
        about = {"source": checkpoint.where, "checksum": checksum, **target.about}
        print(
            f"weights  {checkpoint.where} ({about['which']}, checksum {checksum})",
            flush=True,
        )
        refused += with_weights(wanted, prepared, encoder, variables, about, target.folder)
        del variables
    return refused


def captions(job: Job) -> tuple[str, ...]:
    """All that is said in a job."""
    return (*(view.caption for view in job.request.views), *(job.request.negative or ()))


def describe(job: Job) -> str:
    """A job in one line."""
    count = len(job.plan.starts)
    parts = f" in {count} chunks" if count > 1 else ""
    views = ", ".join(camera or "the view" for camera in job.request.cameras)
    return f"{job.request.name}: {job.plan.frames} frames{parts} of {views}"


def with_weights(
    wanted: Wanted,
    prepared: Prepared,
    encoder: Encoder,
    variables: Any,
    about: Mapping[str, Any],
    folder: Path,
) -> list[str]:
    """Samples all jobs that are not finished, and writes each as soon as it is.

    Returns those whose frames the guardrail refuses.
    """
    open_jobs, refused = [], []
    for job in prepared.jobs:
        name = job.request.name
        if outputs.finished(folder, name, fingerprint(prepared, job, about["checksum"])):
            print(f"{outputs.sidecar(folder, name)} is there already", flush=True)
        else:
            open_jobs.append(job)
    together = sampler.groups(open_jobs, wanted.batch)
    firsts = [group[0] for group in together]  # whose steps are those of their groups
    progress = Progress(folder.name, sampler.steps(firsts, prepared.generator.solver), "steps")
    run = sampler.Sampler(prepared.generator, encoder, variables, progress.add)
    written = len(prepared.jobs) - len(open_jobs)
    for group in together:
        stores = [
            KeptChunks(
                folder / f".{job.request.name}.chunks",
                fingerprint(prepared, job, about["checksum"]),
            )
            for job in group
        ]
        try:
            made = run(group, stores)
        except OSError as error:  # of files that changed since they were checked
            cli.fail(error)
        for job, store, result in zip(group, stores, made, strict=True):
            place = outputs.sidecar(folder, job.request.name)
            if jax.process_index() == 0:
                with cli.user_errors():
                    outputs.remove(place)  # another run's, of the same name
                    try:
                        write(wanted, prepared, folder, job, result, about)
                    except guardrail.RefusedError as error:
                        print(f"{place}: {error}", file=sys.stderr, flush=True)
                        refused.append(str(place))
                        continue
                    store.clear()
            written += 1
            print(f"{written}/{len(prepared.jobs)} {place}", flush=True)
    return refused


def write(
    wanted: Wanted,
    prepared: Prepared,
    folder: Path,
    job: Job,
    made: sampler.Sampled,
    weights: Mapping[str, Any],
) -> None:
    """Writes a sample's files, and how it was made."""
    request = job.request
    pixels = guardrail.check_frames(prepared.guardrail, made.pixels)
    true = job.true(range(job.plan.frames)) if job.truth else None
    files = outputs.write(
        folder,
        request.name,
        request.cameras,
        pixels,
        made.control,
        true,
        job.fps,
        request.combined,
    )
    if request.form is not None:
        files["reference"] = as_reference.write(
            *(folder, request.name, request.cameras, pixels, made.control, job.fps, request.form)
        )
    said = {
        "fingerprint": fingerprint(prepared, job, weights["checksum"]),
        "name": request.name,
        "prompt": {view.camera: view.caption.replace(APART, " ") for view in request.views},
        "negative_prompt": request.settings.negative_prompt,
        "cameras": request.cameras,
        "fps": job.fps,
        "frames": job.plan.frames,
        "size": job.config.size,
        "seed": request.settings.seed,
        "settings": dataclasses.asdict(request.settings),
        "compat": prepared.record["compat"],
        "guardrail": wanted.guardrail,
        "evaluations": made.evaluations,
        "request": request.about(),
        "weights": weights,
        "model": prepared.record["model"],
        "text": prepared.text,
        "attention": prepared.trainer.net.config.attention,
        "mesh": dict(prepared.mesh.shape),
        "versions": versions.versions(),
        "files": files,
        "boundaries": job.plan.boundaries,
    }
    if job.plan.boundaries:
        report = build.load("cosmos_jax.sampling.chunk_report:report", "chunks")
        said["chunks"] = report(job, pixels, made.control, prepared.generator.codec.temporal)
    outputs.keep(outputs.sidecar(folder, request.name), said)


def finish(wanted: Wanted, several: bool) -> None:
    """Measures the samples, where that is wanted, and writes the gallery.

    What goes wrong here costs no sample: it is said, with the command that does it again; the exit
    status is 2 where it was asked for.
    """
    steps = [("cosmos_jax.gallery.page:write_gallery", "cosmos_jax.gallery", "")]
    measured = several if wanted.metrics is None else wanted.metrics
    if measured and not outputs.is_measured(wanted.output):
        steps.insert(
            0, ("cosmos_jax.sampling.metrics:measure", "cosmos_jax.evaluate", "--generated=")
        )
    for name, module, flag in steps:
        try:
            print(build.load(name, module)(wanted.output), flush=True)
        except (ValueError, OSError) as error:
            again = f"python -m {module} {flag}{wanted.output}"
            print(f"not done: {error}; again: {again}", file=sys.stderr, flush=True)
            if wanted.metrics and flag:
                cli.fail(f"--metrics: {error}")
