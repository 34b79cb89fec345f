// @ts-check
/**
 * Painted masks: one byte a pixel (0 none, 255 full) over the whole image, as the server packs them.
 * Bitmaps are never changed once they belong to a region; painting works on a copy.
 */

/** @typedef {import("./geometry.js").Box} Box */
/** @typedef {import("./geometry.js").Point} Point */
/** @typedef {import("./geometry.js").Size} Size */
/** @typedef {{height: number, width: number, bits: Uint8Array}} Bitmap */

/** Pixels of a new mask's longer side: four for each cell of a 64 x 64 latent. */
export const RESOLUTION = 256;
const LARGEST_SIDE = 16384;
const HALF = 128;

/** @param {Size} image @returns {Bitmap} empty, in the image's shape */
export function blank(image) {
  const scale = RESOLUTION / Math.max(image.width, image.height);
  const width = Math.max(1, Math.round(image.width * scale));
  const height = Math.max(1, Math.round(image.height * scale));
  return { width, height, bits: new Uint8Array(width * height) };
}

/** @param {Bitmap} bitmap @returns {Bitmap} */
export function copyOf(bitmap) {
  return { ...bitmap, bits: bitmap.bits.slice() };
}

/** @param {Bitmap} bitmap */
export function isEmpty(bitmap) {
  return !bitmap.bits.some((value) => value > 0);
}

/** Set all pixels of a box. @param {Bitmap} bitmap changed in place @param {Box} box */
export function fill(bitmap, box) {
  const [left, top, right, bottom] = pixelsOf(bitmap, box);
  for (let y = top; y < bottom; y += 1) {
    bitmap.bits.fill(255, y * bitmap.width + left, y * bitmap.width + right);
  }
}

/**
 * Draw a round brush along a line.
 * @param {Bitmap} bitmap changed in place
 * @param {Point} from @param {Point} to in shares of the image
 * @param {number} radius in pixels of the bitmap
 * @param {number} value 255 paints, 0 erases
 */
export function stroke(bitmap, from, to, radius, value) {
  const { width, height, bits } = bitmap;
  const ax = from.x * width;
  const ay = from.y * height;
  const dx = to.x * width - ax;
  const dy = to.y * height - ay;
  const length = dx * dx + dy * dy;
  const reach = Math.max(0.5, radius);
  const left = Math.max(0, Math.floor(Math.min(ax, ax + dx) - reach));
  const right = Math.min(width - 1, Math.ceil(Math.max(ax, ax + dx) + reach));
  const top = Math.max(0, Math.floor(Math.min(ay, ay + dy) - reach));
  const bottom = Math.min(height - 1, Math.ceil(Math.max(ay, ay + dy) + reach));
  for (let y = top; y <= bottom; y += 1) {
    for (let x = left; x <= right; x += 1) {
      const px = x + 0.5 - ax;
      const py = y + 0.5 - ay;
      const along = length > 0 ? Math.min(1, Math.max(0, (px * dx + py * dy) / length)) : 0;
      const away = (px - along * dx) ** 2 + (py - along * dy) ** 2;
      if (away <= reach * reach) bits[y * width + x] = value;
    }
  }
}

/**
 * The smallest box around all pixels that are at least half covered, else around all covered ones:
 * the server's rule, which takes a region's box from its mask.
 * @param {Bitmap} bitmap not empty @returns {Box}
 */
export function boundsOf(bitmap) {
  return extent(bitmap, HALF) ?? extent(bitmap, 1) ?? [0, 0, 1, 1];
}

/** @param {Bitmap} bitmap @param {number} least @returns {Box | null} */
function extent({ width, height, bits }, least) {
  let left = width;
  let right = -1;
  let top = height;
  let bottom = -1;
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      if (bits[y * width + x] < least) continue;
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      bottom = y;
    }
  }
  return right < 0
    ? null
    : [left / width, top / height, (right + 1) / width, (bottom + 1) / height];
}

/** @param {Bitmap} bitmap @param {Box} box @returns {[number, number, number, number]} at least one */
function pixelsOf({ width, height }, box) {
  const left = Math.min(width - 1, Math.round(box[0] * width));
  const top = Math.min(height - 1, Math.round(box[1] * height));
  const right = Math.min(width, Math.max(left + 1, Math.round(box[2] * width)));
  const bottom = Math.min(height, Math.max(top + 1, Math.round(box[3] * height)));
  return [left, top, right, bottom];
}

/**
 * The painted shape of one box stretched to another. Each new pixel takes the largest of those that
 * it covers, so that thin strokes survive and nothing painted can vanish.
 * @param {Bitmap} bitmap @param {Box} from its bounds @param {Box} to
 * @returns {Bitmap} a new one
 */
export function stretched(bitmap, from, to) {
  const { width, height, bits } = bitmap;
  const out = { width, height, bits: new Uint8Array(width * height) };
  const [sx0, sy0, sx1, sy1] = pixelsOf(bitmap, from);
  const [tx0, ty0, tx1, ty1] = pixelsOf(bitmap, to);
  const across = ranges(sx0, sx1, tx1 - tx0);
  const down = ranges(sy0, sy1, ty1 - ty0);
  for (let y = ty0; y < ty1; y += 1) {
    const [low, high] = down[y - ty0];
    for (let x = tx0; x < tx1; x += 1) {
      const [first, last] = across[x - tx0];
      let most = 0;
      for (let v = low; v < high; v += 1) {
        for (let u = first; u < last; u += 1) most = Math.max(most, bits[v * width + u]);
      }
      out.bits[y * width + x] = most;
    }
  }
  return out;
}

/**
 * For each of ``count`` targets the sources low..high - 1 that it covers; together they cover all.
 * @param {number} first @param {number} end @param {number} count
 * @returns {[number, number][]}
 */
function ranges(first, end, count) {
  const scale = (end - first) / count;
  return Array.from({ length: count }, (_, index) => {
    const low = first + Math.floor(index * scale + 1e-9);
    const high = Math.min(end, Math.max(low + 1, first + Math.ceil((index + 1) * scale - 1e-9)));
    return [low, high];
  });
}

/** Packed texts of bitmaps; a bitmap never changes once it is here. @type {WeakMap<Bitmap, string>} */
const packed = new WeakMap();

/**
 * ``{"height", "width", "data"}`` as the server reads it: zlib data in base64. Never waits: a bitmap
 * that nobody has packed yet is stored without compression.
 * @param {Bitmap} bitmap
 */
export function toValue(bitmap) {
  const data = packed.get(bitmap) ?? base64(stored(bitmap.bits));
  return { height: bitmap.height, width: bitmap.width, data };
}

/** Compress a bitmap for later calls of ``toValue``. @param {Bitmap} bitmap @returns {Promise<boolean>} news? */
export async function pack(bitmap) {
  if (packed.has(bitmap)) return false;
  packed.set(bitmap, base64(await piped(bitmap.bits, new CompressionStream("deflate"))));
  return true;
}

/** @param {unknown} value @returns {Promise<Bitmap>} rejects for anything but a mask of ``toValue`` */
export async function fromValue(value) {
  const { height, width, data } = /** @type {Record<string, unknown>} */ (value ?? {});
  const fits = [height, width].every(
    (side) => Number.isInteger(side) && Number(side) > 0 && Number(side) <= LARGEST_SIDE,
  );
  if (!fits || typeof data !== "string") throw new Error("a mask lacks its size or its data");
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const bits = await piped(bytes, new DecompressionStream("deflate"));
  const bitmap = { height: Number(height), width: Number(width), bits };
  if (bits.length !== bitmap.height * bitmap.width) throw new Error("a mask's data does not fit");
  if (isEmpty(bitmap)) throw new Error("a mask is empty");
  packed.set(bitmap, data);
  return bitmap;
}

/** @param {Uint8Array} bytes @param {GenericTransformStream} through */
async function piped(bytes, through) {
  const out = new Response(
    new Blob([/** @type {BlobPart} */ (bytes)]).stream().pipeThrough(
      /** @type {ReadableWritablePair<Uint8Array, any>} */ (/** @type {unknown} */ (through)),
    ),
  );
  return new Uint8Array(await out.arrayBuffer());
}

/** zlib data without compression (RFC 1950, RFC 1951 3.2.4). @param {Uint8Array} bytes */
function stored(bytes) {
  const most = 65535;
  const blocks = Math.max(1, Math.ceil(bytes.length / most));
  const out = new Uint8Array(2 + blocks * 5 + bytes.length + 4);
  out.set([0x78, 0x01]);
  let at = 2;
  for (let block = 0; block < blocks; block += 1) {
    const part = bytes.subarray(block * most, (block + 1) * most);
    const length = part.length;
    const last = block === blocks - 1 ? 1 : 0;
    out.set([last, length & 255, length >> 8, ~length & 255, (~length >> 8) & 255], at);
    out.set(part, at + 5);
    at += 5 + length;
  }
  let a = 1;
  let b = 0;
  for (const byte of bytes) {
    a = (a + byte) % 65521;
    b = (b + a) % 65521;
  }
  out.set([b >> 8, b & 255, a >> 8, a & 255], at);
  return out;
}

/** @param {Uint8Array} bytes */
function base64(bytes) {
  let text = "";
  // Spreading a whole mask into one call would exceed the engine's limit on arguments.
  for (let at = 0; at < bytes.length; at += 8192) {
    text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  }
  return btoa(text);
}
