// @ts-check
/**
 * Random sessions of the editor, for tests on both sides: ``node random_layouts.js N`` prints one
 * resulting text a line.
 */

import { pathToFileURL } from "node:url";

import { HANDLES, drawn } from "../../js/editor/geometry.js";
import { clipText, readText, readValue } from "../../js/editor/layout_text.js";
import { stroke } from "../../js/editor/mask.js";
import * as edit from "../../js/editor/operations.js";
import { EditorState } from "../../js/editor/state.js";

/** Numbers in 0..1 from a seed (mulberry32). @param {number} seed @returns {() => number} */
export function random(seed) {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** What a user can do, each with wild arguments. */
export class Session {
  /** @param {number} seed */
  constructor(seed) {
    this.random = random(seed);
    this.time = 0;
    this.state = new EditorState(() => this.time);
    this.clip = "";
  }

  /** @template T @param {readonly T[]} list @returns {T} */
  pick(list) {
    return list[Math.floor(this.random() * list.length)];
  }

  point() {
    // Often on an edge, often far outside: that is where mistakes live.
    const value = () => this.pick([0, 1, -0.5, 1.5, this.random(), this.random(), this.random()]);
    return { x: value(), y: value() };
  }

  /** @param {boolean} erase */
  brush(erase) {
    const { state } = this;
    const region = state.single();
    if (!region) return;
    const bitmap = edit.sheet(region, state.size, erase);
    for (let n = 0; n < 3; n += 1) {
      stroke(bitmap, this.point(), this.point(), this.random() * 40, erase ? 0 : 255);
    }
    state.preview(edit.painted(state.regions, region.id, bitmap));
    if (this.random() < 0.9) state.commit();
    else state.cancel();
  }

  drag() {
    const { state } = this;
    const start = state.regions;
    const region = state.single();
    const handle = this.pick(HANDLES);
    for (let n = 0; n < 3; n += 1) {
      const to = this.point();
      state.preview(
        region && this.random() < 0.5
          ? edit.pulled(start, region.id, handle, to, state.step())
          : edit.moved(start, state.selection, { x: to.x - 0.5, y: to.y - 0.5 }, state.step()),
      );
    }
    if (this.random() < 0.8) state.commit();
    else state.cancel();
  }

  async paste() {
    const text = this.pick([this.clip, "[]", "{", '{"regions": [{"phrase": "x", "box": [0, 0, 2, 1]}]}',
      '[{"phrase": " a  dog ", "box": [0.2, 0.2, 1, 1], "weight": 2, "colour": "red"}]']);
    const drawing = await readText(text).catch(() => null);
    if (drawing) this.state.paste(drawing.regions);
  }

  async adopt() {
    const regions = this.state.regions.slice(0, 2).map((r) => ({ phrase: r.phrase, box: r.box }));
    const drawing = await readValue({ schema: 1, regions });
    this.state.adopt(drawing.regions, `source${Math.floor(this.random() * 100)}`);
  }

  /** One random operation; returns its name. */
  async step() {
    const { state } = this;
    this.time += this.random() * 1000;
    const id = state.regions.length ? this.pick(state.regions).id : "none";
    const phrases = ["a red star", "", "  ", "a\n b", "\u7ea2\u8272", "\"quoted\" {}", "x".repeat(300)];
    /** @type {Record<string, () => unknown>} */
    const operations = {
      add: () => state.regions.length < 12
        && state.add(drawn(this.point(), this.point(), state.step()), this.pick(phrases)),
      select: () => state.select([id]),
      selectMore: () => state.select([...state.selection, id]),
      selectAll: () => state.select(state.regions.map((region) => region.id)),
      cycle: () => state.cycle(this.pick([1, -1])),
      drag: () => this.drag(),
      nudge: () => state.nudge(this.pick([-10, -1, 0, 1]), this.pick([-1, 0, 1, 10])),
      stretch: () => state.stretch(this.pick([-10, 0, 1]), this.pick([-1, 0, 10])),
      duplicate: () => state.regions.length < 12 && state.duplicate(),
      remove: () => this.random() < 0.4 && state.remove(),
      reorder: () => state.apply(edit.reordered(state.regions, state.selection,
        this.pick(["forward", "backward", "front", "back"]))),
      rename: () => state.apply(edit.renamed(state.regions, id, this.pick(phrases))),
      weigh: () => state.apply(edit.weighted(state.regions, state.selection,
        this.pick([0, -1, NaN, Infinity, 0.1, 1, 3.7]))),
      mean: () => state.apply(edit.meaning(state.regions, id, this.pick([0, 1, 2, -1, 0.5]))),
      colour: () => state.apply(edit.coloured(state.regions, state.selection,
        this.pick(["#123ABC", "red", "", "#fff"]))),
      paint: () => this.brush(false),
      erase: () => this.brush(true),
      unmask: () => state.apply(edit.unmasked(state.regions, state.selection)),
      copy: () => { this.clip = clipText(state.chosen()); },
      cut: () => { this.clip = clipText(state.chosen()); if (this.random() < 0.4) state.remove(); },
      paste: () => state.regions.length < 12 && this.paste(),
      adopt: () => this.random() < 0.3 && this.adopt(),
      undo: () => state.undo(),
      redo: () => state.redo(),
      snap: () => state.set({ snap: this.random() < 0.5, grid: this.pick([1, 8, 64, 1000]) }),
      size: () => state.resize(this.pick([{ width: 512, height: 512 }, { width: 8, height: 4096 },
        { width: 1344, height: 768 }, { width: NaN, height: 0 }])),
    };
    const name = this.pick(Object.keys(operations));
    await operations[name]();
    return name;
  }
}

const script = process.argv[1];
if (script && import.meta.url === pathToFileURL(script).href) {
  for (let seed = 1; seed <= Number(process.argv[2] ?? 10); seed += 1) {
    const session = new Session(seed);
    for (let n = 0; n < 60; n += 1) {
      await session.step();
      if (n % 6 === 5) console.log(session.state.text());
    }
  }
}
