// The one way into the page. Whatever is not a node is put in as text; nothing is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element: attributes, listeners (`onclick`), `style` as properties; children are nodes, texts or lists. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) set(element, name, value);
  add(element, children);
  return element;
}

function set(element, name, value) {
  if (value === undefined || value === null || value === false) return;
  if (name.startsWith("on")) {
    if (typeof value !== "function") throw new TypeError(`${name} is no function`);
    element.addEventListener(name.slice(2), value);
  } else if (name === "style") {
    for (const [property, said] of Object.entries(value)) element.style.setProperty(property, said);
  } else if (name === "value") {
    element.value = value;
  } else {
    if (name === "href" && !String(value).startsWith("#")) throw new TypeError("links stay in the page");
    element.setAttribute(name, value === true ? "" : String(value));
  }
}

function add(element, child) {
  if (child === undefined || child === null || child === false) return;
  if (Array.isArray(child)) for (const each of child) add(element, each);
  else element.append(child instanceof Node ? child : document.createTextNode(String(child)));
}

/** Put these in place of all that an element holds. */
export function show(element, ...children) {
  element.replaceChildren();
  add(element, children);
  return element;
}

/** Text for screen readers only. */
export function unseen(...children) {
  return h("span", { class: "unseen" }, ...children);
}

/** Tell who cannot see it what has happened. */
export function say(text) {
  document.getElementById("said").textContent = text;
}
