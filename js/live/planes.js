// @ts-check
/** Grids of bytes as the server sends them, and the lines of equal height on them. No DOM here. */

/** @typedef {{width: number, height: number, data: string}} PackedGrid base64, row by row */
/** @typedef {{width: number, height: number, values: Uint8Array}} Plane */
/** @typedef {{x: number, y: number}} Point in shares of the picture */
/** @typedef {Point[]} Line */

/**
 * The planes of a grid: as many as its data holds.
 * @param {unknown} packed
 * @returns {Plane[]} none if it is no grid
 */
export function unpack(packed) {
  const { width, height, data } = /** @type {Partial<PackedGrid>} */ (packed ?? {});
  if (typeof data !== "string" || !isSide(width) || !isSide(height)) return [];
  /** @type {Uint8Array} */
  let bytes;
  try {
    bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  } catch {
    return [];
  }
  const size = width * height;
  return Array.from({ length: Math.floor(bytes.length / size) }, (_, index) => ({
    width, height, values: bytes.subarray(index * size, (index + 1) * size),
  }));
}

/** @param {unknown} value @returns {value is number} */
const isSide = (value) => Number.isInteger(value) && Number(value) > 0 && Number(value) <= 4096;

/** The middle one of a plane's values, 0 to 1. @param {Plane} plane */
export function median(plane) {
  const sorted = Uint8Array.from(plane.values).sort();
  return sorted[Math.floor((sorted.length - 1) / 2)] / 255;
}

/**
 * The outline of what lies above a level, as closed lines (marching squares). Values stand at the
 * cells' middles; around the plane there is nothing, so that lines close at the edge.
 * @param {Plane} plane @param {number} level 0 to 255, best between two whole numbers
 * @returns {Line[]}
 */
export function contour(plane, level) {
  const { width, height, values } = plane;
  /** @param {number} x @param {number} y */
  const at = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : values[y * width + x]);
  /** @param {number} a @param {number} b how far from a to b the level is */
  const cut = (a, b) => (level - a) / (b - a);
  /** @type {Map<string, string[]>} */
  const neighbours = new Map();
  /** @type {Map<string, Point>} */
  const places = new Map();
  /** @param {[string, Point]} from @param {[string, Point]} to */
  const link = ([from, start], [to, end]) => {
    places.set(from, start).set(to, end);
    neighbours.set(from, [...(neighbours.get(from) ?? []), to]);
    neighbours.set(to, [...(neighbours.get(to) ?? []), from]);
  };
  for (let y = -1; y < height; y += 1) {
    for (let x = -1; x < width; x += 1) {
      const [a, b, c, d] = [at(x, y), at(x + 1, y), at(x + 1, y + 1), at(x, y + 1)];
      const kind = Number(a > level) + 2 * Number(b > level) + 4 * Number(c > level)
        + 8 * Number(d > level);
      if (kind === 0 || kind === 15) continue;
      // An edge between two squares has one name in both, so that lines can be followed.
      /** @type {Record<string, () => [string, Point]>} */
      const edges = {
        top: () => [`h${x},${y}`, place(x + cut(a, b), y)],
        right: () => [`v${x + 1},${y}`, place(x + 1, y + cut(b, c))],
        bottom: () => [`h${x},${y + 1}`, place(x + cut(d, c), y + 1)],
        left: () => [`v${x},${y}`, place(x, y + cut(a, d))],
      };
      const middle = (a + b + c + d) / 4 > level;
      for (const [from, to] of pairs(kind, middle)) link(edges[from](), edges[to]());
    }
  }
  return joined(neighbours, places);

  /** @param {number} x @param {number} y @returns {Point} */
  function place(x, y) {
    return {
      x: Math.min(1, Math.max(0, (x + 0.5) / width)),
      y: Math.min(1, Math.max(0, (y + 0.5) / height)),
    };
  }
}

/**
 * Which edges of a square a line joins; corners count 1, 2, 4, 8 clockwise from the top left.
 * @param {number} kind 1 to 14 @param {boolean} middle whether a saddle's middle is above
 * @returns {[string, string][]}
 */
function pairs(kind, middle) {
  const k = kind > 7 && kind !== 10 ? 15 - kind : kind;
  if (k === 5 || k === 10) {
    const cutsOddCorners = (k === 5) !== middle;
    return cutsOddCorners
      ? [["left", "top"], ["right", "bottom"]] : [["top", "right"], ["bottom", "left"]];
  }
  /** @type {Record<number, [string, string]>} */
  const single = {
    1: ["left", "top"], 2: ["top", "right"], 3: ["left", "right"], 4: ["right", "bottom"],
    6: ["top", "bottom"], 7: ["left", "bottom"],
  };
  return [single[k]];
}

/** @param {Map<string, string[]>} neighbours @param {Map<string, Point>} places @returns {Line[]} */
function joined(neighbours, places) {
  /** @type {Line[]} */
  const lines = [];
  /** @type {Set<string>} */
  const seen = new Set();
  for (const start of neighbours.keys()) {
    if (seen.has(start)) continue;
    /** @type {Line} */
    const line = [];
    /** @type {string | undefined} */
    let here = start;
    while (here !== undefined) {
      seen.add(here);
      line.push(/** @type {Point} */ (places.get(here)));
      here = neighbours.get(here)?.find((next) => !seen.has(next));
    }
    lines.push(line);
  }
  return lines;
}
