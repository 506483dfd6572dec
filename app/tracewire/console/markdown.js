// Markdown as agents write it, as elements: headings, paragraphs, lists, tables, quotes, code, emphasis.
//
// What it does not know stays text. Nothing in the text can become markup, a link or an image: it is made of text nodes.

import { element } from "/console/element.js";

const FENCE = /^\s*(```+|~~~+)/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^\s*>\s?/;
const RULE = /^\s*([-*_])(\s*\1){2,}\s*$/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const INLINE = /(`+)(.+?)\1(?!`)|\*\*(.+?)\*\*|(?<![\w*])\*(?![\s*])([^*]+?)\*(?![\w*])/g;
const HEADING_LEVEL_MIN = 3; // the page's own headings come before

/** The text as a fragment of elements. */
export function render(markdown) {
  const lines = String(markdown).split(/\r\n?|\n/);
  const blocks = new Blocks(lines);
  const made = document.createDocumentFragment();
  while (!blocks.done) {
    const block = blocks.next();
    if (block) made.append(block);
  }
  return made;
}

class Blocks {
  #lines;
  #at = 0;
  #level = HEADING_LEVEL_MIN - 1;

  constructor(lines) {
    this.#lines = lines;
  }

  get done() {
    return this.#at >= this.#lines.length;
  }

  get #line() {
    return this.#lines[this.#at] ?? "";
  }

  next() {
    if (!this.#line.trim()) {
      this.#at += 1;
      return null;
    }
    if (FENCE.test(this.#line)) return this.#fence();
    if (HEADING.test(this.#line)) return this.#heading();
    if (RULE.test(this.#line)) {
      this.#at += 1;
      return element("hr");
    }
    if (this.#isTable()) return this.#table();
    if (ITEM.test(this.#line)) return this.#list(indentOf(this.#line));
    if (QUOTE.test(this.#line)) {
      return element("blockquote", {}, render(this.#while((line) => QUOTE.test(line), (line) => line.replace(QUOTE, ""))));
    }
    return this.#paragraph();
  }

  #while(holds, of) {
    const taken = [];
    while (!this.done && holds(this.#line)) {
      taken.push(of(this.#line));
      this.#at += 1;
    }
    return taken.join("\n");
  }

  #fence() {
    const mark = FENCE.exec(this.#line)[1];
    this.#at += 1;
    const code = this.#while((line) => !line.trim().startsWith(mark), (line) => line);
    this.#at += 1;
    return element("pre", { tabindex: "0" }, element("code", {}, code));
  }

  #heading() {
    const [, marks, text] = HEADING.exec(this.#line);
    this.#at += 1;
    // A level that is skipped would be lost on who moves by headings.
    this.#level = Math.max(HEADING_LEVEL_MIN, Math.min(marks.length + 1, this.#level + 1, 6));
    return element(`h${this.#level}`, {}, ...inline(text));
  }

  #isTable() {
    const following = this.#lines[this.#at + 1];
    return this.#line.includes("|") && following !== undefined && following.includes("-") && TABLE_RULE.test(following);
  }

  #table() {
    const [head, , ...rows] = this.#while((line) => line.includes("|"), cellsOf).split("\n").map((row) => row.split("\0"));
    const headRow = element("tr", {}, ...head.map((cell) => element("th", { scope: "col" }, ...inline(cell))));
    const body = rows.map((cells) =>
      element("tr", {}, ...head.map((_, column) => element("td", {}, ...inline(cells[column] ?? "")))),
    );
    const table = element("table", {}, element("thead", {}, headRow), element("tbody", {}, ...body));
    return element("div", { class: "table-window", role: "region", "aria-label": "Table", tabindex: "0" }, table);
  }

  #list(indent) {
    const ordered = /\d/.test(ITEM.exec(this.#line)[2][0]);
    const list = element(ordered ? "ol" : "ul");
    while (!this.done && ITEM.test(this.#line) && indentOf(this.#line) >= indent) {
      if (indentOf(this.#line) > indent) {
        (list.lastChild ?? list.appendChild(element("li"))).append(this.#list(indentOf(this.#line)));
        continue;
      }
      const first = ITEM.exec(this.#line)[3];
      this.#at += 1;
      const more = this.#while((line) => line.trim() && /^\s/.test(line) && !ITEM.test(line), (line) => line.trim());
      list.append(element("li", {}, ...inline(more ? `${first} ${more.replaceAll("\n", " ")}` : first)));
    }
    return list;
  }

  #paragraph() {
    const lines = [this.#line.trim()];
    this.#at += 1;
    while (!this.done && this.#line.trim() && ![FENCE, HEADING, ITEM, QUOTE, RULE].some((sign) => sign.test(this.#line))) {
      lines.push(this.#line.trim());
      this.#at += 1;
    }
    return element("p", {}, ...inline(lines.join(" ")));
  }
}

function indentOf(line) {
  return /^\s*/.exec(line)[0].replaceAll("\t", "    ").length;
}

/** The cells of a row, held together by a character that no cell has. */
function cellsOf(line) {
  const inner = line.replaceAll("\0", "").trim().replace(/^\||(?<!\\)\|$/g, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|")).join("\0");
}

/** Code, bold and italics within a line; the rest as text. */
function inline(text) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, , code, bold, italic] = match;
    nodes.push(text.slice(end, match.index));
    if (code !== undefined) nodes.push(element("code", {}, code));
    else if (bold !== undefined) nodes.push(element("strong", {}, ...inline(bold)));
    else nodes.push(element("em", {}, ...inline(italic)));
    end = match.index + whole.length;
  }
  nodes.push(text.slice(end));
  return nodes.filter((node) => node !== "");
}
