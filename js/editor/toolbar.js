// @ts-check
/** The row of buttons above the drawing. */

import { icon, make } from "./dom.js";

/** @typedef {import("./dom.js").IconName} IconName */
/** @typedef {import("./stage.js").Tool} Tool */
/** @typedef {import("./words.js").Words} Words */
/**
 * @typedef {object} Commands
 * @property {(name: string) => void} run undo, redo, duplicate, remove, forward, backward, copy, paste
 * @property {(tool: Tool) => void} tool
 * @property {(size: number) => void} brush
 * @property {(snap: boolean, grid: number) => void} grid
 * @property {(file: File) => void} picture
 * @property {() => void} noPicture
 */

const GRIDS = [8, 16, 32, 64, 128];
const COMMANDS = /** @type {const} */ (
  ["undo", "redo", "", "duplicate", "remove", "forward", "backward", "", "copy", "paste", ""]
);
const TOOLS = /** @type {Tool[]} */ (["arrange", "draw", "brush", "erase"]);

export class Toolbar {
  /** @param {Words} words @param {Commands} commands */
  constructor(words, commands) {
    this.words = words;
    /** @type {Record<string, HTMLButtonElement>} */
    this.buttons = {};
    this.element = make("div", { class: "rc-bar", role: "toolbar", "aria-label": words.editor });
    for (const tool of TOOLS) this.button(tool, () => commands.tool(tool));
    this.size = make("input", {
      type: "range", min: 2, max: 120, value: 24, "aria-label": words.brushSize,
      title: words.brushSize, oninput: () => commands.brush(Number(this.size.value)),
    });
    this.element.append(this.size);
    this.gap();
    for (const name of COMMANDS) {
      if (name) this.button(name, () => commands.run(name));
      else this.gap();
    }
    const grid = () => commands.grid(
      this.buttons.snap.getAttribute("aria-pressed") === "true", Number(this.grid.value),
    );
    this.button("snap", () => {
      const on = this.buttons.snap.getAttribute("aria-pressed") !== "true";
      this.buttons.snap.setAttribute("aria-pressed", String(on));
      grid();
    });
    this.grid = make("select", {
      "aria-label": words.grid, title: words.grid, onchange: grid,
    }, ...GRIDS.map((pixels) => make("option", { value: pixels }, String(pixels))));
    this.element.append(this.grid);
    this.gap();
    this.file = make("input", {
      type: "file", accept: "image/*", hidden: true, tabindex: -1, "aria-hidden": "true",
      onchange: () => {
        const file = this.file.files?.[0];
        if (file) commands.picture(file);
        this.file.value = "";
      },
    });
    this.button("picture", () => this.file.click());
    this.button("noPicture", commands.noPicture);
    this.element.append(this.file);
  }

  gap() {
    this.element.append(make("span", { class: "rc-gap" }));
  }

  /** @param {IconName} name @param {() => void} done */
  button(name, done) {
    const label = this.words[name];
    const made = make("button", { type: "button", title: label, "aria-label": label, onclick: done },
      icon(name));
    this.buttons[name] = made;
    this.element.append(made);
  }

  /** @param {import("./state.js").EditorState} state @param {Tool} tool @param {boolean} picture */
  show(state, tool, picture) {
    for (const name of TOOLS) this.buttons[name].setAttribute("aria-pressed", String(name === tool));
    this.size.hidden = tool !== "brush" && tool !== "erase";
    this.buttons.undo.disabled = !state.past.length;
    this.buttons.redo.disabled = !state.future.length;
    for (const name of ["duplicate", "remove", "forward", "backward", "copy"]) {
      this.buttons[name].disabled = !state.selection.size;
    }
    this.buttons.snap.setAttribute("aria-pressed", String(state.settings.snap));
    const { grid } = state.settings;
    if (![...this.grid.options].some((option) => Number(option.value) === grid)) {
      this.grid.append(make("option", { value: grid }, String(grid)));
    }
    this.grid.value = String(grid);
    this.buttons.noPicture.hidden = !picture;
  }
}
