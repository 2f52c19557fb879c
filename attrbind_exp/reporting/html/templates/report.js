// What moves in the page: theme, choice of data, curves, table of expressions.

const DATA = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const STEP = 100; // rows added at a time
const LONGEST = 300; // characters of an expression; a longer one was cut, script_data.TEXT

let group = Math.max(0, DATA.groups.length - 1);
let sort = { by: "change", down: true };
let rowsShown = STEP;

function options(select, names, chosen) {
  select.replaceChildren(...names.map((name, i) => element("option", { value: i }, name)));
  select.selectedIndex = Math.max(0, chosen);
}

// Theme: the system's, until the button is used.
function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}
by("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("attrbind_exp-theme", document.documentElement.dataset.theme); } catch { /* a file: page may have no storage */ }
});
try {
  const kept = localStorage.getItem("attrbind_exp-theme");
  if (kept) document.documentElement.dataset.theme = kept;
} catch { /* the same */ }

// Lines differ in their dashes, too: not everybody tells colours apart.
const DASHES = ["", "7 3", "7 3 2 3", "4 2", "10 3 2 3 2 3"];

// Curves. The difference to the baseline is that of the table, with its interval.
function alphaChart(difference) {
  const lines = [];
  DATA.alpha.ours.forEach((line, i) => {
    if (difference && line.base === null) return;
    const colour = `var(--s${i % 6})`;
    const points = line.points.map((p) => (difference ? { x: p.x, y: p.difference, low: p.low, high: p.high, mark: true } : { x: p.x, y: p.y, mark: true }));
    lines.push({ name: line.name, colour, dash: DASHES[i % DASHES.length], width: 2.2, points });
    if (!difference && line.base !== null) lines.push({ name: `${line.base_name}, ${line.name}`, colour, width: 1.4, dash: "2 4", level: true, points: [{ y: line.base }] });
  });
  if (difference) lines.push({ name: "baseline", colour: "var(--soft)", width: 1.4, dash: "2 4", level: true, points: [{ y: 0 }] });
  const paper = DATA.alpha.paper;
  if (paper && !(difference && paper.base === null)) {
    const points = paper.points.map((p) => ({ x: p.x, y: difference ? p.y - paper.base : p.y, mark: true }));
    lines.push({ name: paper.name, colour: "var(--ink)", width: 1.6, dash: "12 4", points });
  }
  by("alpha-height").setAttribute("aria-pressed", String(!difference));
  by("alpha-difference").setAttribute("aria-pressed", String(difference));
  by("alpha-note").hidden = !difference;
  lineChart(by("alpha-chart"), { lines, xLabel: "alpha", yLabel: difference ? "difference, points" : "mIoU, %", signed: difference });
}

// The first variant in ink; several alphas from light to dark, each method with dashes of its own; any other by colour
// and dashes.
function thresholdChart() {
  const { columns, curves, thresholds, head, name } = DATA.groups[group];
  const weighted = columns.filter((c) => c.alpha !== null);
  const alphas = [...new Set(weighted.map((c) => c.alpha))].sort((a, b) => a - b);
  const methods = [...new Set(weighted.map((c) => c.method))];
  // Many alphas of one method: its name stands above the chart instead of in every line of the legend.
  const method = alphas.length > 2 && methods.length === 1 ? methods[0] : "";
  const others = columns.filter((c, i) => i > 0 && (alphas.length < 2 || c.alpha === null));
  const lines = columns.map((column, i) => {
    const ramp = alphas.length > 1 && column.alpha !== null;
    const share = Math.round((100 * alphas.indexOf(column.alpha)) / (alphas.length - 1));
    const colour = ramp ? `color-mix(in oklab, var(--high) ${share}%, var(--low))` : i === 0 ? "var(--ink)" : `var(--s${others.indexOf(column) % 6})`;
    const kind = ramp ? methods.indexOf(column.method) : i === 0 ? 0 : others.indexOf(column) + 1;
    const dash = DASHES[kind % DASHES.length];
    const points = thresholds.map((x, k) => ({ x, y: curves[i][k], mark: column.threshold !== null && Math.abs(x - column.threshold) < 1e-9 }));
    return { name: method && column.alpha !== null ? `alpha=${column.alpha}` : column.label, colour, dash, width: i === head ? 2.8 : 1.6, points };
  });
  document.querySelectorAll(".of-group").forEach((span) => { span.textContent = [DATA.groups.length > 1 ? name : "", method].filter(Boolean).join(", "); });
  lineChart(by("threshold-chart"), { lines, xLabel: "threshold", yLabel: "mIoU, %" });
}

// Expressions.
function cells(row) {
  const [text, target, id, slices, iou] = row;
  const [first, second] = [iou[by("first").value], iou[by("second").value]];
  return { text, target, id, slices, first, second, change: first === null || second === null ? null : second - first };
}

function matching() {
  const { rows } = DATA.groups[group];
  const slice = Number(by("slice").value) - 1;
  const text = by("text").value.trim().toLowerCase();
  const found = rows.map(cells).filter((row) => (slice < 0 || row.slices.includes(slice)) && row.text.toLowerCase().includes(text)
    && (!by("drawn").value || isDrawn(group, row.id)));
  const sign = sort.down ? -1 : 1;
  const order = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
  return found.sort((a, b) => {
    const [left, right] = [a[sort.by], b[sort.by]];
    return left === null || right === null ? (left === null) - (right === null) : sign * order(left, right);
  });
}

function showRows() {
  const { slices, total, rows, scored } = DATA.groups[group];
  const found = matching();
  const number = (value) => (value === null ? "-" : value.toFixed(1));
  const signed = (value) => (value === null ? "-" : (value >= 0.05 ? "+" : "") + (Math.abs(value) < 0.05 ? "0.0" : value.toFixed(1)));
  const tone = (value) => (value > 0.05 ? "change up" : value < -0.05 ? "change down" : "change");
  by("rows").tBodies[0].replaceChildren(...found.slice(0, rowsShown).map((row) => element("tr", {}, null, [
    element("td", {}, null, [element("a", { href: address(group, row.id), ...(isDrawn(group, row.id) && { class: "drawn" }) }, row.text)]), element("td", {}, number(row.first)), element("td", {}, number(row.second)),
    element("td", { class: tone(row.change) }, signed(row.change)), element("td", {}, row.target),
    element("td", {}, row.slices.map((i) => slices[i]).join(", ")), element("td", {}, row.id),
  ])));
  for (const button of by("rows").querySelectorAll("th button")) {
    const mine = button.dataset.sort === sort.by;
    button.parentElement.setAttribute("aria-sort", mine ? (sort.down ? "descending" : "ascending") : "none");
  }
  const known = found.filter((row) => row.change !== null);
  const mean = (key) => (known.reduce((sum, row) => sum + row[key], 0) / known.length).toFixed(1);
  const part = rows.length < total ? ` This page holds ${rows.length} of ${total}: the most improved, the most harmed and a seeded random sample of the rest.` : "";
  const means = known.length ? ` Their mean IoU: ${mean("first")} to ${mean("second")}${part ? " (of the rows here, not of the run)" : ""}.` : "";
  by("count").textContent = `${found.length} of ${rows.length} ${scored}.${means}${part}`;
  by("more").hidden = found.length <= rowsShown;
}

function setGroup(number) {
  group = number;
  rowsShown = STEP;
  const { columns, head, slices, threshold } = DATA.groups[group];
  const names = columns.map((c) => c.label);
  by("one-threshold").textContent = threshold === null ? "one threshold" : `the threshold ${threshold.toFixed(2)}`;
  options(by("first"), names, 0);
  options(by("second"), names, head || columns.length - 1);
  options(by("slice"), ["all", ...slices], 0);
  document.querySelectorAll("[data-group]").forEach((part) => { part.hidden = Number(part.dataset.group) !== group; });
  thresholdChart();
  showRows();
  setPictures();
}

// On paper nothing can be opened: what belongs to the figures is open already.
addEventListener("beforeprint", () => document.querySelectorAll("[data-printed]").forEach((part) => { part.open = true; }));

if (DATA.groups.length) {
  by("group")?.addEventListener("change", (event) => setGroup(Number(event.target.value)));
  for (const id of ["first", "second", "slice", "drawn", "text"]) by(id).addEventListener("input", () => { rowsShown = STEP; showRows(); });
  for (const button of by("rows").querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const mine = sort.by === button.dataset.sort;
      sort = { by: button.dataset.sort, down: mine ? !sort.down : ["first", "second", "change"].includes(button.dataset.sort) };
      showRows();
    });
  }
  by("more").addEventListener("click", () => { rowsShown += STEP; showRows(); });
  for (const id of ["left", "right", "which", "picture-slice", "picture-change"]) by(id).addEventListener("change", showPictures);
  if (DATA.alpha) {
    by("alpha-height").addEventListener("click", () => alphaChart(false));
    by("alpha-difference").addEventListener("click", () => alphaChart(true));
    by("alpha-switch").hidden = DATA.alpha.ours.every((line) => line.base === null);
    alphaChart(false);
  } else by("alpha-figure").hidden = true;
  setGroup(group);
  startView();
}
