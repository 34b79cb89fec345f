// @ts-check
/** The picture that is drawn on: pointers and keys become changes of the state. */

import { make } from "./dom.js";
import * as geo from "./geometry.js";
import { stroke } from "./mask.js";
import * as edit from "./operations.js";
import { HANDLE, draw } from "./render.js";

/** @typedef {import("./geometry.js").Point} Point */
/** @typedef {import("./geometry.js").Box} Box */
/** @typedef {import("./layout_text.js").Region} Region */
/** @typedef {import("./mask.js").Bitmap} Bitmap */
/** @typedef {"arrange" | "draw" | "brush" | "erase"} Tool */
/**
 * @typedef {object} Surroundings what the stage asks of the editor around it
 * @property {import("./state.js").EditorState} state
 * @property {import("./words.js").Words} words
 * @property {() => ReadonlySet<string>} lacking
 * @property {() => string} proposal a phrase for the next region
 * @property {(text: string) => void} announce
 * @property {(event: PointerEvent | WheelEvent) => void} forward to the graph below
 * @property {(event: KeyboardEvent) => boolean} key other keys; true if done
 */
/**
 * @typedef {object} Gesture between pointer down and up
 * @property {number} pointer
 * @property {"draw" | "choose" | "move" | "pull" | "paint"} kind
 * @property {Point} start
 * @property {readonly Region[]} regions as they were
 * @property {Region | null} region
 * @property {geo.Handle | null} handle
 * @property {Bitmap | null} bitmap
 * @property {Point} last
 * @property {boolean} far has it left its place?
 * @property {ReadonlySet<string>} selection as it was
 */

/** Page pixels around a handle that still take it; a finger is no mouse. */
const SLOP = { mouse: HANDLE, pen: HANDLE * 1.5, touch: HANDLE * 2.5 };
const FAR = { mouse: 3, pen: 5, touch: 8 };
const ALARM = "#b3261e";
const SHARPEST = 2048;

export class Stage {
  /** @param {Surroundings} around */
  constructor(around) {
    this.around = around;
    this.state = around.state;
    /** @type {Tool} */
    this.tool = "arrange";
    this.brushSize = 24;
    /** @type {HTMLImageElement | null} */
    this.backdrop = null;
    /** @type {Gesture | null} */
    this.gesture = null;
    /** @type {Box | null} */
    this.draft = null;
    /** @type {Point | null} */
    this.hover = null;
    this.pending = 0;
    this.canvas = make("canvas", { "aria-hidden": "true" });
    // A text area takes the keys: ComfyUI leaves undo, copy, paste and Delete to text areas.
    this.keys = make("textarea", {
      class: "rc-keys", readonly: true, inputmode: "none", role: "application",
      "aria-label": around.words.canvas, "aria-description": around.words.canvasHelp,
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.onKey(event),
    });
    this.element = make("div", { class: "rc-stage" }, this.canvas, this.keys);
    this.observer = new ResizeObserver(() => this.refresh());
    this.observer.observe(this.element);
    this.listen();
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.onDown(event));
    // The page would give the focus, which the keys have just got, to nobody.
    canvas.addEventListener("mousedown", (event) => event.preventDefault());
    canvas.addEventListener("pointermove", (event) => this.onMove(event));
    canvas.addEventListener("pointerup", (event) => this.onUp(event));
    canvas.addEventListener("pointercancel", () => this.drop());
    canvas.addEventListener("lostpointercapture", () => this.drop());
    canvas.addEventListener("pointerleave", () => {
      this.hover = null;
      this.refresh();
    });
    canvas.addEventListener("dblclick", (event) => {
      const region = this.topAt(this.pointOf(event));
      if (region) this.editInPlace(region.id);
    });
    // The graph below zooms and pans by wheel, also while the pointer is over the drawing.
    this.element.addEventListener("wheel", (event) => this.around.forward(event), { passive: false });
  }

  /** @param {{clientX: number, clientY: number}} event @returns {Point} */
  pointOf(event) {
    return geo.pointAt(event, this.canvas.getBoundingClientRect());
  }

  /** Page pixels as shares of the frame. @param {number} pixels @returns {Point} */
  shares(pixels) {
    const { width, height } = this.frame();
    return { x: pixels / width, y: pixels / height };
  }

  /** @returns {geo.Frame} where the image is on the stage, in the page's own pixels */
  frame() {
    const { clientWidth, clientHeight } = this.element;
    return geo.fitted(
      { width: Math.max(1, clientWidth), height: Math.max(1, clientHeight) }, this.state.size,
    );
  }

  /** @param {Point} point @returns {Region | null} a chosen region before one that hides it */
  topAt(point) {
    const hit = this.state.regions.filter((region) => geo.contains(region.box, point)).reverse();
    return hit.find((region) => this.state.selection.has(region.id)) ?? hit[0] ?? null;
  }

  /** @param {Tool} tool */
  use(tool) {
    this.tool = tool;
    this.canvas.style.cursor = tool === "arrange" ? "default" : "crosshair";
    this.refresh();
  }

  /** @param {PointerEvent} event */
  onDown(event) {
    this.keys.focus({ preventScroll: true });
    if (event.button === 1) {
      this.around.forward(event);
      return;
    }
    if (event.button !== 0 || this.gesture) return;
    const gesture = this.startOf(event);
    if (!gesture) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.gesture = gesture;
    if (gesture.kind === "paint") this.paintTo(gesture, gesture.start);
  }

  /** @param {PointerEvent} event @returns {Gesture | null} */
  startOf(event) {
    const { state } = this;
    const start = this.pointOf(event);
    const type = /** @type {keyof typeof SLOP} */ (event.pointerType in SLOP ? event.pointerType : "mouse");
    /** @type {Gesture} */
    const gesture = {
      pointer: event.pointerId, kind: "draw", start, regions: state.regions, region: null,
      handle: null, bitmap: null, last: start, far: false, selection: state.selection,
    };
    if (this.tool === "draw") return gesture;
    if (this.tool !== "arrange") {
      const region = state.single() ?? this.topAt(start);
      if (!region) {
        this.around.announce(this.around.words.chooseFirst);
        return null;
      }
      state.select([region.id]);
      const bitmap = edit.sheet(region, state.size, this.tool === "erase");
      return { ...gesture, kind: "paint", region, bitmap, selection: state.selection };
    }
    const single = state.single();
    const handle = single && geo.handleAt(single.box, start, this.shares(SLOP[type]));
    if (single && handle) return { ...gesture, kind: "pull", region: single, handle };
    const region = this.topAt(start);
    if (event.shiftKey) {
      if (!region) return { ...gesture, kind: "choose" };
      const next = new Set(state.selection);
      if (!next.delete(region.id)) next.add(region.id);
      state.select(next);
      return null;
    }
    if (!region) return gesture;
    if (!state.selection.has(region.id)) state.select([region.id]);
    return { ...gesture, kind: "move", region, selection: state.selection };
  }

  /** @param {PointerEvent} event */
  onMove(event) {
    const point = this.pointOf(event);
    this.hover = point;
    const { gesture } = this;
    if (!gesture || gesture.pointer !== event.pointerId) {
      if (event.buttons & 4) this.around.forward(event);
      this.showCursor(point);
      this.refresh();
      return;
    }
    if (gesture.kind === "paint") {
      const steps = event.getCoalescedEvents?.() ?? [];
      for (const step of steps.length ? steps : [event]) this.paintTo(gesture, this.pointOf(step));
      return;
    }
    const type = /** @type {keyof typeof FAR} */ (event.pointerType in FAR ? event.pointerType : "mouse");
    const room = this.shares(FAR[type]);
    const by = { x: point.x - gesture.start.x, y: point.y - gesture.start.y };
    if (Math.abs(by.x) > room.x || Math.abs(by.y) > room.y) gesture.far = true;
    if (gesture.far) this.follow(gesture, point, by, event.altKey);
  }

  /** @param {Gesture} gesture @param {Point} point @param {Point} by @param {boolean} free */
  follow(gesture, point, by, free) {
    const { state } = this;
    const step = free ? { x: 0, y: 0 } : state.step();
    if (gesture.kind === "move") {
      state.preview(edit.moved(gesture.regions, state.selection, by, step));
    } else if (gesture.kind === "pull" && gesture.region && gesture.handle) {
      const { region, handle } = gesture;
      state.preview(edit.pulled(gesture.regions, region.id, handle, point, step));
    } else if (gesture.kind === "choose") {
      const box = geo.drawn(gesture.start, point, { x: 0, y: 0 });
      this.draft = box;
      const inside = state.regions.filter((region) => geo.overlaps(region.box, box));
      state.select([...gesture.selection, ...inside.map((region) => region.id)]);
    } else {
      this.draft = geo.drawn(gesture.start, point, step);
    }
    this.refresh();
  }

  /** @param {Gesture} gesture @param {Point} point */
  paintTo(gesture, point) {
    const { bitmap } = gesture;
    if (!bitmap) return;
    const radius = (this.brushSize / 2) * (bitmap.width / this.frame().width);
    stroke(bitmap, gesture.last, point, radius, this.tool === "erase" ? 0 : 255);
    gesture.last = point;
    this.refresh();
  }

  /** @param {PointerEvent} event */
  onUp(event) {
    const { gesture, draft, state } = this;
    if (event.button === 1) this.around.forward(event);
    if (!gesture || gesture.pointer !== event.pointerId) return;
    this.gesture = null;
    this.draft = null;
    if (gesture.kind === "paint" && gesture.region && gesture.bitmap) {
      const before = state.regions;
      state.apply(edit.painted(before, gesture.region.id, gesture.bitmap));
      if (state.regions === before) this.around.announce(this.around.words.wiped);
    } else if (gesture.kind === "draw") {
      if (!draft) state.select([]);
      else this.addRegion(draft, event.pointerType !== "touch");
    } else if (gesture.kind === "choose" && !draft) {
      state.select([]);
    } else if (gesture.kind === "move" && !gesture.far && gesture.region) {
      state.select([gesture.region.id]);
    }
    state.commit();
    this.refresh();
  }

  /** Draw a region and, where no screen keyboard would pop up, let its name be typed. @param {Box} box @param {boolean} name */
  addRegion(box, name) {
    const region = this.state.add(box, this.around.proposal());
    if (name) this.editInPlace(region.id);
  }

  /** End a gesture without keeping it. */
  drop() {
    if (!this.gesture) return;
    this.gesture = null;
    this.draft = null;
    this.state.cancel();
    this.refresh();
  }

  /** @param {Point} point */
  showCursor(point) {
    if (this.tool !== "arrange") {
      this.canvas.style.cursor = this.tool === "draw" ? "crosshair" : "none";
      return;
    }
    const single = this.state.single();
    const handle = single && geo.handleAt(single.box, point, this.shares(SLOP.mouse));
    this.canvas.style.cursor = handle ? `${handle}-resize` : this.topAt(point) ? "move" : "crosshair";
  }

  /** Edit a region's phrase over its box. @param {string} id */
  editInPlace(id) {
    const region = this.state.regions.find((entry) => entry.id === id);
    if (!region) return;
    this.element.querySelector(".rc-inplace")?.remove();
    const place = this.frame();
    const number = this.state.regions.indexOf(region) + 1;
    let open = true;
    /** @param {boolean} keep @param {boolean} back to the drawing */
    const close = (keep, back) => {
      if (!open) return;
      open = false;
      const { value } = input;
      input.remove();
      if (keep) this.state.apply(edit.renamed(this.state.regions, id, value));
      if (back) this.keys.focus({ preventScroll: true });
    };
    const input = make("input", {
      class: "rc-inplace", type: "text", value: region.phrase, autocomplete: "off",
      "aria-label": this.around.words.phrase.replace("{n}", String(number)),
      onblur: () => close(true, false),
      onkeydown: (/** @type {KeyboardEvent} */ event) => {
        event.stopPropagation();
        if (event.isComposing) return; // Enter that ends an input method's word
        if (event.key === "Enter") close(true, true);
        if (event.key === "Escape") close(false, true);
      },
    });
    const list = this.element.parentElement?.querySelector("datalist");
    if (list) input.setAttribute("list", list.id);
    const left = place.left + region.box[0] * place.width;
    const top = place.top + region.box[1] * place.height;
    input.style.left = `${Math.max(0, Math.min(left, this.element.clientWidth - 130))}px`;
    input.style.top = `${Math.max(0, Math.min(top, this.element.clientHeight - 24))}px`;
    this.element.append(input);
    input.focus({ preventScroll: true });
    input.select();
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    if (this.around.key(event) || this.ownKey(event)) {
      event.preventDefault();
      event.stopPropagation();
    }
  }

  /** @param {KeyboardEvent} event @returns {boolean} done? */
  ownKey(event) {
    const { state } = this;
    const arrows = /** @type {Record<string, [number, number]>} */ ({
      ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
    })[event.key];
    if (arrows && !event.ctrlKey && !event.metaKey) {
      const far = event.shiftKey ? 10 : 1;
      if (event.altKey) state.stretch(arrows[0] * far, arrows[1] * far);
      else state.nudge(arrows[0] * far, arrows[1] * far);
      return true;
    }
    const single = state.single();
    if (event.key === "Escape" && (this.gesture || state.selection.size)) {
      if (this.gesture) this.drop();
      else state.select([]);
    } else if (event.key === "Enter" || event.key === "F2") {
      if (single) this.editInPlace(single.id);
    } else if (event.key === "PageDown") state.cycle(1);
    else if (event.key === "PageUp") state.cycle(-1);
    else return false;
    return true;
  }

  /** Draw at the next frame, once however often it is asked for. */
  refresh() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      this.paint();
    });
  }

  paint() {
    const { canvas, state, around, gesture } = this;
    const place = this.frame();
    // As many pixels as the screen shows at the graph's present zoom, within reason.
    const zoom = this.element.offsetWidth
      ? this.element.getBoundingClientRect().width / this.element.offsetWidth : 1;
    const density = Math.min(
      (window.devicePixelRatio || 1) * zoom, SHARPEST / Math.max(place.width, place.height),
    );
    const width = Math.max(1, Math.round(place.width * density));
    const height = Math.max(1, Math.round(place.height * density));
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    canvas.style.left = `${place.left}px`;
    canvas.style.top = `${place.top}px`;
    canvas.style.width = `${place.width}px`;
    canvas.style.height = `${place.height}px`;
    const context = canvas.getContext("2d");
    if (!context) return;
    context.setTransform(width / place.width, 0, 0, height / place.height, 0, 0);
    const look = getComputedStyle(this.element);
    const colour = (/** @type {string} */ name, /** @type {string} */ other) =>
      look.getPropertyValue(name).trim() || other;
    const painting = gesture?.kind === "paint" ? gesture.bitmap : null;
    const brushing = this.tool === "brush" || this.tool === "erase";
    draw(context, {
      width: place.width, height: place.height, regions: state.regions,
      selection: state.selection, lacking: around.lacking(), backdrop: this.backdrop,
      grid: state.settings.snap ? geo.gridStep(state.size, state.settings.grid) : { x: 0, y: 0 },
      draft: this.draft, painting,
      brush: brushing && this.hover
        ? { x: this.hover.x * place.width, y: this.hover.y * place.height, radius: this.brushSize / 2 }
        : null,
      theme: {
        ground: colour("--comfy-input-bg", "#222222"), line: colour("--border-color", "#4e4e4e"),
        text: colour("--input-text", "#dddddd"), alarm: ALARM,
      },
      hint: around.words.empty,
    });
  }
}
