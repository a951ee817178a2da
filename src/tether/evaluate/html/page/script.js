const root = document.documentElement;
document.getElementById("theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

const charts = JSON.parse(document.getElementById("chart-data").textContent);
const near = (points, step) => {
  let low = 0, high = points.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < step) low = middle + 1; else high = middle;
  }
  return low > 0 && step - points[low - 1][0] < points[low][0] - step ? points[low - 1] : points[low];
};
const digits = (value) => (value === null ? "none" : Number(value.toPrecision(4)).toString());
document.querySelectorAll(".plot").forEach((plot, index) => {
  const { first, last, lines } = charts[index];
  const cross = plot.querySelector(".cross"), said = plot.querySelector("output");
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const step = first + share * (last - first);
    cross.style.left = `${100 * share}%`;
    const shown = lines.filter((line) => line.points.length).map((line) => [line.name, near(line.points, step)]);
    said.textContent = [`step ${shown[0][1][0]}`, ...shown.map(([name, point]) => `${name}  ${digits(point[1])}`)].join("\n");
    said.style.left = share < 0.5 ? `calc(${100 * share}% + 10px)` : "auto";
    said.style.right = share < 0.5 ? "auto" : `calc(${100 * (1 - share)}% + 10px)`;
  });
});

const map = document.querySelector(".map");
if (map) {
  const said = document.querySelector(".map-said"), hint = said.textContent;
  map.addEventListener("pointerover", (event) => {
    said.textContent = event.target.title || hint;
  });
  map.addEventListener("pointerleave", () => { said.textContent = hint; });
  const chips = [...document.querySelectorAll(".chips button")];
  chips.forEach((chip) => chip.addEventListener("click", () => {
    const on = chip.getAttribute("aria-pressed") !== "true";
    chips.forEach((other) => other.setAttribute("aria-pressed", String(on && other === chip)));
    map.querySelectorAll(".thumb").forEach((thumb) => {
      thumb.classList.toggle("away", on && thumb.dataset.class !== chip.dataset.class);
    });
  }));
}
