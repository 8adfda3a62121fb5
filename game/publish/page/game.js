// The neural game in a browser: the loop of world_model/play/neural_game.py around the same graphs, which
// onnxruntime-web runs. Its ticks are Moments, which are never changed: to go back is to take an older one.

import { normal } from "./noise.js";
import { Recording } from "./record.js";

const GRAPHS = ["encoder", "prime", "step", "decoder"];
const WEIGHTS = "weights.safetensors";
const PRIME = 1n << 62n; // counter of the noise of priming; block n has n
const STRETCH = 20; // ticks from one moment that is kept to the next
const MEMORY = 128e6; // bytes of the past that are kept
const TRIAL = 5; // ticks in which the GPU shows what it can do
const ROUNDING = 1; // levels of 255 by which its frames may differ

let ort; // of onnxruntime-web, what this browser needs

let versions = {}; // of the files, part of their addresses, so that sw.js keeps none of an older site
let sizes = {}; // and their bytes

/** A response for a file of the site; an Error that names the file where there is none. */
async function fetched(name, options) {
  const response = await fetch(`${name}?${versions[decodeURIComponent(name)] ?? ""}`, options).catch(() => {
    throw new Error(`${name} cannot be loaded: is the connection gone?`);
  });
  if (!response.ok) throw new Error(`${name} cannot be loaded (${response.status} ${response.statusText})`);
  return response;
}

/** What the site tells of its worlds. */
export async function listed() {
  const list = await (await fetched("worlds.json", { cache: "no-cache" })).json().catch(() => {
    throw new Error("worlds.json is damaged: publish it again, or copy it again");
  });
  ({ versions, sizes = {} } = list);
  return list.worlds;
}

/** The bytes of NAME.bin, which is NAME gzipped. came: told of every part how many bytes it has. */
async function unpacked(name, came = () => {}) {
  const counted = new TransformStream({ transform(part, out) { came(part.length); out.enqueue(part); } });
  const { body } = await fetched(`${name}.bin`, { cache: "no-cache" });
  const packed = await new Response(body.pipeThrough(counted)).arrayBuffer().catch(() => {
    throw new Error(`${name}.bin cannot be loaded: is the connection gone?`);
  });
  try {
    if (!(await isWhole(`${name}.bin`, packed))) throw new Error("its hash is another");
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    forget();
    throw new Error(`${name}.bin is damaged, or newer than this page: load the page again, or else publish it again`);
  }
}

/** Is it what was published? Where a browser does not reckon hashes, at an address that is not secure, gzip must tell. */
async function isWhole(name, bytes) {
  if (!globalThis.crypto?.subtle) return true;
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...hash].map(byte => byte.toString(16).padStart(2, "0")).join("").startsWith(versions[decodeURIComponent(name)]);
}

/** Have sw.js load everything again: it would give the same bytes for ever. */
function forget() {
  self.caches?.delete(`rollplay ${new URL(".", location)}`);
}

/**
 * A world of `listed` that plays. `tell` gets words while it loads. After `open`: `reset`, then `tick` and `back`,
 * each of which returns what is shown: {frame: Uint8Array [H, W, 3], score (null where the world has none), over}.
 */
export class Game {
  /** provider: "wasm" or "webgpu"; without, the faster one of those that this browser has. */
  static async open(world, threads, tell, provider) {
    const game = Object.assign(new Game(), { world, folder: `worlds/${encodeURIComponent(world.name)}` });
    const isGpuThere = provider ? provider === "webgpu" : await hasGpu();
    tell("loading");
    const names = [WEIGHTS, ...GRAPHS.map(name => `${name}.onnx`)].map(name => `${game.folder}/${name}`);
    const builds = isGpuThere ? ["ort.webgpu", "ort"] : ["ort"], came = progress([...names, `${builds[0]}.wasm`], tell);
    const files = Promise.all(names.map(name => unpacked(name, came)));
    const isForGpu = isGpuThere && (await load("ort.webgpu", threads, came).then(() => true, () => false));
    if (!isForGpu) await load("ort", threads, came);
    const [weights, ...graphs] = await files;
    tell("starting");
    game.threads = `${threads} thread${threads > 1 ? "s" : ""}`;
    const start = provider => game.#start(provider, graphs, weights);
    await start(provider ?? "wasm");
    if (isForGpu && !provider) await game.#tryGpu(start, tell);
    return game;
  }

  async #start(provider, graphs, weights) {
    this.sessions = {};
    for (const [i, name] of GRAPHS.entries()) this.sessions[name] = await opened(name, graphs[i], weights, provider);
    this.provider = provider;
    this.runsOn = provider === "webgpu" ? "the GPU" : this.threads;
  }

  /** Go over to the GPU, if it draws the same frames in less time. */
  async #tryGpu(start, tell) {
    tell("trying the GPU");
    const { sessions } = this;
    try {
      const usual = await this.#trial();
      await start("webgpu");
      const { frames, ms } = await this.#trial();
      if (!frames.every((frame, i) => alike(frame, usual.frames[i]))) throw new Error("other frames");
      if (ms >= usual.ms) throw new Error("slower");
      await released(sessions);
    } catch (error) {
      if (this.sessions !== sessions) await released(this.sessions);
      const why = String(error?.message ?? error).slice(0, 80);
      Object.assign(this, { sessions, provider: "wasm", runsOn: `${this.threads} (GPU: ${why})` });
    }
  }

  /** The first frames of the first scene, and how long they took, but for the first tick, which has much to prepare. */
  async #trial() {
    const frames = [(await this.reset(0n, this.world.scenes[0])).frame], action = this.world.keys.map((_, i) => +!i);
    frames.push((await this.tick(action)).frame);
    const began = performance.now();
    for (let i = 0; i < TRIAL; i++) frames.push((await this.tick(action)).frame);
    return { frames, ms: performance.now() - began };
  }

  /** Begin in a scene of `world.scenes`, with the noise of a seed (BigInt). */
  async reset(seed, scene) {
    const { sinks, recents, window, block, keys, height, width } = this.world;
    const pictures = await unpacked(`${this.folder}/scenes/${encodeURIComponent(scene)}`);
    const shape = [pictures.length / (height * width * 3), height, width, 3];
    const places = [sinks, height, width, 3];
    const anchors = { type: "uint8", data: pictures.slice(0, volume(places)), dims: places };
    const { latents } = await this.#run("encoder", { frames: new ort.Tensor("uint8", pictures, shape) });
    const past = (recents + 1) * block[0], size = latents.size / shape[0];
    const frames = Array.from({ length: past }, (_, i) => Math.max(shape[0] - past + i, sinks))
      .map(i => latents.data.subarray(i * size, (i + 1) * size));
    const outputs = await this.#run("prime", {
      sinks: floats(latents.data.slice(0, sinks * size), [1, sinks, ...block.slice(1)]),
      frames: floats(joined(frames), [1, recents + 1, ...block]),
      actions: floats(new Float32Array((recents + 1) * keys.length), [1, recents + 1, keys.length]),
      noise: this.#noise(seed, PRIME),
    });
    const state = changed({}, outputs), shown = await this.#decoded(state.clean), none = keys.map(() => 0);
    Object.assign(this, { seed, scene, anchors });
    return this.#begin({ state, frame: shown.at(-1), pending: [], block: 0, held: none, tapped: none, over: false,
      score: state.outcome ? 0 : null });
  }

  /** The next frame under `action`, 0 or 1 for each key. */
  async tick(action) {
    await this.#replay();
    if (this.now.over) return this.now;
    if (this.past.at(-1).ticks.length === STRETCH) this.#remember();
    this.now = await this.#after(this.now, action);
    const { frame, score, over } = this.now;
    this.past.at(-1).ticks.push({ action, frame, score, over });
    this.recording?.add(this.now, action);
    return this.now;
  }

  /** One frame back; where the past that is kept begins, that frame. */
  back() {
    if (!this.past.at(-1).ticks.length && this.past.length > 1) this.past.pop();
    const { moment, ticks } = this.past.at(-1);
    ticks.pop();
    this.now = null; // not computed before it is played on from
    return ticks.at(-1) ?? moment;
  }

  /** All that the next frames depend on, besides the weights, as data that a browser stores. */
  async saved() {
    await this.#replay();
    const plain = Object.entries(this.now.state).map(([name, { type, data, dims }]) => [name, { type, data, dims }]);
    const { seed, scene, anchors } = this;
    return { ...this.now, state: Object.fromEntries(plain), seed, scene, anchors };
  }

  /** Record from the moment shown on; after `back`, `reset` or `resume`, `recording.finish` must come before a tick. */
  async record() {
    const { keys, fps, height, width, name: world, checkpoint } = this.world;
    const { state, frame, pending, block, held, tapped, score, seed, scene, anchors } = await this.saved();
    const bits = action => ({ type: "uint8", data: Uint8Array.from(action), dims: [keys.length] });
    const still = block === 0 ? {} : { // else it begins with a reset, of which seed and scene tell all
      ...Object.fromEntries(Object.entries(state).map(([part, tensor]) => [`rolling.${part}`, tensor])),
      held: bits(held), tapped: bits(tapped),
      pending: { type: "uint8", data: joined(pending, Uint8Array), dims: [pending.length, height, width, 3] },
    };
    const about = { world, keys, fps, height, width, checkpoint, seed: String(seed), scene, block, score: score ?? 0,
      runtime: `onnxruntime-web ${ort.env.versions.web} ${this.provider}`, created: new Date().toISOString() };
    this.recording = new Recording(about, { anchors, ...still });
    this.recording.add({ frame, reward: 0, over: false }, keys.map(() => 0));
  }

  /** Go on from a result of `saved`; the past begins there. An Error where it is none of this world's. */
  resume({ seed, scene, anchors, ...moment }) {
    const own = { ...this.past.at(-1).moment, anchors: this.anchors };
    const isLike = (a, b) => a?.type === b.type && String(a.dims) === String(b.dims) && a.data?.length === b.data.length;
    const fits = typeof seed === "bigint" && typeof scene === "string" && isLike(anchors, own.anchors) &&
      Number.isInteger(moment.block) && Array.isArray(moment.pending) &&
      ["frame", "held", "tapped"].every(part => moment[part]?.length === own[part].length) &&
      Object.entries(own.state).every(([name, tensor]) => isLike(moment.state?.[name], tensor)) &&
      Object.values(moment.state).every(({ data }) => !data.some(Number.isNaN));
    if (!fits) throw new Error("What is saved is damaged: F5 saves anew");
    const tensors = Object.entries(moment.state).map(([name, { type, data, dims }]) =>
      [name, new ort.Tensor(type, data, dims)]);
    Object.assign(this, { seed, scene, anchors });
    return this.#begin({ ...moment, state: Object.fromEntries(tensors) });
  }

  #begin(moment) {
    this.past = [{ moment, ticks: [] }];
    return (this.now = moment);
  }

  /** The moment whose frame is shown after going back: the same ticks again give the same frames. */
  async #replay() {
    if (this.now !== null) return;
    const { moment, ticks } = this.past.at(-1);
    this.now = moment;
    for (const { action } of ticks) this.now = await this.#after(this.now, action);
  }

  #remember() {
    this.past.push({ moment: this.now, ticks: [] });
    const kept = Math.floor(MEMORY / (bytesOf(this.now.state) + STRETCH * this.now.frame.length));
    if (this.past.length > kept + 1) this.past.shift();
  }

  async #after(moment, action) {
    const isDue = !moment.pending.length;
    const tapped = moment.tapped.map((tap, i) => tap | (isDue ? action[i] : action[i] & ~moment.held[i]));
    const after = isDue ? await this.#block({ ...moment, tapped }) : { ...moment, tapped };
    const [frame, ...pending] = after.pending;
    const [reward, end] = after.state.outcome && !pending.length ? after.state.outcome.data : [0, 0];
    const score = after.score === null ? null : after.score + reward;
    return { ...after, frame, pending, reward, score, over: end > 0.5 };
  }

  /** The next block is generated under all keys that were down since the last one. */
  async #block(moment) {
    const action = floats(Float32Array.from(moment.tapped), [1, moment.tapped.length]);
    const noise = this.#noise(this.seed, BigInt(moment.block));
    const outputs = await this.#run("step", { ...moment.state, action, noise });
    const pending = await this.#decoded(outputs.latent);
    return { ...moment, state: changed(moment.state, outputs), pending, block: moment.block + 1,
      held: moment.tapped, tapped: moment.tapped.map(() => 0) };
  }

  /** The frames of latents [1, B, C, h, w]. */
  async #decoded(latents) {
    const { frames } = await this.#run("decoder", { latents: latents.reshape(latents.dims.slice(1)) });
    const size = frames.size / frames.dims[0];
    return Array.from({ length: frames.dims[0] }, (_, i) => frames.data.slice(i * size, (i + 1) * size));
  }

  /** Noise [1, K, B, C, h, w] of a seed and a counter. */
  #noise(seed, counter) {
    const shape = [1, this.world.window, ...this.world.block], { coming } = this;
    const isReady = coming?.counter === counter && coming.seed === seed;
    const data = isReady ? coming.data : normal(seed, counter, volume(shape));
    return floats(data, shape);
  }

  /** Make the noise of the next block while there is time. */
  prepare() {
    if (!this.now) return;
    const counter = BigInt(this.now.block);
    this.coming = { seed: this.seed, counter, data: this.#noise(this.seed, counter).data };
  }

  async #run(graph, values) {
    const session = this.sessions[graph];
    return session.run(Object.fromEntries(session.inputNames.map(name => [name, values[name]])));
  }
}

/** What takes the bytes of files as they come, and tells how far that is, in whole percents. */
function progress(names, tell) {
  const all = names.reduce((sum, name) => sum + sizes[`${decodeURIComponent(name)}.bin`], 0);
  let came = 0, told = 0;
  return bytes => {
    const percent = Math.min(100, Math.floor((100 * (came += bytes)) / all));
    if (percent >= told + 5) tell(`loading: ${told = percent} % of ${(all / 1e6).toFixed(1)} MB`);
  };
}

/** Have onnxruntime-web here, in one of its two builds. */
async function load(build, threads, came) {
  const script = import(`./${build}.js`).catch(error => {
    throw new Error(`${build}.js cannot be loaded, or is damaged (${error.message})`);
  });
  const [runtime, binary] = await Promise.all([script, unpacked(`${build}.wasm`, came)]);
  Object.assign(runtime.env.wasm, { wasmBinary: binary.buffer, numThreads: threads });
  ort = runtime;
}

async function released(sessions) {
  await Promise.all(Object.values(sessions).map(session => session.release()));
}

/** Is there a GPU, and not a processor that plays one, which takes hundreds of times as long? */
async function hasGpu() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter) && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
}

function alike(a, b) {
  return a.every((level, i) => Math.abs(level - b[i]) <= ROUNDING);
}

async function opened(name, graph, weights, provider) {
  const options = { executionProviders: [provider], externalData: [{ path: WEIGHTS, data: weights }] };
  return ort.InferenceSession.create(graph, options).catch(error => {
    if (provider === "wasm") forget(); // its weights may be of another version
    throw new Error(`${name}.onnx cannot be run (${error.message})`);
  });
}

/** The state with the outputs named next_<name> in place of its arrays. */
function changed(state, outputs) {
  const next = Object.entries(outputs).filter(([name]) => name.startsWith("next_"));
  return { ...state, ...Object.fromEntries(next.map(([name, value]) => [name.slice(5), value])) };
}

function floats(data, shape) {
  return new ort.Tensor("float32", data, shape);
}

function joined(arrays, Kind = Float32Array) {
  const all = new Kind(arrays.reduce((sum, { length }) => sum + length, 0));
  arrays.forEach((array, i) => all.set(array, i * array.length));
  return all;
}

function volume(shape) {
  return shape.reduce((product, length) => product * length, 1);
}

function bytesOf(state) {
  return Object.values(state).reduce((sum, tensor) => sum + tensor.data.byteLength, 0);
}
