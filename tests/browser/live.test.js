// @ts-check
/**
 * The live view on a live page: it appears while a run goes on, and is scrubbed afterwards.
 * REALCOMPO_SERVER is the address of a ComfyUI with the pack, REALCOMPO_RENDERER is ``classic`` or
 * ``vue`` (Nodes 2.0); REALCOMPO_PICTURES, if set, is a folder for screenshots.
 */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { openPage } from "./page.js";

const SERVER = process.env.REALCOMPO_SERVER ?? "";
const VUE = process.env.REALCOMPO_RENDERER === "vue";
const PICTURES = process.env.REALCOMPO_PICTURES;
const STEPS = 12;

/** @type {Awaited<ReturnType<typeof openPage>>} */
let opened;
/** @type {import("playwright-core").Page} */
let page;

before(async () => {
  opened = await openPage(SERVER, { vue: VUE, size: { width: 1280, height: 1400 } });
  page = opened.page;
  page.setDefaultTimeout(120_000);
}, { timeout: 1_800_000 });
after(async () => {
  await opened?.close();
});

/** Open a template, with fewer steps, and look at one node. @param {string} name @param {string} type */
async function open(name, type) {
  await page.evaluate(async ([file, steps]) => {
    const { app } = /** @type {any} */ (window);
    const graph = await (await fetch(`/api/workflow_templates/realcompo/${file}.json`)).json();
    for (const node of graph.nodes) {
      if (node.type === "RealCompoDualSampler") node.widgets_values[2] = steps;
      if (node.type === "BasicScheduler") node.widgets_values[1] = steps;
    }
    await app.loadGraphData(graph);
  }, /** @type {const} */ ([name, STEPS]));
  // The page fits the new graph into its window some time after it is there.
  await page.waitForTimeout(1500);
  await page.evaluate((kind) => {
    const { app } = /** @type {any} */ (window);
    const node = app.graph.nodes.find((/** @type {any} */ one) => one.type === kind);
    // Away from all others: with Nodes 2.0 they would lie above it.
    node.pos = [4000, 0];
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [-3580, 90];
    app.canvas.setDirty(true, true);
  }, type);
  await page.waitForTimeout(500);
}

/** The graph as it is saved and as it is sent. @param {string} type @returns {Promise<any>} */
const saved = (type) => page.evaluate(async (kind) => {
  const { app } = /** @type {any} */ (window);
  const { output } = await app.graphToPrompt();
  const node = app.graph.serialize().nodes.find((/** @type {any} */ one) => one.type === kind);
  return JSON.parse(JSON.stringify({ output, values: node.widgets_values, inputs: node.inputs }));
}, type);

/** Queue the graph; what the page shows while the run goes on, until it ends. */
const run = () => page.evaluate(async () => {
  const { app } = /** @type {any} */ (window);
  /** @type {{state: string, max: string, label: string}[]} */
  const shown = [];
  const done = new Promise((resolve) => {
    for (const kind of ["execution_success", "execution_error", "execution_interrupted"]) {
      app.api.addEventListener(kind, () => resolve(kind), { once: true });
    }
  });
  const timer = setInterval(() => {
    const slider = /** @type {HTMLInputElement | null} */ (document.querySelector(".rc-live input"));
    const label = document.querySelector(".rc-live output")?.textContent ?? "";
    const last = shown.at(-1);
    if (slider && label && last?.label !== label) {
      shown.push({ state: "running", max: slider.max, label });
    }
  }, 20);
  await app.queuePrompt(0, 1);
  const kind = await done;
  clearInterval(timer);
  return { kind, shown };
});

const label = () => page.locator(".rc-live output").textContent();
const slider = () => page.locator(".rc-live input[type=range]");
/** A mark of what the picture shows. @returns {Promise<string>} */
const picture = async () => {
  await page.waitForTimeout(200);
  return page.evaluate(() => {
    const canvas = /** @type {HTMLCanvasElement} */ (document.querySelector(".rc-live .rc-stage canvas"));
    return canvas.width > 20 ? canvas.toDataURL() : "";
  });
};
/** @param {string} name */
async function shoot(name) {
  if (!PICTURES) return;
  await page.waitForTimeout(500);
  await page.screenshot({ path: `${PICTURES}/${name}_${VUE ? "vue" : "classic"}.png` });
}
const visible = () => page.locator(".rc-live").isVisible();

test("the view appears on the sampler while it runs, step by step", async () => {
  await open("realcompo_layout_editor", "RealCompoDualSampler");
  const before = await saved("RealCompoDualSampler");
  assert.equal(before.values[2], STEPS);
  assert.equal(await page.locator(".rc-live").count(), 0);
  const { kind, shown } = await run();
  assert.equal(kind, "execution_success");
  await shoot("live_after");
  assert.ok(shown.length >= 3, `it moved during the run: ${JSON.stringify(shown)}`);
  assert.ok(Number(shown[0].max) < STEPS - 1, "it was there before the run's end");
  assert.ok(shown[0].label.startsWith("1 / 12") || Number(shown[0].max) < 6);
  assert.ok(await visible());
  const inVueNode = await page.evaluate(() =>
    Boolean(document.querySelector(".rc-live")?.closest("[data-node-id]")));
  assert.equal(inVueNode, VUE);
  assert.deepEqual(await saved("RealCompoDualSampler"), before, "nothing of it is saved or sent");
});

test("afterwards the steps are scrubbed by mouse and keys", async () => {
  assert.equal(await slider().getAttribute("max"), String(STEPS - 1));
  assert.match(String(await label()), /^12 \/ 12/);
  const last = await picture();
  assert.ok(last.length > 100);
  await slider().focus();
  await page.keyboard.press("Home");
  const first = await picture();
  assert.match(String(await label()), /^1 \/ 12\s+balanced/);
  assert.notEqual(first, last);
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowRight");
  await picture();
  assert.match(String(await label()), /^3 \/ 12/);
  const box = await slider().boundingBox();
  assert.ok(box);
  await page.mouse.click(box.x + box.width / 2, box.y + box.height / 2);
  await picture();
  assert.match(String(await label()), /^[67] \/ 12/);
  await shoot("live_scrubbed");
  await page.keyboard.press("End");
  assert.equal(await picture(), last);
});

test("every region has its shares, and a click shows its attention alone", async () => {
  await slider().focus();
  await page.keyboard.press("Home");
  const mix = await picture();
  const rows = page.locator(".rc-live li button");
  assert.equal(await rows.count(), 3);
  const texts = await rows.allTextContents();
  assert.match(texts[0], /a red star\s*\d+ %\s*\d+ %/);
  await rows.nth(1).click();
  const heat = await picture();
  assert.notEqual(heat, mix);
  assert.equal(await rows.nth(1).getAttribute("aria-pressed"), "true");
  const described = await page.locator(".rc-live .rc-stage canvas").getAttribute("aria-label");
  assert.match(String(described), /a blue circle.*realism.*step 1/);
  await shoot("live_region");
  await page.locator(".rc-live .rc-row button", { hasText: "spatial" }).click();
  assert.notEqual(await picture(), heat);
  await rows.nth(1).click();
  await page.locator(".rc-live .rc-row button", { hasText: "off" }).click();
  const bare = await picture();
  assert.notEqual(bare, mix);
  await page.locator(".rc-live .rc-row button", { hasText: "realism" }).click();
  assert.equal(await picture(), mix);
});

test("a graph that is loaded again, as undo does, finds its view", async () => {
  await page.evaluate(async () => {
    const { app } = /** @type {any} */ (window);
    await app.loadGraphData(app.graph.serialize());
  });
  await page.waitForSelector(".rc-live output", { state: "visible" });
  await page.waitForTimeout(500);
  assert.equal(await page.locator(".rc-live").count(), 1);
  assert.match(String(await label()), /\/ 12/);
});

test("a second run replaces the first", async () => {
  await page.evaluate(() => {
    const { app } = /** @type {any} */ (window);
    const node = app.graph.nodes.find((/** @type {any} */ one) => one.type === "RealCompoDualSampler");
    node.widgets[2].value = 5;
    node.widgets[0].value = 11;
  });
  const { kind } = await run();
  assert.equal(kind, "execution_success");
  await picture();
  assert.equal(await slider().getAttribute("max"), "4");
  assert.match(String(await label()), /^5 \/ 5/);
});

test("with the guider, the guider's node shows what another node samples", async () => {
  await open("realcompo_guider", "RealCompoGuider");
  assert.equal(await page.locator(".rc-live").count(), 0);
  const before = await saved("RealCompoGuider");
  const { kind, shown } = await run();
  assert.equal(kind, "execution_success");
  assert.ok(shown.length >= 2);
  const where = await page.evaluate(() => {
    const { app } = /** @type {any} */ (window);
    return app.graph.nodes
      .filter((/** @type {any} */ node) => node.widgets?.some(
        (/** @type {any} */ widget) => widget.name === "realcompo_live_view"))
      .map((/** @type {any} */ node) => node.type);
  });
  assert.deepEqual(where, ["RealCompoGuider"]);
  assert.deepEqual(await saved("RealCompoGuider"), before);
  await shoot("live_guider");
});

test("a page that is loaded anew has no errors and no stale view", async () => {
  await page.reload({ waitUntil: "domcontentloaded" });
  await page.waitForFunction(() => {
    const { app, LiteGraph } = /** @type {any} */ (window);
    return app?.graph && LiteGraph?.registered_node_types?.RealCompoGuider;
  });
  await page.waitForTimeout(2000);
  assert.equal(await page.locator(".rc-live").count(), 0);
  assert.deepEqual(opened.errors, []);
});
