// The viewer: everything that answers at once. Python sends levels of heat once for every expression (demo/sent.py);
// thresholds, alphas, hover, masks and differences are made of them here.
window.attrbind = (() => {
  "use strict";
  const at = (id) => document.getElementById("v-" + id);
  const make = (tag, className, text) => Object.assign(document.createElement(tag), { className: className || "", textContent: text || "" });
  const chosen = { method: 0, reading: 0, alpha: 0, threshold: 50 };
  const SLOW = "Still looking … Others may come first, and a large model takes minutes without a GPU. If nothing comes, the page’s server may have stopped.";
  let slow = 0, sent = null, photo = null, maps = [], tiles = [], point = null;

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function load(source) {
    const image = new Image();
    image.src = source;
    await image.decode();
    return image;
  }

  // Colours as one 32-bit number each, as canvases of little-endian machines (all browsers') keep them.
  function table(colours) {
    const bytes = new Uint8Array(colours.length / 3 * 4).fill(255);
    for (let i = 0; i < colours.length; i++) bytes[Math.floor(i / 3) * 4 + i % 3] = colours[i];
    return new Uint32Array(bytes.buffer);
  }

  // ---- what is chosen ------------------------------------------------------------------------------------------------
  const alphaOf = (method) => sent.methods[method].slides ? sent.alphas[chosen.alpha] : sent.methods[method].alpha;
  const variantOf = (method, reading) => sent.variants.findIndex((v) => v[0] === method && v[1] === reading && v[2] === alphaOf(method));
  function levelsOf(expression, method, reading) {
    const [height, width] = sent.size;
    const map = sent.expressions[expression].map_of_variant[variantOf(method, reading)];
    return maps[expression].subarray(map * height * width, (map + 1) * height * width);
  }
  const mine = (expression) => levelsOf(expression, chosen.method, chosen.reading);
  const nameOf = (method) => sent.methods[method].name + (alphaOf(method) === null ? "" : ", α " + alphaOf(method));
  function share(levels, bound) {
    let inside = 0;
    for (let i = 0; i < levels.length; i++) if (levels[i] >= bound) inside++;
    return (100 * inside / levels.length).toFixed(1) + " %";
  }

  // ---- drawing -------------------------------------------------------------------------------------------------------
  const stage = document.createElement("canvas");  // one picture in its own pixels
  function put(canvas, paint) {
    const [height, width] = sent.size, scale = Math.max(1, Math.floor(400 / Math.max(height, width)));
    if (stage.width !== width || stage.height !== height) Object.assign(stage, { width, height });
    const context = stage.getContext("2d", { willReadFrequently: true });
    paint(context, width, height);
    if (canvas.width !== width * scale || canvas.height !== height * scale) Object.assign(canvas, { width: width * scale, height: height * scale });
    const shown = canvas.getContext("2d");
    shown.imageSmoothingEnabled = false;
    shown.drawImage(stage, 0, 0, canvas.width, canvas.height);
    return { shown, scale };
  }

  function putLevels(canvas, levels, colours, of = (level) => level) {
    return put(canvas, (context, width, height) => {
      const image = context.createImageData(width, height), pixels = new Uint32Array(image.data.buffer);
      for (let i = 0; i < levels.length; i++) pixels[i] = colours[of(levels[i], i)];
      context.putImageData(image, 0, 0);
    });
  }

  // The line between pixels inside and outside of a mask, the picture's border among it: few long strokes, not a short
  // one for every pixel.
  function outline(canvas, { shown, scale }, levels, bound) {
    const [height, width] = sent.size, path = new Path2D();
    const trace = (lines, length, step, stride, stroke) => {
      for (let line = 0; line <= lines; line++) for (let i = 0, start = -1; i <= length; i++) {
        const here = line * step + i * stride;
        const edge = i < length && (line < lines && levels[here] >= bound) !== (line > 0 && levels[here - step] >= bound);
        if (edge && start < 0) start = i;
        if (!edge && start >= 0) { stroke(line * scale, start * scale, i * scale); start = -1; }
      }
    };
    trace(height, width, width, 1, (y, from, to) => { path.moveTo(from, y); path.lineTo(to, y); });
    trace(width, height, 1, width, (x, from, to) => { path.moveTo(x, from); path.lineTo(x, to); });
    const thick = Math.max(1, canvas.width / (canvas.clientWidth || 200));
    shown.lineCap = "square";
    for (const [colour, lineWidth] of [["#000", 4 * thick], [sent.line, 2 * thick]]) {
      Object.assign(shown, { strokeStyle: colour, lineWidth });
      shown.stroke(path);
    }
  }

  function drawHeat(canvas, levels) {
    const drawn = putLevels(canvas, levels, sent.heatTable);
    outline(canvas, drawn, levels, 2 * chosen.threshold);
  }

  function drawMask(canvas, levels) {
    const bound = 2 * chosen.threshold;
    const drawn = put(canvas, (context, width, height) => {
      context.drawImage(photo, 0, 0);
      const image = context.getImageData(0, 0, width, height), d = image.data;
      for (let i = 0; i < levels.length; i++) if (levels[i] < bound) {
        d[4 * i] = d[4 * i + 1] = d[4 * i + 2] = sent.dim * (d[4 * i] + d[4 * i + 1] + d[4 * i + 2]) / 3;
      }
      context.putImageData(image, 0, 0);
    });
    outline(canvas, drawn, levels, bound);
  }

  const drawPhoto = (canvas) => put(canvas, (context) => context.drawImage(photo, 0, 0));
  // The scale of differences is even on both sides and reaches to the largest of them, in steps of 0.1.
  function largest() {
    const first = mine(0), second = mine(1);
    return second.reduce((most, level, i) => Math.abs(level - first[i]) > Math.abs(most) ? level - first[i] : most, 0);
  }

  function drawDifference(canvas) {
    const first = mine(0), second = mine(1), tenth = sent.levels / 10;
    const end = Math.max(1, Math.ceil(Math.abs(largest()) / tenth)) * tenth;
    putLevels(canvas, second, sent.differenceTable, (level, i) => Math.round((level - first[i]) * sent.levels / end) + sent.levels);
    at("least").textContent = "−" + (end / sent.levels).toFixed(1) + " less heat";
    at("most").textContent = "+" + (end / sent.levels).toFixed(1) + " more heat in the second";
  }

  // ---- panels --------------------------------------------------------------------------------------------------------
  // Each has how it is drawn, what it is called, and what is said of the pixel i.
  const heatAt = (levels, i) => (levels[i] / sent.levels).toFixed(2);
  function addTile(grid, { draw, name, value, press }) {
    const figure = make("figure"), hold = make(press ? "button" : "div", "hold");
    const canvas = make("canvas"), cross = make("span", "cross"), caption = make("figcaption");
    const title = make("span", "name"), under = make("span", "value");
    if (press) { hold.type = "button"; hold.addEventListener("click", press); } else { hold.tabIndex = 0; hold.setAttribute("role", "group"); }
    if (press) canvas.setAttribute("role", "img"); else canvas.setAttribute("aria-hidden", "true");
    hold.append(canvas, cross);
    caption.append(title, under);
    figure.append(hold, caption);
    grid.append(figure);
    const tile = { canvas, cross, under, value, hold, chosenBy: press && press.key };
    tile.draw = () => { draw(canvas); title.textContent = name(); (press ? canvas : hold).setAttribute("aria-label", name() + ". " + value(null)); };
    hold.addEventListener("pointermove", (event) => pointAt(event, canvas));
    hold.addEventListener("pointerleave", () => { point = null; say(); });
    hold.addEventListener("keydown", (event) => move(event));
    tiles.push(tile);
  }

  function heatTile(grid, expression, method, reading, press, called) {
    const levels = () => levelsOf(expression, method(), reading());
    addTile(grid, {
      draw: (canvas) => drawHeat(canvas, levels()),
      name: () => (called ? called + ": " : "") + nameOf(method()) + (sent.readings.length > 1 ? " · " + sent.readings[reading()] : ""),
      value: (i) => i === null ? "mask " + share(levels(), 2 * chosen.threshold) : "heat " + heatAt(levels(), i), press,
    });
  }

  function build() {
    tiles = [];
    at("grid").replaceChildren();
    at("grid-2").replaceChildren();
    const rows = sent.readings.length;  // picture and mask have a column for both, or each its own where there is one row
    at("grid").style.setProperty("--columns", sent.methods.length + (rows > 1 ? 1 : 2));
    at("grid").style.setProperty("--rows", rows);
    at("grid").style.setProperty("--below", rows > 1 ? `2 / span ${rows - 1}` : "auto");
    addTile(at("grid"), { draw: drawPhoto, name: () => "picture", value: (i) => i === null ? `${sent.full[1]} × ${sent.full[0]} pixels` : where(i) });
    addTile(at("grid"), { draw: (canvas) => drawMask(canvas, mine(0)), name: () => "mask of " + nameOf(chosen.method),
      value: (i) => i === null ? share(mine(0), 2 * chosen.threshold) + " of the picture" : mine(0)[i] >= 2 * chosen.threshold ? "inside" : "outside" });
    sent.methods.forEach((_, method) => sent.readings.forEach((_, reading) => {
      const press = () => { Object.assign(chosen, { method, reading }); draw(); };
      press.key = method + " " + reading;
      heatTile(at("grid"), 0, () => method, () => reading, press);
    }));
    at("swap").hidden = sent.expressions.length < 2;
    if (sent.expressions.length < 2) return;
    [0, 1].forEach((expression) => heatTile(at("grid-2"), expression, () => chosen.method, () => chosen.reading, null, ["first", "second"][expression]));
    addTile(at("grid-2"), { draw: drawDifference, name: () => "second − first", value: (i) => {
      const signed = (d) => (d > 0 ? "+" : d < 0 ? "−" : "") + Math.abs(d).toFixed(2);
      if (i !== null) return "difference " + signed((mine(1)[i] - mine(0)[i]) / sent.levels);
      return "largest " + signed(largest() / sent.levels);
    } });
  }

  // ---- the point that is looked at -----------------------------------------------------------------------------------
  const where = (i) => `x ${i % sent.size[1]}, y ${Math.floor(i / sent.size[1])}`;
  function pointAt(event, canvas) {
    const box = canvas.getBoundingClientRect(), [height, width] = sent.size;
    const limit = (value, most) => Math.min(most - 1, Math.max(0, Math.floor(value * most)));
    point = [limit((event.clientX - box.left) / box.width, width), limit((event.clientY - box.top) / box.height, height)];
    say();
  }

  function move(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape") { point = null; say(); }
    if (!step) return;
    event.preventDefault();
    const [height, width] = sent.size, stride = (event.shiftKey ? 1 : 4) * Math.max(1, Math.round(Math.max(height, width) / 128));
    const [x, y] = point || [width >> 1, height >> 1];
    point = [Math.min(width - 1, Math.max(0, x + stride * step[0])), Math.min(height - 1, Math.max(0, y + stride * step[1]))];
    say();
    at("said").textContent = where(point[1] * width + point[0]) + ": " + tiles.find((t) => t.hold === event.currentTarget).under.textContent;
  }

  function say() {
    const [height, width] = sent.size, i = point && point[1] * width + point[0];
    for (const { under, value, cross } of tiles) {
      under.textContent = value(i);
      cross.hidden = !point;
      if (point) Object.assign(cross.style, { left: 100 * (point[0] + 0.5) / width + "%", top: 100 * (point[1] + 0.5) / height + "%" });
    }
  }

  function draw() {
    at("threshold-said").textContent = (chosen.threshold / 100).toFixed(2);
    at("alpha-said").textContent = sent.alphas.length ? String(sent.alphas[chosen.alpha]) : "";
    at("alpha").setAttribute("aria-valuetext", at("alpha-said").textContent);
    at("threshold").setAttribute("aria-valuetext", at("threshold-said").textContent);
    for (const tile of tiles) {
      tile.draw();
      if (tile.chosenBy) tile.hold.setAttribute("aria-pressed", tile.chosenBy === chosen.method + " " + chosen.reading);
    }
    say();
    at("body").dataset.drawn = JSON.stringify(chosen);
  }

  let waiting = 0;
  const soon = () => { waiting = waiting || requestAnimationFrame(() => { waiting = 0; draw(); }); };  // once a frame, however fast a slider moves

  // ---- words ---------------------------------------------------------------------------------------------------------
  function words(place, { text, target, chunk }) {
    const edges = [...new Set([0, ...chunk, ...target, text.length])].sort((a, b) => a - b);
    place.replaceChildren(...edges.slice(0, -1).map((start, n) => {
      const part = text.slice(start, edges[n + 1]), within = ([a, b]) => start >= a && start < b;
      return within(target) ? make("mark", "target", part) : make("span", within(chunk) ? "chunk" : "", part);
    }));
  }
  const list = (place, notes) => place.replaceChildren(...notes.map((note) => make("li", "", note)));

  function bar(canvas, colours) {
    const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, 1);
    new Uint32Array(image.data.buffer).set(colours);
    context.putImageData(image, 0, 0);
  }

  function listen() {
    if (at("body").dataset.listens) return;
    at("body").dataset.listens = "yes";
    for (const name of ["threshold", "alpha"]) at(name).addEventListener("input", (event) => { chosen[name] = Number(event.target.value); soon(); });
    new ResizeObserver(() => sent && soon()).observe(at("grid"));
  }

  function complain(text) {
    clearTimeout(slow);
    Object.assign(at("alert"), { hidden: !text, textContent: text || "" });
    at("empty").hidden = true;
    document.getElementById("viewer").classList.remove("busy");
  }

  // ---- what Gradio calls ---------------------------------------------------------------------------------------------
  return {
    async show(given) {
      if (!given) return;
      complain(given.error);
      if (given.error) { at("body").hidden = true; return; }
      [photo, ...maps] = await Promise.all([load(given.picture), ...given.expressions.map((e) => unpack(e.maps))]);
      const before = sent && sent.methods.length === given.methods.length && sent.alphas.length === given.alphas.length;
      sent = given;
      sent.heatTable = table(sent.heat);
      sent.differenceTable = table(sent.difference);
      if (!before) Object.assign(chosen, sent.begin);
      point = null;
      at("body").hidden = false;
      Object.assign(at("warning"), { hidden: !sent.warning, textContent: sent.warning || "" });
      at("alpha").max = Math.max(0, sent.alphas.length - 1);
      at("alpha").value = chosen.alpha;
      at("threshold").value = chosen.threshold;
      at("alpha-label").hidden = sent.alphas.length < 2;
      sent.expressions.forEach((expression, n) => {
        words(at(n ? "words-2" : "words"), expression);
        list(at(n ? "notes-2" : "notes"), expression.notes);
      });
      bar(at("bar"), sent.heatTable);
      bar(at("bar-2"), sent.differenceTable);
      build();
      listen();
      draw();
      at("said").textContent = "Maps of “" + sent.expressions.map((e) => e.text).join("” and “") + "” are shown.";
      const top = at("body").getBoundingClientRect().top;
      if (top < 0 || top > 0.7 * innerHeight) at("body").scrollIntoView({ block: "start" });
    },
    busy() {
      complain("");
      document.getElementById("viewer").classList.add("busy");
      at("empty").textContent = "Looking …";
      slow = setTimeout(() => { at("empty").textContent = SLOW; }, 15000);
      at("empty").hidden = false;
    },
    complain,
    choice: () => sent && { variant: variantOf(chosen.method, chosen.reading), threshold: chosen.threshold / 100 },
    tell: (text) => { at("file").textContent = text; },
    save: (file) => Object.assign(make("a"), { href: file.url, download: file.orig_name }).click(),
  };
})();
