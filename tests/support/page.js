"use strict";
// node page.js PAGE_JS: runs the page's script in as much of a browser as it needs, and then the
// steps that come on standard input; prints what these return, as JSON.
const { readFileSync } = require("fs");

class Element {
  constructor(name) {
    Object.assign(this, { name, children: [], attributes: {}, listeners: {}, found: {}, files: [], style: {} });
    this.classList = { toggle() {} };
  }
  get textContent() { return this.children.map((c) => c.textContent ?? c).join(""); }
  set textContent(text) { this.children = [text]; }
  append(...more) { this.children.push(...more); }
  replaceChildren(...all) { this.children = all; }
  setAttribute(key, value) { this.attributes[key] = value; }
  addEventListener(kind, listener) { this.listeners[kind] = listener; }
  querySelector(selector) { return (this.found[selector] ??= new Element(selector)); }
  querySelectorAll(name) {
    const below = this.children.flatMap((c) => (c instanceof Element ? [c, ...c.querySelectorAll("*")] : []));
    return below.filter((c) => name === "*" || c.name === name);
  }
  getContext() { return { drawImage: (bitmap) => (this.shows = bitmap.of) }; }
}

globalThis.document = new Element("document");
document.createElement = (name) => new Element(name);
// A photo whose name begins with "no" is none.
globalThis.createImageBitmap = async (file) => {
  if (file.startsWith("no")) throw new Error("InvalidStateError");
  return { of: file, width: 9, height: 9 };
};
const requests = []; // each is answered when a step calls `answer`
globalThis.fetch = (path, { signal, body } = {}) => new Promise((resolve, reject) => {
  const answer = (content) => resolve({ ok: true, json: async () => content });
  requests.push({ path, body, answer });
  signal?.addEventListener("abort", () => reject(signal.reason));
});

const settled = () => new Promise((resolve) => setTimeout(resolve, 5));
const look = document.querySelector("#look");
const drop = document.querySelector("#drop");
const page = {
  requests,
  said: () => look.querySelector(".said").textContent,
  answers: () => look.querySelector(".answers"),
  shown: () => drop.querySelector("canvas").shows,
  choose: async (name) => {
    drop.querySelector("input").files = [name];
    drop.querySelector("input").listeners.change();
    await settled();
  },
  press: async (verb, captions) => {
    const event = { preventDefault() {}, submitter: { value: verb }, target: { captions: { value: captions } } };
    look.querySelector("form").listeners.submit(event);
    await settled();
  },
  answer: async (content) => {
    requests.at(-1).answer(content);
    await settled();
  },
};

const run = async () => {
  new Function(readFileSync(process.argv[2], "utf8"))();
  const steps = new Function("page", `return (async () => {${readFileSync(0, "utf8")}})()`);
  console.log(JSON.stringify(await steps(page)));
};
run();
