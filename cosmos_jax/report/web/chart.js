// Charts as SVG. A value is never invented: lines join points of the data and break where one is
// missing; what was left out of the data is said below the chart.

"use strict";

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 54, right: 12, top: 8, bottom: 22 };
const COLOURS = 8;
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];

/** An element with attributes and children; texts are set as text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  return fill(element, attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

function format(value) {
  if (value === null || value === undefined) return "not finite";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(3).replace(/\.?0+e/, "e");
  return value.toLocaleString("en", { maximumSignificantDigits: 5 });
}

function formatStep(step) {
  return step.toLocaleString("en");
}

/** Ticks of a linear axis: about `count` round numbers within low..high. */
function roundTicks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
  return ticks;
}

/** Ticks of a logarithmic axis: powers of ten, with 2 and 5 between where there are few. */
function powerTicks(low, high) {
  const ticks = [];
  const between = Math.log10(high / low) < 3 ? [1, 2, 5] : [1];
  const stride = Math.max(1, Math.ceil(Math.log10(high / low) / 8));
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e += stride) {
    for (const factor of between) {
      const tick = factor * 10 ** e;
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  }
  return ticks.length > 1 ? ticks : [low, high];
}

/** A scale of steps: linear, or logarithmic in 1 + step so that step 0 has a place. */
function stepScale(kind, first, last, width) {
  const place = kind === "log" ? (step) => Math.log10(1 + step) : (step) => step;
  const low = place(first), high = place(last);
  const to = (step) => (high > low ? ((place(step) - low) / (high - low)) * width : width / 2);
  const count = Math.max(2, Math.floor(width / 60));
  const ticks = kind === "log" && last > first
    ? powerTicks(Math.max(first, 1), Math.max(last, 2))
    : roundTicks(first, last, count).filter(Number.isInteger);
  return { to, ticks: ticks.length ? ticks : [first] };
}

/** A scale of values; logarithmic only where all of them are above 0. */
function valueScale(kind, low, high, height) {
  if (kind === "log" && low > 0) {
    if (low === high) [low, high] = [low / 2, high * 2];
    const span = Math.log10(high / low);
    const powers = powerTicks(low, high);
    const inside = roundTicks(low, high, 5).filter((tick) => tick >= low);
    const ticks = powers.length > 2 ? powers : inside;
    return { to: (v) => height * (1 - Math.log10(v / low) / span), ticks };
  }
  if (low === high) {
    const around = Math.abs(low) / 2 || 1;
    [low, high] = [low - around, high + around];
  }
  const room = (high - low) * 0.04;
  [low, high] = [low - room, high + room];
  return { to: (v) => height * (1 - (v - low) / (high - low)), ticks: roundTicks(low, high, 5) };
}

/** Index of the entry of a sorted list that is nearest to a number. */
function nearest(sorted, wanted) {
  let low = 0, high = sorted.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < wanted) low = middle; else high = middle;
  }
  return Math.abs(sorted[high] - wanted) < Math.abs(sorted[low] - wanted) ? high : low;
}

class Chart {
  /** `run`: first and last step of all charts, and the steps that the run was resumed at. */
  constructor(data, axes, run) {
    Object.assign(this, { data, axes, run, hidden: new Set(), at: null });
    this.bars = data.bars !== undefined;
    if (this.bars) this.steps = data.bars.map((bar) => bar[1]);
    else {
      const all = new Set(data.series.flatMap((one) => one.points.map((point) => point[0])));
      this.steps = [...all].sort((a, b) => a - b);
      for (const one of data.series) one.steps = one.points.map((point) => point[0]);
    }
    this.build();
    new ResizeObserver(() => this.render()).observe(this.plot);
  }

  build() {
    const { data } = this;
    const unit = data.unit ? make("span", { class: "unit" }, ` ${data.unit}`) : null;
    this.plot = make("div", {
      class: "plot", tabindex: 0, role: "slider", "aria-label": `${data.title}, step`,
      "aria-valuemin": this.steps[0], "aria-valuemax": this.steps.at(-1),
      "aria-valuenow": this.steps.at(-1),
    });
    this.readout = make("div", { class: "readout", hidden: "" });
    const notes = this.bars ? [] : this.notes();
    this.element = make(
      "div", { class: "chart" }, make("h4", {}, data.title, unit), this.plot, this.legend(),
      ...notes.map((note) => make("p", { class: "small" }, note)),
    );
    this.plot.addEventListener("pointermove", (event) => this.follow(event));
    this.plot.addEventListener("pointerdown", (event) => this.follow(event));
    this.plot.addEventListener("pointerleave", () => this.point(null));
    this.plot.addEventListener("blur", () => this.point(null));
    this.plot.addEventListener("keydown", (event) => this.key(event));
  }

  colour(index) {
    return `var(--c${index % COLOURS})`;
  }

  /** Position among the chart's colours: a smoothed curve has that of its raw one. */
  place(index) {
    if (this.bars) return index;
    return this.data.series.slice(0, index + 1).filter((one) => !one.smooth).length - 1;
  }

  faint(index) {
    return !this.bars && Boolean(this.data.series[index + 1]?.smooth);
  }

  legend() {
    const legend = make("div", { class: "legend" });
    const all = this.bars ? this.data.parts : this.data.series;
    const total = this.bars ? this.data.totals.reduce((a, b) => a + b, 0) : 0;
    all.forEach((one, i) => {
      const name = this.bars ? one : one.name;
      const value = this.bars
        ? `${format(this.data.totals[i])} s (${((100 * this.data.totals[i]) / (total || 1)).toFixed(1)}%)`
        : one.low ? `last ${format(one.last)}, ${format(one.low[1])} to ${format(one.high[1])}` : "none";
      const entry = make(
        this.bars ? "span" : "button", { class: this.bars ? "key" : "" },
        this.swatch(i), make("span", {}, name), make("span", { class: "value" }, value),
      );
      if (!this.bars) {
        entry.type = "button";
        entry.setAttribute("aria-pressed", "true");
        entry.addEventListener("click", () => {
          const shown = this.hidden.delete(i) || !this.hidden.add(i);
          entry.setAttribute("aria-pressed", String(shown));
          this.render();
        });
      }
      legend.append(entry);
    });
    return legend;
  }

  swatch(index) {
    const swatch = make("span", { class: this.faint(index) ? "swatch faint" : "swatch" });
    swatch.style.borderTopColor = this.colour(this.place(index));
    if (this.place(index) >= COLOURS) swatch.style.borderTopStyle = "dashed";
    return swatch;
  }

  notes() {
    const notes = [];
    const thinned = this.data.series.filter((one) => one.points.length < one.count);
    if (thinned.length) {
      const most = thinned.reduce((a, b) => (a.count > b.count ? a : b));
      notes.push(
        `Drawn: ${formatStep(most.points.length)} of ${formatStep(most.count)} values, ` +
        "the lowest and the highest of each bucket of steps.",
      );
    }
    const missing = this.data.series.reduce((sum, one) => sum + (one.missing || 0), 0);
    if (missing) notes.push(`${formatStep(missing)} values are not finite (red ticks below).`);
    if (this.data.series.some((one) => one.points.some((point) => point.length > 2))) {
      notes.push("Shaded: one standard error on each side.");
    }
    return notes;
  }

  shown() {
    return this.data.series.map((one, i) => [one, i]).filter(([, i]) => !this.hidden.has(i));
  }

  domain() {
    if (this.bars) return [0, 1];
    let low = Infinity, high = -Infinity;
    for (const [one] of this.shown()) {
      for (const [, value, error] of one.points) {
        if (value === null) continue;
        low = Math.min(low, value - (error || 0));
        high = Math.max(high, value + (error || 0));
      }
    }
    return low > high ? [0, 1] : [low, high];
  }

  render() {
    const box = this.plot.getBoundingClientRect();
    if (!box.width) return;
    const width = box.width - MARGIN.left - MARGIN.right;
    const height = box.height - MARGIN.top - MARGIN.bottom;
    this.x = stepScale(this.axes.x, this.run.first, this.run.last, width);
    this.y = this.bars
      ? { to: (v) => height * (1 - v), ticks: [0, 0.25, 0.5, 0.75, 1] }
      : valueScale(this.axes.y, ...this.domain(), height);
    const area = draw("g", { transform: `translate(${MARGIN.left} ${MARGIN.top})` });
    this.grid(area, width, height);
    if (this.bars) this.drawBars(area, height);
    else for (const [one, i] of this.shown()) this.drawSeries(area, one, i, height);
    for (const step of this.run.resumed) {
      const x = this.x.to(step);
      const title = draw("title", {}, `resumed at step ${formatStep(step)}`);
      area.append(draw("line", { class: "resume", x1: x, x2: x, y1: 0, y2: height }, title));
    }
    this.cursor = draw("line", { class: "cursor", y1: 0, y2: height, visibility: "hidden" });
    area.append(this.cursor);
    const svg = draw("svg", { "aria-hidden": "true" }, area);
    this.plot.replaceChildren(svg, this.readout);
    this.point(this.at);
  }

  grid(area, width, height) {
    for (const tick of this.y.ticks) {
      const y = this.y.to(tick);
      const text = this.bars ? `${100 * tick}%` : format(Number(tick.toPrecision(6)));
      area.append(
        draw("line", { class: "grid", x1: 0, x2: width, y1: y, y2: y }),
        draw("text", { x: -6, y: y + 4, "text-anchor": "end" }, text),
      );
    }
    for (const tick of this.x.ticks) {
      const x = this.x.to(tick);
      if (x < -1 || x > width + 1) continue;
      const anchor = x > width - 16 ? "end" : x < 10 ? "start" : "middle";
      const text = draw("text", { x, y: height + 16, "text-anchor": anchor }, formatStep(tick));
      area.append(draw("line", { class: "grid", x1: x, x2: x, y1: height, y2: height + 4 }), text);
    }
  }

  drawBars(area, height) {
    for (const [from, to, seconds] of this.data.bars) {
      const total = seconds.reduce((a, b) => a + b, 0);
      const left = this.x.to(Math.max(from, this.run.first));
      let y = height;
      seconds.forEach((part, i) => {
        const size = total ? (part / total) * height : 0;
        y -= size;
        const width = Math.max(this.x.to(to) - left, 1);
        area.append(draw("rect", { x: left, y, width, height: size, fill: this.colour(i) }));
      });
    }
  }

  drawSeries(area, one, index, height) {
    const place = this.place(index);
    const style = `stroke: ${this.colour(place)}; fill: ${this.colour(place)}`;
    let path = "", pen = "M", lone = [], run = 0;
    const band = [];
    const close = (at) => {
      if (run === 1) lone.push(at);
      run = 0;
      pen = "M";
    };
    let before = null;
    for (const [step, value, error] of one.points) {
      if (value === null) {
        close(before);
        const x = this.x.to(step);
        const title = draw("title", {}, `${one.name} is not finite at step ${formatStep(step)}`);
        area.append(draw("line", { class: "missing", x1: x, x2: x, y1: height - 8, y2: height }, title));
        continue;
      }
      const at = [this.x.to(step), this.y.to(value)];
      path += `${pen}${at[0].toFixed(2)} ${at[1].toFixed(2)}`;
      pen = "L";
      run += 1;
      before = at;
      if (error != null) band.push([at[0], this.y.to(value + error), this.y.to(value - error)]);
    }
    close(before);
    if (band.length > 1) {
      const upper = band.map(([x, top]) => `${x},${top}`);
      const lower = band.map(([x, , bottom]) => `${x},${bottom}`).reverse();
      area.append(draw("polygon", { class: "band", points: [...upper, ...lower].join(" "), style }));
    }
    const dense = one.points.length > 200 ? "curve faint dense" : "curve faint";
    const kind = this.faint(index) ? dense : one.smooth ? "curve smooth" : "curve";
    const dash = DASHES[Math.floor(place / COLOURS) % DASHES.length];
    const line = draw("path", { class: kind, d: path, "stroke-dasharray": dash });
    line.style.stroke = this.colour(place);
    if (one.smooth) area.append(draw("path", { class: "curve halo", d: path }));
    area.append(line);
    const few = one.points.length <= 40 && !this.faint(index) && !one.smooth;
    const dots = few
      ? one.points.filter((point) => point[1] !== null).map(([s, v]) => [this.x.to(s), this.y.to(v)])
      : lone;
    for (const [cx, cy] of dots) area.append(draw("circle", { cx, cy, r: 2.2, style }));
  }

  follow(event) {
    const x = event.clientX - this.plot.getBoundingClientRect().left - MARGIN.left;
    const places = this.steps.map((step) => this.x.to(step));
    this.point(nearest(places, x));
  }

  key(event) {
    const end = this.steps.length - 1;
    const now = this.at ?? end;
    const jump = Math.max(1, Math.round(end / 20));
    const to = {
      ArrowLeft: now - 1, ArrowRight: now + 1, ArrowDown: now - 1, ArrowUp: now + 1,
      PageDown: now - jump, PageUp: now + jump, Home: 0, End: end,
    }[event.key];
    if (event.key === "Escape") this.point(null);
    if (to === undefined) return;
    event.preventDefault();
    this.point(Math.min(Math.max(to, 0), end));
  }

  /** Shows the values at one of `steps`, or none for null. */
  point(index) {
    this.at = index;
    this.readout.hidden = index === null;
    this.cursor?.setAttribute("visibility", index === null ? "hidden" : "visible");
    if (index === null || !this.x) return;
    const step = this.steps[index];
    const lines = this.bars ? this.barLines(index) : this.valueLines(step);
    const title = this.bars
      ? `steps ${formatStep(this.data.bars[index][0] + 1)} to ${formatStep(step)}`
      : `step ${formatStep(step)}`;
    this.readout.replaceChildren(
      make("strong", {}, title),
      ...lines.map(([i, text]) => make("div", {}, this.swatch(i), make("span", {}, text))),
    );
    this.plot.setAttribute("aria-valuenow", step);
    this.plot.setAttribute("aria-valuetext", [title, ...lines.map((line) => line[1])].join("; "));
    const x = this.x.to(step) + MARGIN.left;
    this.cursor.setAttribute("x1", x - MARGIN.left);
    this.cursor.setAttribute("x2", x - MARGIN.left);
    const left = x < this.plot.clientWidth / 2;
    this.readout.style.left = left ? `${x + 8}px` : "auto";
    this.readout.style.right = left ? "auto" : `${this.plot.clientWidth - x + 8}px`;
    this.readout.style.top = "4px";
  }

  barLines(index) {
    const seconds = this.data.bars[index][2];
    const total = seconds.reduce((a, b) => a + b, 0) || 1;
    return seconds.map((part, i) => {
      return [i, `${this.data.parts[i]}: ${((100 * part) / total).toFixed(1)}%, ${format(part)} s`];
    });
  }

  valueLines(step) {
    return this.shown().map(([one, i]) => {
      const [own, value, error] = one.points[nearest(one.steps, step)];
      const around = error == null ? "" : ` ± ${format(error)}`;
      const where = own === step ? "" : ` (step ${formatStep(own)})`;
      return [i, `${one.name}: ${format(value)}${around}${where}`];
    });
  }
}
