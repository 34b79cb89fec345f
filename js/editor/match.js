// @ts-check
/**
 * Asks the server which phrases stand in the prompt. The server uses the sampler's own matcher, so
 * that the page never guesses. One question at a time, the last one wins.
 */

/** @typedef {import("./layout_text.js").Region} Region */
/** @typedef {{text: string, start: number, end: number}} Word */
/** @typedef {{words: number[], found: boolean, held: number, suggestion: string | null}} Found */
/**
 * @typedef {object} Answer
 * @property {string} prompt that was asked about
 * @property {Word[]} words
 * @property {string[]} things wordings that may name a region
 * @property {string[]} free those of them that no region spoke of
 * @property {Map<string, string>} phrases that were asked about, by region
 * @property {Map<string, Found>} regions by id
 */
/** @typedef {(path: string, options: RequestInit) => Promise<Response>} Fetch */

const WAIT_MS = 200;

/**
 * The server counts characters, this language halves of those beyond U+FFFF: emoji, rare letters.
 * @param {string} prompt @param {Word[]} words @returns {Word[]}
 */
export function placed(prompt, words) {
  const at = [0];
  for (const character of prompt) at.push((at.at(-1) ?? 0) + character.length);
  return words.map((word) => ({
    ...word, start: at[word.start] ?? -1, end: at[word.end] ?? -1,
  }));
}

export class Matcher {
  /** @param {Fetch} ask @param {() => void} told called when there is news */
  constructor(ask, told) {
    this.ask = ask;
    this.told = told;
    /** @type {Answer | null} */
    this.answer = null;
    /** @type {string | null} why there is no answer */
    this.problem = null;
    this.key = "";
    this.turn = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
  }

  /** @param {string | null} prompt null: nobody knows it yet @param {readonly Region[]} regions */
  look(prompt, regions) {
    const question = regions.map(({ phrase, occurrence, tokens }) => ({
      phrase, occurrence, tokens, box: [0, 0, 1, 1],
    }));
    const ids = regions.map((region) => region.id);
    const phrases = new Map(regions.map((region) => [region.id, region.phrase]));
    const key = JSON.stringify([prompt, question, ids]);
    if (key === this.key) return;
    this.key = key;
    clearTimeout(this.timer);
    this.turn += 1;
    const turn = this.turn;
    if (prompt === null) {
      this.answer = null;
      this.problem = null;
      this.told();
      return;
    }
    this.timer = setTimeout(() => {
      void this.put(turn, prompt, phrases, JSON.stringify({ prompt, regions: question }));
    }, WAIT_MS);
  }

  /**
   * @param {number} turn @param {string} prompt @param {Map<string, string>} phrases by region
   * @param {string} body
   */
  async put(turn, prompt, phrases, body) {
    /** @type {Answer | null} */
    let answer = null;
    /** @type {string | null} */
    let problem = null;
    try {
      const reply = await this.ask("/realcompo/match", {
        method: "POST", headers: { "Content-Type": "application/json" }, body,
      });
      const value = await reply.json().catch(() => ({}));
      if (!reply.ok) throw new Error(value.error ?? `${reply.status} ${reply.statusText}`);
      const ids = [...phrases.keys()];
      const regions = new Map(ids.map((id, index) => [id, value.regions[index]]));
      const words = placed(prompt, value.words);
      answer = { prompt, words, things: value.things, free: value.free, phrases, regions };
    } catch (error) {
      problem = error instanceof Error ? error.message : String(error);
      // What fails once (a restart) may work at the next change.
      this.key = "";
    }
    if (turn !== this.turn) return;
    this.answer = answer;
    this.problem = problem;
    this.told();
  }

  /** Regions that the sampler would refuse. @returns {Set<string>} */
  lacking() {
    const regions = [...(this.answer?.regions ?? [])];
    return new Set(regions.filter(([, found]) => !found.found).map(([id]) => id));
  }

  /**
   * The next thing in the prompt that no region speaks of, by the server's matching. What was named
   * since its last answer was taken from here, word for word.
   * @param {readonly Region[]} regions
   */
  proposal(regions) {
    const free = this.answer?.free ?? [];
    const asked = this.answer?.phrases;
    const since = regions
      .filter((region) => asked?.get(region.id) !== region.phrase)
      .map((region) => region.phrase);
    return free.find((thing) => {
      const same = since.indexOf(thing);
      if (same >= 0) since.splice(same, 1);
      return same < 0;
    }) ?? "";
  }

  stop() {
    this.turn += 1;
    clearTimeout(this.timer);
  }
}
