// A sample's videos: every camera in its place, controls laid over them, all on one clock.

const ALL = "all cameras";
const NEAR = "300px"; // beyond the window, where videos are loaded already
const FAR = "2000px"; // and where they are let go of

class Stage {
  /** `checkpoints` are the page's, in order; `sample.made` has an entry, or null, for each. */
  constructor(sample, checkpoints, number) {
    Object.assign(this, { sample, checkpoints, number, active: false });
    this.clock = new Clock((...state) => this.report(...state));
    this.has = (kind) => sample.made.some((made) => made && Object.keys(made[kind]).length);
    this.chosen = sample.made.map((made, i) => made !== null && i >= sample.made.length - 3);
    this.camera = ALL;
    this.build();
    const watch = (margin, act) => new IntersectionObserver((entries) => act(entries.at(-1).isIntersecting), {
      rootMargin: `${margin} 0px`,
    }).observe(this.element);
    watch(NEAR, (seen) => seen && this.show(true));
    watch(FAR, (seen) => seen || this.show(false));
  }

  build() {
    const id = (name) => `${name}-${this.number}`;
    this.playButton = make("button", { type: "button", class: "play", "aria-pressed": "false" }, "Play");
    this.scrubber = make("input", {
      type: "range", class: "scrubber", min: 0, max: 0, value: 0, step: 1 / (this.sample.fps || 30),
      "aria-label": `time of all videos of ${this.sample.name}`,
    });
    this.timeText = make("output", {});
    this.speed = select(["0.1", "0.25", "0.5", "1", "2"], "1");
    this.view = select([ALL, ...Object.keys(this.sample.grid.cells)], ALL);
    this.panels = make("div", { class: "panels" });
    this.controls = make("div", { class: "bar overlays" });
    for (const [kind, text] of [["control", "control over it"], ["input", "true video over it"]]) {
      if (this.has(kind)) this.controls.append(this.overlay(kind, text, id(kind)));
    }
    if (this.has("control")) {
      const mix = make("input", { type: "checkbox", class: "lines" });
      mix.addEventListener("change", () => this.panels.classList.toggle("add", mix.checked));
      this.controls.append(make("label", {}, mix, " without its black"));
    }
    const several = this.checkpoints.length > 1 ? [this.boxes()] : [];
    this.element = make(
      "div", { class: "stage" },
      make("div", { class: "bar" },
        this.playButton, make("div", { class: "wide" }, this.scrubber, this.timeText),
        label("speed", this.speed),
        ...(Object.keys(this.sample.grid.cells).length > 1 ? [label("show", this.view)] : [])),
      ...(this.controls.childNodes.length ? [this.controls] : []), ...several, this.panels,
    );
    this.playButton.addEventListener("click", () => {
      if (this.clock.playing) this.clock.pause(); else this.clock.play();
    });
    this.scrubber.addEventListener("input", () => this.clock.jump(Number(this.scrubber.value)));
    this.speed.addEventListener("change", () => this.clock.setSpeed(Number(this.speed.value)));
    this.view.addEventListener("change", () => this.look(this.view.value));
    this.render();
  }

  /** A slider of the opacity of a kind of video over the sampled one. */
  overlay(kind, text, id) {
    const slider = make("input", { type: "range", class: kind, id, min: 0, max: 1, step: 0.01, value: 0 });
    const shown = make("output", {}, "0%");
    slider.addEventListener("input", () => {
      shown.value = `${Math.round(100 * slider.value)}%`;
      this.panels.style.setProperty(`--${kind}`, slider.value);
      if (this.load()) this.clock.show(this.videos());
    });
    return make("label", { class: "wide", for: id }, make("span", {}, text), slider, shown);
  }

  boxes() {
    const bar = make("div", { class: "bar checkpoints", role: "group", "aria-label": "checkpoints" });
    this.checkpoints.forEach((checkpoint, i) => {
      const box = make("input", { type: "checkbox" });
      box.checked = this.chosen[i];
      box.disabled = this.sample.made[i] === null;
      box.addEventListener("change", () => {
        this.chosen[i] = box.checked;
        this.render();
      });
      bar.append(make("label", {}, box, ` ${title(checkpoint)}`));
    });
    return bar;
  }

  /** One camera at every chosen checkpoint, or all. */
  look(camera) {
    this.camera = camera;
    this.view.value = camera;
    this.render();
  }

  /** Draws the chosen checkpoints anew. */
  render() {
    const { rows, columns } = this.sample.grid;
    const alone = this.camera !== ALL;
    this.panels.style.setProperty("--columns", alone ? 2 : columns);
    const panels = this.sample.made.map((made, i) => {
      if (!this.chosen[i] || made === null) return null;
      const cells = make("div", { class: "views" });
      cells.style.gridTemplate = alone ? "auto / minmax(0, 1fr)"
        : `repeat(${rows}, auto) / repeat(${columns}, minmax(0, 1fr))`;
      for (const [camera, place] of Object.entries(this.sample.grid.cells)) {
        if (!alone || camera === this.camera) cells.append(this.cell(made, camera, alone ? null : place, i));
      }
      const head = this.checkpoints.length > 1 ? make("h4", {}, title(this.checkpoints[i])) : null;
      return make("div", { class: "panel" }, ...[head, cells].filter(Boolean));
    }).filter(Boolean);
    this.panels.replaceChildren(...panels);
    if (!panels.length) this.panels.append(make("p", { class: "empty" }, "No checkpoint is chosen."));
    this.load();
    this.clock.show(this.videos());
  }

  cell(made, camera, place, index) {
    const about = `${this.sample.name}, ${camera}${title(this.checkpoints[index], ", ")}`;
    const frame = make("div", { class: "frame" });
    const [height, width] = this.sample.size || [9, 16];
    frame.style.aspectRatio = `${width} / ${height}`;
    for (const kind of ["views", "control", "input"]) {
      const href = made[kind][camera];
      if (href === undefined) continue;
      const film = make("video", { class: kind, preload: "auto", playsinline: "", "data-href": href });
      if (kind === "views") film.setAttribute("aria-label", about);
      else film.setAttribute("aria-hidden", "true");
      film.muted = true;
      film.addEventListener("error", () => {
        if (!film.hasAttribute("src")) return;
        frame.classList.add(`failed-${kind}`);
        frame.append(make("p", {}, `cannot be played: ${decodeURIComponent(href)}`));
      });
      frame.append(film);
    }
    const name = make("button", { type: "button", class: "camera", title: place ? `show ${camera} alone` : ALL }, camera);
    name.addEventListener("click", () => this.look(this.camera === ALL ? camera : ALL));
    if (Object.keys(this.sample.grid.cells).length > 1) frame.append(name);
    const figure = make("figure", {}, frame);
    if (place) figure.style.gridArea = `${place[0] + 1} / ${place[1] + 1}`;
    return figure;
  }

  /** Loads the videos that are to be seen; whether there are new ones. */
  load() {
    let added = false;
    for (const film of this.panels.querySelectorAll("video:not([src])")) {
      const wanted = film.className === "views" || this.opacity(film.className) > 0;
      if (!this.active || !wanted) continue;
      film.src = film.dataset.href;
      added = true;
    }
    return added;
  }

  opacity(kind) {
    return Number(this.panels.style.getPropertyValue(`--${kind}`) || 0);
  }

  videos() {
    return [...this.panels.querySelectorAll("video[src]")];
  }

  /** Holds the videos while the sample is in sight, and lets go of them afterwards. */
  show(active) {
    if (active === this.active) return;
    this.active = active;
    if (!active) this.clock.pause();
    if (active) this.load();
    this.clock.show(active ? this.videos() : []);
  }

  report(time, length, playing) {
    this.scrubber.max = length;
    this.scrubber.value = time;
    this.scrubber.setAttribute("aria-valuetext", `${time.toFixed(2)} of ${length.toFixed(2)} seconds`);
    this.timeText.value = `${time.toFixed(2)} / ${length.toFixed(2)} s`;
    this.playButton.textContent = playing ? "Pause" : "Play";
    this.playButton.setAttribute("aria-pressed", String(playing));
  }
}

/** A checkpoint's name, as "step 1,000" where it has one; nothing for the only one. */
function title(checkpoint, before = "") {
  if (checkpoint.step !== null) return `${before}step ${formatStep(checkpoint.step)}`;
  return checkpoint.name ? before + checkpoint.name : "";
}

function select(options, chosen) {
  const element = make("select", {}, ...options.map((text) => make("option", {}, text)));
  options.forEach((text, i) => (element.options[i].value = text));
  element.value = chosen;
  return element;
}

function label(text, control) {
  return make("label", {}, make("span", {}, `${text} `), control);
}
