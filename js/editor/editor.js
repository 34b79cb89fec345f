// @ts-check
/** The whole editor as one element with a text as its value. Knows the page, but not ComfyUI. */

import { STYLE, make } from "./dom.js";
import { SCHEMA, clipText, defaultSettings, imageRef, readText, readValue } from "./layout_text.js";
import { Matcher } from "./match.js";
import { pack } from "./mask.js";
import * as edit from "./operations.js";
import { PromptView } from "./prompt_view.js";
import { RegionList } from "./region_list.js";
import { Stage } from "./stage.js";
import { EditorState } from "./state.js";
import { Toolbar } from "./toolbar.js";
import { say } from "./words.js";

/** @typedef {import("./layout_text.js").ImageRef} ImageRef */
/** @typedef {import("./stage.js").Tool} Tool */
/**
 * @typedef {object} Host what the editor needs of the page around it
 * @property {import("./words.js").Words} words
 * @property {(path: string, options: RequestInit) => Promise<Response>} fetch
 * @property {(image: ImageRef) => string} imageUrl
 * @property {(event: PointerEvent | WheelEvent) => void} forward
 * @property {() => void} changed the value is another one
 */

let count = 0;
const KEYS = /** @type {Record<string, Tool>} */ ({ v: "arrange", r: "draw", b: "brush", e: "erase" });

export class Editor {
  /** @param {Host} host */
  constructor(host) {
    this.host = host;
    this.words = host.words;
    this.state = new EditorState();
    /** The text as it came, while it is not (yet) what the state says. @type {string | null} */
    this.raw = "";
    /** @type {string | null} */
    this.cached = null;
    this.turn = 0;
    this.quiet = false;
    /** @type {string | null} */
    this.prompt = "";
    count += 1;
    const things = `rc-things-${count}`;
    this.matcher = new Matcher(host.fetch, () => this.showMatch());
    this.toolbar = new Toolbar(this.words, {
      run: (name) => void this.run(name),
      tool: (tool) => this.use(tool),
      brush: (size) => {
        this.stage.brushSize = size;
      },
      grid: (snap, grid) => this.state.set({ snap, grid }),
      picture: (file) => void this.takePicture(file),
      noPicture: () => this.showPicture(null, true),
    });
    this.stage = new Stage({
      state: this.state, words: this.words, forward: host.forward,
      lacking: () => this.matcher.lacking(),
      proposal: () => this.matcher.proposal(this.state.regions),
      announce: (text) => this.announce(text),
      key: (event) => this.onKey(event),
    });
    this.view = new PromptView(this.state, this.words, things);
    this.list = new RegionList(this.state, this.words, things);
    this.live = make("div", { class: "rc-note", role: "status", "aria-live": "polite" });
    this.broken = make("div", { class: "rc-broken", role: "alert", hidden: true });
    this.element = make("div", {
      class: "rc-editor", role: "group", "aria-label": this.words.editor,
    }, make("style", {}, STYLE), this.toolbar.element, this.stage.element, this.broken,
    this.view.text, this.view.note, this.list.element, this.live, this.view.things);
    this.listen();
    this.state.onChange((change) => this.onChange(change));
    this.show();
  }

  listen() {
    const { element } = this;
    // Nothing that is done here is meant for the graph below; mouseup still tells ComfyUI to look.
    for (const name of ["pointerdown", "pointermove", "pointerup", "dblclick", "contextmenu"]) {
      element.addEventListener(name, (event) => event.stopPropagation());
    }
    element.addEventListener("copy", (event) => this.onCopy(event, false));
    element.addEventListener("cut", (event) => this.onCopy(event, true));
    element.addEventListener("paste", (event) => this.onPaste(event));
    for (const name of ["dragenter", "dragover"]) {
      element.addEventListener(name, (event) => {
        if (!(/** @type {DragEvent} */ (event).dataTransfer?.types.includes("Files"))) return;
        event.preventDefault();
        event.stopPropagation();
      });
    }
    element.addEventListener("drop", (event) => {
      const file = pictureIn(event.dataTransfer);
      if (!file) return;
      event.preventDefault();
      event.stopPropagation();
      void this.takePicture(file);
    });
  }

  /** @returns {string} the drawing as text; what came in, as long as it could not be read */
  get value() {
    if (this.raw !== null) return this.raw;
    this.cached ??= this.state.text();
    return this.cached;
  }

  /** @param {string} text */
  set value(text) {
    if (text === this.value) return;
    void this.open(text);
  }

  /** @param {string} text */
  async open(text) {
    this.turn += 1;
    const { turn } = this;
    this.raw = text;
    try {
      const drawing = await readText(text);
      if (turn !== this.turn) return;
      this.raw = null;
      this.broken.hidden = true;
      this.stage.element.hidden = false;
      // Opening a workflow does not change it: the text stays as it came until the first edit,
      // unless it is of an older form, which the server does not read.
      this.quiet = !text.trim() || JSON.parse(text).schema === SCHEMA;
      this.state.load(drawing);
      this.cached = this.quiet ? text : null;
      this.quiet = false;
      this.showPicture(this.state.settings.backdrop, false);
    } catch (error) {
      if (turn !== this.turn) return;
      this.refuse(error instanceof Error ? error.message : String(error));
    }
  }

  /** Show why a text cannot be edited; it is kept until the user gives it up. @param {string} why */
  refuse(why) {
    this.broken.replaceChildren(
      make("p", {}, why),
      make("button", {
        type: "button",
        onclick: () => {
          this.broken.hidden = true;
          this.stage.element.hidden = false;
          this.raw = null;
          this.state.load({ regions: [], settings: defaultSettings(), extra: {} });
        },
      }, this.words.startAnew),
    );
    this.broken.hidden = false;
    this.stage.element.hidden = true;
  }

  /** @param {import("./state.js").Change} change */
  onChange(change) {
    if (change === "preview") {
      this.stage.refresh();
      return;
    }
    this.show();
    if (change === "selection" || change === "regions") this.describe();
    if (change === "regions" || change === "settings") this.changed();
  }

  changed() {
    if (this.quiet) return;
    this.cached = null;
    this.host.changed();
    for (const { mask } of this.state.regions) {
      if (!mask) continue;
      void pack(mask).then((news) => {
        if (!news) return;
        this.cached = null;
        this.host.changed();
      });
    }
  }

  /** @returns {string | null} as the server chooses it: a blank one may stand in the text */
  effectivePrompt() {
    const own = this.state.extra.prompt;
    return this.prompt !== null && !this.prompt.trim() && typeof own === "string" ? own : this.prompt;
  }

  show() {
    this.matcher.look(this.effectivePrompt(), this.state.regions);
    this.toolbar.show(this.state, this.stage.tool, this.stage.backdrop !== null);
    this.showMatch();
  }

  showMatch() {
    this.view.show(this.matcher, this.effectivePrompt());
    this.list.show(this.matcher.answer);
    this.list.reveal(); // a row grows by what is wrong with it
    this.stage.refresh();
  }

  /** @param {Tool} tool */
  use(tool) {
    this.stage.use(tool);
    this.show();
  }

  /** @param {string} text */
  announce(text) {
    this.live.textContent = text;
  }

  /** Say what is chosen. */
  describe() {
    const { regions } = this.state;
    const chosen = this.state.chosen();
    if (chosen.length !== 1) {
      this.announce(chosen.length ? say(this.words.chosen, { count: chosen.length }) : this.words.none);
      return;
    }
    const [x0, y0, x1, y1] = chosen[0].box.map((value) => Math.round(100 * value));
    this.announce(say(this.words.described, {
      n: regions.indexOf(chosen[0]) + 1, count: regions.length, phrase: chosen[0].phrase, x0, y0, x1, y1,
    }));
  }

  /** @param {string} name of a command */
  async run(name) {
    const { state } = this;
    if (name === "undo") state.undo();
    else if (name === "redo") state.redo();
    else if (name === "duplicate") state.duplicate();
    else if (name === "remove") state.remove();
    else if (name === "forward" || name === "backward" || name === "front" || name === "back") {
      state.apply(edit.reordered(state.regions, state.selection, name));
    } else if (name === "copy") await this.copyByButton();
    else if (name === "paste") await this.pasteByButton();
  }

  async copyByButton() {
    const chosen = this.state.chosen();
    try {
      await navigator.clipboard.writeText(clipText(chosen));
      this.announce(say(this.words.copied, { count: chosen.length }));
    } catch {
      this.announce(this.words.noClipboard);
    }
  }

  async pasteByButton() {
    try {
      await this.pasteText(await navigator.clipboard.readText());
    } catch {
      this.announce(this.words.noClipboard);
    }
  }

  /** @param {string} text */
  async pasteText(text) {
    try {
      const { regions } = await readText(text);
      if (!regions.length) throw new Error("empty");
      this.state.paste(regions);
      this.announce(say(this.words.pasted, { count: regions.length }));
    } catch {
      this.announce(this.words.nothingToPaste);
    }
  }

  /** @param {ClipboardEvent} event @param {boolean} cut */
  onCopy(event, cut) {
    if (event.target !== this.stage.keys) return;
    event.stopPropagation();
    const chosen = this.state.chosen();
    if (!chosen.length) return;
    event.clipboardData?.setData("text/plain", clipText(chosen));
    event.preventDefault();
    if (cut) this.state.remove();
    else this.announce(say(this.words.copied, { count: chosen.length }));
  }

  /** @param {ClipboardEvent} event */
  onPaste(event) {
    if (event.target !== this.stage.keys) return;
    event.preventDefault();
    event.stopPropagation();
    const file = pictureIn(event.clipboardData);
    if (file) void this.takePicture(file);
    else void this.pasteText(event.clipboardData?.getData("text/plain") ?? "");
  }

  /** @param {KeyboardEvent} event @returns {boolean} done? */
  onKey(event) {
    const { state } = this;
    const key = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey) {
      if (key === "z") void this.run(event.shiftKey ? "redo" : "undo");
      else if (key === "y") void this.run("redo");
      else if (key === "d") state.duplicate();
      else if (key === "a") state.select(state.regions.map((region) => region.id));
      else {
        // Copy, cut and paste come as events of their own, and must not reach the graph as keys.
        if (["c", "x", "v"].includes(key)) event.stopPropagation();
        return false;
      }
      return true;
    }
    if (event.altKey) return false;
    if (key === "delete" || key === "backspace") state.remove();
    else if (key in KEYS) this.use(KEYS[key]);
    else if (key === "g") state.set({ snap: !state.settings.snap });
    else if (key === "n") this.stage.addRegion(edit.middleBox(state.step()), true);
    else if (event.key === "]") void this.run("forward");
    else if (event.key === "[") void this.run("backward");
    else if (event.key === "}") void this.run("front");
    else if (event.key === "{") void this.run("back");
    else return false;
    return true;
  }

  /** Lay a user's picture below the drawing and among the host's inputs. @param {File} file */
  async takePicture(file) {
    try {
      const form = new FormData();
      form.append("image", file, file.name || "backdrop.png");
      form.append("subfolder", "realcompo");
      form.append("type", "input");
      const reply = await this.host.fetch("/upload/image", { method: "POST", body: form });
      if (!reply.ok) throw new Error(`${reply.status} ${reply.statusText}`);
      const { name, subfolder, type } = await reply.json();
      this.showPicture(imageRef({ filename: name, subfolder, type }), true);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      this.announce(say(this.words.badPicture, { why }));
    }
  }

  /** @param {ImageRef | null} ref @param {boolean} keep in the text, too */
  showPicture(ref, keep) {
    if (keep) this.state.set({ backdrop: ref });
    if (!ref) {
      this.stage.backdrop = null;
      this.show();
      return;
    }
    const image = new Image();
    image.onload = () => {
      this.stage.backdrop = image;
      this.show();
    };
    image.onerror = () => this.announce(say(this.words.badPicture, { why: ref.filename }));
    image.src = this.host.imageUrl(ref);
  }

  /** @param {string | null} prompt null: not known before a run */
  setPrompt(prompt) {
    if (prompt === this.prompt) return;
    this.prompt = prompt;
    this.show();
  }

  /** Take a wired layout's regions over. @param {string} source @param {unknown} layout */
  async adopt(source, layout) {
    if (source === this.state.settings.source) return;
    const { regions } = await readValue(layout);
    this.raw = null;
    this.state.adopt(regions, source);
    this.announce(this.words.adopted);
  }

  stop() {
    this.turn += 1;
    this.matcher.stop();
  }
}

/** @param {DataTransfer | null} transfer @returns {File | null} */
function pictureIn(transfer) {
  return [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/")) ?? null;
}
