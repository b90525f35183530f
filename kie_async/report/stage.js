"use strict";
// One item's result: a picture or a video, beside its source if that is known.
const stageOf = (by, make, titles) => {
  const isVideo = (address) => /\.(mp4|webm|mov|m4v)$/i.test(address);
  const shown = (address, kind, failed) => {
    const view = make(isVideo(address) ? "video" : "img", kind);
    view.onerror = failed;
    view.src = address;
    return view;
  };
  const tag = (side, word, view) => {
    const made = make("span", `tag ${side}`, word), sized = () => {
      const wide = view.naturalWidth || view.videoWidth, high = view.naturalHeight || view.videoHeight;
      if (wide) made.textContent = `${word} ${wide} × ${high}`;
    };
    view.addEventListener("load", sized);
    view.addEventListener("loadedmetadata", sized);
    return made;
  };
  const stage = (item) => {
    const place = by("stage");
    place.className = "";
    if (!item.files.length) {
      const why = make("p", "", item.error || (item.state === "done"
        ? (item.missing ? "Its file is not there any more." : "Its result was not saved.")
        : `No result: ${titles[item.state] || item.state}.`));
      place.replaceChildren(why);
      if (item.before) {
        const source = shown(item.before, "view faint", () => source.remove());
        source.alt = `Source ${item.source}`;
        place.prepend(source);
        place.append(tag("left", "source", source));
      }
      return;
    }
    const result = shown(item.files[0], "view",
      () => place.replaceChildren(make("p", "", "The file cannot be shown.")));
    result.setAttribute("aria-label", `Result of ${item.source}`);
    if (item.kind === "video") {
      place.className = "moving";
      result.controls = result.loop = true;
      result.preload = "metadata";
    }
    place.replaceChildren(result, tag("right", "result", result));
    if (item.before) compare(item, place, result);
    else place.append(make("span", "tag left", "source not known"));
  };
  const compare = (item, place, result) => {
    const slider = make("input"), line = make("span", "divider");
    const before = shown(item.before, "view source", () => {
      for (const part of [before, slider, line]) part.remove();
      word.textContent = "source not known";
    });
    const word = tag("left", "source", before);
    before.setAttribute("aria-label", `Source ${item.source}`);
    slider.type = "range";
    slider.value = 50;
    slider.step = 0.5;
    slider.setAttribute("aria-label", "Source on the left, result on the right");
    const cut = () => place.style.setProperty("--cut", `${slider.value}%`);
    slider.oninput = cut;
    cut();
    if (before.play && result.play) together(before, result);
    place.append(before, line, word, slider);
  };
  const together = (before, result) => { // the source moves as the result does
    before.muted = before.loop = true;
    before.preload = "auto";
    const follow = () => {
      if (Math.abs(before.currentTime - result.currentTime) > 0.15) {
        before.currentTime = Math.min(result.currentTime, before.duration || 0);
      }
      before.playbackRate = result.playbackRate;
      if (result.paused) before.pause();
      else before.play().catch(() => {});
    };
    for (const name of ["play", "pause", "seeking", "ratechange", "timeupdate"]) {
      result.addEventListener(name, follow);
    }
  };
  return stage;
};
