// The game on a thread of its own, so that the page takes keys while a tick is computed.
// In: {verb, ...}, one at a time. Out: {words} while it loads, then the verb's result, or {error}.

import { Game } from "./game.js";

const THREADS = 2; // as in world_model/play/runtime.py
let game;

const verbs = {
  async open() {
    const threads = self.crossOriginIsolated ? Math.min(THREADS, navigator.hardwareConcurrency) : 1;
    game = await Game.open(threads, words => postMessage({ words }));
    return { world: game.world, threads };
  },
  reset: ({ seed, scene }) => game.reset(BigInt(seed), scene),
  tick: ({ action }) => game.tick(action),
  back: () => game.back(),
};

onmessage = async ({ data: { verb, ...rest } }) => {
  try {
    const began = performance.now();
    const { world, threads, frame, score, over } = await verbs[verb](rest);
    postMessage({ world, threads, frame, score, over, ms: performance.now() - began });
    if (verb === "tick") game.prepare();
  } catch (error) {
    postMessage({ error: error.message });
  }
};
