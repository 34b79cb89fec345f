// @ts-check
/** One row for each region: colour, phrase, weight, and what is wrong with it. */

import { make } from "./dom.js";
import * as edit from "./operations.js";
import { say } from "./words.js";

/** @typedef {import("./layout_text.js").Region} Region */
/** @typedef {import("./match.js").Answer} Answer */
/** @typedef {import("./state.js").EditorState} EditorState */
/** @typedef {import("./words.js").Words} Words */
/**
 * @typedef {object} Row
 * @property {HTMLLIElement} item
 * @property {HTMLSpanElement} number as the drawing and the messages count
 * @property {HTMLInputElement} colour
 * @property {HTMLInputElement} phrase
 * @property {HTMLInputElement} weight
 * @property {HTMLInputElement} mention
 * @property {HTMLButtonElement} mask
 * @property {HTMLSpanElement} trouble
 */

export class RegionList {
  /** @param {EditorState} state @param {Words} words @param {string} things id of the proposals */
  constructor(state, words, things) {
    this.state = state;
    this.words = words;
    this.things = things;
    /** @type {Map<string, Row>} */
    this.rows = new Map();
    this.element = make("ul", {
      "aria-label": words.regions, "data-capture-wheel": "true",
      // A list that scrolls keeps the wheel; the graph gets it where there is nothing to scroll.
      onwheel: (/** @type {WheelEvent} */ event) => {
        if (this.element.scrollHeight > this.element.clientHeight) event.stopPropagation();
      },
      // Typing here is no command to the graph.
      onkeydown: (/** @type {KeyboardEvent} */ event) => event.stopPropagation(),
    });
  }

  /** @param {string} id @returns {Row} */
  row(id) {
    const { state } = this;
    const only = new Set([id]);
    const colour = make("input", {
      type: "color",
      oninput: () => state.apply(
        edit.coloured(state.regions, only, colour.value), null, `colour ${id}`,
      ),
    });
    const phrase = make("input", {
      type: "text", class: "rc-phrase", list: this.things, autocomplete: "off",
      onchange: () => {
        state.apply(edit.renamed(state.regions, id, phrase.value));
        const kept = state.regions.find((region) => region.id === id);
        if (kept) phrase.value = kept.phrase;
      },
      onfocus: () => state.select([id]),
    });
    const weight = make("input", {
      type: "number", min: 0.1, max: 10, step: 0.1,
      onchange: () => {
        state.apply(edit.weighted(state.regions, only, Number(weight.value)), null, `weight ${id}`);
        const kept = state.regions.find((region) => region.id === id);
        if (kept) weight.value = String(kept.weight);
      },
      onfocus: () => state.select([id]),
    });
    const mention = make("input", {
      type: "number", class: "rc-count", min: 1, step: 1, title: this.words.occurrence.replace(" {n}", ""),
      onchange: () => state.apply(edit.meaning(state.regions, id, Number(mention.value) - 1)),
    });
    const mask = make("button", {
      type: "button", onclick: () => state.apply(edit.unmasked(state.regions, only)),
    }, `${this.words.mask} \u2715`);
    const trouble = make("span", { class: "rc-trouble" });
    const number = make("span", { class: "rc-number" });
    const item = make("li", {
      onpointerdown: (/** @type {PointerEvent} */ event) => {
        if (event.target === item || event.target === number) state.select([id]);
      },
    }, number, colour, phrase, weight, mention, mask, trouble);
    return { item, number, colour, phrase, weight, mention, mask, trouble };
  }

  /** @param {Answer | null} answer null: nobody knows */
  show(answer) {
    const { regions, selection } = this.state;
    const known = new Set(regions.map((region) => region.id));
    for (const [id, row] of this.rows) {
      if (known.has(id)) continue;
      row.item.remove();
      this.rows.delete(id);
    }
    regions.forEach((region, index) => {
      const row = this.rows.get(region.id) ?? this.row(region.id);
      this.rows.set(region.id, row);
      // Moving a row takes the focus from its fields, so it is done only where the order changed.
      if (this.element.children[index] !== row.item) {
        this.element.insertBefore(row.item, this.element.children[index] ?? null);
      }
      this.fill(row, region, index + 1, answer);
      row.item.setAttribute("aria-current", String(selection.has(region.id)));
    });
  }

  /** @param {Row} row @param {Region} region @param {number} n @param {Answer | null} answer */
  fill(row, region, n, answer) {
    const { words } = this;
    row.number.textContent = String(n);
    row.colour.value = region.colour;
    row.colour.setAttribute("aria-label", say(words.colour, { n }));
    // What is being typed is not overwritten by what is known.
    if (document.activeElement !== row.phrase) row.phrase.value = region.phrase;
    row.phrase.setAttribute("aria-label", say(words.phrase, { n }));
    if (document.activeElement !== row.weight) row.weight.value = String(region.weight);
    row.weight.setAttribute("aria-label", say(words.weight, { n }));
    const found = answer?.regions.get(region.id);
    row.mention.hidden = !region.occurrence && !(found && found.held > 1);
    row.mention.setAttribute("aria-label", say(words.occurrence, { n }));
    if (document.activeElement !== row.mention) row.mention.value = String(region.occurrence + 1);
    row.mask.hidden = !region.mask;
    row.mask.setAttribute("aria-label", say(words.toBox, { n }));
    const lacking = found !== undefined && !found.found;
    row.phrase.setAttribute("aria-invalid", String(lacking));
    row.trouble.hidden = !lacking;
    row.trouble.replaceChildren();
    if (!lacking || !found) return;
    row.trouble.append(
      found.held ? say(words.notSoOften, { held: found.held }) : words.notInPrompt,
    );
    const { suggestion } = found;
    if (!suggestion) return;
    row.trouble.append(" ", make("button", {
      type: "button",
      onclick: () => this.state.apply(edit.renamed(this.state.regions, region.id, suggestion)),
    }, say(words.use, { words: suggestion })));
  }

  /** Bring the chosen region's row into view. */
  reveal() {
    const single = this.state.single();
    const item = single && this.rows.get(single.id)?.item;
    if (!item || item.contains(document.activeElement)) return;
    const { element } = this;
    // scrollIntoView would scroll the page around the graph, too.
    const top = item.offsetTop - element.offsetTop;
    if (top < element.scrollTop) element.scrollTop = top;
    const over = top + item.offsetHeight - element.clientHeight;
    if (over > element.scrollTop) element.scrollTop = over;
  }
}
