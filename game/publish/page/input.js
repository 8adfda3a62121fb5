// Held keys and taps, as game/play/keyboard.py has them. A key goes by its place on the keyboard, not by its letter,
// so that W A S D lie well on every keyboard.

const NAMES = { Space: "space", Enter: "return", ShiftLeft: "left shift", ControlLeft: "left ctrl" };
const ARROWS = { up: "w", left: "a", down: "s", right: "d" };

function nameOf(code) {
  return NAMES[code] ?? code.replace(/^(Key|Digit|Arrow)/, "").toLowerCase();
}

/** keys: the world's; command(name): called for a press of any other key, true where it means something. */
export class Keyboard {
  constructor(keys, command) {
    this.keys = keys;
    this.rewinding = false;
    this.held = new Set();
    this.tapped = new Set();
    this.arrivals = [];
    this.arrows = keys.some(key => key in ARROWS) ? {} : ARROWS;
    addEventListener("keydown", event => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
      const key = this.#meant(event.code);
      if (this.press(key, event) || command(key, event.repeat)) event.preventDefault();
    });
    addEventListener("keyup", event => this.release(this.#meant(event.code), event));
    addEventListener("blur", () => this.letGo());
  }

  /** The action of a tick, 0 or 1 for each key, and when the events came that it is the first to show. */
  sample() {
    const { arrivals } = this, action = this.keys.map(key => Number(this.held.has(key) || this.tapped.has(key)));
    this.tapped.clear();
    this.arrivals = [];
    return { action, arrivals };
  }

  press(key, event) {
    if (key === "backspace") return (this.rewinding = true);
    if (!this.keys.includes(key)) return false;
    if (!this.held.has(key)) this.arrivals.push(event.timeStamp);
    this.held.add(key);
    this.tapped.add(key);
    return true;
  }

  release(key, event) {
    if (key === "backspace") this.rewinding = false;
    if (this.held.delete(key) && !this.tapped.has(key)) this.arrivals.push(event.timeStamp);
  }

  letGo() {
    this.held.clear();
    this.rewinding = false;
  }

  /** A button that is a key while a finger or the mouse is on it. */
  button(key, text) {
    const button = Object.assign(document.createElement("button"), { textContent: text ?? key });
    button.dataset.key = key;
    button.addEventListener("pointerdown", event => { event.preventDefault(); this.press(key, event); });
    for (const end of ["pointerup", "pointercancel", "pointerleave"]) {
      button.addEventListener(end, event => this.release(key, event));
    }
    button.addEventListener("contextmenu", event => event.preventDefault());
    return button;
  }

  #meant(code) {
    const name = nameOf(code);
    return this.arrows[name] ?? name;
  }
}
