// Held keys and taps, as game/play/keyboard.py has them. A key goes by its place on the keyboard, not by its letter,
// so that W A S D lie well on every keyboard.

const NAMES = { Space: "space", Enter: "return", ShiftLeft: "left shift", ControlLeft: "left ctrl" };
const ARROWS = { up: "w", left: "a", down: "s", right: "d" };

// As game/play/gamepad.py has them, but numbered as browsers number a standard gamepad's.
const BUTTONS = { 0: "space", 1: "e", 4: "backspace", 8: "home", 9: "p",
  12: "up", 13: "down", 14: "left", 15: "right" };
const LEANS = [["left", "right"], ["up", "down"]];
const DEAD = 0.5; // how far a stick must lean to press a key
const POLL = 16; // milliseconds: browsers tell of no event when a gamepad's button goes down

function nameOf(code) {
  return NAMES[code] ?? code.replace(/^(Key|Digit|Arrow)/, "").toLowerCase();
}

/** The buttons and ways that a gamepad presses. */
function pressed({ axes, buttons }) {
  const down = buttons.flatMap((button, i) => (button.pressed && BUTTONS[i] ? [BUTTONS[i]] : []));
  const leans = LEANS.flatMap((ways, i) => (Math.abs(axes[i]) > DEAD ? [ways[Number(axes[i] > 0)]] : []));
  return [...down, ...leans];
}

/**
 * keys: the world's; command(name): called for a press of any other key, true where it means something; stands_for: other
 * keys for the world's; rest: ticks for which a held key does nothing after its first.
 */
export class Keyboard {
  constructor(keys, command, { stands_for, rest }) {
    this.keys = keys;
    this.rest = rest;
    this.rewinding = false;
    this.held = new Map(); // the ticks that have seen it held
    this.tapped = new Set();
    this.arrivals = [];
    const arrows = Object.entries(ARROWS).filter(([, key]) => keys.includes(key));
    this.standsFor = { ...(keys.some(key => key in ARROWS) ? {} : Object.fromEntries(arrows)), ...stands_for };
    addEventListener("keydown", event => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
      if (event.target.matches("select") && /^(Arrow|Space|Enter|Home|End)/.test(event.code)) return; // they choose
      const key = this.#meant(event.code);
      if (this.press(key, event) || command(key, event.repeat)) event.preventDefault();
    });
    addEventListener("keyup", event => this.release(this.#meant(event.code), event));
    addEventListener("blur", () => this.letGo());
    this.padded = new Set();
    setInterval(() => this.#pads(command), POLL);
  }

  #pads(command) {
    const meant = key => (this.keys.includes(key) ? key : this.standsFor[key] ?? key);
    const now = new Set([...(navigator.getGamepads?.() ?? [])].filter(Boolean).flatMap(pressed).map(meant));
    const event = { timeStamp: performance.now() };
    for (const key of now) if (!this.padded.has(key)) this.press(key, event) || command(key);
    for (const key of this.padded) if (!now.has(key)) this.release(key, event);
    this.padded = now;
  }

  /** The action of a tick, 0 or 1 for each key, and when the events came that it is the first to show. */
  sample() {
    const acts = ticks => ticks === 0 || ticks > this.rest; // of undefined, not held, neither is true
    const { arrivals } = this;
    const action = this.keys.map(key => Number(this.tapped.has(key) || acts(this.held.get(key))));
    for (const [key, ticks] of this.held) this.held.set(key, ticks + 1);
    this.forget();
    return { action, arrivals };
  }

  /** What was pressed while nothing was played. */
  forget() {
    this.tapped.clear();
    this.arrivals = [];
  }

  press(key, event) {
    if (key === "backspace") return (this.rewinding = true);
    if (!this.keys.includes(key)) return false;
    if (this.held.has(key)) return true; // the system's key repeat
    this.arrivals.push(event.timeStamp);
    this.held.set(key, 0);
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
    return this.standsFor[name] ?? name;
  }
}
