"use strict";
// Adds filters, keys and an address that keeps both to a page that reads without them.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("filters");
  const list = document.getElementById("trials-table");
  const rows = list ? [...list.tBodies[0].rows] : [];
  const axes = data.axes.map((axis, n) => ({ ...axis, n, chosen: new Set(), buttons: [] }));
  let query = "";
  let place = "";
  let texts = null;

  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };

  // The form.
  for (const axis of axes) {
    if (axis.values.length < 2) continue;
    const counts = axis.values.map(() => 0);
    for (const trial of data.trials) counts[trial[axis.n]]++;
    const field = make("fieldset", {}, make("legend", {}, axis.title));
    axis.buttons = axis.values.map((value, index) => {
      const button = make("button", { type: "button" }, `${value} ${counts[index]}`);
      button.dataset.filter = `${axis.key}=${value}`;
      button.addEventListener("click", () => {
        if (!axis.chosen.delete(value)) axis.chosen.add(value);
        changed();
      });
      return button;
    });
    field.append(...axis.buttons);
    form.append(field);
  }
  const search = make("input", { type: "search", id: "search", placeholder: "part of a name or of a cause" });
  search.setAttribute("aria-label", "Search trials");
  search.addEventListener("input", () => { query = search.value; changed(); });
  const clear = make("button", { type: "button", id: "clear" }, "clear");
  clear.addEventListener("click", clearAll);
  const status = make("output", { id: "status" });
  const keys = make("span", { className: "quiet keys" });
  for (const [key, what] of [["/", "search"], ["j", "next"], ["k", "previous trial to look at"], ["x", "clear"]]) {
    keys.append(" ", make("kbd", {}, key), ` ${what}`);
  }
  form.append(make("div", {}, search, " ", clear, status, keys));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = data.trials.length === 0;

  // The address: #nic=e1000,virtio&verdict=FAIL&q=mtu&at=PLACE, or #PLACE alone.
  function readAddress() {
    const text = location.hash.slice(1);
    const only = decoded(text);
    const parameters = new URLSearchParams(document.getElementById(only) ? "" : text);
    for (const axis of axes) {
      const words = (parameters.get(axis.key) || "").split(",");
      axis.chosen = new Set(words.filter((word) => axis.values.includes(word)));
    }
    query = search.value = parameters.get("q") || "";
    place = document.getElementById(only) ? only : parameters.get("at") || "";
    apply();
    if (place) goTo(place);
  }
  function decoded(text) {
    try { return decodeURIComponent(text); } catch { return text; }
  }
  function address() {
    const parts = axes.filter((axis) => axis.chosen.size)
      .map((axis) => `${axis.key}=${[...axis.chosen].map(encodeURIComponent).join(",")}`);
    if (query) parts.push(`q=${encodeURIComponent(query)}`);
    const at = encodeURIComponent(place).replaceAll("%3A", ":").replaceAll("%40", "@");
    if (place) parts.push(parts.length ? `at=${at}` : at);
    return "#" + parts.join("&");
  }
  function changed() {
    history.replaceState(null, "", address());
    apply();
  }
  function clearAll() {
    axes.forEach((axis) => axis.chosen.clear());
    query = search.value = place = "";
    changed();
  }

  // The filters.
  const trialOf = new Map(rows.map((row, t) => [row.id, t]));
  for (const node of document.querySelectorAll("details.trial")) trialOf.set(node.id, node.dataset.t);
  const named = [...document.querySelectorAll(".names a")].map((link) => [link, trialOf.get(decoded(link.hash.slice(1)))]);
  function matching() {
    const filters = axes.filter((axis) => axis.chosen.size)
      .map((axis) => [axis.n, axis.values.map((value) => axis.chosen.has(value))]);
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length) texts ||= rows.map((row) => row.textContent.toLowerCase());
    return data.trials.map((trial, t) => filters.every(([n, is]) => is[trial[n]])
      && words.every((word) => texts[t].includes(word)));
  }
  function apply() {
    for (const axis of axes) {
      axis.buttons.forEach((button, n) => button.setAttribute("aria-pressed", axis.chosen.has(axis.values[n])));
    }
    const match = matching();
    const left = match.filter(Boolean).length;
    const all = left === match.length;
    status.textContent = all ? "" : `${left} of ${match.length} trials`;
    clear.hidden = all && !place && !query;
    rows.forEach((row, t) => { row.hidden = !match[t]; });
    for (const node of document.querySelectorAll("details.trial, .figures tr")) node.hidden = !match[node.dataset.t];
    for (const finding of document.querySelectorAll(".finding")) {
      finding.hidden = !finding.querySelector("details.trial:not([hidden])");
    }
    for (const [link, t] of named) link.hidden = !match[t];
    for (const reason of document.querySelectorAll(".reasons li")) {
      const count = reason.querySelector(".count");
      const total = Number(count.dataset.total ||= count.textContent);
      const names = reason.querySelectorAll(".names a");
      const left = [...names].filter((name) => !name.hidden).length;
      reason.hidden = left === 0;
      // Of a great many trials only some are named.
      if (names.length === total) count.textContent = left;
    }
    for (const reasons of document.querySelectorAll(".reasons")) {
      reasons.parentElement.hidden = !reasons.querySelector("li:not([hidden])");
    }
    for (const bar of document.querySelectorAll(".timeline rect")) bar.classList.toggle("off", !match[bar.dataset.t]);
    for (const table of document.querySelectorAll(".grid")) filterGrid(table, match, all);
  }
  function filterGrid(table, match, all) {
    const body = [...table.tBodies[0].rows];
    const shown = [];
    for (const row of body) {
      let some = false;
      for (let n = 1; n < row.cells.length; n++) {
        const cell = row.cells[n];
        const matches = cell.dataset.t !== undefined && match[cell.dataset.t];
        cell.classList.toggle("off", !matches);
        some ||= matches;
        shown[n - 1] ||= matches || all;
      }
      row.hidden = !some && !all;
    }
    for (const row of body) {
      for (let n = 1; n < row.cells.length; n++) row.cells[n].hidden = !shown[n - 1];
    }
    for (const row of table.tHead.rows) {
      let at = 0;
      for (const cell of row.cells) {
        if (cell.className !== "group") continue;
        cell.dataset.span ||= cell.colSpan;
        const columns = shown.slice(at, at += Number(cell.dataset.span)).filter(Boolean).length;
        cell.hidden = columns === 0;
        cell.colSpan = columns || 1;
      }
    }
    table.parentElement.hidden = !shown.some(Boolean);
  }

  // Places.
  function goTo(id) {
    const node = document.getElementById(id);
    if (!node) return;
    document.querySelectorAll(".here").forEach((other) => other.classList.remove("here"));
    if (node.matches("details.trial, #trials-table tr")) node.classList.add("here");
    for (let up = node; up; up = up.parentElement) {
      if (up.tagName === "DETAILS") up.open = true;
      if (up.hidden) up.hidden = false;
    }
    node.scrollIntoView({ block: "start" });
    const target = node.tagName === "DETAILS" ? node.querySelector("summary") : node;
    if (target.tabIndex < 0 && target.tagName !== "SUMMARY") target.tabIndex = -1;
    target.focus({ preventScroll: true });
  }
  function visit(id) {
    place = id;
    history.pushState(null, "", address());
    clear.hidden = false;
    goTo(id);
  }
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    if (link) {
      event.preventDefault();
      visit(decoded(link.getAttribute("href").slice(1)));
      return;
    }
    const trial = event.target.closest("td[data-t], rect[data-t]");
    if (trial) {
      const section = document.querySelector(`details.trial[data-t="${trial.dataset.t}"]`);
      visit((section || rows[trial.dataset.t]).id);
    }
  });
  addEventListener("hashchange", readAddress);
  addEventListener("popstate", readAddress);
  addEventListener("beforeprint", () => {
    document.querySelectorAll(".finding details, .reasons details").forEach((node) => { node.open = true; });
  });

  // The keys.
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === search) {
      if (event.key === "Escape") search.blur();
      return;
    }
    if (event.key === "/") {
      event.preventDefault();
      search.focus();
    } else if (event.key === "x") {
      clearAll();
    } else if (event.key === "j" || event.key === "k") {
      const open = [...document.querySelectorAll(".finding:not([hidden]) details.trial:not([hidden])")];
      const at = open.findIndex((node) => node.contains(document.activeElement));
      const next = event.key === "j" ? at + 1 : at < 0 ? open.length - 1 : at - 1;
      if (open[next]) visit(open[next].id);
    }
  });

  // A bar's title, where the page has none because it has so many.
  document.querySelector(".timeline")?.addEventListener("mouseover", ({ target }) => {
    if (target.dataset.t === undefined || target.querySelector("title")) return;
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    const cells = rows[target.dataset.t].cells;
    title.textContent = `${cells[1].textContent}: ${cells[0].textContent}, ${cells[2].textContent}`;
    target.append(title);
  });

  readAddress();
})();
