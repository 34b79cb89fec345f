// @ts-check
/** Shows a run on its node while it goes on: the one file of the live view that knows the page. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { LiveView, LOWEST } from "./live/view.js";
import { wordsFor } from "./live/words.js";

/** @typedef {import("../../scripts/app.js").HostNode} HostNode */
/** @typedef {import("../../scripts/app.js").HostGraph} HostGraph */
/** @typedef {import("../../scripts/app.js").HostWidget & {view: LiveView}} LiveWidget */
/** @typedef {import("./live/state.js").Run} Run */

const EVENT = "realcompo.progress";
const NODES = ["RealCompoDualSampler", "RealCompoGuider"];
const WIDGET = "realcompo_live_view";
const MARGIN = 10;
const WIDE = 320;
/** Runs that outlive their node's object: undo, and a change of the tab, make new ones. */
const MOST_RUNS = 8;

/** @type {Map<string, Run>} by graph and node */
const runs = new Map();

/** @param {HostNode} node */
const keyOf = (node) => `${node.graph?.id ?? ""}|${node.id}`;

/**
 * A node by the id that the server knows it by: ids of nested subgraphs are joined by colons.
 * @param {string} id @returns {HostNode | null}
 */
function findNode(id) {
  /** @type {HostGraph | null | undefined} */
  let graph = app.rootGraph ?? app.graph;
  /** @type {HostNode | null} */
  let node = null;
  for (const part of id.split(":")) {
    node = graph?.getNodeById(Number(part)) ?? null;
    graph = node?.subgraph;
  }
  return node && NODES.includes(node.comfyClass ?? "") ? node : null;
}

/** @param {HostNode} node @returns {LiveView} the node's view, made at the first call */
function viewOf(node) {
  const there = node.widgets?.find((widget) => widget.name === WIDGET);
  if (there) return /** @type {LiveWidget} */ (there).view;
  const view = new LiveView(wordsFor(app.extensionManager?.setting?.get("Comfy.Locale")));
  const widget = /** @type {LiveWidget} */ (
    node.addDOMWidget(WIDGET, "REALCOMPO_LIVE_VIEW", view.element, {
      // Nothing of it is saved, neither in a workflow nor in what is sent to the server.
      serialize: false,
      getValue: () => "",
      setValue: () => {},
      getMinHeight: () => LOWEST + 2 * MARGIN,
      margin: MARGIN,
      hideOnZoom: false,
    })
  );
  widget.serialize = false;
  widget.view = view;
  const theirs = node.onRemoved;
  node.onRemoved = function (...rest) {
    view.stop();
    return theirs?.apply(this, rest);
  };
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width, WIDE), Math.max(node.size[1], height)]);
  node.graph?.setDirtyCanvas?.(true, true);
  return view;
}

/** @param {string} key @param {Run} run */
function remember(key, run) {
  runs.delete(key);
  runs.set(key, run);
  for (const oldest of runs.keys()) {
    if (runs.size <= MOST_RUNS) break;
    runs.delete(oldest);
  }
}

app.registerExtension({
  name: "realcompo.live_view",
  setup() {
    api.addEventListener(EVENT, ({ detail }) => {
      const node = findNode(String(detail?.node ?? ""));
      if (!node) return;
      const view = viewOf(node);
      view.accept(detail);
      if (view.run) remember(keyOf(node), view.run);
    });
  },
  /** @param {HostNode} node */
  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass ?? "")) return;
    const theirs = node.onConfigure;
    node.onConfigure = function (...rest) {
      const result = theirs?.apply(this, rest);
      // The node has its id and its graph only when the whole graph stands.
      setTimeout(() => {
        const run = node.graph ? runs.get(keyOf(node)) : undefined;
        if (run) viewOf(node).adopt(run);
      });
      return result;
    };
  },
});
