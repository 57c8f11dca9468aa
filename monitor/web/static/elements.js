// Creates and updates elements. Outside data becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** Return the element with this id; throw if there is none. */
export const the = (id) => document.getElementById(id) ?? raise(`no element ${id}`);

function raise(message) {
  throw new Error(message);
}

/** Create an HTML element with attributes and children; strings become text. */
export const element = (name, attributes = {}, ...children) =>
  fill(document.createElement(name), attributes, children);

/** The same for SVG. */
export const shape = (name, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, name), attributes, children);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Return one of the symbols at the end of the page; its meaning is always given in words, too. */
export const mark = (name) =>
  shape("svg", { class: `mark ${name}`, "aria-hidden": "true" }, shape("use", { href: `#mark-${name}` }));

/** Change a text only if it differs: a screen reader may be reading it. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Show a note with this text; hide it if there is none. */
export function note(node, text) {
  say(node, text);
  node.hidden = !text;
}

/**
 * Show these items in a list. An element is kept as long as its item is, so that it keeps the focus.
 */
export function list(node, items, key, make, update) {
  const keys = new Set(items.map(key));
  const present = new Map();
  for (const child of [...node.children]) {
    if (keys.has(child.dataset.key)) present.set(child.dataset.key, child);
    else child.remove();
  }
  let place = node.firstElementChild;
  for (const item of items) {
    let child = present.get(key(item));
    if (!child) {
      child = make(item);
      child.dataset.key = key(item);
    }
    update(child, item);
    if (child === place) place = place.nextElementSibling;
    else node.insertBefore(child, place);
  }
}
