// @ts-check
/** A run as its messages tell it, and which step of it is shown. No DOM here. */

import { contour, unpack } from "./planes.js";

/** @typedef {import("./planes.js").Plane} Plane */
/** @typedef {import("./planes.js").Line} Line */
/** @typedef {"realism" | "spatial"} ModelName */
/** @typedef {{phrase: string, box: [number, number, number, number], shape: Line[] | null}} Region */
/** @typedef {{shares: number[], loss: number, maps: Plane[]}} Seen */
/**
 * @typedef {object} Step
 * @property {number} index counted from 0
 * @property {number} sigma
 * @property {string} phase
 * @property {Plane} mix 255 = realism model alone
 * @property {Partial<Record<ModelName, Seen>>} models those whose attention was read
 */

/** @type {ModelName[]} */
export const MODELS = ["realism", "spatial"];
/** A page keeps this many steps of a run; of longer ones every second, fourth, and so on. */
export const MOST_STEPS = 400;
/** Half of a map's peak, between two bytes. */
const HALF = 127.5;

/** @param {unknown} value @returns {number} */
const number = (value) => (Number.isFinite(value) ? Number(value) : 0);

/** @param {unknown} value @returns {Region[]} */
function regionsOf(value) {
  if (!Array.isArray(value)) return [];
  return value.map((entry) => ({
    phrase: String(entry?.phrase ?? ""),
    box: /** @type {Region["box"]} */ ([0, 1, 2, 3].map((i) => number(entry?.box?.[i]))),
    shape: unpack(entry?.mask).map((plane) => contour(plane, HALF))[0] ?? null,
  }));
}

/** @param {any} value @param {number} regions @returns {Seen | null} */
function seenOf(value, regions) {
  const maps = unpack(value?.maps);
  if (maps.length < regions || !Array.isArray(value.shares)) return null;
  const shares = Array.from({ length: regions }, (_, i) => number(value.shares[i]));
  return { shares, loss: number(value.loss), maps };
}

/** @param {any} message @param {number} regions @returns {Step | null} */
function stepOf(message, regions) {
  const [mix] = unpack(message.mix);
  if (!mix || !Number.isInteger(message.step) || message.step < 0) return null;
  /** @type {Step["models"]} */
  const models = {};
  for (const name of MODELS) {
    const seen = seenOf(message.models?.[name], regions);
    if (seen) models[name] = seen;
  }
  return {
    index: message.step, sigma: number(message.sigma), phase: String(message.phase ?? ""), mix,
    models,
  };
}

/** One run of a node, from its first message on. */
export class Run {
  /** @param {any} message the first one */
  constructor(message) {
    this.id = String(message.run ?? "");
    this.total = Math.max(1, number(message.steps));
    this.regions = regionsOf(message.regions);
    /** Width over height of the picture. */
    this.aspect = number(message.width) > 0 && number(message.height) > 0
      ? message.width / message.height : 1;
    /** @type {Step[]} in their order */
    this.steps = [];
    /** Place in ``steps`` of the one that is shown, or null: the last. @type {number | null} */
    this.chosen = null;
    /** Steps are kept at multiples of this, and the last one. */
    this.every = 1;
    this.accept(message);
  }

  /** Take in a step; false for what is none. @param {any} message @returns {boolean} */
  accept(message) {
    const step = stepOf(message, this.regions.length);
    if (!step) return false;
    const kept = this.shown;
    const place = this.steps.findIndex((other) => other.index >= step.index);
    if (place < 0) this.steps.push(step);
    else this.steps.splice(place, this.steps[place].index === step.index ? 1 : 0, step);
    this.thin();
    while (this.steps.length > MOST_STEPS) {
      this.every *= 2;
      this.thin();
    }
    // What somebody looks at stays before them.
    if (this.chosen !== null && kept) {
      const now = this.steps.findIndex((other) => other.index >= kept.index);
      this.chosen = now < 0 ? null : now;
    }
    return true;
  }

  /** Drop the steps between those that are kept. */
  thin() {
    const last = this.steps.length - 1;
    this.steps = this.steps.filter((step, i) => i === last || step.index % this.every === 0);
  }

  /** @returns {Step | null} */
  get shown() {
    return this.steps[this.chosen ?? this.steps.length - 1] ?? null;
  }

  /** Where in ``steps`` the shown one is. */
  get place() {
    return this.chosen ?? this.steps.length - 1;
  }

  /** Show a step by its place; the last one is followed on. @param {number} place */
  choose(place) {
    const last = this.steps.length - 1;
    this.chosen = place >= last ? null : Math.max(0, Math.round(place));
  }

  /**
   * What was last seen of a model's attention at or before the shown step.
   * @param {ModelName} name @returns {Seen | null}
   */
  seen(name) {
    for (let place = this.place; place >= 0; place -= 1) {
      const seen = this.steps[place]?.models[name];
      if (seen) return seen;
    }
    return null;
  }

  /**
   * Outlines of each region's attention at half its peak.
   * @param {ModelName} name @returns {Line[][]} one entry per region
   */
  attention(name) {
    const seen = this.seen(name);
    return this.regions.map((_, i) => (seen ? contour(seen.maps[i], HALF) : []));
  }

  /** The loss over the steps. @param {ModelName} name @returns {{x: number, y: number}[]} */
  losses(name) {
    return this.steps.flatMap((step) => {
      const seen = step.models[name];
      return seen ? [{ x: step.index, y: seen.loss }] : [];
    });
  }
}

/**
 * The run that a message belongs to: the one that is known, or a new one.
 * @param {Run | null} run @param {any} message @returns {Run}
 */
export function follow(run, message) {
  if (!run || run.id !== String(message?.run ?? "")) return new Run(message ?? {});
  run.accept(message);
  return run;
}
