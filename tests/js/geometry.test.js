// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";

import * as geo from "../../js/editor/geometry.js";
import { random } from "./random_layouts.js";

const NONE = { x: 0, y: 0 };
const EIGHTHS = { x: 1 / 8, y: 1 / 8 };

/** @param {readonly number[]} actual @param {readonly number[]} wanted */
function near(actual, wanted) {
  assert.equal(actual.length, wanted.length);
  actual.forEach((value, i) => assert.ok(Math.abs(value - wanted[i]) < 1e-5, `${actual} ${wanted}`));
}

test("a box is drawn between any two corners, inside the image", () => {
  near(geo.drawn({ x: 0.2, y: 0.3 }, { x: 0.6, y: 0.9 }, NONE), [0.2, 0.3, 0.6, 0.9]);
  near(geo.drawn({ x: 0.6, y: 0.9 }, { x: 0.2, y: 0.3 }, NONE), [0.2, 0.3, 0.6, 0.9]);
  near(geo.drawn({ x: 0.5, y: 0.5 }, { x: 7, y: -3 }, NONE), [0.5, 0, 1, 0.5]);
});

test("a click makes the shortest box, towards the inside at an edge", () => {
  near(geo.drawn({ x: 1, y: 0 }, { x: 1, y: 0 }, NONE), [1 - geo.SHORTEST, 0, 1, geo.SHORTEST]);
});

test("drawing snaps to lines and to the far edge, which may lie off the grid", () => {
  near(geo.drawn({ x: 0.13, y: 0.2 }, { x: 0.37, y: 0.36 }, EIGHTHS), [0.125, 0.25, 0.375, 0.375]);
  const step = { x: 0.3, y: 0.3 };
  near(geo.drawn({ x: 0.3, y: 0.3 }, { x: 0.97, y: 0.7 }, step), [0.3, 0.3, 1, 0.6]);
  near(geo.drawn({ x: 0.25, y: 0.25 }, { x: 0.25, y: 0.25 }, EIGHTHS), [0.25, 0.25, 0.375, 0.375]);
});

test("boxes moved together keep their distance and stay inside", () => {
  const boxes = /** @type {geo.Box[]} */ ([[0.1, 0.1, 0.2, 0.2], [0.5, 0.5, 0.9, 0.7]]);
  const way = geo.reach(boxes, { x: 0.5, y: -0.5 }, NONE);
  near([way.x, way.y], [0.1, -0.1]);
  const snapped = geo.reach(boxes, { x: 0.05, y: 0.05 }, EIGHTHS);
  near([snapped.x, snapped.y], [0.025, 0.025]);
});

test("an edge that is pulled stops at its opposite", () => {
  const box = /** @type {geo.Box} */ ([0.2, 0.2, 0.6, 0.6]);
  near(geo.resized(box, "e", { x: 0.8, y: 0 }, NONE), [0.2, 0.2, 0.8, 0.6]);
  near(geo.resized(box, "e", { x: 0, y: 0 }, NONE), [0.2, 0.2, 0.2 + geo.SHORTEST, 0.6]);
  near(geo.resized(box, "nw", { x: -1, y: 0.9 }, NONE), [0, 0.6 - geo.SHORTEST, 0.6, 0.6]);
  near(geo.resized(box, "se", { x: 0.71, y: 0.71 }, EIGHTHS), [0.2, 0.2, 0.75, 0.75]);
});

test("no pull, move or stroke of the pointer makes an impossible box", () => {
  const dice = random(7);
  const point = () => ({ x: dice() * 4 - 1.5, y: dice() * 4 - 1.5 });
  for (let n = 0; n < 3000; n += 1) {
    const step = dice() < 0.5 ? NONE : { x: dice(), y: dice() * 0.1 };
    let box = geo.drawn(point(), point(), step);
    assert.ok(geo.isBox(box), String(box));
    box = geo.shifted(box, geo.reach([box], point(), step));
    assert.ok(geo.isBox(box), String(box));
    const handle = geo.HANDLES[Math.floor(dice() * 8)];
    box = geo.resized(box, handle, point(), step);
    assert.ok(geo.isBox(box), `${handle} ${box}`);
  }
});

test("a handle is found near its point, a corner before an edge", () => {
  const box = /** @type {geo.Box} */ ([0.2, 0.2, 0.6, 0.6]);
  const slop = { x: 0.02, y: 0.02 };
  assert.equal(geo.handleAt(box, { x: 0.21, y: 0.19 }, slop), "nw");
  assert.equal(geo.handleAt(box, { x: 0.4, y: 0.61 }, slop), "s");
  assert.equal(geo.handleAt(box, { x: 0.4, y: 0.4 }, slop), null);
  const tiny = /** @type {geo.Box} */ ([0.5, 0.5, 0.505, 0.505]);
  assert.equal(geo.handleAt(tiny, { x: 0.5, y: 0.5 }, slop), "nw");
});

test("a frame of the image's shape fits the space", () => {
  assert.deepEqual(geo.fitted({ width: 400, height: 300 }, { width: 1000, height: 500 }),
    { left: 0, top: 50, width: 400, height: 200 });
  assert.deepEqual(geo.fitted({ width: 400, height: 300 }, { width: 512, height: 512 }),
    { left: 50, top: 0, width: 300, height: 300 });
});

test("a pointer's place does not depend on zoom and pan", () => {
  const frame = { left: 100, top: 50, width: 200, height: 100 };
  assert.deepEqual(geo.pointAt({ clientX: 150, clientY: 75 }, frame), { x: 0.25, y: 0.25 });
  const zoomed = { left: -300, top: 20, width: 900, height: 450 };
  assert.deepEqual(geo.pointAt({ clientX: -75, clientY: 132.5 }, zoomed), { x: 0.25, y: 0.25 });
});
