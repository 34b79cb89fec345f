// @ts-check
/**
 * What can be done to a list of regions. Every function gives a new list and leaves the old one as
 * it is; what cannot be meant (an empty phrase, a weight of 0) gives the old list back.
 */

import { PALETTE } from "../palette.js";
import { drawn, reach, resized, shifted } from "./geometry.js";
import { newId, tidy } from "./layout_text.js";
import { blank, boundsOf, copyOf, fill, isEmpty, stretched } from "./mask.js";

/** @typedef {import("./layout_text.js").Region} Region */
/** @typedef {import("./geometry.js").Box} Box */
/** @typedef {import("./geometry.js").Point} Point */
/** @typedef {import("./geometry.js").Size} Size */
/** @typedef {import("./geometry.js").Handle} Handle */
/** @typedef {import("./mask.js").Bitmap} Bitmap */

/** The colour that the fewest regions have. @param {readonly Region[]} regions */
export function nextColour(regions) {
  const uses = PALETTE.map((colour) => regions.filter((r) => r.colour === colour).length);
  return PALETTE[uses.indexOf(Math.min(...uses))];
}

/** @param {readonly Region[]} regions @param {string} phrase @param {Box} box @returns {Region} */
export function newRegion(regions, phrase, box) {
  return {
    id: newId(), phrase: tidy(phrase) || `region ${regions.length + 1}`, box, mask: null,
    occurrence: 0, weight: 1, tokens: null, colour: nextColour(regions), extra: {},
  };
}

/** @param {Region} region @param {Box} box @returns {Region} with its mask, if any, taken along */
function placed(region, box) {
  if (box.every((value, index) => value === region.box[index])) return region;
  if (!region.mask) return { ...region, box };
  return masked(region, stretched(region.mask, region.box, box));
}

/** @param {Region} region @param {Bitmap} mask @returns {Region} */
function masked(region, mask) {
  return { ...region, mask, box: boundsOf(mask) };
}

/**
 * @param {readonly Region[]} regions @param {ReadonlySet<string>} ids
 * @param {(region: Region) => Region} change
 * @returns {Region[]}
 */
export function changed(regions, ids, change) {
  return regions.map((region) => (ids.has(region.id) ? change(region) : region));
}

/**
 * @param {readonly Region[]} regions @param {ReadonlySet<string>} ids
 * @param {Point} by @param {Point} step
 */
export function moved(regions, ids, by, step) {
  const boxes = regions.filter((region) => ids.has(region.id)).map((region) => region.box);
  if (!boxes.length) return [...regions];
  const way = reach(boxes, by, step);
  return changed(regions, ids, (region) => placed(region, shifted(region.box, way)));
}

/**
 * @param {readonly Region[]} regions @param {string} id @param {Handle} handle
 * @param {Point} to @param {Point} step
 */
export function pulled(regions, id, handle, to, step) {
  return changed(regions, new Set([id]), (region) =>
    placed(region, resized(region.box, handle, to, step)),
  );
}

/**
 * Copies beside the originals, on top of everything.
 * @param {readonly Region[]} regions @param {readonly Region[]} copied @param {Point} by
 * @returns {{regions: Region[], added: Region[]}}
 */
export function withCopies(regions, copied, by) {
  if (!copied.length) return { regions: [...regions], added: [] };
  const none = { x: 0, y: 0 };
  const way = reach(copied.map((region) => region.box), by, none);
  const added = copied.map((region) => ({
    ...placed(region, way.x || way.y ? shifted(region.box, way) : region.box),
    id: newId(),
  }));
  return { regions: [...regions, ...added], added };
}

/** @param {readonly Region[]} regions @param {ReadonlySet<string>} ids */
export function without(regions, ids) {
  return regions.filter((region) => !ids.has(region.id));
}

/**
 * Change the order, which is also what lies on top: one place, or all the way.
 * @param {readonly Region[]} regions @param {ReadonlySet<string>} ids
 * @param {"forward" | "backward" | "front" | "back"} way
 */
export function reordered(regions, ids, way) {
  const chosen = regions.filter((region) => ids.has(region.id));
  const rest = regions.filter((region) => !ids.has(region.id));
  if (way === "front") return [...rest, ...chosen];
  if (way === "back") return [...chosen, ...rest];
  const list = way === "forward" ? [...regions].reverse() : [...regions];
  for (let index = 1; index < list.length; index += 1) {
    if (ids.has(list[index].id) && !ids.has(list[index - 1].id)) {
      [list[index - 1], list[index]] = [list[index], list[index - 1]];
    }
  }
  return way === "forward" ? list.reverse() : list;
}

/** @param {readonly Region[]} regions @param {string} id @param {string} phrase */
export function renamed(regions, id, phrase) {
  const words = tidy(phrase);
  return changed(regions, new Set([id]), (region) =>
    (words || region.tokens) && words !== region.phrase ? { ...region, phrase: words } : region,
  );
}

/** @param {readonly Region[]} regions @param {ReadonlySet<string>} ids @param {number} weight */
export function weighted(regions, ids, weight) {
  if (!Number.isFinite(weight) || weight <= 0) return [...regions];
  return changed(regions, ids, (region) =>
    region.weight === weight ? region : { ...region, weight },
  );
}

/** @param {readonly Region[]} regions @param {string} id @param {number} occurrence 0 = first */
export function meaning(regions, id, occurrence) {
  if (!Number.isInteger(occurrence) || occurrence < 0) return [...regions];
  return changed(regions, new Set([id]), (region) =>
    region.occurrence === occurrence ? region : { ...region, occurrence },
  );
}

/** @param {readonly Region[]} regions @param {ReadonlySet<string>} ids @param {string} colour */
export function coloured(regions, ids, colour) {
  if (!/^#[0-9a-f]{6}$/iu.test(colour)) return [...regions];
  const low = colour.toLowerCase();
  return changed(regions, ids, (region) =>
    region.colour === low ? region : { ...region, colour: low },
  );
}

/**
 * What a brush starts from: the region's mask; without one an empty sheet to paint on, or the full
 * box to erase from.
 * @param {Region} region @param {Size} size @param {boolean} erase
 * @returns {Bitmap} a copy, free to be changed
 */
export function sheet(region, size, erase) {
  if (region.mask) return copyOf(region.mask);
  const bitmap = blank(size);
  if (erase) fill(bitmap, region.box);
  return bitmap;
}

/**
 * A region with a painted mask; one that is wiped out keeps what it had.
 * @param {readonly Region[]} regions @param {string} id @param {Bitmap} mask
 */
export function painted(regions, id, mask) {
  if (isEmpty(mask)) return [...regions];
  return changed(regions, new Set([id]), (region) => masked(region, mask));
}

/** Boxes instead of masks. @param {readonly Region[]} regions @param {ReadonlySet<string>} ids */
export function unmasked(regions, ids) {
  return changed(regions, ids, (region) => (region.mask ? { ...region, mask: null } : region));
}

/** A box in the middle, for those who draw without a pointer. @param {Point} step @returns {Box} */
export function middleBox(step) {
  return drawn({ x: 0.35, y: 0.35 }, { x: 0.65, y: 0.65 }, step);
}
