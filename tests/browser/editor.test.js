// @ts-check
/**
 * The editor on a live page, by mouse, keys, touch and pen. REALCOMPO_SERVER is the address of a
 * ComfyUI with the pack, REALCOMPO_RENDERER is ``classic`` or ``vue`` (Nodes 2.0).
 */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { addEditor, at, drag, drawing, openPage } from "./page.js";

const SERVER = process.env.REALCOMPO_SERVER ?? "";
const VUE = process.env.REALCOMPO_RENDERER === "vue";
const PROMPT = "a red star and a blue circle and a green square";
const TWO = {
  schema: 1,
  regions: [
    { phrase: "a red star", box: [0.1, 0.1, 0.4, 0.4] },
    { phrase: "a blue circle", box: [0.5, 0.5, 0.9, 0.9] },
  ],
};

/** @type {Awaited<ReturnType<typeof openPage>>} */
let opened;
/** @type {import("playwright-core").Page} */
let page;

before(async () => {
  opened = await openPage(SERVER, { vue: VUE });
  page = opened.page;
}, { timeout: 1_800_000 });
after(async () => {
  await opened?.close();
});

/** @param {() => Promise<unknown>} look @param {string} what */
async function until(look, what) {
  const end = Date.now() + 60_000;
  while (Date.now() < end) {
    if (await look()) return;
    await page.waitForTimeout(50);
  }
  assert.fail(`${what} did not happen`);
}

/** @param {readonly number[]} actual @param {readonly number[]} wanted @param {number} by */
function near(actual, wanted, by = 0.01) {
  actual.forEach((value, i) => assert.ok(Math.abs(value - wanted[i]) <= by, `${actual} for ${wanted}`));
}

const regions = async () => (await drawing(page)).regions;
const phrases = async () => (await regions()).map((/** @type {any} */ region) => region.phrase);
const nodes = () => page.evaluate(() => /** @type {any} */ (window).app.graph.nodes.length);
/** The server's answer on the prompt is there. */
const matched = () =>
  until(() => page.evaluate(() => /** @type {any} */ (window).editor.matcher.answer !== null), "a match");
/** @param {number} x @param {number} y @param {Parameters<import("playwright-core").Mouse["click"]>[2]} [how] */
async function click(x, y, how) {
  const place = await at(page, x, y);
  await page.mouse.click(place.x, place.y, how);
}
/** @param {[number, number, number, number]} box of a pixel of the canvas @returns {Promise<number[]>} */
const pixel = (box) => page.evaluate(([x, y]) => {
  const canvas = /** @type {HTMLCanvasElement} */ (document.querySelector(".rc-stage canvas"));
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  return [...context.getImageData(x * canvas.width, y * canvas.height, 1, 1).data];
}, box);

test("the page runs the renderer that is asked for", async () => {
  await addEditor(page);
  const vue = await page.evaluate(() => Boolean(/** @type {any} */ (window).LiteGraph.vueNodesMode));
  assert.equal(vue, VUE);
  const inVueNode = await page.evaluate(() =>
    Boolean(document.querySelector(".rc-editor")?.closest("[data-node-id]")));
  assert.equal(inVueNode, VUE);
});

test("three regions are drawn and named after the prompt", async () => {
  await addEditor(page, { prompt: PROMPT });
  await matched();
  const boxes = [[0.06, 0.12, 0.46, 0.52], [0.92, 0.45, 0.55, 0.08], [0.32, 0.58, 0.7, 0.95]];
  for (const [x0, y0, x1, y1] of boxes) {
    await drag(page, [x0, y0], [x1, y1]);
    await page.keyboard.press("Enter");
  }
  assert.deepEqual(await phrases(), ["a red star", "a blue circle", "a green square"]);
  const made = await regions();
  near(made[0].box, boxes[0]);
  near(made[1].box, [0.55, 0.08, 0.92, 0.45]);
  const sent = await page.evaluate(async () => {
    const { output } = await /** @type {any} */ (window).app.graphToPrompt();
    return Object.values(output)[0];
  });
  assert.deepEqual(JSON.parse(sent.inputs.layout_json).regions, made);
  const marks = page.locator(".rc-words mark");
  await until(async () => (await marks.count()) === 9, "the last answer");
  assert.equal((await marks.allTextContents()).join(" "), "a red star a blue circle a green square");
});

test("a click without a drag draws nothing", async () => {
  await addEditor(page, { prompt: PROMPT });
  await click(0.5, 0.5);
  assert.deepEqual(await regions(), []);
});

test("a region is moved, resized by a handle, and both undone and done again", async () => {
  await addEditor(page, { prompt: PROMPT, layout: TWO });
  await drag(page, [0.25, 0.25], [0.35, 0.3], [0.45, 0.35]);
  near((await regions())[0].box, [0.3, 0.2, 0.6, 0.5]);
  await drag(page, [0.6, 0.5], [0.8, 0.7]);
  near((await regions())[0].box, [0.3, 0.2, 0.8, 0.7]);
  await drag(page, [0.3, 0.45], [0.1, 0.9]);
  near((await regions())[0].box, [0.1, 0.2, 0.8, 0.7]);
  for (let n = 0; n < 3; n += 1) await page.keyboard.press("Control+z");
  near((await regions())[0].box, TWO.regions[0].box, 0.001);
  assert.equal(await nodes(), 1, "ComfyUI's own undo was not called");
  await page.keyboard.press("Control+Shift+z");
  await page.keyboard.press("Control+y");
  near((await regions())[0].box, [0.3, 0.2, 0.8, 0.7]);
});

test("Escape drops a drag", async () => {
  await addEditor(page, { layout: TWO });
  const start = await at(page, 0.25, 0.25);
  const end = await at(page, 0.6, 0.6);
  await page.mouse.move(start.x, start.y);
  await page.mouse.down();
  await page.mouse.move(end.x, end.y, { steps: 4 });
  await page.keyboard.press("Escape");
  await page.mouse.up();
  near((await regions())[0].box, TWO.regions[0].box, 0.001);
});

test("keys choose, move, resize, duplicate, reorder and delete regions, not nodes", async () => {
  await addEditor(page, { layout: TWO });
  await page.locator(".rc-keys").focus();
  await page.keyboard.press("PageDown");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Shift+ArrowDown");
  near((await regions())[0].box, [0.1 + 1 / 512, 0.1 + 10 / 512, 0.4 + 1 / 512, 0.4 + 10 / 512], 1e-5);
  await page.keyboard.press("Alt+ArrowRight");
  near([(await regions())[0].box[2]], [0.4 + 2 / 512], 1e-5);
  await page.keyboard.press("]");
  assert.deepEqual(await phrases(), ["a blue circle", "a red star"]);
  await page.keyboard.press("Control+d");
  assert.deepEqual(await phrases(), ["a blue circle", "a red star", "a red star"]);
  await page.keyboard.press("Delete");
  assert.deepEqual(await phrases(), ["a blue circle", "a red star"]);
  await page.keyboard.press("Control+a");
  await page.keyboard.press("Backspace");
  assert.deepEqual(await phrases(), []);
  assert.equal(await nodes(), 1);
  await page.keyboard.press("n");
  await page.keyboard.type("a dog");
  await page.keyboard.press("Enter");
  assert.deepEqual(await phrases(), ["a dog"]);
  const said = await page.locator(".rc-editor [aria-live]").textContent();
  assert.match(said ?? "", /Region 1 of 1/u);
});

test("several regions are chosen by Shift and by a frame, and move together", async () => {
  await addEditor(page, { layout: TWO });
  await click(0.2, 0.2);
  await page.keyboard.down("Shift");
  await click(0.7, 0.7);
  await page.keyboard.up("Shift");
  await drag(page, [0.2, 0.2], [0.25, 0.25]);
  near((await regions())[0].box, [0.15, 0.15, 0.45, 0.45]);
  near((await regions())[1].box, [0.55, 0.55, 0.95, 0.95]);
  await click(0.95, 0.05);
  await page.keyboard.down("Shift");
  await drag(page, [0.02, 0.02], [0.98, 0.98]);
  await page.keyboard.up("Shift");
  assert.equal(await page.locator('.rc-editor li[aria-current="true"]').count(), 2);
});

test("copy and paste go through the clipboard as JSON", async () => {
  await addEditor(page, { layout: TWO });
  await click(0.2, 0.2);
  await page.keyboard.press("Control+c");
  const clip = await page.evaluate(() => navigator.clipboard.readText());
  assert.equal(JSON.parse(clip).regions[0].phrase, "a red star");
  await page.keyboard.press("Control+v");
  await until(async () => (await regions()).length === 3, "the paste");
  assert.equal(await nodes(), 1, "no node was pasted");
  await page.keyboard.press("Control+x");
  assert.equal((await regions()).length, 2);
  await page.evaluate(() => navigator.clipboard.writeText("no layout"));
  await page.locator('.rc-editor button[aria-label^="Paste"]').click();
  await until(async () => /holds no layout/u.test(
    (await page.locator(".rc-editor [aria-live]").textContent()) ?? ""), "the refusal");
  assert.equal((await regions()).length, 2);
});

test("phrase, weight and colour are edited in place", async () => {
  await addEditor(page, { prompt: PROMPT, layout: TWO });
  await click(0.25, 0.25, { clickCount: 2 });
  await page.keyboard.type("a green  square");
  await page.keyboard.press("Enter");
  assert.deepEqual(await phrases(), ["a green square", "a blue circle"]);
  const row = page.locator(".rc-editor li").nth(1);
  await row.locator(".rc-phrase").fill("the blue circle");
  await row.locator(".rc-phrase").press("Tab");
  await row.locator("input[type=number]").first().fill("2.5");
  await row.locator("input[type=number]").first().press("Enter");
  await row.locator("input[type=color]").fill("#123456");
  const [, second] = await regions();
  assert.deepEqual([second.phrase, second.weight, second.colour], ["the blue circle", 2.5, "#123456"]);
  await row.locator(".rc-phrase").fill("   ");
  await row.locator(".rc-phrase").press("Tab");
  assert.equal((await regions())[1].phrase, "the blue circle", "an empty phrase is not taken");
});

test("a phrase that the prompt lacks is marked before anything is queued", async () => {
  await addEditor(page, { prompt: PROMPT, layout: TWO });
  const phrase = page.locator(".rc-editor li .rc-phrase").first();
  await until(async () => (await phrase.getAttribute("aria-invalid")) === "false", "the match");
  await phrase.fill("a red stra");
  await phrase.press("Enter");
  await until(async () => (await phrase.getAttribute("aria-invalid")) === "true", "the mark");
  assert.match((await page.locator(".rc-note.rc-alarm").textContent()) ?? "", /1 of 2/u);
  await page.locator(".rc-trouble button").click();
  await until(async () => (await phrase.getAttribute("aria-invalid")) === "false", "the cure");
  assert.equal((await phrases())[0], "a red star");
  const text = page.locator(VUE ? "textarea:not(.rc-keys)" : "textarea.comfy-multiline-input").first();
  await text.fill("a blue circle only");
  await until(async () => (await phrase.getAttribute("aria-invalid")) === "true", "the second mark");
});

test("a mask is painted, moved with its region, erased and given up", async () => {
  await addEditor(page, { layout: TWO });
  await click(0.2, 0.2);
  await page.keyboard.press("b");
  await drag(page, [0.3, 0.3], [0.5, 0.3], [0.5, 0.5]);
  await until(async () => (await regions())[0].mask?.data.length < 2000, "packing");
  const [first] = await regions();
  assert.deepEqual([first.mask.width, first.mask.height], [256, 256]);
  assert.ok(first.box[0] > 0.2 && first.box[2] < 0.6, String(first.box));
  const [r, g, b] = await pixel([0.5, 0.3, 0, 0]);
  assert.ok(r > b + 40 && g > b, `the paint shows: ${[r, g, b]}`);
  await page.keyboard.press("v");
  await drag(page, [0.35, 0.32], [0.55, 0.32]);
  const moved = (await regions())[0];
  near(moved.box, [first.box[0] + 0.2, first.box[1], first.box[2] + 0.2, first.box[3]], 0.02);
  await page.keyboard.press("e");
  await drag(page, [moved.box[0], 0.3], [moved.box[0] + 0.1, 0.3]);
  await until(async () => (await regions())[0].box[0] > moved.box[0] + 0.02, "packing again");
  await page.locator('.rc-editor li button[aria-label^="Box instead"]').first().click();
  assert.equal((await regions())[0].mask, undefined);
  await page.locator('.rc-editor button[aria-label^="Arrange"]').click();
});

for (const [scale, offset] of /** @type {[number, number[]][]} */ ([[0.55, [500, 200]], [1.6, [-30, -120]]])) {
  test(`drawing hits its place on a graph at zoom ${scale}`, async () => {
    await addEditor(page, { prompt: PROMPT });
    await page.evaluate(([zoom, place]) => {
      const { canvas } = /** @type {any} */ (window).app;
      canvas.ds.scale = zoom;
      canvas.ds.offset = place;
      canvas.setDirty(true, true);
    }, /** @type {const} */ ([scale, offset]));
    await page.waitForTimeout(700);
    await drag(page, [0.2, 0.1], [0.6, 0.4]);
    await page.keyboard.press("Enter");
    near((await regions())[0].box, [0.2, 0.1, 0.6, 0.4], 0.02);
    await drag(page, [0.4, 0.3], [0.5, 0.35]);
    near((await regions())[0].box, [0.3, 0.15, 0.7, 0.45], 0.02);
  });
}

test("the wheel over the drawing zooms the graph", async () => {
  await addEditor(page);
  const place = await at(page, 0.5, 0.5);
  await page.mouse.move(place.x, place.y);
  await page.mouse.wheel(0, -240);
  await until(() => page.evaluate(() => /** @type {any} */ (window).app.canvas.ds.scale > 1.05), "zoom");
});

test("snapping puts edges on the grid, and Alt frees them", async () => {
  await addEditor(page);
  await page.locator(".rc-keys").focus();
  await page.keyboard.press("g");
  await page.locator(".rc-editor select").selectOption("64");
  await drag(page, [0.13, 0.13], [0.36, 0.49]);
  await page.keyboard.press("Enter");
  near((await regions())[0].box, [0.125, 0.125, 0.375, 0.5], 1e-6);
  await page.keyboard.down("Alt");
  await drag(page, [0.25, 0.25], [0.28, 0.25]);
  await page.keyboard.up("Alt");
  assert.ok(Math.abs((await regions())[0].box[0] - 0.155) < 0.01);
  assert.deepEqual((await drawing(page)).editor, { grid: 64, snap: true });
});

test("the frame follows width and height", async () => {
  await addEditor(page);
  const shape = () => page.evaluate(() => {
    const canvas = /** @type {HTMLElement} */ (document.querySelector(".rc-stage canvas"));
    return canvas.offsetWidth / canvas.offsetHeight;
  });
  assert.ok(Math.abs((await shape()) - 1) < 0.02);
  await page.evaluate(() => {
    const widget = /** @type {any} */ (window).editorNode.widgets[2];
    widget.value = 1024;
    widget.callback?.(1024);
  });
  await until(async () => Math.abs((await shape()) - 2) < 0.03, "the new shape");
});

test("touch and pen draw, too", async () => {
  await addEditor(page, { prompt: PROMPT });
  await matched();
  const client = await page.context().newCDPSession(page);
  const [a, b, c] = [await at(page, 0.1, 0.1), await at(page, 0.25, 0.25), await at(page, 0.4, 0.4)];
  await client.send("Input.dispatchTouchEvent", { type: "touchStart", touchPoints: [a] });
  for (const point of [b, c]) {
    await client.send("Input.dispatchTouchEvent", { type: "touchMove", touchPoints: [point] });
  }
  await client.send("Input.dispatchTouchEvent", { type: "touchEnd", touchPoints: [] });
  await until(async () => (await regions()).length === 1, "drawing by touch");
  near((await regions())[0].box, [0.1, 0.1, 0.4, 0.4], 0.02);
  const [d, e] = [await at(page, 0.6, 0.6), await at(page, 0.9, 0.8)];
  const pen = /** @type {const} */ ({ button: "left", pointerType: "pen", force: 0.5 });
  await client.send("Input.dispatchMouseEvent", { ...pen, ...d, type: "mousePressed", buttons: 1, clickCount: 1 });
  await client.send("Input.dispatchMouseEvent", { ...pen, ...e, type: "mouseMoved", buttons: 1 });
  await client.send("Input.dispatchMouseEvent", { ...pen, ...e, type: "mouseReleased", clickCount: 1 });
  await until(async () => (await regions()).length === 2, "drawing by pen");
  near((await regions())[1].box, [0.6, 0.6, 0.9, 0.8], 0.02);
});

test("a saved workflow brings everything back, byte for byte", async () => {
  await addEditor(page, { prompt: PROMPT, layout: TWO });
  await click(0.2, 0.2);
  await page.keyboard.press("b");
  await drag(page, [0.2, 0.2], [0.3, 0.35]);
  await page.keyboard.press("v");
  await until(async () => (await regions())[0].mask?.data.length < 2000, "packing");
  const again = await page.evaluate(async () => {
    const { app } = /** @type {any} */ (window);
    const saved = JSON.parse(JSON.stringify(app.graph.serialize()));
    const text = app.graph.nodes[0].widgets[1].value;
    await app.loadGraphData(saved);
    const [node] = app.graph.nodes;
    /** @type {any} */ (window).editorNode = node;
    /** @type {any} */ (window).editor = node.widgets[1].editor;
    return { before: text, values: saved.nodes[0].widgets_values };
  });
  assert.equal(again.values[1], again.before);
  await until(() => page.evaluate(() =>
    /** @type {any} */ (window).editor.state.regions.length === 2), "loading");
  assert.deepEqual(await page.evaluate(() => /** @type {any} */ (window).editorNode.widgets[1].value),
    again.before);
  await page.waitForTimeout(500);
  await page.waitForSelector(".rc-editor canvas", { state: "visible" });
  await drag(page, [0.7, 0.7], [0.65, 0.7]);
  const loaded = await regions();
  near(loaded[1].box, [0.45, 0.5, 0.85, 0.9]);
  assert.ok(loaded[0].mask);
});

test("a text that cannot be edited is shown with the reason and kept", async () => {
  const newer = { schema: 99, regions: [], future: true };
  await addEditor(page);
  await page.evaluate((text) => {
    /** @type {any} */ (window).editorNode.widgets[1].value = text;
  }, JSON.stringify(newer));
  await page.waitForSelector(".rc-broken:not([hidden])");
  assert.match((await page.locator(".rc-broken").textContent()) ?? "", /newer RealCompo/u);
  assert.deepEqual(await drawing(page), newer);
  await page.locator(".rc-broken button").click();
  assert.deepEqual((await drawing(page)).regions, []);
});

test("a dropped picture lies below the drawing and is remembered", async () => {
  await addEditor(page, { layout: TWO });
  const data = await page.evaluateHandle(async () => {
    const canvas = new OffscreenCanvas(64, 64);
    const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.fillStyle = "#ff00ff";
    context.fillRect(0, 0, 64, 64);
    const transfer = new DataTransfer();
    transfer.items.add(new File([await canvas.convertToBlob()], "magenta.png", { type: "image/png" }));
    return transfer;
  });
  await page.dispatchEvent(".rc-stage canvas", "drop", { dataTransfer: data });
  const magenta = async () => {
    const [r, g, b] = await pixel([0.97, 0.03, 0, 0]);
    return r > 240 && g < 20 && b > 240;
  };
  await until(magenta, "the picture");
  const { backdrop } = (await drawing(page)).editor;
  assert.equal(backdrop.subfolder, "realcompo");
  const answer = await page.request.get(`${SERVER}/view?${new URLSearchParams(backdrop)}`);
  assert.equal(answer.status(), 200);
  await page.locator('.rc-editor button[aria-label^="Remove the picture"]').click();
  await until(async () => !(await magenta()), "the removal");
  assert.equal((await drawing(page)).editor.backdrop, undefined);
});

test("a run brings the wired picture, size and layout into the editor", async () => {
  await addEditor(page, { prompt: PROMPT, layout: TWO });
  await page.evaluate(() => {
    const { app, LiteGraph } = /** @type {any} */ (window);
    const make = (/** @type {string} */ type, /** @type {Record<string, unknown>} */ values) => {
      const node = LiteGraph.createNode(type);
      app.graph.add(node);
      node.pos = [-2000, 0];
      for (const widget of node.widgets ?? []) {
        if (widget.name in values) widget.value = values[widget.name];
      }
      return node;
    };
    const editor = /** @type {any} */ (window).editorNode;
    const slot = (/** @type {any} */ node, /** @type {string} */ name) =>
      node.inputs.findIndex((/** @type {any} */ input) => input.name === name);
    const image = make("EmptyImage", { width: 96, height: 48, color: 0x00ff00 });
    const boxes = make("RealCompoLayoutFromBoxes", { phrases: "a green square: 0.1 0.6 0.5 0.9" });
    image.connect(0, editor, slot(editor, "image"));
    boxes.connect(0, editor, slot(editor, "layout"));
    const preview = make("RealCompoLayoutPreview", {});
    editor.connect(0, preview, slot(preview, "layout"));
    const show = make("PreviewImage", {});
    preview.connect(0, show, slot(show, "images"));
  });
  const run = () => page.evaluate(() => new Promise((resolve) => {
    const { app } = /** @type {any} */ (window);
    const ended = (/** @type {any} */ event) => resolve(event.type);
    for (const name of ["execution_success", "execution_error"]) {
      app.api.addEventListener(name, ended, { once: true });
    }
    void app.queuePrompt(0, 1);
  }));
  assert.equal(await run(), "execution_success");
  await until(async () => (await phrases()).join() === "a green square", "the wired layout");
  await until(async () => (await pixel([0.9, 0.1, 0, 0]))[1] > 240, "the wired picture");
  await drag(page, [0.3, 0.75], [0.5, 0.75]);
  near((await regions())[0].box, [0.3, 0.6, 0.7, 0.9], 0.02);
  assert.equal(await run(), "execution_success");
  await page.waitForTimeout(500);
  near((await regions())[0].box, [0.3, 0.6, 0.7, 0.9], 0.02);
  await page.keyboard.press("Control+z");
  await page.keyboard.press("Control+z");
  assert.deepEqual(await phrases(), TWO.regions.map((region) => region.phrase));
});

test("everything is reached by Tab, has a name, and shows the focus", async () => {
  await addEditor(page, { prompt: PROMPT, layout: TWO });
  await matched();
  await page.locator(".rc-editor .rc-bar button").first().focus();
  // The page shows the focus to those who move it by keys.
  await page.keyboard.press("Tab");
  await page.keyboard.press("Shift+Tab");
  const names = [];
  for (let n = 0; n < 40; n += 1) {
    const name = await page.evaluate(() => {
      const active = /** @type {HTMLElement} */ (document.activeElement);
      if (!active.closest(".rc-editor")) return null;
      const shown = active.classList.contains("rc-keys") ? active.parentElement : active;
      const outline = getComputedStyle(/** @type {Element} */ (shown)).outlineStyle;
      const label = active.getAttribute("aria-label") ?? active.textContent?.trim() ?? "";
      return { label, outline };
    });
    if (!name) break;
    names.push(name);
    await page.keyboard.press("Tab");
  }
  assert.ok(names.length > 15, `${names.length} stops`);
  assert.ok(names.some((entry) => entry.label === "Drawing"));
  assert.deepEqual(names.filter((entry) => !entry.label || entry.outline === "none"), []);
});

test("light and dark themes are followed", async () => {
  await addEditor(page);
  const ground = async () => (await pixel([0.3, 0.3, 0, 0]))[0];
  const theme = (/** @type {string} */ name) => page.evaluate(async (id) => {
    await /** @type {any} */ (window).app.extensionManager.setting.set("Comfy.ColorPalette", id);
    /** @type {any} */ (window).editor.stage.refresh();
  }, name);
  await theme("dark");
  await until(async () => (await ground()) < 80, "dark");
  await theme("light");
  await until(async () => (await ground()) > 180, "light");
  await theme("dark");
});

/**
 * Drag one of ``count`` regions for 90 frames. Moves come from the page itself: the test's own way
 * to the browser is no part of the drag.
 * @param {number} count
 * @returns {Promise<{idle: number[], frames: number[], work: number[]}>} milliseconds
 */
async function dragAmong(count) {
  const regions = Array.from({ length: count }, (_, n) => {
    const [x, y] = [(n % 10) / 10, Math.floor(n / 10) / 10];
    return { phrase: `a red star ${n}`, box: [x, y, Math.min(1, x + 0.12), Math.min(1, y + 0.12)] };
  });
  await addEditor(page, { prompt: PROMPT, layout: { schema: 1, regions } });
  await page.waitForTimeout(1500);
  const last = regions[count - 1].box;
  const from = await at(page, last[0] + 0.05, last[1] + 0.05);
  await page.mouse.move(from.x, from.y);
  await page.mouse.down();
  const measured = await page.evaluate(async ([x, y]) => {
    const canvas = /** @type {HTMLCanvasElement} */ (document.querySelector(".rc-stage canvas"));
    const { stage } = /** @type {any} */ (window).editor;
    const frame = () => new Promise(requestAnimationFrame);
    /** @param {number} frames @param {(n: number) => void} act */
    const watch = async (frames, act) => {
      /** @type {number[]} */
      const gaps = [];
      let before = await frame();
      for (let n = 0; n < frames; n += 1) {
        act(n);
        const now = await frame();
        gaps.push(now - before);
        before = now;
      }
      return gaps;
    };
    const idle = await watch(40, () => {});
    let spent = 0;
    /** @type {number[]} */
    const work = [];
    const paint = stage.paint.bind(stage);
    stage.paint = () => {
      const start = performance.now();
      paint();
      work.push(spent + performance.now() - start);
    };
    const frames = await watch(90, (n) => {
      const start = performance.now();
      canvas.dispatchEvent(new PointerEvent("pointermove", {
        pointerId: stage.gesture.pointer, pointerType: "mouse", buttons: 1, bubbles: true,
        clientX: x - 40 + 40 * Math.sin(n / 9), clientY: y - 40 + 40 * Math.cos(n / 7),
      }));
      spent = performance.now() - start;
    });
    delete stage.paint;
    return { idle, frames, work };
  }, /** @type {const} */ ([from.x, from.y]));
  await page.mouse.up();
  return measured;
}

test("dragging among 100 regions is smooth", async (t) => {
  const median = (/** @type {number[]} */ list) => [...list].sort((a, b) => a - b)[list.length >> 1];
  const one = await dragAmong(1);
  const many = await dragAmong(100);
  t.diagnostic(`median frame: at rest ${median(many.idle).toFixed(1)} ms, dragging the only region `
    + `${median(one.frames).toFixed(1)} ms, one of 100 ${median(many.frames).toFixed(1)} ms; the `
    + `editor's own work ${median(one.work).toFixed(1)} and ${median(many.work).toFixed(1)} ms a frame`);
  assert.ok(many.work.length > 60, "every move was drawn");
  // 30 frames a second leave 33 ms. The editor's own work is held to it on any machine; the whole
  // frame, which a busy machine and drawing without a graphics card stretch, is reported.
  assert.ok(median(many.work) < 33, `a move takes ${median(many.work)} ms`);
});

test("our files threw nothing", () => {
  assert.deepEqual(opened.errors, []);
});
