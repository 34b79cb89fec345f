// @ts-check
/** What a node shows of its run: the mix with outlines, shares per region, the loss, a slider. */

import { make } from "../editor/dom.js";
import { say } from "../editor/words.js";
import { MODEL_COLOUR, regionColour } from "../palette.js";
import { drawLoss, drawStep } from "./draw.js";
import { median } from "./planes.js";
import { follow, MODELS } from "./state.js";

/** @typedef {import("./state.js").Run} Run */
/** @typedef {import("./state.js").ModelName} ModelName */
/** @typedef {import("./words.js").Words} Words */

export const LOWEST = 420;
const LOSS_HEIGHT = 62;

/** The host's own variables, so that its themes are followed. */
const STYLE = `
.rc-live { display: flex; flex-direction: column; gap: 4px; box-sizing: border-box; width: 100%;
  height: 100%; min-height: ${LOWEST}px; contain: layout size; overflow: hidden; padding: 4px;
  font: 12px/1.35 Inter, Arial, sans-serif; border-radius: 6px;
  color: var(--input-text, #ddd); background: var(--comfy-menu-bg, #353535); }
.rc-live * { box-sizing: border-box; }
.rc-live .rc-stage { position: relative; flex: 1 1 auto; min-height: 120px; }
.rc-live .rc-stage canvas { position: absolute; display: block; border-radius: 3px; }
.rc-live .rc-row { display: flex; gap: 6px; align-items: center; flex: none; }
.rc-live .rc-row input { flex: 1 1 auto; min-width: 60px; margin: 0;
  accent-color: var(--input-text, #ddd); }
.rc-live output { flex: none; min-width: 12ch; font-variant-numeric: tabular-nums; }
.rc-live button { font: inherit; color: inherit; margin: 0; padding: 1px 8px; cursor: pointer;
  background: var(--comfy-input-bg, #222); border: 1px solid var(--border-color, #4e4e4e);
  border-radius: 4px; }
.rc-live button[aria-pressed=true] { color: var(--comfy-input-bg, #222);
  background: var(--input-text, #ddd); }
.rc-live :is(button, input):focus-visible { outline: 2px solid #2f9bff; outline-offset: 1px; }
.rc-live ul { flex: 0 1 auto; max-height: 96px; overflow: auto; margin: 0; padding: 0;
  list-style: none; }
.rc-live li button { display: flex; gap: 6px; align-items: center; width: 100%; text-align: left;
  border-color: transparent; background: none; padding: 1px 2px; }
.rc-live li button[aria-pressed=true] { color: inherit; background: none;
  border-color: var(--input-text, #ddd); }
.rc-live .rc-mark { flex: none; width: 10px; height: 10px; border: 1px solid #000; }
.rc-live .rc-phrase { flex: 1 1 auto; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
.rc-live .rc-share { position: relative; flex: none; width: 64px; text-align: right;
  padding-right: 3px; font-variant-numeric: tabular-nums;
  border: 1px solid var(--border-color, #4e4e4e); border-radius: 2px; overflow: hidden; }
.rc-live .rc-share i { position: absolute; inset: 0 auto 0 0; opacity: 0.55; }
.rc-live .rc-share b { position: relative; font-weight: 400; }
.rc-live .rc-loss { flex: none; width: 100%; height: ${LOSS_HEIGHT}px; display: block; }
.rc-live .rc-none { color: var(--descrip-text, #999); }
`;

/** Put the look into the page once. */
function addStyle() {
  if (document.getElementById("rc-live-style")) return;
  document.head.append(make("style", { id: "rc-live-style" }, STYLE));
}

/** @param {number} share */
const percent = (share) => `${Math.round(100 * share)} %`;

/** One node's view; ``run`` is what it shows. */
export class LiveView {
  /** @param {Words} words */
  constructor(words) {
    addStyle();
    this.words = words;
    /** @type {Run | null} */
    this.run = null;
    /** Whose attention is outlined. @type {ModelName | null} */
    this.model = "realism";
    /** The region whose attention is shown alone. @type {number | null} */
    this.region = null;
    this.waiting = 0;
    this.canvas = make("canvas", { role: "img", title: words.help });
    this.stage = make("div", { class: "rc-stage" }, this.canvas);
    this.slider = make("input", {
      type: "range", min: 0, max: 0, step: 1, "aria-label": words.step,
      oninput: () => this.scrub(Number(this.slider.value)),
    });
    this.label = make("output");
    /** @type {Map<ModelName | null, HTMLButtonElement>} */
    this.choices = new Map([...MODELS, null].map((name) => [
      name, make("button", { type: "button", onclick: () => this.outline(name) },
        name ? words[name] : words.off),
    ]));
    this.list = make("ul", { "aria-label": words.regions, title: words.regions });
    this.loss = make("canvas", { class: "rc-loss", role: "img", "aria-label": words.loss });
    this.element = make(
      "div", { class: "rc-live", role: "group", "aria-label": words.view },
      this.stage,
      make("div", { class: "rc-row" }, this.slider, this.label),
      make("div", { class: "rc-row" }, words.attention, ...this.choices.values()),
      this.list, this.loss,
    );
    // The graph's own shortcuts and drags are not meant by what happens here.
    for (const name of ["pointerdown", "keydown"]) {
      this.element.addEventListener(name, (event) => event.stopPropagation());
    }
    this.observer = new ResizeObserver(() => this.later());
    this.observer.observe(this.stage);
  }

  /** Take in a message of the server. @param {any} message */
  accept(message) {
    const before = this.run;
    this.run = follow(this.run, message);
    if (this.run !== before) this.region = null;
    this.later();
  }

  /** Show a run that is known already. @param {Run} run */
  adopt(run) {
    this.run = run;
    this.later();
  }

  /** @param {number} place in the run's steps */
  scrub(place) {
    this.run?.choose(place);
    this.later();
  }

  /** @param {ModelName | null} model */
  outline(model) {
    this.model = model;
    this.later();
  }

  /** Show one region's attention alone, or the mix again. @param {number} region */
  focus(region) {
    this.region = this.region === region ? null : region;
    if (this.region !== null && this.model === null) this.model = "realism";
    this.later();
  }

  /** Draw at the page's next frame, however many messages came. */
  later() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.draw();
    });
  }

  draw() {
    const { run, words } = this;
    const step = run?.shown;
    if (!run || !step) return;
    const at = step.index + 1;
    this.slider.max = String(run.steps.length - 1);
    this.slider.value = String(run.place);
    const phase = /** @type {Record<string, string>} */ (words.phases)[step.phase] ?? step.phase;
    this.label.value = say(words.at, { step: at, total: run.total, phase });
    this.slider.setAttribute("aria-valuetext", this.label.value);
    for (const [name, button] of this.choices) {
      button.setAttribute("aria-pressed", String(name === this.model));
    }
    this.fillList(run);
    this.place(run);
    const heat = this.region !== null && this.model !== null ? run.regions[this.region] : null;
    this.canvas.setAttribute("aria-label", heat
      ? say(words.heat, { phrase: heat.phrase, model: words[this.model ?? "realism"], step: at })
      : say(words.picture, { step: at, median: median(step.mix).toFixed(2) }));
    const context = sized(this.canvas, this.canvas.clientWidth, this.canvas.clientHeight);
    if (context) {
      drawStep(
        context, this.canvas.clientWidth, this.canvas.clientHeight, run, this.model, this.region,
      );
    }
    const style = getComputedStyle(this.element);
    const chart = sized(this.loss, this.loss.clientWidth, LOSS_HEIGHT);
    const theme = { text: style.color, line: style.getPropertyValue("--descrip-text") || "#999" };
    if (chart) drawLoss(chart, this.loss.clientWidth, LOSS_HEIGHT, run, theme, words.loss);
  }

  /** The canvas in the picture's shape, as large as there is room. @param {Run} run */
  place(run) {
    const { clientWidth, clientHeight } = this.stage;
    const width = Math.max(1, Math.min(clientWidth, clientHeight * run.aspect));
    const height = Math.max(1, width / run.aspect);
    Object.assign(this.canvas.style, {
      width: `${width}px`, height: `${height}px`,
      left: `${(clientWidth - width) / 2}px`, top: `${(clientHeight - height) / 2}px`,
    });
  }

  /** @param {Run} run */
  fillList(run) {
    const { words } = this;
    const looks = MODELS.map((name) => ({ name, seen: run.seen(name) }));
    const read = looks.some(({ seen }) => seen);
    if (!run.regions.length || (!read && run.steps.length === run.total)) {
      this.list.replaceChildren(make("li", { class: "rc-none" }, words.noRegions));
      return;
    }
    while (this.list.children.length > run.regions.length
      || this.list.querySelector(".rc-none")) this.list.lastElementChild?.remove();
    run.regions.forEach((region, i) => {
      const row = this.list.children[i] ?? this.list.appendChild(this.makeRow(i));
      const button = /** @type {HTMLButtonElement} */ (row.firstElementChild);
      button.setAttribute("aria-pressed", String(this.region === i));
      /** @type {Record<string, string>} */
      const shares = {};
      looks.forEach(({ name, seen }, place) => {
        const share = seen?.shares[i];
        shares[name] = share === undefined ? "–" : percent(share);
        const box = /** @type {HTMLElement} */ (button.children[2 + place]);
        /** @type {HTMLElement} */ (box.firstElementChild).style.width = `${100 * (share ?? 0)}%`;
        /** @type {HTMLElement} */ (box.lastElementChild).textContent = shares[name];
      });
      /** @type {HTMLElement} */ (button.children[1]).textContent = region.phrase;
      button.setAttribute("aria-label", say(words.share, { phrase: region.phrase, ...shares }));
    });
  }

  /** @param {number} region */
  makeRow(region) {
    const mark = make("span", { class: "rc-mark" });
    mark.style.background = regionColour(region);
    const bars = MODELS.map((name) => {
      const bar = make("i");
      bar.style.background = MODEL_COLOUR[name];
      return make("span", { class: "rc-share", title: this.words[name] }, bar, make("b"));
    });
    return make("li", {}, make(
      "button", { type: "button", onclick: () => this.focus(region) },
      mark, make("span", { class: "rc-phrase" }), ...bars,
    ));
  }

  /** The node is gone. */
  stop() {
    this.observer.disconnect();
    if (this.waiting) cancelAnimationFrame(this.waiting);
    this.waiting = 0;
  }
}

/**
 * A canvas's context, with a pixel for each of the screen's.
 * @param {HTMLCanvasElement} canvas @param {number} width @param {number} height
 */
function sized(canvas, width, height) {
  if (width < 1 || height < 1) return null;
  const scale = Math.min(3, globalThis.devicePixelRatio || 1);
  const [wide, high] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
  const context = canvas.getContext("2d");
  context?.setTransform(scale, 0, 0, scale, 0, 0);
  return context;
}
