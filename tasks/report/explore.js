"use strict";
// The map of the images: pointing, opening groups, keys and zoom. It uses no network, and writes text only as
// text, so names can't become markup. The page's policy has the hash of these lines.
(async () => {
  const $ = (id) => document.getElementById(`explore-${id}`);
  const data = JSON.parse($("data").textContent);
  const card = $("card"), plane = $("plane"), panel = $("panel"), tip = $("tip"), select = $("show");
  const svg = plane.querySelector("svg"), here = svg.querySelector(".here");
  const dots = [...svg.querySelectorAll(".dots path:not(.hole)")];
  const rings = [...svg.querySelectorAll(".rings path:not(.gap)")];
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  const n = dots.length, all = [...Array(n).keys()];
  const ringOf = new Map(all.filter((i) => data.drawn[i]).map((i, row) => [i, rings[row]]));
  const MOST = 48, TILES = 96; // pictures in a gallery; groups in the overview
  const NEAR = 20, DEEPEST = 16; // px within which an image is pointed at; largest zoom
  const used = (column) => new Set(column.filter((each) => each >= 0));
  const classes = used(data.label), clusters = [...used(data.cluster)].sort((a, b) => a - b);
  const view = { x: 0, y: 0, scale: 1 };
  let current = -1, shown = "", tipped = false;

  await $("sprite").decode();
  const bitmap = await createImageBitmap($("sprite"));

  const node = (tag, given = {}, ...children) => {
    const made = document.createElement(tag);
    Object.assign(made, given);
    made.append(...children);
    return made;
  };
  const thumb = (i, px) => {
    const canvas = node("canvas"), pen = canvas.getContext("2d");
    canvas.width = canvas.height = Math.round(px * (window.devicePixelRatio || 1));
    canvas.style.width = canvas.style.height = `${px}px`;
    pen.imageSmoothingEnabled = data.side > 24; // pixels of tiny images stay squares
    pen.imageSmoothingQuality = "high";
    const column = data.tile[i] % data.columns, row = Math.floor(data.tile[i] / data.columns);
    pen.drawImage(
      bitmap, column * data.side, row * data.side, data.side, data.side, 0, 0, canvas.width, canvas.width,
    );
    return canvas;
  };

  // What is known of an image

  const Word = data.word[0].toUpperCase() + data.word.slice(1);
  const wrong = (i) => data.said[i] >= 0 && data.label[i] >= 0 && data.said[i] !== data.label[i];
  const name = (c) => (c < 0 ? "class unknown" : data.names[c]);
  const ROLES = ["training image", "unlabelled image", "test image"];
  const role = (i) => (data.drawn[i] ? "labelled" : ROLES[data.split[i]]);
  const answer = (i) => {
    if (data.said[i] < 0) return "";
    const said = data.label[i] === data.said[i] ? "right" : `taken for ${name(data.said[i])}`;
    return `${said}, ${data.sure[i]}\u00a0% sure`;
  };
  const place = (i) => (data.cluster[i] < 0 ? "" : `${data.word} ${data.cluster[i]}`);
  const sentence = (i) => [name(data.label[i]), role(i), answer(i), place(i)].filter(Boolean).join(", ");
  const told = (i) => {
    const lines = node("div", { className: "told" }, node("b", {}, name(data.label[i])));
    if (answer(i)) lines.append(node("span", { className: wrong(i) ? "bad" : "" }, answer(i)), node("br"));
    lines.append([role(i), place(i)].filter(Boolean).join(", "), node("br"), data.uri[i]);
    return lines;
  };

  // Groups: "" is all images, "wrong", "labelled", c and a class, k and a cluster

  const members = (key) => {
    if (key === "") return [];
    if (key === "wrong") return all.filter(wrong);
    if (key === "labelled") return all.filter((i) => data.drawn[i]);
    const column = key[0] === "c" ? data.label : data.cluster, number = Number(key.slice(1));
    return all.filter((i) => column[i] === number);
  };
  const count = (number) => {
    const digits = number.toLocaleString("en").replace(/,/g, "\u202f");
    return `${digits} image${number === 1 ? "" : "s"}`;
  };
  const caption = (key) => {
    if (key === "wrong") return "Wrong test images";
    if (key === "labelled") return "Labelled images";
    return key[0] === "c" ? data.names[Number(key.slice(1))] : `${Word} ${key.slice(1)}`;
  };
  const facts = (key, of) => {
    if (key[0] !== "k") return `${count(of.length)} on the map.`;
    const [size, most, share, known] = data.groups[key.slice(1)];
    const mostly = most < 0 ? "" : `, mostly ${name(most)} (${share} % of ${known} with a known class)`;
    const tests = of.filter((i) => data.split[i] === 2).length;
    const tested = tests ? `, ${tests} of them test images` : "";
    return `${count(size)}${mostly}. On the map: ${of.length}${tested}.`;
  };
  const parts = (key, of) => {
    const near = [...of].sort((a, b) => data.near[a] - data.near[b]);
    const sure = of.filter(wrong).sort((a, b) => data.sure[b] - data.sure[a]);
    const labelled = of.filter((i) => data.drawn[i]);
    if (key === "wrong") return [["The most confident first", sure]];
    if (key === "labelled") return [["", labelled]];
    if (key[0] === "k")
      return [
        [data.word === "code" ? "Some of its images" : "Typical images", near.slice(0, 12)],
        ["Labelled images", labelled],
        ["Wrong test images", sure],
      ];
    const taken = all.filter((i) => data.said[i] === Number(key.slice(1)) && wrong(i));
    return [
      ["Labelled images", labelled],
      ["Wrong test images", sure],
      ["Images of other classes that are taken for it", taken],
      ["Some of its images", of.filter((i) => !data.drawn[i] && !wrong(i)).slice(0, 16)],
    ];
  };
  const picture = (i) => {
    const button = node("button", { type: "button", title: data.uri[i] }, thumb(i, 66));
    button.setAttribute("aria-label", sentence(i));
    button.dataset.point = i;
    const mistake = `${name(data.label[i])}, taken for ${name(data.said[i])}`;
    button.append(wrong(i) ? node("span", { className: "bad" }, mistake) : name(data.label[i]));
    const mark = () => point(i, false);
    button.addEventListener("pointerenter", mark);
    button.addEventListener("focus", mark);
    button.addEventListener("click", () => (open(i), panel.focus())); // the button is gone now
    return button;
  };
  const lit = { class: data.label, cluster: data.cluster };
  const light = (i) => {
    for (const each of svg.querySelectorAll(".lit")) each.classList.remove("lit");
    const mode = card.querySelector("input:checked")?.value, column = lit[mode];
    if (i < 0 || shown || !column || column[i] < 0 || !card.classList.contains(`many-${mode}`)) return;
    for (const each of all) if (column[each] === column[i]) dots[each].classList.add("lit");
  };
  const highlight = (of) => {
    const on = new Set(of);
    card.classList.toggle("chosen", on.size > 0);
    for (const each of all) {
      dots[each].classList.toggle("on", on.has(each));
      ringOf.get(each)?.classList.toggle("on", on.has(each));
    }
  };
  const overview = () => {
    const keys = clusters.length
      ? [...clusters].sort((a, b) => data.groups[b][0] - data.groups[a][0]).map((c) => `k${c}`)
      : [...classes].sort((a, b) => a - b).map((c) => `c${c}`);
    if (!keys.length) return [node("p", {}, "Click an image to see it here.")];
    const tiles = keys.slice(0, TILES).map((key) => {
      const of = members(key), [size, most] = key[0] === "k" ? data.groups[key.slice(1)] : [of.length, -1];
      const typical = of.reduce((a, b) => (data.near[a] <= data.near[b] ? a : b));
      const holds = most < 0 ? count(size) : `${size}, mostly ${name(most)}`;
      const text = key[0] === "c" ? caption(key) : holds;
      const tile = node("button", { type: "button", title: caption(key) }, thumb(typical, 66), text);
      tile.setAttribute("aria-label", `Open ${caption(key)}: ${text}`);
      for (const begin of ["pointerenter", "focus"]) tile.addEventListener(begin, () => highlight(of));
      for (const end of ["pointerleave", "blur"]) tile.addEventListener(end, () => shown || highlight([]));
      tile.addEventListener("click", () => (show(key), panel.focus()));
      return tile;
    });
    const more = keys.length - tiles.length;
    const what = clusters.length ? `${Word}s, the largest first` : "Classes";
    return [
      node("h3", {}, what),
      node("p", {}, "Choose one to open it, or click an image on the map."),
      node("div", { className: "gallery" }, ...tiles),
      ...(more > 0 ? [node("p", {}, `${more} more are in the list above the map.`)] : []),
    ];
  };
  const show = (key, i = -1) => {
    const of = members(key);
    shown = of.length ? key : "";
    select.value = shown;
    highlight(of);
    light(-1); // only what is open has a colour
    for (const chip of card.querySelectorAll(".chip"))
      chip.setAttribute("aria-pressed", String(chip.dataset.show === shown));
    panel.replaceChildren();
    panel.scrollTop = 0;
    if (i >= 0) panel.append(node("div", { className: "one" }, thumb(i, 96), told(i)));
    if (!shown) {
      panel.append(...overview());
      return;
    }
    const close = node("button", { type: "button", className: "close" }, "Close");
    close.addEventListener("click", () => (show(""), plane.focus()));
    panel.append(node("h3", {}, caption(key), close), node("p", {}, facts(key, of)));
    for (const [title, some] of parts(key, of)) {
      if (!some.length) continue;
      if (title) panel.append(node("h4", {}, `${title} (${some.length})`));
      panel.append(node("div", { className: "gallery" }, ...some.slice(0, MOST).map(picture)));
      if (some.length > MOST) panel.append(node("p", {}, `${some.length - MOST} more are on the map.`));
    }
  };
  const open = (i, withTip = false) => {
    point(i, withTip);
    const key = data.cluster[i] >= 0 ? `k${data.cluster[i]}` : data.label[i] >= 0 ? `c${data.label[i]}` : "";
    show(key, i);
    say(`${sentence(i)}. ${key ? `${caption(key)} is open.` : ""}`);
  };

  // The image that is pointed at

  const say = (text) => ($("told").textContent = text);
  const point = (i, withTip = true) => {
    if (i === current && withTip === tipped) return;
    [current, tipped] = [i, withTip];
    tip.hidden = !tipped || i < 0;
    here.setAttribute("visibility", i < 0 ? "hidden" : "visible");
    for (const path of here.children) path.setAttribute("d", i < 0 ? "" : dots[i].getAttribute("d"));
    for (const button of panel.querySelectorAll("[data-point]"))
      button.classList.toggle("now", Number(button.dataset.point) === i);
    light(i);
    if (tip.hidden) return;
    tip.replaceChildren(thumb(i, 96), told(i));
    const box = svg.getBoundingClientRect();
    const x = ((data.x[i] - view.x) * view.scale * box.width) / width;
    const y = ((data.y[i] - view.y) * view.scale * box.height) / height;
    const left = x < box.width / 2 ? x + 18 : x - tip.offsetWidth - 18;
    const top = y < box.height / 2 ? y + 12 : y - tip.offsetHeight - 12;
    tip.style.left = `${Math.max(4, Math.min(left, box.width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${Math.max(4, Math.min(top, box.height - tip.offsetHeight - 4))}px`;
  };
  const units = (event) => {
    const box = svg.getBoundingClientRect();
    return [
      view.x + ((event.clientX - box.left) / box.width) * (width / view.scale),
      view.y + ((event.clientY - box.top) / box.height) * (height / view.scale),
      (NEAR / box.width) * (width / view.scale),
    ];
  };
  const nearest = ([x, y, reach]) => {
    let best = -1, least = reach * reach;
    for (let i = n - 1; i >= 0; i--) {
      const far = (data.x[i] - x) ** 2 + (data.y[i] - y) ** 2;
      if (far < least) [best, least] = [i, far];
    }
    return best;
  };

  // Zoom

  const look = (x, y, scale) => {
    view.scale = scale;
    view.x = Math.max(0, Math.min(width - width / view.scale, x));
    view.y = Math.max(0, Math.min(height - height / view.scale, y));
    svg.setAttribute("viewBox", `${view.x} ${view.y} ${width / view.scale} ${height / view.scale}`);
    plane.classList.toggle("zoomed", view.scale > 1);
  };
  const zoom = (factor) => {
    const scale = factor ? Math.max(1, Math.min(DEEPEST, view.scale * factor)) : 1, again = current;
    const x = current < 0 ? view.x + width / view.scale / 2 : data.x[current];
    const y = current < 0 ? view.y + height / view.scale / 2 : data.y[current];
    look(x - width / scale / 2, y - height / scale / 2, scale);
    point(-1);
    point(again, document.activeElement === plane);
  };
  for (const button of card.querySelectorAll("[data-zoom]"))
    button.addEventListener("click", () => zoom(Number(button.dataset.zoom)));

  // Mouse and touch

  let drag = null;
  plane.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, y: event.clientY, left: view.x, top: view.y, far: false };
  });
  plane.addEventListener("pointermove", (event) => {
    if (drag && event.buttons && view.scale > 1) {
      const box = svg.getBoundingClientRect(), unit = width / view.scale / box.width;
      const [x, y] = [event.clientX - drag.x, event.clientY - drag.y];
      drag.far ||= Math.hypot(x, y) > 5;
      if (drag.far) {
        point(-1);
        look(drag.left - x * unit, drag.top - y * unit, view.scale);
        return;
      }
    }
    if (event.pointerType !== "touch") point(nearest(units(event)));
  });
  plane.addEventListener("pointerleave", () => ((drag = null), point(-1)));
  plane.addEventListener("click", (event) => {
    if (drag?.far) return;
    const i = nearest(units(event));
    if (i >= 0) open(i, event.pointerType === "touch");
    else if (shown) show("");
  });

  // Keys

  const step = (dx, dy) => {
    let best = -1, least = Infinity;
    for (const i of all) {
      const x = data.x[i] - data.x[current], y = data.y[i] - data.y[current];
      const ahead = x * dx + y * dy, aside = Math.abs(x * dy - y * dx);
      if (ahead <= 0 || aside > ahead * 1.5 || (shown && !dots[i].classList.contains("on"))) continue;
      if (ahead + 2 * aside < least) [best, least] = [i, ahead + 2 * aside];
    }
    return best;
  };
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const start = () => nearest([view.x + width / view.scale / 2, view.y + height / view.scale / 2, Infinity]);
  plane.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (ARROWS[event.key]) {
      const next = current < 0 ? start() : step(...ARROWS[event.key]);
      if (next >= 0) {
        const [w, h] = [width / view.scale, height / view.scale], [x, y] = [data.x[next], data.y[next]];
        const outside = x < view.x || x > view.x + w || y < view.y || y > view.y + h;
        if (outside) look(x - w / 2, y - h / 2, view.scale);
        point(next);
        say(sentence(next));
      }
    } else if (event.key === "Enter" || event.key === " ") {
      if (current >= 0) open(current);
    } else if (event.key === "Escape") {
      point(-1);
      show("");
      say("Closed.");
    } else if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 2 : 0.5);
    else if (event.key === "0") zoom(0);
    else return;
    event.preventDefault();
  });
  plane.addEventListener("focus", () => {
    if (current < 0 && plane.matches(":focus-visible")) {
      point(start());
      say(sentence(current));
    }
  });
  plane.addEventListener("blur", () => point(-1));

  // Controls

  const option = (value, text) => node("option", { value, textContent: text });
  const group = (label, options) => options.length && select.append(node("optgroup", { label }, ...options));
  select.append(option("", "all images"));
  if (all.some(wrong)) select.append(option("wrong", "wrong test images"));
  if (data.drawn.includes(1)) select.append(option("labelled", "labelled images"));
  group("Classes", [...classes].sort((a, b) => a - b).map((c) => option(`c${c}`, data.names[c])));
  const listed = (c) => {
    const [size, most] = data.groups[c];
    return option(`k${c}`, `${Word} ${c}: ${size}${most < 0 ? "" : `, mostly ${data.names[most]}`}`);
  };
  group(`${Word}s`, clusters.map(listed));
  select.addEventListener("change", () => show(select.value));
  for (const chip of card.querySelectorAll(".chip")) {
    chip.disabled = false;
    chip.addEventListener("click", () => show(chip.dataset.show === shown ? "" : chip.dataset.show));
  }
  for (const input of card.querySelectorAll("input")) input.addEventListener("change", () => light(current));
  card.classList.add("live");
  show("");
})();
