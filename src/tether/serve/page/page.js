"use strict";
const find = name => document.querySelector(name);
const words = find("#words"), said = find("#said"), hits = find("#hits"), like = find("#like"), dialog = find("#more");
const filters = find("#filters"), slider = find("#cutoff"), door = find("#door"), note = find("#note"), next = find("#next");
const K = 48, WAIT = 250;
let token = sessionStorage.getItem("token") || "", file = null, key = null, asked = 0, columns = [], controller = null;
let k = K, most = K, large = false, auto = null, shownFor = "";

function make(tag, text, attributes) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  return Object.assign(made, attributes || {});
}

function say(text, bad) {
  said.textContent = text;
  said.classList.toggle("bad", Boolean(bad));
}

async function get(path, options) {
  const given = options || {};
  if (token) given.headers = { ...given.headers, Authorization: `Bearer ${token}` };
  const answer = await fetch(path, given);
  if (answer.status === 401) {
    door.hidden = false;
    find("#ask").hidden = true;
    throw new Error(token ? "The token is wrong." : "");
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Error(told.detail || `the server answers ${answer.status}`);
  }
  return answer;
}

// What the server knows
async function start() {
  try {
    const about = await (await get("about")).json();
    door.hidden = true;
    find("#ask").hidden = false;
    if (!about.store) {
      say("This server has no store to search. Start it with --store photos.db.");
      for (const one of document.querySelectorAll("#ask input, #ask button")) one.disabled = true;
      return;
    }
    find("#about").textContent = `${about.store.images.toLocaleString("en")} images`;
    columns = about.store.columns.filter(one => one.name !== "key");
    most = about.limits.k;
    large = about.store.large;
    showFilters();
    if (about.store.cutoff) {
      auto = about.store.cutoff.auto;
      find(".cut").append(make("button", "auto", { type: "button", title: about.store.cutoff.said, onclick: () => { setCutoff(auto); soon(); } }));
    }
    restore();
  } catch (error) { say(error.message, true); }
}

function showFilters() {
  for (const column of columns) {
    const label = make("label", column.name);
    if (column.values && column.values.length) {
      const select = make("select");
      select.append(make("option", "any", { value: "" }));
      column.values.forEach((value, place) => select.append(make("option", String(value), { value: String(place + 1) })));
      column.read = () => select.value ? [{ column: column.name, value: column.values[Number(select.value) - 1] }] : [];
      column.write = given => { select.value = given.length ? String(column.values.indexOf(given[0].value) + 1 || "") : ""; };
      select.onchange = () => search();
      label.append(select);
    } else if (column.kind === "number" || column.kind === "integer") {
      const pair = make("span", null, { className: "pair" });
      const ends = [["from", ">="], ["to", "<="]].map(([hint, op]) => {
        const input = make("input", null, { type: "number", step: "any", placeholder: hint, ariaLabel: `${column.name} ${hint}`, oninput: soon });
        pair.append(input);
        return { op, input };
      });
      column.read = () => ends.flatMap(({ op, input }) => input.value === "" ? [] : [{ column: column.name, op, value: Number(input.value) }]);
      column.write = given => { for (const { op, input } of ends) input.value = given.find(one => one.op === op)?.value ?? ""; };
      label.append(pair);
    } else if (column.kind === "text") {
      const input = make("input", null, { type: "search", placeholder: "contains", oninput: soon });
      column.read = () => input.value.trim() ? [{ column: column.name, op: "contains", value: input.value.trim() }] : [];
      column.write = given => { input.value = given.length ? given[0].value : ""; };
      label.append(input);
    } else continue;
    filters.append(label);
  }
  filters.hidden = filters.children.length < 2;
}

// Asking
let timer = 0;
function soon() {
  clearTimeout(timer);
  timer = setTimeout(() => search(), WAIT);
}

// `how` is "more" for more of the same, "back" for what the address says
async function search(how) {
  clearTimeout(timer);
  const text = words.value.trim();
  if (!text && !file && !key) return;
  const mine = ++asked;
  if (controller) controller.abort();
  controller = new AbortController();
  if (how !== "more") k = Math.min(K, most);
  const body = { k, filters: columns.flatMap(one => one.read ? one.read() : []) };
  if (Number(slider.value) > Number(slider.min)) body.cutoff = Number(slider.value);
  const options = { method: "POST", signal: controller.signal };
  if (file) {
    const form = new FormData();
    form.append("json", JSON.stringify(body));
    form.append("image", file, "image");
    options.body = form;
  } else {
    options.body = JSON.stringify({ ...body, ...(key ? { key } : { text }) });
    options.headers = { "Content-Type": "application/json" };
  }
  hits.ariaBusy = "true";
  try {
    const found = await (await get("search", options)).json();
    if (mine !== asked) return;
    show(found, body);
    if (how === undefined && !file) remember(text, body);
  } catch (error) {
    if (mine === asked && error.name !== "AbortError") { empty(); say(error.message, true); }
  } finally {
    if (mine === asked) hits.ariaBusy = "false";
  }
}

// The address: a new query is a step that Back undoes, a change of its filters or cutoff is none
function remember(text, body) {
  const given = new URLSearchParams(key ? { key } : { q: text });
  if (body.filters.length) given.set("filters", JSON.stringify(body.filters));
  if (body.cutoff !== undefined) given.set("cutoff", body.cutoff);
  const query = key ? `key ${key}` : `q ${text}`;
  history[query === shownFor ? "replaceState" : "pushState"](null, "", `#${given}`);
  shownFor = query;
}

function restore() {
  const given = new URLSearchParams(location.hash.slice(1));
  let wanted = [];
  try { wanted = JSON.parse(given.get("filters") || "[]"); } catch { /* an address that was cut */ }
  if (!Array.isArray(wanted)) wanted = [];
  for (const column of columns) if (column.write) column.write(wanted.filter(one => one && one.column === column.name));
  const cutoff = parseFloat(given.get("cutoff"));
  setCutoff(Number.isFinite(cutoff) ? cutoff : slider.min);
  forget();
  words.value = given.get("q") || "";
  key = given.get("key");
  shownFor = key ? `key ${key}` : `q ${words.value.trim()}`;
  if (words.value.trim() || key) search("back");
  else {
    ++asked;
    empty();
    say("Type what you look for, or drop an image.");
  }
}
addEventListener("popstate", () => { if (dialog.open) dialog.close(); restore(); });

// Showing
function empty() {
  hits.replaceChildren();
  note.textContent = "";
  next.hidden = true;
}

function show(found, body) {
  for (const one of hits.querySelectorAll("img")) if (one.src) URL.revokeObjectURL(one.src);
  const rows = found.hits, scores = rows.map(one => one.score), low = Math.min(...scores), high = Math.max(...scores);
  const ends = rows.length ? `; scores ${low.toFixed(3)} to ${high.toFixed(3)}` : "";
  const what = key ? ` like ${key}` : file ? " like your image" : "";
  const offer = auto !== null && body.cutoff === undefined && rows.length ? " Without a cutoff the nearest are shown, whether they fit or not: press auto to leave out what does not." : "";
  note.textContent = found.unseen.length ? sentence(found.unseen.join(". ")) + offer : "";
  next.hidden = rows.length < k || k >= Math.min(most, found.images);
  say(found.nothing ? sentence(found.nothing) : `${rows.length} of ${found.images.toLocaleString("en")} images${what}${ends}`);
  hits.replaceChildren(...rows.map((hit, place) => item(hit, place, high > low ? (hit.score - low) / (high - low) : 1)));
}

const sentence = text => text.charAt(0).toUpperCase() + text.slice(1) + ".";

function item(hit, place, share) {
  const line = make("li"), button = make("button", null, { type: "button", className: "hit" });
  const image = make("span", null, { className: "image" });
  if (hit.image) loadInto(image, hit);
  else image.append(make("em", "no image kept", { className: "none" }));
  const below = make("span", null, { className: "words" }), numbers = make("b");
  numbers.append(make("span", place + 1), make("span", hit.score.toFixed(3)));
  below.append(numbers, make("q", hit.texts[0] || hit.key));
  const bar = make("progress", null, { className: "bar", max: 100, value: Math.round(15 + 85 * share), ariaHidden: "true" });
  button.append(image, bar, below);
  button.onclick = () => open(hit, button);
  line.append(button);
  return line;
}

async function loadInto(place, hit) {
  try {
    const data = await (await get(`thumbnail/${encodeURIComponent(hit.key)}`)).blob();
    place.append(make("img", null, { alt: hit.texts[0] || hit.key, src: URL.createObjectURL(data), decoding: "async" }));
  } catch { place.append(make("em", "no image kept", { className: "none" })); }
}

function open(hit, button) {
  const shown = dialog.querySelector("img"), small = button.querySelector("img"), list = dialog.querySelector("dl");
  shown.hidden = !small;
  shown.dataset.key = hit.key;
  if (small) { shown.src = small.src; shown.alt = small.alt; }
  const told = [["score", hit.score.toFixed(4)], ["key", hit.key], ...hit.texts.map(one => ["text", one])];
  for (const [name, value] of Object.entries(hit.meta)) {
    if (value !== null && value !== "") told.push([name, typeof value === "object" ? JSON.stringify(value) : String(value)]);
  }
  list.replaceChildren(...told.flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
  find("#alike").onclick = () => { dialog.close(); forget(); words.value = ""; key = hit.key; search(); };
  dialog.showModal();
  dialog.scrollTop = 0;
  if (small && large) enlarge(hit, shown);
}

async function enlarge(hit, shown) {
  try {
    const data = await (await get(`image/${encodeURIComponent(hit.key)}`)).blob();
    if (!dialog.open || !shown.isConnected || shown.dataset.key !== hit.key) return;
    const url = URL.createObjectURL(data);
    shown.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    shown.src = url;
  } catch { /* the small one stays */ }
}
dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });

// An image to search by
function forget() {
  file = key = null;
  like.hidden = true;
}

function take(given) {
  if (!given || !given.type.startsWith("image/")) { say("That is no image.", true); return; }
  forget();
  file = given;
  words.value = "";
  const shown = like.querySelector("img");
  if (shown.src) URL.revokeObjectURL(shown.src);
  shown.src = URL.createObjectURL(given);
  like.hidden = false;
  search();
}
like.querySelector("button").onclick = () => { forget(); empty(); say(""); words.focus(); };
next.onclick = () => { k = Math.min(k + K, most); search("more"); };
find("#file").onchange = event => { take(event.target.files[0]); event.target.value = ""; };
const drop = find("#drop");
addEventListener("dragover", event => { event.preventDefault(); drop.hidden = false; });
addEventListener("dragleave", event => { if (!event.relatedTarget) drop.hidden = true; });
addEventListener("drop", event => { event.preventDefault(); drop.hidden = true; take(event.dataTransfer.files[0]); });
addEventListener("paste", event => {
  const given = [...event.clipboardData.files].find(one => one.type.startsWith("image/"));
  if (given) { event.preventDefault(); take(given); }
});

// Words, cutoff, token, keys
find("#ask").addEventListener("submit", event => { event.preventDefault(); search(); });
words.addEventListener("input", () => { if (words.value.trim()) forget(); });
function setCutoff(value) {
  slider.value = value;
  find(".cut output").textContent = Number(slider.value) > Number(slider.min) ? Number(slider.value).toFixed(2) : "none";
}
slider.addEventListener("input", () => { setCutoff(slider.value); soon(); });
door.addEventListener("submit", event => {
  event.preventDefault();
  token = door.querySelector("input").value.trim();
  sessionStorage.setItem("token", token);
  start();
});
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "/" && !typing) { event.preventDefault(); words.focus(); words.select(); return; }
  const all = [...hits.querySelectorAll("button.hit")], at = all.indexOf(document.activeElement);
  if (event.key === "ArrowDown" && event.target === words && all.length) { event.preventDefault(); all[0].focus(); return; }
  if (at < 0) return;
  const wide = all.filter(one => one.offsetTop === all[0].offsetTop).length;
  const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: wide, ArrowUp: -wide }[event.key];
  if (by === undefined) return;
  event.preventDefault();
  if (at + by < 0) words.focus();
  else if (at + by < all.length) all[at + by].focus();
});
start();
