// Text that grows, in elements that are touched as little as possible.

import { build } from "./dom.js";
import { MarkdownStream } from "./markdown.js";

// Plain text: what is new is appended to one text node.
export class PlainView {
  #node = document.createTextNode("");

  constructor(container) {
    container.append(this.#node);
  }

  update(text) {
    extend(this.#node, text);
  }
}

function extend(node, text) {
  const { data } = node;
  if (text === data) return;
  if (text.startsWith(data)) node.appendData(text.slice(data.length));
  else node.data = text;
}

// Markdown: settled blocks stay as they are, the last ones are made anew, and a code block that only grew is extended.
export class MarkdownView {
  #container;
  #stream = new MarkdownStream();
  #open = [];
  #trees = [];

  constructor(container) {
    this.#container = container;
  }

  update(text) {
    const { settled, open } = this.#stream.update(text);
    if (settled.length === 0 && this.#extendCode(open)) return;
    for (const node of this.#open) node.remove();
    this.#container.append(...settled.map(build));
    this.#open = open.map(build);
    this.#trees = open;
    this.#container.append(...this.#open);
  }

  #extendCode(open) {
    const [tree] = open;
    const [known] = this.#trees;
    const isSame = open.length === 1 && this.#trees.length === 1 && tree.tag === "codeblock" && known.tag === "codeblock";
    if (!isSame || tree.language !== known.language) return false;
    const code = this.#open[0].querySelector("pre code");
    if (code.firstChild === null) code.append("");
    extend(code.firstChild, tree.code);
    this.#trees = open;
    return true;
  }
}

// Draws at most once per frame, and if drawing is slow no more often than every eighth part of the time: a page that shows a
// long answer stays usable.
export class Painter {
  static #REST = 7;
  #draw;
  #isRequested = false;
  #restUntil = 0;

  constructor(draw) {
    this.#draw = draw;
  }

  request() {
    if (this.#isRequested) return;
    this.#isRequested = true;
    const paint = () => requestAnimationFrame(() => this.#isRequested && this.flush());
    const rest = this.#restUntil - performance.now();
    if (rest > 0) setTimeout(paint, rest);
    else paint();
  }

  // Draws now.
  flush() {
    this.#isRequested = false;
    const began = performance.now();
    this.#draw();
    const ended = performance.now();
    this.#restUntil = ended + (ended - began) * Painter.#REST;
  }
}
