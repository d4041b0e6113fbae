// Measures of pages in frames of several widths, for browser.py, which sets PAGES, SIZES, SMALLEST and SCHEME.
const parse = text => { const n = text.match(/[\d.]+/g).map(Number); return [n[0], n[1], n[2], n.length > 3 ? n[3] : 1]; };
const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const contrast = (one, other) => { const [a, b] = [light(one), light(other)].sort((x, y) => y - x); return (a + .05) / (b + .05); };
const name = e => `<${e.tagName.toLowerCase()} class="${e.getAttribute('class') || ''}"> ${e.textContent.trim().slice(0, 50)}`;

function measure(view) {
  const page = view.document, root = page.documentElement, out = [], cut = [], pale = [], tiny = [];
  page.querySelectorAll('details').forEach(e => e.open = true);
  const inBox = e => { for (let p = e.parentElement; p && p !== root; p = p.parentElement)
    if (['auto', 'scroll'].includes(view.getComputedStyle(p).overflowX)) return true; return false; };
  const paper = e => { const above = []; for (let p = e; p; p = p.parentElement) above.push(parse(view.getComputedStyle(p).backgroundColor));
    return above.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]); };
  const draws = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  for (const e of page.body.querySelectorAll('*')) {
    if (['SCRIPT', 'STYLE', 'TITLE', 'title', 'defs', 'style', 'clipPath', 'metadata'].includes(e.tagName) || e.closest('defs')) continue;
    const box = e.getBoundingClientRect(), style = view.getComputedStyle(e);
    if (!box.width && !box.height) continue;
    if ((box.right > root.clientWidth + 1 || box.left < -1) && !inBox(e)) out.push(`${name(e)}: ${box.left.toFixed(0)} to ${box.right.toFixed(0)} px`);
    if (['hidden', 'clip'].includes(style.overflowX) && e.clientWidth && e.scrollWidth > e.clientWidth + 1) cut.push(name(e));
    if (!draws(e)) continue;
    const svg = e.namespaceURI.endsWith('svg');
    if (svg && (inBox(e) || view.getComputedStyle(e.ownerSVGElement).overflowX !== 'visible')) {
      const whole = e.ownerSVGElement.getBoundingClientRect();
      if (box.left < whole.left - 2 || box.right > whole.right + 2 || box.bottom > whole.bottom + 3 || box.top < whole.top - 3) cut.push(name(e));
    }
    if (svg && box.height < SMALLEST) tiny.push(`${name(e)}: ${box.height.toFixed(1)} px`);
    const color = parse(svg ? style.fill : style.color), back = paper(e), size = parseFloat(style.fontSize);
    const needed = size >= 24 || (size >= 18.6 && style.fontWeight >= 700) ? 3 : 4.5, found = contrast(over(color, back), back);
    if (found < needed) pale.push(`${name(e)}: ${found.toFixed(2)} of ${style.color}`);
  }
  const body = view.getComputedStyle(page.body);
  return {scroll_width: root.scrollWidth, client_width: root.clientWidth, out, cut, pale, tiny, ink: body.color, paper: body.backgroundColor};
}

async function all() {
  const found = {};
  for (const [page, text] of Object.entries(PAGES)) for (const width of SIZES) {
    const frame = document.createElement('iframe');
    frame.style = `width: ${width}px; height: 900px; border: 0; color-scheme: ${SCHEME}`;
    frame.srcdoc = text;
    await new Promise(done => { frame.onload = done; document.body.append(frame); });
    (found[page] ||= {})[width] = measure(frame.contentWindow);
    frame.remove();
  }
  document.body.textContent = JSON.stringify(found);
}
all().catch(error => document.body.textContent = JSON.stringify({error: String(error)}));
