"use strict";
// One page, no library, nothing from elsewhere. Text from the library goes into the page as text only, never as markup.

const $ = (id) => document.getElementById(id);
const PAGE = 24; // results fetched at a time
const token = new URLSearchParams(location.search).get("token") || sessionStorage.getItem("token");
if (token) sessionStorage.setItem("token", token);
if (location.search) history.replaceState(null, "", location.pathname);

const state = { ask: null, skip: 0, done: true, turn: 0, hits: [], open: null, film: null, like: [], pictures: [], status: null, pale: false };

async function api(path, body) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const options = { headers };
  if (body instanceof Blob) Object.assign(options, { method: "POST", body });
  else if (body) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is it still running in the terminal?");
  }
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error);
  return said;
}

function address(key, what, words = {}) {
  const query = new URLSearchParams(Object.entries(words).filter(([, value]) => value !== null && value !== undefined));
  if (token) query.set("token", token);
  return `/api/items/${key}/${what}${query.size ? `?${query}` : ""}`;
}

function make(tag, attributes = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else element.setAttribute(name, value);
  }
  element.append(...inside); // strings become text nodes
  return element;
}

// what would turn the direction of reading around, or steer anything, is spelt out
const visible = (text) =>
  text.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);

function clock(seconds) {
  if (seconds === null) return "";
  const whole = Math.floor(seconds);
  const parts = [Math.floor(whole / 60) % 60, whole % 60].map((one) => String(one).padStart(2, "0"));
  return whole >= 3600 ? `${Math.floor(whole / 3600)}:${parts.join(":")}` : `${Number(parts[0])}:${parts[1]}`;
}

// --- asking

function filters() {
  const form = $("filters").elements;
  const found = {};
  for (const name of ["kind", "folder", "after", "before"]) if (form[name].value) found[name] = form[name].value;
  for (const name of ["shortest", "longest"]) if (form[name].value !== "") found[name] = Number(form[name].value);
  const place = form.place.value.split(",").map(Number);
  if (place.length === 2 && place.every(Number.isFinite) && form.place.value.trim()) found.near = [...place, Number(form.radius.value) || 10];
  if (state.film) found.film = state.film.key;
  return found;
}

function search() {
  const text = $("text").value.trim();
  const form = $("filters").elements;
  state.turn += 1;
  state.skip = 0;
  state.hits = [];
  state.pale = false;
  $("results").replaceChildren();
  $("end").textContent = "";
  if (!text && !state.like.length && !state.pictures.length) {
    state.ask = null;
    state.done = true;
    welcome();
    return;
  }
  state.ask = { text, like: state.like.map((one) => one.key), pictures: state.pictures.map((one) => one.id), filters: filters(), sort: form.sort.value, fold: form.fold.checked, lists: form.layout.value === "joint" ? ["joint"] : ["images", "videos"] };
  if (state.status?.calibrated && Number(form.alarm.value) < 100) state.ask.alarm = Number(form.alarm.value) / 100;
  state.done = false;
  $("said").textContent = "Searching …";
  next();
}

async function next() {
  if (state.done || state.busy === state.turn) return;
  const turn = (state.busy = state.turn);
  try {
    const answer = await api("/api/search", { ...state.ask, top: PAGE, skip: state.skip });
    if (turn !== state.turn) return;
    if (state.skip === 0) lead(answer);
    show(answer);
    state.skip += PAGE;
    const longest = Math.max(answer.joint.length, answer.images.length, answer.videos.length);
    state.done = longest < PAGE;
    $("end").textContent = state.done && state.hits.length ? "That is all." : "";
  } catch (error) {
    if (turn !== state.turn) return;
    state.done = true;
    $("said").textContent = error.message;
  } finally {
    if (state.busy === turn) state.busy = null;
  }
  if (turn === state.turn && !state.done && nearEnd()) next();
}

const nearEnd = () => window.innerHeight + window.scrollY > document.body.offsetHeight - 900;

function lead(answer) {
  const said = $("said");
  said.replaceChildren();
  if (!answer.total) {
    said.append(state.status?.items ? "Nothing passes these filters. Clear some of them." : "Nothing is indexed yet. Results come while indexing goes on.");
    return;
  }
  if (answer.fits === false) {
    state.pale = true;
    said.append(make("b", {}, "Nothing fits."), " The nearest are shown in grey. ", "Raise “false alarms” under Filters to see less certain hits as hits.");
  } else said.append(`${answer.total} ${answer.total === 1 ? "item" : "items"} searched`);
  if (answer.phrases.length) said.append(` · read as: ${visible(answer.phrases.join(" · "))}`);
}

function welcome() {
  const said = $("said");
  const status = state.status;
  if (!status) said.textContent = "";
  else if (!status.items && status.indexing?.running) said.textContent = "Indexing has begun; the first results can be found in a moment.";
  else if (!status.items) said.textContent = `There are no photos or videos in ${status.folder}.`;
  else said.textContent = "Say what you look for, in a sentence. Several sentences: put ; between them. Not wanted: -snow. Or hand in a photo.";
}

// --- results

function show(answer) {
  const box = $("results");
  if ($("filters").elements.layout.value === "joint") {
    if (!box.firstChild) box.append(make("div", { class: "grid" }));
    for (const hit of answer.joint) box.firstChild.append(card(hit));
    return;
  }
  if (!box.firstChild) {
    const column = (title) => make("section", {}, make("h2", {}, title), make("div", { class: "grid" }));
    box.append(make("div", { class: "columns" }, column("Images"), column("Videos")));
  }
  const [images, videos] = box.querySelectorAll(".grid");
  for (const hit of answer.images) images.append(card(hit));
  for (const hit of answer.videos) videos.append(card(hit));
}

function fit(hit) {
  return hit.fit === null ? hit.standing.toFixed(1) + " σ" : `${Math.floor(hit.fit * 100)} %`;
}

function card(hit) {
  const name = visible(hit.path.split("/").pop());
  const shot = make("div", { class: "shot" }, make("img", { src: address(hit.key, "thumb"), alt: "", loading: "lazy" }));
  if (hit.kind !== "photo") shot.append(make("span", { class: "kind" }, hit.kind === "video" ? `▶ ${clock(hit.start ?? hit.time)}` : `still ${clock(hit.time)}`));
  const facts = [fit(hit), hit.taken?.slice(0, 10), hit.folded.length ? `+${hit.folded.length} alike` : null].filter(Boolean).join(" · ");
  const button = make("button", { class: "hit", type: "button", title: visible(hit.path), "aria-label": `${hit.rank}: ${name}, ${hit.kind}` }, shot, make("span", { class: "text" }, make("span", { class: "name" }, name), make("span", { class: "facts" }, facts)));
  if (state.pale) button.classList.add("pale");
  button.hit = hit;
  button.addEventListener("click", () => openHit(hit));
  if (hit.kind !== "photo") {
    button.addEventListener("pointerenter", () => play(button));
    button.addEventListener("focus", () => play(button));
    button.addEventListener("pointerleave", () => still(button));
    button.addEventListener("blur", () => still(button));
  }
  state.hits.push(button);
  return button;
}

function play(button) {
  still(button);
  button.waiting = setTimeout(() => {
    const { key, start, end, time } = button.hit;
    const film = make("video", { src: address(key, "preview", { start: start ?? Math.max(0, time - 1), end: end ?? time + 3 }), playsinline: "" });
    film.muted = film.loop = true;
    film.addEventListener("error", () => film.remove());
    button.querySelector(".shot").append(film);
    film.play().catch(() => {});
  }, 180);
}

function still(button) {
  clearTimeout(button.waiting);
  const film = button.querySelector("video");
  if (film) {
    film.pause();
    film.removeAttribute("src");
    film.load();
    film.remove();
  }
}

// --- one result

function openHit(hit) {
  state.open = hit;
  const stage = $("stage");
  stage.replaceChildren();
  $("why").replaceChildren();
  if (hit.kind === "photo") {
    const image = make("img", { src: address(hit.key, "file"), alt: visible(hit.path) });
    image.addEventListener("error", () => { image.src = address(hit.key, "thumb"); }, { once: true });
    stage.append(image);
  } else {
    const film = make("video", { controls: "", playsinline: "", autoplay: "", src: `${address(hit.key, "file")}#t=${(hit.start ?? hit.time ?? 0).toFixed(2)}` });
    film.addEventListener("error", () => { film.src = address(hit.key, "cut", { start: hit.start ?? hit.time, end: hit.end ?? hit.time + 6 }); }, { once: true });
    stage.append(film);
  }
  const moment = hit.kind === "video" ? `, ${clock(hit.start)} to ${clock(hit.end)}` : hit.kind === "keyframe" ? `, still at ${clock(hit.time)}` : "";
  $("caption").textContent = `${visible(hit.path)}${moment}${hit.taken ? ` · ${hit.taken.replace("T", " ")}` : ""} · ${fit(hit)}`;
  $("cut").hidden = hit.kind === "photo";
  if (hit.kind !== "photo") $("cut").href = address(hit.key, "cut", { start: hit.start ?? Math.max(0, hit.time - 2), end: hit.end ?? hit.time + 2 });
  $("whole").href = address(hit.key, "file");
  $("film").hidden = !hit.part;
  $("explain").hidden = !state.ask?.text;
  if (!$("viewer").open) $("viewer").showModal();
}

$("viewer").addEventListener("close", () => {
  $("stage").replaceChildren();
  const button = state.hits.find((one) => one.hit === state.open);
  state.open = null;
  button?.focus();
});
$("close").addEventListener("click", () => $("viewer").close());
$("similar").addEventListener("click", () => similar(state.open));

$("film").addEventListener("click", () => {
  state.film = state.open;
  $("viewer").close();
  chips();
  search();
});

function similar(hit) {
  if ($("viewer").open) $("viewer").close();
  state.like = [hit];
  state.pictures = [];
  $("text").value = "";
  chips();
  search();
}

function chips() {
  const box = $("like");
  box.replaceChildren();
  const all = [...state.like.map((one) => [one, state.like, `like ${visible(one.path.split("/").pop())}`, address(one.key, "thumb")]), ...state.pictures.map((one) => [one, state.pictures, "your photo", one.url])];
  if (state.film) {
    const chip = make("button", { type: "button", title: "take away" }, `only ${visible(state.film.path.split("/").pop())} ✕`);
    chip.addEventListener("click", () => { state.film = null; chips(); search(); });
    box.append(chip);
  }
  for (const [one, list, words, source] of all) {
    const chip = make("button", { type: "button", title: "take away" }, make("img", { src: source, alt: "" }), ` ${words} ✕`);
    chip.addEventListener("click", () => { list.splice(list.indexOf(one), 1); chips(); search(); });
    box.append(chip);
  }
}

// --- keyboard

function move(event) {
  const at = state.hits.indexOf(document.activeElement);
  const grid = document.querySelector(".grid");
  if (!state.hits.length) return;
  const across = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[event.key];
  const to = at < 0 ? 0 : Math.min(state.hits.length - 1, at + step);
  event.preventDefault();
  if (to < 0) $("text").focus();
  else state.hits[to].focus();
}

document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (typing) {
    if (event.key === "ArrowDown" && document.activeElement === $("text")) move(event);
    if (event.key === "Escape") document.activeElement.blur();
    return;
  }
  const hit = state.open ?? document.activeElement?.hit;
  if (event.key === "/") { event.preventDefault(); if ($("viewer").open) $("viewer").close(); $("text").focus(); $("text").select(); }
  else if (event.key.startsWith("Arrow") && !$("viewer").open) move(event);
  else if (event.key === "s" && hit) similar(hit);
  else if (event.key === "w" && hit) { if (!state.open) openHit(hit); explain(); }
  else if (event.key === "d" && hit && hit.kind !== "photo") { if (!state.open) openHit(hit); $("cut").click(); }
});

// --- why this hit

async function explain() {
  const hit = state.open;
  if (!hit || !state.ask?.text) return;
  const box = $("why");
  box.textContent = "…";
  try {
    const why = await api("/api/why", { text: state.ask.text, key: hit.key, kind: hit.kind === "video" ? "video" : "image" });
    if (state.open !== hit) return;
    box.replaceChildren(reasons(hit, why));
  } catch (error) {
    box.textContent = error.message;
  }
}
$("explain").addEventListener("click", explain);

function reasons(hit, why) {
  const over = make("div", { class: "over" }, make("img", { alt: "", src: address(hit.key, "thumb", { frame: why.frame }) }), make("canvas", { width: why.side, height: why.side }));
  const words = make("div", { class: "words" });
  const paint = (word, button) => {
    for (const other of words.children) other.setAttribute("aria-pressed", String(other === button));
    over.querySelector("img").src = address(hit.key, "thumb", { frame: word.frame });
    heat(over.querySelector("canvas"), word.map, why.side);
  };
  const buttons = why.words.map((word) => {
    const button = make("button", { type: "button", "aria-pressed": "false" }, `${visible(word.text)} ${word.score.toFixed(2)}`);
    button.addEventListener("click", () => paint(word, button));
    words.append(button);
    return button;
  });
  const best = why.words.reduce((first, word, at) => (word.score > why.words[first].score ? at : first), 0);
  if (buttons.length) paint(why.words[best], buttons[best]);
  const inside = make("div", {}, make("p", { class: "quiet" }, "Each word of the query and where this item shows it; press one. Numbers are cosines."), words, over);
  if (why.triplets.length) inside.append(make("p", {}, "Phrases: ", why.triplets.map((one) => `${visible(one.text)} ${one.score.toFixed(2)} (at ${clock(one.time)})`).join(" · ")));
  return inside;
}

function heat(canvas, map, side) {
  const ink = canvas.getContext("2d");
  ink.clearRect(0, 0, side, side);
  const low = Math.min(...map);
  const high = Math.max(...map);
  map.forEach((value, at) => {
    const share = high > low ? (value - low) / (high - low) : 0;
    ink.fillStyle = `rgba(255, 120, 0, ${(share ** 2 * 0.85).toFixed(3)})`;
    ink.fillRect(at % side, Math.floor(at / side), 1, 1);
  });
}

// --- the state of the library

async function look() {
  let wait = 5000;
  try {
    const before = state.status;
    const status = (state.status = await api("/api/status"));
    const indexing = status.indexing;
    wait = indexing?.running || !status.calibrated ? 1000 : 5000;
    $("about").textContent = `${status.photos} photos, ${status.videos} videos · ${visible(status.folder)} · ${status.method}`;
    note(indexing);
    folders(status.folders);
    $("look").hidden = !indexing || indexing.running;
    $("alarm-label").hidden = !status.calibrated;
    $("alarm-hint").hidden = !status.calibrated || status.calibrated_by !== "list";
    const news = !before || before.items !== status.items || before.indexing?.running !== indexing?.running || before.calibrated !== status.calibrated;
    if (news && !state.ask) welcome();
    else if (before && news && state.skip <= PAGE && window.scrollY < 50 && !state.open && !state.hits.includes(document.activeElement)) search();
  } catch (error) {
    $("warning").hidden = false;
    $("warning").textContent = error.message;
  }
  setTimeout(look, wait);
}

function note(indexing) {
  const words = [indexing?.error, indexing?.warning].filter(Boolean).map(visible);
  if (indexing && !indexing.running && indexing.rejected.length) {
    const first = indexing.rejected[0];
    words.push(`${indexing.rejected.length} files could not be read, ${visible(first.id)} for one: ${visible(first.detail || first.reason)}`);
  }
  $("warning").hidden = !words.length;
  $("warning").textContent = words.join(" · ");
  $("indexing").hidden = !indexing?.running;
  if (!indexing?.running) return;
  $("indexing-text").textContent = `Indexing: ${indexing.step}${indexing.total ? `, ${indexing.done} of ${indexing.total}` : ""}`;
  if (indexing.total) $("bar").value = indexing.done / indexing.total;
  else $("bar").removeAttribute("value");
}

function folders(found) {
  const select = $("filters").elements.folder;
  const names = Object.keys(found);
  if (select.options.length === names.length + 1) return;
  const chosen = select.value;
  select.replaceChildren(make("option", { value: "" }, "all"), ...names.map((name) => make("option", { value: name }, `${visible(name)} (${found[name]})`)));
  select.value = chosen;
}

$("look").addEventListener("click", async () => { $("look").hidden = true; await api("/api/index", { begun: true }).catch((error) => { $("said").textContent = error.message; }); });
$("ask").addEventListener("submit", (event) => { event.preventDefault(); search(); });
$("more").addEventListener("click", () => {
  $("filters").hidden = !$("filters").hidden;
  $("more").setAttribute("aria-expanded", String(!$("filters").hidden));
});
$("filters").addEventListener("submit", (event) => { event.preventDefault(); search(); });
$("filters").addEventListener("input", () => { $("filters").elements.alarmed.value = `${$("filters").elements.alarm.value} %`; });
$("filters").addEventListener("change", () => search());
$("filters").addEventListener("reset", () => setTimeout(() => { $("filters").elements.alarmed.value = "20 %"; search(); }));
$("photo").addEventListener("change", async () => {
  const file = $("photo").files[0];
  $("photo").value = "";
  if (!file) return;
  try {
    const { picture } = await api("/api/pictures", file);
    state.pictures = [{ id: picture, url: URL.createObjectURL(file) }];
    state.like = [];
    chips();
    search();
  } catch (error) {
    $("said").textContent = error.message;
  }
});
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
  if (file) { const list = new DataTransfer(); list.items.add(file); $("photo").files = list.files; $("photo").dispatchEvent(new Event("change")); }
});
window.addEventListener("scroll", () => { if (nearEnd()) next(); }, { passive: true });
look();
