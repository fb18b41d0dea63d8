import json
import pathlib
import re
import shutil
import subprocess
import sys

import browser
import generated
import pages
import pytest

from cosmos_jax.evaluate import measure, run
from cosmos_jax.gallery import metrics, page, write_gallery

ROOT = pathlib.Path(__file__).parents[1]
STEPS = ("step_000100", "step_000200")
HOSTILE = generated.HOSTILE
NAMED = "b #1 & <b>"


def number(value, real=None, reason="", **by):
    inner = {where: {"value": one, "real": real, "reason": ""} for where, one in by.items()}
    return {"value": value, "real": real, "reason": reason, "by": inner}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """An output folder of two checkpoints, three samples; tests only read it."""
    folder = tmp_path_factory.mktemp("outputs") / "out <i>&'"
    for step, psnr in zip(STEPS, (20.0, 30.0)):
        measured = {
            "psnr": number(psnr, None, "", front_wide=psnr, rear=psnr),
            "sharpness": number(psnr, 32.0),
            "cross_view_sampson": number(None, None, "fewer than 20 matches " + HOSTILE),
        }
        words = {"weights": {"source": HOSTILE, "step": step}, "metrics": measured}
        generated.write_sample(folder / step, "a", 10, prompt=HOSTILE, **words)
        generated.write_sample(folder / step, "z", 10, prompt={"front_wide": "x", "rear": ""})
    generated.write_sample(folder / STEPS[1], NAMED, 10, cameras=["eye <b>"], settings={"n": 1})
    return folder


def data_of(path):
    """The JSON of a page, read as a browser would: up to the first end of a script."""
    text = path.read_text("utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script', text, re.DOTALL)
    return json.loads(found[1], parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def sample_named(data, name):
    (found,) = [sample for sample in data["samples"] if sample["name"] == name]
    return found


@pytest.mark.core
def test_every_sample_is_on_the_page(out):
    path = write_gallery(out)
    assert path == out / "gallery.html"
    data = data_of(path)
    assert [one["step"] for one in data["checkpoints"]] == [100, 200]
    assert [sample["name"] for sample in data["samples"]] == ["a", NAMED, "z"]
    first = sample_named(data, "a")
    assert first["grid"]["rows"] == 2 and first["grid"]["cells"]["front_wide"] == [0, 1]
    assert first["prompt"] == [["", HOSTILE]]
    made = first["made"][0]
    assert made["views"]["rear"] == "step_000100/a/rear.mp4"
    assert made["control"]["rear"] == "step_000100/a/control/rear.mp4"
    assert made["links"] == [["all views", "step_000100/a_grid.mp4"]]
    assert "32x48" in first["facts"] and "seed 3" in first["facts"]
    assert "num steps 4" in first["facts"]
    assert ["weights.step", ["step_000100", "step_000200"]] in first["settings"]
    assert ["seed", ["3"]] in first["settings"]  # the same at both
    alone = sample_named(data, NAMED)
    assert alone["made"][0] is None and alone["made"][1] is not None
    assert alone["made"][1]["views"]["eye <b>"].endswith(
        "b%20%231%20%26%20%3Cb%3E/eye%20%3Cb%3E.mp4"
    )
    assert sample_named(data, "z")["prompt"] == [
        ["front_wide", "x"],
        ["", "No text for the other cameras."],
    ]


@pytest.mark.core
def test_links_are_relative_to_the_page(out, tmp_path):
    elsewhere = tmp_path / "pages" / "one.html"
    assert write_gallery(out, elsewhere) == elsewhere
    for sample in data_of(elsewhere)["samples"]:
        for made in filter(None, sample["made"]):
            assert all(link.startswith("../") for link in made["views"].values())


@pytest.mark.core
def test_metrics_of_sidecars_and_of_the_evaluation(out, tmp_path):
    data = data_of(write_gallery(out))
    rows = {row["title"]: row for row in data["summary"]["rows"]}
    assert [cell["value"] for cell in rows["PSNR"]["cells"]] == ["20", "30"]
    assert [cell["mark"] for cell in rows["PSNR"]["cells"]] == ["tied", "best"]  # of one sample
    assert rows["sharpness"]["real"] == "32"
    lacking = rows["cross-view Sampson error"]
    assert lacking["cells"][0]["value"] is None and HOSTILE in lacking["reasons"][0]
    first = sample_named(data, "a")["metrics"][0]
    assert first["title"] == "PSNR" and [row["where"] for row in first["by"]] == [
        "front_wide",
        "rear",
    ]
    assert sample_named(data, "z")["metrics"] == []
    (psnr, sharp) = data["charts"]
    assert psnr["series"][0]["points"] == [[100, 20.0], [200, 30.0]]
    assert [one["name"] for one in sharp["series"]] == ["generated", "real video"]

    copy = shutil.copytree(out, tmp_path / "copy")
    result = run.evaluate(run.Job(copy), measure.Settings(few=1), lambda line: None)
    (copy / metrics.SAVED).write_text(json.dumps(result))
    measured = sample_named(data_of(write_gallery(copy)), "z")["metrics"]
    assert {"PSNR", "SSIM", "edge F1", "seam"} <= {row["title"] for row in measured}


@pytest.mark.core
def test_one_checkpoint_is_a_plain_folder(tmp_path):
    generated.write_sample(tmp_path, "only", cameras=["view"])
    sidecar = tmp_path / "only.json"  # of a single view, which has no name
    sidecar.write_text(sidecar.read_text().replace('"view"', '""'))
    data = data_of(write_gallery(tmp_path))
    assert data["checkpoints"] == [{"name": "", "step": None}] and data["charts"] == []
    assert data["samples"][0]["grid"]["cells"] == {"view": [0, 0]}
    assert data["summary"]["rows"] == []


@pytest.mark.core
def test_no_text_of_a_sample_becomes_html(out):
    text = write_gallery(out).read_text("utf-8")
    assert "<b>" not in text and "<img" not in text
    assert text.count("<script") == text.count("</script") == 2
    assert "<title>out &lt;i&gt;&amp;&#x27; - samples</title>" in text
    assert (
        "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text
    )


@pytest.mark.core
def test_what_is_no_output_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"not an output of run_sample\.py"):
        write_gallery(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        write_gallery(tmp_path / "absent")
    assert not page.is_output(tmp_path)
    generated.write_sample(tmp_path, "a", cameras=["view"])
    assert page.is_output(tmp_path)
    with pytest.raises(ValueError, match="is a folder: name a file"):
        write_gallery(tmp_path, tmp_path)
    for text in ("{", "{}", '{"checkpoints": {"": {}}}'):
        (tmp_path / metrics.SAVED).write_text(text)
        with pytest.raises(ValueError, match=r"metrics\.json"):
            write_gallery(tmp_path)


def command(*arguments):
    argv = [sys.executable, "-m", "cosmos_jax.gallery", *map(str, arguments)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.core
def test_the_command(out, tmp_path):
    done = command(out, f"--output={tmp_path / 'x.html'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str(tmp_path / "x.html") and data_of(tmp_path / "x.html")
    for arguments, message in (
        ([], "name one folder"),
        ([out, out], "name one folder"),
        ([tmp_path], "not an output of run_sample.py"),
    ):
        done = command(*arguments)
        assert done.returncode == 2 and done.stdout == ""
        assert message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.core
def test_nothing_heavy_is_loaded():
    assert pages.loaded("gallery", {"jax", "cv2", "grain"}) == []


@pytest.mark.core
def test_the_page_s_files_are_in_the_wheel():
    packed, strings = pages.shipped("gallery")
    assert packed == {"gallery.html", "gallery.css", *page.SCRIPTS} and packed <= strings


# ---- In a browser.


@pytest.fixture(scope="module")
def tab(out):
    """The page in a browser."""
    with browser.start() as opened:
        opened.show(1280, 900)
        look(opened, out)
        yield opened


def look(tab, out):
    """Opens the page at its first sample, and waits for the videos."""
    tab.open(write_gallery(out))
    tab.run("document.querySelector('#sample-0').scrollIntoView()")
    until(tab, f"{FILMS}.length === 8 && {FILMS}.every((v) => v.readyState > 1)")


FILMS = "[...document.querySelectorAll('#sample-0 video[src]')]"


def until(tab, ready):
    tab.run(f"new Promise((d) => setInterval(() => {{ if ({ready}) d(); }}, 20))")


def wait(tab, seconds):
    tab.run(f"new Promise((done) => setTimeout(done, {1000 * seconds}))")


def slide(tab, name, value):
    tab.run(
        f"(() => {{ const c = document.querySelector('#sample-0 {name}'); c.value = {value};"
        " c.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def times(tab):
    return tab.run(f"{FILMS}.map((video) => video.currentTime)")


def click(tab, name):
    tab.run(f"document.querySelector('#sample-0 {name}').click()")


@pytest.mark.browser
def test_texts_are_shown_and_nothing_else_is_run_or_fetched(tab):
    assert tab.run("window.hacked") is None and tab.problems == []
    said = tab.run("document.querySelector('#sample-0 .prompt').textContent")
    assert said == HOSTILE
    assert tab.run("document.querySelector('#sample-1 h3').textContent") == NAMED
    assert all(url.startswith("file://") for url in tab.requests)
    assert {url.rpartition(".")[2] for url in tab.requests} == {"html", "mp4"}


@pytest.mark.browser
def test_cameras_stand_where_they_are_on_the_rig(tab):
    places = tab.run(
        "Object.fromEntries([...document.querySelector('#sample-0 .views').children].map((one) =>"
        " [one.textContent, [one.offsetTop, one.offsetLeft]]))"
    )
    row = [places[name] for name in ("cross_left", "front_wide", "cross_right")]
    assert len({top for top, _ in row}) == 1 and sorted(row) == row
    assert places["rear"][0] > row[0][0] and places["rear"][1] == row[0][1]
    sizes = tab.run(
        "[...document.querySelectorAll('#sample-0 .frame')]"
        ".map((x) => x.clientWidth / x.clientHeight)"
    )
    assert sizes == [pytest.approx(1.5, rel=0.02)] * 8


@pytest.mark.browser
def test_all_videos_of_a_sample_run_on_one_clock(tab):
    click(tab, ".play")
    wait(tab, 0.6)
    running = times(tab)
    assert min(running) > 0.1 and max(running) - min(running) < 0.06
    slide(tab, ".scrubber", 0.9)
    wait(tab, 0.25)
    sought = times(tab)
    assert max(sought) - min(sought) < 0.06
    click(tab, ".play")
    wait(tab, 0.3)
    stopped = times(tab)
    wait(tab, 0.2)
    assert times(tab) == stopped and max(stopped) - min(stopped) < 0.002
    assert tab.run("document.querySelector('#sample-0 .play').textContent") == "Play"
    slide(tab, ".scrubber", 0.5)
    wait(tab, 0.3)
    assert times(tab) == [pytest.approx(0.5, abs=0.01)] * 8


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["control", "input"])
def test_controls_and_true_videos_lie_over_the_sampled(tab, out, kind):
    def opacity():
        film = f"document.querySelector('#sample-0 video.{kind}')"
        return float(tab.run(f"getComputedStyle({film}).opacity"))

    assert opacity() == 0
    slide(tab, f"input.{kind}", 0.4)
    until(tab, f"{FILMS}.length === 16 && {FILMS}.every((v) => v.readyState > 1)")
    wait(tab, 0.3)
    assert opacity() == pytest.approx(0.4)
    now = times(tab)
    assert max(now) - min(now) < 0.002  # at the time of the others
    boxes = tab.run(
        f"['video.views', 'video.{kind}'].map((name) => JSON.stringify("
        "document.querySelector('#sample-0 ' + name).getBoundingClientRect()))"
    )
    assert boxes[0] == boxes[1]
    slide(tab, f"input.{kind}", 0)
    assert opacity() == 0
    look(tab, out)


@pytest.mark.browser
def test_checkpoints_side_by_side_and_one_camera_alone(tab):
    def heads():
        return tab.run(
            "[...document.querySelectorAll('#sample-0 .panel h4')].map((x) => x.textContent)"
        )

    assert heads() == ["step 100", "step 200"]
    tops = tab.run("[...document.querySelectorAll('#sample-0 .panel')].map((x) => x.offsetTop)")
    assert tops[0] == tops[1]
    click(tab, ".camera")
    shown = tab.run("[...document.querySelectorAll('#sample-0 .camera')].map((x) => x.textContent)")
    assert len(shown) == 2 and shown[0] == shown[1]  # one at each checkpoint
    click(tab, ".camera")
    assert tab.run(f"{FILMS}.length") == 8
    click(tab, ".checkpoints input")
    assert heads() == ["step 200"]
    click(tab, ".checkpoints input")
    assert heads() == ["step 100", "step 200"]


@pytest.mark.browser
def test_a_time_that_is_chosen_while_videos_load_is_kept(tab):
    click(tab, ".camera")
    slide(tab, ".scrubber", 0.75)
    click(tab, ".camera")
    until(tab, f"{FILMS}.length === 8 && {FILMS}.every((v) => v.readyState > 1)")
    wait(tab, 0.3)
    assert times(tab) == [pytest.approx(0.75, abs=0.01)] * 8


@pytest.mark.browser
def test_a_checkpoint_without_the_sample_cannot_be_chosen(tab):
    boxes = "[...document.querySelectorAll('#sample-1 .checkpoints input')]"
    assert tab.run(f"{boxes}.map((x) => [x.checked, x.disabled])") == [[False, True], [True, False]]


@pytest.mark.browser
def test_numbers_of_cameras_unfold(tab):
    inner = "[...document.querySelectorAll('#sample-0 .inner')].filter((x) => !x.hidden).length"
    assert tab.run(inner) == 0
    click(tab, ".unfold")
    assert tab.run(inner) == 2
    click(tab, ".unfold")
    assert tab.run(inner) == 0
    row = tab.run("document.querySelector('#metrics tbody tr').innerText")
    assert re.split(r"\s*\t\s*", row)[:3] == ["PSNR dB", "20 as good", "30 best"]


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
def test_videos_far_away_are_not_loaded_and_absent_ones_are_named(tmp_path):
    for i in range(8):
        generated.write_sample(tmp_path, f"s{i}", frames=4, boundaries=[], cameras=["view"])
    (tmp_path / "s0" / "view.mp4").unlink()
    with browser.start() as opened:
        opened.show(1280, 700)
        opened.open(write_gallery(tmp_path))
        until(opened, "document.querySelector('#sample-0 .failed-views')")
        said = opened.run("document.querySelector('#sample-0 .frame').textContent")
        assert said == "cannot be played: s0/view.mp4"
        loaded = "[...document.querySelectorAll('video.views')].map((v) => v.hasAttribute('src'))"
        assert opened.run(loaded)[-1] is False
        opened.run("document.querySelector('#sample-7').scrollIntoView()")
        until(opened, f"{loaded}.at(-1) && !{loaded}[0]")
