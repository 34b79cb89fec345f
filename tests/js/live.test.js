// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";

import { mapColour } from "../../js/live/colours.js";
import { contour, median, unpack } from "../../js/live/planes.js";
import { follow, MOST_STEPS, Run } from "../../js/live/state.js";
import { wordsFor } from "../../js/live/words.js";
import { PALETTE, regionColour } from "../../js/palette.js";

/** @param {number} width @param {number} height @param {number[]} values one or more planes */
const packed = (width, height, values) => ({
  width, height, data: Buffer.from(values).toString("base64"),
});
const REGIONS = [
  { phrase: "a star", box: [0, 0, 0.5, 0.5] },
  { phrase: "a cube", box: [0.5, 0.5, 1, 1], mask: packed(2, 2, [0, 0, 0, 255]) },
];

/** @param {number} step @param {Record<string, unknown>} [more] */
const message = (step, more = {}) => ({
  node: "3", run: "first", steps: 20, width: 24, height: 16, regions: REGIONS, step,
  sigma: 10 - step, phase: "balance", mix: packed(3, 2, [0, 51, 102, 153, 204, 255]),
  models: {
    realism: {
      shares: [0.25, 0.5], loss: 1.25 - step / 20,
      maps: packed(2, 2, [255, 0, 0, 0, 0, 0, 0, 255]),
    },
  },
  ...more,
});

test("planes come out as they were packed, and what is none gives none", () => {
  const planes = unpack(packed(2, 1, [1, 2, 3, 250]));
  assert.deepEqual(planes.map((plane) => [...plane.values]), [[1, 2], [3, 250]]);
  for (const bad of [null, undefined, 3, {}, { width: 0, height: 2, data: "" },
    { width: 1.5, height: 2, data: "AAAA" }, { width: 2, height: 2, data: "not base64 !" },
    { width: 2, height: 2, data: 7 }, { width: 1e9, height: 1, data: "" }]) {
    assert.deepEqual(unpack(bad), []);
  }
});

test("the median of a plane", () => {
  assert.equal(median(unpack(packed(3, 1, [255, 0, 51]))[0]), 0.2);
});

/** Area of closed lines by the shoelace rule; holes count against. @param {{x: number, y: number}[]} line */
function area(line) {
  return Math.abs(line.reduce((sum, point, i) => {
    const next = line[(i + 1) % line.length];
    return sum + point.x * next.y - next.x * point.y;
  }, 0)) / 2;
}

test("a contour runs halfway between cells, and closes at the edge", () => {
  const [plane] = unpack(packed(4, 4, [0, 0, 0, 0, 0, 255, 255, 0, 0, 255, 255, 0, 0, 0, 0, 0]));
  const lines = contour(plane, 127.5);
  assert.equal(lines.length, 1);
  assert.equal(lines[0].length, 8);
  for (const { x, y } of lines[0]) {
    assert.ok(Math.abs(Math.max(Math.abs(x - 0.5), Math.abs(y - 0.5)) - 0.25) < 1e-9);
  }
  const full = contour(unpack(packed(2, 2, [255, 255, 255, 255]))[0], 127.5);
  assert.equal(full.length, 1);
  // the whole picture but its corners
  assert.ok(Math.abs(area(full[0]) - 0.875) < 1e-9);
  assert.deepEqual(contour(unpack(packed(2, 2, [9, 9, 9, 9]))[0], 127.5), []);
});

test("saddles are cut by their middle, rings have two lines", () => {
  const corners = [200, 0, 0, 200];
  const apart = contour(unpack(packed(2, 2, corners))[0], 127.5);
  assert.equal(apart.length, 2);
  const joined = contour(unpack(packed(2, 2, [200, 100, 100, 200]))[0], 127.5);
  assert.equal(joined.length, 1);
  const other = contour(unpack(packed(2, 2, [100, 200, 200, 100]))[0], 127.5);
  assert.equal(other.length, 1);
  assert.equal(contour(unpack(packed(2, 2, [0, 200, 200, 0]))[0], 127.5).length, 2);
  const ring = contour(unpack(packed(3, 3, [255, 255, 255, 255, 0, 255, 255, 255, 255]))[0], 127.5);
  assert.equal(ring.length, 2);
});

test("every line of random planes separates what is above from what is below", () => {
  let seed = 7;
  const random = () => {
    seed = (seed * 1103515245 + 12345) % 2 ** 31;
    return seed / 2 ** 31;
  };
  for (let round = 0; round < 50; round += 1) {
    const values = Array.from({ length: 30 }, () => Math.floor(256 * random()));
    const [plane] = unpack(packed(6, 5, values));
    const lines = contour(plane, 127.5);
    for (let i = 0; i < values.length; i += 1) {
      const [x, y] = [(i % 6 + 0.5) / 6, (Math.floor(i / 6) + 0.5) / 5];
      // A ray to the right, a little off the cells' middles, crosses an odd number of times.
      const crossings = lines.flatMap((line) => line.map((a, k) => {
        const b = line[(k + 1) % line.length];
        if ((a.y > y) === (b.y > y)) return 0;
        return a.x + ((y - a.y) / (b.y - a.y)) * (b.x - a.x) > x ? 1 : 0;
      })).reduce((/** @type {number} */ sum, one) => sum + one, 0);
      assert.equal(crossings % 2 === 1, values[i] > 127.5, `cell ${i} of round ${round}`);
    }
  }
});

test("a run gathers its steps in order and follows the last", () => {
  const run = new Run(message(0));
  assert.equal(run.total, 20);
  assert.equal(run.aspect, 1.5);
  assert.deepEqual(run.regions.map((region) => region.phrase), ["a star", "a cube"]);
  assert.equal(run.regions[0].shape, null);
  assert.equal(run.regions[1].shape?.length, 1);
  run.accept(message(2));
  run.accept(message(1));
  assert.deepEqual(run.steps.map((step) => step.index), [0, 1, 2]);
  assert.equal(run.shown?.index, 2);
  run.accept(message(2, { phase: "mix" }));
  assert.equal(run.steps.length, 3);
  assert.equal(run.shown?.phase, "mix");
});

test("a chosen step stays while more come, until the last is chosen again", () => {
  const run = new Run(message(0));
  for (let step = 1; step < 5; step += 1) run.accept(message(step));
  run.choose(2);
  assert.equal(run.shown?.index, 2);
  run.accept(message(5));
  assert.equal(run.shown?.index, 2);
  run.choose(5);
  run.accept(message(6));
  assert.equal(run.shown?.index, 6);
  run.choose(-3);
  assert.equal(run.shown?.index, 0);
});

test("shares and outlines are the last that were read", () => {
  const run = new Run(message(0));
  run.accept(message(1, { models: {} }));
  assert.deepEqual(run.seen("realism")?.shares, [0.25, 0.5]);
  assert.equal(run.seen("spatial"), null);
  const [star, cube] = run.attention("realism");
  assert.ok(star[0].every(({ x, y }) => x <= 0.5 && y <= 0.5));
  assert.ok(cube[0].every(({ x, y }) => x >= 0.5 && y >= 0.5));
  assert.deepEqual(run.attention("spatial"), [[], []]);
  assert.deepEqual(run.losses("realism"), [{ x: 0, y: 1.25 }]);
});

test("another run replaces the first; the same goes on", () => {
  const first = follow(null, message(0));
  assert.equal(follow(first, message(1)), first);
  const second = follow(first, message(0, { run: "second" }));
  assert.notEqual(second, first);
  assert.equal(second.steps.length, 1);
});

test("a long run keeps evenly spread steps, the last, and about what is looked at", () => {
  const run = new Run(message(0, { steps: 2000 }));
  for (let step = 1; step < 100; step += 1) run.accept(message(step));
  run.choose(51);
  for (let step = 100; step < 1500; step += 1) run.accept(message(step));
  assert.ok(run.steps.length <= MOST_STEPS && run.steps.length > MOST_STEPS / 2);
  assert.equal(run.steps.at(-1)?.index, 1499);
  assert.equal(run.shown?.index, 52);
  const indices = run.steps.map((step) => step.index);
  assert.deepEqual(indices.slice(0, 3), [0, 4, 8]);
  assert.deepEqual(indices, [...new Set(indices)].sort((a, b) => a - b));
});

test("messages that are none change nothing", () => {
  const run = new Run(message(0));
  for (const bad of [{}, message(1, { mix: null }), message(-1), message(1.5)]) {
    assert.equal(run.accept(bad), false);
  }
  assert.equal(run.steps.length, 1);
  assert.equal(new Run({}).shown, null);
  run.accept(message(1, { models: { realism: { shares: [1], maps: packed(2, 2, [1]) } } }));
  assert.deepEqual(run.steps[1].models, {});
});

test("colours run from the map's first to its last", () => {
  assert.deepEqual(mapColour("mix", 0), [0, 34, 78]);
  assert.deepEqual(mapColour("mix", 255), [254, 232, 56]);
  assert.deepEqual(mapColour("mix", 999), mapColour("mix", 255));
  assert.deepEqual(mapColour("heat", 0), [0, 0, 4]);
  assert.equal(regionColour(PALETTE.length), PALETTE[0]);
});

test("the view speaks both languages, with the same texts", () => {
  const [english, chinese] = [wordsFor("en"), wordsFor("zh-TW")];
  assert.notEqual(english.help, chinese.help);
  for (const key of /** @type {(keyof typeof english)[]} */ (Object.keys(english))) {
    const names = (/** @type {unknown} */ text) => String(text).match(/\{\w+\}/g)?.sort() ?? [];
    assert.deepEqual(names(chinese[key]), names(english[key]), key);
  }
});
