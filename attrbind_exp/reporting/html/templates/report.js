// What moves in the page: theme, choice of data, curves, table of expressions, heat maps.

const DATA = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const STEP = 100; // rows added at a time

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
  const found = rows.map(cells).filter((row) => (slice < 0 || row.slices.includes(slice)) && row.text.toLowerCase().includes(text));
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
    element("td", {}, row.text), element("td", {}, number(row.first)), element("td", {}, number(row.second)),
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

// Heat maps.
function card(picture, left, right, columns) {
  const panel = (name) => (picture.panels[name] ? name : Object.keys(picture.panels)[0]);
  const names = [panel(left), panel(right)];
  const [l, r] = names.map((name) => (Object.hasOwn(picture.thresholds, name) ? `${name}, threshold\u00a0${picture.thresholds[name].toFixed(2)}` : name));
  const stage = element("div", { class: "stage" });
  stage.style.setProperty("--at", "50%");
  const range = element("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": `from ${names[0]} to ${names[1]}` });
  range.addEventListener("input", () => stage.style.setProperty("--at", `${range.value}%`));
  stage.append(
    element("img", { src: picture.panels[names[1]], alt: names[1] }), element("img", { src: picture.panels[names[0]], alt: names[0] }),
    element("i"), range,
  );
  const figures = names
    .map((name) => columns.findIndex((c) => c.label === name))
    .map((i) => (i < 0 || !picture.iou || picture.iou[i] === null ? null : picture.iou[i].toFixed(1)));
  const said = figures.filter((f) => f !== null);
  // A gallery may show all variants at one threshold, while each is scored at its own.
  const other = columns.some((c) => names.includes(c.label) && Object.hasOwn(picture.thresholds, c.label) && c.threshold !== picture.thresholds[c.label]);
  const iou = said.length ? `IoU ${said.join(" to ")}${other ? ", each at its own threshold" : ""}` : "";
  const classes = Object.entries(picture.classes).map(([name, colour]) => classMark(name, `rgb(${colour.map(Number).join(" ")})`));
  return element("article", { class: "card" }, null, [
    stage, element("div", { class: "names" }, null, [element("span", {}, l), element("span", {}, r)]), element("p", {}, picture.title), element("p", {}, iou), ...classes,
  ]);
}

function classMark(name, colour) {
  const mark = element("i");
  mark.style.background = colour;
  return element("span", { class: "swatch" }, null, [mark, element("b", {}, name)]);
}

const KNOWN = { gallery: "spread over the run", improved: "most improved", harmed: "most harmed" };

function showPictures() {
  const pictures = DATA.pictures.filter((p) => p.group === group);
  const which = by("which").selectedOptions[0]?.dataset.gallery;
  const chosen = pictures.filter((p) => !which || p.galleries.includes(which));
  const [left, right] = [by("left"), by("right")].map((select) => select.selectedOptions[0]?.textContent);
  by("cards").replaceChildren(...chosen.map((p) => card(p, left, right, DATA.groups[group].columns)));
}

function setPictures() {
  const { columns, head } = DATA.groups[group];
  const pictures = DATA.pictures.filter((p) => p.group === group);
  const names = [...new Set(pictures.flatMap((p) => Object.keys(p.panels)))];
  const first = names.indexOf(columns[0].label) >= 0 ? names.indexOf(columns[0].label) : names.indexOf("baseline");
  const second = names.indexOf(columns[head].label);
  options(by("left"), names, first >= 0 && first !== second ? first : names.indexOf("image"));
  options(by("right"), names, second >= 0 ? second : names.length - 1);
  const galleries = [...new Set(pictures.flatMap((p) => p.galleries))];
  by("which").replaceChildren(element("option", {}, `all (${pictures.length})`), ...galleries.map((name) => {
    const count = pictures.filter((p) => p.galleries.includes(name)).length;
    const option = element("option", {}, `${KNOWN[name] ?? name} (${count})`);
    option.dataset.gallery = name;
    return option;
  }));
  by("pictures-count").textContent = pictures.length ? "" : "No pictures were drawn (gallery=0, changed=0).";
  showPictures();
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

if (DATA.groups.length) {
  by("group")?.addEventListener("change", (event) => setGroup(Number(event.target.value)));
  for (const id of ["first", "second", "slice", "text"]) by(id).addEventListener("input", () => { rowsShown = STEP; showRows(); });
  for (const button of by("rows").querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const mine = sort.by === button.dataset.sort;
      sort = { by: button.dataset.sort, down: mine ? !sort.down : ["first", "second", "change"].includes(button.dataset.sort) };
      showRows();
    });
  }
  by("more").addEventListener("click", () => { rowsShown += STEP; showRows(); });
  for (const id of ["left", "right", "which"]) by(id).addEventListener("change", showPictures);
  if (DATA.alpha) {
    by("alpha-height").addEventListener("click", () => alphaChart(false));
    by("alpha-difference").addEventListener("click", () => alphaChart(true));
    by("alpha-switch").hidden = DATA.alpha.ours.every((line) => line.base === null);
    alphaChart(false);
  } else by("alpha-figure").hidden = true;
  setGroup(group);
}
