"use strict";
// Heat maps: two at a time, one drawn over the other as far as its slider says.

function card(picture, left, right, { columns, threshold }) {
  const panel = (name) => (picture.panels[name] ? name : Object.keys(picture.panels)[0]);
  const names = [panel(left), panel(right)];
  const [l, r] = names.map((name) => (Object.hasOwn(picture.thresholds, name) ? `${name}, threshold\u00a0${picture.thresholds[name].toFixed(2)}` : name));
  const stage = element("div", { class: "stage" });
  stage.style.setProperty("--at", "50%");
  const range = element("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": `from ${names[0]} to ${names[1]}: ${picture.title}` });
  range.addEventListener("input", () => stage.style.setProperty("--at", `${range.value}%`));
  stage.append(
    element("img", { src: picture.panels[names[1]], alt: `${names[1]}: ${picture.title}` }), element("img", { src: picture.panels[names[0]], alt: `${names[0]}: ${picture.title}` }),
    element("i"), range,
  );
  const figures = names
    .map((name) => columns.findIndex((c) => c.label === name))
    .map((i) => (i < 0 || !picture.iou || picture.iou[i] === null ? null : picture.iou[i].toFixed(1)));
  const said = figures.filter((f) => f !== null);
  // A picture may be drawn at other thresholds than the one at which the page compares.
  const other = names.some((name) => Object.hasOwn(picture.thresholds, name) && picture.thresholds[name] !== threshold);
  const iou = said.length ? `IoU ${said.join(" to ")}${other && threshold !== null ? `, both at ${threshold.toFixed(2)}` : ""}` : "";
  return element("article", { class: "card", "aria-label": picture.title }, null, [
    stage, element("div", { class: "names" }, null, [element("span", {}, l), element("span", {}, r)]), element("p", {}, null, [element("a", { href: address(picture.group, picture.id) }, picture.title)]), element("p", {}, iou), ...classMarks(picture),
  ]);
}

// The colours of a picture's classes, each with its name.
function classMarks(picture) {
  return Object.entries(picture.classes).map(([name, colour]) => {
    const mark = element("i");
    mark.style.background = `rgb(${colour.map(Number).join(" ")})`;
    return element("span", { class: "swatch" }, null, [mark, element("b", {}, name)]);
  });
}

const KNOWN = { gallery: "spread over the run", improved: "most improved", harmed: "most harmed" };

// 1 where the right variant's IoU is higher than the left one's, -1 where it is lower, 0 where both show the same figure;
// null where one of them was not scored.
function gain(picture, left, right) {
  const [a, b] = [left, right].map((name) => picture.iou?.[DATA.groups[group].columns.findIndex((c) => c.label === name)] ?? null);
  return a === null || b === null ? null : Math.abs(b - a) < 0.05 ? 0 : Math.sign(b - a);
}

function showPictures() {
  const pictures = DATA.pictures.filter((p) => p.group === group);
  const which = by("which").selectedOptions[0]?.dataset.gallery;
  const slice = by("picture-slice").selectedOptions[0]?.dataset.slice;
  const change = by("picture-change").value;
  const [left, right] = [by("left"), by("right")].map((select) => select.selectedOptions[0]?.textContent);
  const chosen = pictures.filter((p) => (!which || p.galleries.includes(which)) && (!slice || p.slices.includes(slice))
    && (!change || gain(p, left, right) === Number(change)));
  by("cards").replaceChildren(...chosen.map((p) => card(p, left, right, DATA.groups[group])));
  by("pictures-count").textContent = pictures.length ? `${chosen.length} of ${pictures.length} are shown.` : "No pictures were drawn (gallery=0, changed=0).";
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
  const slices = [...new Set(pictures.flatMap((p) => p.slices))].sort();
  by("picture-slice").replaceChildren(element("option", {}, "all"), ...slices.map((name) => {
    const option = element("option", {}, name);
    option.dataset.slice = name;
    return option;
  }));
  by("picture-slice").parentElement.hidden = !slices.length;
  by("picture-change").value = "";
  showPictures();
}
