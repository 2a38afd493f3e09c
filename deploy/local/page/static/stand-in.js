// A stand-in for the browser SDK: page views (also by the history API), the active time on each
// page, and custom events. An event that was not acknowledged is sent again under its own id, which
// the tables count once.
"use strict";

(() => {
  const { shim, key, base } = document.currentScript.dataset;
  const url = `${shim}/v1/events?key=${encodeURIComponent(key)}`;
  const session = sessionStorage.penstockSession ||= crypto.randomUUID();
  window.penstockSession = session;

  let waiting = [], sending = false, retryMilliseconds = 500;
  let path = "", activeSince = 0, activeMilliseconds = 0;

  const here = () => location.pathname.slice(base.length) || "/";
  const say = (text) => window.penstock.onAnswer?.(text);

  // Whole seconds of attention since the last call; the rest is kept for the next.
  function takeSeconds() {
    const now = performance.now();
    if (activeSince) activeMilliseconds += now - activeSince;
    activeSince = document.visibilityState === "visible" ? now : 0;
    const seconds = Math.floor(activeMilliseconds / 1000);
    activeMilliseconds -= seconds * 1000;
    return seconds;
  }

  function track(name, more) {
    waiting.push({ id: crypto.randomUUID(), session_id: session, name, path: here(), created_at: Date.now(), ...more });
    if (waiting.length > 500) waiting.shift();
    send();
  }

  function view() {
    if (here() === path) return;
    const left = path ? { previous_path: path, duration: takeSeconds() } : { referrer: document.referrer };
    if (!path) takeSeconds();
    activeMilliseconds = 0;
    path = here();
    track("screen_view", left);
  }

  function leave() {
    const seconds = takeSeconds();
    if (path && seconds) track("page_leave", { path, previous_path: path, duration: seconds });
  }

  async function send() {
    if (sending || !waiting.length) return;
    sending = true;
    const events = waiting.slice(0, 50);
    let again = true;
    try {
      const reply = await fetch(url, {
        method: "POST", keepalive: true, headers: { "Content-Type": "text/plain" },
        body: JSON.stringify({ events, sent_at: Date.now() }),
      });
      again = reply.status === 429 || reply.status >= 500;
      say(`${events.map((event) => event.name).join(", ")}: ${reply.status}`);
    } catch { say("the shim does not answer; trying again"); }
    sending = false;
    if (again) {
      setTimeout(send, retryMilliseconds);
      retryMilliseconds = Math.min(retryMilliseconds * 2, 10_000);
    } else {
      waiting = waiting.slice(events.length);
      retryMilliseconds = 500;
      send();
    }
  }

  const push = history.pushState;
  history.pushState = function (...all) {
    const result = push.apply(this, all);
    view();
    return result;
  };
  addEventListener("popstate", view);
  addEventListener("pagehide", leave);
  document.addEventListener("visibilitychange", () => document.visibilityState === "hidden" ? leave() : takeSeconds());
  window.penstock = { track, onAnswer: null };
  view();
})();
