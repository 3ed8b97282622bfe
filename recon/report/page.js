"use strict";
(() => {
  const root = document.documentElement.style;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);

  // Zoom and brightness of all pictures at once.
  const zoomTo = (factor) => {
    root.setProperty("--zoom", factor);
    all("[data-zoom]").forEach((b) => b.setAttribute("aria-pressed", String(Number(b.dataset.zoom) === factor)));
  };
  all("[data-zoom]").forEach((b) => b.addEventListener("click", () => zoomTo(Number(b.dataset.zoom))));
  const zoom = () => Number(root.getPropertyValue("--zoom") || 1);
  all('.frame:not(.slider) [data-space="image"]').forEach((img) =>
    img.addEventListener("click", (event) => {
      const frame = img.parentElement.getBoundingClientRect();
      const before = { x: parseFloat(root.getPropertyValue("--x") || 50), y: parseFloat(root.getPropertyValue("--y") || 50) };
      // The point under the cursor in percent of the picture, undoing the zoom around (x, y).
      const at = (share, origin) => origin + (100 * share - origin) / zoom();
      const x = at((event.clientX - frame.left) / frame.width, before.x);
      const y = at((event.clientY - frame.top) / frame.height, before.y);
      const next = zoom() === 1 ? 3 : zoom();
      // The origin of the transform that brings this point to the middle of the frame.
      const origin = (p) => Math.min(100, Math.max(0, (next * p - 50) / (next - 1)));
      root.setProperty("--x", `${origin(x)}%`);
      root.setProperty("--y", `${origin(y)}%`);
      zoomTo(next);
    }),
  );
  one("#brightness").addEventListener("input", (event) => root.setProperty("--light", event.target.value));

  // Slider between two methods.
  const source = (method) =>
    all("#images .slice.current img").find((img) => img.dataset.method === method);
  const showPair = () => {
    for (const side of ["left", "right"]) {
      const method = one(`#${side}`).value;
      const from = source(method);
      const to = one(`#layer-${side} img`);
      if (from) {
        to.src = from.src;
        to.alt = from.alt;
        to.dataset.method = method;
        one(`.tag-${side}`).textContent = method;
      }
    }
  };
  if (one("#compare")) {
    one("#split").addEventListener("input", (event) => root.setProperty("--split", `${event.target.value}%`));
    one("#left").addEventListener("change", showPair);
    one("#right").addEventListener("change", showPair);
  }

  // Slices of a volume.
  const chooser = one("#slice");
  if (chooser) {
    const indices = chooser.dataset.slices.split(" ");
    const labels = chooser.dataset.labels.split(" ");
    chooser.addEventListener("input", () => {
      const place = Number(chooser.value);
      all("[data-slice]").forEach((group) => group.classList.toggle("current", group.dataset.slice === indices[place]));
      one("output[for=slice]").value = labels[place];
      if (one("#compare")) showPair();
    });
  }
})();
