"use strict";
const facts = JSON.parse(document.getElementById("facts").textContent);
const [view, stage, links, panel] = ["view", "stage", "links", "panel"].map((id) => document.getElementById(id));
const SVG = "http://www.w3.org/2000/svg";
const groups = [...document.querySelectorAll(".group")], titles = [...document.querySelectorAll(".graph-title")];
const nodes = new Map([...document.querySelectorAll("[data-node]")].map((g) => [Number(g.dataset.node), g]));
const groupOf = new Map(facts.groups.flatMap((group, i) => group.nodes.map((node) => [node, i])));
const graphs = facts.graphs.map((_, graph) => facts.groups.flatMap((group, i) => (group.graph === graph ? [i] : [])));
const open = facts.groups.map(() => facts.open && !panelRoom().under); /* closed on a phone: nodes would be too small */
const camera = { x: 0, y: 0, scale: 1 };
let corners = [], whole = { width: 1, height: 1 };

/* Place the graphs side by side, the groups of each in columns of the height that allows the largest scale. */
function place() {
  const boxes = facts.groups.map((group, i) => (open[i] ? group : facts.shut));
  const lowest = Math.max(...boxes.map((b) => b.height));
  const highest = boxes.reduce((sum, b) => sum + b.height + facts.gap, 0);
  const limits = Array.from({ length: facts.steps }, (_, step) => lowest * (highest / lowest) ** (step / facts.steps));
  const scales = limits.map((limit) => { placeAll(boxes, limit); return room().scale; });
  placeAll(boxes, limits[scales.indexOf(Math.max(...scales))]);
  links.replaceChildren();
  for (const own of graphs) {
    own.slice(1).forEach((i, k) => links.append(shape("path", { class: "link", d: link(corners[own[k]], corners[i]) })));
  }
  groups.forEach((g, i) => {
    g.setAttribute("transform", `translate(${corners[i].x} ${corners[i].y})`);
    g.classList.toggle("closed", !open[i]);
  });
}

function placeAll(boxes, limit) {
  whole = { width: 0, height: 0 };
  graphs.forEach((own, graph) => {
    titles[graph].dataset.left = graph ? whole.width + facts.graphGap : 0;
    placeGraph(own, boxes, limit, Number(titles[graph].dataset.left));
  });
}

function placeGraph(own, boxes, limit, left) {
  const columns = [[]];
  let y = 0;
  for (const i of own) {
    if (columns.at(-1).length && y + boxes[i].height > limit) { columns.push([]); y = 0; }
    columns.at(-1).push(i);
    y += boxes[i].height + facts.gap;
  }
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
function applyCamera() {
  stage.setAttribute("transform", `translate(${camera.x} ${camera.y}) scale(${camera.scale})`);
  for (const head of titles) { /* constant size at any scale */
    head.setAttribute("transform", `translate(${head.dataset.left} ${-facts.gap / 2}) scale(${1 / camera.scale}) translate(0 -10)`);
  }
}

function zoom(factor, x = innerWidth / 2, y = innerHeight / 2) {
  const scale = Math.min(4, Math.max(0.03, camera.scale * factor));
  camera.x = x - ((x - camera.x) * scale) / camera.scale;
  camera.y = y - ((y - camera.y) * scale) / camera.scale;
  camera.scale = scale;
  applyCamera();
}

/* Return the free area of the window, and the scale at which the drawing fits into it. */
function room() {
  const [above, below, tools] = ["header", "#legend", "nav"].map((name) => document.querySelector(name).offsetHeight);
  const { beside, under } = panelRoom();
  const top = above + 56, bottom = below + 28 + under + (under ? tools : 0), side = beside ? 30 : 12;
  const width = innerWidth - 2 * side - beside, height = innerHeight - top - bottom;
  return { top, side, width, height, scale: Math.min(1, width / whole.width, height / whole.height) };
}

/* The panel is beside the drawing, or under it in a narrow window. */
function panelRoom() {
  const narrow = panel.offsetWidth === innerWidth;
  return { beside: narrow ? 0 : panel.offsetWidth, under: narrow ? panel.offsetHeight : 0 };
}

function fit() {
  const { top, side, width, height, scale } = room();
  camera.scale = scale;
  camera.x = side + (width - whole.width * scale) / 2;
  camera.y = top + Math.max(0, (height - whole.height * scale) / 2);
  applyCamera();
}

/* Open or close a layer in both graphs; the clicked box keeps its position. */
function toggle(i) {
  const before = { ...corners[i] }, state = !open[i];
  facts.groups.forEach((group, k) => { if (group.title === facts.groups[i].title) open[k] = state; });
  place();
  camera.x += (before.x + before.box.width / 2 - corners[i].x - corners[i].box.width / 2) * camera.scale;
  camera.y += (before.y - corners[i].y) * camera.scale;
  applyCamera();
}

function every(state) {
  open.fill(state);
  place();
  fit();
}

/* Selection of a node: its edges, the related nodes of the other graph, and the panel. */
function dim() {
  for (const lit of document.querySelectorAll(".selected, .near, .related")) lit.classList.remove("selected", "near", "related");
}

function deselect() {
  dim();
  panel.replaceChildren(...overview());
}

function select(number) {
  dim();
  nodes.get(number).classList.add("selected");
  for (const edge of groups[groupOf.get(number)].querySelectorAll(".edge")) {
    if (edge.dataset.edge.split(" ").includes(String(number))) edge.classList.add("near");
  }
  for (const related of facts.nodes[number].related) {
    nodes.get(related).classList.add("related");
    groups[groupOf.get(related)].classList.add("related");
  }
  panel.replaceChildren(...details(number));
  panel.scrollTop = 0;
}

function goTo(number) {
  const i = groupOf.get(number);
  if (!open[i]) toggle(i);
  select(number);
  const seen = nodes.get(number).getBoundingClientRect(), { top, side, width, height } = room();
  const { beside, under } = panelRoom();
  if (seen.left > side && seen.right < side + width && seen.top > top && seen.bottom < top + height) return;
  camera.x += (innerWidth - beside) / 2 - seen.x - seen.width / 2;
  camera.y += (innerHeight - under) / 2 - seen.y - seen.height / 2;
  applyCamera();
}

function details(number) {
  const node = facts.nodes[number], group = facts.groups[groupOf.get(number)];
  const users = facts.nodes.flatMap((other, i) => (other.inputs.includes(number) ? [i] : []));
  const rows = [["shape", node.shape], ["memory", node.memory], ...node.attributes];
  if (node.stored) rows.push(["stored as", node.stored]);
  if (node.residual) rows.push(["against the complex step", node.residual]);
  const { summary, forward, backward } = node.formula, codes = [["forward ", forward], ["backward", backward]];
  const where = `${group.title}, ${facts.graphs[group.graph].name}`;
  const none = `None: the compiler ${group.graph ? "inserted" : "removed"} it.`;
  const formulas = codes.map(([name, text]) => element("code", {}, `${name}  ${text}`));
  return [
    element("button", { className: "away", title: "close", onclick: deselect }, "×"),
    element("h2", {}, node.kind),
    element("p", { className: "soft" }, node.label === node.kind ? where : `${node.label} in ${where}`),
    ...(!forward || node.family === "fused" ? [heading("description"), element("p", {}, summary)] : []),
    ...(forward ? [heading("formula"), ...formulas] : []),
    ...costs(node, facts.graphs[group.graph]),
    heading("attributes"),
    table([], rows),
    ...numbers("value", node.value),
    ...numbers("gradient", node.gradient, node.no_gradient),
    ...nodeList(group.graph ? "made from" : "became", node.related, none),
    ...nodeList("inputs", node.inputs),
    ...nodeList("consumers", users),
  ];
}

function costs(node, graph) {
  const { forward, backward } = node.costs;
  if (!forward && !backward && node.family === "leaves") return [];
  if (!forward && !backward) return [heading("cost"), element("p", { className: "soft" }, "None: a view of the same memory.")];
  const row = (title, format) => [title, ...[forward, backward].map((cost) => (cost ? format(cost) : "–"))];
  const rows = [
    row("time", (cost) => cost.time),
    row("of the step", (cost) => `${((100 * cost.seconds) / graph.seconds).toFixed(1)} %`),
    row("operations", (cost) => cost.operations),
    row("read and written", (cost) => cost.memory),
    row("calls", (cost) => cost.calls),
  ];
  const algorithm = node.algorithm ? [table([], [["algorithm", node.algorithm]])] : [];
  return [heading("cost"), table(["", "forward", "backward"], rows), ...algorithm];
}

/* Content of the panel without a selection. */
function overview() {
  const seconds = (i) => Object.values(facts.nodes[i].costs).reduce((sum, cost) => sum + cost.seconds, 0);
  const slowest = (graph) => graphs[graph].flatMap((i) => facts.groups[i].nodes).filter(seconds)
    .sort((a, b) => seconds(b) - seconds(a)).slice(0, 6);
  const share = (i, graph) => `${((100 * seconds(i)) / facts.graphs[graph].seconds).toFixed(1)} %`;
  return [
    element("h2", {}, "The same graph twice"),
    element("p", {}, "On the left as defined; on the right as rewritten by the compiler, with images stored as rows × columns × images × channels."),
    element("p", {}, "Click a node for its data, and to highlight the nodes that it became or was made from."),
    ...facts.graphs.flatMap(({ name }, graph) => [heading(`slowest, ${name}`), ...slowest(graph).map((i) => nodeButton(i, share(i, graph)))]),
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

function numbers(title, found, none = "No finite value.") {
  if (!found) return [heading(title), element("p", { className: "soft" }, none)];
  const largest = Math.max(...found.counts), width = 100 / found.counts.length;
  const bars = shape("svg", { class: "bars", viewBox: "0 0 100 40", preserveAspectRatio: "none" });
  found.counts.forEach((count, i) => {
    const height = 40 * Math.sqrt(count / largest); /* square root, so that tails are visible */
    bars.append(shape("rect", { x: i * width, y: 40 - height, width: width * 0.86, height }));
  });
  const rows = [["mean", number(found.mean)], ["standard deviation", number(found.std)], ["exactly zero", `${(100 * found.zeros).toFixed(1)} %`]];
  if (found.infinite) rows.push(["not finite", String(found.infinite)]);
  const ends = element("div", { className: "ends" }, element("span", {}, number(found.low)), element("span", {}, number(found.high)));
  return [heading(title), bars, ends, table([], rows)];
}

function nodeList(title, nodes, none = "") {
  if (!nodes.length) return none ? [heading(title), element("p", { className: "soft" }, none)] : [];
  return [heading(title), ...nodes.map((i) => nodeButton(i, facts.nodes[i].shape))];
}

function nodeButton(i, words) {
  const label = element("span", {}, facts.nodes[i].label), layer = element("small", {}, facts.groups[groupOf.get(i)].title);
  return element("button", { className: "node-button", onclick: () => goTo(i) }, label, layer, element("span", {}, words));
}

/* Pointers: a press that moves drags the drawing, otherwise it is a click; two fingers zoom it. */
const pressed = new Map();
let moved = false;
view.addEventListener("pointerdown", (event) => {
  moved = pressed.size > 0;
  pressed.set(event.pointerId, { x: event.clientX, y: event.clientY });
});
addEventListener("pointermove", (event) => {
  const last = pressed.get(event.pointerId), { clientX: x, clientY: y } = event;
  if (!last || (!moved && Math.hypot(x - last.x, y - last.y) < 4)) return;
  moved = true;
  view.classList.add("held");
  const other = [...pressed].find(([id]) => id !== event.pointerId)?.[1];
  pressed.set(event.pointerId, { x, y });
  if (other) {
    zoom(Math.hypot(x - other.x, y - other.y) / Math.hypot(last.x - other.x, last.y - other.y), other.x, other.y);
    return;
  }
  camera.x += x - last.x;
  camera.y += y - last.y;
  applyCamera();
});
addEventListener("pointercancel", (event) => pressed.delete(event.pointerId));
addEventListener("pointerup", (event) => {
  const clicked = pressed.delete(event.pointerId) && !moved;
  view.classList.remove("held");
  if (!clicked) return;
  const node = event.target.closest("[data-node]"), header = event.target.closest(".header");
  if (node) select(Number(node.dataset.node));
  else if (header) toggle(Number(header.closest(".group").dataset.group));
  else deselect();
});
view.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY * 0.0015), event.clientX, event.clientY);
}, { passive: false });
addEventListener("keydown", (event) => {
  if (event.key === "Escape") deselect();
  if (event.key === "Enter" && event.target.dataset.node) select(Number(event.target.dataset.node));
});
for (const node of nodes.values()) node.setAttribute("tabindex", "0");
const tools = { open: () => every(true), shut: () => every(false), fit, closer: () => zoom(1.3), farther: () => zoom(1 / 1.3) };
for (const [id, act] of Object.entries(tools)) document.getElementById(id).onclick = act;
addEventListener("resize", fit);
deselect();
place();
fit();
