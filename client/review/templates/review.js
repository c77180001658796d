"use strict";
// Values of the records go into the page as text, never as markup.
const EVERY = -1, MOST = 200, PAUSE = 60, EDGES = ["left", "top", "right", "bottom"];
const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);
const drafts = new Map(); // the boxes of each file, by the record's name
const looked = new Map(); // the frames that were shown, likewise
let session = sessionStorage.getItem("fedward-review") || "";
let held = [], current = null, chosen = null, shown = "", asked = 0, armed = false, busy = false;

async function call(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { ...options.headers, "X-Fedward-Session": session } });
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer;
}

async function begin() {
  const token = location.hash.slice(1);
  history.replaceState(null, "", "/");
  if (token) {
    const answer = await fetch("/api/session", { method: "POST", headers: { "X-Fedward-Token": token } });
    const told = await answer.json();
    if (!answer.ok && !session) throw new Error(told.error);
    if (answer.ok) sessionStorage.setItem("fedward-review", (session = told.session));
  }
  held = await (await call("/api/held")).json();
  document.querySelector("main").hidden = held.length === 0;
  list();
  const first = held.find((one) => one.decision === "pending") || held[0];
  if (first) await choose(first);
}

const pending = (one) => one.decision === "pending";
const plural = (number, one, many) => `${number} ${number === 1 ? one : many}`;
const boxesOf = (one) => drafts.get(one.id) || [];
const open = () => current !== null && pending(current) && current.liftable && current.count > 0;
const frameNow = () => Number(at("frame").value);
const outcomeOf = (one) => `${one.decision === "refused" ? "refused" : one.blanked.length
  ? `released, ${plural(one.blanked.length, "box", "boxes")} blanked` : "released as it was"} by ${one.reviewer}${one.count > 1
  ? `, ${one.looked} of ${one.count} frames looked at` : ""}`;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function list() {
  const waiting = held.filter(pending).length;
  at("state").textContent = held.length ? `${waiting} of ${held.length} wait for a decision.` : "Nothing is held.";
  at("list").replaceChildren(...held.map((one) => {
    const button = element("button", { type: "button", className: one.decision, onclick: () => choose(one).catch(told) },
      element("bdi", { textContent: one.input }),
      element("small", { textContent: pending(one) ? one.reason : outcomeOf(one) }));
    button.setAttribute("aria-current", String(current !== null && one.id === current.id));
    return element("li", {}, button);
  }));
}

function fromRecord(one) {
  const rows = pending(one) ? one.boxes : one.blanked;
  return rows.map(([frame, top, left, bottom, right]) => ({ frame, top, left, bottom, right }));
}

async function choose(one) {
  current = one;
  chosen = null;
  if (!drafts.has(one.id) || !pending(one)) drafts.set(one.id, fromRecord(one));
  if (!looked.has(one.id)) looked.set(one.id, new Set(one.seen));
  if (pending(one) && one.liftable && boxesOf(one).length > MOST) join();
  at("outcome").textContent = "";
  at("input").textContent = one.input;
  at("about").textContent = one.about;
  at("reason").textContent = `Held because: ${one.reason}.`;
  const slider = at("frame"), first = boxesOf(one)[0];
  slider.max = String(Math.max(one.count - 1, 0));
  slider.value = String(Math.max(first ? first.frame : 0, 0));
  at("frames").hidden = one.count < 2;
  document.querySelector("figure").hidden = one.count === 0;
  at("drawing").hidden = !open();
  at("boxes").classList.toggle("still", !open());
  list();
  changed();
  await picture();
}

// Everything that follows from the boxes: the drawing, the list below it, and what the buttons say.
function changed() {
  draw();
  marks();
  buttons();
}

function buttons() {
  const number = boxesOf(current).length;
  armed = false;
  at("clear").disabled = !open() || busy;
  at("blank").disabled = !open() || number === 0 || number > MOST || busy;
  at("refuse").disabled = !pending(current) || busy;
  at("clear").textContent = "Release as it is";
  at("blank").textContent = number ? `Release with ${plural(number, "box", "boxes")} blanked` : "Release with boxes blanked";
  at("clear").classList.remove("armed");
  at("clear").classList.toggle("first", number === 0);
  at("blank").classList.toggle("first", number > 0);
  advise();
}

function advise() {
  const seen = looked.get(current.id).size, all = current.count;
  at("advice").textContent = !pending(current) ? `${outcomeOf(current)}, ${current.decided}`
    : !current.liftable ? "Looking at the picture does not answer this reason; the file can only be refused."
    : !all ? "The picture cannot be shown here, so nobody has seen it; the file can only be refused."
    : boxesOf(current).length > MOST ? `More than ${MOST} boxes cannot be blanked: join those that overlap, or draw larger ones.`
    : `${all > 1 ? `Looked at ${seen} of ${all} frames. ` : ""}Whatever is released goes through all other rules and the checker.`;
}

async function picture(passing = false) {
  const frame = frameNow(), one = current, turn = ++asked;
  if (!one.count) return;
  at("number").textContent = `${frame + 1} of ${one.count}`;
  at("picture").alt = `Frame ${frame + 1} of the held image`;
  draw();
  // A slider that is drawn over a film passes frames that nobody looks at: those are not asked for.
  if (passing) await new Promise((resume) => setTimeout(resume, PAUSE));
  if (turn !== asked) return;
  const answer = await call(`/api/picture/${one.id}/${frame}/${at("window").value}`).catch((error) => {
    if (turn === asked) at("picture").removeAttribute("src"); // what still stands there is another picture
    throw error;
  });
  const next = URL.createObjectURL(await answer.blob());
  if (turn !== asked) return URL.revokeObjectURL(next); // somebody has gone on meanwhile
  at("picture").onload = () => {
    URL.revokeObjectURL(shown);
    shown = next;
    looked.get(one.id).add(frame);
    draw();
    advise();
  };
  at("picture").src = next;
}

const placed = (box, frame) => box.frame === frame || box.frame === EVERY;

function rectangle(box, name) {
  const drawn = document.createElementNS(SVG, "rect");
  const sides = { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top, class: name };
  for (const [key, value] of Object.entries(sides)) drawn.setAttribute(key, String(value));
  return drawn;
}

function draw() {
  const image = at("picture"), drawing = at("boxes"), size = Math.max(current.columns, current.rows) / 32;
  drawing.setAttribute("viewBox", `0 0 ${current.columns} ${current.rows}`);
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("font-size", String(size));
  Object.assign(drawing.style, {
    left: `${image.offsetLeft}px`, top: `${image.offsetTop}px`, width: `${image.offsetWidth}px`, height: `${image.offsetHeight}px`,
  });
  const nodes = [];
  boxesOf(current).forEach((box, index) => {
    if (!placed(box, frameNow())) return;
    const label = document.createElementNS(SVG, "text");
    label.setAttribute("x", String(box.left));
    label.setAttribute("y", String(box.top > size * 1.2 ? box.top - size * 0.25 : box.bottom + size));
    label.setAttribute("stroke-width", String(size / 6));
    label.textContent = String(index + 1);
    nodes.push(rectangle(box, box === chosen ? "chosen" : ""), label);
  });
  drawing.replaceChildren(...nodes);
}

function marks() {
  at("merge").hidden = current.count < 2 || boxesOf(current).length < 2;
  at("restore").hidden = current.boxes.length === 0;
  at("marks").replaceChildren(...boxesOf(current).map(mark));
}

function mark(box, index) {
  const number = index + 1, limit = { left: current.columns, right: current.columns, top: current.rows, bottom: current.rows };
  const item = element("li", { className: box === chosen ? "chosen" : "" }, element("b", { textContent: `Box ${number}` }));
  item.addEventListener("focusin", () => { if (chosen !== box) pick(box); });
  if (current.count > 1) {
    const every = element("input", { type: "checkbox", checked: box.frame === EVERY });
    every.onchange = () => { box.frame = every.checked ? EVERY : frameNow(); changed(); focusOn(index, "input[type=checkbox]"); };
    const where = element("button", { type: "button", textContent: `frame ${box.frame + 1}`, hidden: box.frame === EVERY, onclick: () => show(box.frame) });
    where.setAttribute("aria-label", `Box ${number}: show frame ${box.frame + 1}`);
    item.append(element("label", {}, every, " every frame"), where);
  }
  const edges = element("span", { className: "edges" });
  for (const edge of EDGES) {
    const input = element("input", { type: "number", min: "0", max: String(limit[edge]), step: "1", value: String(box[edge]), name: edge });
    input.setAttribute("aria-label", `Box ${number}, ${edge} edge, pixels`);
    input.onchange = () => {
      const next = { ...box, [edge]: Math.min(Math.max(Math.round(Number(input.value)), 0), limit[edge]) };
      if (next.left < next.right && next.top < next.bottom) Object.assign(box, next);
      input.value = String(box[edge]);
      draw();
      buttons();
    };
    edges.append(element("label", {}, `${edge} `, input));
  }
  const remove = element("button", { type: "button", textContent: "Remove", onclick: () => {
    boxesOf(current).splice(index, 1);
    changed();
    if (!focusOn(Math.min(index, boxesOf(current).length - 1), "button:last-child")) at("add").focus();
  } });
  remove.setAttribute("aria-label", `Remove box ${number}`);
  item.append(edges, remove);
  return item;
}

function focusOn(index, what) {
  const found = at("marks").children[index]?.querySelector(what);
  found?.focus();
  return Boolean(found);
}

function pick(box) {
  chosen = box;
  [...at("marks").children].forEach((item, index) => item.classList.toggle("chosen", boxesOf(current)[index] === box));
  draw();
}

async function show(frame) {
  if (frame < 0 || frame >= current.count) return;
  at("frame").value = String(frame);
  await picture().catch(told);
}

function add(box) {
  if (boxesOf(current).length >= MOST) {
    at("outcome").textContent = `No more than ${MOST} boxes; draw larger ones.`;
    return;
  }
  boxesOf(current).push(box);
  chosen = box;
  changed();
  at("marks").lastElementChild.scrollIntoView({ block: "nearest" });
}

// Boxes that overlap, on whatever frames, become one on every frame: text of a film stands still.
function join() {
  const joined = [];
  for (const box of boxesOf(current)) {
    let next = { ...box, frame: EVERY };
    for (let found; (found = joined.findIndex((one) => one.left < next.right && next.left < one.right && one.top < next.bottom && next.top < one.bottom)) >= 0;) {
      const [one] = joined.splice(found, 1);
      next = { frame: EVERY, left: Math.min(one.left, next.left), top: Math.min(one.top, next.top), right: Math.max(one.right, next.right), bottom: Math.max(one.bottom, next.bottom) };
    }
    joined.push(next);
  }
  drafts.set(current.id, joined);
}

// Where a pointer is, in pixels of the picture.
function point(event) {
  const place = at("boxes").getBoundingClientRect();
  const clamp = (value, most) => Math.min(Math.max(value, 0), most);
  return {
    x: clamp(((event.clientX - place.left) / place.width) * current.columns, current.columns),
    y: clamp(((event.clientY - place.top) / place.height) * current.rows, current.rows),
  };
}

function drag(event) {
  if (!open() || busy || !event.isPrimary || event.button !== 0) return;
  const drawing = at("boxes"), from = point(event), frame = frameNow();
  let box = null, rect = null;
  drawing.setPointerCapture(event.pointerId);
  drawing.onpointermove = (moved) => {
    const to = point(moved);
    box = {
      frame, left: Math.floor(Math.min(from.x, to.x)), top: Math.floor(Math.min(from.y, to.y)),
      right: Math.ceil(Math.max(from.x, to.x)), bottom: Math.ceil(Math.max(from.y, to.y)),
    };
    rect?.remove();
    drawing.append((rect = rectangle(box, "chosen")));
  };
  const end = (keep) => () => {
    drawing.onpointermove = drawing.onpointerup = drawing.onpointercancel = null;
    rect?.remove();
    // A click draws nothing: it picks the box under it, if there is one.
    const drawn = box && box.right - box.left > 2 && box.bottom - box.top > 2;
    if (keep && drawn) add(box);
    else if (keep) pick(boxesOf(current).findLast((one) => placed(one, frame)
      && one.left <= from.x && from.x < one.right && one.top <= from.y && from.y < one.bottom) || null);
  };
  drawing.onpointerup = end(true);
  drawing.onpointercancel = end(false); // a second finger has come, or the window has gone
}

async function decide(decision, boxes = []) {
  const one = current;
  busy = true;
  buttons();
  const rows = boxes.map((box) => [box.frame, box.top, box.left, box.bottom, box.right]);
  const body = JSON.stringify(rows.length ? { id: one.id, decision, boxes: rows } : { id: one.id, decision });
  try {
    const decided = await (await call("/api/decide", { method: "POST", body })).json();
    busy = false;
    // A node's own copy is gone now, and with it what was told of the file.
    Object.assign(decided, { input: one.input, about: one.about });
    held = held.map((other) => (other.id === decided.id ? decided : other));
    await choose(held.find(pending) || decided).catch(told); // that is about the next file, not about this decision
    at("outcome").textContent = `${decided.input}: ${outcomeOf(decided)}.`;
    at("input").focus();
  } catch (error) {
    busy = false;
    buttons();
    at("outcome").textContent = error.message;
  }
}

// Boxes that are drawn and would not be blanked are asked about once more.
function asItIs() {
  const number = boxesOf(current).length;
  if (!number || armed) return decide("cleared");
  armed = true;
  at("clear").classList.add("armed");
  at("clear").textContent = `Press again: ${plural(number, "box", "boxes")} will not be blanked`;
}

function step(by) {
  at("frame").value = String(Number(at("frame").value) + by);
  picture().catch(told);
}

const told = (error) => { at("state").textContent = error.message; };
at("frame").oninput = () => picture(true).catch(told);
at("window").onchange = () => picture().catch(told);
at("back").onclick = () => step(-1);
at("on").onclick = () => step(1);
at("cover").onchange = () => at("boxes").classList.toggle("cover", at("cover").checked);
at("boxes").onpointerdown = drag;
at("add").onclick = () => {
  const { columns, rows } = current, third = (length, part) => Math.round((length * part) / 3);
  add({ frame: frameNow(), left: third(columns, 1), top: third(rows, 1), right: Math.max(third(columns, 2), third(columns, 1) + 1), bottom: Math.max(third(rows, 2), third(rows, 1) + 1) });
  focusOn(boxesOf(current).length - 1, "input[type=number]");
};
at("merge").onclick = () => { join(); chosen = null; changed(); };
at("restore").onclick = () => { drafts.set(current.id, fromRecord(current)); chosen = null; changed(); };
at("clear").onclick = asItIs;
at("blank").onclick = () => decide("cleared", boxesOf(current));
at("refuse").onclick = () => decide("refused");
addEventListener("resize", () => current && draw());
begin().catch(told);
