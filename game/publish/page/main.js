// The page: what a person sees and presses. The game is in worker.js.
// The address says what is played: #world=keep&seed=5&scene=1011. Where it names no world, there are several to choose.

import { film } from "./clip.js";
import { Keyboard } from "./input.js";

const KEPT = 100; // measurements that a figure is the median of
const OVER = "It is over: Home begins again.", PAUSED = "Paused: P goes on.", RECORDING = "Recording: R ends it.";
const STAYS = 20_000; // milliseconds for which words stay that are of a moment
const SEEDS = 10n ** 18n; // as many as have a place in the field
const CLIP = 10; // seconds that a clip shows
const at = id => document.getElementById(id);
const screen = at("screen"), pen = screen.getContext("2d");
const figures = { tick: [], photon: [], shown: [] };
let worlds, world, keyboard, runsOn;
let place = {}, wanted = {}; // the seed and scene that are played, and that are to be played next
const recent = []; // frames of the last seconds, as ImageData
const wishes = []; // functions to be called in place of the next ticks
let isOver = false, paused = false, records = false, filming = null, wake = () => {};
let words = "", fades; // said lately

// ---------------------------------------------------------------- the game's thread

let worker, answer;

function start() {
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data }) => {
    if (data.words) say(`${data.words} …`);
    else if (data.error) answer.reject(new Error(data.error));
    else answer.resolve(data);
  };
  worker.onerror = event => answer.reject(new Error(event.message || "a script of this page cannot be loaded"));
}

/** What the game answers; it is asked one thing at a time. */
function ask(verb, rest) {
  return new Promise((resolve, reject) => {
    answer = { resolve, reject };
    worker.postMessage({ verb, ...rest });
  });
}

// ---------------------------------------------------------------- one tick after the other

async function play() {
  await isolate();
  start();
  ({ worlds } = await ask("list"));
  world = await chosen();
  addEventListener("hashchange", follow);
  ({ runsOn } = await ask("open", { world }));
  build();
  for (let due = performance.now(); ; due = Math.max(due + 1000 / world.fps, performance.now())) {
    await new Promise(resolve => setTimeout(resolve, due - performance.now()));
    if (wishes.length) await fulfil(wishes.shift());
    else if (paused || document.hidden) {
      await new Promise(resolve => { wake = resolve; });
      keyboard.forget();
    }
    else await tick();
  }
}

function soon(wish) {
  if (!wishes.includes(wish)) wishes.push(wish);
  wake();
}

async function fulfil(wish) {
  try {
    await wish();
  } catch (error) {
    if (!screen.dataset.frames) throw error;
    say(error.message); // a scene that cannot be had, or a moment that cannot be saved, ends no game
    if (!wishes.includes(go)) announce(wanted = place);
  }
}

/** Have sw.js between this page and its host: from the next load on, which comes at once. */
async function isolate() {
  const wasThere = navigator.serviceWorker?.controller; // else it keeps nothing of what came before it
  try {
    await navigator.serviceWorker.register(new URL("sw.js", import.meta.url));
  } catch {
    return; // a private window, or an address that is not secure: one thread, and no game without a network
  }
  await navigator.serviceWorker.ready;
  const mark = `loaded ${location.pathname}`;
  if ((wasThere && crossOriginIsolated) || sessionStorage[mark]) return;
  sessionStorage[mark] = true;
  // a browser may come back to this page as it was left, and forgets a reload that comes too early
  addEventListener("pageshow", () => setTimeout(() => location.reload()));
  location.reload();
  await new Promise(() => {});
}

/** Begin where it is wanted. */
async function go() {
  const target = wanted, first = await ask("reset", target);
  keyboard.forget();
  show(first, []);
  await finish();
  place = target;
  if (!wishes.includes(go)) announce(place);
}

async function save() {
  await ask("save");
  say("Saved; F9 comes back to it");
}

async function load() {
  const moment = await ask("load");
  keyboard.forget();
  show(moment, []);
  if (!(await finish())) say("Back at the saved moment");
  place = moment.place;
  if (!wishes.includes(go)) announce(wanted = place);
}

/** To what the address names now. */
function follow() {
  const isOther = namedWorld() !== world;
  if (document.body.dataset.failed || (isOther && !keyboard)) location.reload();
  else if (isOther) soon(leave);
  else if (keyboard) want(named()); // while it loads, it comes to that by itself
}

/** To another world, or to the choice of one. */
async function leave() {
  await finish();
  if (filming) say("It goes on when the film is made");
  await filming;
  location.reload();
}

async function record() {
  if (records) return finish();
  await ask("record");
  records = true;
  say();
}

/** End a recording, as whatever ends a game's course does: a session goes on from frame to frame. Was there one? */
async function finish() {
  if (!records) return false;
  records = false;
  const { file, frames } = await ask("finish");
  const saved = frames > 1 && download(file, "rollplay");
  say(saved ? `${saved} holds ${frames} frames: python -m world_model.episode import ${saved}` :
    "Nothing was played, so nothing is recorded");
  return true;
}

/** Make a film while the game goes on. */
async function clip() {
  if (filming || !recent.length) return;
  say(`A film of the last ${(recent.length / world.fps).toFixed(1)} s is being made, which takes as long`);
  const kept = made => `The film is ${download(made, made.type.split(/[/;]/)[1])}`;
  filming = film([...recent], world.fps).then(kept).catch(error => error.message);
  say(await filming);
  filming = null;
}

/** Have the browser keep a file; its name. */
function download(file, ending) {
  const when = new Date().toISOString().replace(/\D/g, "").slice(0, 14);
  const name = `${world.name.replaceAll(" ", "-")}-${when}.${ending}`;
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  return name;
}

async function tick() {
  if (keyboard.rewinding || isOver) await finish();
  const { action, arrivals } = keyboard.sample();
  const goesBack = keyboard.rewinding, shown = await (goesBack ? ask("back") : ask("tick", { action }));
  if (!goesBack && !isOver) note("tick", shown.ms);
  show(shown, goesBack ? [] : arrivals);
  for (const button of document.querySelectorAll("[data-key]")) {
    const { key } = button.dataset;
    button.classList.toggle("held", keyboard.held.has(key) || (goesBack && key === "backspace"));
  }
}

function show({ frame, score, over }, arrivals) {
  const picture = pen.createImageData(world.width, world.height);
  for (let from = 0, to = 0; to < picture.data.length; to++) picture.data[to] = to % 4 === 3 ? 255 : frame[from++];
  if (!(over && isOver)) recent.push(picture);
  if (recent.length > CLIP * world.fps) recent.shift();
  requestAnimationFrame(() => {
    pen.putImageData(picture, 0, 0);
    const now = performance.now();
    arrivals.forEach(arrival => note("photon", now - arrival));
    note("shown", now);
    screen.dataset.frames = Number(screen.dataset.frames ?? 0) + 1;
  });
  at("score").textContent = score === null ? "" : `score ${Math.round(score * 10) / 10}`;
  if (over !== isOver) isOver = over, say();
}

// ---------------------------------------------------------------- words and figures

/** What happened, and for as long as it lasts what is so. */
function say(text = "") {
  words = text;
  clearTimeout(fades);
  if (keyboard && text) fades = setTimeout(say, STAYS);
  const lasting = [[isOver, OVER], [paused, PAUSED], [records, RECORDING]].filter(([is]) => is).map(([, words]) => words);
  if (!document.body.dataset.failed) at("notice").textContent = [words, ...lasting].filter(Boolean).join(" · ");
}

function note(name, value) {
  figures[name].push(value);
  if (figures[name].length > KEPT) figures[name].shift();
}

function median(values) {
  return values.length ? [...values].sort((a, b) => a - b)[values.length >> 1].toFixed(1) : "–";
}

function write() {
  const lately = figures.shown.filter(when => when > performance.now() - 2000);
  const rate = lately.length > 1 ? ((lately.length - 1) * 1000) / (lately.at(-1) - lately[0]) : 0;
  at("fps").textContent = rate.toFixed(1);
  at("tick").textContent = median(figures.tick);
  at("photon").textContent = median(figures.photon);
  at("record").classList.toggle("held", records);
}

// ---------------------------------------------------------------- what to play, and where that is written

function address() {
  return new URLSearchParams(location.hash.slice(1));
}

/** The world that the address names, or else the only one there is. */
function namedWorld() {
  return worlds.find(one => one.name === address().get("world")) ?? (worlds.length === 1 ? worlds[0] : null);
}

/** The world to play; a person chooses one of several by its picture, which is a link. */
async function chosen() {
  at("menu").hidden = namedWorld() !== null;
  at("list").append(...worlds.map(card));
  while (namedWorld() === null) {
    const name = address().get("world");
    at("choose").textContent = name ? `There is no world “${name}” here. Choose one of these.` : "Choose one.";
    at("list").firstChild.focus();
    await new Promise(resolve => addEventListener("hashchange", resolve, { once: true }));
  }
  at("menu").hidden = true;
  return namedWorld();
}

function card({ name, about }) {
  const link = Object.assign(document.createElement("a"), { href: `#world=${encodeURIComponent(name)}` });
  const picture = Object.assign(new Image(), { src: `worlds/${encodeURIComponent(name)}/demo.webp`, alt: "" });
  const words = [["h2", name], ["div", about]].map(([kind, text]) =>
    Object.assign(document.createElement(kind), { textContent: text }));
  link.append(picture, ...words);
  return link;
}

/** The seed and scene that the address names; what it does not name, or names wrongly, is chosen. */
function named() {
  const parts = address();
  return inScene(whole(parts.get("seed")), parts.get("scene"));
}

function whole(text) {
  return /^\d{1,18}$/.test(text) ? BigInt(text) : 0n;
}

function after(scene) {
  return world.scenes[(world.scenes.indexOf(scene) + 1) % world.scenes.length];
}

/** A seed in a scene; where there is no such scene, in that in which it begins in play.py, too. */
function inScene(seed, scene) {
  const own = world.scenes[Number(seed % BigInt(world.scenes.length))];
  return { seed: String(seed), scene: world.scenes.includes(scene) ? scene : own };
}

function want(target) {
  announce(wanted = target);
  soon(go);
  pause(false);
}

/** Write down what is played, or will be in a moment. */
function announce({ seed, scene }) {
  [at("seed").value, at("scene").value] = [seed, scene];
  if (namedWorld() !== world) return; // a person is on the way to another one
  history.replaceState(null, "", `#${new URLSearchParams({ world: world.name, seed, scene })}`);
}

const commands = {
  home: () => want(wanted),
  n: () => want(inScene((BigInt(wanted.seed) + 1n) % SEEDS, after(wanted.scene))),
  p: () => pause(!paused),
  r: () => soon(record),
  f11: clip,
  f5: () => soon(save),
  f9: () => soon(load),
  f: () => (document.fullscreenElement ? document.exitFullscreen() : at("stage").requestFullscreen()),
};

function pause(is) {
  paused = is;
  say();
  if (paused) return;
  keyboard.forget(); // nothing has yet, where the pause was shorter than a tick
  wake();
}

async function share() {
  await navigator.clipboard?.writeText(location.href);
  say(navigator.clipboard ? "The link is copied: this seed and this scene." : `The link: ${location.href}`);
}

// ---------------------------------------------------------------- the page's parts

function build() {
  document.title = at("title").textContent = world.name;
  at("about").textContent = world.about;
  Object.assign(screen, { width: world.width, height: world.height });
  keyboard = new Keyboard(world.keys, (key, repeats) => {
    if (document.body.dataset.failed) return false;
    if (key in commands && !repeats) commands[key]();
    return key in commands;
  }, world);
  const ways = world.keys.includes("w") ? ["w", "a", "s", "d"] : ["up", "left", "down", "right"];
  for (const [i, key] of world.keys.entries()) {
    const button = Object.assign(keyboard.button(key), { title: world.meanings[i] });
    if (ways.includes(key)) button.dataset.way = ways.indexOf(key);
    at(ways.includes(key) ? "cross" : "others").append(button);
  }
  at("back").append(Object.assign(keyboard.button("backspace", "back"), { title: "Backspace, held" }));
  for (const button of document.querySelectorAll("[data-command]")) {
    button.onclick = () => { commands[button.dataset.command](); button.blur(); };
  }
  at("card").hidden = !world.card;
  at("card").href = `worlds/${encodeURIComponent(world.name)}/card.md`;
  at("worlds").hidden = worlds.length === 1;
  at("full").hidden = !document.fullscreenEnabled;
  at("share").onclick = () => { share().catch(error => say(error.message)); at("share").blur(); };
  at("scene").append(...world.scenes.map(scene => new Option(scene)));
  at("scene").onchange = () => { want(inScene(BigInt(wanted.seed), at("scene").value)); at("scene").blur(); };
  at("seed").onchange = () => {
    const { value } = at("seed");
    at("seed").value = wanted.seed;
    if (!/^\d+$/.test(value)) say(`A seed is a whole number, and not “${value}”`);
    else if (value !== wanted.seed) want({ ...wanted, seed: String(BigInt(value)) });
  };
  for (const field of [at("scene"), at("seed")]) {
    field.onkeyup = ({ key }) => {
      if (key === "Escape") [at("seed").value, at("scene").value] = [wanted.seed, wanted.scene];
      if (key === "Escape" || key === "Enter") field.blur(); // the keys are the game's again
    };
  }
  at("runs").textContent = runsOn;
  addEventListener("beforeunload", event => { // the browser asks; older ones for the value only
    if (records) event.preventDefault();
    if (records) event.returnValue = true;
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && !paused) wake(); });
  addEventListener("resize", fit);
  document.addEventListener("fullscreenchange", () => {
    (document.fullscreenElement ? at("stage") : at("told")).append(at("score"), at("notice"));
    fit();
  });
  setInterval(write, 500);
  want(named());
  fit();
}

/** As many whole screen pixels a frame pixel as there is room for. */
function fit() {
  const room = at("room").clientWidth * devicePixelRatio;
  const scale = Math.max(1, Math.floor(room / Math.max(world.width, world.height)));
  screen.style.width = `${(world.width * scale) / devicePixelRatio}px`;
}

play().catch(async error => {
  fail(error.message);
  at("worlds").hidden = !(worlds?.length > 1);
  await finish(); // what is recorded is not lost with the game
});
