// The shop page's behaviour: sends the form to the same contract every client uses, shows the
// answer. Content is only ever set as text, never as markup.
"use strict";

const byId = (id) => document.getElementById(id);
const FIELDS = ["name", "address", "flower"];
// A box that is being replaced answers 503, or not at all, for a moment; under one key an order can
// be sent again without becoming two.
const TRIES = 4;
const LONGEST_PAUSE_SECONDS = 5;
// Longer than the service lets its store take.
const PATIENCE_MS = 20000;

function say(place, kind, text) {
  place.className = "answer " + kind;
  place.textContent = text;
}

async function ask(path, options) {
  const response = await fetch(path, { signal: AbortSignal.timeout(PATIENCE_MS), ...options });
  const body = await response.json().catch(() => ({}));
  const { ok, status, headers } = response;
  return { ok, status, body, pause: Number(headers.get("retry-after")) };
}

// Asks again while the service is away or too busy; `waiting` is told before each pause.
async function askPatiently(path, options, waiting) {
  for (let tried = 1; ; tried += 1) {
    let answer = null;
    try {
      answer = await ask(path, options);
    } catch (error) {
      if (tried === TRIES) throw error;
    }
    if (answer && (answer.status !== 503 || tried === TRIES)) return answer;
    waiting();
    const seconds = Math.min((answer && answer.pause) || tried, LONGEST_PAUSE_SECONDS);
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  }
}

// One piece of work at a time for each form: a second press of its button changes nothing. The
// button is not disabled, for that would take the keyboard's focus away.
function onSubmit(form, work) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (form.getAttribute("aria-busy") === "true") return;
    form.setAttribute("aria-busy", "true");
    const answer = form.querySelector(".answer");
    say(answer, "", "");
    try {
      await work(answer, event);
    } catch {
      say(answer, "bad", "The shop does not answer. Please try again in a moment.");
    } finally {
      form.removeAttribute("aria-busy");
    }
  });
}

function showFaults(form, fields, faults) {
  let first = null;
  for (const field of fields) {
    const inputs = form.querySelectorAll(`[name="${field}"]`);
    const fault = faults.find((candidate) => candidate.field === field);
    byId(field + "-fault").textContent = fault ? "This " + fault.message + "." : "";
    for (const input of inputs) {
      if (fault) input.setAttribute("aria-invalid", "true");
      else input.removeAttribute("aria-invalid");
    }
    if (fault && !first) first = inputs[0];
  }
  if (first) first.focus();
}

// crypto.randomUUID is missing where the page came over plain HTTP.
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + ".";
}

function flowerTitle(flower) {
  const words = flower.replace(/[_-]/g, " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

function dateAndTime(text) {
  return new Date(text).toLocaleString([], { dateStyle: "long", timeStyle: "short" });
}

// --- placing an order ---------------------------------------------------------------------------

// The order that was sent last and has no answer yet, and the key it was sent under: sending the same
// again is the same order.
let unanswered = null;

onSubmit(byId("order"), async (answer) => {
  const form = byId("order");
  const body = JSON.stringify(Object.fromEntries(new FormData(form)));
  if (!unanswered || unanswered.body !== body) unanswered = { body, key: newKey() };
  say(answer, "", "Sending your order…");
  const options = {
    method: "POST",
    headers: { "content-type": "application/json", "idempotency-key": unanswered.key },
    body,
  };
  // It may have arrived all the same: only its answer is missing.
  const unknown = () =>
    say(answer, "bad", "The shop does not answer, and may have your order already. Please press the button again: it stays one order.");
  const asked = await askPatiently("order", options, () =>
    say(answer, "", "The shop is busy. Trying again, please wait…"),
  ).catch(() => null);
  if (!asked || asked.status >= 500) {
    showFaults(form, FIELDS, []);
    unknown();
    return;
  }
  const { ok, status, body: said } = asked;
  unanswered = null;
  showFaults(form, FIELDS, said.errors || []);
  if (!ok) {
    say(answer, "bad", "Not ordered: " + (said.detail || "please try again") + ".");
    if (status === 401) document.dispatchEvent(new CustomEvent("stranger"));
    return;
  }
  say(answer, "", "");
  byId("number").textContent = said.id;
  byId("receipt").textContent = said.receipt_secret || "";
  byId("id").value = said.id;
  byId("secret").value = said.receipt_secret || "";
  form.hidden = true;
  byId("thanks").hidden = false;
  byId("thanks-title").focus();
  document.dispatchEvent(new CustomEvent("ordered"));
});

byId("another").addEventListener("click", () => {
  // Name and address stay: whoever orders twice mostly orders for one door.
  byId("thanks").hidden = true;
  byId("order").hidden = false;
  byId("order").querySelector("input:checked, input").focus();
});

// Only there where the page came over TLS.
if (navigator.clipboard) {
  const copy = byId("copy");
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    try {
      const lines = ["Order number: " + byId("number").textContent, "Receipt: " + byId("receipt").textContent];
      await navigator.clipboard.writeText(lines.join("\n"));
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(byId("number"));
    }
  });
}

// --- finding an order ---------------------------------------------------------------------------

function showPairs(list, pairs) {
  list.replaceChildren();
  for (const [title, value] of pairs) {
    const term = document.createElement("dt");
    const detail = document.createElement("dd");
    term.textContent = title;
    detail.textContent = value;
    list.append(term, detail);
  }
  list.hidden = false;
}

onSubmit(byId("lookup"), async (answer) => {
  byId("found").hidden = true;
  const id = byId("id").value.trim().toLowerCase();
  const receipt = byId("secret").value.trim();
  // Never in the path: paths are logged on the way.
  const headers = receipt ? { authorization: "Bearer " + receipt } : {};
  const { ok, status, body } = await ask("order/" + encodeURIComponent(id), { headers });
  if (!ok) {
    const reason = { 403: "This is not the receipt of this order.", 404: "There is no order with this number." };
    say(answer, "bad", reason[status] || body.detail || "Please try again.");
    return;
  }
  if (body.name === undefined) {
    say(answer, "good", "We have it. Its receipt shows what it says, too.");
    showPairs(byId("found"), [["Received", dateAndTime(body.received_at)]]);
    return;
  }
  say(answer, "good", "Here it is.");
  showPairs(byId("found"), [
    ["Flowers", flowerTitle(body.flower)],
    ["For", body.name],
    ["Address", body.address],
    ["Received", dateAndTime(body.received_at)],
  ]);
});
