// @ts-check
/** Small helpers for making page elements, and the editor's look. */

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag @param {Record<string, unknown>} properties attributes and, as on..., listeners
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") {
      element.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
    } else if (value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...children);
  return element;
}

/** Outlines on a 16 x 16 field. */
export const ICONS = {
  arrange: "M3 2l9 6-4 1 2 5-2 1-2-5-3 3z",
  draw: "M2 3h12v10H2zM8 5.5v5M5.5 8h5",
  brush: "M13 2l1 1-6 7-2-2zM6 9c-3 0-2 4-4 4 3 2 6 0 5-3",
  erase: "M9 3l4 4-6 6H4l-2-2zM6 6l4 4",
  undo: "M6 3L3 6l3 3M3 6h6a4 4 0 010 8H6",
  redo: "M10 3l3 3-3 3M13 6H7a4 4 0 000 8h3",
  duplicate: "M2 2h8v8H2zM6 12v2h8V6h-2",
  remove: "M3 4h10M6 4V2h4v2M4 4l1 10h6l1-10M7 7v4M9 7v4",
  forward: "M8 13V3M4 7l4-4 4 4",
  backward: "M8 3v10M4 9l4 4 4-4",
  copy: "M5 2h8v9H5zM3 5v9h8",
  paste: "M4 3h8v11H4zM6 2h4v2H6zM6 8h4M6 11h4",
  snap: "M5 1v14M11 1v14M1 5h14M1 11h14",
  picture: "M2 3h12v10H2zM3 12l4-5 3 3 2-2 2 3M11 5.5h.5",
  noPicture: "M2 3h12v10H2zM5 5l6 6M11 5l-6 6",
};

/** @typedef {keyof typeof ICONS} IconName */

/** @param {IconName} name */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/**
 * The host's own variables, so that its light and dark themes and the users' are followed. What is
 * below the drawing keeps its height, so that the drawing does not shrink while regions are drawn.
 */
export const STYLE = `
.rc-editor { display: flex; flex-direction: column; gap: 4px; box-sizing: border-box; width: 100%;
  height: 100%; min-height: 400px; contain: layout size; overflow: hidden; padding: 4px;
  font: 12px/1.35 Inter, Arial, sans-serif; border-radius: 6px;
  color: var(--input-text, #ddd); background: var(--comfy-menu-bg, #353535); }
.rc-editor * { box-sizing: border-box; }
.rc-editor .rc-bar { display: flex; flex-wrap: wrap; gap: 2px; align-items: center; }
.rc-editor .rc-gap { width: 6px; }
.rc-editor button, .rc-editor select, .rc-editor input { font: inherit; color: inherit; margin: 0;
  background: var(--comfy-input-bg, #222); border: 1px solid var(--border-color, #4e4e4e);
  border-radius: 4px; }
.rc-editor .rc-bar button { width: 26px; height: 26px; padding: 4px; cursor: pointer; }
.rc-editor .rc-bar select { height: 26px; width: 56px; }
.rc-editor .rc-bar input[type=range] { width: 70px; accent-color: var(--input-text, #ddd); }
.rc-editor button:disabled { opacity: 0.4; cursor: default; }
.rc-editor button[aria-pressed=true] { color: var(--comfy-input-bg, #222);
  background: var(--input-text, #ddd); }
.rc-editor svg { display: block; width: 100%; height: 100%; fill: none; stroke: currentColor;
  stroke-width: 1.4; stroke-linejoin: round; stroke-linecap: round; }
.rc-editor :is(button, select, input, .rc-words mark):focus-visible {
  outline: 2px solid #2f9bff; outline-offset: 1px; }
.rc-editor .rc-stage { position: relative; flex: 1 1 auto; min-height: 120px; border-radius: 4px;
  touch-action: none; user-select: none; overflow: hidden; }
.rc-editor .rc-stage:has(> .rc-keys:focus-visible) { outline: 2px solid #2f9bff; outline-offset: 1px; }
.rc-editor .rc-stage canvas { position: absolute; display: block; touch-action: none; }
.rc-editor .rc-stage .rc-keys { position: absolute; inset: 0; opacity: 0; pointer-events: none;
  resize: none; border: 0; padding: 0; }
.rc-editor .rc-stage .rc-inplace { position: absolute; min-width: 130px; max-width: 100%;
  padding: 2px 4px; z-index: 1; }
.rc-editor .rc-words { flex: none; max-height: 4.6em; overflow: auto; padding: 2px 4px;
  white-space: pre-wrap; overflow-wrap: anywhere; border-radius: 4px;
  background: var(--comfy-input-bg, #222); }
.rc-editor .rc-words mark { color: inherit; background: none; border-bottom: 3px solid; padding: 0 1px;
  border-radius: 2px; cursor: pointer; }
.rc-editor .rc-note { flex: none; min-height: 1.35em; color: var(--descrip-text, #999); }
.rc-editor .rc-note.rc-alarm { color: var(--error-text, #ff4444); font-weight: 600; }
.rc-editor ul { flex: 0 0 112px; overflow: auto; margin: 0;
  padding: 0; list-style: none; }
.rc-editor li { display: flex; flex-wrap: wrap; gap: 4px; align-items: center; padding: 2px;
  border: 1px solid transparent; border-radius: 4px; }
.rc-editor li[aria-current=true] { border-color: var(--input-text, #ddd); }
.rc-editor li .rc-number { min-width: 2ch; text-align: right; cursor: default; }
.rc-editor li input[type=color] { width: 24px; height: 22px; padding: 1px; cursor: pointer; }
.rc-editor li .rc-phrase { flex: 1 1 90px; min-width: 60px; padding: 2px 4px; }
.rc-editor li .rc-phrase[aria-invalid=true] { border-color: var(--error-text, #ff4444);
  border-style: dashed; }
.rc-editor li input[type=number] { width: 52px; padding: 2px; }
.rc-editor li .rc-count { width: 40px; }
.rc-editor li button { padding: 1px 5px; cursor: pointer; }
.rc-editor li .rc-trouble { flex: 1 1 100%; color: var(--error-text, #ff4444); padding-left: 28px; }
.rc-editor .rc-broken { flex: 1 1 auto; overflow: auto; padding: 8px; }
.rc-editor .rc-broken button { padding: 4px 10px; cursor: pointer; }
.rc-editor [hidden] { display: none !important; }
`;
