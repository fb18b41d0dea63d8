// The videos of a run, by step.

const EVERY = "every camera";

/** The samples section: controls, and the figures that they choose. */
class Player {
  constructor(section, data, hints) {
    Object.assign(this, { section, data, hints });
    this.steps = data.videos.map(([step]) => step);
    this.clock = new Clock((...state) => this.report(...state));
    this.build();
    this.refresh();
  }

  build() {
    const last = this.steps.length - 1;
    const kinds = [...this.data.kinds];
    const cameras = this.data.cameras.filter((camera) => kinds.includes(camera));
    if (cameras.length > 1) kinds.splice(kinds.indexOf(cameras[0]), 0, EVERY);
    this.playButton = make("button", { type: "button", id: "play", "aria-pressed": "false" }, "Play");
    this.scrubber = make("input", {
      type: "range", id: "scrubber", min: 0, max: 0, value: 0, step: 1 / (this.hints.fps || 30),
      "aria-label": "time of all videos",
    });
    this.timeText = make("output", { id: "time" });
    this.speed = choice("speed", ["0.1", "0.25", "0.5", "1", "2"], "1");
    this.clip = choice("clip", ["all clips", ...this.data.clips], "all clips");
    this.kind = choice("kind", kinds, kinds[0]);
    this.stepA = stepSlider("step-a", "step", this.steps, last);
    this.stepB = stepSlider("step-b", "and step", this.steps, 0);
    this.compare = make("input", { type: "checkbox", id: "compare" });
    this.compare.disabled = this.steps.length < 2;
    this.names = make("input", { type: "checkbox", id: "names", checked: "" });
    this.videos = make("div", { class: "videos" });
    this.section.append(
      make("div", { class: "bar" },
        named("clip", this.clip), named("show", this.kind), named("speed", this.speed),
        make("label", {}, this.names, " camera names")),
      make("div", { class: "player" },
        make("div", { class: "bar" },
          this.playButton, make("div", { class: "wide" }, this.scrubber, this.timeText)),
        make("div", { class: "bar" },
          this.stepA.element, make("label", {}, this.compare, " compare"), this.stepB.element)),
      this.videos,
    );
    this.playButton.addEventListener("click", () => {
      if (this.clock.playing) this.clock.pause(); else this.clock.play();
    });
    this.scrubber.addEventListener("input", () => this.clock.jump(Number(this.scrubber.value)));
    this.speed.addEventListener("change", () => this.clock.setSpeed(Number(this.speed.value)));
    this.names.addEventListener("change", () => this.showNames());
    for (const control of [this.clip, this.kind, this.compare]) {
      control.addEventListener("change", () => this.refresh());
    }
    for (const slider of [this.stepA, this.stepB]) {
      slider.input.addEventListener("input", () => this.refresh());
    }
  }

  report(time, length, playing) {
    this.scrubber.max = length;
    this.scrubber.value = time;
    this.scrubber.setAttribute("aria-valuetext", `${time.toFixed(2)} of ${length.toFixed(2)} seconds`);
    this.timeText.value = `${time.toFixed(2)} / ${length.toFixed(2)} s`;
    this.playButton.textContent = playing ? "Pause" : "Play";
    this.playButton.setAttribute("aria-pressed", String(playing));
  }

  /** The chosen videos of one step, by clip and kind. */
  chosen(index) {
    const wanted = this.kind.value === EVERY
      ? (video) => this.data.cameras.includes(video.kind)
      : (video) => video.kind === this.kind.value;
    const found = this.data.videos[index][1].filter((video) => {
      return wanted(video) && (this.clip.value === "all clips" || video.clip === this.clip.value);
    });
    const rank = (video) => this.data.kinds.indexOf(video.kind);
    found.sort((a, b) => (a.clip === b.clip ? rank(a) - rank(b) : a.clip < b.clip ? -1 : 1));
    return new Map(found.map((video) => [JSON.stringify([video.clip, video.kind]), video]));
  }

  refresh() {
    const compare = this.compare.checked;
    this.stepB.element.hidden = !compare;
    const indices = compare ? [this.stepA, this.stepB] : [this.stepA];
    for (const slider of [this.stepA, this.stepB]) slider.tell();
    const columns = indices.map((slider) => Number(slider.input.value));
    const sets = columns.map((index) => this.chosen(index));
    const keys = [...new Set(sets.flatMap((set) => [...set.keys()]))];
    const figures = [];
    for (const key of keys) {
      sets.forEach((set, i) => {
        figures.push(this.figure(this.steps[columns[i]], key, set.get(key)));
      });
    }
    this.videos.classList.toggle("pairs", compare);
    this.videos.replaceChildren(...figures);
    if (!figures.length) this.videos.append(make("p", { class: "empty" }, "No such video at this step."));
    this.showNames();
    this.clock.show([...this.videos.querySelectorAll("video")]);
  }

  figure(step, key, video) {
    const [clip, kind] = JSON.parse(key);
    const about = `step ${formatStep(step)}, ${clip}, ${kind}`;
    const frame = make("div", { class: "frame" });
    const caption = make("figcaption", {}, make("strong", {}, `step ${formatStep(step)}`), ` ${clip}, ${kind}`);
    if (!video) {
      frame.append(make("p", {}, "not sampled at this step"));
      return make("figure", {}, frame, caption);
    }
    const film = make("video", { preload: "auto", playsinline: "", "aria-label": about });
    film.muted = true;
    film.addEventListener("error", () => {
      if (!film.hasAttribute("src")) return;
      frame.classList.add("failed");
      frame.append(make("p", {}, `cannot be played: ${decodeURIComponent(video.href)}`));
    });
    film.src = video.href;
    frame.append(film);
    if (video.cells.length) this.addCells(frame, film, video.cells);
    return make("figure", {}, frame, caption);
  }

  /** Names over the cells of a picture of all cameras, where its shape is that of such a picture. */
  addCells(frame, film, cells) {
    const grid = make("div", { class: "cells" });
    grid.style.gridTemplate = `repeat(${cells.length}, 1fr) / repeat(${cells[0].length}, minmax(0, 1fr))`;
    for (const name of cells.flat()) grid.append(make("span", { title: name }, name));
    film.addEventListener("loadedmetadata", () => {
      const cell = (film.videoWidth / cells[0].length) / (film.videoHeight / cells.length);
      const size = this.hints.size;
      const fits = !size || Math.abs(cell / (size[1] / size[0]) - 1) < 0.03;
      if (fits) frame.append(grid);
    });
  }

  showNames() {
    for (const cells of this.videos.querySelectorAll(".cells")) cells.hidden = !this.names.checked;
  }
}

function choice(id, options, chosen) {
  const element = make("select", { id }, ...options.map((text) => make("option", {}, text)));
  options.forEach((text, i) => (element.options[i].value = text));
  element.value = chosen;
  return element;
}

function named(text, control) {
  return make("label", {}, make("span", {}, `${text} `), control);
}

/** A slider over the sampled steps. */
function stepSlider(id, text, steps, index) {
  const input = make("input", { type: "range", id, min: 0, max: steps.length - 1, value: index });
  const shown = make("output", {});
  const tell = () => {
    const step = `${formatStep(steps[Number(input.value)])}`;
    shown.value = step;
    input.setAttribute("aria-valuetext", `step ${step}`);
  };
  const label = make("label", { class: "wide" }, make("span", {}, text), input, shown);
  tell();
  return { element: label, input, tell };
}
