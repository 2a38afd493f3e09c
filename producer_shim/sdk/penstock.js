/* Penstock for web pages: page views, active time per page, and events of your own.
 *
 *   <script defer src="https://collect.example/penstock.js" data-key="public key"></script>
 *   penstock.track("signup", { value: "19.90", properties: { plan: "pro" } });
 *
 * It stores one thing in the browser: a session id with the time of the last activity, in
 * localStorage, for 30 minutes after that activity. No cookie, nothing across sites.
 *
 * An event has its id before it is first sent, and keeps it: sent again after a failure, it is
 * still one event. What cannot be sent before the page is gone for good is lost, as is what more
 * than 200 waiting events push out.
 */
(function () {
  "use strict";
  var script = document.currentScript;
  if (!script || !script.dataset.key || window.penstock) return;

  var url = new URL("/v1/events", script.src);
  url.searchParams.set("key", script.dataset.key);
  var SESSION_MS = 30 * 60 * 1000;
  var MOST_WAITING = 200;
  var MOST_A_POST = 50;
  var MOST_TEXT = 2048;

  // --- the session: a random id that ends after 30 minutes without activity

  var memory = null; // where there is no storage, the page is the session

  function sessionId() {
    var now = Date.now();
    var held = memory;
    try {
      held = JSON.parse(localStorage.getItem("penstock")) || held;
    } catch (refused) {}
    if (!held || !held.id || now - held.at > SESSION_MS) held = { id: uuid() };
    held.at = now;
    memory = held;
    try {
      localStorage.setItem("penstock", JSON.stringify(held));
    } catch (refused) {}
    return held.id;
  }

  function uuid() {
    if (crypto.randomUUID) return crypto.randomUUID();
    var bytes = crypto.getRandomValues(new Uint8Array(16)); // pages without https
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    var hex = Array.from(bytes, function (b) {
      return (b + 256).toString(16).slice(1);
    }).join("");
    return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
  }

  // --- active time: the seconds in which the page was visible and not yet reported

  var activeMs = 0;
  var visibleSince = document.visibilityState === "visible" ? performance.now() : null;

  function takeSeconds() {
    if (visibleSince !== null) {
      activeMs += performance.now() - visibleSince;
      visibleSince = performance.now();
    }
    var seconds = Math.floor(activeMs / 1000);
    activeMs -= seconds * 1000; // the rest counts for the next report
    return seconds;
  }

  // --- events

  var waiting = [];
  var sending = false;
  var failures = 0;
  var timer = null;

  function track(name, members) {
    waiting.push(
      Object.assign(
        { path: page },
        members,
        { id: uuid(), session_id: sessionId(), name: name, created_at: Date.now() },
      ),
    );
    if (waiting.length > MOST_WAITING) waiting.shift();
    later(50);
  }

  function later(ms) {
    if (!timer && !sending) timer = setTimeout(send, ms);
  }

  function body(events) {
    return JSON.stringify({ events: events, sent_at: Date.now() });
  }

  function send() {
    timer = null;
    if (sending || !waiting.length) return;
    sending = true;
    var events = waiting.slice(0, MOST_A_POST);
    fetch(url, {
      method: "POST",
      body: body(events),
      headers: { "Content-Type": "text/plain" }, // no preflight
      credentials: "omit",
      keepalive: true,
    }).then(
      function (answer) {
        if (answer.status !== 503 && answer.status !== 429) return done(events, 0);
        var seconds = Number(answer.headers.get("Retry-After")) || 0;
        return answer.json().then(
          function (told) {
            var kept = (told.results || []).filter(function (one) {
              return one.status !== "retry" && one.id;
            });
            var ids = kept.map(function (one) {
              return one.id;
            });
            var over = events.filter(function (event) {
              return ids.indexOf(event.id) >= 0;
            });
            done(over, seconds * 1000, true);
          },
          function () {
            done([], seconds * 1000, true);
          },
        );
      },
      function () {
        done([], 0, true);
      },
    );
  }

  // `over`: events that need not be sent again.
  function done(over, waitMs, failed) {
    sending = false;
    waiting = waiting.filter(function (event) {
      return over.indexOf(event) < 0;
    });
    failures = failed ? failures + 1 : 0;
    var backoff = failed ? Math.min(60000, 1000 * Math.pow(2, failures)) : 0;
    if (waiting.length) later(Math.max(waitMs, backoff * (0.5 + Math.random() / 2)));
  }

  // The page may be about to go: hand what waits to the browser. The same ids may be under way
  // already, or be sent again if the page lives on: it is one event each all the same.
  function handOver() {
    if (!waiting.length) return;
    var text = body(waiting.slice(-MOST_A_POST));
    try {
      fetch(url, { method: "POST", body: text, credentials: "omit", keepalive: true }).catch(
        function () {},
      );
    } catch (refused) {
      navigator.sendBeacon(url, text);
    }
  }

  // --- page views

  var page = here();

  function here() {
    return (location.pathname + location.search).slice(0, MOST_TEXT);
  }

  function viewed(previous, seconds, referrer) {
    var members = { path: page, previous_path: previous, duration: seconds };
    if (referrer) members.referrer = referrer.slice(0, MOST_TEXT);
    track("screen_view", members);
  }

  function moved() {
    var next = here();
    if (next === page) return;
    var previous = page;
    var seconds = takeSeconds();
    page = next;
    viewed(previous, seconds);
  }

  function left() {
    var seconds = takeSeconds();
    if (seconds > 0) track("page_leave", { path: page, previous_path: page, duration: seconds });
    handOver();
  }

  ["pushState", "replaceState"].forEach(function (method) {
    var original = history[method];
    history[method] = function () {
      var result = original.apply(this, arguments);
      moved();
      return result;
    };
  });
  addEventListener("popstate", moved);
  addEventListener("pagehide", left);
  document.addEventListener("visibilitychange", function () {
    if (document.visibilityState === "hidden") {
      left();
      visibleSince = null;
    } else {
      visibleSince = performance.now();
    }
  });

  window.penstock = { track: track };

  var from = document.referrer ? new URL(document.referrer) : null;
  var inside = from && from.origin === location.origin;
  viewed(
    inside ? (from.pathname + from.search).slice(0, MOST_TEXT) : "",
    0, // the page before has reported its own time when it was left
    inside ? "" : document.referrer,
  );
})();
