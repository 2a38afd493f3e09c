// The live half of the page: asks for the figures once a second and shows them. Whatever came with
// an event goes in as text (textContent), never as markup.
"use strict";

(() => {
  const shim = document.body.dataset.shim;
  const at = (id) => document.getElementById(id);
  const whole = new Intl.NumberFormat("en");
  const short = (number) => number >= 1e6 ? (number / 1e6).toFixed(2) + " M" : whole.format(number);

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function duration(seconds) {
    const all = Math.round(seconds);
    return all < 60 ? `${all} s` : `${Math.floor(all / 60)} min ${String(all % 60).padStart(2, "0")} s`;
  }

  function row(cells) {
    const made = element("tr");
    for (const [text, className] of cells) {
      const cell = element("td", text, className);
      cell.title = text;
      made.append(cell);
    }
    return made;
  }

  function fill(id, rows, columns) {
    const body = at(id).tBodies[0];
    if (rows.length) return body.replaceChildren(...rows);
    const cell = element("td", "nothing yet: click through the demo site", "empty");
    cell.colSpan = columns;
    const empty = element("tr");
    empty.append(cell);
    return body.replaceChildren(empty);
  }

  function showChart(counts) {
    const peak = Math.max(1, ...counts);
    const bars = counts.map((count, index) => {
      const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      const height = count ? Math.max(2, count / peak * 118) : 1;
      for (const [name, value] of [["x", index * 10 + 1], ["width", 8], ["y", 120 - height], ["height", height]])
        bar.setAttribute(name, value);
      if (!count) bar.setAttribute("class", "none");
      return bar;
    });
    at("chart").replaceChildren(...bars);
    const most = Math.max(...counts);
    at("peak").textContent = most ? `most: ${whole.format(most)} a second` : "";
    const last = counts.slice(-5).reduce((sum, count) => sum + count, 0) / 5;
    at("rate").textContent = last && last < 10 ? last.toFixed(1) : whole.format(Math.round(last));
  }

  const counted = (n, one, many) => `${whole.format(n)} ${n === 1 ? one : many}`;

  function showLedger(ledger) {
    const card = at("ledger");
    const [verdict, details, list] = card.children;
    card.className = "ledger card " + (ledger.batches === 0 ? "waiting" : ledger.ok ? "good" : "bad");
    if (ledger.batches === 0) {
      verdict.textContent = "No batch has landed yet";
      details.textContent = "The first event makes the first one.";
    } else {
      verdict.textContent = ledger.ok ? "Batches tile the log: no gap, no overlap, no double" : "The ledger has a fault";
      details.textContent = `${counted(ledger.batches, "batch", "batches")}, ${counted(ledger.rows, "row", "rows")}: `
        + "each row of the table carries the range of the log it came from";
    }
    at("batches").textContent = `in ${counted(ledger.batches, "batch", "batches")}`;
    list.replaceChildren(...ledger.faults.map((fault) => element("li", fault)));
  }

  function showSessions(sessions, now) {
    const mine = at("site").contentWindow?.penstockSession;
    fill("sessions", sessions.map((session) => {
      const paths = session.entry_path === session.exit_path
        ? session.entry_path : `${session.entry_path} → ${session.exit_path}`;
      const made = row([
        [session.session_id.slice(0, 8), "mono"], [paths], [whole.format(session.page_views), "n"],
        [whole.format(session.events), "n"], [duration(session.engaged_seconds), "n"],
        [duration(Math.max(0, now - Date.parse(session.ended_at)) / 1000) + " ago", "n"],
      ]);
      if (session.session_id === mine) { made.className = "mine"; made.cells[0].textContent = "you"; }
      return made;
    }), 6);
  }

  function showPages(pages) {
    const most = Math.max(0.001, ...pages.map((page) => page.time_per_session));
    fill("pages", pages.map((page) => {
      const made = row([
        [page.path, "share"], [whole.format(page.views), "n"],
        [page.time_per_session ? duration(page.time_per_session) : "–", "n"],
      ]);
      made.cells[0].style.backgroundImage = "linear-gradient(var(--accent-soft), var(--accent-soft))";
      made.cells[0].style.backgroundSize = `${page.time_per_session / most * 100}% 100%`;
      return made;
    }), 3);
  }

  function showLag(lags) {
    at("lag").textContent = short(lags.reduce((sum, lag) => sum + lag.events, 0));
    const most = Math.max(100, ...lags.map((lag) => lag.events));
    at("lags").replaceChildren(...lags.map((lag) => {
      const line = element("div");
      const track = element("i"), bar = element("b");
      bar.style.width = `${lag.events / most * 100}%`;
      track.append(bar);
      line.append(element("span", lag.partition), track, element("span", whole.format(lag.events), "n"));
      return line;
    }));
  }

  const BROKERS = {
    embedded: "Kafka here is librdkafka's own broker, in memory. What it holds is lost when it stops, "
      + "and it keeps a few MB a partition: for a trial, not for keeps. For a durable one: make run KAFKA=apache",
    apache: "Kafka here is a real Apache Kafka, and durable: kill any part at any moment, and nothing "
      + "that was acknowledged is lost or doubled.",
    external: "Kafka is the one that the environment names: ",
  };

  function showStack(stack) {
    at("parts").replaceChildren(...stack.parts.map((part) => {
      const again = part.restarts ? ` (started again ${part.restarts}×)` : "";
      const made = element("li", part.name + again, part.state);
      made.title = part.state;
      return made;
    }));
    at("broker").textContent = BROKERS[stack.kafka] + (stack.kafka === "external" ? stack.bootstrap_servers : "");
    at("broker").classList.toggle("memory", stack.kafka === "embedded");
    at("notices").replaceChildren(...stack.notices.slice(-6).reverse().map((notice) =>
      element("li", `${new Date(notice.at).toLocaleTimeString()}  ${notice.text}`,
        notice.text.endsWith("gone") ? "loss" : "")));
  }

  function show(figures) {
    if (figures.chart) showChart(figures.chart);
    if (figures.ledger) showLedger(figures.ledger);
    if (figures.sessions) showSessions(figures.sessions, figures.at);
    if (figures.pages) showPages(figures.pages);
    if (figures.lag) showLag(figures.lag); else at("lag").textContent = "?";
    if (figures.stack) showStack(figures.stack);
    if (figures.totals) {
      at("events").textContent = short(figures.totals.events);
    }
    if (figures.freshness?.events) {
      at("fresh").textContent = `${figures.freshness.median_seconds.toFixed(1)} s`;
      at("freshest").textContent = `receipt to queryable; at most ${figures.freshness.most_seconds.toFixed(1)} s`;
    }
    at("troubles").textContent = figures.troubles.join(" · ");
  }

  async function look() {
    try {
      const reply = await fetch("/figures.json");
      show(await reply.json());
    } catch {
      at("troubles").textContent = "The page's server does not answer: has make run ended?";
    }
    const path = at("site").contentWindow?.location?.pathname;
    if (path) at("address").textContent = "shop.example" + path.replace("/site", "");
    setTimeout(look, 1000);
  }

  // Made-up visitors: they look at a page or two, and some buy.
  const PATHS = ["/", "/tools", "/tools/level", "/tools/gauge", "/journal", "/about"];
  const pick = (list) => list[Math.floor(Math.random() * list.length)];
  let visitors = [], rate = 0, owed = 0;
  const heard = { sent: 0, accepted: 0, refused: 0 };

  function visit() {
    if (visitors.length < 40 || Math.random() < 0.02)
      visitors = [...visitors.slice(-200), { id: crypto.randomUUID(), path: "", since: 0 }];
    const visitor = pick(visitors), now = Date.now();
    const event = { id: crypto.randomUUID(), session_id: visitor.id, created_at: now };
    if (visitor.path && Math.random() < 0.08)
      return { ...event, name: "purchase", path: visitor.path, value: (5 + Math.floor(Math.random() * 9500) / 100).toFixed(2) };
    const path = pick(PATHS);
    const view = { ...event, name: "screen_view", path };
    if (visitor.path) {
      view.previous_path = visitor.path;
      view.duration = Math.min(600, Math.round((now - visitor.since) / 1000));
    } else view.referrer = pick(["", "https://www.google.com/", "https://news.ycombinator.com/"]);
    visitor.path = path;
    visitor.since = now;
    return view;
  }

  async function post(events) {
    heard.sent += events.length;
    try {
      const reply = await fetch(`${shim}/v1/events?key=demo-public`, {
        method: "POST", headers: { "Content-Type": "text/plain" },
        body: JSON.stringify({ events, sent_at: Date.now() }),
      });
      if (reply.ok) heard.accepted += (await reply.json()).accepted;
      else heard.refused += events.length;
    } catch { heard.refused += events.length; }
    at("answers").textContent = `${whole.format(heard.accepted)} of ${whole.format(heard.sent)} acknowledged`
      + (heard.refused ? `, ${whole.format(heard.refused)} refused or unanswered` : "");
  }

  setInterval(() => {
    owed += rate / 5;
    while (owed >= 1) {
      const events = Array.from({ length: Math.min(50, Math.floor(owed)) }, visit);
      owed -= events.length;
      post(events);
    }
  }, 200);

  for (const button of document.querySelectorAll("[data-rate]")) {
    button.addEventListener("click", () => {
      rate = Number(button.dataset.rate);
      owed = 0;
      for (const other of document.querySelectorAll("[data-rate]"))
        other.setAttribute("aria-pressed", String(other === button));
    });
  }

  at("curl").textContent = `curl '${shim}/v1/events?key=demo-secret' \\\n`
    + `  -H 'Content-Type: application/json' \\\n  -d '{"session_id": "terminal", "name": "screen_view", "path": "/hello"}'`;
  look();
})();
