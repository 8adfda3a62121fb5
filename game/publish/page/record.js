// What was played as one file, which `python -m world_model.episode import FILE` makes a session of: gzip of
// a line of JSON, the arrays that it names, and of every frame
//   time float64, reward float32, over uint8, keys uint8 [K], frame uint8 [H, W, 3]      little-endian

const FORMAT = 1;

export class Recording {
  /** about: what the first line says. arrays: {name: {type, data, dims}}. */
  constructor(about, arrays) {
    const { readable, writable } = new CompressionStream("gzip");
    this.writer = writable.getWriter();
    this.file = new Response(readable).blob();
    this.began = performance.now();
    this.frames = 0;
    const listed = Object.entries(arrays).map(([name, { type, dims }]) => ({ name, type, shape: [...dims] }));
    this.#write(new TextEncoder().encode(`${JSON.stringify({ rollplay: FORMAT, ...about, arrays: listed })}\n`));
    for (const { data } of Object.values(arrays)) this.#write(data);
  }

  add({ frame, reward, over }, action) {
    const told = new DataView(new ArrayBuffer(13));
    told.setFloat64(0, (performance.now() - this.began) / 1000, true);
    told.setFloat32(8, reward, true);
    told.setUint8(12, over);
    for (const part of [new Uint8Array(told.buffer), Uint8Array.from(action), frame]) this.#write(part);
    this.frames += 1;
  }

  /** The file, a Blob. */
  async finish() {
    await this.writer.close();
    return this.file;
  }

  #write(data) {
    this.writer.write(new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice());
  }
}
