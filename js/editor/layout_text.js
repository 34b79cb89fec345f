// @ts-check
/**
 * The widget's value: a layout's JSON (schema 1) with what only an editor needs beside it. Reading
 * migrates older forms; a form that is newer or broken is refused, and its text stays untouched.
 */

import { regionColour } from "../palette.js";
import { isBox, rounded } from "./geometry.js";
import { boundsOf, fromValue, toValue } from "./mask.js";

/** @typedef {import("./geometry.js").Box} Box */
/** @typedef {import("./mask.js").Bitmap} Bitmap */
/**
 * @typedef {object} Region
 * @property {string} id for this session only
 * @property {string} phrase
 * @property {Box} box the mask's bounds, if there is a mask
 * @property {Bitmap | null} mask
 * @property {number} occurrence
 * @property {number} weight
 * @property {number[] | null} tokens
 * @property {string} colour #rrggbb
 * @property {Record<string, unknown>} extra keys that this version does not know
 */
/** @typedef {{filename: string, subfolder: string, type: string}} ImageRef */
/**
 * @typedef {object} Settings what the editor keeps beside the regions; not part of undo
 * @property {number} grid pixels between two lines
 * @property {boolean} snap
 * @property {string | null} source the wired layout that the drawing is an edited copy of
 * @property {ImageRef | null} backdrop a picture dropped on the editor
 * @property {Record<string, unknown>} extra
 */
/** @typedef {{regions: Region[], settings: Settings, extra: Record<string, unknown>}} Drawing */

export const SCHEMA = 1;

/** A text that is no layout (``newer``: not yet), with the reason as its message. */
export class LayoutTextError extends Error {
  /** @param {string} message @param {boolean} newer */
  constructor(message, newer = false) {
    super(message);
    this.newer = newer;
  }
}

/** @returns {Settings} */
export function defaultSettings() {
  return { grid: 16, snap: false, source: null, backdrop: null, extra: {} };
}

let count = 0;
/** @returns {string} a name that no other region of this session has */
export function newId() {
  count += 1;
  return `r${count}`;
}

/** @param {unknown} value @returns {value is Record<string, unknown>} */
function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** @param {unknown} value @returns {value is number} */
const isCount = (value) => Number.isInteger(value) && Number(value) >= 0;

/**
 * Steps from a schema to the next. Key 0 stands for texts without a number: a bare list of regions,
 * as people and language models write them.
 * @type {Record<number, (value: Record<string, unknown>) => Record<string, unknown>>}
 */
const MIGRATIONS = { 0: (value) => ({ ...value, schema: 1 }) };

/** @param {unknown} value @returns {Record<string, unknown>} in the present schema */
function migrated(value) {
  const given = Array.isArray(value) ? { regions: value } : value;
  if (!isObject(given) || !Array.isArray(given.regions)) {
    throw new LayoutTextError("The text is no layout: it has no list 'regions'.");
  }
  let now = given;
  let schema = now.schema ?? 0;
  if (!isCount(schema)) throw new LayoutTextError(`The layout's schema is ${String(schema)}.`);
  if (schema > SCHEMA) {
    throw new LayoutTextError(
      `This layout was written by a newer RealCompo (schema ${schema}); update RealCompo to edit it.`,
      true,
    );
  }
  for (; schema < SCHEMA; schema += 1) now = MIGRATIONS[schema](now);
  return now;
}

/** @param {string} phrase @returns {string} as the server keeps it */
export function tidy(phrase) {
  return phrase.split(/\s+/u).filter(Boolean).join(" ");
}

/** @param {unknown} value @param {number} index @returns {Promise<Region>} */
async function readRegion(value, index) {
  const name = `Region ${index + 1}`;
  if (!isObject(value)) throw new LayoutTextError(`${name} is no object.`);
  const { phrase, box, mask, occurrence, weight, tokens, colour, ...extra } = value;
  const words = tidy(typeof phrase === "string" ? phrase : "");
  const listed = Array.isArray(tokens) && tokens.length > 0 && tokens.every(isCount);
  if (tokens !== undefined && tokens !== null && !listed) {
    throw new LayoutTextError(`${name} has token positions that are none.`);
  }
  if (!words && !listed) throw new LayoutTextError(`${name} has no phrase.`);
  /** @type {Bitmap | null} */
  let bitmap = null;
  if (mask !== undefined && mask !== null) {
    try {
      bitmap = await fromValue(mask);
    } catch (error) {
      throw new LayoutTextError(`${name}: ${error instanceof Error ? error.message : error}.`);
    }
  }
  const place = bitmap ? boundsOf(bitmap) : box;
  if (!isBox(place)) throw new LayoutTextError(`${name} has no box inside the image.`);
  const factor = weight ?? 1;
  if (typeof factor !== "number" || !Number.isFinite(factor) || factor <= 0) {
    throw new LayoutTextError(`${name} has a weight that is not above 0.`);
  }
  if (!isCount(occurrence ?? 0)) throw new LayoutTextError(`${name} has no valid occurrence.`);
  const known = typeof colour === "string" && /^#[0-9a-f]{6}$/iu.test(colour);
  return {
    id: newId(),
    phrase: words,
    box: place,
    mask: bitmap,
    occurrence: Number(occurrence ?? 0),
    weight: factor,
    tokens: listed ? [.../** @type {number[]} */ (tokens)] : null,
    colour: known ? colour.toLowerCase() : regionColour(index),
    extra,
  };
}

/** @param {unknown} value @returns {ImageRef | null} */
export function imageRef(value) {
  if (!isObject(value) || typeof value.filename !== "string") return null;
  const { filename, subfolder, type } = value;
  return { filename, subfolder: String(subfolder ?? ""), type: String(type ?? "input") };
}

/** @param {unknown} value @returns {Settings} */
function readSettings(value) {
  const base = defaultSettings();
  if (!isObject(value)) return base;
  const { grid, snap, source, backdrop, ...extra } = value;
  return {
    grid: typeof grid === "number" && grid >= 1 && grid <= 1024 ? grid : base.grid,
    snap: snap === true,
    source: typeof source === "string" ? source : null,
    backdrop: imageRef(backdrop),
    extra,
  };
}

/** @param {unknown} value a layout's JSON value, of any schema up to ours @returns {Promise<Drawing>} */
export async function readValue(value) {
  const { schema: _, regions, editor, ...extra } = migrated(value);
  const list = /** @type {unknown[]} */ (regions);
  const read = await Promise.all(list.map((region, index) => readRegion(region, index)));
  return { regions: read, settings: readSettings(editor), extra };
}

/** @param {string} text blank means an empty drawing @returns {Promise<Drawing>} */
export async function readText(text) {
  if (!text.trim()) return { regions: [], settings: defaultSettings(), extra: {} };
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new LayoutTextError(`The text is no JSON (${why}).`);
  }
  return readValue(value);
}

/** @param {Region} region @returns {Record<string, unknown>} defaults are left out */
export function regionValue(region) {
  return {
    ...region.extra,
    phrase: region.phrase,
    box: rounded(region.box),
    ...(region.mask ? { mask: toValue(region.mask) } : {}),
    ...(region.occurrence ? { occurrence: region.occurrence } : {}),
    ...(region.weight !== 1 ? { weight: region.weight } : {}),
    ...(region.tokens ? { tokens: region.tokens } : {}),
    colour: region.colour,
  };
}

/** @param {Drawing} drawing @returns {string} one line of JSON */
export function writeText({ regions, settings, extra }) {
  const { source, backdrop, extra: other, ...plain } = settings;
  return JSON.stringify({
    ...extra,
    schema: SCHEMA,
    regions: regions.map(regionValue),
    editor: { ...other, ...plain, ...(source ? { source } : {}), ...(backdrop ? { backdrop } : {}) },
  });
}

/** Regions for the clipboard, readable by the server's layout nodes too. @param {Region[]} regions */
export function clipText(regions) {
  return JSON.stringify({ schema: SCHEMA, regions: regions.map(regionValue) });
}
