// @ts-check
/** Maps of values to colours that can be told apart with every kind of colour vision. No DOM here. */

/** @typedef {[number, number, number]} Rgb 0 to 255 */

/** @type {Record<"mix" | "heat", Rgb[]>} nine colours each of the maps cividis and inferno */
const ANCHORS = {
  mix: [
    [0, 34, 78], [26, 56, 111], [67, 78, 108], [97, 101, 111],
    [125, 124, 120], [155, 148, 118], [188, 174, 108], [222, 201, 88], [254, 232, 56],
  ],
  heat: [
    [0, 0, 4], [33, 12, 74], [87, 16, 110], [138, 34, 106],
    [188, 55, 84], [228, 90, 49], [249, 142, 9], [249, 203, 53], [252, 255, 164],
  ],
};

/** @param {"mix" | "heat"} name @param {number} value 0 to 255 @returns {Rgb} */
export function mapColour(name, value) {
  const anchors = ANCHORS[name];
  const position = (Math.min(255, Math.max(0, value)) / 255) * (anchors.length - 1);
  const low = Math.min(anchors.length - 2, Math.floor(position));
  const [from, to] = [anchors[low], anchors[low + 1]];
  const mixed = from.map((channel, i) => Math.round(channel + (to[i] - channel) * (position - low)));
  return [mixed[0], mixed[1], mixed[2]];
}
