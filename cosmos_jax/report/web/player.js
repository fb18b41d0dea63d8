// All videos on the page run on one clock: they start together from the same time, and one that
// drifts is nudged back by its speed, or set back where it is far off.

const NUDGE = 0.015; // seconds of drift that are left alone
const JUMP = 0.25; // seconds of drift that are set back at once
const EVERY = "every camera";

class Clock {
  /** `changed(time, length, playing)` is called when one of them is another. */
  constructor(changed) {
    Object.assign(this, { changed, videos: [], time: 0, speed: 1, playing: false, turn: 0 });
  }

  get length() {
    return Math.max(0, ...this.usable().map((video) => video.duration));
  }

  usable() {
    return this.videos.filter((video) => Number.isFinite(video.duration) && !video.error);
  }

  /** Takes over other videos, at the same time and still playing where it was. */
  async show(videos) {
    for (const video of this.videos) {
      video.pause();
      video.removeAttribute("src"); // lets go of the file
      video.load();
    }
    this.videos = videos;
    const turn = ++this.turn;
    await Promise.all(videos.map((video) => known(video)));
    if (turn !== this.turn) return;
    this.time = Math.min(this.time, this.length);
    await (this.playing ? this.play() : this.seek(this.time));
  }

  /** Stops all, and puts all at one time. False where something else was asked for meanwhile. */
  async seek(time) {
    const turn = ++this.turn;
    this.time = Math.min(Math.max(time, 0), this.length);
    this.tell();
    await Promise.all(this.usable().map((video) => place(video, this.time)));
    return turn === this.turn;
  }

  async play() {
    this.playing = true;
    const from = this.time >= this.length - 0.02 ? 0 : this.time;
    if (!(await this.seek(from))) return;
    const turn = this.turn;
    const videos = this.usable();
    for (const video of videos) video.playbackRate = this.speed;
    await Promise.allSettled(videos.map((video) => video.play()));
    if (turn !== this.turn || !videos.length) return;
    const leader = videos.reduce((a, b) => (b.duration > a.duration ? b : a));
    const tick = () => {
      if (turn !== this.turn) return;
      if (leader.ended) {
        this.time = this.length;
        this.play();
        return;
      }
      this.time = leader.currentTime;
      for (const video of videos) if (video !== leader) this.align(video);
      this.tell();
      requestAnimationFrame(tick);
    };
    tick();
  }

  /** Brings a running video back to the clock's time. */
  align(video) {
    if (this.time >= video.duration || video.seeking) return;
    const ahead = video.currentTime - this.time;
    if (Math.abs(ahead) > JUMP) video.currentTime = this.time;
    const correction = Math.abs(ahead) > NUDGE ? Math.min(Math.max(ahead * 4, -0.4), 0.4) : 0;
    const rate = this.speed * (1 - correction);
    if (Math.abs(video.playbackRate - rate) > 0.01) video.playbackRate = rate;
  }

  async pause() {
    this.playing = false;
    await this.seek(this.time);
  }

  async setSpeed(speed) {
    this.speed = speed;
    if (this.playing) await this.play();
  }

  async jump(time) {
    this.time = time;
    await (this.playing ? this.play() : this.seek(time));
  }

  tell() {
    this.changed(this.time, this.length, this.playing);
  }
}

/** Waits until a video's length is known, or known not to be. */
function known(video) {
  if (video.readyState >= 1 || video.error) return Promise.resolve();
  return new Promise((done) => {
    video.addEventListener("loadedmetadata", done, { once: true });
    video.addEventListener("error", done, { once: true });
    video.addEventListener("emptied", done, { once: true });
  });
}

/** Stops a video at a time, and waits until it is there. */
function place(video, time) {
  video.pause();
  const wanted = Math.min(time, Math.max(video.duration - 0.001, 0));
  if (!video.seeking && Math.abs(video.currentTime - wanted) < 0.001) return Promise.resolve();
  return new Promise((done) => {
    for (const name of ["seeked", "error", "emptied"]) {
      video.addEventListener(name, done, { once: true });
    }
    video.currentTime = wanted;
  });
}

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
