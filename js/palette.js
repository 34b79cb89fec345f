// @ts-check
/** The pack's colours, as in balancer/pictures/palette.py; a static test holds them equal. No DOM here. */

/** Regions': Okabe and Ito's, told apart with every kind of colour vision. */
export const PALETTE = ["#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#f0e442", "#0072b2"];

/** The models', for lines and bars: the two ends of the map that shows the mix. */
export const MODEL_COLOUR = { realism: "#b28a00", spatial: "#4a86c8" };

/** @param {number} region counted from 0 */
export const regionColour = (region) => PALETTE[region % PALETTE.length];
