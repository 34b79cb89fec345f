// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";
import { inflateSync } from "node:zlib";

import * as mask from "../../js/editor/mask.js";

/** @param {mask.Bitmap} bitmap */
const painted = (bitmap) => bitmap.bits.reduce((sum, value) => sum + (value > 0 ? 1 : 0), 0);

test("a new mask has the image's shape", () => {
  const { width, height, bits } = mask.blank({ width: 1344, height: 768 });
  assert.deepEqual([width, height, bits.length], [256, 146, 256 * 146]);
  assert.ok(mask.isEmpty(mask.blank({ width: 1, height: 16384 })));
});

test("a stroke is a line with round ends, and erasing takes it away", () => {
  const bitmap = mask.blank({ width: 512, height: 512 });
  mask.stroke(bitmap, { x: 0.25, y: 0.5 }, { x: 0.75, y: 0.5 }, 10, 255);
  const wanted = 128 * 20 + Math.PI * 100;
  assert.ok(Math.abs(painted(bitmap) - wanted) < 0.02 * wanted);
  const [x0, y0, x1, y1] = mask.boundsOf(bitmap).map((value) => value * 256);
  assert.deepEqual([x0, y0, x1, y1], [54, 118, 202, 138]);
  mask.stroke(bitmap, { x: 0.25, y: 0.5 }, { x: 0.75, y: 0.5 }, 10, 0);
  assert.ok(mask.isEmpty(bitmap));
});

test("a stroke outside the image paints nothing and breaks nothing", () => {
  const bitmap = mask.blank({ width: 64, height: 64 });
  mask.stroke(bitmap, { x: -3, y: -3 }, { x: -2, y: 5 }, 20, 255);
  assert.ok(mask.isEmpty(bitmap));
  mask.stroke(bitmap, { x: -1, y: 0.5 }, { x: 2, y: 0.5 }, 1, 255);
  assert.deepEqual([mask.boundsOf(bitmap)[0], mask.boundsOf(bitmap)[2]], [0, 1]);
});

test("bounds ignore a feathered edge, unless there is nothing else", () => {
  const bitmap = { width: 4, height: 1, bits: Uint8Array.of(60, 200, 128, 127) };
  assert.deepEqual(mask.boundsOf(bitmap), [0.25, 0, 0.75, 1]);
  assert.deepEqual(mask.boundsOf({ ...bitmap, bits: Uint8Array.of(0, 60, 0, 0) }), [0.25, 0, 0.5, 1]);
});

test("stretching keeps thin lines and fills exactly the new box", () => {
  const bitmap = mask.blank({ width: 256, height: 256 });
  mask.stroke(bitmap, { x: 0.1, y: 0.1 }, { x: 0.9, y: 0.9 }, 0.8, 255);
  const from = mask.boundsOf(bitmap);
  for (const to of /** @type {import("../../js/editor/geometry.js").Box[]} */ (
    [[0.5, 0.5, 0.6, 0.52], [0, 0, 1, 1], [0.25, 0.125, 0.75, 0.875], [0.999, 0.999, 1, 1]]
  )) {
    const out = mask.stretched(bitmap, from, to);
    mask.boundsOf(out).forEach((edge, i) => assert.ok(Math.abs(edge - to[i]) <= 1 / 256, `${to}`));
  }
  const same = mask.stretched(bitmap, from, from);
  assert.deepEqual(same.bits, bitmap.bits);
});

for (const side of [8, 256, 400]) {
  test(`packed and unpacked, plain and compressed, ${side} pixels wide`, async () => {
    const bitmap = { width: side, height: side, bits: new Uint8Array(side * side) };
    mask.stroke(bitmap, { x: 0, y: 0 }, { x: 1, y: 1 }, 2, 255);
    const plain = mask.toValue(bitmap);
    // Node's zlib is the reader that knows nothing of ours.
    assert.deepEqual(new Uint8Array(inflateSync(Buffer.from(plain.data, "base64"))), bitmap.bits);
    assert.deepEqual((await mask.fromValue(plain)).bits, bitmap.bits);
    assert.equal(await mask.pack(bitmap), true);
    assert.equal(await mask.pack(bitmap), false);
    const small = mask.toValue(bitmap);
    assert.ok(small.data.length < plain.data.length / (side < 100 ? 1 : 5));
    assert.deepEqual((await mask.fromValue(small)).bits, bitmap.bits);
  });
}

test("what is no mask is refused", async () => {
  const good = { width: 4, height: 4, bits: new Uint8Array(16).fill(255) };
  const value = mask.toValue(good);
  for (const bad of [null, 7, {}, { ...value, width: 5 }, { ...value, height: 0 },
    { ...value, data: "@" }, { ...value, data: "AAAA" }, { ...value, width: 1e9 },
    mask.toValue({ ...good, bits: new Uint8Array(16) })]) {
    await assert.rejects(mask.fromValue(bad));
  }
});
