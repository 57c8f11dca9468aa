// For every text on the page: its contrast with what is behind it, as WCAG 2 computes it, and the
// least that it may have (AA).
() => {
  const channels = (colour) => {
    const context = new OffscreenCanvas(1, 1).getContext("2d");
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (colour) => {
    const [r, g, b] = channels(colour)
      .slice(0, 3)
      .map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let each = node; each; each = each.parentElement) {
      const chosen = each.closest(".column.chosen .back, .column.chosen") && each.tagName === "text";
      const colour = chosen
        ? getComputedStyle(each.closest(".column").querySelector(".back")).fill
        : getComputedStyle(each).backgroundColor;
      if (channels(colour)[3] === 255) return colour;
    }
    return "white";
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility()) continue;
    if (node.disabled || node.closest(".unseen, .skip")) continue;
    const style = getComputedStyle(node);
    const colour = node.closest("svg") ? style.fill : style.color;
    const [light, dark] = [luminance(colour), luminance(behind(node))].sort((a, b) => b - a);
    const large = parseFloat(style.fontSize) >= (style.fontWeight >= 700 ? 18.66 : 24);
    found.push({
      text: walker.currentNode.data.trim(),
      colour,
      behind: behind(node),
      contrast: (light + 0.05) / (dark + 0.05),
      least: large ? 3 : 4.5,
    });
  }
  return found;
}
