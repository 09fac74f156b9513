"use strict";
const element = (id) => document.getElementById(id);
const LISTED = 100;
let limits = null;

/* Every text of the server's or a person's comes into the page as text, never as HTML. */
function made(kind, text = "", className = "") {
  const node = document.createElement(kind);
  node.textContent = text;
  if (className) node.className = className;
  return node;
}

async function call(name, given = {}) {
  const body = JSON.stringify(given);
  if (limits && new Blob([body]).size > limits.body) throw new Error(
    "too much at once: at most " + limits.body.toLocaleString("en") + " bytes; for larger files use --load in the terminal");
  let reply, told;
  try {
    reply = await fetch("/api/" + name, { method: "POST", headers: { "Content-Type": "application/json" }, body });
    told = await reply.json();
  } catch (error) {
    throw new Error("the server doesn't answer: is it still running?");
  }
  if (!reply.ok) throw Object.assign(new Error(told.error || "the server refused this"), { status: reply.status });
  return told;
}

/* Do something that may be refused; what is wrong is said at its place. */
async function trying(place, action) {
  element(place).textContent = "";
  try { await action(); return true; } catch (error) {
    element(place).textContent = error.message;
    element("replace").hidden = !(place === "write-problem" && error.status === 409 && element("id").value.trim());
    return false;
  }
}

function bar(share) {
  const outer = made("span", "", "bar");
  outer.append(made("i"));
  outer.firstChild.style.width = 100 * Math.min(1, Math.max(0, share)) + "%";
  return outer;
}
function measure(name, share, shown) {
  const outer = bar(share);
  outer.dataset.measure = name;
  return [made("span", name), outer, made("span", shown, "number")];
}

/* A passage's text with its tokens shaded by weight, and what may be the answer underlined, the fainter the less probable;
   where it says what was answered it is strong. The server counts code points. */
function shaded(passage, said) {
  const letters = [...passage.text], line = made("p");
  const edges = new Set([0, letters.length]);
  for (const span of [...passage.tokens, ...passage.answers]) edges.add(span.start).add(span.end);
  const places = [...edges].sort((a, b) => a - b);
  for (let i = 0; i + 1 < places.length; i++) {
    const [start, end] = [places[i], places[i + 1]], within = (span) => span.start <= start && end <= span.end;
    const token = passage.tokens.find(within), answer = passage.answers.find(within);
    const part = made(token ? "mark" : "span", letters.slice(start, end).join(""));
    if (token) {
      part.title = "weight " + token.weight.toFixed(3);
      part.dataset.weight = token.weight;
      if (token.weight > 0.004) part.style.background = "rgba(var(--heat), " + token.weight.toFixed(3) + ")";
      if (token.weight > 0.55) part.classList.add("strong");
    }
    const told = answer && letters.slice(answer.start, answer.end).join("");
    line.append(answer ? underlined(part, answer.weight, told === said) : part);
  }
  return line;
}

function underlined(part, probability, strong) {
  const line = made("u", "", strong ? "said" : "");
  line.title = "probability " + probability.toFixed(3);
  line.style.textDecorationColor = "rgba(var(--heat), " + Math.max(0.12, probability).toFixed(3) + ")";
  line.append(part);
  return line;
}

function showPassage(passage, best, said) {
  const item = made("li"), measures = made("div", "", "measures");
  const id = made("span", passage.id, "id");
  id.title = passage.id;
  measures.append(id, ...measure("relevance", passage.relevance / best, passage.relevance.toFixed(2)));
  if (passage.attention !== null)
    measures.append(...measure("attention", passage.attention, passage.attention.toFixed(2)));
  if (passage.answers.length)
    measures.append(...measure("answer", passage.answers[0].weight, passage.answers[0].weight.toFixed(2)));
  item.append(shaded(passage, said), measures);
  return item;
}

function showAnswer(told) {
  element("answer").textContent = told.answer || "(no answer)";
  const shown = told.ranking.slice(0, 5).filter(({ probability }, place) => place < 3 || probability >= 0.0005);
  element("ranking").replaceChildren(...shown.map(({ text, probability }) => {
    const row = made("tr"), cell = made("td");
    cell.append(bar(probability));
    row.append(made("td", text), cell, made("td", probability.toFixed(3)));
    return row;
  }));
  const best = Math.max(1e-9, ...told.passages.map((passage) => passage.relevance));
  element("passages").replaceChildren(...told.passages.map((passage) => showPassage(passage, best, told.answer)));
  element("result").hidden = false;
}

let asking = 0;
async function ask() {
  const number = ++asking;
  const asked = await trying("ask-problem", async () => {
    const told = await call("ask", { question: element("question").value });
    if (number === asking) showAnswer(told);  // no later question is under way
  });
  if (!asked) element("result").hidden = true;
}

/* After a change of memory, what was asked is asked again. */
async function changed(notes) {
  element("note").textContent = notes.join("\n");
  await list();
  if (!element("result").hidden || element("ask-problem").textContent) await ask();
}

async function write(name) {
  await trying("write-problem", async () => {
    const id = element("id").value.trim();
    const told = await call(name, { id, text: element("text").value });
    element("text").value = element("id").value = "";
    element("replace").hidden = true;
    element("search").value = id;
    await changed(told.notes);
  });
}

async function writeFile(file) {
  await trying("write-problem", async () => {
    if (file.size > limits.body) throw new Error(file.name + " has " + file.size.toLocaleString("en") + " bytes: at most " +
      limits.body.toLocaleString("en") + " here; for larger files use --load in the terminal");
    let text;
    try { text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer()); } catch (error) {
      throw new Error(file.name + " is no UTF-8 text: save it as UTF-8");
    }
    const parts = text.split(/\n\s*\n/).map((part) => part.trim().replace(/\s+/g, " ")).filter(Boolean);
    const told = await call("write", { documents: parts.map((part, i) => ({ id: file.name + ":" + (i + 1), text: part })) });
    element("search").value = file.name;
    await changed([parts.length + " entries written from " + file.name, ...told.notes]);
  });
}

async function erase(id) {
  await trying("write-problem", async () => {
    await call("erase", { id });
    if (element("entries").children.length === 1) element("search").value = "";  // nothing else was found
    await changed([]);
  });
}

let listing = 0;
async function list() {
  const number = ++listing, told = await call("entries", { search: element("search").value, most: LISTED });
  if (number !== listing) return;  // a later search is under way
  element("count").textContent = told.total.toLocaleString("en") + (told.total === 1 ? " entry" : " entries");
  element("entries").replaceChildren(...told.entries.map(({ id, text }) => {
    const item = made("li"), words = made("div"), button = made("button", "Erase");
    words.title = text;
    words.append(made("span", text), made("small", id));
    button.type = "button";
    button.setAttribute("aria-label", "Erase " + id);
    button.onclick = () => { button.disabled = true; erase(id); };
    item.append(words, button);
    return item;
  }));
  element("more").textContent = !told.found ? "nothing found" :
    told.found > told.entries.length ? told.found.toLocaleString("en") + " found; the first " + told.entries.length + " are shown" : "";
}

element("ask").onsubmit = (event) => { event.preventDefault(); ask(); };
element("write").onsubmit = (event) => { event.preventDefault(); write("write"); };
element("replace").onclick = () => write("replace");
element("id").oninput = () => { element("replace").hidden = true; };
element("search").oninput = () => trying("write-problem", list);
const memory = document.querySelector(".memory");
memory.ondragover = (event) => { event.preventDefault(); memory.classList.add("dropping"); };
memory.ondragleave = () => memory.classList.remove("dropping");
memory.ondrop = (event) => {
  event.preventDefault();
  memory.classList.remove("dropping");
  if (event.dataTransfer.files.length) writeFile(event.dataTransfer.files[0]);
};
for (const stray of ["dragover", "drop"]) document.addEventListener(stray, (event) => event.preventDefault());
trying("ask-problem", async () => {
  const about = await call("about");
  limits = about.limits;
  element("about").textContent = about.name + ": ask about what stands in memory; change it, and ask again.";
  element("question").placeholder = about.example;
  await list();
});
