// @ts-check
/** Puts the editor on the node: the one file that knows ComfyUI's page. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { Editor } from "./editor/editor.js";
import { wordsFor } from "./editor/words.js";

/** @typedef {import("../../scripts/app.js").HostNode} HostNode */
/** @typedef {import("../../scripts/app.js").HostWidget} HostWidget */
/** @typedef {HostWidget & {editor: Editor}} EditorWidget */

const NODE = "RealCompoLayout";
const LOWEST = 400;
const MARGIN = 10;

/** Let the graph below have a wheel or a middle button. @param {Editor} editor @param {PointerEvent | WheelEvent} event */
function forward(editor, event) {
  if (event instanceof WheelEvent) {
    // With Vue nodes the graph is around the editor and hears the wheel by itself.
    if (!editor.element.closest(".dom-widget")) return;
    event.preventDefault();
    app.canvas.canvas.dispatchEvent(new WheelEvent(event.type, event));
    return;
  }
  if (event.type === "pointerdown") app.canvas.processMouseDown?.(event);
  else if (event.type === "pointermove") app.canvas.processMouseMove?.(event);
  else app.canvas.processMouseUp?.(event);
}

/**
 * The widget of ``layout_json``.
 * @param {HostNode} node @param {string} name
 * @param {[string, {default?: string}?]} spec
 */
function layoutWidget(node, name, spec) {
  let waiting = false;
  const changed = () => {
    // Several changes at once (a drawing, then its mask packed) are one for the workflow.
    if (waiting) return;
    waiting = true;
    setTimeout(() => {
      waiting = false;
      widget.callback?.(editor.value);
      node.graph?.setDirtyCanvas?.(true, true);
      app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.checkState?.();
    });
  };
  /** @type {Editor} */
  const editor = new Editor({
    words: wordsFor(app.extensionManager?.setting?.get("Comfy.Locale")),
    fetch: (path, options) => api.fetchApi(path, options),
    imageUrl: (image) => api.apiURL(`/view?${new URLSearchParams({ ...image })}`),
    forward: (event) => forward(editor, event),
    changed,
  });
  editor.value = spec[1]?.default ?? "";
  const widget = /** @type {EditorWidget} */ (
    node.addDOMWidget(name, "REALCOMPO_LAYOUT_EDITOR", editor.element, {
      getValue: () => editor.value,
      setValue: (/** @type {unknown} */ value) => {
        editor.value = typeof value === "string" ? value : JSON.stringify(value ?? "");
      },
      getMinHeight: () => LOWEST + 2 * MARGIN,
      margin: MARGIN,
      hideOnZoom: false,
      socketless: true,
    })
  );
  widget.editor = editor;
  return { widget, minWidth: 420, minHeight: LOWEST };
}

/** @param {HostNode} node @param {string} name */
const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

/** @param {HostNode} node @param {string} name */
const isWired = (node, name) =>
  node.inputs?.some((input) => input.name === name && input.link !== null) ?? false;

/** Call ours after what is there already. @template {keyof HostNode} K @param {HostNode} node @param {K} name @param {(...rest: any[]) => void} ours */
function after(node, name, ours) {
  const theirs = /** @type {((...rest: unknown[]) => unknown) | undefined} */ (node[name]);
  /** @type {any} */ (node)[name] = function (/** @type {unknown[]} */ ...rest) {
    const result = theirs?.apply(this, rest);
    ours(...rest);
    return result;
  };
}

/** Follow the node's other inputs and what its runs say. @param {HostNode} node @param {Editor} editor */
function follow(node, editor) {
  /** What the last run said of inputs that come by wire. @type {{prompt?: string, width?: number, height?: number}} */
  let last = {};
  const look = () => {
    // The typed text goes first; a blank one may be filled by a wired layout's, known after a run.
    const typed = String(widgetOf(node, "prompt")?.value ?? "");
    const elsewhere = isWired(node, "prompt") || (!typed.trim() && isWired(node, "layout"));
    editor.setPrompt(elsewhere ? last.prompt ?? null : typed);
    const [width, height] = /** @type {("width" | "height")[]} */ (["width", "height"]).map((side) =>
      isWired(node, side) ? last[side] ?? Number(widgetOf(node, side)?.value)
        : Number(widgetOf(node, side)?.value),
    );
    editor.state.resize({ width, height });
  };
  for (const name of ["prompt", "width", "height"]) {
    const widget = widgetOf(node, name);
    if (!widget) continue;
    const theirs = widget.callback;
    widget.callback = function (...rest) {
      const result = theirs?.apply(this, rest);
      look();
      return result;
    };
  }
  after(node, "onConfigure", look);
  after(node, "onConnectionsChange", () => setTimeout(look));
  // Values set by other extensions come without a call.
  for (const name of ["pointerenter", "focusin"]) editor.element.addEventListener(name, look);
  after(node, "onExecuted", (output) => {
    const [news] = output?.layout_editor ?? [];
    if (!news) return;
    last = news;
    look();
    if (news.backdrop) editor.showPicture(news.backdrop, false);
    if (news.adopt) void editor.adopt(news.adopt.source, news.adopt.layout);
  });
  after(node, "onRemoved", () => editor.stop());
  look();
}

app.registerExtension({
  name: "realcompo.layout_editor",
  getCustomWidgets: () => ({ REALCOMPO_LAYOUT_EDITOR: layoutWidget }),
  /** @param {HostNode} node */
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const widget = /** @type {EditorWidget | undefined} */ (widgetOf(node, "layout_json"));
    if (widget?.editor) follow(node, widget.editor);
  },
});
