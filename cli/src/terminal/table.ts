/** Left-aligned text, right-aligned numbers, two spaces between columns: readable in a terminal and when pasted. */
export function textTable(header: string[], rows: (string | number)[][]): string {
  const cells = [header, ...rows.map((row) => row.map(String))];
  const widths = header.map((_, column) => Math.max(...cells.map((row) => (row[column] ?? '').length)));
  const right = header.map(
    (_, column) => rows.length > 0 && rows.every((row) => typeof row[column] === 'number' || isNumeric(String(row[column]))),
  );
  return cells
    .map((row) =>
      row
        .map((cell, column) => (right[column] ? cell.padStart(widths[column]) : cell.padEnd(widths[column])))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

function isNumeric(text: string): boolean {
  return text === '' || text === '-' || /^[\d.,]+\s?([a-zA-Z%/µ]+)?$/.test(text);
}
