/** One plan as a point: lower is better in every number. */
export interface ParetoPoint {
  label: string;
  /** Remote nodes per token and layer. */
  remoteNodes: number;
  peakMean: number;
  /** Share of one copy of everything. */
  replicas: number;
  bytesMoved: number;
  /** Its search was cut short: it might have come out better. */
  stopped: boolean;
}

/** What the plan is called where it is shown. */
export function pointName({ label, stopped }: ParetoPoint): string {
  return stopped ? `${label} (stopped early)` : label;
}

/** Points that no other point beats in all four numbers. */
export function paretoFront(points: readonly ParetoPoint[]): ParetoPoint[] {
  const noWorse = (a: ParetoPoint, b: ParetoPoint) =>
    a.remoteNodes <= b.remoteNodes && a.peakMean <= b.peakMean && a.replicas <= b.replicas && a.bytesMoved <= b.bytesMoved;
  return points.filter((p) => !points.some((q) => q !== p && noWorse(q, p) && !noWorse(p, q)));
}

/**
 * The points as an HTML page with one inline SVG and a table; opens in any browser, loads nothing. Across: peak over mean (balance). Up: remote nodes (locality).
 * Area: bytes to move. Colour: replica memory. Points of the front are filled; a point's title shows its numbers.
 */
export function paretoPage(points: readonly ParetoPoint[], title: string): string {
  const front = new Set(paretoFront(points));
  const width = 860;
  const height = 460;
  const edge = { left: 70, right: 190, top: 30, bottom: 56 };
  const range = (values: number[]): [number, number] => {
    const low = Math.min(...values);
    const high = Math.max(...values);
    const room = Math.max((high - low) * 0.08, 0.01);
    return [low - room, high + room];
  };
  const [x0, x1] = range(points.map((p) => p.peakMean));
  const [y0, y1] = range(points.map((p) => p.remoteNodes));
  const x = (v: number) => edge.left + ((v - x0) / (x1 - x0)) * (width - edge.left - edge.right);
  const y = (v: number) => height - edge.bottom - ((v - y0) / (y1 - y0)) * (height - edge.top - edge.bottom);
  const levels = [...new Set(points.map((p) => p.replicas))].sort((a, b) => a - b);
  const colour = (replicas: number) => `hsl(${200 + (120 * levels.indexOf(replicas)) / Math.max(1, levels.length - 1)} 70% 45%)`;
  const mostBytes = Math.max(1, ...points.map((p) => p.bytesMoved));
  const radius = (p: ParetoPoint) => 4 + 7 * Math.sqrt(p.bytesMoved / mostBytes);
  const ticks = (low: number, high: number) => {
    const rough = (high - low) / 6;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough)!;
    const list: number[] = [];
    for (let v = Math.ceil(low / step) * step; v <= high; v += step) list.push(Number(v.toFixed(10)));
    return list;
  };
  const quoted = (text: string) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
  const percent = (share: number) => `${(100 * share).toFixed(1).replace(/\.0$/, '')}%`;
  const axis = [
    ...ticks(x0, x1).map(
      (v) =>
        `<line x1="${x(v)}" x2="${x(v)}" y1="${edge.top}" y2="${height - edge.bottom}" class="grid"/><text x="${x(v)}" y="${height - edge.bottom + 18}" text-anchor="middle">${v}</text>`,
    ),
    ...ticks(y0, y1).map(
      (v) =>
        `<line x1="${edge.left}" x2="${width - edge.right}" y1="${y(v)}" y2="${y(v)}" class="grid"/><text x="${edge.left - 8}" y="${y(v) + 4}" text-anchor="end">${v}</text>`,
    ),
  ];
  const dots = [...points]
    .sort((a, b) => radius(b) - radius(a))
    .map((p) => {
      const on = front.has(p);
      return `<circle cx="${x(p.peakMean).toFixed(1)}" cy="${y(p.remoteNodes).toFixed(1)}" r="${radius(p).toFixed(1)}" fill="${on ? colour(p.replicas) : 'none'}" stroke="${colour(p.replicas)}" fill-opacity="0.75"><title>${quoted(pointName(p))}: ${p.remoteNodes.toFixed(3)} remote nodes, peak/mean ${p.peakMean.toFixed(3)}, +${percent(p.replicas)} replicas, ${(p.bytesMoved / 1e9).toFixed(2)} GB to move</title></circle>`;
    });
  const legend = levels.map(
    (level, i) =>
      `<circle cx="${width - edge.right + 24}" cy="${edge.top + 34 + 20 * i}" r="6" fill="${colour(level)}"/><text x="${width - edge.right + 38}" y="${edge.top + 38 + 20 * i}">+${percent(level)} replicas</text>`,
  );
  const rows = [...points]
    .sort((a, b) => a.replicas - b.replicas || a.peakMean - b.peakMean)
    .map(
      (p) =>
        `<tr${front.has(p) ? ' class="front"' : ''}><td>${quoted(pointName(p))}</td><td>${p.remoteNodes.toFixed(3)}</td><td>${p.peakMean.toFixed(3)}</td><td>+${percent(p.replicas)}</td><td>${(p.bytesMoved / 1e9).toFixed(2)}</td><td>${front.has(p) ? 'yes' : ''}</td></tr>`,
    );
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>${quoted(title)}</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:${width}px;padding:0 1rem;color:#1c2733;background:#fff}
svg{width:100%;height:auto}svg text{font-size:12px;fill:#445}.grid{stroke:#e3e8ee}.name{font-size:13px;font-weight:600}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}td,th{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #e3e8ee}
td:first-child,th:first-child{text-align:left}tr.front{background:#eef6fb}
</style></head><body>
<h1>${quoted(title)}</h1>
<p>Lower left is better. Filled: no other plan is as good in all four numbers. Area: bytes to move.</p>
<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="Remote nodes against peak over mean load">
${axis.join('\n')}
<text class="name" x="${(edge.left + width - edge.right) / 2}" y="${height - 12}" text-anchor="middle">peak / mean load (balance)</text>
<text class="name" transform="translate(18 ${height / 2}) rotate(-90)" text-anchor="middle">remote nodes per token and layer (locality)</text>
<text class="name" x="${width - edge.right + 18}" y="${edge.top + 12}">memory</text>
${legend.join('\n')}
${dots.join('\n')}
</svg>
<table><thead><tr><th>plan</th><th>remote nodes</th><th>peak/mean</th><th>replicas</th><th>GB to move</th><th>front</th></tr></thead><tbody>
${rows.join('\n')}
</tbody></table>
</body></html>
`;
}
