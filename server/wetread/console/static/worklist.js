// Keeps the worklist live. Without script the page reloads itself instead.
"use strict";

const PERIOD_MS = 2000;
const region = document.getElementById("worklist");
const state = document.getElementById("live-state");
let lastText = null;
let known = null;
let updatedAt = new Date();

async function refresh() {
  // Nobody looks at a hidden page, and every look at something new is put on record.
  if (!document.hidden) {
    try {
      const headers = known ? { "If-None-Match": known } : {};
      const answer = await fetch(region.dataset.source, { redirect: "manual", cache: "no-store", headers });
      if (answer.type === "opaqueredirect") {
        window.location.assign("/login");
        return;
      }
      if (answer.status === 304) {
        show(lastText);
      } else {
        if (!answer.ok) throw new Error(String(answer.status));
        show(await answer.text());
        known = answer.headers.get("ETag");
      }
    } catch {
      state.textContent = `NOT LIVE: the server does not answer; the list is of ${updatedAt.toLocaleTimeString()}.`;
      state.classList.add("stale");
    }
  }
  setTimeout(refresh, PERIOD_MS);
}

function show(text) {
  updatedAt = new Date();
  if (text !== lastText) {
    const focused = document.activeElement?.id;
    // The server escapes all values; the fragment is of this origin.
    region.innerHTML = text;
    if (focused) document.getElementById(focused)?.focus();
    lastText = text;
  }
  const summary = region.querySelector("[data-summary]").dataset.summary;
  // A live region speaks when its text changes: only when the counts do.
  if (state.textContent !== summary) state.textContent = summary;
  state.classList.remove("stale");
}

setTimeout(refresh, PERIOD_MS);
