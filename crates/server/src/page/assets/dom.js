// Making elements. Text becomes text nodes, and nothing here reads markup.

// `properties`: `class`, `text`, `on` (listeners by event), and attributes; null and false leave one out, true sets it empty.
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else if (name === "text") made.textContent = value;
    else if (name === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

// An icon by its path, drawn in the color of the text. It says nothing to screen readers: its button has a name.
export function icon(path) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const drawn = document.createElementNS(SVG, "path");
  drawn.setAttribute("d", path);
  svg.append(drawn);
  return svg;
}

export const ICONS = {
  copy: "M9 9h10v10H9zM5 15V5h10",
  check: "M5 12.5l4.5 4.5L19 7.5",
  again: "M20 11a8 8 0 1 0-2 6M20 5v6h-6",
  edit: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  remove: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
};

// A button with an icon and a name that is shown as a hint.
export function iconButton(name, path, onClick) {
  return element("button", { class: "icon-button", type: "button", "aria-label": name, title: name, on: { click: onClick } }, icon(path));
}

// A button that copies what `text` returns, and says that it did.
export function copyButton(name, text) {
  const button = iconButton(name, ICONS.copy, async () => {
    const isCopied = await copy(text());
    button.replaceChildren(icon(isCopied ? ICONS.check : ICONS.copy));
    const said = isCopied ? "Copied" : "Copying was not allowed";
    button.setAttribute("aria-label", said);
    button.title = said;
    setTimeout(() => {
      button.replaceChildren(icon(ICONS.copy));
      button.setAttribute("aria-label", name);
      button.title = name;
    }, 1500);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Browsers offer the clipboard to pages of encrypted origins and of the own machine only.
    const area = element("textarea", { class: "visually-hidden", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    return isCopied;
  }
}

const PLAIN_TAGS = new Set([
  "p", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "br", "blockquote", "ul", "ol", "thead", "tbody", "tr", "strong", "em", "del", "code",
]);

// The DOM node of a tree of `markdown.js`.
export function build(node) {
  if (typeof node === "string") return document.createTextNode(node);
  const children = () => node.children.map(build);
  switch (node.tag) {
    case "codeblock":
      return codeBlock(node);
    case "table":
      // Wide tables scroll by themselves; a scroller has to be reachable by keyboard.
      return element("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" }, element("table", {}, ...children()));
    case "th":
    case "td":
      return element(node.tag, { class: `align-${node.align}`, scope: node.tag === "th" ? "col" : null }, ...children());
    case "a": {
      const link = element("a", { href: node.address, title: node.address, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children());
      // Images are not loaded: they would tell a foreign server that this answer is read.
      if (node.isImage) link.prepend("Image: ");
      return link;
    }
    case "math":
      return element("code", { class: "math" }, ...children());
    case "li":
      return listItem(node, children());
    case "ol":
      return element("ol", { start: node.start === 1 ? null : node.start }, ...children());
    default: {
      if (!PLAIN_TAGS.has(node.tag)) throw new Error(`no element for ${node.tag}`);
      // The page has the first two levels for itself.
      const level = /^h([1-6])$/.exec(node.tag)?.[1];
      return element(level ? `h${Math.min(6, Number(level) + 2)}` : node.tag, level ? { class: `level-${level}` } : {}, ...children());
    }
  }
}

function listItem(node, children) {
  if (node.checked === undefined) return element("li", {}, ...children);
  const box = element("span", { class: "task", role: "img", "aria-label": node.checked ? "done" : "to do", text: node.checked ? "☑" : "☐" });
  return element("li", { class: "task-item" }, box, " ", ...children);
}

function codeBlock(node) {
  const code = element("code", { text: node.code });
  const name = node.language === "" ? "text" : node.language;
  return element(
    "div",
    { class: "code-block" },
    element("div", { class: "code-head" }, element("span", { class: "language", text: name }), copyButton("Copy code", () => code.textContent)),
    element("pre", { tabindex: "0", role: "region", "aria-label": `Code, ${name}` }, code),
  );
}
