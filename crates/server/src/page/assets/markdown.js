// Markdown as models write it, turned into a plain tree; `dom.js` makes elements of it.
//
// A node is a string or `{ tag, children, ... }`. There is no way from text to markup here: HTML in an answer is text. What a
// model may choose is a tag of the few below, the address of a link after a check of its scheme, the language of a code block,
// the start of a list and the alignment of a column.
//
// It reads what CommonMark calls headings, lists, quotes, rules, fenced code, links, emphasis and code spans, and tables, task
// lists, strikethrough and bare links from GitHub's dialect. Otherwise than CommonMark: a line of dashes under text is a rule,
// indented text is no code, quotes end with their marks, images are links, and formulas (`\(…\)`, `\[…\]`, `$$…$$`) stay as they
// are written, because nothing here could set them.
//
// All work is linear in the text but for bounded factors, and no tree is deeper than the bounds below: answers can be hostile.

const MAX_BLOCK_DEPTH = 8;
const MAX_INLINE_DEPTH = 12;
const MAX_ADDRESS_LENGTH = 2048;
const MAX_TITLE_LENGTH = 512;
const MAX_COLUMNS = 64;

const SAFE_SCHEMES = new Set(["http:", "https:", "mailto:"]);

// The address as a link may have it, or null.
export function safeAddress(text) {
  if (text.length > MAX_ADDRESS_LENGTH) return null;
  let address;
  try {
    address = new URL(text);
  } catch {
    // Relative addresses too: a model knows no pages of this server.
    return null;
  }
  return SAFE_SCHEMES.has(address.protocol) ? address.href : null;
}

// ---------------------------------------------------------------------------------------------------------------- blocks

const FENCE = /^( {0,3})(`{3,}|~{3,})(.*)$/s;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t](.*))?$/s;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:([ \t]+)(.*))?$/s;
const DELIMITER_CELL = /^:?-+:?$/;
const TASK = /^\[([ xX])\][ \t]+/;

const isBlank = (line) => line.trim() === "";

function openFence(line) {
  const match = FENCE.exec(line);
  if (!match) return null;
  const [, indent, marks, info] = match;
  // Backticks after backticks are a code span.
  if (marks[0] === "`" && info.includes("`")) return null;
  return { indent: indent.length, mark: marks[0], length: marks.length, language: info.trim().split(/\s/)[0].slice(0, 40) };
}

function closesFence(line, fence) {
  const trimmed = line.trim();
  return trimmed.length >= fence.length && trimmed === fence.mark.repeat(trimmed.length) && /^ {0,3}\S/.test(line);
}

function openItem(line) {
  const match = ITEM.exec(line);
  if (!match || RULE.test(line)) return null;
  const [, indent, marker, space = "", rest = ""] = match;
  const isOrdered = marker.length > 1;
  // More than four spaces after the marker belong to the content.
  const padding = rest === "" || space.length > 4 ? 1 : space.length;
  return {
    kind: isOrdered ? marker.at(-1) : marker,
    isOrdered,
    start: isOrdered ? Number.parseInt(marker, 10) : 1,
    width: indent.length + marker.length + padding,
    first: space.slice(padding) + rest,
  };
}

// Whether this line ends a paragraph that comes before it.
function interrupts(line) {
  if (openFence(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line)) return true;
  const item = openItem(line);
  return item !== null && item.first !== "" && (!item.isOrdered || item.start === 1);
}

const indentOf = (line) => line.length - line.trimStart().length;

// Reads blocks from lines; each has its tree and the number of its first line.
function readBlocks(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at++;
      continue;
    }
    const { node, next } = readBlock(lines, at, depth);
    blocks.push({ node, line: at });
    at = next;
  }
  return blocks;
}

function readBlock(lines, at, depth) {
  const line = lines[at];
  const fence = openFence(line);
  if (fence) return readFence(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) {
    const children = readInline(withoutClosingMarks((heading[2] ?? "").trim()));
    return { node: { tag: `h${heading[1].length}`, children }, next: at + 1 };
  }
  if (RULE.test(line)) return { node: { tag: "hr", children: [] }, next: at + 1 };
  if (depth < MAX_BLOCK_DEPTH) {
    if (QUOTE.test(line)) return readQuote(lines, at, depth);
    const item = openItem(line);
    if (item) return readList(lines, at, item, depth);
  }
  const table = readTable(lines, at);
  if (table) return table;
  return readParagraph(lines, at);
}

// The text of `# text #`.
function withoutClosingMarks(text) {
  let end = text.length;
  while (text[end - 1] === "#") end--;
  return end === 0 || /\s/.test(text[end - 1]) ? text.slice(0, end).trimEnd() : text;
}

function readFence(lines, at, fence) {
  const code = [];
  let next = at + 1;
  let isClosed = false;
  while (next < lines.length && !isClosed) {
    if (closesFence(lines[next], fence)) {
      isClosed = true;
    } else {
      // Code is indented as much as its fence.
      code.push(lines[next].slice(Math.min(fence.indent, indentOf(lines[next]))));
    }
    next++;
  }
  return { node: { tag: "codeblock", language: fence.language, code: code.join("\n"), children: [] }, next };
}

function readQuote(lines, at, depth) {
  const inner = [];
  let next = at;
  while (next < lines.length && QUOTE.test(lines[next])) inner.push(lines[next++].replace(QUOTE, ""));
  return { node: { tag: "blockquote", children: readBlocks(inner, depth + 1).map((block) => block.node) }, next };
}

function readList(lines, at, first, depth) {
  const items = [];
  let isLoose = false;
  let next = at;
  let item = first;
  while (item && item.kind === first.kind) {
    const inner = [item.first];
    next++;
    let blanks = 0;
    // Text in an open fence is the item's even if it is indented less, as models do it.
    let fence = openFence(item.first);
    for (; next < lines.length; next++) {
      const line = lines[next];
      if (isBlank(line)) {
        blanks++;
        continue;
      }
      const isIndented = indentOf(line) >= item.width;
      const isLazy = blanks === 0 && !interrupts(line) && openItem(line) === null;
      if (!isIndented && !isLazy && !(fence && blanks === 0 && closesFence(line, fence))) break;
      for (; blanks > 0; blanks--) inner.push("");
      const content = line.slice(Math.min(item.width, indentOf(line)));
      inner.push(content);
      fence = fence ? (closesFence(content, fence) ? null : fence) : openFence(content);
    }
    const blocks = readBlocks(inner, depth + 1);
    items.push(blocks.map((block) => block.node));
    // Blank lines between blocks of an item or between items make paragraphs of the texts.
    isLoose ||= blocks.some((block, index) => index > 0 && inner[block.line - 1] === "" && block.node.tag === "p");
    const following = next < lines.length && !RULE.test(lines[next]) ? openItem(lines[next]) : null;
    isLoose ||= blanks > 0 && following?.kind === first.kind;
    item = following;
  }
  const children = items.map((blocks) => listItem(blocks, isLoose));
  return { node: { tag: first.isOrdered ? "ol" : "ul", start: first.start, children }, next };
}

function listItem(blocks, isLoose) {
  const item = { tag: "li", children: [] };
  const [first] = blocks;
  if (first?.tag === "p" && typeof first.children[0] === "string") {
    const task = TASK.exec(first.children[0]);
    if (task) {
      item.checked = task[1] !== " ";
      first.children[0] = first.children[0].slice(task[0].length);
    }
  }
  for (const block of blocks) {
    if (block.tag === "p" && !isLoose) item.children.push(...block.children);
    else item.children.push(block);
  }
  return item;
}

function splitRow(line) {
  const cells = [];
  let cell = "";
  const text = line.trim().replace(/^\|/, "");
  for (let at = 0; at < text.length; at++) {
    if (text[at] === "\\" && text[at + 1] === "|") {
      cell += "|";
      at++;
    } else if (text[at] === "|") {
      cells.push(cell);
      cell = "";
    } else {
      cell += text[at];
    }
  }
  if (cell.trim() !== "") cells.push(cell);
  return cells.map((text) => text.trim());
}

function isTableAt(lines, at) {
  if (at + 1 >= lines.length || !lines[at].includes("|") || !lines[at + 1].includes("-")) return false;
  if (/[^-:| \t]/.test(lines[at + 1])) return false;
  const delimiters = splitRow(lines[at + 1]);
  const numColumns = splitRow(lines[at]).length;
  return numColumns <= MAX_COLUMNS && numColumns === delimiters.length && delimiters.every((cell) => DELIMITER_CELL.test(cell));
}

function readTable(lines, at) {
  if (!isTableAt(lines, at)) return null;
  const align = splitRow(lines[at + 1]).map((cell) => {
    if (cell.endsWith(":")) return cell.startsWith(":") ? "center" : "right";
    return "left";
  });
  const row = (line, tag) => {
    // Short rows stay short: filling them up would let two characters make a row of cells.
    const cells = splitRow(line).slice(0, align.length);
    return { tag: "tr", children: cells.map((cell, index) => ({ tag, align: align[index], children: readInline(cell) })) };
  };
  const body = [];
  let next = at + 2;
  while (next < lines.length && !isBlank(lines[next]) && !interrupts(lines[next])) body.push(row(lines[next++], "td"));
  const parts = [{ tag: "thead", children: [row(lines[at], "th")] }];
  if (body.length > 0) parts.push({ tag: "tbody", children: body });
  return { node: { tag: "table", children: parts }, next };
}

function readParagraph(lines, at) {
  const text = [lines[at].trimStart()];
  let next = at + 1;
  // A formula between `\[` and `\]` may have any lines but blank ones.
  while (next < lines.length && !isBlank(lines[next]) && !interrupts(lines[next]) && !isTableAt(lines, next)) {
    text.push(lines[next++].trimStart());
  }
  return { node: { tag: "p", children: readInline(text.join("\n").trimEnd()) }, next };
}

// ---------------------------------------------------------------------------------------------------------------- inline

const PUNCTUATION = /[!-/:-@[-`{-~\p{P}\p{S}]/u;
const SPACELESS = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]/u;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const BARE_ADDRESS = /^https?:\/\/[^\s<>"'`]+/;
const LINE_BREAK_TAG = /^<br ?\/?>/i;

// Positions of a mark in a text, found once and asked for in rising order: so a text full of unclosed marks is still read in
// linear time.
class Positions {
  #text;
  #mark;
  #next = -1;

  constructor(text, mark) {
    this.#text = text;
    this.#mark = mark;
  }

  // The first position at or after `from`, infinite if there is none.
  from(from) {
    if (this.#next < from) {
      const found = this.#text.indexOf(this.#mark, from);
      this.#next = found < 0 ? Infinity : found;
    }
    return this.#next;
  }
}

// For each length of a run of backticks the positions of such runs, in order.
function backtickRuns(text) {
  const runs = new Map();
  for (const match of text.matchAll(/`+/g)) {
    const length = match[0].length;
    if (!runs.has(length)) runs.set(length, { positions: [], next: 0 });
    runs.get(length).positions.push(match.index);
  }
  return runs;
}

// Reads the text of a paragraph, heading or cell.
export function readInline(text) {
  return nest(tokenize(text));
}

// A flat list of items: texts, finished nodes, and runs of emphasis marks, which get their tags from `matchEmphasis`. Links are
// pairs of items, so that emphasis can be matched inside them first.
function tokenize(text) {
  const items = [];
  const brackets = [];
  // Links do not contain links: brackets under this index are text for good.
  let firstActive = 0;
  const runs = backtickRuns(text);
  const formulas = { "(": new Positions(text, "\\)"), "[": new Positions(text, "\\]"), $: new Positions(text, "$$") };
  let plain = "";
  const flush = () => {
    if (plain !== "") items.push({ text: plain });
    plain = "";
  };
  const push = (item) => {
    flush();
    items.push(item);
  };
  let at = 0;
  while (at < text.length) {
    const character = text[at];
    const following = text[at + 1];
    if (character === "\\") {
      if (following === "(" || following === "[") {
        const end = formulas[following].from(at + 2);
        if (end < Infinity) {
          push({ node: { tag: "math", children: [text.slice(at, end + 2)] } });
          at = end + 2;
          continue;
        }
      }
      if (following === "\n") {
        push({ node: { tag: "br", children: [] } });
        at += 2;
      } else if (following !== undefined && ESCAPABLE.test(following)) {
        plain += following;
        at += 2;
      } else {
        plain += character;
        at++;
      }
    } else if (character === "$" && following === "$") {
      const end = formulas.$.from(at + 2);
      if (end > at + 2 && end < Infinity) {
        push({ node: { tag: "math", children: [text.slice(at, end + 2)] } });
        at = end + 2;
      } else {
        plain += "$$";
        at += 2;
      }
    } else if (character === "`") {
      const length = runLength(text, at);
      const run = runs.get(length);
      while (run && run.positions[run.next] <= at) run.next++;
      // After an escaped backtick a run is shorter than any that was found.
      const end = run?.positions[run.next];
      if (end === undefined) {
        plain += text.slice(at, at + length);
        at += length;
      } else {
        let code = text.slice(at + length, end).replaceAll("\n", " ");
        // One space inside each end lets code begin with a backtick.
        if (/^ .* $/.test(code) && code.trim() !== "") code = code.slice(1, -1);
        push({ node: { tag: "code", children: [code] } });
        at = end + length;
      }
    } else if (character === "*" || character === "_" || character === "~") {
      const length = runLength(text, at);
      const run = emphasisRun(text, at, length);
      if (run) push(run);
      else plain += text.slice(at, at + length);
      at += length;
    } else if (character === "[") {
      push({ text: "[" });
      brackets.push({ index: items.length - 1, isImage: false });
      at++;
    } else if (character === "!" && following === "[") {
      push({ text: "![" });
      brackets.push({ index: items.length - 1, isImage: true });
      at += 2;
    } else if (character === "]") {
      const opener = brackets.pop();
      const target = opener && opener.index >= firstActive ? linkTarget(text, at + 1) : null;
      if (target) {
        flush();
        const inner = items.splice(opener.index + 1);
        matchEmphasis(inner);
        // What found nothing inside must not pair with marks outside: tags would cross.
        for (const item of inner) item.canOpen = item.canClose = false;
        items[opener.index] = { opens: [linkTag(target.address, opener.isImage)], text: "", closes: [] };
        for (const item of inner) items.push(item);
        items.push({ opens: [], text: "", closes: ["a"] });
        firstActive = items.length;
        at = target.end;
      } else {
        plain += character;
        at++;
      }
    } else if (character === "<") {
      const end = text.slice(at, at + MAX_ADDRESS_LENGTH).indexOf(">");
      const address = end > 0 ? autolink(text.slice(at + 1, at + end)) : null;
      const lineBreak = LINE_BREAK_TAG.exec(text.slice(at, at + 8));
      if (lineBreak) {
        push({ node: { tag: "br", children: [] } });
        at += lineBreak[0].length;
      } else if (address) {
        push({ node: { ...linkTag(address), children: [text.slice(at + 1, at + end)] } });
        at += end + 1;
      } else {
        plain += character;
        at++;
      }
    } else if (character === "h" && brackets.length === 0 && isWordStart(text, at) && text.startsWith("http", at)) {
      const found = bareAddress(text, at);
      if (found) {
        push({ node: { ...linkTag(found.address), children: [found.text] } });
        at += found.text.length;
      } else {
        plain += character;
        at++;
      }
    } else if (character === "\n") {
      const trimmed = plain.trimEnd();
      const isBreak = plain.length - trimmed.length >= 2;
      plain = trimmed;
      if (isBreak) push({ node: { tag: "br", children: [] } });
      else push({ text: "\n" });
      at++;
    } else {
      plain += character;
      at++;
    }
  }
  flush();
  matchEmphasis(items);
  return items;
}

function runLength(text, at) {
  let end = at;
  while (text[end] === text[at]) end++;
  return end - at;
}

const isWordStart = (text, at) => at === 0 || !/[\p{L}\p{N}_]/u.test(text[at - 1]);

// The run of emphasis marks at a position with what it can do, by CommonMark's rules of flanking; null if it is only text.
function emphasisRun(text, at, length) {
  const mark = text[at];
  if (mark === "~" && length !== 2) return null;
  const before = at === 0 ? " " : characterBefore(text, at);
  const after = at + length >= text.length ? " " : String.fromCodePoint(text.codePointAt(at + length));
  const isSpace = (character) => /\s/.test(character);
  const isPunctuation = (character) => PUNCTUATION.test(character);
  // Scripts without spaces between words have nothing else to tell where emphasis begins and ends, so their characters count
  // as a boundary; CommonMark would not close the emphasis in `**要点：**其余`.
  const isBoundary = (character) => isSpace(character) || isPunctuation(character) || SPACELESS.test(character);
  const isLeft = !isSpace(after) && (!isPunctuation(after) || isBoundary(before));
  const isRight = !isSpace(before) && (!isPunctuation(before) || isBoundary(after));
  const canOpen = mark === "_" ? isLeft && (!isRight || isPunctuation(before)) : isLeft;
  const canClose = mark === "_" ? isRight && (!isLeft || isPunctuation(after)) : isRight;
  if (!canOpen && !canClose) return null;
  return { mark, length, left: length, canOpen, canClose, opens: [], closes: [] };
}

function characterBefore(text, at) {
  const unit = text.charCodeAt(at - 1);
  const isLowSurrogate = unit >= 0xdc00 && unit <= 0xdfff;
  return isLowSurrogate && at > 1 ? text.slice(at - 2, at) : text[at - 1];
}

// Pairs the runs of marks, closest first. `bottoms` remembers where there is nothing to find, which keeps this linear.
function matchEmphasis(items) {
  const openers = [];
  const bottoms = new Map();
  for (const item of items) {
    if (item.mark === undefined || item.left === 0) continue;
    if (item.canClose) {
      const key = `${item.mark}${item.canOpen}${item.length % 3}`;
      for (let index = openers.length - 1; item.left > 0 && index >= (bottoms.get(key) ?? 0); index--) {
        const opener = openers[index];
        if (opener.mark !== item.mark) continue;
        // The rule of three keeps `**` of `*a**b*` from being read as two ends.
        const isAmbiguous = (opener.canClose || item.canOpen) && (opener.length + item.length) % 3 === 0;
        if (isAmbiguous && !(opener.length % 3 === 0 && item.length % 3 === 0) && item.mark !== "~") continue;
        const tag = item.mark === "~" ? "del" : opener.left >= 2 && item.left >= 2 ? "strong" : "em";
        const width = tag === "em" ? 1 : 2;
        opener.left -= width;
        item.left -= width;
        opener.opens.unshift({ tag });
        item.closes.push(tag);
        // Marks between the pair have found nothing; and an opener that has marks left may match again.
        openers.length = opener.left > 0 ? index + 1 : index;
        index = openers.length;
      }
      if (item.left > 0) bottoms.set(key, openers.length);
      for (const [other, bottom] of bottoms) if (bottom > openers.length) bottoms.set(other, openers.length);
    }
    if (item.canOpen && item.left > 0) openers.push(item);
  }
}

// Makes a tree of the flat list. Tags beyond the depth are dropped, and their text stays.
function nest(items) {
  const root = { children: [] };
  const stack = [root];
  let numDropped = 0;
  const add = (node) => {
    const { children } = stack.at(-1);
    if (typeof node === "string" && typeof children.at(-1) === "string") children[children.length - 1] += node;
    else children.push(node);
  };
  for (const item of items) {
    if (item.node) {
      add(item.node);
      continue;
    }
    const text = item.mark === undefined ? item.text : item.mark.repeat(item.left);
    for (const _tag of item.closes ?? []) {
      if (numDropped > 0) numDropped--;
      else stack.pop();
    }
    if (text !== "") add(text);
    for (const tag of item.opens ?? []) {
      if (stack.length > MAX_INLINE_DEPTH) {
        numDropped++;
      } else {
        const node = { ...tag, children: [] };
        add(node);
        stack.push(node);
      }
    }
  }
  return root.children;
}

const linkTag = (address, isImage = false) => ({ tag: "a", address, isImage });

// `(address "title")` after the text of a link. The title is not shown: a link shows where it goes instead.
function linkTarget(text, at) {
  if (text[at] !== "(") return null;
  const rest = text.slice(at + 1, at + 1 + MAX_ADDRESS_LENGTH + MAX_TITLE_LENGTH);
  let position = rest.length - rest.trimStart().length;
  let address;
  if (rest[position] === "<") {
    const end = rest.indexOf(">", position);
    if (end < 0) return null;
    address = rest.slice(position + 1, end);
    position = end + 1;
  } else {
    const start = position;
    let depth = 0;
    for (; position < rest.length; position++) {
      const character = rest[position];
      if (/\s/.test(character)) break;
      if (character === "\\" && ESCAPABLE.test(rest[position + 1] ?? "")) position++;
      else if (character === "(" && ++depth > 8) return null;
      else if (character === ")" && --depth < 0) break;
    }
    address = rest.slice(start, position).replace(/\\([!-/:-@[-`{-~])/g, "$1");
  }
  const title = /^\s+(?:"[^"]*"|'[^']*'|\([^)]*\))/.exec(rest.slice(position));
  if (title) position += title[0].length;
  position += /^\s*/.exec(rest.slice(position))[0].length;
  if (rest[position] !== ")") return null;
  const safe = safeAddress(address);
  return safe && { address: safe, end: at + 1 + position + 1 };
}

function autolink(text) {
  if (/[\s<]/.test(text)) return null;
  if (/^[a-z][a-z0-9+.-]{1,31}:/i.test(text)) return safeAddress(text);
  return /^[\w.+-]+@[\w-]+(?:\.[\w-]+)+$/.test(text) ? safeAddress(`mailto:${text}`) : null;
}

// An address in running text, without the punctuation after it.
function bareAddress(text, at) {
  const match = BARE_ADDRESS.exec(text.slice(at, at + MAX_ADDRESS_LENGTH));
  if (!match) return null;
  const found = match[0].replace(/[*_~]{2}.*$/, "").replace(/[?!.,:;*_~\])]+$/, (end) => {
    // A closing parenthesis belongs to the address if it has its opening one there.
    return end.startsWith(")") && match[0].includes("(") ? ")" : "";
  });
  const address = safeAddress(found);
  return address && { address, text: found };
}

// -------------------------------------------------------------------------------------------------------------- documents

// The trees of a whole text.
export function readMarkdown(text) {
  return readBlocks(splitLines(text), 0).map((block) => block.node);
}

const splitLines = (text) => text.replace(/\r\n?/g, "\n").replaceAll("\0", "\ufffd").split("\n").map(expandTabs);

// Tabs at the beginning of a line count as up to four columns.
function expandTabs(line) {
  if (!/^ *\t/.test(line)) return line;
  let width = 0;
  let at = 0;
  for (; line[at] === " " || line[at] === "\t"; at++) width += line[at] === "\t" ? 4 - (width % 4) : 1;
  return " ".repeat(width) + line.slice(at);
}

// A text that grows. Blocks that nothing can change any more are handed out once; only what comes after them is read again.
export class MarkdownStream {
  #settledLength = 0;

  // Takes the whole text so far, and returns the blocks that have settled since the last call and those still open.
  update(text) {
    const tail = text.slice(this.#settledLength);
    const lines = splitLines(tail);
    const blocks = readBlocks(lines, 0);
    // A block is settled by a block after it whose first two lines are complete. A line that still grows may turn out to belong to
    // the block before; and a second line can make a table of the first, or cease to.
    let numSettled = Math.max(blocks.length - 1, 0);
    while (numSettled > 0 && blocks[numSettled].line > lines.length - 3) numSettled--;
    const settled = blocks.slice(0, numSettled).map((block) => block.node);
    if (numSettled > 0) this.#settledLength += offsetOfLine(tail, blocks[numSettled].line);
    return { settled, open: blocks.slice(numSettled).map((block) => block.node) };
  }
}

function offsetOfLine(text, line) {
  const ends = /\r\n?|\n/g;
  let offset = 0;
  for (; line > 0; line--) {
    ends.exec(text);
    offset = ends.lastIndex;
  }
  return offset;
}
