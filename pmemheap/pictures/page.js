/* The map of a heap: drawn, zoomed and told.
 *
 *   data ──► unpack ──► heap: pieces end to end on one axis of bytes, arena behind arena
 *   heap, view ──► draw ──► rows of the canvas       view: which bytes of the axis are shown
 *   keys, pointer, buttons, search ──► view, cursor ──► draw, tell
 *
 * What a row of the data means is said in packing.py. Offsets have 63 bits, so they are BigInt. */
(() => {
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const UNIT = data.unit, KINDS = data.kinds;
const RUN = 0, PACKED = 1, LARGE = 2, WITHHELD = 3, FREE = 4, UNUSED = 5, MIXED = KINDS.length;
const ROW = 11, GAP = 1, TABLE_MOST = 100, SPAN_LEAST = 256, BLOCK_LEAST = 3;
const element = (id) => document.getElementById(id);
const canvas = element("map"), pencil = canvas.getContext("2d");

// ---------------------------------------------------------------- the heap

function rowOf(numbers) {
  const [nunits, kind = 0, live = 0, room = 0, size = 0, allocated = 0, asked = 0, bare = 0, age = 0, more = 0, regions = 0] = numbers;
  const held = allocated || (kind === LARGE ? nunits * UNIT : size * live);
  const units = kind === MIXED ? KINDS.map((_, i) => numbers[11 + i] || 0) : KINDS.map((_, i) => (i === kind ? nunits : 0));
  const main = units.indexOf(Math.max(...units));
  return { nunits, kind: main, isMixed: kind === MIXED, live, room, size, allocated: held, asked: asked || held, bare, age, pieces: more + 1, regions, units };
}

function unpack() {
  const heap = { rows: [], starts: [], arenas: [], places: new Map(), end: 0 };
  for (const arena of data.arenas) addArena(heap, arena);
  heap.starts.push(heap.end);
  return heap;
}

function addArena(heap, packed) {
  const rows = packed.rows.map(rowOf), first = heap.rows.length;
  const arena = { name: packed.name || "default arena", origin: BigInt(packed.origin), base: heap.end, first: packed.first * UNIT, cell: packed.cell };
  for (let i = 0; i < packed.order.length; i += 2) {
    for (let n = packed.order[i + 1]; n > 0; n--) {
      heap.rows.push(rows[packed.order[i]]);
      heap.starts.push(heap.end);
      heap.end += rows[packed.order[i]].nunits * UNIT;
    }
  }
  for (const [index, blocks] of Object.entries(packed.places)) heap.places.set(first + Number(index), blocks);
  arena.stop = heap.end;
  heap.arenas.push(arena);
}

function pieceAt(position) {
  let low = 0, high = heap.rows.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (heap.starts[middle] <= position) low = middle; else high = middle - 1;
  }
  return low;
}

const arenaAt = (position) => heap.arenas.find((each) => position < each.stop) || heap.arenas[heap.arenas.length - 1];

function offsetOf(position) {
  const arena = arenaAt(position);
  return arena.origin + BigInt(Math.floor(position - arena.base + arena.first));
}

function positionOf(offset) {
  for (const arena of heap.arenas) {
    const at = Number(offset - arena.origin) - arena.first;
    if (offset >= arena.origin && at >= 0 && at < arena.stop - arena.base) return arena.base + at;
  }
  return -1;
}

// ---------------------------------------------------------------- blocks in a piece

function bitsOf(text) {
  const bytes = atob(text);
  return (index) => (bytes.charCodeAt(index >> 3) >> (index & 7)) & 1;
}

/* Call `each(start, stop, lives)` for the blocks of a piece between two places in it; false if it is not known where they are. */
function eachBlock(index, from, to, each) {
  const row = heap.rows[index], places = heap.places.get(index);
  if (row.isMixed || row.pieces > 1) return false;
  if (row.kind === LARGE) { each(0, row.allocated, true); return true; }
  if (row.kind === PACKED && places) return eachGap(places, each);
  if (row.kind !== RUN || !row.size) return false;
  if (!places && row.live > 0 && row.live < row.room) return false;
  const lives = places ? bitsOf(places) : () => row.live > 0;
  const last = Math.min(row.room, Math.ceil(to / row.size));
  for (let i = Math.max(Math.floor(from / row.size), 0); i < last; i++) each(i * row.size, (i + 1) * row.size, lives(i));
  return true;
}

function eachGap(places, each) {
  let at = 0;
  for (let i = 0; i < places.length; i += 2) {
    each(at + places[i] * 16, at + (places[i] + places[i + 1]) * 16, true);
    at += (places[i] + places[i + 1]) * 16;
  }
  return true;
}

function blockAt(index, position) {
  const inside = position - heap.starts[index];
  let found = null;
  eachBlock(index, inside, inside + 1, (start, stop, lives) => {
    if (start <= inside && inside < stop) found = { start, stop, lives };
  });
  return found;
}

// ---------------------------------------------------------------- words

const NAMES = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];

function bytesText(count) {
  let power = 0;
  while (count >= 1024 && power < NAMES.length - 1) { count /= 1024; power++; }
  return power === 0 ? `${count} bytes` : `${count.toFixed(count < 10 ? 2 : count < 100 ? 1 : 0)} ${NAMES[power]}`;
}

const hex = (position) => "0x" + offsetOf(position).toString(16);
const percent = (share) => (100 * share).toFixed(share < 0.1 ? 1 : 0) + " %";
const fillOf = (row) => row.allocated / (row.nunits * UNIT);

function whatText(row) {
  if (row.isMixed) return "several kinds, most of it " + KINDS[row.kind];
  const many = row.pieces > 1 ? `${row.pieces.toLocaleString()} pieces: ` : "";
  if (row.kind === RUN) return many + (row.size ? `run of blocks of ${row.size.toLocaleString()} bytes` : "runs of several sizes");
  if (row.kind === LARGE) return many + (row.pieces > 1 ? "large blocks" : "large block");
  return many + KINDS[row.kind];
}

function moreText(row) {
  const told = [];
  if (row.asked < row.allocated) told.push(`${bytesText(row.allocated - row.asked)} not asked for`);
  if (row.bare) told.push(row.bare === row.nunits ? "nothing behind it: given back, or never stored to" : `nothing behind ${bytesText(row.bare * UNIT)} of it`);
  if (row.age) told.push(row.age === 1 ? "became free in this interval, or is of unknown age" : `free for ${row.age - 1} intervals at least`);
  if (row.regions) told.push(`${row.regions} kept region${row.regions > 1 ? "s" : ""} begin${row.regions > 1 ? "" : "s"} here`);
  if (row.isMixed) told.push(row.units.map((n, i) => (n ? `${KINDS[i]} ${bytesText(n * UNIT)}` : "")).filter(Boolean).join(", "));
  return told.join("; ");
}

function pieceText(index) {
  const row = heap.rows[index], start = heap.starts[index], arena = arenaAt(start);
  const blocks = row.room ? `${row.live.toLocaleString()} of ${row.room.toLocaleString()} blocks live, ${percent(fillOf(row))} full` : "";
  const where = heap.arenas.length > 1 ? ` in ${arena.name}` : "";
  return [`${hex(start)}${where}, ${bytesText(row.nunits * UNIT)}: ${whatText(row)}`, blocks, moreText(row)].filter(Boolean).join("; ");
}

function placeText(position) {
  const index = pieceAt(position), block = blockAt(index, position);
  if (!block || heap.rows[index].kind === LARGE) return pieceText(index);
  const said = block.lives ? "live block" : "room for a block";
  return `${said} at ${hex(heap.starts[index] + block.start)}, ${bytesText(block.stop - block.start)}, in: ${pieceText(index)}`;
}

// ---------------------------------------------------------------- colours

const style = getComputedStyle(document.documentElement);
let colours = {};

function readColours() {
  for (const name of ["run", "packed", "large", "withheld", "free", "unused", "used", "bare", "backed", "low", "high", "cursor", "paper", "ink"]) {
    colours[name] = style.getPropertyValue("--" + name).trim();
  }
  colours.kinds = [colours.run, colours.packed, colours.large, colours.withheld, colours.free, colours.unused];
}

const isFree = (row) => row.kind === FREE || row.kind === UNUSED;
const freeColour = (row) => (row.kind === UNUSED ? colours.unused : colours.free);
const hue = (number) => `hsl(${(number * 137.5) % 360} 55% 52%)`;
const mix = (share) => `color-mix(in srgb, ${colours.high} ${Math.round(100 * share)}%, ${colours.low})`;
const SIZES = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];
const sizeStep = (size) => Math.max(Math.ceil(Math.log2(size)) - 4, 0);

/* Of each way to colour: the colour of a row, by its place in the heap, and the legend. */
const WAYS = {
  kind: {
    colour: (row) => colours.kinds[row.kind],
    legend: () => [...KINDS.map((name, i) => [colours.kinds[i], name]), [colours.paper, "room for blocks, seen closely"]],
  },
  size: {
    colour: (row) => (isFree(row) ? freeColour(row) : row.size ? hue(sizeStep(row.size)) : row.kind === LARGE ? colours.large : colours.used),
    legend: () => [...SIZES.map((size) => [hue(sizeStep(size)), `up to ${size.toLocaleString()}`]), [colours.large, "whole units"], [colours.used, "others, or several sizes"], [colours.free, "free"], [colours.unused, "never used"]],
  },
  fill: {
    colour: (row) => (isFree(row) ? freeColour(row) : mix(fillOf(row))),
    legend: () => [...[0, 0.25, 0.5, 0.75, 1].map((share) => [mix(share), percent(share) + " live"]), [colours.free, "free"], [colours.unused, "never used"]],
  },
  age: {
    colour: (row) => (row.kind === UNUSED ? colours.unused : row.kind !== FREE ? colours.used : row.age ? mix(1 - Math.min(row.age - 1, 8) / 8) : colours.bare),
    legend: () => [[mix(1), "free since this interval, or of unknown age"], [mix(0.5), "for 4 intervals"], [mix(0), "for 8 or more"], [colours.bare, "nothing behind it"], [colours.used, "in use"], [colours.unused, "never used"]],
  },
  back: {
    colour: (row) => (row.kind === UNUSED ? colours.unused : row.kind !== FREE ? colours.used : 2 * row.bare >= row.units[FREE] ? colours.bare : colours.backed),
    legend: () => [[colours.bare, "free, nothing behind most of it"], [colours.backed, "free, with memory or file blocks behind it"], [colours.used, "in use"], [colours.unused, "never used"]],
  },
  arena: {
    colour: (row, position) => (isFree(row) ? freeColour(row) : hue(heap.arenas.indexOf(arenaAt(position)))),
    legend: () => [...heap.arenas.map((arena, i) => [hue(i), arena.name]), [colours.free, "free"], [colours.unused, "never used"]],
  },
};

function drawLegend() {
  element("legend").replaceChildren(...WAYS[way].legend().map(([colour, name]) => {
    const item = document.createElement("li"), patch = document.createElement("span");
    patch.style.background = colour;
    item.append(patch, name);
    return item;
  }));
}

// ---------------------------------------------------------------- drawing

/* Where bytes lie on the canvas: rows of `width` pixels, `scale` bytes to a pixel. */
function grid() {
  const width = canvas.clientWidth, rows = Math.max(Math.floor(canvas.clientHeight / ROW), 1);
  return { width, rows, scale: (view.stop - view.start) / (width * rows) };
}

function fillPixels(shape, from, to, colour) {
  if (colour !== ink) pencil.fillStyle = ink = colour;
  for (let row = Math.floor(from / shape.width); row * shape.width < to; row++) {
    const left = Math.max(from - row * shape.width, 0), right = Math.min(to - row * shape.width, shape.width);
    pencil.fillRect(left, row * ROW, right - left, ROW - GAP);
  }
}

/* Fill what is wider than a pixel; of what is narrower, the widest in each pixel. */
function painter(shape) {
  let pixel = -1, widest = 0, colour = "";
  const flush = () => { if (widest > 0) fillPixels(shape, pixel, pixel + 1, colour); widest = 0; };
  const paint = (start, stop, paintColour) => {
    const from = (Math.max(start, view.start) - view.start) / shape.scale, to = (Math.min(stop, view.stop) - view.start) / shape.scale;
    if (to <= from) return;
    if (Math.floor(from) !== pixel) { flush(); pixel = Math.floor(from); }
    if (to - from >= 1) { flush(); fillPixels(shape, from, to, paintColour); return; }
    if (to - from > widest) { widest = to - from; colour = paintColour; }
  };
  return { paint, flush };
}

function paintPiece(shape, brush, index) {
  const row = heap.rows[index], start = heap.starts[index], colour = WAYS[way].colour(row, start);
  const isWide = row.size / shape.scale >= BLOCK_LEAST || (row.kind === PACKED && 64 / shape.scale >= BLOCK_LEAST);
  if (!isWide) { brush.paint(start, heap.starts[index + 1], colour); return; }
  brush.paint(start, heap.starts[index + 1], row.kind === RUN && !heap.places.has(index) && row.live > 0 && row.live < row.room ? colour : colours.paper);
  const line = shape.scale * 0.6;
  eachBlock(index, view.start - start, view.stop - start, (from, to, lives) => {
    if (lives) brush.paint(start + from, start + to - line, colour);
  });
}

function draw() {
  const ratio = window.devicePixelRatio || 1, shape = grid();
  canvas.width = Math.round(shape.width * ratio);
  canvas.height = Math.round(canvas.clientHeight * ratio);
  pencil.setTransform(ratio, 0, 0, ratio, 0, 0);
  pencil.clearRect(0, 0, shape.width, canvas.clientHeight);
  const brush = painter(shape);
  ink = "";
  for (let i = pieceAt(view.start); i < heap.rows.length && heap.starts[i] < view.stop; i++) paintPiece(shape, brush, i);
  brush.flush();
  if (cursor >= 0) frame(shape, heap.starts[cursor], heap.starts[cursor + 1]);
}

/* Frame a piece; of the rows between its first and its last one only the sides. */
function frame(shape, start, stop) {
  const from = (Math.max(start, view.start) - view.start) / shape.scale, to = (Math.min(stop, view.stop) - view.start) / shape.scale;
  const first = Math.floor(from / shape.width), last = Math.max(Math.ceil(to / shape.width) - 1, first);
  pencil.fillStyle = colours.cursor;
  for (let row = first; from < to && row <= last; row++) {
    const left = Math.max(from - row * shape.width, 0), right = Math.max(Math.min(to - row * shape.width, shape.width), left + 2);
    pencil.fillRect(left, row * ROW, 2, ROW - GAP);
    pencil.fillRect(right - 2, row * ROW, 2, ROW - GAP);
    if (row === first) pencil.fillRect(left, row * ROW, right - left, 2);
    if (row === last) pencil.fillRect(left, row * ROW + ROW - GAP - 2, right - left, 2);
  }
}

function tellView() {
  const span = view.stop - view.start, isAll = span >= heap.end;
  element("view").textContent = `${isAll ? "The whole heap" : "In view"}: ${bytesText(span)} from ${hex(view.start)}, a row is ${bytesText(Math.round(span / grid().rows))}`;
  fillTable();
}

function fillTable() {
  const first = pieceAt(view.start), last = pieceAt(view.stop - 1), shown = [];
  for (let i = first; i <= last && shown.length < TABLE_MOST; i++) shown.push(tableRow(i));
  element("pieces").tBodies[0].replaceChildren(...shown);
  const count = last - first + 1;
  element("pieces-caption").textContent = count > TABLE_MOST ? `The first ${TABLE_MOST} of ${count.toLocaleString()} pieces in view` : `What is in view: ${count} piece${count > 1 ? "s" : ""}`;
}

function tableRow(index) {
  const row = heap.rows[index], made = document.createElement("tr"), head = document.createElement("th");
  head.scope = "row";
  head.textContent = hex(heap.starts[index]);
  made.append(head);
  const blocks = row.room ? `${row.live.toLocaleString()} of ${row.room.toLocaleString()}` : "";
  for (const text of [(row.nunits * UNIT).toLocaleString(), whatText(row), blocks, row.room ? percent(fillOf(row)) : "", moreText(row)]) {
    const cell = document.createElement("td");
    cell.textContent = text;
    made.append(cell);
  }
  return made;
}

// ---------------------------------------------------------------- moving about

function show(start, span) {
  span = Math.min(Math.max(span, Math.min(SPAN_LEAST, heap.end)), heap.end);
  view.start = Math.min(Math.max(start, 0), heap.end - span);
  view.stop = view.start + span;
  if (!waiting) { waiting = true; requestAnimationFrame(refresh); }
}

function refresh() {
  waiting = false;
  draw();
  tellView();
}

function zoom(factor, around) {
  const span = (view.stop - view.start) * factor;
  show(around - (around - view.start) * factor, span);
}

const middle = () => (cursor >= 0 && heap.starts[cursor] < view.stop && heap.starts[cursor + 1] > view.start
  ? Math.max(heap.starts[cursor], view.start) : (view.start + view.stop) / 2);

function showAll() { show(0, heap.end); }

function point(index, said) {
  cursor = Math.min(Math.max(index, 0), heap.rows.length - 1);
  const start = heap.starts[cursor], span = view.stop - view.start;
  if (start < view.start || start >= view.stop) show(start - span / 2, span); else draw();
  element("where").textContent = pieceText(cursor);
  if (said) element("said").textContent = pieceText(cursor);
}

function showPiece(index) {
  point(index, true);
  const start = heap.starts[cursor], span = heap.starts[cursor + 1] - start;
  show(start - span / 8, span * 1.25);
}

/* The offset that a text names, as Python writes it; -1 if it names none. */
function parsed(text) {
  const plain = text.trim().replace(/_/g, "");
  return /^(0x[0-9a-f]+|[0-9]+)$/i.test(plain) ? BigInt(plain) : -1n;
}

function goTo(text) {
  const position = positionOf(parsed(text)), field = element("offset");
  field.setAttribute("aria-invalid", String(position < 0));
  if (position < 0) {
    element("where").textContent = element("said").textContent = `An offset inside of the heap expected, ${text || "nothing"} found.`;
    return;
  }
  showPiece(pieceAt(position));
  element("where").textContent = element("said").textContent = placeText(position);
}

function byRow(step) {
  const shape = grid(), at = (cursor >= 0 ? heap.starts[cursor] : view.start) + step * shape.scale * shape.width;
  const target = pieceAt(Math.min(Math.max(at, 0), heap.end - 1));
  point(target === cursor ? cursor + step : target, true);
}

const KEYS = {
  ArrowRight: () => point(cursor < 0 ? pieceAt(view.start) : cursor + 1, true),
  ArrowLeft: () => point(cursor < 0 ? pieceAt(view.start) : cursor - 1, true),
  ArrowDown: () => byRow(1),
  ArrowUp: () => byRow(-1),
  Home: () => point(0, true),
  End: () => point(heap.rows.length - 1, true),
  Enter: () => showPiece(cursor < 0 ? pieceAt(view.start) : cursor),
  Escape: showAll,
  "+": () => zoom(0.5, middle()),
  "=": () => zoom(0.5, middle()),
  "-": () => zoom(2, middle()),
  PageDown: () => show(view.stop, view.stop - view.start),
  PageUp: () => show(2 * view.start - view.stop, view.stop - view.start),
  "/": () => element("offset").focus(),
};

function pressed(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
}

function positionUnder(event) {
  const shape = grid(), box = canvas.getBoundingClientRect();
  const left = Math.min(Math.max(event.clientX - box.left - canvas.clientLeft, 0), shape.width - 1);
  const row = Math.min(Math.max(Math.floor((event.clientY - box.top - canvas.clientTop) / ROW), 0), shape.rows - 1);
  return Math.min(view.start + (row * shape.width + left) * shape.scale, heap.end - 1);
}

function wheeled(event) {
  event.preventDefault();
  zoom(event.deltaY < 0 ? 0.8 : 1.25, positionUnder(event));
}

function moved(event) {
  if (!drag) { element("where").textContent = placeText(positionUnder(event)); return; }
  const shape = grid();
  const by = (event.clientX - drag.x + Math.round((event.clientY - drag.y) / ROW) * shape.width) * shape.scale;
  show(drag.start - by, view.stop - view.start);
}

function grabbed(event) {
  drag = { x: event.clientX, y: event.clientY, start: view.start };
  canvas.setPointerCapture(event.pointerId);
}

function letGo(event) {
  const stayed = drag && Math.abs(event.clientX - drag.x) + Math.abs(event.clientY - drag.y) < 4;
  drag = null;
  if (stayed) point(pieceAt(positionUnder(event)), false);
}

// ---------------------------------------------------------------- the timeline

const SVG = "http://www.w3.org/2000/svg";

function shape(name, attributes, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

/* A moment: calls, asked for, live, in memory, mapped, segments added, given back. */
function drawTimeline() {
  const moments = data.moments, most = Math.max(...moments.map((each) => Math.max(each[2], each[3])), 1), last = moments.length - 1;
  const x = (i) => 70 + (i / Math.max(last, 1)) * 900, y = (bytes) => 210 - (bytes / most) * 190;
  const line = (column, colour) => shape("path", { d: moments.map((each, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(each[column]).toFixed(1)}`).join(""), style: `stroke:var(--${colour})` });
  const peak = moments.reduce((best, each) => (each[3] > best[3] ? each : best));
  const made = shape("svg", { viewBox: "0 0 1000 240", role: "img", "aria-label": `Memory over ${moments[last][0].toLocaleString()} calls: at most ${bytesText(peak[3])}, after ${peak[0].toLocaleString()} calls; ${bytesText(moments[last][3])} in the end; ${moments[last][5]} segments added, ${moments[last][6]} given back` });
  for (const share of [0, 0.5, 1]) made.append(shape("text", { x: 64, y: y(share * most) + 4, "text-anchor": "end" }, bytesText(Math.round(share * most))), shape("path", { d: `M70 ${y(share * most)}H970`, style: "stroke:var(--line)" }));
  for (const [i, each] of moments.entries()) if (i && each[5] + each[6] > moments[i - 1][5] + moments[i - 1][6]) made.append(shape("path", { d: `M${x(i)} 210v${each[6] > moments[i - 1][6] ? -14 : 8}`, style: `stroke:var(--${each[6] > moments[i - 1][6] ? "bare" : "backed"})` }));
  made.append(line(3, "backed"), line(2, "large"), line(1, "bare"));
  for (const [i, [name, colour]] of [["in memory", "backed"], ["live", "large"], ["asked for", "bare"]].entries()) made.append(shape("text", { x: 80 + i * 110, y: 235, style: `fill:var(--${colour})` }, name));
  element("timeline").append(made);
}

// ---------------------------------------------------------------- begin

const heap = unpack(), view = { start: 0, stop: heap.end };
let way = "kind", ink = "", cursor = -1, drag = null, waiting = false;

function begin() {
  readColours();
  drawLegend();
  canvas.addEventListener("keydown", pressed);
  canvas.addEventListener("wheel", wheeled, { passive: false });
  canvas.addEventListener("pointermove", moved);
  canvas.addEventListener("pointerdown", grabbed);
  canvas.addEventListener("pointerup", letGo);
  canvas.addEventListener("dblclick", (event) => showPiece(pieceAt(positionUnder(event))));
  element("colour").addEventListener("change", (event) => { way = event.target.value; drawLegend(); draw(); });
  element("in").addEventListener("click", () => zoom(0.5, middle()));
  element("out").addEventListener("click", () => zoom(2, middle()));
  element("all").addEventListener("click", showAll);
  element("search").addEventListener("submit", (event) => { event.preventDefault(); goTo(element("offset").value); });
  window.addEventListener("resize", refresh);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); drawLegend(); draw(); });
  if (data.moments.length) drawTimeline();
  refresh();
  if (data.at !== null) goTo(data.at);
}

begin();
})();
