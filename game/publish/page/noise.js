// The noise of world_model/model/noise.py: standard normal float32 from (seed, counter), as numpy makes them.
// Philox4x64-10 (Salmon et al. 2011, doi 10.1145/2063384.2063405) and the ziggurat (Marsaglia and Tsang 2000) of
// numpy.random.Generator.standard_normal(dtype=float32). Equal bit for bit, but for the one sample in 4,000 beyond
// R, which goes through log1p: there numpy takes its C library's float32 one, and the last bits may differ.

const WORDS = 4, ROUNDS = 10;
const MULTIPLIERS = [0xd2e7470ee14c6c93n, 0xca5a826395121157n].map(halves);
const WEYL = [0x9e3779b97f4a7c15n, 0xbb67ae8584caa73bn].map(halves);
const R = 3.6541528853610088, AREA = 0.00492867323399, UNIT = 2 ** -24;

/** Standard normal Float32Array of `length`; seed and counter are BigInts below 2**64. */
export function normal(seed, counter, length) {
  const next = words(seed, counter), out = new Float32Array(length);
  for (let i = 0; i < length; i++) out[i] = sample(next);
  return out;
}

function sample(next) {
  for (;;) {
    const bits = next(), layer = bits & 0xff, size = (bits >>> 9) & 0x7fffff;
    const x = Math.fround((bits & 0x100 ? -size : size) * WIDTH[layer]);
    if (size < INSIDE[layer]) return x;
    if (layer === 0) return (size >> 8) & 1 ? -tail(next) : tail(next);
    const rise = Math.fround(HEIGHT[layer - 1] - HEIGHT[layer]);
    if (Math.fround(Math.fround(rise * fraction(next)) + HEIGHT[layer]) < density(x)) return x;
  }
}

function tail(next) {
  for (;;) {
    const x = Math.fround(-Math.fround(1 / R) * Math.fround(Math.log1p(-fraction(next))));
    const y = -Math.fround(Math.log1p(-fraction(next)));
    if (Math.fround(y + y) > Math.fround(x * x)) return Math.fround(Math.fround(R) + x);
  }
}

function fraction(next) {
  return (next() >>> 8) * UNIT;
}

function density(x) {
  return Math.exp(-0.5 * x * x);
}

const [WIDTH, HEIGHT, INSIDE] = layers();

/** The ziggurat's 256 layers, the lowest first, whose right side is the tail: width per unit, height, units inside. */
function layers() {
  const edges = [AREA / density(R)];
  edges[255] = R;
  for (let i = 254; i > 0; i--) edges[i] = Math.sqrt(-2 * Math.log(AREA / edges[i + 1] + density(edges[i + 1])));
  const inner = edges.map((_, i) => (i === 0 ? R : i === 1 ? 0 : edges[i - 1]));
  return [
    Float32Array.from(edges, edge => edge / 2 ** 23),
    Float32Array.from(edges, (edge, i) => (i === 0 ? 1 : density(edge))),
    Uint32Array.from(edges, (edge, i) => Math.round((inner[i] / edge) * 2 ** 23)),
  ];
}

/** A function that returns the generator's next 32 bits. 64-bit words are pairs of halves, the low one first. */
function words(seed, counter) {
  const key = new Uint32Array(halves(seed)), high = halves(counter), block = new Uint32Array(2 * WORDS);
  let blocks = 0, at = 2 * WORDS;
  return () => {
    if (at === 2 * WORDS) {
      block.set([++blocks, 0, 0, 0, 0, 0, ...high]);
      philox(block, key);
      at = 0;
    }
    return block[at++];
  };
}

function philox(block, seed) {
  const key = new Uint32Array([seed[0], seed[1], 0, 0]), a = new Uint32Array(4), b = new Uint32Array(4);
  for (let round = 0; round < ROUNDS; round++) {
    multiply(MULTIPLIERS[0], block[0], block[1], a);
    multiply(MULTIPLIERS[1], block[4], block[5], b);
    for (const half of [0, 1]) {
      block[half] = b[2 + half] ^ block[2 + half] ^ key[half];
      block[4 + half] = a[2 + half] ^ block[6 + half] ^ key[2 + half];
      block[2 + half] = b[half];
      block[6 + half] = a[half];
    }
    add(key, 0, WEYL[0]);
    add(key, 2, WEYL[1]);
  }
}

/** out: the 128 bits of a 64-bit product, in 32-bit words, the lowest first. */
function multiply([low, high], otherLow, otherHigh, out) {
  const crossed = upper(low, otherLow) + lower(low, otherHigh) + lower(high, otherLow);
  const above = upper(low, otherHigh) + upper(high, otherLow) + lower(high, otherHigh) + Math.floor(crossed / 2 ** 32);
  out[0] = lower(low, otherLow);
  out[1] = crossed;
  out[2] = above;
  out[3] = upper(high, otherHigh) + Math.floor(above / 2 ** 32);
}

/** The lower and upper 32 bits of a product of 32-bit numbers; all steps are exact in a double. */
function lower(a, b) {
  return Math.imul(a, b) >>> 0;
}

function upper(a, b) {
  return Math.floor((a * (b >>> 16) + Math.floor((a * (b & 0xffff)) / 65536)) / 65536);
}

function add(words, at, [low, high]) {
  const sum = words[at] + low;
  words[at] = sum;
  words[at + 1] += high + (sum >= 2 ** 32 ? 1 : 0);
}

function halves(word) {
  return [Number(word & 0xffffffffn), Number(word >> 32n)];
}
