// Puts the samples on the page. Every text of theirs is set as text, never as HTML.

const DATA = JSON.parse(document.getElementById("data").textContent);
const SEVERAL = DATA.checkpoints.length > 1;

function byId(id) {
  return document.getElementById(id);
}

/** A row of a table; `first` is its head. */
function row(first, cells, kind = {}) {
  return make("tr", kind, make("th", { scope: "row" }, ...[first].flat()), ...cells);
}

function headRow(texts) {
  return make("thead", {}, make("tr", {}, ...texts.map((text) => make("th", { scope: "col" }, text))));
}

/** A number of a metric, or why there is none. */
function cell({ value, note, mark }) {
  const about = note ? { title: note } : {};
  if (value === null) return make("td", { class: "absent", ...about }, note ? "absent" : "");
  const marks = { best: " best", tied: " as good" };
  const said = marks[mark] ? make("small", { class: mark }, marks[mark]) : null;
  return make("td", { class: mark || "number", ...about }, value, said);
}

function metricName(one) {
  const unit = one.unit ? make("span", { class: "quiet" }, ` ${one.unit}`) : "";
  const better = one.better ? `${one.about}; better: ${one.better}` : one.about;
  return make("span", { title: better }, one.title, unit);
}

function scrolled(table) {
  return make("div", { class: "scrolled", tabindex: 0 }, table);
}

function showHead() {
  document.querySelector("h1").textContent = DATA.name;
  const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
  const of = SEVERAL ? ` of ${count(DATA.checkpoints.length, "checkpoint")}` : "";
  byId("made").textContent = `${count(DATA.samples.length, "sample")}${of}. Page made ${DATA.made}.`;
  const links = DATA.summary.rows.length ? [["metrics", "Metrics"]] : [];
  links.push(...DATA.samples.map((sample, i) => [`sample-${i}`, sample.name]));
  for (const [id, text] of links) document.querySelector("nav").append(make("a", { href: `#${id}` }, text));
}

function showMetrics() {
  const { rows, signs, trends, places } = DATA.summary;
  const section = byId("metrics");
  section.hidden = !rows.length;
  if (!rows.length) return;
  const named = DATA.checkpoints.map((checkpoint) => title(checkpoint) || "value");
  const body = make("tbody", {}, ...rows.map((one) => row(metricName(one), [
    ...one.cells.map(cell), make("td", { class: "number" }, one.real ?? "–"), make("td", { class: "quiet" }, one.better),
  ])));
  if (places.some(Boolean)) {
    body.append(row("mean place (1: best by all)", [
      ...places.map((place) => make("td", { class: "number" }, place || "–")), make("td", {}), make("td", { class: "quiet" }, "lower"),
    ], { class: "places" }));
  }
  section.append(scrolled(make("table", { class: "numbers" }, headRow(["mean over samples", ...named, "real video", "better"]), body)));
  if (SEVERAL) {
    section.append(make("p", { class: "quiet" },
      "best: by its mean. as good: not worse than the best by two standard errors over the samples that both have."));
  }
  const said = [
    ...signs.map(([name, sign]) => `${SEVERAL ? `${name}: ` : ""}${sign}`), ...trends,
  ];
  if (said.length) section.append(make("div", { class: "notes" }, ...said.map((text) => make("p", {}, text))));
  const reasons = rows.flatMap((one) => one.reasons.map((reason) => `${one.title}: ${reason}`));
  if (reasons.length) {
    section.append(make("details", {}, make("summary", {}, "What is absent, and why"),
      make("ul", {}, ...reasons.map((text) => make("li", {}, text)))));
  }
  showCharts(section);
}

function showCharts(section) {
  if (!DATA.charts.length) return;
  const steps = DATA.charts.flatMap((chart) => chart.series.flatMap((one) => one.points.map((point) => point[0])));
  const run = { first: Math.min(...steps), last: Math.max(...steps), resumed: [] };
  const place = make("div", { class: "charts" });
  for (const data of DATA.charts) place.append(new Chart(data, { x: "linear", y: "linear" }, run).element);
  const axis = DATA.checkpoints.every((one) => one.step !== null) ? "step" : "number of the checkpoint, in order";
  section.append(make("details", { open: "", class: "plots" },
    make("summary", {}, "Over checkpoints"), make("p", { class: "quiet" }, `Across: ${axis}.`), place));
}

function showSamples() {
  DATA.samples.forEach((sample, i) => {
    const stage = new Stage(sample, DATA.checkpoints, i);
    const facts = make("ul", { class: "facts" }, ...sample.facts.map((text) => make("li", {}, text)));
    const parts = [make("h3", {}, sample.name), facts, prompts(sample), stage.element, details(sample)];
    byId("samples").append(make("article", { id: `sample-${i}` }, ...parts.filter(Boolean)));
  });
}

function prompts(sample) {
  const lines = (texts) => texts.map(([camera, text]) => make("p", {}, camera ? make("strong", {}, `${camera} `) : "", text));
  const negative = sample.negative.length ? [make("p", { class: "quiet" }, "instead of: "), ...lines(sample.negative)] : [];
  if (!sample.prompt.length && !negative.length) return null;
  const said = make("div", { class: "prompt" }, ...lines(sample.prompt), ...negative);
  const long = sample.prompt.length > 2 || said.textContent.length > 400;
  return long ? make("details", { class: "prompt" }, make("summary", {}, "Prompt"), said) : said;
}

function details(sample) {
  const links = sample.made.flatMap((made, i) => (made ? made.links : []).map(([text, href]) => make(
    "a", { href }, `${text}${title(DATA.checkpoints[i], ", ")}`,
  )));
  return make(
    "div", { class: "about" },
    sample.metrics.length ? fold("Metrics", sampleMetrics(sample), true) : null,
    fold("Settings", settings(sample), false),
    links.length ? make("nav", { "aria-label": "videos" }, ...links) : null,
  );
}

function fold(name, content, open) {
  return make("details", open ? { open: "" } : {}, make("summary", {}, name), content);
}

/** A row for each metric; a click shows those of the cameras. */
function sampleMetrics(sample) {
  const named = DATA.checkpoints.map((checkpoint) => title(checkpoint) || "value");
  const body = make("tbody", {});
  for (const one of sample.metrics) {
    const cells = ({ cells, real }) => [...cells.map(cell), make("td", { class: "number" }, real ?? "–")];
    const inner = one.by.length > 1
      ? one.by.map((each) => row(each.where, cells(each), { class: "inner", hidden: "" })) : [];
    const name = inner.length ? make("button", { type: "button", class: "unfold", "aria-expanded": "false" }, metricName(one)) : metricName(one);
    if (inner.length) {
      name.addEventListener("click", () => {
        const open = name.getAttribute("aria-expanded") === "false";
        name.setAttribute("aria-expanded", String(open));
        for (const each of inner) each.hidden = !open;
      });
    }
    body.append(row(name, cells(one)), ...inner);
  }
  return scrolled(make("table", { class: "numbers" }, headRow(["metric", ...named, "real video"]), body));
}

function settings(sample) {
  const made = DATA.checkpoints.filter((_, i) => sample.made[i]);
  const apart = sample.settings.some(([, values]) => values.length > 1);
  const heads = apart ? made.map((checkpoint) => title(checkpoint)) : ["value"];
  const body = make("tbody", {}, ...sample.settings.map(([key, values]) => {
    const span = values.length < heads.length ? { colspan: heads.length } : {};
    return row(key, values.map((value) => make("td", span, value)));
  }));
  return scrolled(make("table", {}, headRow(["setting", ...heads]), body));
}

showHead();
showMetrics();
showSamples();
