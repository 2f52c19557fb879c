"use strict";
// Line charts as inline SVG. Text reaches the page through textContent alone.

const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, text = null, children = []) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  made.append(...children);
  return made;
}

function shape(parent, name, attributes, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  parent.append(made);
  return made;
}

// Round steps that put about `count` ticks between low and high.
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const found = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + 1e-9 * step; t += step) found.push(Number(t.toFixed(10)));
  return found;
}

// The sample of a line for legends.
function swatch(line) {
  const icon = document.createElementNS(SVG, "svg");
  icon.setAttribute("viewBox", "0 0 22 10");
  shape(icon, "line", { x1: 0, x2: 22, y1: 5, y2: 5, stroke: line.colour, "stroke-width": line.width, "stroke-dasharray": line.dash || "none" });
  return icon;
}

// Draws lines [{name, colour, width, dash, level, points: [{x, y, low, high, mark}]}] into `host` and again whenever its width
// changes. A `level` line is its one point's height from side to side. The legend turns lines off and on.
function lineChart(host, { lines, xLabel, yLabel, digits = 1, signed = false }) {
  const off = new Set();
  const drawing = element("div");
  const legend = element("div", { class: "legend" });
  for (const line of lines) {
    const button = element("button", { type: "button", "aria-pressed": "true" }, null, [swatch(line), line.name]);
    button.addEventListener("click", () => {
      off.has(line) ? off.delete(line) : off.add(line);
      button.setAttribute("aria-pressed", String(!off.has(line)));
      draw();
    });
    legend.append(button);
  }
  const tip = element("div", { class: "tip", hidden: "" });
  host.replaceChildren(drawing, tip, legend);

  function draw() {
    const width = Math.max(240, host.clientWidth);
    const shown = lines.filter((line) => !off.has(line));
    drawing.replaceChildren(plot(shown, { width, height: Math.round(Math.min(320, Math.max(220, width * 0.6))), xLabel, yLabel, digits, signed }, tip));
  }
  draw();
  host.redraw?.disconnect();
  let last = host.clientWidth;
  host.redraw = new ResizeObserver(() => {
    if (host.clientWidth !== last) draw();
    last = host.clientWidth;
  });
  host.redraw.observe(host);
}

// What a line says to those who do not see it: its height where it is level, else where it is highest.
function inWords(line, digits) {
  const known = line.points.filter((p) => p.y !== null);
  if (!known.length) return `${line.name}: no figure`;
  const top = known.reduce((a, b) => (b.y > a.y ? b : a));
  return line.level ? `${line.name}: ${top.y.toFixed(digits)}` : `${line.name}: highest ${top.y.toFixed(digits)} at ${top.x}`;
}

function plot(lines, { width, height, xLabel, yLabel, digits, signed }, tip) {
  const box = { left: 40, right: width - 10, top: 10, bottom: height - 36 };
  const points = lines.flatMap((line) => line.points).filter((p) => p.y !== null);
  const xs = [...new Set(lines.filter((l) => !l.level).flatMap((l) => l.points.map((p) => p.x)))].sort((a, b) => a - b);
  const ys = points.flatMap((p) => [p.y, p.low ?? p.y, p.high ?? p.y]);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${yLabel} by ${xLabel}. ${lines.map((line) => inWords(line, digits)).join("; ")}`);
  if (!xs.length || !ys.length) return svg;
  const pad = (Math.max(...ys) - Math.min(...ys)) * 0.06 || 1;
  const [low, high] = [signed ? Math.min(...ys) - pad : Math.max(0, Math.min(...ys) - pad), Math.max(...ys) + pad];
  const x = (value) => box.left + ((value - xs[0]) / (xs[xs.length - 1] - xs[0] || 1)) * (box.right - box.left);
  const y = (value) => box.bottom - ((value - low) / (high - low)) * (box.bottom - box.top);
  for (const t of ticks(low, high, 5)) {
    shape(svg, "line", { class: "grid", x1: box.left, x2: box.right, y1: y(t), y2: y(t) });
    shape(svg, "text", { x: box.left - 7, y: y(t) + 4, "text-anchor": "end" }, String(t));
  }
  for (const t of ticks(xs[0], xs[xs.length - 1], Math.min(10, width / 60))) {
    shape(svg, "text", { x: x(t), y: box.bottom + 17, "text-anchor": "middle" }, String(t));
  }
  shape(svg, "text", { x: (box.left + box.right) / 2, y: height - 3, "text-anchor": "middle" }, xLabel);
  shape(svg, "text", { x: 0, y: 0, transform: `translate(10 ${(box.top + box.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, yLabel);
  for (const line of lines) drawLine(svg, line, x, y, box);
  follow(svg, lines, xs, x, box, digits, signed, tip);
  return svg;
}

function drawLine(svg, line, x, y, box) {
  const points = line.points.filter((p) => p.y !== null);
  const style = { stroke: line.colour, "stroke-width": line.width, "stroke-dasharray": line.dash || "none", fill: "none", "stroke-linejoin": "round" };
  if (line.level) {
    for (const p of points) shape(svg, "line", { x1: box.left, x2: box.right, y1: y(p.y), y2: y(p.y), ...style });
    return;
  }
  shape(svg, "path", { d: points.map((p, i) => `${i ? "L" : "M"}${x(p.x).toFixed(1)} ${y(p.y).toFixed(1)}`).join(""), ...style });
  for (const p of points) {
    if (p.low !== null && p.low !== undefined) {
      shape(svg, "line", { x1: x(p.x), x2: x(p.x), y1: y(p.low), y2: y(p.high), stroke: line.colour, opacity: 0.55 });
    }
    if (p.mark) shape(svg, "circle", { cx: x(p.x), cy: y(p.y), r: 3.2, fill: line.colour, stroke: "var(--paper)" });
  }
}

// A rule and a list of values follow the pointer from x to x.
function follow(svg, lines, xs, x, box, digits, signed, tip) {
  const rule = shape(svg, "line", { class: "rule", y1: box.top, y2: box.bottom, visibility: "hidden" });
  const leave = () => { rule.setAttribute("visibility", "hidden"); tip.hidden = true; };
  const move = (event) => {
    const scale = svg.viewBox.baseVal.width / svg.getBoundingClientRect().width;
    const at = (event.clientX - svg.getBoundingClientRect().left) * scale;
    const nearest = xs.reduce((a, b) => (Math.abs(x(b) - at) < Math.abs(x(a) - at) ? b : a));
    const found = lines
      .map((line) => ({ line, point: line.level ? line.points[0] : line.points.find((p) => p.x === nearest) }))
      .filter(({ point }) => point && point.y !== null)
      .sort((a, b) => b.point.y - a.point.y);
    for (const name of ["x1", "x2"]) rule.setAttribute(name, x(nearest));
    rule.setAttribute("visibility", "visible");
    tip.replaceChildren(element("b", {}, String(nearest)), ...found.map(({ line, point }) => {
      const value = (signed && point.y > 0 ? "+" : "") + point.y.toFixed(digits);
      return element("div", {}, null, [element("span", {}, line.name), element("span", {}, value)]);
    }));
    tip.hidden = false;
    tip.style.left = x(nearest) / scale > svg.clientWidth / 2 ? "auto" : `${x(nearest) / scale + 10}px`;
    tip.style.right = x(nearest) / scale > svg.clientWidth / 2 ? `${svg.clientWidth - x(nearest) / scale + 10}px` : "auto";
  };
  svg.addEventListener("pointermove", move);
  svg.addEventListener("pointerdown", move);
  svg.addEventListener("pointerleave", leave);
}
