// Elements made of names, attributes and text. Data only ever becomes text nodes and attribute values, never markup.

/** An element. Attributes that are `null` or `false` are left out; `on…` ones are listeners. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** The element of the page with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Text that only screen readers see. */
export function unseen(text) {
  return element("span", { class: "unseen" }, text);
}
