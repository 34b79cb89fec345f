// @ts-check
/** A ComfyUI page in Chromium with the editor on it, for the browser tests. */

import { chromium } from "playwright-core";

const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

/** Milliseconds: a busy machine is no reason to fail. */
const SLOW = 600_000;

/** @typedef {import("playwright-core").Page} Page */
/** @typedef {{x: number, y: number}} Point */

/**
 * @param {string} server its address @param {{vue?: boolean, size?: {width: number, height: number}}} options
 * @returns {Promise<{page: Page, close: () => Promise<void>, errors: string[]}>}
 */
export async function openPage(server, { vue = false, size = { width: 1280, height: 900 } } = {}) {
  const browser = await chromium.launch({
    executablePath: process.env.REALCOMPO_CHROMIUM ?? "/usr/bin/chromium", headless: true, args: FLAGS,
    timeout: SLOW,
  });
  try {
    return await loadPage(browser, server, vue, size);
  } catch (error) {
    // A browser that nobody closes would keep the test process alive.
    await browser.close();
    throw error;
  }
}

/**
 * @param {import("playwright-core").Browser} browser @param {string} server @param {boolean} vue
 * @param {{width: number, height: number}} size
 */
async function loadPage(browser, server, vue, size) {
  const context = await browser.newContext({ viewport: size, hasTouch: true });
  await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: server });
  const page = await context.newPage();
  page.setDefaultTimeout(SLOW);
  /** @type {string[]} */
  const errors = [];
  page.on("pageerror", (error) => {
    // Only what our own files throw: the page of an older host has errors of its own.
    if (String(error.stack).includes("/extensions/realcompo/")) errors.push(String(error.stack));
  });
  await page.goto(server, { waitUntil: "domcontentloaded", timeout: SLOW });
  await page.waitForFunction(
    () => {
      const { app, LiteGraph } = /** @type {any} */ (window);
      return app?.graph && LiteGraph?.registered_node_types?.RealCompoLayout;
    },
    undefined, { timeout: SLOW },
  );
  await page.waitForTimeout(2000);
  await page.keyboard.press("Escape");
  await page.evaluate(async (on) => {
    const { app } = /** @type {any} */ (window);
    await app.extensionManager.setting.set("Comfy.VueNodes.Enabled", on);
    await app.extensionManager.setting.set("Comfy.Workflow.ShowMissingNodesWarning", false);
  }, vue);
  return { page, errors, close: () => browser.close() };
}

/**
 * A fresh graph with one editor node, its top left corner near the page's.
 * @param {Page} page @param {{prompt?: string, layout?: unknown}} values
 */
export async function addEditor(page, { prompt = "", layout } = {}) {
  await page.evaluate(async ([text, drawing]) => {
    const { app, LiteGraph } = /** @type {any} */ (window);
    app.graph.clear();
    const node = LiteGraph.createNode("RealCompoLayout");
    app.graph.add(node);
    node.pos = [0, 0];
    node.setSize([560, 760]);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [340, 70];
    node.widgets[0].value = text;
    node.widgets[0].callback?.(text);
    if (drawing !== undefined) node.widgets[1].value = JSON.stringify(drawing);
    app.canvas.setDirty(true, true);
    /** @type {any} */ (window).editorNode = node;
    /** @type {any} */ (window).editor = node.widgets[1].editor;
  }, /** @type {const} */ ([prompt, layout]));
  await page.waitForSelector(".rc-editor canvas", { state: "visible" });
  await page.waitForTimeout(500);
}

/** @param {Page} page @returns {Promise<any>} the widget's value, parsed */
export async function drawing(page) {
  return page.evaluate(() => JSON.parse(/** @type {any} */ (window).editorNode.widgets[1].value));
}

/** A place on the image on screen. @param {Page} page @param {number} x @param {number} y @returns {Promise<Point>} */
export async function at(page, x, y) {
  const box = await page.locator(".rc-stage canvas").boundingBox();
  if (!box) throw new Error("the drawing is not on the page");
  return { x: box.x + x * box.width, y: box.y + y * box.height };
}

/**
 * Press, move and release; places in shares of the image.
 * @param {Page} page @param {[number, number]} from @param {...[number, number]} to
 */
export async function drag(page, from, ...to) {
  const start = await at(page, ...from);
  await page.mouse.move(start.x, start.y);
  await page.mouse.down();
  for (const place of to) {
    const next = await at(page, ...place);
    await page.mouse.move(next.x, next.y, { steps: 4 });
  }
  await page.mouse.up();
}
