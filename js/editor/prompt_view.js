// @ts-check
/** The prompt with the words that regions stand for in the regions' colours, and a summary. */

import { make } from "./dom.js";
import { say } from "./words.js";

/** @typedef {import("./match.js").Matcher} Matcher */
/** @typedef {import("./state.js").EditorState} EditorState */
/** @typedef {import("./words.js").Words} Words */

export class PromptView {
  /** @param {EditorState} state @param {Words} words @param {string} things id of the proposals */
  constructor(state, words, things) {
    this.state = state;
    this.words = words;
    this.text = make("div", { class: "rc-words", "data-capture-wheel": "true" });
    this.note = make("div", { class: "rc-note", role: "status" });
    this.things = make("datalist", { id: things });
  }

  /** @param {Matcher} matcher @param {string | null} prompt */
  show(matcher, prompt) {
    const { answer } = matcher;
    const { regions } = this.state;
    this.text.hidden = !answer || !answer.prompt.trim();
    if (answer) this.showWords(answer);
    const things = answer?.things ?? [];
    this.things.replaceChildren(...things.map((value) => make("option", { value })));
    const lacking = matcher.lacking().size;
    let note = "";
    if (prompt === null) note = this.words.unknownPrompt;
    else if (matcher.problem) note = say(this.words.unchecked, { why: matcher.problem });
    else if (!prompt.trim()) note = this.words.noPrompt;
    else if (answer && regions.length) {
      const sentence = lacking ? this.words.lacking : this.words.found;
      note = say(sentence, { lacking, count: regions.length });
    }
    if (this.note.textContent !== note) this.note.textContent = note;
    this.note.classList.toggle("rc-alarm", lacking > 0);
  }

  /** @param {import("./match.js").Answer} answer */
  showWords(answer) {
    /** @type {Map<number, import("./layout_text.js").Region>} word -> the first region that means it */
    const owner = new Map();
    for (const region of this.state.regions) {
      for (const word of answer.regions.get(region.id)?.words ?? []) {
        if (!owner.has(word)) owner.set(word, region);
      }
    }
    /** @type {(Node | string)[]} */
    const parts = [];
    let cursor = 0;
    answer.words.forEach((word, index) => {
      const region = owner.get(index);
      if (!region || word.start < cursor) return;
      parts.push(answer.prompt.slice(cursor, word.start));
      const mark = make("mark", {
        title: region.phrase, tabindex: 0, role: "button",
        onclick: () => this.state.select([region.id]),
        onkeydown: (/** @type {KeyboardEvent} */ event) => {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          event.stopPropagation();
          this.state.select([region.id]);
        },
      }, answer.prompt.slice(word.start, word.end));
      mark.style.borderBottomColor = region.colour;
      mark.style.backgroundColor = `${region.colour}44`;
      parts.push(mark);
      cursor = word.end;
    });
    parts.push(answer.prompt.slice(cursor));
    this.text.replaceChildren(...parts);
  }
}
