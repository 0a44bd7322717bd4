// Keeps the page up to date in place, and asks for objects again. Sets texts and attributes only, never markup.
"use strict";

const byId = (id) => document.getElementById(id);

function setText(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}

// --- updates ---------------------------------------------------------------------------------------------------

const show = {
  state({ tone, word, text }) {
    byId("state").className = `state ${tone}`;
    setText(byId("state-word"), word);
    setText(byId("state-text"), text);
    document.title = `${word} · Cross-Cloud Replicator`;
  },
  texts(texts) {
    for (const [name, text] of Object.entries(texts)) setText(byId(`text-${name}`), text);
    setText(byId("updated"), texts.updated);
  },
  tones(tones) {
    for (const [name, tone] of Object.entries(tones)) byId(`tile-${name}`).classList.toggle("bad", tone === "bad");
  },
  charts(charts) {
    for (const [name, { top, first, second, title }] of Object.entries(charts)) {
      setText(byId(`chart-${name}-top`), top);
      setText(byId(`chart-${name}-title`), title);
      byId(`chart-${name}-first`).setAttribute("d", first);
      byId(`chart-${name}-second`).setAttribute("d", second);
    }
  },
  tables(tables) {
    for (const [name, rows] of Object.entries(tables)) showRows(name, rows);
    byId("paused-section").hidden = tables.paused.length === 0;
  },
};

const drawn = {};

function showRows(name, rows) {
  const body = byId(`rows-${name}`);
  if (!body) return;
  const empty = byId(`${name}-empty`);
  if (empty) empty.hidden = rows.length > 0;
  byId(`table-${name}`).hidden = rows.length === 0;
  const titles = [...byId(`table-${name}`).querySelectorAll("thead th")].map((title) => title.textContent);
  const before = drawn[name] || [];
  const texts = rows.map((row) => JSON.stringify(row));
  drawn[name] = texts;
  // Row by row, and a row that is as it was stays: what somebody reads, selects or has in focus must not vanish.
  texts.forEach((text, index) => {
    if (text === before[index]) return;
    const old = body.rows[index];
    if (!old) body.append(rowOf(rows[index], titles));
    else if (!updated(old, rows[index])) old.replaceWith(rowOf(rows[index], titles));
  });
  while (body.rows.length > rows.length) body.rows[body.rows.length - 1].remove();
}

// Changes the row in place when it is of the same thing; whether it was.
function updated(row, cells) {
  const index = cells.findIndex((cell) => cell.head);
  const head = row.cells[index];
  if (!head || head.dataset.text !== cells[index].text) return false;
  cells.forEach((cell, column) => {
    if (column !== index) row.cells[column].replaceWith(cellOf(cell, row.cells[column].dataset.title));
  });
  return true;
}

function rowOf(cells, titles) {
  const row = document.createElement("tr");
  row.setAttribute("role", "row");
  row.append(...cells.map((cell, column) => cellOf(cell, titles[column])));
  return row;
}

function cellOf(cell, title) {
  const element = document.createElement(cell.head ? "th" : "td");
  element.setAttribute("role", cell.head ? "rowheader" : "cell");
  element.dataset.title = title;
  if (cell.head) element.scope = "row";
  if (cell.class) element.className = cell.class;
  element.dataset.text = cell.text;
  if (cell.part !== undefined) {
    const bar = document.createElement("progress");
    bar.max = 1;
    bar.value = cell.part;
    bar.setAttribute("aria-label", "copied");
    element.append(bar, " ");
  }
  if (cell.class === "name") {
    const name = document.createElement("bdi");
    name.textContent = cell.text;
    element.append(name);
  } else {
    element.append(cell.text);
  }
  if (cell.more) {
    const more = document.createElement("small");
    more.textContent = cell.more;
    element.append(" ", more);
  }
  if (cell.replay) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Again…";
    button.setAttribute("aria-label", `Again: ${cell.text}`);
    button.addEventListener("click", () => fill(...cell.replay));
    element.append(button);
  }
  return element;
}

const hold = byId("hold");
let source = null;
let later = 0;

function follow() {
  clearTimeout(later);
  source = new EventSource("/ui/events");
  source.addEventListener("message", (message) => {
    setText(byId("live"), "Updates by itself.");
    for (const [section, value] of Object.entries(JSON.parse(message.data))) show[section](value);
  });
  source.addEventListener("error", () => {
    setText(byId("live"), "No connection: these are old numbers; it is tried again.");
    // The browser tries again by itself, but not after an answer that is no stream, as when too many follow.
    if (source.readyState === EventSource.CLOSED) later = setTimeout(follow, 10000);
  });
}

function rest() {
  clearTimeout(later);
  if (source) source.close();
  source = null;
}

hold.hidden = false;
hold.addEventListener("click", () => {
  const held = hold.getAttribute("aria-pressed") !== "true";
  hold.setAttribute("aria-pressed", String(held));
  if (held) {
    rest();
    setText(byId("live"), "Held: these numbers stand still.");
  } else {
    follow();
  }
});

// Nobody looks at a hidden page: it gives its place to others.
document.addEventListener("visibilitychange", () => {
  if (hold.getAttribute("aria-pressed") === "true") return;
  rest();
  if (!document.hidden) follow();
});

follow();

// --- replicating a key again -------------------------------------------------------------------------------------

const form = byId("replay");
const send = form.querySelector("button");
const answer = byId("replay-answer");
send.disabled = false;

function fill(bucket, key) {
  form.elements.bucket.value = bucket;
  form.elements.key.value = key;
  const token = form.elements.token;
  (token && !token.value ? token : send).focus();
}

function say(text, tone) {
  answer.className = tone;
  setText(answer, text);
}

function inWords(detail) {
  return Array.isArray(detail) ? detail.map(({ loc, msg }) => `${loc.at(-1)}: ${msg}`).join("; ") : String(detail);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { bucket, key, token } = form.elements;
  const headers = { "Content-Type": "application/json" };
  if (token) {
    // A header holds bytes: those of the token in UTF-8.
    const bytes = new TextEncoder().encode(token.value);
    headers.Authorization = `Bearer ${String.fromCharCode(...bytes)}`;
  }
  send.disabled = true;
  say("Asking …", "");
  try {
    const body = JSON.stringify({ s3_bucket: bucket.value, s3_key: key.value });
    const options = { method: "POST", headers, body, credentials: "omit", redirect: "error" };
    const response = await fetch("/v1/replicate", options);
    const told = await response.json();
    say(response.ok ? told.message : inWords(told.detail), response.ok ? "good" : "bad");
  } catch (error) {
    say(`No answer: ${error.message}`, "bad");
  } finally {
    send.disabled = false;
    send.focus();
  }
});
