"use strict";
// The gallery.  Data from outside is only ever written as text (textContent, setAttribute of
// addresses made by us); only the tiles in view exist.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const names = ["source", "task", "state", "created", "completed", "noticed", "polls", "credits",
    "error", "files", "bytes", "kind", "before", "small", "ratio", "missing", "quoted", "model",
    "attempts", "called"];
  const items = data.items.map((row, index) => {
    const item = { index };
    names.forEach((name, n) => { item[name] = row[n]; });
    item.seconds = item.completed && item.created ? item.completed - item.created : null;
    item.words = `${item.source} ${item.task || ""}`.toLowerCase();
    return item;
  });
  const by = (id) => document.getElementById(id);
  const grid = by("grid"), search = by("search"), sort = by("sort"), detail = by("detail");
  const titles = { in_doubt: "in doubt", sent: "running", sending: "sending" };
  const order = ["done", "failed", "in_doubt", "sending", "sent", "planned"];
  const view = { state: "", found: [], at: -1, open: -1 };
  // What would not be seen, or would turn the text around it, is shown by its number.
  const hidden = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;
  const plain = (text) => String(text).replace(hidden, (char) => char === "\n" ? char
    : `\\u${char.codePointAt(0).toString(16).padStart(4, "0")}`);
  const make = (tag, kind, text) => {
    const element = document.createElement(tag);
    if (kind) element.className = kind;
    if (text !== undefined && text !== null) element.textContent = plain(text);
    return element;
  };

  const stage = stageOf(by, make, titles);

  // -- numbers as people say them
  const size = (bytes) => bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB`
    : bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : bytes >= 1e3 ? `${Math.round(bytes / 1e3)} kB`
      : `${bytes} B`;
  const span = (seconds) => seconds === null ? "" : seconds < 100 ? `${seconds.toFixed(1)} s`
    : `${Math.floor(seconds / 60)} min ${String(Math.round(seconds % 60)).padStart(2, "0")} s`;
  const when = (unix) => unix ? new Date(unix * 1000).toLocaleString() : "";

  // -- thumbnails: blocks of base64 that are split when the first of them is needed
  const blocks = new Map();
  const thumbnail = (item) => {
    if (!item.small) return item.kind === "picture" ? item.files[0] : null;
    const number = Math.floor(item.index / data.chunk);
    if (!blocks.has(number)) {
      blocks.set(number, by(`t${number}`).textContent.split(" "));
      if (blocks.size > 40) blocks.delete(blocks.keys().next().value);
    }
    return `data:image/webp;base64,${blocks.get(number)[item.index % data.chunk]}`;
  };

  // -- the grid: as many tiles as fit the window and one row more, moved as it scrolls
  const pool = new Map();
  let columns = 1, width = 200, height = 200;
  const GAP = 12;
  const layout = () => {
    const wide = grid.clientWidth;
    columns = Math.max(2, Math.floor((wide + GAP) / (190 + GAP)));
    width = (wide + GAP) / columns - GAP;
    height = Math.round(width * 0.78) + 46;
    grid.style.height = `${Math.ceil(view.found.length / columns) * (height + GAP)}px`;
    for (const [place, tile] of pool) drop(place, tile);
    draw();
  };
  const drop = (place, tile) => {
    tile.querySelector("video")?.removeAttribute("src"); // its decoder is free at once
    tile.remove();
    pool.delete(place);
  };
  // Videos come when scrolling rests: an element and a decoder each cost too much before.
  let resting = 0;
  const frames = () => {
    for (const tile of pool.values()) {
      if (tile.dataset.video) moving(tile, tile.querySelector(".picture"));
    }
  };
  const draw = () => {
    const top = grid.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor((-top - height) / (height + GAP)));
    const last = Math.ceil((innerHeight - top + height) / (height + GAP));
    const from = first * columns, to = Math.min(view.found.length, last * columns);
    for (const [place, tile] of pool) {
      if (place < from || place >= to) drop(place, tile);
    }
    // Above goes before, below goes behind: Tab then follows what is seen.
    const highest = Math.min(...pool.keys());
    const above = document.createDocumentFragment(), below = document.createDocumentFragment();
    for (let place = from; place < to; place += 1) {
      if (!pool.has(place)) {
        const tile = tileOf(view.found[place], place);
        pool.set(place, tile);
        (place < highest ? above : below).append(tile);
      }
    }
    grid.prepend(above);
    grid.append(below);
    clearTimeout(resting);
    resting = setTimeout(frames, 120);
  };
  const tileOf = (item, place) => {
    const tile = make("button", "tile");
    tile.type = "button";
    tile.dataset.place = place;
    tile.style.cssText = `left:${(place % columns) * (width + GAP)}px;`
      + `top:${Math.floor(place / columns) * (height + GAP)}px;width:${width}px;height:${height}px`;
    const picture = make("span", "picture"), address = thumbnail(item);
    if (address) {
      const image = make("img");
      image.alt = "";
      image.decoding = "async";
      image.src = address;
      image.onerror = () => picture.replaceChildren(make("span", "words", "the file cannot be shown"));
      picture.append(image);
    } else if (item.kind === "video") {
      tile.dataset.video = item.files[0];
      picture.append(make("span", "play", "▶"));
    } else {
      picture.append(make("span", "words", item.error || (item.missing ? "the file is not there any more"
          : item.state === "done" ? "not saved" : titles[item.state] || item.state)));
    }
    const label = make("span", "label"), more = make("span", "more");
    label.append(make("span", "id", item.source), make("span", `state ${item.state}`,
      titles[item.state] || item.state), more);
    more.textContent = [item.seconds === null ? "" : ` ${span(item.seconds)}`,
      item.bytes ? ` ${size(item.bytes)}` : ""].filter(Boolean).join(" ·");
    tile.append(picture, label);
    tile.onclick = () => show(place);
    tile.onfocus = () => { view.at = place; };
    return tile;
  };

  const moving = (tile, picture) => {
    const video = make("video");
    video.muted = video.loop = video.playsInline = true;
    video.preload = "metadata";
    video.onerror = () => {
      if (video.getAttribute("src")) video.replaceWith(make("span", "words", "the file cannot be shown"));
    };
    video.src = `${tile.dataset.video}#t=0.1`;
    delete tile.dataset.video;
    picture.prepend(video);
    tile.onmouseenter = () => { video.play().catch(() => {}); };
    tile.onmouseleave = () => video.pause();
  };

  // -- what is found, and in which order
  const orders = {
    time: (a, b) => (b.noticed || b.created || 0) - (a.noticed || a.created || 0),
    oldest: (a, b) => (a.noticed || a.created || 0) - (b.noticed || b.created || 0),
    duration: (a, b) => (b.seconds || 0) - (a.seconds || 0),
    size: (a, b) => b.bytes - a.bytes,
  };
  const find = () => {
    const wanted = search.value.trim().toLowerCase();
    view.found = items.filter((item) => (!view.state || item.state === view.state)
      && (!wanted || item.words.includes(wanted))).sort(orders[sort.value]);
    by("count").textContent = `${view.found.length.toLocaleString()} shown`;
    by("none").hidden = view.found.length > 0;
    for (const button of by("states").children) {
      button.setAttribute("aria-pressed", String(button.value === view.state));
    }
    view.at = -1;
    layout();
    keep();
  };
  const keep = () => {
    const asked = new URLSearchParams();
    if (view.open >= 0 && detail.open) asked.set("item", view.found[view.open].source);
    if (view.state) asked.set("state", view.state);
    if (search.value) asked.set("q", search.value);
    if (sort.value !== "time") asked.set("sort", sort.value);
    history.replaceState(null, "", `#${asked}`);
  };
  const chips = () => {
    const counts = {};
    for (const item of items) counts[item.state] = (counts[item.state] || 0) + 1;
    const chip = (state, text, count) => {
      const button = make("button", "", `${text} ${count.toLocaleString()}`);
      button.type = "button";
      button.value = state;
      button.onclick = () => { view.state = state; find(); };
      by("states").append(button);
    };
    chip("", "all", items.length);
    for (const state of order) if (counts[state]) chip(state, titles[state] || state, counts[state]);
  };

  // -- one item
  const commands = (item) => {
    const again = data.again;
    switch (item.state) {
      case "done": return item.missing ? [["save its files again, for free",
        `kie wait ${item.called} --out ${data.out}`]]
        : item.files.length ? [] : [["save its files, for free", again]];
      case "failed": return [["try it again (it pays again)",
        `kie reconcile ${data.journal} --recreate ${item.quoted}\n${again}`]];
      case "in_doubt": return [["settle it by proof: task ids from Kie's log page in a file",
        `kie reconcile ${data.journal} --ids FILE`], ["or by hand",
        `kie reconcile ${data.journal} --as TASK_ID ${item.quoted}\n`
        + `kie reconcile ${data.journal} --not-created ${item.quoted}`]];
      default: return [["go on", again]];
    }
  };
  const facts = (item) => {
    const place = by("facts"), row = make("div", "row"), list = make("dl");
    const button = (text, kind, call) => {
      const made = make("button", kind, text);
      made.type = "button";
      made.onclick = call;
      row.append(made);
    };
    button("← previous", "", () => step(-1));
    button("next →", "", () => step(1));
    button("✕", "close", () => detail.close());
    const fact = (name, value) => {
      if (value !== null && value !== undefined && value !== "") {
        list.append(make("dt", "", name), make("dd", "", String(value)));
      }
    };
    fact("state", titles[item.state] || item.state);
    fact("task", item.task);
    fact("model", item.model);
    fact("created", when(item.created));
    fact("ended", when(item.completed));
    fact("took", span(item.seconds));
    fact("noticed after", item.noticed && item.completed ? span(Math.max(0, item.noticed - item.completed)) : "");
    fact("polls", item.polls || "");
    fact("attempts", item.attempts > 1 ? item.attempts : "");
    fact("credits", item.credits);
    fact("size", item.bytes ? size(item.bytes) : "");
    fact("error", item.error);
    place.replaceChildren(row, make("h2", "", item.source), list);
    for (const file of item.files) {
      const link = make("a", "", decodeURIComponent(file));
      link.href = file;
      link.target = "_blank";
      link.rel = "noreferrer";
      place.append(link, make("br"));
    }
    for (const [what, command] of commands(item)) {
      place.append(make("p", "", what), make("div", "command", command));
      const copy = make("button", "copy", "copy");
      copy.type = "button";
      copy.onclick = () => copied(copy, command);
      place.append(copy);
    }
  };
  const copied = async (button, text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const field = make("textarea");
      field.value = text;
      detail.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
    button.textContent = "copied";
  };
  const show = (place) => {
    if (place < 0 || place >= view.found.length) return;
    view.open = place;
    stage(view.found[place]);
    facts(view.found[place]);
    if (!detail.open) detail.showModal();
    detail.focus(); // not the slider: arrows go to the next item
    keep();
  };
  const step = (by_) => show(view.open + by_);
  detail.addEventListener("close", () => {
    by("stage").replaceChildren(); // a video stops
    focusOn(view.open);
    keep();
  });
  detail.addEventListener("click", (event) => { if (event.target === detail) detail.close(); });

  // -- keys
  const focusOn = (place) => {
    if (place < 0 || place >= view.found.length) return;
    const top = grid.getBoundingClientRect().top + scrollY + Math.floor(place / columns) * (height + GAP);
    if (top < scrollY + 70) scrollTo(0, top - 70);
    if (top + height > scrollY + innerHeight) scrollTo(0, top + height + GAP - innerHeight);
    draw();
    pool.get(place)?.focus();
  };
  const theme = () => {
    const dark = getComputedStyle(document.documentElement).colorScheme.includes("dark");
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input[type=search], select, textarea");
    if (detail.open) {
      const sliding = event.target.matches("input[type=range]");
      if (event.key === "ArrowLeft" && !sliding) step(-1);
      else if (event.key === "ArrowRight" && !sliding) step(1);
      else if (event.key === " " && !event.target.matches("button, video")) {
        by("stage").classList.add("held");
        event.preventDefault();
      } else if (event.key === "c") by("facts").querySelector(".copy")?.click();
      else if (event.key === "t") theme();
      return;
    }
    if (typing) { if (event.key === "Escape") event.target.blur(); return; }
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    if (event.key in moves && !by("keys").open) {
      const next = view.at < 0 ? 0 : view.at + moves[event.key];
      if (next >= 0 && next < view.found.length) { event.preventDefault(); focusOn(next); }
    } else if (event.key === "/") { event.preventDefault(); search.focus(); }
    else if (event.key === "?") by("keys").showModal();
    else if (event.key === "t") theme();
  });
  addEventListener("keyup", (event) => {
    if (event.key === " ") by("stage").classList.remove("held");
  });

  // -- begin
  by("theme").onclick = theme;
  by("help").onclick = () => by("keys").showModal();
  by("bar").onsubmit = (event) => event.preventDefault();
  let waiting = 0;
  addEventListener("scroll", () => {
    if (!waiting) waiting = requestAnimationFrame(() => { waiting = 0; draw(); });
  }, { passive: true });
  let known = 0;
  new ResizeObserver(() => {
    if (grid.clientWidth !== known) { known = grid.clientWidth; layout(); }
  }).observe(grid);
  addEventListener("resize", draw); // taller, and as wide as before
  search.oninput = find;
  sort.onchange = find;
  const asked = new URLSearchParams(location.hash.slice(1));
  view.state = order.includes(asked.get("state")) ? asked.get("state") : "";
  search.value = asked.get("q") || "";
  if (orders[asked.get("sort")]) sort.value = asked.get("sort");
  if (asked.get("theme")) document.documentElement.dataset.theme = asked.get("theme");
  chips();
  const linked = asked.get("item");
  find();
  if (linked) show(view.found.findIndex((item) => item.source === linked));
})();
