// Puts the run's data on the page. Every text of the run is set as text, never as HTML.

const DATA = JSON.parse(document.getElementById("data").textContent);

function byId(id) {
  return document.getElementById(id);
}

function empty(text) {
  return make("p", { class: "empty" }, text);
}

function table(head, rows, last = "") {
  return make(
    "table", {},
    make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...rows.map((row) => make(
      "tr", {}, ...row.map((text, i) => make("td", i === row.length - 1 && last ? { class: last } : {}, text)),
    ))),
  );
}

function showHead() {
  document.querySelector("h1").textContent = DATA.name;
  byId("made").textContent = `Report made ${DATA.made}; reload to see a newer one.`;
  for (const [id, text] of [["samples", "Samples"], ["curves", "Curves"], ["run", "Run"]]) {
    document.querySelector("nav").append(make("a", { href: `#${id}` }, text));
  }
  for (const { label, value, note } of DATA.tiles) {
    byId("tiles").append(make("li", {}, label, make("strong", {}, value), make("small", {}, note)));
  }
  byId("notes").hidden = !DATA.notes.length;
  byId("notes").append(...DATA.notes.map((note) => make("p", {}, note)));
}

function showSamples() {
  if (DATA.samples.videos.length) {
    new Player(byId("samples"), DATA.samples, { fps: DATA.fps, size: DATA.size });
  } else {
    byId("samples").append(empty("No samples yet."));
  }
}

function showCurves() {
  const form = byId("axes");
  form.hidden = !DATA.charts.length;
  if (!DATA.charts.length) {
    byId("curves").append(empty("No curves yet: metrics.jsonl holds no numbers."));
    return;
  }
  const steps = DATA.charts.flatMap((chart) => {
    if (chart.bars) return chart.bars.map((bar) => bar[1]);
    return chart.series.flatMap((one) => [one.points[0][0], one.points.at(-1)[0]]);
  });
  const resumed = [...new Set(DATA.starts.map((start) => start[0]).filter((step) => step > 0))];
  const run = {
    first: steps.reduce((a, b) => Math.min(a, b)), last: steps.reduce((a, b) => Math.max(a, b)),
    resumed,
  };
  if (resumed.length) byId("resumed").textContent = "Dashed lines across: the run was resumed there.";
  const axes = { x: "linear", y: "linear" };
  const charts = [];
  let section = null, place = null;
  for (const data of DATA.charts) {
    if (data.section !== section) {
      section = data.section;
      place = make("div", { class: "charts" });
      byId("curves").append(make("h3", {}, section), place);
    }
    const chart = new Chart(data, axes, run);
    charts.push(chart);
    place.append(chart.element);
  }
  if (!DATA.charts.some((chart) => chart.section === "Validation")) {
    byId("curves").append(empty("No validation yet."));
  }
  form.addEventListener("change", (event) => {
    axes[event.target.name] = event.target.value;
    for (const chart of charts) chart.render();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
}

function showRun() {
  const run = byId("run");
  const starts = DATA.starts.map(([step, seconds]) => [
    step ? `resumed at step ${formatStep(step)}` : "started", `${format(seconds)} s to the first step`,
  ]);
  run.append(make("h3", {}, "Starts"));
  run.append(starts.length ? table(["start", "time"], starts, "figure") : empty("No start is on record."));
  run.append(make("h3", {}, "What was read"), table(["setting", "value"], DATA.read));
  const versions = DATA.about.filter(([key]) => key.startsWith("versions."));
  const others = DATA.about.filter(([key]) => !key.startsWith("versions."));
  run.append(make("h3", {}, "Versions"));
  run.append(
    versions.length
      ? table(["part", "version"], versions.map(([key, value]) => [key.slice(9), value]))
      : empty("The run's config.json names no versions."),
  );
  if (others.length) run.append(make("h3", {}, "Data set"), table(["what", "value"], others));
  run.append(make("h3", {}, "Config"), configTable());
}

/** All settings, and a field that narrows them to those that hold a text. */
function configTable() {
  const list = table(["setting", "value"], DATA.config);
  const search = make("input", { type: "search", "aria-label": "search the config", placeholder: "search" });
  search.addEventListener("input", () => {
    const wanted = search.value.toLowerCase();
    for (const row of list.tBodies[0].rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
  });
  return make("details", { open: "" }, make("summary", {}, `${DATA.config.length} settings`), search, list);
}

showHead();
showSamples();
showCurves();
showRun();
