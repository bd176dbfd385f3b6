// Every chart is SVG in the page's own ink, so that dark, light and paper need no second drawing.
const ink = { labelColor: "currentColor", titleColor: "currentColor", domainColor: "currentColor", tickColor: "currentColor" };
const config = {
  background: null, font: "system-ui, sans-serif", view: { stroke: null },
  axis: { ...ink, gridColor: "currentColor", gridOpacity: 0.12, domainOpacity: 0.4, tickOpacity: 0.4, titleFontWeight: 500, labelLimit: 150 },
  legend: { ...ink, orient: "bottom", labelLimit: 220, symbolOpacity: 1 },
  mark: { color: "#3b82c4" }, bar: { color: "#3b82c4" }, line: { strokeWidth: 1.6 }, point: { size: 40 },
  range: { category: ["#3b82c4", "#e8743b", "#2a9d74", "#a05cc5", "#c9a227", "#d04f7b", "#5fa8a8", "#8d6e63", "#7a8797", "#6f9a3c"] },
};
for (const place of document.querySelectorAll(".chart")) {
  const spec = JSON.parse(place.querySelector("script").textContent);
  const legend = { ...config.legend, columns: Math.max(1, Math.floor(place.clientWidth / 170)) };
  vegaEmbed(place, spec, { mode: "vega-lite", renderer: "svg", actions: false, config: { ...config, legend }, tooltip: { theme: matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light" } })
    .catch(error => { place.textContent = error; console.error(error); });
}
