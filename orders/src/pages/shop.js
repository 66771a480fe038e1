// The shop page's behaviour: sends the form to the same contract every client uses, shows the
// answer. Content is only ever set as text, never as markup.
"use strict";

const byId = (id) => document.getElementById(id);
const FIELDS = ["name", "address", "flower"];

function say(place, kind, text) {
  place.className = "answer " + kind;
  place.textContent = text;
}

function showFaults(faults) {
  for (const field of FIELDS) {
    const fault = faults.find((candidate) => candidate.field === field);
    byId(field + "-fault").textContent = fault ? "This " + fault.message + "." : "";
    if (fault) byId(field).setAttribute("aria-invalid", "true");
    else byId(field).removeAttribute("aria-invalid");
  }
  const first = FIELDS.find((field) => byId(field).hasAttribute("aria-invalid"));
  if (first) byId(first).focus();
}

async function ask(path, options) {
  const response = await fetch(path, options);
  const body = await response.json().catch(() => ({}));
  return { ok: response.ok, status: response.status, body };
}

async function whileBusy(form, work) {
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    await work();
  } finally {
    button.disabled = false;
  }
}

byId("order").addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target;
  const answer = byId("order-answer");
  whileBusy(form, async () => {
    try {
      const { ok, body } = await ask("order", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(Object.fromEntries(new FormData(form))),
      });
      showFaults(body.errors || []);
      if (ok) {
        say(answer, "good", "Thank you! Your order number is " + body.id);
        byId("id").value = body.id;
        form.reset();
        answer.focus();
      } else {
        say(answer, "bad", "Not ordered: " + (body.detail || "please try again."));
      }
    } catch {
      say(answer, "bad", "The shop does not answer. Please try again in a moment.");
    }
  });
});

byId("lookup").addEventListener("submit", (event) => {
  event.preventDefault();
  const answer = byId("lookup-answer");
  const found = byId("found");
  found.hidden = true;
  found.replaceChildren();
  say(answer, "", "");
  whileBusy(event.target, async () => {
    try {
      const id = byId("id").value.trim();
      const { ok, status, body } = await ask("order/" + encodeURIComponent(id));
      if (!ok) {
        const reason = status === 404 ? "There is no order with this number." : body.detail;
        say(answer, "bad", reason || "Please try again.");
        return;
      }
      const shown = { Name: body.name, Address: body.address, Flowers: body.flower.replaceAll("_", " "), Received: new Date(body.received_at).toLocaleString() };
      for (const [title, value] of Object.entries(shown)) {
        const term = document.createElement("dt");
        const detail = document.createElement("dd");
        term.textContent = title;
        detail.textContent = value;
        found.append(term, detail);
      }
      found.hidden = false;
    } catch {
      say(answer, "bad", "The shop does not answer. Please try again in a moment.");
    }
  });
});
