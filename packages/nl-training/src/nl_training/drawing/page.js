"use strict";
const facts = JSON.parse(document.getElementById("facts").textContent);
const [view, stage, links, panel] = ["view", "stage", "links", "panel"].map((id) => document.getElementById(id));
const SVG = "http://www.w3.org/2000/svg";
const groups = [...document.querySelectorAll(".group")];
const nodes = new Map([...document.querySelectorAll("[data-node]")].map((g) => [Number(g.dataset.node), g]));
const home = new Map(facts.groups.flatMap((group, i) => group.spots.map((spot) => [spot, i])));
const open = facts.groups.map(() => facts.open);
const camera = { x: 0, y: 0, scale: 1 };
let corners = [], whole = { width: 1, height: 1 };

/* Where the groups stand: one below the other, in as many columns as make the whole a bit wider than high. */
function place() {
  const boxes = facts.groups.map((group, i) => (open[i] ? group : facts.shut));
  const area = boxes.reduce((sum, b) => sum + (b.width + facts.columnGap) * (b.height + facts.gap), 0);
  const limit = Math.max(Math.sqrt(area / facts.ratio), ...boxes.map((b) => b.height));
  const columns = [[]];
  let y = 0;
  boxes.forEach((b, i) => {
    if (columns.at(-1).length && y + b.height > limit) { columns.push([]); y = 0; }
    columns.at(-1).push(i);
    y += b.height + facts.gap;
  });
  let left = 0;
  whole = { width: 0, height: 0 };
  for (const column of columns) {
    const width = Math.max(...column.map((i) => boxes[i].width));
    y = 0;
    for (const i of column) {
      corners[i] = { x: left + (width - boxes[i].width) / 2, y, lane: left - facts.columnGap / 2, box: boxes[i] };
      y += boxes[i].height + facts.gap;
    }
    whole.width = left + width;
    whole.height = Math.max(whole.height, y - facts.gap);
    left += width + facts.columnGap;
  }
  groups.forEach((g, i) => {
    g.setAttribute("transform", `translate(${corners[i].x} ${corners[i].y})`);
    g.classList.toggle("closed", !open[i]);
  });
  links.replaceChildren(...corners.slice(1).map((end, i) => shape("path", { class: "link", d: link(corners[i], end) })));
}

function link(start, end) {
  const x0 = start.x + start.box.exit, y0 = start.y + start.box.height, x1 = end.x + end.box.width / 2, y1 = end.y;
  if (y1 <= y0) return `M${x0} ${y0} V${y0 + facts.gap / 2} H${end.lane} V${y1 - facts.gap / 2} H${x1} V${y1}`;
  const middle = (y0 + y1) / 2;
  return `M${x0} ${y0} C${x0} ${middle} ${x1} ${middle} ${x1} ${y1}`;
}

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function element(name, attributes, ...children) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
}

/* The camera. */
function look() {
  stage.setAttribute("transform", `translate(${camera.x} ${camera.y}) scale(${camera.scale})`);
}

function zoom(factor, x = innerWidth / 2, y = innerHeight / 2) {
  const scale = Math.min(4, Math.max(0.03, camera.scale * factor));
  camera.x = x - ((x - camera.x) * scale) / camera.scale;
  camera.y = y - ((y - camera.y) * scale) / camera.scale;
  camera.scale = scale;
  look();
}

function fit() {
  const top = document.querySelector("header").offsetHeight + 36, bottom = 64, side = 30;
  const width = innerWidth - 2 * side - (panel.hidden ? 0 : panel.offsetWidth), height = innerHeight - top - bottom;
  camera.scale = Math.min(1, width / whole.width, height / whole.height);
  camera.x = side + (width - whole.width * camera.scale) / 2;
  camera.y = top + Math.max(0, (height - whole.height * camera.scale) / 2);
  look();
}

function toggle(i) {
  const before = { ...corners[i] };
  open[i] = !open[i];
  place();
  camera.x += (before.x + before.box.width / 2 - corners[i].x - corners[i].box.width / 2) * camera.scale;
  camera.y += (before.y - corners[i].y) * camera.scale;
  look();
}

function every(state) {
  open.fill(state);
  place();
  fit();
}

/* One node: its edges, and the panel with all that is known of it. */
function forget() {
  for (const lit of document.querySelectorAll(".chosen, .near")) lit.classList.remove("chosen", "near");
  panel.hidden = true;
  document.body.classList.remove("told");
}

function choose(number) {
  forget();
  nodes.get(number).classList.add("chosen");
  for (const edge of document.querySelectorAll(".edge")) {
    const inGroup = groups[home.get(number)].contains(edge);
    if (inGroup && edge.dataset.edge.split(" ").includes(String(number))) edge.classList.add("near");
  }
  panel.replaceChildren(...told(number));
  panel.hidden = false;
  panel.scrollTop = 0;
  document.body.classList.add("told");
}

function goTo(number) {
  const i = home.get(number);
  if (!open[i]) toggle(i);
  choose(number);
  const seen = nodes.get(number).getBoundingClientRect();
  camera.x += (innerWidth - panel.offsetWidth) / 2 - seen.x - seen.width / 2;
  camera.y += innerHeight / 2 - seen.y - seen.height / 2;
  look();
}

function told(number) {
  const spot = facts.spots[number];
  const users = facts.spots.flatMap((other, i) => (other.inputs.includes(number) ? [i] : []));
  const rows = [["shape", spot.shape], ["memory", spot.memory], ...spot.attributes];
  if (spot.stored) rows.push(["stored as", spot.stored]);
  if (spot.residual) rows.push(["against the complex step", spot.residual]);
  const away = element("button", { className: "away", title: "close", onclick: forget }, "×");
  return [
    away,
    element("h2", {}, spot.kind),
    element("p", { className: "soft" }, `${spot.label === spot.kind ? "" : `${spot.label} in `}${facts.groups[home.get(number)].title}`),
    ...(spot.formula.forward
      ? [heading("formula"), element("code", {}, `forward   ${spot.formula.forward}`), element("code", {}, `backward  ${spot.formula.backward}`)]
      : [heading("what it is"), element("p", {}, spot.formula.summary)]),
    heading("this one"),
    table([], rows),
    ...numbers("value", spot.value),
    ...numbers("gradient", spot.gradient, spot.needs ? "The loss does not reach it." : "None is asked for."),
    ...ways("takes", spot.inputs),
    ...ways("goes to", users),
  ];
}

function heading(text) {
  return element("h3", {}, text);
}

function table(head, rows) {
  const line = (cell, row) => element("tr", {}, ...row.map((text) => element(cell, {}, text)));
  return element("table", {}, element("thead", {}, ...(head.length ? [line("th", head)] : [])), element("tbody", {}, ...rows.map((row) => line("td", row))));
}

function number(value) {
  if (value === 0) return "0";
  return Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

function numbers(title, found, none = "No number in it is finite.") {
  if (!found) return [heading(title), element("p", { className: "soft" }, none)];
  const largest = Math.max(...found.counts), width = 100 / found.counts.length;
  const bars = shape("svg", { class: "bars", viewBox: "0 0 100 40", preserveAspectRatio: "none" });
  found.counts.forEach((count, i) => {
    const height = 40 * Math.sqrt(count / largest); /* the root, so that tails are seen */
    bars.append(shape("rect", { x: i * width, y: 40 - height, width: width * 0.86, height }));
  });
  const rows = [["mean", number(found.mean)], ["standard deviation", number(found.std)], ["exactly zero", `${(100 * found.zeros).toFixed(1)} %`]];
  if (found.infinite) rows.push(["not finite", String(found.infinite)]);
  const ends = element("div", { className: "ends" }, element("span", {}, number(found.low)), element("span", {}, number(found.high)));
  return [heading(title), bars, ends, table([], rows)];
}

function ways(title, spots) {
  const buttons = spots.map((i) => {
    const { label, shape } = facts.spots[i];
    return element("button", { className: "way", onclick: () => goTo(i) }, label, element("span", {}, shape));
  });
  return buttons.length ? [heading(title), ...buttons] : [];
}

/* Hands: a press that moves drags the picture, one that does not is a click. */
let press = null;
view.addEventListener("pointerdown", (event) => {
  press = { x: event.clientX, y: event.clientY, moved: false };
});
addEventListener("pointermove", (event) => {
  if (!press) return;
  const dx = event.clientX - press.x, dy = event.clientY - press.y;
  if (!press.moved && Math.hypot(dx, dy) < 4) return;
  press = { x: event.clientX, y: event.clientY, moved: true };
  view.classList.add("held");
  camera.x += dx;
  camera.y += dy;
  look();
});
addEventListener("pointerup", (event) => {
  const clicked = press && !press.moved;
  press = null;
  view.classList.remove("held");
  if (!clicked) return;
  const node = event.target.closest("[data-node]"), header = event.target.closest(".header");
  if (node) choose(Number(node.dataset.node));
  else if (header) toggle(Number(header.closest(".group").dataset.group));
  else forget();
});
view.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY * 0.0015), event.clientX, event.clientY);
}, { passive: false });
addEventListener("keydown", (event) => {
  if (event.key === "Escape") forget();
  if (event.key === "Enter" && event.target.dataset.node) choose(Number(event.target.dataset.node));
});
for (const node of nodes.values()) node.setAttribute("tabindex", "0");
const tools = { open: () => every(true), shut: () => every(false), fit, closer: () => zoom(1.3), farther: () => zoom(1 / 1.3) };
for (const [id, act] of Object.entries(tools)) document.getElementById(id).onclick = act;
addEventListener("resize", fit);
place();
fit();
