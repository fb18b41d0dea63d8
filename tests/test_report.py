import itertools
import json
import math
import pathlib
import re
import subprocess
import sys

import browser
import numpy as np
import pages
import pytest

from cosmos_jax import metrics, workdir
from cosmos_jax.data import video_writer
from cosmos_jax.report import charts, log, page, samples, write_report

ROOT = pathlib.Path(__file__).parents[1]
CAMERAS = ["left", "front #1 & <b>"]
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
CONFIG = {
    "steps": 60,
    "init_from": HOSTILE,
    "codec": {"kind": "a:B", "weights": "random"},
    "data": {"root": "clips", "fps": 10.0, "size": [32, 48]},
    "note": math.inf,
}


def write_config(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"config": CONFIG | changes, "cameras": [[name, i] for i, name in enumerate(CAMERAS)]}
    kept["versions"] = {"jax": "0.10.2"}
    (folder / "config.json").write_text(json.dumps(kept))


def rows():
    """60 steps, resumed at 40, validated every 20, with a gap and names that nobody knows."""
    yield {"step": 0, "seconds_to_first_step": 12.5}
    for step in range(1, 61):
        if step == 41:
            yield {"step": 40, "seconds_to_first_step": 7.5}
        seconds = {f"seconds/{part}": 1.0 + i for i, part in enumerate(metrics.PARTS)}
        yield {
            "step": step,
            "loss": None if step == 30 else 2 / step,
            "grad_norm": 1.0 + step % 3,
            "lr": 1e-4,
            "tokens_per_second": 1e4,
            "model_tflops": 400.0,
            "seconds_per_step": 8.0,
            "data_wait_fraction": 0.01,
            "encode_fraction": 0.02,
            "peak_memory_gib": 70.0,
            "peak_host_memory_gib": 20.0,
            "loader_samples_per_second": 3.0,
            "loader_wait_seconds": 0.1,
            HOSTILE: 1.0,
            **seconds,
        }
        if step % 20 == 0:
            gap = {"val/control_gap": 0.2, "val/control_gap_stderr": 0.05}
            bands = {f"val/loss/band/{i}": 1.0 + i for i in range(11)}
            views = {f"val/loss/view/{name}": 1.5 for name in CAMERAS}
            yield {"step": step, "val/loss": 1.0 + 1 / step, **gap, **bands, **views}


def write_metrics(folder, lines, end=""):
    text = "".join(json.dumps(row) + "\n" for row in lines)
    (folder / "metrics.jsonl").write_text(text + end)


def write_samples(folder, steps=(20, 60), frames=15):
    noise = np.random.default_rng(0)
    for step in steps:
        place = folder / "samples" / f"step_{step:06d}"
        for camera in CAMERAS:
            pixels = noise.integers(0, 255, (frames, 32, 48, 3), np.uint8)
            video_writer.write_video(place / "sample_00" / f"{camera}.mp4", pixels, 10.0)
        for kind, parts in (("grid", 1), ("control", 1), ("compare", 3)):
            pixels = noise.integers(0, 255, (frames, 32 * parts, 96, 3), np.uint8)
            video_writer.write_video(place / f"sample_00_{kind}.mp4", pixels, 10.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir with everything in it, whose last line of metrics is cut; tests only read it."""
    folder = tmp_path_factory.mktemp("runs") / "a <b>&'run"
    write_config(folder)
    write_metrics(folder, rows(), end='{"step": 61, "lo')
    write_samples(folder)
    return folder


def data_of(path):
    """The JSON of a page, read as a browser would: up to the first end of a script."""
    text = path.read_text("utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script', text, re.DOTALL)
    return json.loads(found[1], parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def series_of(data):
    return {one["name"]: one for chart in data["charts"] for one in chart.get("series", [])}


def chart_named(data, title):
    (found,) = [chart for chart in data["charts"] if chart["title"] == title]
    return found


@pytest.mark.core
def test_every_number_of_the_run_is_on_the_page(run):
    data = data_of(write_report(run))
    drawn = series_of(data)
    split = chart_named(data, "Where the time goes")
    named = set().union(*rows()) - {"step", "seconds_to_first_step", "val/control_gap_stderr"}
    parts = {f"seconds/{part}" for part in split["parts"]}
    assert named == parts | {name for name in drawn if not drawn[name].get("smooth")}
    expected = [[row["step"], row["loss"]] for row in rows() if "loss" in row]
    assert [s for s, _ in drawn["loss"]["points"]] == [s for s, _ in expected]
    for (_, shown), (_, value) in zip(drawn["loss"]["points"], expected):
        assert shown == (None if value is None else pytest.approx(value, rel=1e-5))
    assert drawn["loss"]["missing"] == 1 and drawn["loss"]["count"] == 60
    assert drawn["val/control_gap"]["points"] == [[20, 0.2, 0.05], [40, 0.2, 0.05], [60, 0.2, 0.05]]
    assert split["totals"] == [180.0, 120.0, 60.0, 240.0, 300.0]  # step, encode, data_wait, ...
    assert data["starts"] == [[0, 12.5], [40, 7.5]]
    assert ["jax", "0.10.2"] in [[k.removeprefix("versions."), v] for k, v in data["about"]]
    assert ["init_from", HOSTILE] in data["read"] and ["note", "Infinity"] in data["config"]
    assert any("cut short" in note for note in data["notes"])
    assert any("loss is not a finite number 1 times, first at step 30" in n for n in data["notes"])


@pytest.mark.core
def test_names_share_charts_by_what_they_are():
    def title(name):
        return charts.chart_of(name)[1]

    assert title("val/loss/view/front") == title("val/loss/view/back") == "Validation loss by view"
    assert title("val/loss/noise_band/2") == "Validation loss by noise_band"
    assert title("val/loss_by_view/front") == "Validation loss by view"
    assert title("val/loss") == "Validation loss" != title("val/loss_ema")
    assert title("val/control_gap") == "Control gap"
    assert title("loss/frame/3") == "Training loss by frame"
    assert title("lr/control") == "Learning rate"
    assert title("straggler/host_1") == title("straggler/host_2") == "straggler"
    assert title("brand_new") == "brand_new"
    assert charts.chart_of("val/new")[0].section == "Validation"


@pytest.mark.core
def test_bands_are_in_the_order_of_their_numbers(run):
    data = data_of(write_report(run))
    names = [one["name"] for one in chart_named(data, "Validation loss by band")["series"]]
    assert names == [f"val/loss/band/{i}" for i in range(11)]


@pytest.mark.core
def test_no_text_of_the_run_becomes_html(run):
    text = write_report(run).read_text("utf-8")
    assert "<b>" not in text and "<img" not in text and "window.hacked = 1</" not in text
    assert text.count("<script") == text.count("</script") == 2
    assert "<title>a &lt;b&gt;&amp;&#x27;run - run report</title>" in text
    assert (
        "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text
    )


@pytest.mark.core
@pytest.mark.parametrize("count", [1, 2, 3, 1000, 1001, 5000, 300_000])
def test_thinned_values_keep_every_bucket_s_extremes(count):
    values = np.random.default_rng(count).normal(size=count)
    values[count // 2] = 1e6
    kept = log.thin(values)
    assert kept[0] == 0 and kept[-1] == count - 1 and (np.diff(kept) > 0).all()
    assert len(kept) <= 4.5 * log.BUCKETS + 2
    assert len(kept) == count or count > 2 * log.BUCKETS
    assert count // 2 in kept
    if count > 2 * log.BUCKETS:
        bounds = log.edges(count, log.BUCKETS)
        assert bounds[0] == 0 and bounds[-1] == count
        for begin, end in itertools.pairwise(bounds):
            inside = values[kept[(kept >= begin) & (kept < end)]]
            assert inside.min() == values[begin:end].min()
            assert inside.max() == values[begin:end].max()
        assert (np.diff(bounds)[:100] == 1).mean() > 0.2  # a logarithmic axis has its first steps


@pytest.mark.core
def test_thinned_values_keep_gaps():
    values = np.ones(10_000)
    values[[1234, 7000]] = np.nan
    kept = log.thin(values)
    assert {1234, 7000} <= set(kept.tolist())
    assert len(log.thin(np.full(5000, np.nan))) > 100  # nothing but gaps


@pytest.mark.core
def test_the_smoothed_curve_is_a_mean_without_a_pull_to_zero():
    curve = log.Curve(np.arange(5), np.array([4.0, 4.0, np.nan, 4.0, 8.0]))
    smooth = log.smoothed(curve, window=2)
    assert smooth.steps.tolist() == [0, 1, 3, 4]
    assert smooth.values[:3] == pytest.approx(4.0) and smooth.values[3] == pytest.approx(92 / 15)


@pytest.mark.core
def test_shares_of_time_lose_nothing_to_thinning():
    steps = np.arange(1, 5001)
    seconds = np.random.default_rng(0).uniform(size=(2, 5000))
    made = charts.charts(
        {
            "seconds/step": log.Curve(steps, seconds[0]),
            "seconds/new": log.Curve(steps[::2], seconds[1, ::2]),
        }
    )[0]
    assert made["parts"] == ["step", "new"] and len(made["bars"]) == charts.SPANS
    total = np.sum([bar[2] for bar in made["bars"]], axis=0)
    assert total == pytest.approx([seconds[0].sum(), seconds[1, ::2].sum()], rel=1e-5)
    assert all(a[1] == b[0] for a, b in zip(made["bars"], made["bars"][1:]))


@pytest.mark.core
def test_a_damaged_log_is_read_as_far_as_it_goes(tmp_path):
    lines = [
        b'{"step": 1, "loss": 1.0}',
        b'{"step": 2, "loss": NaN, "lr": Infinity}',
        b"\x00\xff\x00",
        b"[1, 2]",
        b'{"loss": 5.0}',
        b'{"step": -1, "loss": 5.0}',
        b'{"step": 3, "loss": "low"}',
        b'{"step": 3, "loss": true}',
        b'{"step": 3, "loss": 1' + b"0" * 400 + b"}",
        b'{"step": 1, "loss": 9.0}',
        b'{"step": 4, "loss": 4}',
    ]
    (tmp_path / "m").write_bytes(b"\n".join(lines) + b"\n" + b'{"step": 5')
    held = log.read(tmp_path / "m")
    assert held.bad == [3, 4, 5, 6, 7, 8, 9] and held.cut and held.lines == 4
    assert held.curves["loss"].steps.tolist() == [1, 2, 4]
    np.testing.assert_array_equal(held.curves["loss"].values, [9.0, np.nan, 4.0])
    (tmp_path / "m").write_bytes(b'{"step": 5, "loss": 1.0}')  # whole, but for the end of the line
    assert not log.read(tmp_path / "m").cut and log.read(tmp_path / "m").lines == 1


@pytest.mark.core
def test_a_long_run_makes_a_small_page(tmp_path):
    write_config(tmp_path)
    lines = ({"step": i, "loss": math.sin(i), "grad_norm": i % 7} for i in range(1, 50_001))
    write_metrics(tmp_path, lines)
    path = write_report(tmp_path)
    assert path.stat().st_size < 400_000
    loss = series_of(data_of(path))["loss"]
    assert loss["count"] == 50_000 and loss["low"][1] == pytest.approx(-1, abs=1e-5)


@pytest.mark.core
def test_what_is_missing_is_said(tmp_path):
    write_config(tmp_path)
    data = data_of(write_report(tmp_path))
    assert data["charts"] == [] and data["samples"]["videos"] == [] and data["starts"] == []
    assert data["notes"] == ["No metrics yet: the run has not written a line."]
    (tmp_path / "metrics.jsonl").write_text("")
    assert data_of(write_report(tmp_path))["notes"] == data["notes"]


@pytest.mark.core
def test_samples_are_told_apart_by_step_clip_and_kind(tmp_path):
    folder = tmp_path / "samples"
    names = [
        "step_000100/sample_00/left.mp4",
        "step_000100/sample_00_grid.mp4",
        "step_000100/sample_00_ema/left.mp4",
        "step_000100/sample_00_ema_grid.mp4",
        "step_000100/ema/sample_00/left.mp4",
        "step_000100/ema/sample_00_compare.mp4",
        "step_000020/alone.mp4",
        "step_2000000/sample_00/left.mp4",
        "step_x/sample_00/left.mp4",
        "other/left.mp4",
        "step_000100/sample_00/notes.txt",
    ]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    found = [(one.step, one.clip, one.kind) for one in samples.find(tmp_path)]
    assert found == [
        (20, "alone", "video"),
        (100, "ema/sample_00", "compare"),
        (100, "ema/sample_00", "left"),
        (100, "sample_00", "grid"),
        (100, "sample_00", "left"),
        (100, "sample_00_ema", "grid"),
        (100, "sample_00_ema", "left"),
        (2000000, "sample_00", "left"),
    ]
    labelled = {"right", "compare_ema", "grid", "compare_regular"}
    assert samples.order(labelled, ["right"])[:2] == ["compare_ema", "compare_regular"]
    assert samples.labels("compare_ema", labelled, ["right"]) == []
    assert samples.order({"b", "grid", "right", "left", "compare"}, ["right", "left"]) == [
        "compare", "grid", "right", "left", "b"
    ]  # fmt: skip


@pytest.mark.core
def test_labels_follow_the_grid():
    cameras = ["a", "b", "c", "d", "e"]
    kinds = {*cameras, "control", "compare", "grid"}
    assert samples.labels("grid", kinds, cameras) == [["a", "b", "c"], ["d", "e", ""]]
    assert samples.labels("a", kinds, cameras) == []
    assert samples.labels("grid", {"grid", "b", "d"}, cameras) == [["b", "d"]]
    stacked = samples.labels("compare", kinds, cameras)
    assert stacked[1] == ["d (true)", "e (true)", ""] and stacked[4][0] == "a (sampled)"
    assert len(samples.labels("compare", kinds - {"control"}, cameras)) == 4


@pytest.mark.core
def test_links_are_relative_to_the_page(run, tmp_path):
    def links(path):
        steps = data_of(path)["samples"]["videos"]
        return [video["href"] for _, videos in steps for video in videos]

    inside = links(write_report(run))
    assert "samples/step_000020/sample_00/front%20%231%20%26%20%3Cb%3E.mp4" in inside
    elsewhere = tmp_path / "pages" / "one.html"
    assert write_report(run, elsewhere) == elsewhere
    assert len(links(elsewhere)) == len(inside) == 10
    assert all(link.startswith("../") for link in links(elsewhere))


@pytest.mark.core
def test_names_of_files_are_those_of_the_run():
    assert page.METRICS_FILE == metrics.FILE and page.CONFIG_FILE == workdir.CONFIG_FILE
    assert set(charts.PARTS) == set(metrics.PARTS)


@pytest.mark.core
@pytest.mark.parametrize("text", ["", "[]", "{}", '{"config": {"steps": 1}}', '{"config": 1}'])
def test_a_damaged_config_is_a_value_error(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is not the config of a run"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def command(*arguments):
    argv = [sys.executable, "-m", "cosmos_jax.report", *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.core
def test_the_command_writes_where_it_is_told(run, tmp_path):
    done = command(f"--workdir={run}", f"--output={tmp_path / 'x.html'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str(tmp_path / "x.html")
    assert data_of(tmp_path / "x.html")["name"] == run.name


@pytest.mark.core
def test_the_command_refuses_in_one_line(run, tmp_path):
    for arguments, message in (
        ([f"--workdir={tmp_path}"], "has no config.json: it is not a workdir of run_train.py"),
        ([f"--workdir={tmp_path / 'nowhere'}"], "has no config.json"),
        ([f"--workdir={run}", f"--output={tmp_path}"], "is a folder: name a file"),
        ([], "--workdir is missing"),
        (["--workdir=x", "y"], "unexpected argument 'y'"),
    ):
        done = command(*arguments)
        assert done.returncode == 2 and done.stdout == ""
        assert message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.core
def test_nothing_heavy_is_loaded():
    assert pages.loaded("report", {"jax", "flax", "grain"}) == []


@pytest.mark.core
def test_the_page_s_files_are_in_the_wheel():
    packed, strings = pages.shipped("report")
    assert packed == {"page.html", "page.css", *page.SCRIPTS} and packed <= strings


# ---- In a browser.


@pytest.fixture(scope="module")
def tab(run):
    """The page of the run in a browser."""
    with browser.start() as opened:
        opened.show(1280, 900)
        opened.open(write_report(run))
        ready = "[...document.querySelectorAll('video')].every((v) => v.readyState > 1)"
        opened.run(f"new Promise((d) => setInterval(() => {{ if ({ready}) d(); }}, 20))")
        yield opened


def set_control(tab, name, value):
    tab.run(
        f"(() => {{ const c = document.querySelector({name!r}); c.value = {json.dumps(value)};"
        " c.dispatchEvent(new Event('input', {bubbles: true}));"
        " c.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )


def side_by_side(tab):
    tab.run("(() => { const c = document.querySelector('#compare'); c.checked || c.click(); })()")


def wait(tab, seconds):
    tab.run(f"new Promise((done) => setTimeout(done, {1000 * seconds}))")


def times(tab):
    return tab.run("[...document.querySelectorAll('video')].map((video) => video.currentTime)")


@pytest.mark.browser
def test_the_page_shows_all_and_fetches_nothing_but_videos(tab):
    assert tab.problems == []
    assert tab.run("typeof window.hacked") == "undefined"
    assert tab.run("document.querySelector('h1').textContent") == "a <b>&'run"
    titles = tab.run("[...document.querySelectorAll('h4')].map((one) => one.firstChild.data)")
    assert {"Training loss", "Validation loss by band", "Control gap"} <= set(titles)
    assert HOSTILE in tab.run(
        "[...document.querySelectorAll('.legend')].map((x) => x.innerText)+''"
    )
    assert tab.run("document.querySelectorAll('.chart svg').length") == len(titles)
    assert tab.run("document.querySelector('.chart svg').querySelectorAll('.resume').length") == 1
    assert tab.run("document.querySelector('.chart svg').querySelectorAll('.missing').length") == 1
    assert all(url.startswith("file://") for url in tab.requests)
    assert {url.rpartition(".")[2] for url in tab.requests} == {"html", "mp4"}


@pytest.mark.browser
def test_cells_carry_their_cameras(tab):
    words = tab.run("[...document.querySelectorAll('.cells span')].map((one) => one.textContent)")
    assert words[:3] == [f"{CAMERAS[0]} (true)", f"{CAMERAS[1]} (true)", f"{CAMERAS[0]} (control)"]


@pytest.mark.browser
def test_all_videos_run_on_one_clock(tab):
    set_control(tab, "#kind", "every camera")
    tab.run(
        "document.querySelector('#compare').checked || document.querySelector('#compare').click()"
    )
    wait(tab, 0.5)
    assert len(times(tab)) == 4
    tab.run("document.querySelector('#play').click()")
    wait(tab, 0.6)
    running = times(tab)
    assert min(running) > 0.1 and max(running) - min(running) < 0.05
    set_control(tab, "#scrubber", 0.9)
    wait(tab, 0.25)
    sought = times(tab)
    assert min(sought) > 0.9 and max(sought) - min(sought) < 0.05
    tab.run("document.querySelector('#play').click()")
    wait(tab, 0.3)
    stopped = times(tab)
    wait(tab, 0.2)
    assert times(tab) == stopped and max(stopped) - min(stopped) < 0.002
    assert tab.run("document.querySelector('#play').textContent") == "Play"


@pytest.mark.browser
def test_two_steps_stand_side_by_side(tab):
    set_control(tab, "#kind", "grid")
    set_control(tab, "#step-a", 0)
    set_control(tab, "#step-b", 1)
    tab.run(
        "document.querySelector('#compare').checked || document.querySelector('#compare').click()"
    )
    heads = tab.run("[...document.querySelectorAll('figcaption strong')].map((x) => x.textContent)")
    assert heads == ["step 20", "step 60"]
    tops = tab.run("[...document.querySelectorAll('figure')].map((x) => x.offsetTop)")
    assert tops[0] == tops[1]


@pytest.mark.browser
def test_values_are_read_by_mouse_and_by_keys(tab):
    tab.run("document.querySelector('.plot').scrollIntoView({block: 'center'})")
    left, top, width = tab.run(
        "(() => { const b = document.querySelector('.plot').getBoundingClientRect();"
        " return [b.left, b.top, b.width]; })()"
    )
    tab.move(left + 54, top + 50)  # the left end of the axis: step 0, whose nearest is 1
    shown = tab.run("document.querySelector('.readout').textContent")
    assert shown.startswith("step 1loss: 2")
    tab.move(left + width / 2, top + 5000)
    tab.run("document.querySelector('.plot').focus()")
    tab.press("Home")
    tab.press("ArrowRight")
    assert tab.run("document.querySelector('.plot').getAttribute('aria-valuetext')").startswith(
        "step 2; loss: 1;"
    )


@pytest.mark.browser
def test_axes_change_all_charts(tab):
    def path():
        return tab.run("document.querySelector('.curve').getAttribute('d')")

    linear = path()
    tab.run("document.querySelector('input[name=x][value=log]').click()")
    logarithmic = path()
    tab.run("document.querySelector('input[name=x][value=linear]').click()")
    assert logarithmic != linear == path()
    assert linear.count("M") == 2  # broken at the value that is missing
    assert "NaN" not in linear + logarithmic


@pytest.mark.browser
def test_the_keyboard_reaches_the_player(tab):
    tab.run("document.querySelector('#play').focus()")
    tab.press(" ")
    wait(tab, 0.2)
    assert tab.run("document.querySelector('#play').textContent") == "Pause"
    tab.press(" ")
    wait(tab, 0.2)
    assert tab.run("document.querySelector('#play').textContent") == "Play"


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_the_window_and_can_be_read(tab, width, dark):
    tab.show(width, 800, dark)
    assert tab.run("document.documentElement.scrollWidth") <= width
    back, text = tab.run(
        "(() => { const style = getComputedStyle(document.body);"
        " return [style.backgroundColor, style.color]; })()"
    )
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (back, text)]
    assert (light[0] < light[1]) == dark and abs(light[0] - light[1]) > 450


@pytest.mark.browser
def test_an_empty_run_says_so(tmp_path):
    write_config(tmp_path)
    with browser.start() as opened:
        opened.open(write_report(tmp_path))
        said = opened.run("document.body.innerText")
        assert opened.problems == []
    for words in ("No samples yet", "No curves yet", "No metrics yet", "No start is on record"):
        assert words in said
