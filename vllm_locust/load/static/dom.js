// Making elements, and bringing those on the page up to date.
// Rule: what is shown may come from anyone, so it becomes text and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element of HTML. Attributes that are null are left out; children are elements, text, or null for none. */
export function html(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same of SVG. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...present(children));
  return element;
}

const present = (children) => children.flat().filter((child) => child !== null);

/** Give `element` these children. Nodes that stay the same stay: what is selected or has the focus keeps it. */
export function update(element, ...children) {
  const wanted = element.cloneNode(false);
  wanted.append(...present(children));
  adoptChildren(element, wanted);
}

function adoptChildren(element, wanted) {
  const nodes = [...wanted.childNodes];
  nodes.forEach((node, index) => {
    const there = element.childNodes[index];
    if (there === undefined) element.append(node);
    else if (there.nodeName !== node.nodeName) there.replaceWith(node);
    else if (node.nodeType === Node.TEXT_NODE) adoptText(there, node);
    else adopt(there, node);
  });
  while (element.childNodes.length > nodes.length) element.lastChild.remove();
}

function adoptText(text, wanted) {
  if (text.data !== wanted.data) text.data = wanted.data;
}

function adopt(element, wanted) {
  for (const { name } of [...element.attributes]) {
    if (!wanted.hasAttribute(name)) element.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  }
  adoptChildren(element, wanted);
}
