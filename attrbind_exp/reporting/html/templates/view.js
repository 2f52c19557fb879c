"use strict";
// One expression: its figures under every variant, all its maps on one scale, or the command that draws them. Its
// address is report.html#expression=GROUP:SAMPLE, so that links, the way back and a reload work as on any page.

const address = (number, id) => `#expression=${number}:${encodeURIComponent(id.toWellFormed())}`;

function pictureOf(number, id) {
  return DATA.pictures.find((p) => p.group === number && p.id === id);
}

function isDrawn(number, id) {
  return Boolean(pictureOf(number, id) || Object.hasOwn(DATA.groups[number].beside, id));
}

// A word for a shell, in quotes.
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function openView() {
  const number = Number(location.hash.match(/^#expression=(\d+):/)?.[1] ?? -1);
  const given = DATA.groups[number];
  const row = given?.rows.find((r) => address(number, r[2]) === location.hash);
  const picture = given && DATA.pictures.find((p) => p.group === number && address(number, p.id) === location.hash);
  if (!row && !picture) return;
  const [text, target, id, slices, iou, image] = row ?? [picture.title, "", picture.id, [], picture.iou ?? [], ""];
  by("view-title").textContent = text;
  const about = [`sample ${id}`, image && `image ${image}`, target && `target ${target}`, ...slices.map((i) => given.slices[i])];
  by("view-about").textContent = about.filter(Boolean).join("; ");
  by("view-rows").replaceChildren(...given.columns.map((column, i) => figureRow(column.label, iou[i], iou[0], i)));
  by("view-iou").textContent = given.threshold === null ? "IoU, %" : `IoU, % at ${given.threshold.toFixed(2)}`;
  by("view-drawn").hidden = !picture;
  by("view-maps").replaceChildren(...(picture ? Object.keys(picture.panels).map((name) => mapOf(picture, name)) : []));
  by("view-classes").replaceChildren(...(picture ? classMarks(picture) : []));
  const files = picture ? [] : given.beside[id] ?? [];
  by("view-beside").hidden = !files.length;
  by("view-beside").replaceChildren("All its maps on one scale, in the run's folder: ", ...files.flatMap((file, i) => [i ? ", " : "", element("a", { href: file }, file)]));
  showCommand(given, text, image, Boolean(picture || files.length));
  if (!by("view").open) by("view").showModal();
  by("view").scrollTop = 0;
}

function figureRow(label, value, first, i) {
  const known = value !== null && value !== undefined;
  const change = i && known && first !== null ? value - first : null;
  const figures = [known ? value.toFixed(1) : "-", change === null ? "" : (change > 0.05 ? "+" : "") + (Math.abs(change) < 0.05 ? "0.0" : change.toFixed(1))];
  return element("tr", {}, null, [element("th", { scope: "row" }, label), ...figures.map((figure) => element("td", {}, figure))]);
}

function mapOf(picture, name) {
  const at = Object.hasOwn(picture.thresholds, name) ? `, threshold ${picture.thresholds[name].toFixed(2)}` : "";
  return element("figure", {}, null, [
    element("img", { src: picture.panels[name], alt: `${name}: ${picture.title}` }), element("figcaption", {}, name + at),
  ]);
}

function showCommand(given, text, image, drawn) {
  const [note, command] = by("view-draw").children;
  by("view-draw").hidden = !given.draw || !image || text.length > LONGEST;
  note.textContent = `${drawn ? "To draw it anew" : "No maps were drawn of it. To draw them"}, with the file of image ${image} in place of PICTURE:`;
  command.textContent = `attrbind segment image=PICTURE expression=${quoted(text)} ${given.draw}`;
}

function startView() {
  by("view-close").addEventListener("click", () => by("view").close());
  by("view").addEventListener("close", () => history.replaceState(null, "", "#expressions"));
  addEventListener("hashchange", openView);
  openView();
}
