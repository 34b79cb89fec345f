// @ts-check
/** Draws the drawing. Everything comes in as values; nothing is remembered but measured labels. */

import { handlePoints } from "./geometry.js";

/** @typedef {import("./geometry.js").Box} Box */
/** @typedef {import("./geometry.js").Point} Point */
/** @typedef {import("./layout_text.js").Region} Region */
/** @typedef {import("./mask.js").Bitmap} Bitmap */
/**
 * @typedef {object} View all lengths in the page's own pixels, before the graph's zoom
 * @property {number} width of the frame
 * @property {number} height
 * @property {readonly Region[]} regions
 * @property {ReadonlySet<string>} selection
 * @property {ReadonlySet<string>} lacking regions whose phrase the prompt does not hold
 * @property {CanvasImageSource | null} backdrop
 * @property {Point} grid distance of lines in shares, 0 for none
 * @property {Box | null} draft a region or a selection being drawn
 * @property {Bitmap | null} painting replaces the mask of the selected region
 * @property {{x: number, y: number, radius: number} | null} brush
 * @property {{ground: string, line: string, text: string, alarm: string}} theme
 * @property {string} hint shown where there is nothing else
 */

export const HANDLE = 8;
const FONT = 12;
const TINT = 0.2;
const MASK_TINT = 0.55;

/** @type {WeakMap<Bitmap, {colour: string, sheet: OffscreenCanvas}>} */
const sheets = new WeakMap();

/** @param {string} colour #rrggbb @returns {[number, number, number]} */
function rgb(colour) {
  const value = parseInt(colour.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

/** Black or white, whichever has the better contrast on a colour (WCAG 2). @param {string} colour */
export function inkOn(colour) {
  const [r, g, b] = rgb(colour).map((c) => (c / 255) ** 2.2);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#000000" : "#ffffff";
}

/** @param {Bitmap} bitmap @param {string} colour @param {boolean} keep false while it still changes */
function sheetOf(bitmap, colour, keep) {
  const known = sheets.get(bitmap);
  if (keep && known?.colour === colour) return known.sheet;
  const sheet = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (sheet.getContext("2d"));
  const pixels = context.createImageData(bitmap.width, bitmap.height);
  const [r, g, b] = rgb(colour);
  for (let i = 0; i < bitmap.bits.length; i += 1) {
    if (!bitmap.bits[i]) continue;
    pixels.data[4 * i] = r;
    pixels.data[4 * i + 1] = g;
    pixels.data[4 * i + 2] = b;
    pixels.data[4 * i + 3] = bitmap.bits[i];
  }
  context.putImageData(pixels, 0, 0);
  if (keep) sheets.set(bitmap, { colour, sheet });
  return sheet;
}

/** @param {CanvasRenderingContext2D} context @param {View} view */
export function draw(context, view) {
  const { width, height, theme } = view;
  context.fillStyle = theme.ground;
  context.fillRect(0, 0, width, height);
  if (view.backdrop) context.drawImage(view.backdrop, 0, 0, width, height);
  drawGrid(context, view);
  for (const region of view.regions) drawShape(context, view, region);
  // Labels last: what a region is called must not hide behind another region.
  view.regions.forEach((region, index) => drawLabel(context, view, region, index + 1));
  const chosen = view.regions.filter((region) => view.selection.has(region.id));
  for (const region of chosen) drawChosen(context, view, region, chosen.length === 1);
  if (view.draft) {
    frame(context, view, view.draft, theme.text, 1, [4, 3]);
  }
  if (view.brush) drawBrush(context, view.brush);
  if (!view.regions.length && !view.draft) {
    context.fillStyle = theme.text;
    context.font = `${FONT + 1}px sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(view.hint, width / 2, height / 2, width - 16);
  }
  context.strokeStyle = theme.line;
  context.lineWidth = 1;
  context.setLineDash([]);
  context.strokeRect(0.5, 0.5, width - 1, height - 1);
}

/** @param {CanvasRenderingContext2D} context @param {View} view */
function drawGrid(context, { width, height, grid, theme }) {
  // Lines nearer than four pixels would only grey the picture.
  if (!(grid.x * width >= 4) || !(grid.y * height >= 4)) return;
  context.strokeStyle = theme.line;
  context.globalAlpha = 0.5;
  context.lineWidth = 1;
  context.beginPath();
  for (let x = grid.x; x < 1; x += grid.x) {
    context.moveTo(Math.round(x * width) + 0.5, 0);
    context.lineTo(Math.round(x * width) + 0.5, height);
  }
  for (let y = grid.y; y < 1; y += grid.y) {
    context.moveTo(0, Math.round(y * height) + 0.5);
    context.lineTo(width, Math.round(y * height) + 0.5);
  }
  context.stroke();
  context.globalAlpha = 1;
}

/**
 * @param {CanvasRenderingContext2D} context @param {View} view @param {Box} box
 * @param {string} colour @param {number} thick @param {number[]} dash
 */
function frame(context, { width, height }, box, colour, thick, dash) {
  context.strokeStyle = colour;
  context.lineWidth = thick;
  context.setLineDash(dash);
  context.strokeRect(
    box[0] * width, box[1] * height, (box[2] - box[0]) * width, (box[3] - box[1]) * height,
  );
  context.setLineDash([]);
}

/** @param {CanvasRenderingContext2D} context @param {View} view @param {Region} region */
function drawShape(context, view, region) {
  const { width, height } = view;
  const [x0, y0, x1, y1] = region.box;
  const changing = view.painting !== null && view.selection.has(region.id);
  const mask = changing ? view.painting : region.mask;
  if (mask) {
    context.globalAlpha = MASK_TINT;
    context.drawImage(sheetOf(mask, region.colour, !changing), 0, 0, width, height);
    context.globalAlpha = 1;
    if (!changing) frame(context, view, region.box, region.colour, 1, [2, 3]);
    return;
  }
  context.globalAlpha = TINT;
  context.fillStyle = region.colour;
  context.fillRect(x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height);
  context.globalAlpha = 1;
  frame(context, view, region.box, region.colour, 2, view.lacking.has(region.id) ? [6, 4] : []);
}

/** @type {Map<string, string>} */
const cuts = new Map();

/** @param {CanvasRenderingContext2D} context @param {string} text @param {number} room */
function cut(context, text, room) {
  const key = `${Math.round(room)} ${text}`;
  const known = cuts.get(key);
  if (known !== undefined) return known;
  let short = text;
  while (short.length > 1 && context.measureText(short).width > room) {
    short = `${short.slice(0, -2).trimEnd()}\u2026`;
  }
  if (cuts.size > 2000) cuts.clear();
  cuts.set(key, short);
  return short;
}

/**
 * @param {CanvasRenderingContext2D} context @param {View} view @param {Region} region
 * @param {number} number
 */
function drawLabel(context, view, region, number) {
  const { width, height, theme } = view;
  const lacking = view.lacking.has(region.id);
  let text = `${number} ${region.phrase || `[${region.tokens?.join(", ")}]`}`;
  if (region.occurrence) text += ` #${region.occurrence + 1}`;
  if (region.weight !== 1) text += ` \u00d7${region.weight}`;
  if (lacking) text = `\u26a0 ${text}`;
  context.font = `${FONT}px sans-serif`;
  context.textAlign = "left";
  context.textBaseline = "middle";
  const left = region.box[0] * width;
  const room = Math.max(24, Math.max(region.box[2] * width, left + 60) - left);
  const shown = cut(context, text, Math.min(room, width - left) - 8);
  const wide = context.measureText(shown).width + 8;
  const x = Math.min(Math.max(0, left), Math.max(0, width - wide));
  const y = Math.min(region.box[1] * height, height - FONT - 6);
  context.fillStyle = lacking ? theme.alarm : region.colour;
  context.fillRect(x, y, wide, FONT + 6);
  context.fillStyle = lacking ? "#ffffff" : inkOn(region.colour);
  context.fillText(shown, x + 4, y + FONT / 2 + 3.5);
}

/**
 * @param {CanvasRenderingContext2D} context @param {View} view @param {Region} region
 * @param {boolean} handles
 */
function drawChosen(context, view, region, handles) {
  // White between black: seen on every picture and every colour.
  frame(context, view, region.box, "#000000", 3, []);
  frame(context, view, region.box, "#ffffff", 1.5, []);
  if (!handles) return;
  for (const { x, y } of handlePoints(region.box)) {
    context.fillStyle = "#ffffff";
    context.strokeStyle = "#000000";
    context.lineWidth = 1;
    const left = x * view.width - HANDLE / 2;
    const top = y * view.height - HANDLE / 2;
    context.fillRect(left, top, HANDLE, HANDLE);
    context.strokeRect(left, top, HANDLE, HANDLE);
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {{x: number, y: number, radius: number}} brush
 */
function drawBrush(context, brush) {
  context.beginPath();
  context.arc(brush.x, brush.y, Math.max(1, brush.radius), 0, 2 * Math.PI);
  context.strokeStyle = "#000000";
  context.lineWidth = 2;
  context.stroke();
  context.strokeStyle = "#ffffff";
  context.lineWidth = 1;
  context.stroke();
}
