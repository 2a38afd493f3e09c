// A small shop whose pages are made in the browser: navigation goes through the history API, as in
// most sites of today, and its goals are custom events.
"use strict";

(() => {
  const BASE = "/site";
  const WARES = {
    level: { name: "Brass level", price: "24.50", text: "Reads the pond to the millimetre, and the pipe to the degree." },
    gauge: { name: "Flow gauge", price: "89.00", text: "Counts every litre once. Never twice, and never not at all." },
    gate: { name: "Oak gate", price: "310.00", text: "Holds the water back until what is below has asked for it." },
  };
  const TEXTS = {
    "/": ["Water, counted.", "Instruments for people who want to know where every drop went. Since 1871.", true],
    "/tools": ["Tools", "Three things you need, and nothing you do not.", true],
    "/journal": ["Journal", "On the difference between a leak and an evaporation: both leave the pond lower, and only one of them "
      + "can be found by walking along the pipe. We walk along the pipe. Stay a while on this page, then go to another: the "
      + "time you spent here shows up beside it.", false],
    "/about": ["About us", "Two sons, one daughter, and a very long pipe.", false],
  };
  const page = document.getElementById("page");

  function element(name, text) {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
  }

  function button(text, action, className) {
    const made = element("button", text);
    made.type = "button";
    made.className = className || "";
    made.addEventListener("click", action);
    return made;
  }

  function wares() {
    const list = document.createElement("ul");
    list.className = "wares";
    for (const [key, ware] of Object.entries(WARES)) {
      const link = document.createElement("a");
      link.href = `${BASE}/tools/${key}`;
      link.append(element("b", ware.name), element("span", `€ ${ware.price}`));
      const item = document.createElement("li");
      item.append(link);
      list.append(item);
    }
    return list;
  }

  function show() {
    const path = location.pathname.slice(BASE.length).replace(/(.)\/$/, "$1") || "/";
    const ware = WARES[path.replace("/tools/", "")];
    const [title, text, list] = ware ? [ware.name, ware.text, false] : TEXTS[path] || ["Not here", "The page you want has flowed on.", true];
    page.replaceChildren(element("h1", title), element("p", text));
    if (list) page.append(wares());
    if (ware) {
      const buttons = document.createElement("div");
      buttons.className = "buttons";
      buttons.append(
        button(`Buy for € ${ware.price}`, () => penstock.track("purchase", { value: ware.price, properties: { ware: ware.name } })),
        button("Remember it", () => penstock.track("remember", { properties: { ware: ware.name } }), "plain"));
      page.append(buttons);
    }
    if (path === "/about")
      page.append(button("Ask for a visit", () => penstock.track("visit_requested", { value: "50" })));
    for (const link of document.querySelectorAll("nav a"))
      link.toggleAttribute("aria-current", link.pathname === location.pathname);
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    if (link.pathname !== location.pathname) history.pushState(null, "", link.pathname);
    show();
    page.focus();
  });
  addEventListener("popstate", show);
  penstock.onAnswer = (text) => { document.getElementById("said").textContent = text; };
  show();
})();
