// @ts-check
/**
 * Boxes in shares of the image (0 to 1, origin top left) and what a pointer can take hold of.
 * No DOM here: every function takes and gives plain values.
 */

/** @typedef {[number, number, number, number]} Box x0, y0, x1, y1 */
/** @typedef {{x: number, y: number}} Point in shares of the image; also a pair of distances */
/** @typedef {{width: number, height: number}} Size in pixels */
/** @typedef {"nw" | "n" | "ne" | "e" | "se" | "s" | "sw" | "w"} Handle */

/** Shortest side of a region, as a share: what is smaller cannot be taken hold of again. */
export const SHORTEST = 0.005;

/** @type {Handle[]} Corners first: where handles overlap on a small box, corners win. */
export const HANDLES = ["nw", "ne", "se", "sw", "n", "e", "s", "w"];

/** @param {number} value @param {number} low @param {number} high */
export function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

/**
 * Six decimals are finer than a pixel of any image, and keep the text short.
 * @param {Box} box @returns {Box}
 */
export function rounded(box) {
  const [x0, y0, x1, y1] = box.map((value) => Math.round(clamp(value, 0, 1) * 1e6) / 1e6);
  return [x0, y0, x1, y1];
}

/**
 * Distance of the grid's lines in shares; 0 means no grid.
 * @param {Size} size @param {number} grid pixels between two lines
 * @returns {Point}
 */
export function gridStep(size, grid) {
  return grid > 0 ? { x: grid / size.width, y: grid / size.height } : { x: 0, y: 0 };
}

/** The nearest line, or the image's edge if that is nearer. @param {number} value @param {number} step */
export function snapped(value, step) {
  if (!(step > 0)) return value;
  const line = clamp(Math.round(value / step) * step, 0, 1);
  return Math.abs(1 - value) < Math.abs(line - value) ? 1 : line;
}

/**
 * A span of at least the shortest side inside 0..1, grown away from its fixed end if need be.
 * @param {number} fixed @param {number} free @param {number} shortest
 * @returns {[number, number]} low, high
 */
function span(fixed, free, shortest) {
  const anchor = clamp(fixed, 0, 1);
  let end = clamp(free, 0, 1);
  if (Math.abs(end - anchor) < shortest) {
    const up = end >= anchor ? anchor + shortest <= 1 : anchor - shortest < 0;
    end = up ? anchor + shortest : anchor - shortest;
  }
  return anchor < end ? [anchor, end] : [end, anchor];
}

/**
 * The box between two corners, on the grid, never flat.
 * @param {Point} from @param {Point} to @param {Point} step
 * @returns {Box}
 */
export function drawn(from, to, step) {
  const [x0, x1] = span(
    snapped(from.x, step.x), snapped(to.x, step.x), Math.max(SHORTEST, Math.min(step.x, 1)),
  );
  const [y0, y1] = span(
    snapped(from.y, step.y), snapped(to.y, step.y), Math.max(SHORTEST, Math.min(step.y, 1)),
  );
  return rounded([x0, y0, x1, y1]);
}

/** @param {Box[]} boxes at least one @returns {Box} the box around all */
export function around(boxes) {
  return [
    Math.min(...boxes.map((box) => box[0])), Math.min(...boxes.map((box) => box[1])),
    Math.max(...boxes.map((box) => box[2])), Math.max(...boxes.map((box) => box[3])),
  ];
}

/**
 * How far boxes that are moved together really go: their common corner lands on the grid, and
 * none of them leaves the image.
 * @param {Box[]} boxes at least one @param {Point} by @param {Point} step
 * @returns {Point}
 */
export function reach(boxes, by, step) {
  const [x0, y0, x1, y1] = around(boxes);
  return {
    x: clamp(snapped(x0 + by.x, step.x) - x0, -x0, 1 - x1),
    y: clamp(snapped(y0 + by.y, step.y) - y0, -y0, 1 - y1),
  };
}

/** @param {Box} box @param {Point} by @returns {Box} */
export function shifted(box, by) {
  return rounded([box[0] + by.x, box[1] + by.y, box[2] + by.x, box[3] + by.y]);
}

/**
 * The box with one handle pulled to a point. An edge stops at the opposite one.
 * @param {Box} box @param {Handle} handle @param {Point} to @param {Point} step
 * @returns {Box}
 */
export function resized(box, handle, to, step) {
  let [x0, y0, x1, y1] = box;
  const x = clamp(snapped(to.x, step.x), 0, 1);
  const y = clamp(snapped(to.y, step.y), 0, 1);
  if (handle.includes("w")) x0 = Math.min(x, x1 - SHORTEST);
  if (handle.includes("e")) x1 = Math.max(x, x0 + SHORTEST);
  if (handle.includes("n")) y0 = Math.min(y, y1 - SHORTEST);
  if (handle.includes("s")) y1 = Math.max(y, y0 + SHORTEST);
  // A box thinner than the shortest side may have come from a file; it must not leave the image.
  const [left, right] = span(handle.includes("w") ? x1 : x0, handle.includes("w") ? x0 : x1, 0);
  const [top, bottom] = span(handle.includes("n") ? y1 : y0, handle.includes("n") ? y0 : y1, 0);
  const made = rounded([left, top, right, bottom]);
  return isBox(made) ? made : box;
}

/** @param {Box} box @returns {{handle: Handle, x: number, y: number}[]} */
export function handlePoints(box) {
  const [x0, y0, x1, y1] = box;
  return HANDLES.map((handle) => ({
    handle,
    x: handle.includes("w") ? x0 : handle.includes("e") ? x1 : (x0 + x1) / 2,
    y: handle.includes("n") ? y0 : handle.includes("s") ? y1 : (y0 + y1) / 2,
  }));
}

/**
 * The handle within ``slop`` of a point, the nearest if several are.
 * @param {Box} box @param {Point} point @param {Point} slop distances in shares
 * @returns {Handle | null}
 */
export function handleAt(box, point, slop) {
  /** @type {Handle | null} */
  let best = null;
  let least = Infinity;
  for (const { handle, x, y } of handlePoints(box)) {
    const dx = Math.abs(point.x - x) / slop.x;
    const dy = Math.abs(point.y - y) / slop.y;
    if (dx <= 1 && dy <= 1 && dx + dy < least - 1e-9) {
      best = handle;
      least = dx + dy;
    }
  }
  return best;
}

/** @param {Box} box @param {Point} point */
export function contains(box, point) {
  return point.x >= box[0] && point.x <= box[2] && point.y >= box[1] && point.y <= box[3];
}

/** @param {Box} one @param {Box} other */
export function overlaps(one, other) {
  return one[0] < other[2] && other[0] < one[2] && one[1] < other[3] && other[1] < one[3];
}

/** @param {unknown} value @returns {value is Box} as the server accepts it */
export function isBox(value) {
  if (!Array.isArray(value) || value.length !== 4 || !value.every(Number.isFinite)) return false;
  const [x0, y0, x1, y1] = value;
  return Math.min(x0, y0) >= 0 && Math.max(x1, y1) <= 1 && x0 < x1 && y0 < y1;
}

/**
 * The largest frame of an image's shape inside a space, centred.
 * @param {Size} space @param {Size} image
 * @returns {{left: number, top: number, width: number, height: number}}
 */
export function fitted(space, image) {
  const scale = Math.min(space.width / image.width, space.height / image.height);
  const width = Math.max(1, image.width * scale);
  const height = Math.max(1, image.height * scale);
  return { left: (space.width - width) / 2, top: (space.height - height) / 2, width, height };
}

/** @typedef {{left: number, top: number, width: number, height: number}} Frame */

/**
 * Where on the image a pointer is. The frame is what the browser reports on screen, so that the
 * graph's zoom and pan, whoever applies them, are in it already.
 * @param {{clientX: number, clientY: number}} event @param {Frame} frame of the image on screen
 * @returns {Point} may lie outside 0..1
 */
export function pointAt(event, frame) {
  return {
    x: (event.clientX - frame.left) / frame.width,
    y: (event.clientY - frame.top) / frame.height,
  };
}
