// The shop page's behaviour: sends the form to the contract that every client uses and shows the response.
// Content is only ever set as text, never as markup.
"use strict";

const byId = (id) => document.getElementById(id);
const FIELDS = ["name", "address", "flower"];
// An instance that is being replaced responds with 503, or not at all, for a moment; with one key an order
// can be sent again without becoming two.
const TRIES = 4;
const LONGEST_PAUSE_SECONDS = 5;
// Longer than the service's time limit for its store.
const TIMEOUT_MS = 20000;

function show(place, kind, text) {
  place.className = "answer " + kind;
  place.textContent = text;
}

async function ask(path, options) {
  const response = await fetch(path, { signal: AbortSignal.timeout(TIMEOUT_MS), ...options });
  const body = await response.json().catch(() => ({}));
  const { ok, status, headers } = response;
  return { ok, status, body, pause: Number(headers.get("retry-after")) };
}

// Retries while the service is down or too busy; calls `waiting` before each pause.
async function askWithRetries(path, options, waiting) {
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

// Handles one submission per form at a time: another press of its button does nothing. The button is not
// disabled, which would take away the keyboard focus.
function onSubmit(form, work) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (form.getAttribute("aria-busy") === "true") return;
    form.setAttribute("aria-busy", "true");
    const answer = form.querySelector(".answer");
    show(answer, "", "");
    try {
      await work(answer, event);
    } catch {
      show(answer, "bad", "The shop does not answer. Please try again in a moment.");
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

// crypto.randomUUID is missing if the page was loaded over plain HTTP.
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

// The order that was sent last without a response, and its key: sending it again with the key is the same
// order.
let unanswered = null;

onSubmit(byId("order"), async (answer) => {
  const form = byId("order");
  const body = JSON.stringify(Object.fromEntries(new FormData(form)));
  if (!unanswered || unanswered.body !== body) unanswered = { body, key: newKey() };
  show(answer, "", "Sending your order…");
  const options = {
    method: "POST",
    headers: { "content-type": "application/json", "idempotency-key": unanswered.key },
    body,
  };
  // The order may have arrived even if the response did not.
  const unknown = () =>
    show(answer, "bad", "The shop does not answer, and may have your order already. Please press the button again: it stays one order.");
  const asked = await askWithRetries("order", options, () =>
    show(answer, "", "The shop is busy. Trying again, please wait…"),
  ).catch(() => null);
  if (!asked || asked.status >= 500) {
    showFaults(form, FIELDS, []);
    unknown();
    return;
  }
  const { ok, status, body: result } = asked;
  unanswered = null;
  showFaults(form, FIELDS, result.errors || []);
  if (!ok) {
    show(answer, "bad", "Not ordered: " + (result.detail || "please try again") + ".");
    if (status === 401) document.dispatchEvent(new CustomEvent("session-ended"));
    return;
  }
  show(answer, "", "");
  byId("number").textContent = result.id;
  byId("receipt").textContent = result.receipt_secret || "";
  byId("id").value = result.id;
  byId("secret").value = result.receipt_secret || "";
  form.hidden = true;
  byId("thanks").hidden = false;
  byId("thanks-title").focus();
  document.dispatchEvent(new CustomEvent("ordered"));
});

byId("another").addEventListener("click", () => {
  // Name and address stay, since repeated orders mostly have the same ones.
  byId("thanks").hidden = true;
  byId("order").hidden = false;
  byId("order").querySelector("input:checked, input").focus();
});

// Only available if the page was loaded over TLS.
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
  // Not in the path, since paths are logged.
  const headers = receipt ? { authorization: "Bearer " + receipt } : {};
  const { ok, status, body } = await ask("order/" + encodeURIComponent(id), { headers });
  if (!ok) {
    const reason = { 403: "This is not the receipt of this order.", 404: "There is no order with this number." };
    show(answer, "bad", reason[status] || body.detail || "Please try again.");
    return;
  }
  if (body.name === undefined) {
    show(answer, "good", "We have it. Enter its receipt to see the whole order.");
    showPairs(byId("found"), [["Received", dateAndTime(body.received_at)]]);
    return;
  }
  show(answer, "good", "Here it is.");
  showPairs(byId("found"), [
    ["Flowers", flowerTitle(body.flower)],
    ["For", body.name],
    ["Address", body.address],
    ["Received", dateAndTime(body.received_at)],
  ]);
});
