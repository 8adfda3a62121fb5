// The game on a thread of its own, so that the page takes keys while a tick is computed.
// In: {verb, ...}, one at a time. Out: {words} while it loads, then the verb's result, or {error}.

import { Game, listed } from "./game.js";
import { load, save } from "./saves.js";

const THREADS = 4;
let game;

/** The part of a moment that is shown. */
const shown = ({ frame, score, over }) => ({ frame, score, over });

/** Under which a world's moment is saved: other sites of this host have others. */
const slot = () => `${new URL(".", location)} ${game.world.name}`;

const verbs = {
  list: async () => ({ worlds: await listed() }),
  async open({ world }) {
    // Half of the cores: the threads of onnxruntime-web spin while they wait, which makes other work beside them slow.
    const threads = self.crossOriginIsolated ? Math.min(THREADS, Math.ceil(navigator.hardwareConcurrency / 2)) : 1;
    game = await Game.open(world, threads, words => postMessage({ words }));
    return { runsOn: game.runsOn };
  },
  reset: async ({ seed, scene }) => shown(await game.reset(BigInt(seed), scene)),
  tick: async ({ action }) => shown(await game.tick(action)),
  back: () => shown(game.back()),
  record: () => game.record(),
  async finish() {
    const { recording } = game;
    game.recording = null;
    return { file: await recording.finish(), frames: recording.frames };
  },
  async save() {
    await save(slot(), { ...(await game.saved()), checkpoint: game.world.checkpoint });
  },
  async load() {
    const { checkpoint, ...saved } = (await load(slot())) ?? {};
    if (!checkpoint) throw new Error("Nothing is saved here yet: F5 saves");
    if (checkpoint !== game.world.checkpoint) throw new Error("What is saved is of other weights: F5 saves anew");
    return { ...shown(game.resume(saved)), place: { seed: String(saved.seed), scene: saved.scene } };
  },
};

onmessage = async ({ data: { verb, ...rest } }) => {
  try {
    const began = performance.now();
    const answer = await verbs[verb](rest);
    postMessage({ ...answer, ms: performance.now() - began });
    if (verb === "tick") game.prepare();
  } catch (error) {
    postMessage({ error: error.message });
  }
};
