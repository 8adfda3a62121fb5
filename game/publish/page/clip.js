// A film of what was shown: a browser's own recorder watches it once more.

const SIDE = 512; // least pixels of its longer side
const TYPES = ["video/mp4;codecs=avc1.42E01E", "video/mp4", "video/webm"]; // what plays in most places first

/** The film, a Blob, of frames (ImageData), which takes as long as they did. */
export async function film(frames, fps) {
  const [{ width, height }] = frames, scale = Math.ceil(SIDE / Math.max(width, height));
  const canvas = Object.assign(document.createElement("canvas"), { width: width * scale, height: height * scale });
  const mimeType = globalThis.MediaRecorder && TYPES.find(type => MediaRecorder.isTypeSupported(type));
  if (!mimeType || !canvas.captureStream) throw new Error("This browser makes no films: it has no MediaRecorder");
  const pen = canvas.getContext("2d"), recorder = new MediaRecorder(canvas.captureStream(), { mimeType });
  const parts = [], ends = new Promise(resolve => { recorder.onstop = resolve; });
  recorder.ondataavailable = ({ data }) => parts.push(data);
  pen.imageSmoothingEnabled = false;
  recorder.start();
  let due = performance.now();
  for (const frame of frames) {
    pen.drawImage(await createImageBitmap(frame), 0, 0, canvas.width, canvas.height);
    due += 1000 / fps;
    await new Promise(resolve => setTimeout(resolve, due - performance.now()));
  }
  recorder.stop();
  await ends;
  const made = new Blob(parts, { type: mimeType });
  if (!made.size) throw new Error("The browser made an empty film: play on, and try again");
  return made;
}
