// What scrolls sideways can be reached with Tab and scrolled by arrow keys: code, tables, formulas. The theme wraps tables
// when they come into sight, and takes code out of reach where a device has no mouse.
const reach = () => {
  for (const part of document.querySelectorAll(".md-typeset pre > code, .md-typeset__scrollwrap, .formula"))
    if (part.scrollWidth > part.clientWidth && part.tabIndex < 0) part.tabIndex = 0;
};
new MutationObserver(reach).observe(document.body, { subtree: true, childList: true, attributeFilter: ["tabindex"] });
new ResizeObserver(reach).observe(document.body);
