// The Markdown reader: what it makes of texts, and laws that hold for every text.

import assert from "node:assert/strict";

import { randomNumbers, test } from "./harness.mjs";
import { ASSETS } from "./paths.mjs";

const { MarkdownStream, readMarkdown, safeAddress } = await import(`${ASSETS}/markdown.js`);

// A tree in one line, so that tables of cases stay readable.
function show(node) {
  if (typeof node === "string") return node;
  if (node.tag === "codeblock") return `<code ${node.language}|${node.code}>`;
  const extra = [node.address, node.isImage && "image", node.checked, node.tag === "ol" && node.start, node.align !== "left" && node.align];
  const attributes = extra.filter((value) => value !== undefined && value !== false).map((value) => ` ${value}`);
  if (node.checked === false) attributes.push(" false");
  return `<${node.tag}${attributes.join("")}>${node.children.map(show).join("")}</${node.tag}>`;
}

const showAll = (nodes) => nodes.map(show).join("");

function check(cases) {
  for (const [text, expected] of cases) assert.equal(showAll(readMarkdown(text)), expected, JSON.stringify(text));
}

test("Markdown: blocks", () =>
  check([
    ["", ""],
    ["one\ntwo", "<p>one\ntwo</p>"],
    ["one\n\n\ntwo", "<p>one</p><p>two</p>"],
    ["# One #\n###### Six\n####### seven\n#none", "<h1>One</h1><h6>Six</h6><p>####### seven\n#none</p>"],
    ["a\n---\nb\n***\n_ _ _", "<p>a</p><hr></hr><p>b</p><hr></hr><hr></hr>"],
    ["```js\nlet a = `x`;\n\n# no\n```\nafter", "<code js|let a = `x`;\n\n# no><p>after</p>"],
    ["~~~\n```\n~~~", "<code |```>"],
    ["```open\nto the end", "<code open|to the end>"],
    ["````\n```\n````", "<code |```>"],
    ["``` a`b\nc", "<p>``` a`b\nc</p>"],
    ["  ```\n  a\n b\n  ```", "<code |a\nb>"],
    ["> one\n> two\n\nthree", "<blockquote><p>one\ntwo</p></blockquote><p>three</p>"],
    ["> - a\n> - b", "<blockquote><ul><li>a</li><li>b</li></ul></blockquote>"],
    ["- a\n- b\n  more\n- c", "<ul><li>a</li><li>b\nmore</li><li>c</li></ul>"],
    ["- a\n\n- b", "<ul><li><p>a</p></li><li><p>b</p></li></ul>"],
    ["- a\n  - b\n    - c\n- d", "<ul><li>a<ul><li>b<ul><li>c</li></ul></li></ul></li><li>d</li></ul>"],
    ["3. a\n4. b", "<ol 3><li>a</li><li>b</li></ol>"],
    ["1. a\n\n   ```py\n   x\n   ```\n2. b", "<ol 1><li>a<code py|x></li><li>b</li></ol>"],
    ["- a\n* b", "<ul><li>a</li></ul><ul><li>b</li></ul>"],
    ["- [ ] a\n- [x] b", "<ul><li false>a</li><li true>b</li></ul>"],
    ["text\n- item", "<p>text</p><ul><li>item</li></ul>"],
    ["In\n1986. It", "<p>In\n1986. It</p>"],
    ["\t- tab", "<p>- tab</p>"],
    ["a | b\n--|:-:\n1 | `x\\|y`\n2", "<table><thead><tr><th>a</th><th center>b</th></tr></thead><tbody><tr><td>1</td><td center><code>x|y</code></td></tr><tr><td>2</td></tr></tbody></table>"],
    ["| a |\n|---|\n| 1 | 2 | 3 |", "<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table>"],
    ["a | b\n---", "<p>a | b</p><hr></hr>"],
    ["# a\r\n\r\nb\rc", "<h1>a</h1><p>b\nc</p>"],
  ]));

test("Markdown: inline", () =>
  check([
    ["*a* **b** ***c*** _d_ __e__ ~~f~~", "<p><em>a</em> <strong>b</strong> <em><strong>c</strong></em> <em>d</em> <strong>e</strong> <del>f</del></p>"],
    ["snake_case_name 2*3*4 a * b * c ~x~", "<p>snake_case_name 2<em>3</em>4 a * b * c ~x~</p>"],
    ["**a *b* c** *a **b** c*", "<p><strong>a <em>b</em> c</strong> <em>a <strong>b</strong> c</em></p>"],
    ["**a* ***a** b*", "<p>*<em>a</em> <em><strong>a</strong> b</em></p>"],
    ["**要点：**其余 **「引」**字", "<p><strong>要点：</strong>其余 <strong>「引」</strong>字</p>"],
    ["`a*b*` `` ` `` ``a` \\`b`", "<p><code>a*b*</code> <code>`</code> ``a<code> \\</code>b`</p>"],
    ["\\*a\\* \\q \\\\ \\", "<p>*a* \\q \\ \\</p>"],
    ["[a](https://x.org) [*b*](<https://x.org/a b> \"t\")", '<p><a https://x.org/>a</a> <a https://x.org/a%20b><em>b</em></a></p>'],
    ["[a](https://x.org/f_(x)) ![alt](http://x.org/i.png)", "<p><a https://x.org/f_(x)>a</a> <a http://x.org/i.png image>alt</a></p>"],
    ["[a [b](http://x.org) c](http://y.org)", "<p>[a <a http://x.org/>b</a> c](<a http://y.org/>http://y.org</a>)</p>"],
    ["*a [b*](http://x.org) c*", "<p><em>a <a http://x.org/>b*</a> c</em></p>"],
    ["<https://x.org> <me@x.org> <b>bold</b>", "<p><a https://x.org/>https://x.org</a> <a mailto:me@x.org>me@x.org</a> <b>bold</b></p>"],
    ["See https://x.org/a_b, (http://y.org/z).", "<p>See <a https://x.org/a_b>https://x.org/a_b</a>, (<a http://y.org/z>http://y.org/z</a>).</p>"],
    ["a  \nb\\\nc<br>d", "<p>a<br></br>b<br></br>c<br></br>d</p>"],
    ["\\(a_1 * b_1\\) $$x_1$$ \\[\ny*z*\n\\]", "<p><math>\\(a_1 * b_1\\)</math> <math>$$x_1$$</math> <math>\\[\ny*z*\n\\]</math></p>"],
    ["costs $5 and $6", "<p>costs $5 and $6</p>"],
  ]));

test("Markdown: only addresses of safe schemes become links", () => {
  for (const address of [
    "javascript:alert(1)", "JaVaScRiPt:alert(1)", " javascript:alert(1)", "java\nscript:alert(1)", "data:text/html,<script>", "vbscript:x",
    "file:///etc/passwd", "blob:http://x.org/1", "//x.org", "/v1/models", "x", "", "http://", `http://x.org/${"a".repeat(3000)}`,
  ]) {
    assert.equal(safeAddress(address), null, address);
    for (const text of [`[x](${address})`, `[x](<${address}>)`, `![x](${address})`, `<${address}>`]) {
      const shown = showAll(readMarkdown(text));
      // The bare address inside `blob:http:` is a link of its own, and a safe one.
      assert.ok(!shown.includes(">x</a>") && !/<a (?!http:)/.test(shown), text);
    }
  }
  for (const address of ["https://x.org", "http://x.org", "mailto:a@x.org"]) assert.notEqual(safeAddress(address), null, address);
});

const PIECES = [
  "a", "word ", " ", "\n", "\n\n", "\r\n", "\r", "*", "**", "_", "~~", "`", "```", "```js\n", "~~~\n", "#", "# ", "- ", "1. ", "2) ", "> ", "|", "| a | b |\n|---|---|\n",
  "---\n", "[", "](", "](https://x.org)", ")", "![", "<", ">", "<b>", "<https://x.org>", "https://x.org/a_b", "\\", "\\(", "\\)", "\\[", "\\]", "$$", "  ", "    ", "\t",
  "[x](javascript:alert(1))", "<script>", "<img src=x onerror=alert(1)>", "&lt;", "汉字", "：", "🐋", "\u2028", "\0", "\u202e", "- [ ] ", "==", "+ ",
];

function* randomTexts(seed, count) {
  const random = randomNumbers(seed);
  for (let number = 0; number < count; number++) {
    const length = 1 + Math.floor(random() * 40);
    yield Array.from({ length }, () => PIECES[Math.floor(random() * PIECES.length)]).join("");
  }
}

const TAGS = new Set(
  "p h1 h2 h3 h4 h5 h6 hr br blockquote ul ol li table thead tbody tr th td codeblock strong em del code a math".split(" "),
);

function walk(nodes, visit, depth = 1) {
  for (const node of nodes) {
    visit(node, depth);
    if (typeof node !== "string") walk(node.children, visit, depth + 1);
  }
}

test("Markdown: 10,000 random texts have no other tags, no unsafe address, bounded depth, and lose no word", () => {
  for (const text of randomTexts(1, 10_000)) {
    let letters = "";
    walk(readMarkdown(text), (node, depth) => {
      assert.ok(depth < 80, `depth ${depth} of ${JSON.stringify(text)}`);
      if (typeof node === "string") return void (letters += node);
      assert.ok(TAGS.has(node.tag), node.tag);
      if (node.tag === "codeblock") letters += node.code + node.language;
      if (node.tag === "a") assert.match(node.address, /^(https?:|mailto:)/, JSON.stringify(text));
    });
    const count = (whole) => whole.split("汉").length;
    assert.ok(count(letters) <= count(text), JSON.stringify(text));
    // Columns beyond a table's are dropped and the words after a fence's language are not shown; all else stays.
    if (!text.includes("|") && !text.includes("```") && !text.includes("~~~")) assert.equal(count(letters), count(text), JSON.stringify(text));
  }
});

test("Markdown: 4,000 random texts read the same in one piece and in every split tried", () => {
  const random = randomNumbers(2);
  for (const text of randomTexts(3, 4_000)) {
    const whole = showAll(readMarkdown(text));
    const stream = new MarkdownStream();
    let settled = "";
    let open = [];
    for (let end = 0; end < text.length; ) {
      end = Math.min(text.length, end + 1 + Math.floor(random() * 6));
      const update = stream.update(text.slice(0, end));
      settled += showAll(update.settled);
      open = update.open;
    }
    assert.equal(settled + showAll(open), whole, JSON.stringify(text));
  }
});

test("Markdown: hostile texts of 60,000 marks are read in time, and not deeply", () => {
  const marks = [
    "*a ", "**", "***", "*a**b", "_a*b", "[", "![", "](", "[](a", "[a](http://x.org)", "[[a](", "`", "`` `", "<", "<a", "\\(", "\\[", "$$", "$$a", "~~a", "> ", ">", "- ", "  - a\n", "1. ",
    "|a", "|", "| a |\n|---|\n", "http://[", "http://x.org/", "#", "# ", " \t", "- a\n", "> a\n", "\n", "```\n", "* * ", "- -", "&amp;", "<br>", "\\", "é", "<https://x.org>", "a\n1. ",
  ];
  for (const mark of marks) {
    for (const lead of ["", "| a |\n", "- ", "> "]) {
      const text = lead + mark.repeat(Math.ceil(60_000 / mark.length));
      const began = performance.now();
      const nodes = readMarkdown(text);
      const took = performance.now() - began;
      assert.ok(took < 1500, `${JSON.stringify(lead + mark)} took ${Math.round(took)} ms`);
      walk(nodes, (_, depth) => assert.ok(depth < 80, JSON.stringify(lead + mark)));
    }
  }
});

test("Markdown: a long answer is not read again from the start", () => {
  const stream = new MarkdownStream();
  let text = "";
  let numSettled = 0;
  let mostOpen = 0;
  for (let number = 0; number < 2000; number++) {
    text += `paragraph ${number} with *some* words\n\n`;
    const { settled, open } = stream.update(text);
    numSettled += settled.length;
    mostOpen = Math.max(mostOpen, open.length);
  }
  assert.ok(numSettled >= 1998, String(numSettled));
  assert.ok(mostOpen <= 3, String(mostOpen));
});
