// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";

import { LayoutTextError, clipText, readText } from "../../js/editor/layout_text.js";
import { boundsOf, isEmpty, stroke } from "../../js/editor/mask.js";
import * as edit from "../../js/editor/operations.js";
import { EditorState } from "../../js/editor/state.js";
import { PALETTE } from "../../js/palette.js";
import { Session } from "./random_layouts.js";

/** @typedef {import("../../js/editor/geometry.js").Box} Box */

/** A state with a clock that stands still, and boxes named a, b, c. @param {Box[]} boxes */
function drawing(...boxes) {
  const clock = { time: 0 };
  const state = new EditorState(() => clock.time);
  boxes.forEach((box, index) => state.add(box, "abcdef"[index]));
  return { state, clock };
}
/** @param {EditorState} state */
const names = (state) => state.regions.map((region) => region.phrase).join("");

const A = /** @type {Box} */ ([0.1, 0.1, 0.3, 0.3]);
const B = /** @type {Box} */ ([0.4, 0.4, 0.6, 0.6]);
const C = /** @type {Box} */ ([0.5, 0.5, 0.9, 0.9]);

test("regions get colours of their own, and words even without any", () => {
  const { state } = drawing(A, B);
  assert.deepEqual(state.regions.map((region) => region.colour), PALETTE.slice(0, 2));
  assert.equal(state.add(C, "  ").phrase, "region 3");
});

test("undo and redo go through every step and come back", () => {
  const { state } = drawing(A, B);
  const before = state.text();
  state.select(state.regions.map((region) => region.id));
  state.duplicate();
  state.remove();
  state.apply(edit.renamed(state.regions, state.regions[0].id, "a dog"));
  const after = state.text();
  for (let n = 0; n < 3; n += 1) state.undo();
  assert.equal(state.text(), before);
  for (let n = 0; n < 9; n += 1) state.redo();
  assert.equal(state.text(), after);
  for (let n = 0; n < 9; n += 1) state.undo();
  assert.equal(state.regions.length, 0);
  state.redo();
  state.add(C, "new");
  state.redo();
  assert.equal(names(state), "anew", "a new step ends what could be redone");
});

test("quick nudges are one step of undo, slow ones are two", () => {
  const { state, clock } = drawing(A);
  const x = () => Math.round(state.regions[0].box[0] * 512 - 51.2);
  for (let n = 0; n < 5; n += 1) state.nudge(1, 0);
  clock.time += 5000;
  state.nudge(10, 0);
  assert.equal(x(), 15);
  state.undo();
  assert.equal(x(), 5);
  state.undo();
  assert.equal(x(), 0);
});

test("a drag is one step, and Escape drops it", () => {
  const { state } = drawing(A);
  const start = state.regions;
  const text = state.text();
  const pull = (/** @type {number} */ x) =>
    state.preview(edit.moved(start, state.selection, { x, y: 0 }, state.step()));
  pull(0.1);
  pull(0.2);
  assert.equal(state.text(), text, "nothing is written while the pointer is down");
  state.cancel();
  assert.equal(state.regions, start);
  pull(0.3);
  state.commit();
  assert.notEqual(state.text(), text);
  state.undo();
  assert.equal(state.text(), text);
});

test("a drag that ends where it began is no step", () => {
  const { state } = drawing(A);
  const steps = state.past.length;
  state.begin();
  state.commit();
  assert.equal(state.past.length, steps);
});

test("the order changes by one place or all the way, together", () => {
  const { state } = drawing(A, B, C);
  const at = (/** @type {number[]} */ ...indices) => new Set(indices.map((i) => state.regions[i].id));
  const after = (/** @type {Set<string>} */ ids, /** @type {any} */ way) =>
    edit.reordered(state.regions, ids, way).map((region) => region.phrase).join("");
  assert.equal(after(at(0), "forward"), "bac");
  assert.equal(after(at(0, 1), "forward"), "cab");
  assert.equal(after(at(1, 2), "forward"), "abc");
  assert.equal(after(at(2), "backward"), "acb");
  assert.equal(after(at(0), "front"), "bca");
  assert.equal(after(at(2), "back"), "cab");
});

test("copies go through the clipboard as a layout's JSON, beside the original", async () => {
  const { state } = drawing(A, B);
  const text = clipText(state.regions.slice(0, 1));
  assert.deepEqual(JSON.parse(text).regions[0].phrase, "a");
  state.paste((await readText(text)).regions);
  assert.equal(names(state), "aba");
  assert.ok(state.regions[2].box[0] > A[0]);
  assert.deepEqual([...state.selection], [state.regions[2].id]);
  state.select(state.regions.map((region) => region.id));
  state.remove();
  state.paste((await readText(text)).regions);
  assert.deepEqual(state.regions[0].box, A, "in an empty place it keeps its place");
});

test("keys move to the grid's lines, one axis at a time, and resize", () => {
  const { state } = drawing(/** @type {Box} */ ([0.11, 0.11, 0.3, 0.3]));
  state.set({ snap: true, grid: 64 });
  state.nudge(1, 0);
  assert.deepEqual(state.regions[0].box.slice(0, 2), [0.25, 0.11]);
  state.stretch(0, 1);
  assert.deepEqual(state.regions[0].box[3], 0.375);
  assert.ok(Math.abs(state.regions[0].box[2] - 0.44) < 1e-6);
});

test("what cannot be meant changes nothing and is no step of undo", () => {
  const { state } = drawing(A);
  const steps = state.past.length;
  const { id } = state.regions[0];
  state.apply(edit.renamed(state.regions, id, " \n"));
  state.apply(edit.weighted(state.regions, state.selection, 0));
  state.apply(edit.weighted(state.regions, state.selection, NaN));
  state.apply(edit.coloured(state.regions, state.selection, "red"));
  state.apply(edit.meaning(state.regions, id, -1));
  assert.equal(state.past.length, steps);
  state.resize({ width: 0, height: NaN });
  assert.deepEqual(state.size, { width: 512, height: 512 });
});

test("a brush paints a mask, its box follows, and the last of it cannot be erased", () => {
  const { state } = drawing(A);
  const { id } = state.regions[0];
  const bitmap = edit.sheet(state.regions[0], state.size, false);
  assert.ok(isEmpty(bitmap), "painting starts on an empty sheet");
  stroke(bitmap, { x: 0.5, y: 0.5 }, { x: 0.75, y: 0.5 }, 8, 255);
  state.apply(edit.painted(state.regions, id, bitmap));
  const region = state.regions[0];
  assert.ok(region.mask && region.box[0] > 0.4);
  assert.deepEqual(region.box, boundsOf(region.mask));
  const wiped = edit.sheet(region, state.size, true);
  wiped.bits.fill(0);
  assert.equal(edit.painted(state.regions, id, wiped)[0], region);
  const moved = edit.moved(state.regions, new Set([id]), { x: -0.2, y: 0.1 }, state.step())[0];
  assert.ok(moved.mask && Math.abs(moved.box[0] - (region.box[0] - 0.2)) <= 1 / 256);
  assert.equal(moved.mask.bits.filter(Boolean).length, region.mask.bits.filter(Boolean).length);
  state.apply(edit.unmasked(state.regions, new Set([id])));
  assert.equal(state.regions[0].mask, null);
  const full = edit.sheet({ ...region, mask: null }, state.size, true);
  assert.ok(full.bits.some(Boolean), "erasing starts from the full box");
});

test("a wired layout is taken over once, and undo brings the own drawing back but not the news", () => {
  const { state } = drawing(A, B);
  const own = names(state);
  state.adopt([edit.newRegion([], "wired", C)], "abc");
  assert.equal(names(state), "wired");
  assert.equal(JSON.parse(state.text()).editor.source, "abc");
  state.undo();
  assert.equal(names(state), own);
  assert.equal(JSON.parse(state.text()).editor.source, "abc");
});

test("a text survives reading and writing, unknown keys too", async () => {
  const text = JSON.stringify({
    later: { x: 1 }, schema: 1,
    regions: [
      { more: [1], phrase: "a dog", box: [0, 0, 0.5, 1], occurrence: 1, weight: 2, colour: "#112233" },
      { phrase: "", box: [0.5, 0, 1, 1], tokens: [4, 5], colour: "#445566" },
    ],
    editor: { view: "x", grid: 32, snap: true, source: "s",
      backdrop: { filename: "f.png", subfolder: "", type: "input" } },
  });
  const state = new EditorState();
  state.load(await readText(text));
  assert.equal(state.text(), text);
});

test("older forms are read", async () => {
  const bare = await readText('[{"phrase": "a dog", "box": [0, 0, 1, 1]}]');
  const none = await readText('{"regions": [{"phrase": "a dog", "box": [0, 0, 1, 1]}]}');
  for (const read of [bare, none]) assert.equal(read.regions[0].phrase, "a dog");
  const state = new EditorState();
  state.load(bare);
  assert.equal(JSON.parse(state.text()).schema, 1);
  assert.deepEqual((await readText(" ")).regions, []);
});

test("newer and broken forms are refused with the reason", async () => {
  const newer = await readText('{"schema": 2, "regions": []}').catch((error) => error);
  assert.ok(newer instanceof LayoutTextError && newer.newer);
  for (const text of ["{", "7", '{"regions": 1}', '{"schema": "x", "regions": []}',
    '[{"phrase": "", "box": [0, 0, 1, 1]}]', '[{"phrase": "a"}]', "[1]",
    '[{"phrase": "a", "box": [0, 0, 1, 2]}]', '[{"phrase": "a", "box": [0, 0, 1, 1], "weight": 0}]',
    '[{"phrase": "a", "box": [0, 0, 1, 1], "tokens": ["x"]}]',
    '[{"phrase": "a", "box": [0, 0, 1, 1], "mask": {}}]']) {
    const error = await readText(text).catch((problem) => problem);
    assert.ok(error instanceof LayoutTextError && !error.newer, text);
  }
});

test("1,000 random operations never give an invalid layout", async () => {
  /** @type {Map<string, number>} */
  const seen = new Map();
  for (let seed = 100; seed < 110; seed += 1) {
    const session = new Session(seed);
    for (let n = 0; n < 100; n += 1) {
      const name = await session.step();
      seen.set(name, (seen.get(name) ?? 0) + 1);
      const text = session.state.text();
      const again = new EditorState();
      // Reading judges as the server does: phrase, box, weight, occurrence, mask.
      again.load(await readText(text));
      assert.equal(again.text(), text, `seed ${seed}, step ${n} (${name})`);
      for (const id of session.state.selection) {
        assert.ok(session.state.regions.some((region) => region.id === id));
      }
    }
  }
  assert.ok(seen.size >= 20, `only ${[...seen.keys()]} happened`);
});
