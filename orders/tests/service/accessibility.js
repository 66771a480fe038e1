// Run in the page by page.rs: returns accessibility problems as texts.
const found = [];
const name = (element) => element.tagName.toLowerCase() + (element.id && "#" + element.id) + " " + (element.innerText || element.name || "").slice(0, 30);
const shown = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && element.getClientRects().length > 0;

// --- structure
if (!document.documentElement.lang) found.push("no language");
if (!document.title) found.push("no title");
if (document.querySelectorAll("main").length !== 1) found.push("not one main");
const headings = [...document.querySelectorAll("h1, h2, h3, h4")].filter(shown).map((heading) => Number(heading.tagName[1]));
if (headings.filter((level) => level === 1).length !== 1) found.push("not one h1");
headings.forEach((level, at) => { if (at > 0 && level > headings[at - 1] + 1) found.push("heading skips to " + level); });
const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
ids.forEach((id, at) => { if (ids.indexOf(id) !== at) found.push("id twice: " + id); });
for (const attribute of ["aria-describedby", "aria-labelledby", "for"]) {
  for (const element of document.querySelectorAll(`[${attribute}]`)) {
    for (const id of element.getAttribute(attribute).split(" ")) if (!document.getElementById(id)) found.push(`${attribute} to nothing: ${id}`);
  }
}
for (const element of document.querySelectorAll("[tabindex]")) if (element.tabIndex > 0) found.push("tabindex above 0: " + name(element));
for (const image of document.querySelectorAll("img, svg")) {
  if (!image.closest("[aria-hidden=true]") && !image.getAttribute("aria-label") && !image.getAttribute("alt")) found.push("image without words: " + name(image));
}

// --- reflow: nothing to scroll sideways
if (document.documentElement.scrollWidth > innerWidth) found.push(`wider than the window: ${document.documentElement.scrollWidth}`);

// --- targets big enough for a finger
for (const target of document.querySelectorAll("button, input, textarea, select, a")) {
  if (!shown(target)) continue;
  const { width, height } = (target.closest("label") || target).getBoundingClientRect();
  if (Math.min(width, height) < 32) found.push(`small target ${width}x${height}: ${name(target)}`);
}

// --- contrast of every text with what is behind it
const parse = (colour) => {
  const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
  return { r, g, b, a };
};
const light = ({ r, g, b }) => {
  const [x, y, z] = [r, g, b].map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const ratio = (one, other) => {
  const [dark, bright] = [light(one), light(other)].sort((x, y) => x - y);
  return (bright + 0.05) / (dark + 0.05);
};
// All colours an element's ground may have: of a gradient, each of its stops.
const grounds = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const style = getComputedStyle(at);
    const stops = style.backgroundImage.match(/rgba?\([^)]*\)/g);
    if (stops) return stops.map(parse);
    const colour = parse(style.backgroundColor);
    if (colour.a === 1) return [colour];
    if (colour.a > 0) found.push("half see-through ground: " + name(at));
  }
  return [{ r: 255, g: 255, b: 255 }];
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  const element = node.parentElement;
  if (!node.data.trim() || !shown(element) || element.closest("noscript, script, svg")) continue;
  const style = getComputedStyle(element);
  const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
  for (const ground of grounds(element)) {
    const contrast = ratio(parse(style.color), ground);
    if (contrast < (large ? 3 : 4.5)) found.push(`contrast ${contrast.toFixed(2)}: ${name(element)}`);
  }
}
// The lines around fields (1.4.11).
for (const field of document.querySelectorAll("input:not([type=radio]), textarea")) {
  if (!shown(field)) continue;
  const contrast = ratio(parse(getComputedStyle(field).borderTopColor), grounds(field.parentElement)[0]);
  if (contrast < 3) found.push(`contrast of the border ${contrast.toFixed(2)}: ${name(field)}`);
}
return found;
