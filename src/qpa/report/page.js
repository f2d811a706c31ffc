"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);

// Settings that nothing beats: nothing is better in one thing and at least as good in the other (report/compare.py). Of points as
// they are turned: less is better in both.
function front(points) {
  const beats = (p, q) => p.x <= q.x && p.y <= q.y && (p.x < q.x || p.y < q.y);
  return points.filter((q) => !points.some((p) => beats(p, q))).sort((p, q) => p.x - q.x || q.y - p.y);
}

// The Pareto figure by two chosen axes. Its first trace is the front; the others carry their settings' places.
function choose(section, task) {
  const plot = section.querySelector("[data-figure=pareto] .plot");
  const [x, y] = ["x", "y"].map((axis) => section.querySelector(".axis-" + axis).value);
  const [across, down] = [task.axes[x], task.axes[y]];
  const [right, up] = [across, down].map((axis) => (axis.better === "lower" ? 1 : -1));
  const of = (axis) => (place) => task.settings[place][axis];
  const known = task.settings.filter((setting) => setting[x] !== null && setting[y] !== null);
  const line = front(known.map((setting) => ({ x: right * setting[x], y: up * setting[y] })));
  const places = plot.data.slice(1).map((trace) => Array.from(trace.customdata));
  const xs = [line.map((p) => right * p.x), ...places.map((all) => all.map(of(x)))];
  const ys = [line.map((p) => up * p.y), ...places.map((all) => all.map(of(y)))];
  const intervals = plot.data.map((trace) => y === "test" && trace.error_y?.array !== undefined);
  Plotly.update(plot, { x: xs, y: ys, "error_y.visible": intervals }, {
    "xaxis.title.text": across.title, "xaxis.type": across.log ? "log" : "linear", "xaxis.autorange": true,
    "yaxis.title.text": down.title, "yaxis.type": down.log ? "log" : "linear", "yaxis.autorange": true,
  });
}

function pick(section, task, place) {
  const run = task.runs[place];
  section.querySelectorAll("tr.chosen").forEach((row) => row.classList.remove("chosen"));
  section.querySelector(`tr[data-run="${place}"]`).classList.add("chosen");
  const panel = section.querySelector(".picked");
  panel.hidden = false;
  panel.querySelector("h3").textContent = `${run.label}, seed ${run.seed}`;
  panel.querySelector("pre").textContent = run.command;
  panel.querySelector("p").textContent = `${run.folder}: ${run.trainable.toLocaleString("en")} trained numbers, ` +
    `${task.axes.test.title} ${run.test} (base model ${run.base}), validation ${run.val}`;
}

function colour() {
  const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
  document.querySelectorAll(".plot").forEach((plot) => Plotly.relayout(plot, { "font.color": ink }));
}

async function draw(figure, { data, layout }) {
  if (innerWidth < 560) Object.assign(layout, { height: layout.height * 1.25, font: { ...layout.font, size: 10 } });
  await Plotly.newPlot(figure.querySelector(".plot"), data, layout, { responsive: true, displaylogo: false, displayModeBar: false });
}

async function start() {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
  const code = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  const script = document.createElement("script");
  script.textContent = code;
  document.head.append(script);
  for (const figure of document.querySelectorAll("[data-growth]")) await draw(figure, DATA.growths[figure.dataset.growth]);
  for (const section of document.querySelectorAll(".task")) {
    const task = DATA.tasks[section.dataset.task];
    for (const figure of section.querySelectorAll("figure")) await draw(figure, task.figures[figure.dataset.figure]);
    section.querySelectorAll(".choices select").forEach((select) => select.addEventListener("change", () => choose(section, task)));
    for (const row of section.querySelectorAll("tr[data-run]")) {
      row.addEventListener("click", () => pick(section, task, row.dataset.run));
      row.addEventListener("keydown", (event) => event.key === "Enter" && pick(section, task, row.dataset.run));
    }
    section.querySelector(".filter").addEventListener("input", (event) => {
      for (const row of section.querySelectorAll("tr[data-run]")) row.hidden = !row.textContent.includes(event.target.value);
    });
  }
  colour();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", colour);
  document.body.dataset.ready = "yes";
}

start();
