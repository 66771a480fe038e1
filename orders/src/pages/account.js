// The account part of the shop page, included if accounts are on. The session is a cookie that scripts
// cannot read, so the service is asked whether there is one.
"use strict";

const PEOPLE_FIELDS = ["login", "password"];
// The last order shown; older ones follow it.
let oldest = null;

function showInside(login) {
  byId("account").hidden = Boolean(login);
  byId("inside").hidden = !login;
  byId("who").textContent = login || "";
  byId("history").replaceChildren();
  byId("none").hidden = false;
  byId("older").hidden = true;
  oldest = null;
}

async function showOrders() {
  const path = oldest ? "account/orders?before=" + oldest : "account/orders";
  const { ok, status, body } = await ask(path);
  if (status === 401) showInside(null);
  if (!ok) return;
  for (const order of body.orders) {
    const entry = document.createElement("li");
    const flower = document.createElement("strong");
    const when = document.createElement("span");
    const find = document.createElement("button");
    flower.textContent = flowerTitle(order.flower);
    when.textContent = dateAndTime(order.received_at) + ", for " + order.name;
    find.type = "button";
    find.className = "quiet";
    find.textContent = "Show";
    find.setAttribute("aria-label", "Show the order of " + dateAndTime(order.received_at));
    find.addEventListener("click", () => {
      byId("id").value = order.id;
      // The session gives access, without a receipt.
      byId("secret").value = "";
      byId("lookup").requestSubmit();
      byId("lookup-title").scrollIntoView({ block: "nearest" });
    });
    entry.append(flower, when, find);
    byId("history").append(entry);
  }
  byId("none").hidden = byId("history").childElementCount > 0;
  byId("older").hidden = !body.next;
  oldest = body.next || oldest;
}

async function enter(login) {
  showInside(login);
  if (login) await showOrders();
}

onSubmit(byId("account"), async (answer, event) => {
  const form = byId("account");
  const path = event.submitter && event.submitter.value === "register" ? "account" : "session";
  const { ok, body } = await ask(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(Object.fromEntries(new FormData(form))),
  });
  showFaults(form, PEOPLE_FIELDS, body.errors || []);
  if (!ok) {
    show(answer, "bad", sentence(body.detail || "please try again"));
    return;
  }
  form.reset();
  await enter(body.login);
  byId("account-title").focus();
});

onSubmit(byId("out"), async (answer) => {
  const { ok, body } = await ask("session", { method: "DELETE" });
  if (!ok) {
    show(answer, "bad", sentence(body.detail || "please try again"));
    return;
  }
  // An order shown by the session must not stay visible.
  byId("found").hidden = true;
  byId("found").replaceChildren();
  byId("secret").value = "";
  showInside(null);
  byId("login").focus();
});

byId("older").addEventListener("click", () => showOrders().catch(() => {}));
document.addEventListener("ordered", () => {
  if (byId("inside").hidden) return;
  enter(byId("who").textContent).catch(() => {});
});
// The service reported that the session has ended; logging out removes the cookie.
document.addEventListener("session-ended", () => {
  showInside(null);
  ask("session", { method: "DELETE" }).catch(() => {});
});

ask("session").then(({ body }) => enter(body.login)).catch(() => {});
