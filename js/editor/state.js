// @ts-check
/**
 * The drawing while it is edited: regions, selection, settings, undo. No DOM here. A change is
 * either done at once (``apply``) or shown while a pointer is down (``preview``) and then kept
 * (``commit``) or dropped (``cancel``); only kept changes can be undone.
 */

import { gridStep } from "./geometry.js";
import { defaultSettings, writeText } from "./layout_text.js";
import * as edit from "./operations.js";

/** @typedef {import("./layout_text.js").Region} Region */
/** @typedef {import("./layout_text.js").Drawing} Drawing */
/** @typedef {import("./layout_text.js").Settings} Settings */
/** @typedef {import("./geometry.js").Box} Box */
/** @typedef {import("./geometry.js").Point} Point */
/** @typedef {import("./geometry.js").Size} Size */
/** @typedef {"regions" | "preview" | "selection" | "settings" | "size"} Change */
/** @typedef {{regions: readonly Region[], selection: ReadonlySet<string>}} Moment */

const MOST_MOMENTS = 200;
const COALESCE_MS = 700;

export class EditorState {
  /** @param {() => number} now milliseconds; tests bring their own clock */
  constructor(now = () => performance.now()) {
    this.now = now;
    /** @type {readonly Region[]} */
    this.regions = [];
    /** @type {ReadonlySet<string>} */
    this.selection = new Set();
    this.settings = defaultSettings();
    /** @type {Record<string, unknown>} */
    this.extra = {};
    /** @type {Size} */
    this.size = { width: 512, height: 512 };
    /** @type {Moment[]} */
    this.past = [];
    /** @type {Moment[]} */
    this.future = [];
    /** @type {Moment | null} */
    this.before = null;
    /** @type {((change: Change) => void)[]} */
    this.listeners = [];
    this.lastKind = "";
    this.lastTime = -Infinity;
  }

  /** @param {(change: Change) => void} listener */
  onChange(listener) {
    this.listeners.push(listener);
  }

  /** @param {Change} change */
  tell(change) {
    for (const listener of this.listeners) listener(change);
  }

  /** Put another drawing in; its history starts anew. @param {Drawing} drawing */
  load(drawing) {
    this.regions = drawing.regions;
    this.settings = drawing.settings;
    this.extra = drawing.extra;
    this.selection = new Set();
    this.past = [];
    this.future = [];
    this.before = null;
    this.lastKind = "";
    this.tell("regions");
  }

  /** @returns {string} the widget's value */
  text() {
    const { settings, extra } = this;
    const kept = this.before ? this.before.regions : this.regions;
    return writeText({ regions: [...kept], settings, extra });
  }

  /** @returns {Point} the grid's distance in shares, 0 where snapping is off */
  step() {
    return gridStep(this.size, this.settings.snap ? this.settings.grid : 0);
  }

  /** @returns {Region[]} in the list's order */
  chosen() {
    return this.regions.filter((region) => this.selection.has(region.id));
  }

  /** @returns {Region | null} the region that keys and the brush act on, if it is only one */
  single() {
    const chosen = this.chosen();
    return chosen.length === 1 ? chosen[0] : null;
  }

  /** @param {Iterable<string>} ids */
  select(ids) {
    const known = new Set(this.regions.map((region) => region.id));
    const next = new Set([...ids].filter((id) => known.has(id)));
    if (next.size === this.selection.size && [...next].every((id) => this.selection.has(id))) return;
    this.selection = next;
    this.tell("selection");
  }

  /**
   * Do a change at once. Changes of one ``kind`` in quick succession are one step of undo.
   * @param {readonly Region[]} regions @param {Iterable<string> | null} selection
   * @param {string} kind
   */
  apply(regions, selection = null, kind = "") {
    if (this.before) this.cancel();
    const same = regions.length === this.regions.length
      && regions.every((region, index) => region === this.regions[index]);
    if (same && selection === null) return;
    const time = this.now();
    const merge = kind !== "" && kind === this.lastKind && time - this.lastTime < COALESCE_MS;
    if (!same && !merge) this.remember({ regions: this.regions, selection: this.selection });
    if (!same) this.future = [];
    this.lastKind = same ? "" : kind;
    this.lastTime = time;
    this.regions = regions;
    const known = new Set(regions.map((region) => region.id));
    this.selection = new Set([...(selection ?? this.selection)].filter((id) => known.has(id)));
    this.tell("regions");
  }

  /** @param {Moment} moment */
  remember(moment) {
    this.past.push(moment);
    if (this.past.length > MOST_MOMENTS) this.past.shift();
  }

  /** Start a change that a pointer goes on with. */
  begin() {
    if (!this.before) this.before = { regions: this.regions, selection: this.selection };
    this.lastKind = "";
  }

  /** Show a change. @param {readonly Region[]} regions */
  preview(regions) {
    this.begin();
    this.regions = regions;
    this.tell("preview");
  }

  /** Keep what was shown. */
  commit() {
    const before = this.before;
    if (!before) return;
    this.before = null;
    const regions = this.regions;
    const selection = this.selection;
    this.regions = before.regions;
    this.selection = before.selection;
    this.apply(regions, selection);
  }

  /** Drop what was shown. */
  cancel() {
    if (!this.before) return;
    ({ regions: this.regions, selection: this.selection } = this.before);
    this.before = null;
    this.tell("regions");
  }

  undo() {
    this.travel(this.past, this.future);
  }

  redo() {
    this.travel(this.future, this.past);
  }

  /** @param {Moment[]} from @param {Moment[]} to */
  travel(from, to) {
    this.cancel();
    const moment = from.pop();
    if (!moment) return;
    to.push({ regions: this.regions, selection: this.selection });
    ({ regions: this.regions, selection: this.selection } = moment);
    this.lastKind = "";
    this.tell("regions");
  }

  /** @param {Partial<Settings>} settings */
  set(settings) {
    this.settings = { ...this.settings, ...settings };
    this.tell("settings");
  }

  /** @param {Size} size pixels; anything below 1 is not yet typed to its end and is ignored */
  resize(size) {
    if (!(size.width >= 1) || !(size.height >= 1)) return;
    if (size.width === this.size.width && size.height === this.size.height) return;
    this.size = { ...size };
    this.tell("size");
  }

  /** @param {Box} box @param {string} phrase @returns {Region} */
  add(box, phrase) {
    const region = edit.newRegion(this.regions, phrase, box);
    this.apply([...this.regions, region], [region.id]);
    return region;
  }

  /** Paste or adopt regions beside what is there. @param {readonly Region[]} regions */
  paste(regions) {
    const taken = regions.some((region) =>
      this.regions.some((own) => own.box.every((value, i) => Math.abs(value - region.box[i]) < 1e-6)),
    );
    const by = taken ? this.beside() : { x: 0, y: 0 };
    const made = edit.withCopies(this.regions, regions, by);
    this.apply(made.regions, made.added.map((region) => region.id));
  }

  duplicate() {
    const made = edit.withCopies(this.regions, this.chosen(), this.beside());
    this.apply(made.regions, made.added.map((region) => region.id));
  }

  /** @returns {Point} where a copy goes, seen from its original */
  beside() {
    const step = this.step();
    return { x: step.x || 0.03, y: step.y || 0.03 };
  }

  remove() {
    this.apply(edit.without(this.regions, this.selection), []);
  }

  /** Take over the regions of a wired layout; undo brings the own ones back. @param {Region[]} regions @param {string} source */
  adopt(regions, source) {
    this.settings = { ...this.settings, source };
    this.apply(regions, []);
    this.tell("settings");
  }

  /**
   * Move the selection by keys: a pixel, or from line to line of the grid.
   * @param {number} dx @param {number} dy in steps
   */
  nudge(dx, dy) {
    const step = this.step();
    const by = { x: dx * (step.x || 1 / this.size.width), y: dy * (step.y || 1 / this.size.height) };
    // An axis that the key does not name stays where it is, even off the grid.
    const lines = { x: dx ? step.x : 0, y: dy ? step.y : 0 };
    this.apply(edit.moved(this.regions, this.selection, by, lines), null, "nudge");
  }

  /** Move the selected region's lower right corner by keys. @param {number} dx @param {number} dy */
  stretch(dx, dy) {
    const region = this.single();
    if (!region) return;
    const step = this.step();
    const to = {
      x: region.box[2] + dx * (step.x || 1 / this.size.width),
      y: region.box[3] + dy * (step.y || 1 / this.size.height),
    };
    const handle = dx && dy ? "se" : dx ? "e" : "s";
    this.apply(edit.pulled(this.regions, region.id, handle, to, step), null, "stretch");
  }

  /** Select the next or previous region. @param {1 | -1} way */
  cycle(way) {
    if (!this.regions.length) return;
    const now = this.regions.findIndex((region) => this.selection.has(region.id));
    const count = this.regions.length;
    const next = now < 0 ? (way > 0 ? 0 : count - 1) : (now + way + count) % count;
    this.select([this.regions[next].id]);
  }
}
