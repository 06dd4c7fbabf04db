"use strict";
// Texts are only ever set as text, never as HTML.

const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};
const percent = (p) => `${(100 * p).toFixed(p > 0.0995 && p < 0.9995 ? 0 : 1)} %`;
const signed = (x) => (x < 0 ? "\u2212" : "+") + Math.abs(x).toFixed(1);

async function ask(path, form, signal) {
  const answer = await fetch(path, { method: "POST", body: form, signal });
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error);
  return content;
}

async function working(place, work) {
  const said = place.querySelector(".said");
  const buttons = place.querySelectorAll("form > .line button, .side > .line button");
  said.className = "said";
  said.textContent = "\u2026";
  for (const button of buttons) button.disabled = true;
  try {
    said.textContent = await work();
  } catch (error) {
    if (error.name === "AbortError") return;
    said.className = "said wrong";
    said.textContent = error instanceof TypeError ? "cannot reach the server" : error.message;
  } finally {
    for (const button of buttons) button.disabled = false;
  }
}

// Search

let threshold = 0.5;
const search = document.querySelector("#search");
search.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  working(search, async () => {
    const found = await ask("v1/search", new FormData(event.target));
    const well = found.filter((photo) => photo.probability === null || photo.probability >= threshold);
    const shown = well.length ? well : found.slice(0, 4);
    search.querySelector(".photos").replaceChildren(...shown.map((photo) => {
      const picture = element("img", { src: `v1/photos/${photo.photo}`, alt: photo.name, loading: "lazy" });
      const chance = element("b", {}, photo.probability === null ? "" : percent(photo.probability));
      return element("figure", {}, picture, element("figcaption", { title: photo.name }, chance, " ", photo.name));
    }));
    if (!found.length) return "there are no photos";
    return well.length ? "" : "Nothing here matches well. The nearest:";
  });
});

// Match and proofread

const look = document.querySelector("#look");
const drop = document.querySelector("#drop");
const file = drop.querySelector("input");
const canvas = drop.querySelector("canvas");
const answers = look.querySelector(".answers");
let picture = null;
let asking = new AbortController();  // about the photo chosen; aborted when it is another

async function show(chosen) {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  const said = look.querySelector(".said");
  said.className = "said";
  said.textContent = "";
  answers.replaceChildren();
  const opened = await createImageBitmap(chosen).catch(() => null);
  if (signal.aborted) return;
  picture = opened;
  if (!picture) said.textContent = "this browser cannot show the image";
  drop.classList.toggle("full", picture !== null);
  canvas.hidden = picture === null;
  paint(null);
}

function paint(heat) {
  if (picture === null) return;
  const pen = canvas.getContext("2d");
  const side = Math.min(picture.width, picture.height);
  const [left, top] = [(picture.width - side) / 2, (picture.height - side) / 2];
  pen.filter = heat ? "grayscale(0.8) brightness(0.75)" : "none";
  pen.drawImage(picture, left, top, side, side, 0, 0, canvas.width, canvas.height);
  pen.filter = "none";
  if (!heat) return;
  const small = new OffscreenCanvas(heat[0].length, heat.length);
  const dots = small.getContext("2d").createImageData(small.width, small.height);
  heat.flat().forEach((value, i) => {
    dots.data.set([255, 235 - 190 * value, 90 - 90 * value, 225 * Math.sqrt(value)], 4 * i);
  });
  small.getContext("2d").putImageData(dots, 0, 0);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(small, 0, 0, canvas.width, canvas.height);
}

file.addEventListener("change", () => file.files.length && show(file.files[0]));
for (const name of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) {
      file.files = event.dataTransfer.files;
      show(file.files[0]);
    }
  });
}

function matched(found) {
  const bar = element("i");
  bar.style.width = percent(found.probability).replace(" ", "");
  const words = found.words.map((word) => {
    const button = element("button", { type: "button", "aria-pressed": "false" }, word.word, " ");
    button.append(element("small", {}, signed(word.contribution)));
    button.addEventListener("click", () => {
      const again = button.getAttribute("aria-pressed") === "true";
      for (const other of answers.querySelectorAll("[aria-pressed]")) other.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-pressed", String(!again));
      paint(again ? null : word.heat);
    });
    return button;
  });
  const head = element("div", {}, element("b", {}, percent(found.probability)), " ", found.caption);
  return element("div", { class: "answer" }, head, ...unread(found),
    element("div", { class: "bar" }, bar), element("div", { class: "words" }, ...words));
}

function unread(found) {
  const said = [];
  if (found.unknown.length) said.push(`not in the model's vocabulary: ${found.unknown.join(", ")}`);
  if (found.unread) said.push(`too long for the model, not read: ${found.unread}`);
  return said.map((line) => element("div", { class: "unread" }, line));
}

function checked(found) {
  const text = element("div");
  const letters = [...found.caption];  // the server counts an emoji as one, JavaScript as two
  const part = (start, end) => letters.slice(start, end).join("");
  let at = 0;
  for (const word of found.words) {
    text.append(part(at, word.start));
    const said = part(word.start, word.end);
    text.append(word.flagged ? element("mark", {}, said) : said);
    at = word.end;
  }
  text.append(part(at));
  const verdict = found.corrected === found.caption ? "every word fits" : found.corrected;
  const head = element("tr", {}, element("th", {}, "word"), element("th", { class: "n" }, "with image"),
    element("th", { class: "n" }, "without"), element("th", {}, "instead"));
  const rows = found.words.map((word) => element("tr", word.flagged ? { class: "flagged" } : {},
    element("td", {}, word.word), element("td", { class: "n" }, signed(word.with_image)),
    element("td", { class: "n" }, signed(word.without_image)), element("td", {}, word.instead)));
  return element("div", { class: "answer" }, text, ...unread(found),
    element("div", { class: "fix" }, verdict),
    element("div", { class: "scroll" }, element("table", {}, head, ...rows)));
}

look.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const verb = event.submitter ? event.submitter.value : "match";
  const { signal } = asking;
  const captions = event.target.captions.value.split("\n").map((line) => line.trim()).filter(Boolean);
  working(look, async () => {
    answers.replaceChildren();
    paint(null);
    if (verb === "match") {
      const form = new FormData();
      form.append("image", file.files[0]);
      for (const caption of captions) form.append("captions", caption);
      form.append("heat_maps", "true");
      const found = await ask("v1/match", form, signal);
      found.sort((a, b) => b.probability - a.probability);
      answers.replaceChildren(...found.map(matched));
      return "click a word to see its heat map";
    }
    for (const caption of captions) {
      const form = new FormData();
      form.append("image", file.files[0]);
      form.append("caption", caption);
      answers.append(checked(await ask("v1/proofread", form, signal)));
    }
    return "log-odds of each word, with the image and without";
  });
});

// What is served

fetch("v1/model").then((answer) => answer.json()).then((model) => {
  const words = [`images of ${model.image_size} pixels`, `${model.max_text_tokens} tokens`];
  if (!model.calibrated) words.push("probabilities are not calibrated");
  if (model.photos) words.push(`${model.photos.toLocaleString("en")} photos`);
  document.querySelector("#about").textContent = words.join(" \u00b7 ");
  threshold = model.search_threshold;
  search.hidden = !model.photos;
});
