// The game on a thread of its own, so that the page takes keys while a tick is computed.
// In: {verb, ...}, one at a time. Out: {words} while it loads, then the verb's result, or {error}.

import { Game } from "./game.js";

const THREADS = 4;
let game;

const verbs = {
  async open() {
    // Half of the cores: the threads of onnxruntime-web spin while they wait, which makes other work beside them slow.
    const threads = self.crossOriginIsolated ? Math.min(THREADS, Math.ceil(navigator.hardwareConcurrency / 2)) : 1;
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
