"use strict";
// Values of the records go into the page as text, never as markup.
const at = (id) => document.getElementById(id);
let session = sessionStorage.getItem("fedward-review") || "";
let held = [];
let current = null;
let shown = "";

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

function list() {
  const waiting = held.filter((one) => one.decision === "pending").length;
  at("state").textContent = held.length ? `${waiting} of ${held.length} wait for a decision.` : "Nothing is held.";
  at("list").replaceChildren(...held.map((one) => {
    const item = document.createElement("li"), button = document.createElement("button"), small = document.createElement("small");
    button.textContent = one.input;
    small.textContent = one.decision === "pending" ? one.reason : `${one.decision} by ${one.reviewer}`;
    button.className = one.decision;
    button.setAttribute("aria-current", String(current !== null && one.id === current.id));
    button.append(small);
    button.onclick = () => choose(one);
    item.append(button);
    return item;
  }));
}

async function choose(one) {
  current = one;
  at("outcome").textContent = "";
  at("input").textContent = one.input;
  at("reason").textContent = `Held because: ${one.reason}.`;
  const slider = at("frame");
  slider.max = String(Math.max(one.frames.length - 1, 0));
  const marked = one.frames.indexOf(one.boxes.length ? one.boxes[0][0] : 0);
  slider.value = String(Math.max(marked, 0));
  at("frames").hidden = one.frames.length < 2;
  document.querySelector("figure").hidden = one.frames.length === 0;
  at("clear").disabled = one.decision !== "pending" || !one.liftable || one.frames.length === 0;
  at("refuse").disabled = one.decision !== "pending";
  at("advice").textContent = one.decision !== "pending" ? `${one.decision} by ${one.reviewer}, ${one.decided}`
    : one.liftable ? "Look at every frame. Cleared files go through all other rules and the checker."
    : "Looking at the picture does not answer this reason; the file can only be refused.";
  list();
  await picture();
}

async function picture() {
  const frame = current.frames[Number(at("frame").value)];
  if (frame === undefined) return;
  at("number").textContent = `${frame + 1}`;
  const answer = await call(`/api/picture/${current.id}/${frame}/${at("window").value}`);
  const next = URL.createObjectURL(await answer.blob());
  at("picture").onload = () => { URL.revokeObjectURL(shown); shown = next; boxes(frame); };
  at("picture").src = next;
}

function boxes(frame) {
  const image = at("picture"), drawing = at("boxes");
  drawing.setAttribute("viewBox", `0 0 ${image.naturalWidth} ${image.naturalHeight}`);
  drawing.setAttribute("preserveAspectRatio", "none");
  Object.assign(drawing.style, {
    left: `${image.offsetLeft}px`, top: `${image.offsetTop}px`, width: `${image.offsetWidth}px`, height: `${image.offsetHeight}px`,
  });
  drawing.replaceChildren(...current.boxes.filter((box) => box[0] === frame).map(([, top, left, bottom, right]) => {
    const drawn = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of Object.entries({ x: left, y: top, width: right - left, height: bottom - top }))
      drawn.setAttribute(name, String(value));
    return drawn;
  }));
}

async function decide(decision) {
  at("clear").disabled = at("refuse").disabled = true;
  const body = JSON.stringify({ id: current.id, decision });
  try {
    const decided = await (await call("/api/decide", { method: "POST", body })).json();
    held = held.map((one) => (one.id === decided.id ? decided : one));
    const next = held.find((one) => one.decision === "pending");
    await choose(next || decided);
  } catch (error) {
    await choose(current);
    at("outcome").textContent = error.message;
  }
}

const told = (error) => { at("state").textContent = error.message; };
at("frame").oninput = () => picture().catch(told);
at("window").onchange = () => picture().catch(told);
at("clear").onclick = () => decide("cleared");
at("refuse").onclick = () => decide("refused");
addEventListener("resize", () => current && boxes(current.frames[Number(at("frame").value)]));
begin().catch(told);
