"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const ALL = { width: "100%", height: "100%" };
  const NAME = 0, BYTES = 1, COUNT = 2, LAYER = 3, PLACES = 4, CHILDREN = 5;

  const size = (count) => {
    for (const unit of ["B", "kB", "MB", "GB"]) {
      if (count < 999.5) {
        return `${count.toFixed(unit === "B" || count >= 99.5 ? 0 : 1)} ${unit}`;
      }
      count /= 1000;
    }
    return `${count.toFixed(1)} TB`;
  };
  const files = (count) => `${count.toLocaleString("en")} ${count === 1 ? "file" : "files"}`;
  const part = (some, all) => `${((100 * some) / all).toFixed(1)}%`;

  const make = (parent, tag, attributes, text) => {
    const inSvg = parent instanceof SVGElement || tag === "svg";
    const made = inSvg ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  };

  const percent = (place) => {
    const [x, y, width, height] = place.map((one) => `${one / 10}%`);
    return { x, y, width, height };
  };

  class Map {
    constructor(section, number) {
      this.number = number;
      const data = JSON.parse(section.querySelector("script").textContent);
      this.root = data.root;
      this.colours = data.colours;
      this.svg = section.querySelector(".treemap");
      this.crumbs = section.querySelector(".crumbs ol");
      this.rows = section.querySelector("tbody");
      this.status = section.querySelector("[role=status]");
      this.way = [];
      section.querySelector(".list").hidden = false;
      this.svg.addEventListener("keydown", (event) => this.key(event));
      let width = 0;
      new ResizeObserver(() => {
        if (Math.abs(this.svg.clientWidth - width) > 1) this.draw();
        width = this.svg.clientWidth;
      }).observe(this.svg);
      this.enter([]);
    }

    link(way) {
      return `#map-${this.number}/${way.join(".")}`;
    }

    nodes(way) {
      const found = [this.root];
      for (const at of way) {
        const next = (found[found.length - 1][CHILDREN] || [])[at];
        if (!next || !next[CHILDREN]) break;
        found.push(next);
      }
      return found;
    }

    enter(way) {
      const focused = this.svg.contains(document.activeElement);
      this.trail = this.nodes(way);
      this.way = way.slice(0, this.trail.length - 1);
      this.node = this.trail[this.trail.length - 1];
      this.draw();
      this.tell();
      if (focused) (this.svg.querySelector("a") || this.crumbs.querySelector("[aria-current]")).focus();
    }

    label(node) {
      const name = node[NAME] || "all else here";
      return `${name}, ${size(node[BYTES])}, ${part(node[BYTES], this.root[BYTES])}` +
        `, ${files(node[COUNT])}, ${node[CHILDREN] || !node[NAME] ? "mostly " : ""}layer ${node[LAYER]}`;
    }

    draw() {
      this.svg.replaceChildren();
      const places = this.node[PLACES] || [];
      (this.node[CHILDREN] || []).forEach((child, at) => this.cell(child, places[at], at));
      this.svg.setAttribute("aria-label", `Map of ${this.path()}`);
    }

    cell(node, place, at) {
      const parent = node[CHILDREN]
        ? make(this.svg, "a", { href: this.link([...this.way, at]) })
        : make(this.svg, "g", { role: "img" });
      make(parent, "title", {}, this.label(node));
      const cell = make(parent, "svg", percent(place));
      const width = (place[2] / 1000) * this.svg.clientWidth;
      const height = (place[3] / 1000) * this.svg.clientHeight;
      this.fill(cell, node, width, height, 0);
      make(cell, "rect", { ...ALL, class: "edge" });
      if (height < 26) return;
      const both = height >= 46;
      const back = make(cell, "rect", { x: 5, y: 5, rx: 4, height: both ? 35 : 19, class: "back" });
      const words = node[NAME] || `${files(node[COUNT])} more`;
      const first = this.text(cell, words, width, { x: 10, y: 19 });
      if (!first) back.remove();
      if (!first || !both) {
        back.setAttribute("height", 19);
        back.setAttribute("width", first + 10);
        return;
      }
      const second = this.text(cell, size(node[BYTES]), width, { x: 10, y: 35, class: "less" });
      back.setAttribute("width", Math.max(first, second) + 10);
    }

    // What lies in a cell shows as far down as there is room, the entries of its own with their names.
    fill(cell, node, width, height, depth) {
      if (!node[CHILDREN] || depth === 4 || width < 16 || height < 16) {
        make(cell, "rect", { ...ALL, class: this.colours[node[LAYER]] });
        return;
      }
      node[CHILDREN].forEach((child, at) => {
        const place = node[PLACES][at];
        const inner = make(cell, "svg", percent(place));
        const [wide, high] = [(width * place[2]) / 1000, (height * place[3]) / 1000];
        this.fill(inner, child, wide, high, depth + 1);
        if (depth) return;
        make(inner, "rect", { ...ALL, class: "inner" });
        const taken = place[0] < 200 && place[1] < 200 ? 64 : 24;
        if (wide > 60 && high > taken && child[NAME]) {
          this.text(inner, child[NAME], wide, { x: 8, y: high - 9, class: "less" });
        }
      });
    }

    // Words that fit, if need be without their end; returns their length, 0 if too little of them fits.
    text(cell, words, width, where) {
      const made = make(cell, "text", { ...where, "aria-hidden": "true" }, words);
      const letters = Array.from(words);
      const room = width - 20;
      let length = made.getComputedTextLength();
      for (let most = letters.length; length > room && most > 3; length = made.getComputedTextLength()) {
        most = Math.min(most - 1, Math.floor((letters.length * room) / length));
        made.textContent = `${letters.slice(0, most).join("")}…`;
      }
      if (length > room) made.remove();
      return length > room ? 0 : length;
    }

    path() {
      return this.trail.length === 1 ? "/" : "/" + this.trail.slice(1).map((one) => one[NAME]).join("/");
    }

    tell() {
      this.crumbs.replaceChildren();
      this.trail.forEach((node, at) => {
        const item = make(this.crumbs, "li");
        const current = at === this.trail.length - 1 ? { "aria-current": "page" } : {};
        const link = make(item, "a", { href: this.link(this.way.slice(0, at)), ...current });
        make(link, "bdi", {}, at ? node[NAME] : "rootfs");
      });
      this.rows.replaceChildren();
      (this.node[CHILDREN] || []).forEach((child, at) => {
        const row = make(this.rows, "tr");
        const name = make(row, "td", { class: "mono path" });
        make(name, "span", { class: `dot ${this.colours[child[LAYER]]}` });
        name.append(" ");
        const words = child[NAME] || `${files(child[COUNT])} more`;
        const inner = child[CHILDREN] ? make(name, "a", { href: this.link([...this.way, at]) }) : name;
        make(inner, "bdi", {}, child[CHILDREN] ? `${words}/` : words);
        make(row, "td", { class: "num" }, size(child[BYTES]));
        make(row, "td", { class: "num" }, part(child[BYTES], this.node[BYTES]));
      });
      this.status.textContent = `${this.path()}: ${size(this.node[BYTES])} in ${files(this.node[COUNT])}`;
    }

    key(event) {
      const links = [...this.svg.querySelectorAll("a")];
      const at = links.indexOf(document.activeElement);
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (step && links.length) {
        links[(at + step + links.length) % links.length].focus();
        event.preventDefault();
      } else if (event.key === "Escape" && this.way.length) {
        location.hash = this.link(this.way.slice(0, -1));
      }
    }
  }

  const maps = [...document.querySelectorAll(".map")].map((one, number) => new Map(one, number));
  const go = () => {
    const match = /^#map-(\d+)\/([\d.]*)$/.exec(location.hash);
    if (match && maps[match[1]]) maps[match[1]].enter(match[2].split(".").filter(Boolean).map(Number));
  };
  addEventListener("hashchange", go);
  go();
})();
