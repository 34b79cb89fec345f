// @ts-check
/** What the page makes of the server's answers about phrases. */

import assert from "node:assert/strict";
import test from "node:test";

import { Matcher, placed } from "../../js/editor/match.js";

const PROMPT = "\u{1f436} and a caf\u00e9, a red star";

/** @param {string} id @param {string} phrase */
function region(id, phrase) {
  return /** @type {any} */ ({ id, phrase, occurrence: 0, tokens: null });
}

/** @param {object} value @param {any[]} regions */
async function answered(value, regions) {
  const reply = { ok: true, json: async () => value };
  const matcher = new Matcher(async () => /** @type {any} */ (reply), () => {});
  await matcher.put(0, PROMPT, new Map(regions.map((one) => [one.id, one.phrase])), "");
  assert.equal(matcher.problem, null);
  return matcher;
}

test("places of words count as this language counts", () => {
  const words = [
    { text: "\u{1f436}", start: 0, end: 1 }, { text: "caf\u00e9", start: 8, end: 12 },
    { text: "elsewhere", start: -1, end: -1 },
  ];
  const [dog, cafe, none] = placed(PROMPT, words);
  assert.equal(PROMPT.slice(dog.start, dog.end), "\u{1f436}");
  assert.equal(PROMPT.slice(cafe.start, cafe.end), "caf\u00e9");
  assert.deepEqual([none.start, none.end], [-1, -1]);
});

test("the next proposal is the server's, less what was named since", async () => {
  const regions = [region("one", "The Caf\u00e9")];
  const value = {
    words: [], things: ["\u{1f436}", "a caf\u00e9", "a red star"], free: ["\u{1f436}", "a red star"],
    regions: [{ words: [], found: true, held: 1, suggestion: null }],
  };
  const matcher = await answered(value, regions);
  assert.equal(matcher.proposal(regions), "\u{1f436}");
  assert.equal(matcher.proposal([...regions, region("two", "\u{1f436}")]), "a red star");
  const all = [...regions, region("two", "\u{1f436}"), region("three", "a red star")];
  assert.equal(matcher.proposal(all), "");
});

test("nothing is proposed before an answer", () => {
  const matcher = new Matcher(async () => { throw new Error("never"); }, () => {});
  assert.equal(matcher.proposal([region("one", "a cat")]), "");
});
