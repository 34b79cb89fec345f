// @ts-check
/** Draws a step and the loss on canvases. Everything comes in as values. */

import { MODEL_COLOUR, regionColour } from "../palette.js";
import { mapColour } from "./colours.js";
import { MODELS } from "./state.js";

/** @typedef {import("./planes.js").Plane} Plane */
/** @typedef {import("./planes.js").Line} Line */
/** @typedef {import("./state.js").Run} Run */
/** @typedef {import("./state.js").ModelName} ModelName */
/** @typedef {{text: string, line: string}} Theme */

/** @type {WeakMap<Plane, OffscreenCanvas>} */
const sheets = new WeakMap();
const FONT = 10;
/** Dashes say which model a line belongs to, for eyes that see no colours. */
const DASH = { realism: [], spatial: [4, 3] };

/** A plane as a picture, one pixel a cell. @param {Plane} plane @param {"mix" | "heat"} colours */
function sheetOf(plane, colours) {
  const known = sheets.get(plane);
  if (known) return known;
  const sheet = new OffscreenCanvas(plane.width, plane.height);
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (sheet.getContext("2d"));
  const pixels = context.createImageData(plane.width, plane.height);
  plane.values.forEach((value, i) => {
    pixels.data.set([...mapColour(colours, value), 255], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
  sheets.set(plane, sheet);
  return sheet;
}

/** @param {CanvasRenderingContext2D} context @param {Line[]} lines @param {number} width @param {number} height */
function trace(context, lines, width, height) {
  context.beginPath();
  for (const line of lines) {
    line.forEach((point, i) => {
      if (i === 0) context.moveTo(point.x * width, point.y * height);
      else context.lineTo(point.x * width, point.y * height);
    });
    context.closePath();
  }
}

/** A line with a dark rim, seen on any ground. @param {CanvasRenderingContext2D} context @param {string} colour @param {number} width */
function stroke(context, colour, width) {
  context.strokeStyle = "#000000";
  context.lineWidth = width + 1.5;
  context.stroke();
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke();
}

/**
 * @param {CanvasRenderingContext2D} context @param {number} width @param {number} height
 * @param {Run} run @param {ModelName | null} model whose attention to outline
 * @param {number | null} region whose attention to show instead of the mix
 */
export function drawStep(context, width, height, run, model, region) {
  context.clearRect(0, 0, width, height);
  const step = run.shown;
  if (!step) return;
  const heat = region === null || model === null ? null : run.seen(model)?.maps[region] ?? null;
  context.imageSmoothingEnabled = true;
  context.drawImage(heat ? sheetOf(heat, "heat") : sheetOf(step.mix, "mix"), 0, 0, width, height);
  const lines = model ? run.attention(model) : [];
  run.regions.forEach((entry, i) => {
    if (region !== null && region !== i) return;
    context.setLineDash([5, 4]);
    if (entry.shape) trace(context, entry.shape, width, height);
    else {
      const [x0, y0, x1, y1] = entry.box;
      context.beginPath();
      context.rect(x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height);
    }
    stroke(context, regionColour(i), 1.5);
    context.setLineDash([]);
    if (!lines[i]?.length) return;
    trace(context, lines[i], width, height);
    stroke(context, regionColour(i), 2);
  });
}

/**
 * The losses of both models over the run, with a mark at the shown step.
 * @param {CanvasRenderingContext2D} context @param {number} width @param {number} height
 * @param {Run} run @param {Theme} theme @param {string} title
 */
export function drawLoss(context, width, height, run, theme, title) {
  context.clearRect(0, 0, width, height);
  const [left, right, top, bottom] = [26, width - 4, FONT + 6, height - 4];
  const curves = MODELS.map((name) => ({ name, points: run.losses(name) }));
  const highest = Math.max(1e-6, ...curves.flatMap(({ points }) => points.map(({ y }) => y)));
  /** @param {number} step */
  const across = (step) => left + ((right - left) * step) / Math.max(1, run.total - 1);
  /** @param {number} loss */
  const up = (loss) => bottom - ((bottom - top) * loss) / (1.1 * highest);
  context.font = `${FONT}px Inter, Arial, sans-serif`;
  context.fillStyle = theme.text;
  context.fillText(title, left, FONT);
  context.textAlign = "right";
  context.fillText(highest.toFixed(2), left - 3, up(highest) + FONT / 2);
  context.fillText("0", left - 3, bottom);
  context.textAlign = "left";
  context.strokeStyle = theme.line;
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(left, top);
  context.lineTo(left, bottom);
  context.lineTo(right, bottom);
  const place = across(run.shown?.index ?? 0);
  context.moveTo(place, top);
  context.lineTo(place, bottom);
  context.stroke();
  for (const { name, points } of curves) {
    context.beginPath();
    points.forEach(({ x, y }, i) => {
      if (i === 0) context.moveTo(across(x), up(y));
      else context.lineTo(across(x), up(y));
    });
    context.setLineDash(DASH[name]);
    context.strokeStyle = MODEL_COLOUR[name];
    context.lineWidth = 2;
    context.stroke();
    context.setLineDash([]);
    if (points.length === 1) {
      context.fillStyle = MODEL_COLOUR[name];
      context.fillRect(across(points[0].x) - 2, up(points[0].y) - 2, 4, 4);
    }
  }
}
